//! Making instances: new, existing, restored, copied, rewound.

use std::io::Write;

use stolon_model::{
    ArchiveRecoverySettings, FollowConfig, InstanceInitMode, PitrConfig, RecoveryTargetSettings, Role,
};
use stolon_testkit::postgres::{PostgresConfig, PostgresServer, bin_directory};

use crate::world::{KeeperProcess, REPLICATION, SUPERUSER, World, files_in, scenario};

#[test]
fn a_new_cluster_has_its_users_and_its_files() {
    scenario("making::a_new_cluster_has_its_users_and_its_files", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        let report = world.primary(&keeper).await;
        assert_eq!(report.postgres_binary_version.major, 15);
        let log = keeper.log_text();
        assert!(log.contains("superuser password set"), "{log}");
        assert!(log.contains("replication role created\t{\"role\": \"repluser\"}"), "{log}");
        assert!(!log.contains("su secret"), "the password is in the log");
        assert_eq!(keeper.value("SELECT rolreplication FROM pg_roles WHERE rolname = 'repluser'").await, "t");
        assert_eq!(
            keeper.dbstate(),
            r#"{"UID":"aa","Generation":2,"Initializing":false,"InitPGParameters":null}"#
        );
        let state = std::fs::read_to_string(keeper.data_dir.join("keeperstate")).unwrap();
        assert_eq!(state, r#"{"UID":"k1","ClusterUID":"c1"}"#);
        let auto = std::fs::read_link(keeper.pgdata().join("postgresql.auto.conf")).unwrap();
        assert_eq!(auto, std::path::Path::new("/dev/null"));
    });
}

#[test]
fn a_cluster_that_nobody_asked_for_does_not_cost_the_old_data() {
    scenario("making::a_cluster_that_nobody_asked_for_does_not_cost_the_old_data", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        keeper.value("CREATE TABLE precious AS SELECT 42 AS answer").await;
        // The store was emptied, and a sentinel with an initial specification takes it for a new one.
        world.cluster.cluster.uid = "c2".into();
        world.cluster.cluster.overwrite_data = false;
        world.assign("cc", &keeper, InstanceInitMode::New, Role::Primary);
        world.cluster.cluster.status.primary = Some("cc".into());
        world.publish().await;
        world.healthy(&keeper, "cc", 1).await;
        assert_eq!(keeper.value("SELECT count(*) FROM pg_class WHERE relname = 'precious'").await, "0");
        let kept = keeper.data_dir.join("postgres.kept-aa");
        let log = keeper.log_text();
        assert!(log.contains("set aside") && log.contains(&kept.display().to_string()), "{log}");

        let mut single = std::process::Command::new(bin_directory().unwrap().join("postgres"))
            .args(["--single", "-D"])
            .arg(&kept)
            .arg("postgres")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        single.stdin.take().unwrap().write_all(b"SELECT answer FROM precious").unwrap();
        let answer = String::from_utf8(single.wait_with_output().unwrap().stdout).unwrap();
        assert!(answer.contains("answer = \"42\""), "{answer}");
    });
}

#[test]
fn parameters_of_the_first_primary_are_captured() {
    scenario("making::parameters_of_the_first_primary_are_captured", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        let aa = world.assign("aa", &keeper, InstanceInitMode::New, Role::Primary);
        aa.spec.include_previous_config = true;
        world.publish().await;
        let report = world.healthy(&keeper, "aa", 1).await;
        let parameters = report.postgres_state.unwrap().pg_parameters.unwrap();
        let names: Vec<&str> = parameters.keys().map(String::as_str).collect();
        let expected = "datestyle default_text_search_config dynamic_shared_memory_type lc_messages lc_monetary \
                        lc_numeric lc_time log_timezone max_connections max_wal_size min_wal_size shared_buffers \
                        timezone wal_level";
        assert_eq!(names.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
    });
}

#[test]
fn a_standby_is_copied_and_streams() {
    scenario("making::a_standby_is_copied_and_streams", async || {
        let mut world = World::new();
        let (first, second) = (world.keeper("k1").await, world.keeper("k2").await);
        world.primary(&first).await;
        first.value("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a").await;
        world.standby(&second).await;
        world
            .eventually("the rows on the standby", async |_| {
                (second.try_value("SELECT count(*) FROM t").await.ok()? == "1000").then_some(())
            })
            .await;
        let slot = first.value("SELECT slot_name FROM pg_replication_slots WHERE active").await;
        assert_eq!(slot, "stolon_bb");
        assert_eq!(second.value("SELECT pg_is_in_recovery()").await, "t");
        assert!(!second.log_text().contains("repl: secret"), "the password is in the log");
    });
}

