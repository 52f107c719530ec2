//! Living: promotion, crashes, shutdown.

use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use rustix::process::{Pid, Signal};
use stolon_model::{InstanceInitMode, Role};

use crate::world::{SUPERUSER, World, scenario};

#[test]
fn sigterm_leaves_no_process() {
    scenario("lifecycle::sigterm_leaves_no_process", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        assert!(keeper.stop().await.success(), "{}", keeper.log_text());
        assert_eq!(keeper.processes(), Vec::<String>::new());
        assert!(keeper.connect_as("stolon", "x").await.is_err());
    });
}

#[test]
fn a_second_signal_ends_a_server_that_takes_long_at_once() {
    scenario("lifecycle::a_second_signal_ends_a_server_that_takes_long_at_once", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        // A session that does not hear that it is to end: an orderly shutdown waits for it.
        let client = keeper.connect_as(SUPERUSER.0, SUPERUSER.1).await.unwrap();
        let session: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        rustix::process::kill_process(Pid::from_raw(session).unwrap(), Signal::STOP).unwrap();
        keeper.signal(Signal::TERM);
        let pid_file = keeper.pgdata().join("postmaster.pid");
        world
            .eventually("the orderly shutdown", async |_| {
                std::fs::read_to_string(&pid_file).ok()?.contains("stopping").then_some(())
            })
            .await;
        assert!(!keeper.log_text().contains("stopping postgres at once"));
        assert!(keeper.try_ended().is_none(), "the first signal waits");
        keeper.signal(Signal::TERM);
        world
            .eventually("the immediate shutdown", async |_| {
                keeper.log_text().contains("stopping postgres at once").then_some(())
            })
            .await;
        assert!(keeper.ended().await.success(), "{}", keeper.log_text());
        assert!(!keeper.log_text().contains("did not stop within"), "nobody waited for the patience to end");
        assert_eq!(keeper.processes(), Vec::<String>::new());
    });
}

#[test]
fn the_end_of_its_terminal_ends_a_keeper_in_good_order() {
    scenario("lifecycle::the_end_of_its_terminal_ends_a_keeper_in_good_order", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        keeper.signal(Signal::HUP);
        assert!(keeper.ended().await.success(), "{}", keeper.log_text());
        assert_eq!(keeper.processes(), Vec::<String>::new());
        // Whoever wants to outlive it says so.
        keeper.under = Some("nohup");
        keeper.start();
        world.acknowledge(&keeper).await;
        let generation = world.instance("aa").generation;
        let before = world.healthy(&keeper, "aa", generation).await.info_uid;
        keeper.signal(Signal::HUP);
        world
            .eventually("another report", async |world| {
                (world.report(&keeper).await?.info_uid != before).then_some(())
            })
            .await;
        assert!(keeper.stop().await.success(), "{}", keeper.log_text());
    });
}

#[test]
fn a_disk_that_hangs_silences_no_keeper() {
    scenario("lifecycle::a_disk_that_hangs_silences_no_keeper", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        // Whoever reads it waits for ever.
        let file = keeper.pgdata().join("PG_VERSION");
        let (kept, fifo) = (file.with_extension("kept"), file.with_extension("fifo"));
        std::fs::rename(&file, &kept).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        world.problem(&keeper, "cannot be read").await;
        let first = world.report(&keeper).await.unwrap();
        assert!(!first.postgres_state.as_ref().unwrap().healthy, "{first:?}");
        world
            .eventually("another report", async |world| {
                let report = world.report(&keeper).await?;
                (report.info_uid != first.info_uid).then_some(())
            })
            .await;
        // What is asked of the keeper is done all the same.
        let hung = keeper.postmaster().unwrap();
        world.cluster.instances.clear();
        world.publish().await;
        world
            .eventually("the end of the server", async |_| {
                rustix::process::test_kill_process(hung).is_err().then_some(())
            })
            .await;
        std::fs::rename(&file, &fifo).unwrap();
        std::fs::rename(&kept, &file).unwrap();
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let open = || std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(&fifo);
        world.eventually("the end of the reading", async |_| open().is_err().then_some(())).await;
        assert!(keeper.stop().await.success(), "{}", keeper.log_text());
    });
}

#[test]
fn sigterm_during_initialisation_leaves_no_process() {
    scenario("lifecycle::sigterm_during_initialisation_leaves_no_process", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.assign("aa", &keeper, InstanceInitMode::New, Role::Primary);
        world.publish().await;
        world
            .eventually("initdb to have begun", async |_| {
                keeper.dbstate().contains("\"Initializing\":true").then_some(())
            })
            .await;
        assert!(keeper.stop().await.success(), "{}", keeper.log_text());
        assert_eq!(keeper.processes(), Vec::<String>::new());
    });
}

