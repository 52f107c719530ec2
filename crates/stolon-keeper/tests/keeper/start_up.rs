//! The checks at the start: the first thing that is wrong decides the message, and nothing is touched.

use std::process::{Command, Output};

use rustix::process::{Pid, Signal};
use stolon_testkit::Metrics;

use crate::world::{KeeperProcess, World, get, scenario};

/// Runs a keeper that must refuse to start. `changes` replace or (with `None`) remove flags.
fn refused(directory: &std::path::Path, changes: &[(&str, Option<&str>)]) -> String {
    let (code, text) = attempt(directory, changes);
    assert_eq!(code, Some(2), "{text}");
    text
}

fn attempt(directory: &std::path::Path, changes: &[(&str, Option<&str>)]) -> (Option<i32>, String) {
    attempt_with(directory, changes, &[])
}

/// Exit status, and what it says.
fn attempt_with(
    directory: &std::path::Path,
    changes: &[(&str, Option<&str>)],
    environment: &[(&str, &str)],
) -> (Option<i32>, String) {
    let data_dir = directory.join("data").display().to_string();
    let store = directory.join("store.db").display().to_string();
    let mut flags = vec![
        ("--cluster-name", "test"),
        ("--store-backend", "sqlite"),
        ("--store-endpoints", store.as_str()),
        ("--data-dir", data_dir.as_str()),
        ("--pg-listen-address", "127.0.0.1"),
        ("--pg-su-username", "su"),
        ("--pg-su-password", "a"),
        ("--pg-repl-username", "repl"),
        ("--pg-repl-password", "b"),
    ];
    for (name, value) in changes {
        flags.retain(|(flag, _)| flag != name);
        flags.extend(value.map(|value| (*name, value)));
    }
    let mut command = Command::new(stolon_testkit::postgres::program(env!("CARGO_BIN_EXE_stolon-keeper")));
    command.args(flags.iter().flat_map(|(name, value)| [*name, *value]));
    let Output { status, stderr, .. } = command.envs(environment.iter().copied()).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// Flags to change, and a part of the message.
type Case<'a> = (&'a [(&'a str, Option<&'a str>)], &'a str);

#[test]
fn bad_flags_are_refused_with_their_message() {
    let directory = tempfile::tempdir().unwrap();
    let cases: &[Case<'_>] = &[
        (&[("--data-dir", None)], "data dir required"),
        (&[("--cluster-name", None)], "cluster name required"),
        (&[("--store-backend", None)], "store backend type required"),
        (&[("--store-backend", Some("paper"))], "Unknown store backend: \"paper\""),
        (&[("--pg-listen-address", None)], "--pg-listen-address is required"),
        (
            &[("--pg-repl-auth-method", Some("ident"))],
            "--pg-repl-auth-method must be one of: md5, scram-sha-256, cert, trust",
        ),
        (&[("--pg-ssl-mode", Some("allow"))], "--pg-ssl-mode must be one of: disable, prefer"),
        (&[("--pg-ssl-mode", Some("verify-full"))], "--pg-ssl-mode verify-full needs --pg-ssl-ca-file"),
        (
            &[("--pg-ssl-ca-file", Some("/etc/passwd"))],
            "--pg-ssl-ca-file has no effect with --pg-ssl-mode prefer",
        ),
        (&[("--pg-ssl-ca-file", Some("/nonexistent"))], "cannot read --pg-ssl-ca-file: /nonexistent"),
        (&[("--pg-su-key", Some("/etc/passwd"))], "--pg-su-cert-file and --pg-su-key are needed together"),
        (
            &[("--pg-repl-auth-method", Some("cert")), ("--pg-repl-password", None)],
            "--pg-repl-auth-method cert needs --pg-ssl-mode require",
        ),
        (
            &[("--pg-repl-auth-method", Some("cert"))],
            "can not utilize --pg-repl-auth-method cert together with --pg-repl-password or --pg-repl-passwordfile",
        ),
        (&[("--pg-repl-username", None)], "--pg-repl-username is required"),
        (
            &[("--pg-repl-auth-method", Some("trust"))],
            "can not utilize --pg-repl-auth-method trust together with --pg-repl-password or --pg-repl-passwordfile",
        ),
        (
            &[("--pg-su-auth-method", Some("trust"))],
            "can not utilize --pg-su-auth-method trust together with --pg-su-password or --pg-su-passwordfile",
        ),
        (
            &[("--pg-rewind-username", Some("rewinder"))],
            "--pg-rewind-username needs --pg-rewind-passwordfile",
        ),
        (
            &[("--pg-rewind-passwordfile", Some("/etc/passwd"))],
            "--pg-rewind-passwordfile has no effect without --pg-rewind-username",
        ),
        (
            &[("--pg-rewind-username", Some("su")), ("--pg-rewind-passwordfile", Some("/etc/passwd"))],
            "--pg-rewind-username su is a user that keepers have already",
        ),
        (
            &[("--pg-rewind-username", Some("rewinder")), ("--pg-rewind-passwordfile", Some("/nonexistent"))],
            "cannot read pg rewind user password: /nonexistent",
        ),
        (&[("--pg-repl-password", None)], "one of --pg-repl-password or --pg-repl-passwordfile is required"),
        (
            &[("--pg-su-passwordfile", Some("/nonexistent"))],
            "only one of --pg-su-password or --pg-su-passwordfile must be provided",
        ),
        (
            &[("--pg-su-password", None), ("--pg-su-passwordfile", Some("/nonexistent"))],
            "cannot read pg superuser password",
        ),
        (
            &[("--pg-su-auth-method", Some("ident")), ("--pg-repl-password", None)],
            "one of --pg-repl-password or --pg-repl-passwordfile is required",
        ),
        (
            &[("--pg-su-auth-method", Some("ident"))],
            "--pg-su-auth-method must be one of: md5, scram-sha-256, cert, trust",
        ),
        (
            &[
                ("--pg-repl-username", Some("su")),
                ("--pg-su-auth-method", Some("trust")),
                ("--pg-su-password", None),
            ],
            "do not support different auth methods when utilizing superuser for replication.",
        ),
        (&[("--pg-su-password", Some("\n"))], "superuser password is empty after removing trailing new line"),
        (
            &[("--pg-repl-password", Some("\n"))],
            "replication user password is empty after removing trailing new line",
        ),
        (
            &[("--pg-repl-username", Some("su"))],
            "provided superuser name and replication user name are the same but provided passwords are different",
        ),
        (&[("--allowed-commands", Some("/nonexistent"))], "cannot use --allowed-commands /nonexistent"),
        (&[("--allowed-commands", Some("/etc/passwd"))], "line 1 is not \\\"name = value\\\""),
        (&[("--uid", Some("Keeper-1"))], "keeper uid \\\"Keeper-1\\\" not valid"),
        (&[("--log-level", Some("loud"))], "loud"),
    ];
    for (changes, message) in cases {
        let text = refused(directory.path(), changes);
        let plain = text.replace("\\\"", "\"");
        assert!(plain.contains(&message.replace("\\\"", "\"")), "{changes:?}: {text}");
    }
}

#[test]
fn a_data_directory_that_no_setting_can_name_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let directory = tempfile::tempdir().unwrap();
    let odd = directory.path().join(std::ffi::OsStr::from_bytes(b"not-\xff-utf8"));
    std::fs::create_dir(&odd).unwrap();
    let mut command = Command::new(stolon_testkit::postgres::program(env!("CARGO_BIN_EXE_stolon-keeper")));
    let store = directory.path().join("store.db");
    command.current_dir(&odd).arg("--store-endpoints").arg(store);
    command.args(["--cluster-name", "test", "--store-backend", "sqlite", "--data-dir", "data"]);
    command.args(["--pg-listen-address", "127.0.0.1", "--pg-su-username", "su", "--pg-su-password", "a"]);
    let ended = command.args(["--pg-repl-username", "repl", "--pg-repl-password", "b"]).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{text}");
    assert!(text.contains("is not UTF-8"), "{text}");
}