/// SQL, `pg_hba.conf` and connection strings each quote in their own way. `initdb` itself wants no quotes in the superuser's name.
#[test]
fn users_with_odd_names_are_made_let_in_and_copied_as() {
    scenario("making::users_with_odd_names_are_made_let_in_and_copied_as", async || {
        const USERS: (&str, &str) = ("The One, su", "repl\\, all \"'");
        let flags = ["--pg-su-username", USERS.0, "--pg-repl-username", USERS.1];
        let mut world = World::new();
        let first = world.keeper_with("k1", &flags).await;
        world.primary(&first).await;
        let second = world.keeper_with("k2", &flags).await;
        world.standby(&second).await;
        let client = first.connect_as(USERS.0, SUPERUSER.1).await.unwrap();
        let streaming = world
            .eventually("the stream", async |_| {
                let sql = "SELECT usename FROM pg_stat_replication WHERE state = 'streaming'";
                Some(client.query(sql, &[]).await.unwrap().first()?.get::<_, String>(0))
            })
            .await;
        assert_eq!(streaming, USERS.1);
        first.connect_as(USERS.1, SUPERUSER.1).await.expect_err("the password of another user");
    });
}

#[test]
fn a_standby_that_receives_nothing_says_why() {
    scenario("making::a_standby_that_receives_nothing_says_why", async || {
        let mut world = World::new();
        let (first, second) = (world.keeper("k1").await, world.keeper("k2").await);
        world.primary(&first).await;
        world.standby(&second).await;
        let change_password = |password: &str| format!("ALTER ROLE repluser PASSWORD '{password}'");
        first.value(&change_password("by hand")).await;
        first.value("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
        let told = async |world: &World| Some(world.report(&second).await?.activity?.replication_problem);
        let problem = world
            .eventually("the standby to say that it is cut off", async |world| {
                told(world).await.filter(|problem| !problem.is_empty())
            })
            .await;
        let start = format!("the standby receives no WAL from 127.0.0.1:{}", first.port);
        assert!(problem.starts_with(&start), "{problem}");
        assert!(problem.contains("password authentication failed"), "{problem}");
        let log = second.log_text();
        assert!(log.contains("the standby receives no WAL"), "{log}");
        first.value(&change_password(REPLICATION.1)).await;
        world
            .eventually("the standby to be content again", async |world| {
                let activity = world.report(&second).await?.activity;
                activity.is_none_or(|activity| activity.replication_problem.is_empty()).then_some(())
            })
            .await;
    });
}

#[test]
fn an_old_primary_is_rewound() {
    scenario("making::an_old_primary_is_rewound", async || {
        let mut world = World::new();
        let (mut first, second) = (world.keeper("k1").await, world.keeper("k2").await);
        world.primary(&first).await;
        world.change("aa", |aa| aa.spec.use_pg_rewind = true).await;
        world.healthy(&first, "aa", 3).await;
        first.stop().await;
        first.start();
        world.acknowledge(&first).await;
        world.healthy(&first, "aa", 3).await;
        first.value("CREATE TABLE t AS SELECT 1 AS a").await;
        world.standby(&second).await;
        world.cluster.cluster.status.primary = Some("bb".into());
        world
            .change("bb", |bb| {
                bb.spec.role = Some(Role::Primary);
                bb.spec.follow_config = None;
                bb.spec.init_mode = Some(InstanceInitMode::None);
                bb.spec.followers = Some(vec!["cc".into()]);
            })
            .await;
        world.healthy(&second, "bb", 2).await;
        first.value("INSERT INTO t SELECT generate_series(1, 100)").await;
        second.value("INSERT INTO t VALUES (2)").await;
        let cc = world.assign("cc", &first, InstanceInitMode::Resync, Role::Standby);
        cc.spec.use_pg_rewind = true;
        cc.spec.follow_config = Some(FollowConfig::internal("bb".into()));
        world.publish().await;
        world.healthy(&first, "cc", 1).await;
        world
            .eventually("the rows of the new primary", async |_| {
                (first.try_value("SELECT count(*) FROM t").await.ok()? == "2").then_some(())
            })
            .await;
        let log = first.log_text();
        assert!(log.contains("running pg_rewind") && !log.contains("running pg_basebackup"), "{log}");
    });
}

#[test]
fn existing_data_is_adopted_and_a_failed_adoption_is_tried_again() {
    scenario("making::existing_data_is_adopted_and_a_failed_adoption_is_tried_again", async || {
        let mut world = World::new();
        let keeper = world.keeper("k1").await;
        world.primary(&keeper).await;
        keeper.value("CREATE TABLE t AS SELECT 1 AS a").await;
        // The data is not there when the adoption is first tried.
        let aside = keeper.pgdata().with_file_name("aside");
        world.cluster.instances.clear();
        world.cluster.cluster.status.primary = None;
        world.publish().await;
        world
            .eventually("PostgreSQL to be stopped", async |_| keeper.postmaster().is_none().then_some(()))
            .await;
        std::fs::rename(keeper.pgdata(), &aside).unwrap();
        let ee = world.assign("ee", &keeper, InstanceInitMode::Existing, Role::Primary);
        ee.spec.include_previous_config = true;
        world.publish().await;
        world.problem(&keeper, "no database cluster to adopt").await;
        std::fs::rename(&aside, keeper.pgdata()).unwrap();
        world.healthy(&keeper, "ee", 1).await;
        assert_eq!(keeper.value("SELECT count(*) FROM t").await, "1");
        let expected = r#""InitPGParameters":{"wal_level":"replica"}"#;
        assert!(keeper.dbstate().contains(expected), "{}", keeper.dbstate());
    });
}

fn legacy() -> PostgresServer {
    let mut config =
        PostgresConfig { superuser: SUPERUSER.0.into(), password: SUPERUSER.1.into(), ..Default::default() };
    for (name, value) in
        [("max_connections", "300"), ("max_prepared_transactions", "100"), ("wal_level", "replica")]
    {
        config.parameters.insert(name.into(), value.into());
    }
    PostgresServer::start(config).unwrap()
}

fn pitr(command: String) -> PitrConfig {
    let mut pitr = PitrConfig::default();
    pitr.data_restore_command = command;
    pitr.archive_recovery_settings = Some(ArchiveRecoverySettings { restore_command: "echo 1".into() });
    pitr
}

fn copy_command(legacy: &PostgresServer, password: &str) -> String {
    let tool = bin_directory().unwrap().join("pg_basebackup");
    format!(
        "PGPASSWORD='{password}' {} -D %d -h 127.0.0.1 -p {} -U repluser -X stream -w",
        tool.display(),
        legacy.port()
    )
}

async fn prepare(legacy: &PostgresServer) {
    let client = legacy.connect().await.unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 500) AS a").await.unwrap();
    let user = format!("CREATE ROLE repluser LOGIN REPLICATION PASSWORD '{}'", REPLICATION.1);
    client.batch_execute(&user).await.unwrap();
}

