//! A server that outlives its keeper, and goes on with the next one; and the ones that may not.

use rustix::process::Signal;
use stolon_testkit::postgres::{bin_directory, free_port};

use crate::world::{KeeperProcess, SUPERUSER, World, scenario};

/// Has the server write so many lines into its log.
async fn write_log(client: &tokio_postgres::Client, word: &str, lines: u32) {
    let write = format!("DO $$ BEGIN FOR i IN 1..{lines} LOOP RAISE LOG '{word} % .', i; END LOOP; END $$");
    client.batch_execute(&write).await.unwrap();
}

/// Until the keeper's own log has all of them.
async fn all_lines(world: &World, keeper: &KeeperProcess, word: &str, lines: u32) {
    world
        .eventually("every line of the log", async |_| {
            let text = keeper.log_text();
            (1..=lines).all(|line| text.contains(&format!("{word} {line} ."))).then_some(())
        })
        .await;
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Killed,
    Departs,
}

async fn end(keeper: &mut KeeperProcess, how: End) {
    match how {
        End::Killed => keeper.signal(Signal::KILL),
        End::Departs => keeper.signal(Signal::USR1),
    }
    let status = keeper.ended().await;
    assert_eq!(status.success(), how == End::Departs, "{}", keeper.log_text());
}

async fn goes_on(how: End) {
    let mut world = World::new();
    let (mut first, mut second) = (world.keeper("k1").await, world.keeper("k2").await);
    world.primary(&first).await;
    world.standby(&second).await;
    let before = (first.postmaster().unwrap(), second.postmaster().unwrap());
    let clients = (
        first.connect_as(SUPERUSER.0, SUPERUSER.1).await.unwrap(),
        second.connect_as(SUPERUSER.0, SUPERUSER.1).await.unwrap(),
    );
    let report = world.report(&first).await.unwrap();
    end(&mut first, how).await;
    end(&mut second, how).await;
    assert_eq!(world.report(&first).await.unwrap(), report, "it does not say goodbye");
    clients.0.batch_execute("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    write_log(&clients.0, "meanwhile", 2000).await;
    first.start();
    second.start();
    world.acknowledge(&first).await;
    world.acknowledge(&second).await;
    all_lines(&world, &first, "meanwhile", 2000).await;

    // Both do what they are asked, as ever.
    world
        .change("aa", |aa| {
            let work_mem = [("work_mem".to_owned(), "5MB".to_owned())];
            aa.spec.pg_parameters = Some(std::sync::Arc::new(work_mem.into_iter().collect()));
        })
        .await;
    world.change("bb", |_| ()).await;
    let generation = world.instance("aa").generation;
    world.healthy(&first, "aa", generation).await;
    world.healthy(&second, "bb", 2).await;
    assert_eq!(first.value("SHOW work_mem").await, "5MB");
    world
        .eventually("the table on the standby", async |_| {
            (second.try_value("SELECT count(*) FROM t").await.ok()? == "1").then_some(())
        })
        .await;
    assert_eq!((first.postmaster().unwrap(), second.postmaster().unwrap()), before);
    for client in [&clients.0, &clients.1] {
        client.batch_execute("SELECT 1").await.expect("nobody noticed");
    }

    // The end of a server that is nobody's child is noticed, too.
    rustix::process::kill_process(before.0, Signal::KILL).unwrap();
    world
        .eventually("another postmaster that answers", async |_| {
            let other = first.postmaster().is_some_and(|pid| pid != before.0);
            let rows = first.try_value("SELECT count(*) FROM t").await.ok()?;
            (other && rows == "1").then_some(())
        })
        .await;
    assert!(first.stop().await.success(), "{}", first.log_text());
    assert!(second.stop().await.success(), "{}", second.log_text());
    assert_eq!((first.processes(), second.processes()), (Vec::<String>::new(), Vec::<String>::new()));
}

#[test]
fn a_killed_keepers_postgresql_goes_on_with_the_next() {
    scenario("taking_over::a_killed_keepers_postgresql_goes_on_with_the_next", async || {
        goes_on(End::Killed).await;
    });
}

#[test]
fn sigusr1_ends_a_keeper_and_leaves_its_postgresql() {
    scenario("taking_over::sigusr1_ends_a_keeper_and_leaves_its_postgresql", async || {
        goes_on(End::Departs).await;
    });
}

/// Programs that are called like PostgreSQL's, and are not the same files.
fn other_programs(world: &World) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let directory = world.directory.path().join("programs");
    std::fs::create_dir(&directory).unwrap();
    let real = bin_directory().unwrap();
    for entry in std::fs::read_dir(&real).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), directory.join(entry.file_name())).unwrap();
    }
    let postgres = directory.join("postgres");
    std::fs::remove_file(&postgres).unwrap();
    std::fs::write(&postgres, format!("#!/bin/sh\nexec {} \"$@\"\n", real.join("postgres").display()))
        .unwrap();
    std::fs::set_permissions(&postgres, std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// The keeper is killed and started anew, with something else: what ran is stopped, and started once the sentinel knows.
async fn is_restarted(
    world: &mut World,
    keeper: &mut KeeperProcess,
    why: &str,
    change: impl FnOnce(&mut KeeperProcess),
) {
    let before = keeper.postmaster().unwrap();
    keeper.signal(Signal::KILL);
    keeper.ended().await;
    change(keeper);
    keeper.start();
    world
        .eventually("the end of the server", async |_| {
            rustix::process::test_kill_process(before).is_err().then_some(())
        })
        .await;
    let log = keeper.log_text();
    assert!(log.contains(why), "{log}");
    world.acknowledge(keeper).await;
    world.eventually("a server that answers", async |_| keeper.try_value("SELECT 1").await.ok()).await;
    assert_ne!(keeper.postmaster(), Some(before));
}

#[test]
fn a_server_that_would_be_started_otherwise_is_restarted() {
    scenario("taking_over::a_server_that_would_be_started_otherwise_is_restarted", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        is_restarted(&mut world, &mut keeper, "it listens on port", |keeper| {
            keeper.port = free_port().unwrap();
        })
        .await;
        is_restarted(&mut world, &mut keeper, "it listens on \\\"127.0.0.1\\\"", |keeper| {
            let everywhere = ["--pg-listen-address", "*", "--pg-advertise-address", "127.0.0.1"];
            keeper.flags.extend(everywhere.map(str::to_owned));
        })
        .await;
        let programs = other_programs(&world);
        is_restarted(&mut world, &mut keeper, "it runs another program than", |keeper| {
            keeper.flags.extend(["--pg-bin-path".to_owned(), programs.display().to_string()]);
        })
        .await;
        assert!(keeper.stop().await.success(), "{}", keeper.log_text());
    });
}