/// Each of these goes on, until the next mistake.
#[test]
fn what_is_hardly_meant_is_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let cases: &[Case<'_>] = &[
        (&[("--pg-listen-address", Some("0.0.0.0"))], "name one with --pg-advertise-address"),
        (&[("--can-be-master", Some("false"))], "The word \"false\" is ignored: write --can-be-master=false"),
        (
            &[("--store-backend", Some("etcdv3")), ("--store-endpoints", Some("http://192.0.2.1:2379"))],
            "--store-endpoints http://192.0.2.1:2379: what is said to the store can be read and changed on its way",
        ),
    ];
    for (changes, message) in cases {
        let changes = [changes, &[("--pg-repl-username", None)][..]].concat();
        let text = refused(directory.path(), &changes);
        assert!(text.contains(message), "{changes:?}: {text}");
        assert!(text.contains("--pg-repl-username is required"), "{changes:?}: {text}");
    }
}

/// A provisioner of volumes makes them so.
#[test]
fn a_data_directory_that_everybody_may_write_to_is_closed() {
    scenario("start_up::a_data_directory_that_everybody_may_write_to_is_closed", async || {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).unwrap();
        let open = || std::fs::metadata(&data).unwrap().permissions().mode() & 0o777;
        refused(directory.path(), &[("--pg-repl-username", None)]);
        assert_eq!(open(), 0o777, "a refused start changes nothing");
        // This is found after the directory was closed.
        std::fs::write(data.join("keeperstate"), "[]").unwrap();
        let (_, text) = attempt(directory.path(), &[]);
        assert!(text.contains("every user of this machine could write in data dir"), "{text}");
        assert_eq!(open(), 0o775);
        let text = refused(directory.path(), &[("--data-dir", Some("/dev/null/x"))]);
        assert!(text.contains("cannot create data dir"), "{text}");
        let text = refused(directory.path(), &[("--data-dir", Some("/tmp"))]);
        assert!(
            text.contains("cannot use data dir /tmp: every user of this machine may write there"),
            "{text}"
        );
    });
}