#[test]
fn a_legacy_database_is_restored_with_the_limits_that_it_demands() {
    scenario("making::a_legacy_database_is_restored_with_the_limits_that_it_demands", async || {
        let mut world = World::new();
        let legacy = legacy();
        prepare(&legacy).await;
        let client = legacy.connect().await.unwrap();
        client.simple_query("ALTER SYSTEM SET work_mem = '7MB'").await.unwrap();
        let keeper = world.keeper("k1").await;
        let aa = world.assign("aa", &keeper, InstanceInitMode::PointInTimeRecovery, Role::Primary);
        aa.spec.include_previous_config = true;
        aa.spec.pitr_config = Some(pitr(copy_command(&legacy, REPLICATION.1)));
        world.publish().await;
        let report = world.healthy(&keeper, "aa", 1).await;
        let state = report.postgres_state.unwrap();
        assert_eq!(state.timeline.0, 2);
        assert_eq!(keeper.value("SELECT count(*) FROM t").await, "500");
        assert_eq!(keeper.value("SHOW max_connections").await, "300");
        assert_eq!(keeper.value("SHOW max_prepared_transactions").await, "100");
        let left = files_in(&keeper.pgdata());
        assert!(
            !left.contains(&"recovery.signal".to_owned()) && !left.contains(&"standby.signal".to_owned())
        );
        let captured = state.pg_parameters.unwrap();
        assert_eq!(captured.get("max_connections").map(String::as_str), Some("300"));
        assert!(!captured.contains_key("restore_command"), "{captured:?}");
        assert_eq!(captured.get("work_mem").map(String::as_str), Some("7MB"), "ALTER SYSTEM counts");
        assert_eq!(keeper.value("SHOW work_mem").await, "7MB");
    });
}

