//! The end of a server, whatever state it is in.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use rustix::process::Signal;
use stolon_core::keeper::ConfigMerge;
use stolon_postgres::*;
use support::*;
use tokio_util::sync::CancellationToken;

/// Seconds that any end may take, on a machine that does something else, too.
const SECONDS: Duration = Duration::from_secs(30);

fn seconds() -> Limit {
    Limit::within(SECONDS, &CancellationToken::new())
}

/// A server with a session that works and an archiver whose command never ends; tells their processes.
async fn busy(name: &str) -> (Instance, Vec<u32>) {
    let a = Instance::new(name, &Passwords::default());
    let archiving = a.directory.path().join("archiving");
    let command = format!("echo $$ > {}; exec sleep 1000", archiving.display());
    a.create(&[("archive_mode", "on"), ("archive_command", &command)]).await;
    let (working, watching) = (a.sql().await, a.sql().await);
    a.run("SELECT pg_switch_wal()").await;
    tokio::spawn(async move { working.batch_execute("SELECT pg_sleep(1000)").await });

    eventually("the session at work", || async {
        let sql = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'";
        watching.query_opt(sql, &[]).await.unwrap().map(|row| row.get::<_, i32>(0)).is_some()
    })
    .await;
    let sql = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'";
    let session: i32 = watching.query_one(sql, &[]).await.unwrap().get(0);
    let read = || std::fs::read_to_string(&archiving).ok().filter(|text| text.ends_with('\n'));
    eventually("the archiver at work", || async { read().is_some() }).await;
    let archiver = read().unwrap().trim().parse().unwrap();
    (a, vec![session.try_into().unwrap(), archiver])
}

fn live(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

// Its sessions are in process groups of their own and go on without it.
instance_test!(a_postmaster_that_hangs_is_ended_with_all_its_processes, || async {
    let (a, processes) = busy("a").await;
    kill(a.pid(), Signal::STOP);
    a.postgres.stop(StopMode::Fast, DEADLINE, &seconds()).await.unwrap();
    assert_eq!(*a.postgres.server().borrow(), ServerState::Stopped);
    assert!(!processes.into_iter().any(live));
    a.postgres.start(ConfigMerge::Replace, &limit()).await.unwrap();
    a.postgres.wait_ready(&limit()).await.unwrap();
    // An orderly end would wait for the archiver.
    a.postgres.stop(StopMode::Immediate, DEADLINE, &limit()).await.unwrap();
});

instance_test!(sending_clients_away_ends_a_server_that_does_not, || async {
    let (a, processes) = busy("a").await;
    kill(a.pid(), Signal::STOP);
    assert_eq!(a.postgres.terminate_clients(&seconds()).await.unwrap(), 0);
    assert_eq!(*a.postgres.server().borrow(), ServerState::Stopped);
    assert!(!processes.into_iter().any(live));
    let error = a.postgres.terminate_clients(&seconds()).await.unwrap_err();
    assert!(matches!(error, PostgresError::NotRunning), "{error}");
});

// Not only a server that is slow to answer keeps its clients.
instance_test!(sending_clients_away_ends_a_server_that_cannot_be_asked, || async {
    let (a, processes) = busy("a").await;
    let socket = a.postgres.socket_directory().join(format!(".s.PGSQL.{}", a.port));
    std::fs::rename(&socket, socket.with_extension("hidden")).unwrap();
    assert_eq!(a.postgres.terminate_clients(&seconds()).await.unwrap(), 0);
    assert_eq!(*a.postgres.server().borrow(), ServerState::Stopped);
    assert!(!processes.into_iter().any(live));
});

instance_test!(a_session_that_hangs_does_not_hold_up_the_end, || async {
    let (a, processes) = busy("a").await;
    kill(processes[0].try_into().unwrap(), Signal::STOP);
    a.postgres.stop(StopMode::Fast, Duration::from_secs(1), &seconds()).await.unwrap();
    assert!(!live(processes[0]));
});

instance_test!(what_a_killed_keeper_left_is_ended_though_it_hangs, || async {
    let (a, processes) = busy("a").await;
    kill(a.pid(), Signal::STOP);
    let pid = a.pid().try_into().unwrap();
    assert_eq!(a.reopened().stop_orphan(&seconds()).await.unwrap(), OrphanOutcome::Stopped { pid });
    assert!(!processes.into_iter().any(live));
});

instance_test!(an_orphan_is_stopped_and_only_ours, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let pid = a.pid();
    let second = a.reopened();
    assert!(
        second.start(ConfigMerge::Replace, &limit()).await.unwrap_err().to_string().contains("did not start")
    );
    assert!(second.remove_data(&limit()).await.is_err());
    let outcome = second.stop_orphan(&limit()).await.unwrap();
    assert_eq!(outcome, OrphanOutcome::Stopped { pid: pid.try_into().unwrap() });
    assert_eq!(second.stop_orphan(&limit()).await.unwrap(), OrphanOutcome::None);

    // A pid file that names somebody else: a process that must live on.
    std::fs::write(a.data().join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    assert_eq!(second.stop_orphan(&limit()).await.unwrap(), OrphanOutcome::None);
    second.start(ConfigMerge::Replace, &limit()).await.unwrap();
    second.wait_ready(&limit()).await.unwrap();
    second.stop(StopMode::Immediate, DEADLINE, &limit()).await.unwrap();
});

instance_test!(an_orphan_is_found_before_it_has_a_pid_file, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    std::fs::remove_file(a.data().join("postmaster.pid")).unwrap();
    let second = a.reopened();
    assert!(second.remove_data(&limit()).await.is_err());
    let pid = a.pid().try_into().unwrap();
    assert_eq!(second.stop_orphan(&limit()).await.unwrap(), OrphanOutcome::Stopped { pid });
});