/// Nothing is guessed about files that somebody has damaged, and nothing in the directory is touched.
#[test]
fn damaged_state_files_are_refused() {
    scenario("start_up::damaged_state_files_are_refused", async || {
        for (name, content) in [("keeperstate", "{\"UID\":"), ("dbstate", "[]")] {
            let directory = tempfile::tempdir().unwrap();
            let data = directory.path().join("data");
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join(name), content).unwrap();
            let (code, text) = attempt(directory.path(), &[]);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains(name), "{text}");
            assert_eq!(std::fs::read_to_string(data.join(name)).unwrap(), content);
        }
    });
}

/// Who starts the keeper has the last word on the command line, the environment on the rest.
#[test]
fn flags_come_from_the_environment_too() {
    let directory = tempfile::tempdir().unwrap();
    let changes = [("--pg-repl-auth-method", None), ("--pg-repl-password", None)];
    let (code, text) = attempt_with(directory.path(), &changes, &[("STKEEPER_PG_REPL_AUTH_METHOD", "ident")]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--pg-repl-auth-method must be one of"), "{text}");
    let changes = [("--pg-repl-auth-method", Some("md5")), ("--pg-repl-password", None)];
    let (_, text) = attempt_with(directory.path(), &changes, &[("STKEEPER_PG_REPL_AUTH_METHOD", "ident")]);
    assert!(text.contains("one of --pg-repl-password or --pg-repl-passwordfile is required"), "{text}");
}

/// Service files of Stolon have it.
#[test]
fn the_former_name_of_the_uid_is_understood() {
    let directory = tempfile::tempdir().unwrap();
    let text = refused(directory.path(), &[("--id", Some("a-b"))]);
    assert!(text.contains("Flag --id has been deprecated, please use --uid"), "{text}");
    assert!(text.contains("keeper uid \"a-b\" not valid"), "{text}");
    let text = refused(directory.path(), &[("--id", Some("a_b")), ("--uid", Some("c-d"))]);
    assert!(text.contains("keeper uid \"c-d\" not valid"), "{text}");
}

#[test]
fn trailing_new_lines_of_passwords_are_removed_with_a_warning() {
    scenario("start_up::trailing_new_lines_of_passwords_are_removed_with_a_warning", async || {
        let directory = tempfile::tempdir().unwrap();
        let changes = [("--pg-su-password", Some("a\n")), ("--pg-repl-password", Some("\n"))];
        let text = refused(directory.path(), &changes);
        assert!(text.contains("superuser password contain trailing new line, removing"), "{text}");
        assert!(text.contains("replication user password contain trailing new line, removing"), "{text}");
    });
}

#[test]
fn a_data_directory_has_one_keeper_and_one_uid() {
    scenario("start_up::a_data_directory_has_one_keeper_and_one_uid", async || {
        let mut world = World::new();
        let mut first = world.keeper("k1").await;
        let mut second = KeeperProcess::new(&world, "k1");
        second.start();
        assert_eq!(second.ended().await.code(), Some(2));
        let log = first.log_text();
        assert!(log.contains("exclusive lock on data dir taken"), "{log}");
        assert!(log.contains("cannot take exclusive lock on data dir"), "{log}");
        assert!(log.contains("resource temporarily unavailable"), "{log}");
        assert!(first.stop().await.success());

        let mut other = KeeperProcess::new(&world, "k2");
        other.data_dir = first.data_dir.clone();
        other.start();
        assert_eq!(other.ended().await.code(), Some(2));
        let log = other.log_text().replace("\\\"", "\"");
        assert!(log.contains("saved uid \"k1\" differs from configuration uid: \"k2\""), "{log}");
    });
}

#[test]
fn a_keeper_refuses_to_run_beside_a_living_namesake() {
    scenario("start_up::a_keeper_refuses_to_run_beside_a_living_namesake", async || {
        let mut world = World::new();
        let mut first = world.keeper("k1").await;
        world.primary(&first).await;
        let postmaster = first.postmaster().unwrap();

        let mut namesake = KeeperProcess::new(&world, "k1");
        namesake.data_dir = world.directory.path().join("elsewhere");
        namesake.log = world.directory.path().join("namesake.log");
        namesake.start();
        assert_eq!(namesake.ended().await.code(), Some(2));
        let log = namesake.log_text().replace("\\\"", "\"");
        let place = format!("(its PostgreSQL: 127.0.0.1:{})", first.port);
        let sentence = format!("another keeper with the uid \"k1\" is running {place}");
        assert!(log.contains(&sentence), "{log}");
        assert!(log.contains("give every keeper a --uid of its own"), "{log}");
        assert_eq!(first.postmaster(), Some(postmaster), "the first keeper's database was left alone");

        // The place of one that is gone may be taken: its last report no longer changes.
        first.signal(rustix::process::Signal::KILL);
        first.ended().await;
        namesake.start();
        world.acknowledge(&namesake).await;
        assert!(namesake.log_text().contains("waiting whether its writer lives"), "{}", namesake.log_text());
        assert!(namesake.stop().await.success());
    });
}

#[test]
fn of_two_namesakes_that_start_together_one_goes_on() {
    scenario("start_up::of_two_namesakes_that_start_together_one_goes_on", async || {
        let world = World::new();
        let mut first = KeeperProcess::new(&world, "k1");
        let mut second = KeeperProcess::new(&world, "k1");
        second.data_dir = world.directory.path().join("elsewhere");
        second.log = world.directory.path().join("second.log");
        first.start();
        second.start();
        // Neither reports before it knows a cluster, so that neither can see the other.
        world
            .eventually("both to wait for cluster data", async |_| {
                let waits = |keeper: &KeeperProcess| keeper.log_text().contains("no cluster data");
                (waits(&first) && waits(&second)).then_some(())
            })
            .await;
        world.publish().await;
        let (code, log) = world
            .eventually("one of them to refuse", async |_| {
                [&mut first, &mut second]
                    .into_iter()
                    .find_map(|keeper| Some((keeper.try_ended()?.code(), keeper.log_text())))
            })
            .await;
        assert_eq!(code, Some(2), "{log}");
        assert!(log.contains("another keeper with the uid"), "{log}");
        let ended = [first.try_ended(), second.try_ended()];
        assert_eq!(ended.iter().flatten().count(), 1, "the other one goes on: {ended:?}");
    });
}

/// The memory of a keeper, and of its PostgreSQL, holds passwords.
#[test]
fn a_keeper_leaves_no_core_file() {
    scenario("start_up::a_keeper_leaves_no_core_file", async || {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let before = getrlimit(Resource::Core);
        setrlimit(Resource::Core, Rlimit { current: before.maximum, ..before }).unwrap();
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        for pid in [keeper.pid(), keeper.postmaster().unwrap()] {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(line.split_whitespace().nth(4), Some("0"), "{line}");
        }
    });
}

#[test]
fn metrics_and_readiness_are_served() {
    scenario("start_up::metrics_and_readiness_are_served", async || {
        let mut world = World::new();
        let address = format!("127.0.0.1:{}", stolon_testkit::postgres::free_port().unwrap());
        let keeper = world.keeper_with("k1", &["--metrics-listen-address", &address]).await;
        world.primary(&keeper).await;
        let text = world
            .eventually("the roles in the metrics", async |_| {
                let text = get(&address, "/metrics").await?;
                text.contains("stolon_keeper_local_role{role=\"master\"} 1").then_some(text)
            })
            .await;
        for line in [
            "stolon_cluster_identifier{cluster_name=\"test\",component=\"keeper\"} 1",
            "stolon_keeper_target_role{role=\"master\"} 1",
            "stolon_keeper_target_role{role=\"standby\"} 0",
            "stolon_keeper_local_role{role=\"undefined\"} 0",
            "stolon_keeper_needs_reload 0",
            "stolon_keeper_needs_restart 0",
            "stolon_keeper_sleep_interval 1",
            "stolon_keeper_shutdown_seconds 0",
            "stolon_keeper_healthy 1",
            "stolon_keeper_unhealthy_reason{reason=\"silent\"} 0",
            "stolon_keeper_timeline 1",
            "stolon_keeper_wal_received 1",
            "stolon_keeper_resync_done_bytes 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing:\n{text}");
        }
        let metrics = Metrics::parse(&text).unwrap();
        for name in
            ["stolon_keeper_clusterdata_last_valid_update_seconds", "stolon_keeper_last_sync_success_seconds"]
        {
            let ago = jiff::Timestamp::now().as_second() as f64 - metrics.value(name).unwrap_or_default();
            assert!((-1.0..60.0).contains(&ago), "{name} is {ago} s ago:\n{text}");
        }
        assert!(get(&address, "/readyz").await.is_some_and(|answer| answer.contains("200 OK")));
    });
}