#[test]
fn a_server_that_hangs_is_not_taken_over() {
    scenario("taking_over::a_server_that_hangs_is_not_taken_over", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        is_restarted(&mut world, &mut keeper, "it does not answer as it should", |keeper| {
            // Not before: the kernel has those go on that stand still when their parent ends (setpgid(2), orphaned process groups).
            rustix::process::kill_process(keeper.postmaster().unwrap(), Signal::STOP).unwrap();
        })
        .await;
    });
}

/// Somebody else was elected while no keeper looked after it.
#[test]
fn a_primary_that_was_deposed_meanwhile_ends_with_its_sessions() {
    scenario("taking_over::a_primary_that_was_deposed_meanwhile_ends_with_its_sessions", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        let client = keeper.connect_as(SUPERUSER.0, SUPERUSER.1).await.unwrap();
        keeper.signal(Signal::KILL);
        keeper.ended().await;
        world.cluster.cluster.status.primary = Some("bb".into());
        world.publish().await;
        client.batch_execute("SELECT 1").await.expect("it goes on until somebody reads that");
        keeper.start();
        world
            .eventually("the end of the session", async |_| client.simple_query("SELECT 1").await.err())
            .await;
        world.acknowledge(&keeper).await;
        assert!(keeper.log_text().contains("took over"), "{}", keeper.log_text());
    });
}

#[test]
fn a_synchronous_primary_that_locks_its_clients_out_goes_on_doing_so() {
    scenario("taking_over::a_synchronous_primary_that_locks_its_clients_out_goes_on_doing_so", async || {
        let mut world = World::new();
        let (mut first, mut second) = (world.keeper("k1").await, world.keeper("k2").await);
        world.primary(&first).await;
        world.standby(&second).await;
        first.value("CREATE ROLE app LOGIN PASSWORD 'app'").await;
        world.synchronous(&first).await;
        assert!(second.stop().await.success());
        rustix::process::kill_process(first.postmaster().unwrap(), Signal::KILL).unwrap();
        world.eventually("clients to be refused", async |_| first.locks_app_out().await).await;
        let before = first.postmaster().unwrap();
        first.signal(Signal::KILL);
        first.ended().await;
        first.start();
        world.acknowledge(&first).await;
        let generation = world.instance("aa").generation + 1;
        world.change("aa", |_| ()).await;
        world.healthy(&first, "aa", generation - 1).await;
        world.eventually("clients to be refused still", async |_| first.locks_app_out().await).await;
        second.start();
        world.acknowledge(&second).await;
        world.eventually("clients to be let in", async |_| first.connect_as("app", "app").await.ok()).await;
        assert_eq!(first.postmaster(), Some(before));
    });
}

/// With `--disable-data-dir-locking` a second keeper would take the server of the first one.
#[test]
fn a_server_whose_keeper_lives_is_not_taken_over() {
    scenario("taking_over::a_server_whose_keeper_lives_is_not_taken_over", async || {
        let mut world = World::new();
        let mut first = world.keeper_with("k1", &["--disable-data-dir-locking"]).await;
        world.primary(&first).await;
        let mut second = KeeperProcess::new(&world, "k1");
        (second.port, second.flags) = (first.port, first.flags.clone());
        second.log = world.directory.path().join("second.log");
        // The first one would start its server again at once.
        first.signal(Signal::STOP);
        second.start();
        world
            .eventually("the doubt", async |_| {
                second.log_text().contains("its log cannot be read").then_some(())
            })
            .await;
        second.signal(Signal::KILL);
        second.ended().await;
        first.signal(Signal::KILL);
        first.ended().await;
    });
}

/// PostgreSQL's own collector has its log, and needs nobody who reads.
#[test]
fn a_server_that_collects_its_log_itself_goes_on() {
    scenario("taking_over::a_server_that_collects_its_log_itself_goes_on", async || {
        let mut world = World::new();
        let mut keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        let collector = [("logging_collector".to_owned(), "on".to_owned())];
        world.change("aa", |aa| aa.spec.pg_parameters = Some(std::sync::Arc::new(collector.into()))).await;
        world.healthy(&keeper, "aa", 3).await;
        let first = keeper.postmaster().unwrap();
        rustix::process::kill_process(first, Signal::KILL).unwrap();
        let collecting = world
            .eventually("a server with a collector", async |_| {
                let on = keeper.try_value("SHOW logging_collector").await.ok()? == "on";
                keeper.postmaster().filter(|pid| on && *pid != first)
            })
            .await;
        end(&mut keeper, End::Departs).await;
        keeper.start();
        world.acknowledge(&keeper).await;
        world.change("aa", |_| ()).await;
        world.healthy(&keeper, "aa", 4).await;
        assert_eq!(keeper.postmaster(), Some(collecting), "{}", keeper.log_text());
    });
}