#[test]
fn a_failed_restore_says_why_and_succeeds_once_mended() {
    scenario("making::a_failed_restore_says_why_and_succeeds_once_mended", async || {
        let mut world = World::new();
        let legacy = legacy();
        prepare(&legacy).await;
        let keeper = world.keeper("k1").await;
        let aa = world.assign("aa", &keeper, InstanceInitMode::PointInTimeRecovery, Role::Primary);
        aa.spec.pitr_config = Some(pitr(copy_command(&legacy, "wrong")));
        world.publish().await;
        let problem = world.problem(&keeper, "password").await;
        assert!(!problem.contains("secret"), "{problem}");
        assert_eq!(keeper.postmaster(), None);
        let client = legacy.connect().await.unwrap();
        client.batch_execute("ALTER ROLE repluser PASSWORD 'wrong'").await.unwrap();
        world.healthy(&keeper, "aa", 1).await;
        let activity = world
            .eventually("the problem to be gone", async |world| {
                let activity = world.report(&keeper).await?.activity.unwrap_or_default();
                activity.problem.is_empty().then_some(activity)
            })
            .await;
        assert_eq!(activity.problem, "");
        assert_eq!(keeper.value("SELECT count(*) FROM t").await, "500");
    });
}

/// Restores a copy of the legacy database, then runs `spoil` on it as long as `marker` does not exist.
fn spoiled(legacy: &PostgresServer, spoil: &str, marker: &std::path::Path) -> PitrConfig {
    let copy = copy_command(legacy, REPLICATION.1);
    pitr(format!("{copy} && if [ ! -e {} ]; then {spoil}; fi", marker.display()))
}

async fn restoring(world: &mut World, pitr: PitrConfig) -> KeeperProcess {
    let keeper = world.keeper("k1").await;
    world.assign("aa", &keeper, InstanceInitMode::PointInTimeRecovery, Role::Primary).spec.pitr_config =
        Some(pitr);
    world.publish().await;
    keeper
}

#[test]
fn a_library_that_is_missing_here_is_named_and_waited_for() {
    scenario("making::a_library_that_is_missing_here_is_named_and_waited_for", async || {
        let mut world = World::new();
        let legacy = legacy();
        prepare(&legacy).await;
        let spoil = "echo \"shared_preload_libraries = 'no_such_library'\" >> %d/postgresql.conf";
        let pitr = spoiled(&legacy, spoil, std::path::Path::new("/nonexistent/marker"));
        let keeper = restoring(&mut world, pitr).await;
        let problem = world.problem(&keeper, "no_such_library").await;
        assert_eq!(keeper.postmaster(), None, "{problem}");
        assert!(keeper.dbstate().contains("\"Initializing\":true"), "{}", keeper.dbstate());
        // Installing the library cannot be tried here; no longer asking for it is the same to PostgreSQL.
        let conf = keeper.pgdata().join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        std::fs::write(&conf, text.replace("'no_such_library'", "''")).unwrap();
        world.healthy(&keeper, "aa", 1).await;
        assert_eq!(keeper.value("SELECT count(*) FROM t").await, "500");
        let restored = keeper.log_text().matches("restoring the database cluster").count();
        assert_eq!(restored, 1, "what was restored is kept");
    });
}

#[test]
fn data_of_another_major_is_named_and_fetched_again() {
    scenario("making::data_of_another_major_is_named_and_fetched_again", async || {
        let mut world = World::new();
        let legacy = legacy();
        prepare(&legacy).await;
        let marker = world.directory.path().join("mended");
        let keeper = restoring(&mut world, spoiled(&legacy, "echo 14 > %d/PG_VERSION", &marker)).await;
        let problem =
            world.problem(&keeper, "the data is of PostgreSQL 14, the binaries are of PostgreSQL 15").await;
        assert_eq!(keeper.postmaster(), None, "{problem}");
        std::fs::write(&marker, "").unwrap();
        world.healthy(&keeper, "aa", 1).await;
    });
}

#[test]
fn an_unreachable_source_is_named() {
    scenario("making::an_unreachable_source_is_named", async || {
        let mut world = World::new();
        let mut legacy = legacy();
        prepare(&legacy).await;
        let command = copy_command(&legacy, REPLICATION.1);
        legacy.stop().unwrap();
        let keeper = restoring(&mut world, pitr(command)).await;
        let problem = world.problem(&keeper, &format!("{}", legacy.port())).await;
        assert!(problem.to_lowercase().contains("refused") || problem.contains("reach"), "{problem}");
        assert_eq!(
            files_in(&keeper.pgdata()),
            Vec::<String>::new(),
            "a failed restore leaves nothing behind"
        );
        legacy.start_again().unwrap();
        world.healthy(&keeper, "aa", 1).await;
    });
}