#[test]
fn a_killed_postmaster_is_restarted_by_the_same_keeper() {
    scenario("lifecycle::a_killed_postmaster_is_restarted_by_the_same_keeper", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        keeper.value("CREATE TABLE t AS SELECT 1 AS a").await;
        let first = keeper.postmaster().unwrap();
        rustix::process::kill_process(first, Signal::KILL).unwrap();
        world
            .eventually("another postmaster that answers", async |_| {
                let other = keeper.postmaster().is_some_and(|pid| pid != first);
                let rows = keeper.try_value("SELECT count(*) FROM t").await.ok()?;
                (other && rows == "1").then_some(())
            })
            .await;
        world.healthy(&keeper, "aa", 2).await;
    });
}

#[test]
fn a_standby_is_promoted_and_another_one_follows_it_without_a_restart() {
    scenario("lifecycle::a_standby_is_promoted_and_another_one_follows_it_without_a_restart", async || {
        let mut world = World::new();
        let (first, second) = (world.keeper("k1").await, world.keeper("k2").await);
        world.primary(&first).await;
        world.standby(&second).await;
        first.value("CREATE TABLE t AS SELECT 1 AS a").await;
        let third = world.keeper("k3").await;
        world.assign_standby(&third, "dd").await;
        world.change("aa", |aa| aa.spec.followers = Some(vec!["bb".into(), "dd".into()])).await;
        world.healthy(&third, "dd", 1).await;
        let postmaster = third.postmaster();

        world.cluster.cluster.status.primary = Some("bb".into());
        world
            .change("bb", |bb| {
                bb.spec.role = Some(Role::Primary);
                bb.spec.follow_config = None;
                bb.spec.init_mode = Some(InstanceInitMode::None);
                bb.spec.followers = Some(vec!["dd".into()]);
            })
            .await;
        world.healthy(&second, "bb", 2).await;
        world
            .change("dd", |dd| {
                dd.spec.follow_config = Some(stolon_model::FollowConfig::internal("bb".into()));
                dd.spec.init_mode = Some(InstanceInitMode::None);
            })
            .await;
        second.value("INSERT INTO t VALUES (2)").await;
        world
            .eventually("the row on the other standby", async |_| {
                (third.try_value("SELECT count(*) FROM t").await.ok()? == "2").then_some(())
            })
            .await;
        assert_eq!(third.postmaster(), postmaster);
        assert_eq!(second.value("SELECT pg_is_in_recovery()").await, "f");
        let pending =
            second.value("SELECT string_agg(name, ',') FROM pg_settings WHERE pending_restart").await;
        assert_eq!(pending, "");

        // The limits of the primary before it bind nobody who recovers nothing any more.
        world
            .change("bb", |bb| {
                bb.spec.pg_parameters = Some(Arc::new([("max_connections".into(), "50".into())].into()))
            })
            .await;
        world
            .eventually("the pending restart", async |world| {
                world.report(&second).await?.activity?.pending_restart.then_some(())
            })
            .await;
    });
}

#[test]
fn a_deposed_primary_locks_clients_out_at_once() {
    scenario("lifecycle::a_deposed_primary_locks_clients_out_at_once", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        keeper.value("CREATE ROLE app LOGIN PASSWORD 'app'").await;
        let client = keeper.connect_as("app", "app").await.unwrap();
        client.simple_query("SELECT 1").await.unwrap();
        world.cluster.cluster.status.primary = Some("bb".into());
        world.publish().await;
        world
            .eventually("the session to be ended", async |_| client.simple_query("SELECT 1").await.err())
            .await;
        assert!(keeper.connect_as("app", "app").await.is_err());
        world.cluster.cluster.status.primary = Some("aa".into());
        world.publish().await;
        world
            .eventually("clients to be let in again", async |_| keeper.connect_as("app", "app").await.ok())
            .await;
    });
}

#[test]
fn a_restarted_synchronous_primary_lets_clients_in_once_its_standby_is_in_sync() {
    scenario(
        "lifecycle::a_restarted_synchronous_primary_lets_clients_in_once_its_standby_is_in_sync",
        async || {
            let mut world = World::new();
            let (first, mut second) = (world.keeper("k1").await, world.keeper("k2").await);
            world.primary(&first).await;
            world.standby(&second).await;
            first.value("CREATE ROLE app LOGIN PASSWORD 'app'").await;
            world.synchronous(&first).await;
            assert_eq!(first.value("SHOW synchronous_standby_names").await, "stolon_bb");
            // One that recovers from the crash of one of its processes has to wait, too.
            let victims = [
                "SELECT pg_read_file('postmaster.pid')",
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'",
            ];
            for victim in victims {
                let victim = first.value(victim).await.lines().next().unwrap().parse().unwrap();
                second.stop().await;
                rustix::process::kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).unwrap();
                world
                    .eventually("clients to be refused by pg_hba.conf", async |_| first.locks_app_out().await)
                    .await;
                second.start();
                world.acknowledge(&second).await;
                world
                    .eventually("clients to be let in", async |_| first.connect_as("app", "app").await.ok())
                    .await;
            }
        },
    );
}