#[test]
fn lag_ill_health_and_copies_are_in_the_metrics() {
    scenario("start_up::lag_ill_health_and_copies_are_in_the_metrics", async || {
        let mut world = World::new();
        let [first_address, second_address] =
            [(); 2].map(|()| format!("127.0.0.1:{}", stolon_testkit::postgres::free_port().unwrap()));
        let first = world.keeper_with("k1", &["--metrics-listen-address", &first_address]).await;
        world.primary(&first).await;
        let mut second = world.keeper_with("k2", &["--metrics-listen-address", &second_address]).await;
        world.standby(&second).await;
        let metrics = async |address: &str| Metrics::parse(&get(address, "/metrics").await?).ok();
        let copied = metrics(&second_address).await.unwrap();
        let base_backups = "stolon_keeper_resyncs_total{method=\"base_backup\",result=\"success\"}";
        assert_eq!(copied.value(base_backups), Some(1.0));
        assert_eq!(copied.value("stolon_keeper_resync_under_way{method=\"base_backup\"}"), Some(0.0));
        let took = copied.value("stolon_keeper_resync_last_duration_seconds{method=\"base_backup\"}");
        assert!(took.is_some_and(|took| took > 0.0), "{took:?}");
        let writes = copied.value("stolon_store_request_duration_seconds_count{operation=\"write\"}");
        assert!(writes.is_some_and(|writes| writes > 0.0), "{writes:?}");

        const LAG: &str = "stolon_keeper_standby_lag_bytes{standby=\"bb\"}";
        let lag = async |wanted: fn(f64) -> bool| {
            world
                .eventually("the lag", async |_| {
                    metrics(&first_address).await?.value(LAG).filter(|lag| wanted(*lag))
                })
                .await
        };
        lag(|lag| lag == 0.0).await;
        // What receives WAL there is stopped, so that nothing is flushed.
        let receiver = second.value("SELECT pid FROM pg_stat_wal_receiver").await.parse().unwrap();
        let receiver = Pid::from_raw(receiver).unwrap();
        rustix::process::kill_process(receiver, Signal::STOP).unwrap();
        first.value("CREATE TABLE t AS SELECT generate_series(1, 100000)").await;
        assert!(lag(|lag| lag > 100_000.0).await > 100_000.0);
        rustix::process::kill_process(receiver, Signal::CONT).unwrap();
        lag(|lag| lag == 0.0).await;

        // A standby that is gone is in nobody's metrics.
        second.stop().await;
        world
            .eventually("nothing of the standby", async |_| {
                metrics(&first_address).await?.value(LAG).is_none().then_some(())
            })
            .await;
        let hung = first.postmaster().unwrap();
        rustix::process::kill_process(hung, Signal::STOP).unwrap();
        world
            .eventually("the reason", async |_| {
                let metrics = metrics(&first_address).await?;
                let silent = metrics.value("stolon_keeper_unhealthy_reason{reason=\"silent\"}") == Some(1.0);
                (silent && metrics.value("stolon_keeper_healthy") == Some(0.0)).then_some(())
            })
            .await;
        rustix::process::kill_process(hung, Signal::CONT).unwrap();
    });
}