#[test]
fn a_target_that_is_not_reached_promotes_nothing() {
    scenario("making::a_target_that_is_not_reached_promotes_nothing", async || {
        let mut world = World::new();
        let legacy = legacy();
        prepare(&legacy).await;
        let mut pitr = pitr(copy_command(&legacy, REPLICATION.1));
        pitr.recovery_target_settings =
            Some(RecoveryTargetSettings { recovery_target_name: "nowhere".into(), ..Default::default() });
        let keeper = restoring(&mut world, pitr).await;
        let problem = world.problem(&keeper, "target").await;
        assert!(keeper.dbstate().contains("\"Generation\":0"), "{problem}");
        // Mended: the operator takes the target back.
        world.instance("aa").spec.pitr_config.as_mut().unwrap().recovery_target_settings = None;
        world.publish().await;
        world.healthy(&keeper, "aa", 1).await;
        assert_eq!(keeper.value("SELECT pg_is_in_recovery()").await, "f");
    });
}

#[test]
fn how_far_a_restore_is_stands_in_the_report_and_in_the_log() {
    scenario("making::how_far_a_restore_is_stands_in_the_report_and_in_the_log", async || {
        let mut world = World::new();
        let legacy = legacy();
        prepare(&legacy).await;
        // Slow enough for a few log lines: some 30 MiB at 4 MiB a second.
        let command = format!("{} -P --max-rate=4M", copy_command(&legacy, REPLICATION.1));
        let keeper = restoring(&mut world, pitr(command)).await;
        world
            .eventually("bytes done, of how many", async |world| {
                let activity = world.report(&keeper).await?.activity?;
                assert!(activity.bytes_total == 0 || activity.step == "restoring the backup");
                (0 < activity.bytes_done && activity.bytes_done < activity.bytes_total).then_some(())
            })
            .await;
        world.healthy(&keeper, "aa", 1).await;
        let log = keeper.log_text();
        let line = log.lines().find(|line| line.contains("restoring the backup under way")).unwrap_or(&log);
        assert!(line.contains("bytes_done") && line.contains("bytes_total"), "{line}");
        let activity = world.report(&keeper).await.unwrap().activity.unwrap_or_default();
        assert_eq!(
            (activity.bytes_done, activity.bytes_total),
            (0, 0),
            "afterwards there is nothing to show"
        );
    });
}

#[test]
fn a_restore_is_called_off_when_something_else_is_wanted() {
    scenario("making::a_restore_is_called_off_when_something_else_is_wanted", async || {
        let mut world = World::new();
        let keeper = restoring(&mut world, pitr("sleep 1000 & touch %d/begun; wait; echo %d".into())).await;
        let begun = async |_: &World| keeper.pgdata().join("begun").exists().then_some(());
        world.eventually("the restore to have begun", begun).await;
        world.assign("bb", &keeper, InstanceInitMode::New, Role::Primary);
        world.publish().await;
        world.healthy(&keeper, "bb", 1).await;
        let restoring = |process: &String| process.contains("sleep 1000");
        assert!(!keeper.processes().iter().any(restoring), "{:?}", keeper.processes());
    });
}

#[test]
fn sigterm_ends_a_restore_command_with_all_its_children() {
    scenario("making::sigterm_ends_a_restore_command_with_all_its_children", async || {
        let mut world = World::new();
        let mut keeper =
            restoring(&mut world, pitr("sleep 1000 & touch %d/begun; wait; echo %d".into())).await;
        world
            .eventually("the restore to have begun", async |_| {
                keeper.pgdata().join("begun").exists().then_some(())
            })
            .await;
        let step = world
            .eventually("the step in the report", async |world| {
                let activity = world.report(&keeper).await?.activity?;
                (!activity.step.is_empty()).then_some(activity.step)
            })
            .await;
        assert_eq!(step, "restoring the backup");
        assert!(keeper.stop().await.success());
        assert_eq!(keeper.processes(), Vec::<String>::new());
    });
}

/// A password that differs is no obstacle on the host itself: the keeper logs in by its account.
#[test]
fn a_superuser_who_may_not_log_in_is_named_and_its_backup_fetched_again() {
    scenario("making::a_superuser_who_may_not_log_in_is_named_and_its_backup_fetched_again", async || {
        let mut world = World::new();
        let legacy = legacy();
        prepare(&legacy).await;
        let client = legacy.connect().await.unwrap();
        client.batch_execute("ALTER ROLE stolon NOLOGIN PASSWORD 'another'").await.unwrap();
        let keeper = restoring(&mut world, pitr(copy_command(&legacy, REPLICATION.1))).await;
        world.problem(&keeper, "role \"stolon\" is not permitted to log in").await;
        client.batch_execute("ALTER ROLE stolon LOGIN").await.unwrap();
        world.healthy(&keeper, "aa", 1).await;
    });
}