#[test]
fn a_server_that_dies_again_and_again_is_given_pauses() {
    scenario("lifecycle::a_server_that_dies_again_and_again_is_given_pauses", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        for _ in 0..4 {
            let postmaster = world.eventually("a postmaster", async |_| keeper.postmaster()).await;
            rustix::process::kill_process(postmaster, Signal::KILL).unwrap();
            world
                .eventually("its end", async |_| (keeper.postmaster() != Some(postmaster)).then_some(()))
                .await;
        }
        world.healthy(&keeper, "aa", 2).await;
        let deaths = keeper.log_text().matches("postgres ended unexpectedly").count();
        assert!(deaths >= 1, "{}", keeper.log_text());
        world
            .eventually("the problem to be gone", async |world| {
                let activity = world.report(&keeper).await?.activity.unwrap_or_default();
                activity.problem.is_empty().then_some(())
            })
            .await;
    });
}

#[test]
fn cluster_data_that_cannot_be_worked_with_leaves_the_server_running() {
    scenario("lifecycle::cluster_data_that_cannot_be_worked_with_leaves_the_server_running", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        let postmaster = keeper.postmaster();
        world.cluster.cluster.spec.max_standbys = Some(0);
        world.publish().await;
        world.problem(&keeper, "clusterdata validation failed: maxStandbys must be at least 1").await;
        assert_eq!(keeper.postmaster(), postmaster);
        world.cluster.keepers.clear();
        world.cluster.cluster.spec.max_standbys = None;
        world.publish().await;
        world
            .eventually("the problem to be gone", async |world| {
                let activity = world.report(&keeper).await?.activity.unwrap_or_default();
                activity.problem.is_empty().then_some(())
            })
            .await;
        assert_eq!(keeper.postmaster(), postmaster, "a keeper that was removed keeps its server");
    });
}

/// A log that nobody reads: what holds it open, so that it can be written at all.
fn unread_log(world: &World, uid: &str) -> std::fs::File {
    let path = world.directory.path().join(format!("{uid}.log"));
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    std::fs::File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn a_reader_of_the_log_that_stops_silences_neither_the_keeper_nor_postgresql() {
    scenario(
        "lifecycle::a_reader_of_the_log_that_stops_silences_neither_the_keeper_nor_postgresql",
        async || {
            let mut world = World::new();
            let _unread = unread_log(&world, "k1");
            let mut keeper = world.keeper("k1").await;
            world.primary(&keeper).await;
            // More than all pipes between PostgreSQL and the reader hold.
            let superuser = keeper.connect_as(SUPERUSER.0, SUPERUSER.1).await.unwrap();
            superuser.batch_execute("SET log_statement = 'all'").await.unwrap();
            let statement = format!("SELECT '{}'", "x".repeat(4000));
            for _ in 0..1000 {
                superuser.batch_execute(&statement).await.unwrap();
            }
            for _ in 0..2 {
                let before = world.report(&keeper).await.unwrap().info_uid;
                world
                    .eventually("another report", async |world| {
                        let report = world.report(&keeper).await?;
                        let healthy = report.postgres_state.is_some_and(|state| state.healthy);
                        (healthy && report.info_uid != before).then_some(())
                    })
                    .await;
            }
            assert!(keeper.stop().await.success());
        },
    );
}

#[test]
fn a_deposed_primary_whose_postmaster_hangs_serves_nobody() {
    scenario("lifecycle::a_deposed_primary_whose_postmaster_hangs_serves_nobody", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        let client = keeper.connect_as(SUPERUSER.0, SUPERUSER.1).await.unwrap();
        client.batch_execute("CREATE ROLE app LOGIN PASSWORD 'app'").await.unwrap();
        let app = keeper.connect_as("app", "app").await.unwrap();
        let hung = keeper.postmaster().unwrap();
        rustix::process::kill_process(hung, Signal::STOP).unwrap();
        app.batch_execute("SELECT 1").await.unwrap();
        world.cluster.cluster.status.primary = Some("pp".into());
        world.publish().await;
        world
            .eventually("the end of the client's session", async |_| {
                app.batch_execute("SELECT 1").await.is_err().then_some(())
            })
            .await;
        assert!(keeper.connect_as("app", "app").await.is_err(), "nor is anybody let in again");
        assert!(keeper.stop().await.success(), "{}", keeper.log_text());
        assert_eq!(keeper.processes(), Vec::<String>::new());
    });
}
