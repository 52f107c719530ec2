//! The real PostgreSQL, as a keeper uses it.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use rustix::process::Signal;
use stolon_core::keeper::{
    ConfigFile, ConfigMerge, Data, DataKind, HbaLine, OldData, Origin, RecoveryMode, RejectedSetting,
    RoleChange, SlotChanges, Upstream,
};
use stolon_model::NewConfig;
use stolon_postgres::*;
use stolon_testkit::postgres::bin_directory;
use support::*;
use tokio_util::sync::CancellationToken;

instance_test!(a_new_cluster_is_made_started_and_looked_at, || async {
    let a = Instance::new("a", &Passwords::default());
    assert_eq!(a.postgres.facts().unwrap(), Data::Absent);
    a.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
    let initialised = a.present();
    assert_eq!(initialised.kind, DataKind::Primary);

    a.start(&a.files(&[("fsync", "on")])).await;
    let said = a.postgres.set_up_roles(&limit()).await.unwrap();
    assert_eq!(said, [RoleChange::SuperuserPasswordSet, RoleChange::ReplicationRoleCreated]);
    let sample = a.postgres.sample(&limit()).await.unwrap();
    assert_eq!(sample.system_identifier, initialised.system_identifier);
    assert_eq!(sample.timeline.0, 1);
    assert!(!sample.in_recovery && sample.lsn.0 > 0 && sample.history.is_empty());
    assert_eq!(sample.configured_parameters["shared_buffers"], "16MB");
    assert_eq!(sample.older_wal_file, "000000010000000000000001");
    assert!(sample.pending_restart.is_empty());

    // ALTER SYSTEM is the cluster specification's business.
    let error = a.sql().await.batch_execute("ALTER SYSTEM SET work_mem = '1MB'").await.unwrap_err();
    assert!(
        error.as_db_error().is_some_and(|answer| answer.message().contains("postgresql.auto.conf")),
        "{error}"
    );

    a.stop().await;
    assert_eq!(*a.postgres.server().borrow(), ServerState::Stopped);
    let control = a.postgres.control_data(&limit()).await.unwrap();
    assert_eq!(control.state, ClusterState::ShutDown);
    assert_eq!(control.system_identifier, sample.system_identifier);
    assert_eq!((control.demands.max_connections, control.demands.max_wal_senders), (100, 10));
    assert_eq!(control.wal_segment_size, 16 << 20);

    std::fs::remove_dir_all(a.data().join("pg_xact")).unwrap();
    let missing = vec!["pg_xact".to_owned()];
    assert_eq!(a.postgres.facts().unwrap(), Data::Incomplete { missing });
    a.postgres.remove_data(&limit()).await.unwrap();
    assert_eq!(a.postgres.facts().unwrap(), Data::Absent);
});

instance_test!(a_killed_postmaster_is_seen_and_started_again, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    a.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS x").await;
    for _ in 0..3 {
        let mut server = a.postgres.server();
        let busy = a.sql().await;
        kill(a.pid(), Signal::KILL);
        let died = server.wait_for(|state| !state.is_running());
        let died = tokio::time::timeout(DEADLINE, died).await.unwrap().unwrap().clone();
        assert!(matches!(&died, ServerState::Died { status, .. } if status.contains("SIGKILL")), "{died:?}");
        a.postgres.start(ConfigMerge::Replace, &limit()).await.unwrap();
        a.postgres.wait_ready(&limit()).await.unwrap();
        assert!(busy.simple_query("SELECT 1").await.is_err());
    }
    let row = a.sql().await.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1000);
    a.stop().await;
});

instance_test!(a_standby_is_copied_catches_up_is_promoted_and_the_old_primary_rewound, || async {
    let passwords = Passwords { superuser: r"s p'a\c:e".into(), replication: r#"r e:p\l ' " x"#.into() };
    let a = Instance::new("a", &passwords);
    let b = Instance::new("b", &passwords);
    a.create(&[]).await;
    a.run("CREATE TABLE t AS SELECT 1 AS x").await;
    let plan = a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    assert_eq!(plan.created, [b.slot()]);
    let again = a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    assert_eq!(again, SlotChanges::default());

    // A promotion right after the loss of the primary must not wait for the next retry: the startup process may just have gone to sleep.
    let standby = [("wal_retrieve_retry_interval", "600s")];
    b.follow(&a, &standby).await;
    assert_eq!(b.present().kind, DataKind::Standby);
    a.run("INSERT INTO t VALUES (2)").await;
    let caught_up = || async {
        let primary = a.postgres.sample(&limit()).await.unwrap();
        let standby = b.postgres.sample(&limit()).await.unwrap();
        assert!(standby.in_recovery && standby.system_identifier == primary.system_identifier);
        standby.lsn >= primary.lsn && standby.timeline == primary.timeline
    };
    eventually("the standby catching up", caught_up).await;

    // Synchronous: it counts once it has what was there when it was named.
    let files = a.files(&[("synchronous_standby_names", &b.slot())]);
    a.postgres.write_config(&files, ConfigMerge::Replace, &limit()).await.unwrap();
    assert_eq!(a.postgres.reload(&limit()).await.unwrap(), []);
    eventually("the standby in sync", || async {
        let look = a.postgres.sample(&limit()).await.unwrap();
        look.synchronous_standby_names == "stolon_b"
            && look.replication.iter().any(|row| row.sync_state == "sync" && row.flush_lsn >= Some(look.lsn))
    })
    .await;
    a.run("INSERT INTO t VALUES (3)").await;

    a.crash().await;
    let deadline = Limit::within(Duration::from_secs(60), &CancellationToken::new());
    b.postgres.promote(&deadline).await.unwrap();
    b.postgres.promote(&deadline).await.unwrap();
    b.run("INSERT INTO t VALUES (4)").await;
    let sample = b.postgres.sample(&limit()).await.unwrap();
    assert_eq!((sample.timeline.0, sample.in_recovery), (2, false));
    assert_eq!(sample.history.len(), 1);
    assert_eq!(sample.history[0].timeline.0, 1);
    assert_eq!(b.present().kind, DataKind::Primary);
    b.postgres.write_config(&b.files(&[]), ConfigMerge::Replace, &limit()).await.unwrap();
    assert_eq!(b.postgres.reload(&limit()).await.unwrap(), []);
    assert!(b.postgres.sample(&limit()).await.unwrap().pending_restart.is_empty());

    // The old primary wrote what nobody has; then it comes back as a standby.
    a.start(&a.files(&[])).await;
    a.run("INSERT INTO t VALUES (99)").await;
    a.crash().await;
    b.postgres.refresh_slots(&[a.slot()].into(), &limit()).await.unwrap();
    a.postgres.rewind(&b.source_for(&a), &progress(), &limit()).await.unwrap();
    a.start(&a.standby_files(&b, &[])).await;
    eventually("the old primary following", || async {
        a.postgres.sample(&limit()).await.is_ok_and(|sample| sample.timeline.0 == 2 && sample.in_recovery)
    })
    .await;
    b.run("INSERT INTO t VALUES (5)").await;
    eventually("the rows of the new primary", || async {
        let rows = a.sql().await.query("SELECT x FROM t ORDER BY 1", &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, i32>(0)).eq([1, 2, 3, 4, 5])
    })
    .await;
    assert!(
        !a.directory.path().join("secrets").read_dir().unwrap().any(|_| true),
        "no secret is left behind"
    );

    // A standby that crashed would be recovered as a primary first, and could follow nobody afterwards.
    a.crash().await;
    let refused = a.postgres.rewind(&b.source_for(&a), &progress(), &limit()).await;
    assert!(matches!(refused, Err(PostgresError::StandbyCrashed)), "{refused:?}");
    a.start(&a.standby_files(&b, &[])).await;
    b.run("INSERT INTO t VALUES (6)").await;
    eventually("the standby following as before", || async {
        a.sql().await.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0) == 6
    })
    .await;
    a.stop().await;
    b.stop().await;
});

instance_test!(a_failed_copy_leaves_the_old_data, || async {
    let a = Instance::new("a", &Passwords::default());
    let b = Instance::new("b", &Passwords::default());
    a.create(&[]).await;
    b.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
    let before = fingerprint(&b.data());
    let own = b.present().system_identifier.clone();

    // No slot yet, another cluster, wrong password, nobody there: seen beforehand.
    let source = a.source_for(&b);
    let short = Limit::within(Duration::from_secs(3), &CancellationToken::new());
    let problem = b.postgres.wait_for_source(&source, None, Some(&b.slot()), &short).await.unwrap_err();
    assert!(matches!(problem, PostgresError::Source(SourceProblem::NoSlot { .. })), "{problem}");
    let problem = b.postgres.examine_source(&source, Some(&own), None, &limit()).await.unwrap_err();
    assert!(matches!(problem, PostgresError::Source(SourceProblem::OtherCluster { .. })), "{problem}");
    let wrong = Instance::new("w", &Passwords { replication: "wrong".into(), ..Passwords::default() });
    let problem = wrong.postgres.examine_source(&source, None, None, &limit()).await.unwrap_err();
    assert!(matches!(problem, PostgresError::Source(SourceProblem::Refused { .. })), "{problem}");
    let nobody =
        Upstream { port: stolon_testkit::postgres::free_port().unwrap().to_string(), ..source.clone() };
    let problem = b.postgres.examine_source(&nobody, None, None, &limit()).await.unwrap_err();
    assert!(matches!(problem, PostgresError::Source(SourceProblem::Unreachable { .. })), "{problem}");

    // And a copy that fails all the same.
    let error = b.copy(&a, OldData::KeepUntilCopied).await.unwrap_err();
    assert!(error.to_string().contains("stolon_b"), "{error}");
    let error = wrong.copy(&a, OldData::DeleteFirst).await.unwrap_err();
    assert!(error.to_string().contains("password authentication failed"), "{error}");
    assert_eq!(fingerprint(&b.data()), before);

    a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    let facts = b.postgres.wait_for_source(&source, None, Some(&b.slot()), &limit()).await.unwrap();
    let sample = a.postgres.sample(&limit()).await.unwrap();
    assert_eq!((&facts.system_identifier, facts.timeline), (&sample.system_identifier, sample.timeline));
    // What an exchange left that was cut short.
    std::fs::create_dir_all(b.directory.path().join("postgres.old/base")).unwrap();
    let sender = progress();
    let backup =
        BaseBackup { source: source.clone(), slot: Some(b.slot()), old_data: OldData::KeepUntilCopied };
    b.postgres.base_backup(&backup, &sender, &limit()).await.unwrap();
    let seen = *sender.borrow();
    assert!(seen.bytes_done > 1 << 20 && seen.bytes_total >= seen.bytes_done, "{seen:?}");
    assert_eq!(b.present().system_identifier, facts.system_identifier);
    let left: Vec<_> =
        b.directory.path().read_dir().unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name == "postgres.new" || name == "postgres.old"), "{left:?}");
    a.stop().await;
});

instance_test!(settings_that_postgresql_refuses_are_named_and_the_rest_is_accepted, || async {
    let a = Instance::new("a", &Passwords::default());
    let bad = [
        ("max_conections", "300"),
        ("work_mem", "12 parsecs"),
        ("max_connections", "-1"),
        ("shared_preload_libraries", "pg_stat_statements, no_such_library"),
        ("my.option", "is fine"),
        ("lc_messages", "xx_XX"),
        ("evil\nname", "1"),
    ];
    let names = |rejected: &[RejectedSetting]| {
        let mut names: Vec<String> = rejected.iter().map(|refused| refused.name.clone()).collect();
        names.sort();
        names
    };
    let expected = [
        "evil\nname",
        "lc_messages",
        "max_conections",
        "max_connections",
        "shared_preload_libraries",
        "work_mem",
    ];
    // Before there is data, and with a running server.
    let rejected = a.postgres.check_settings(&a.files(&bad), ConfigMerge::Replace, &limit()).await.unwrap();
    assert_eq!(names(&rejected), expected, "{rejected:#?}");
    a.create(&[]).await;
    let before = a.pid();
    let rejected = a.postgres.check_settings(&a.files(&bad), ConfigMerge::Replace, &limit()).await.unwrap();
    assert_eq!(names(&rejected), expected, "{rejected:#?}");
    let library = rejected.iter().find(|refused| refused.name == "shared_preload_libraries").unwrap();
    assert_eq!(library.instead.as_deref(), Some("pg_stat_statements"));
    assert!(library.message.contains("no_such_library"), "{}", library.message);

    // What only a whole start shows: combinations, certificates.
    for (setting, name) in [
        (&[("wal_level", "minimal"), ("archive_mode", "on"), ("max_wal_senders", "0")][..], "wal_level"),
        (&[("ssl", "on")], "ssl"),
    ] {
        let rejected =
            a.postgres.check_settings(&a.files(setting), ConfigMerge::Replace, &limit()).await.unwrap();
        assert_eq!(names(&rejected), [name], "{rejected:#?}");
    }
    assert_eq!(a.postgres.check_settings(&a.files(&[]), ConfigMerge::Replace, &limit()).await.unwrap(), []);
    assert_eq!(a.pid(), before);
    a.postgres.sample(&limit()).await.unwrap();

    // A reload says what it did not take, and the server goes on.
    a.postgres
        .write_config(&a.files(&[("max_conections", "3")]), ConfigMerge::Replace, &limit())
        .await
        .unwrap();
    let problems = a.postgres.reload(&limit()).await.unwrap();
    assert_eq!(problems.iter().map(|problem| problem.name.as_str()).collect::<Vec<_>>(), ["max_conections"]);
    let mut files = a.files(&[("max_connections", "50")]);
    files.hba.push(HbaLine::Verbatim("nonsense".into()));
    a.postgres.write_config(&files, ConfigMerge::Replace, &limit()).await.unwrap();
    let problems = a.postgres.reload(&limit()).await.unwrap();
    assert_eq!(problems.iter().map(|problem| problem.file).collect::<Vec<_>>(), [ConfigFile::Hba]);
    assert_eq!(problems[0].line, 6);
    eventually("max_connections waiting for a restart", || async {
        a.postgres.sample(&limit()).await.unwrap().pending_restart.into_keys().eq(["max_connections"])
    })
    .await;
    a.stop().await;

    // A start that fails explains itself.
    let error = a.postgres.start(ConfigMerge::Replace, &limit()).await.err();
    let error = match error {
        Some(error) => error,
        None => a.postgres.wait_ready(&limit()).await.unwrap_err(),
    };
    let PostgresError::ServerExited { explanation, tail, .. } = error else { panic!("{error}") };
    assert!(explanation.contains("pg_hba.conf"), "{explanation}");
    assert_eq!(refused_hba_lines(&tail), [6]);
});

instance_test!(configuration_that_came_with_the_data_is_merged_and_mended, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    a.stop().await;
    let existing = a.data().join("postgresql.conf");
    let foreign = "max_connections = 37\nno_such_parameter = 1\nshared_preload_libraries = 'pg_stat_statements, nolib'\n\
                   data_directory = '/nowhere'\nlogging_collector = on\nport = 1\nwork_mem = '7MB'\n\
                   temp_buffers = many\n";
    std::fs::write(&existing, foreign).unwrap();
    let mut files = a.files(&[]);
    files.parameters.remove("max_connections");
    let rejected = a.postgres.check_settings(&files, ConfigMerge::WithExisting, &limit()).await.unwrap();
    let path = existing.display().to_string();
    let at = |line| Origin::ExistingFile { path: path.clone(), line };
    let mut found: Vec<_> = rejected
        .iter()
        .map(|refused| (refused.name.as_str(), refused.origin.clone(), refused.instead.as_deref()))
        .collect();
    found.sort_by_key(|(name, ..)| *name);
    let expected = [
        ("no_such_parameter", at(2), None),
        ("shared_preload_libraries", at(3), Some("pg_stat_statements")),
        ("temp_buffers", at(8), None),
    ];
    assert_eq!(found, expected, "{rejected:#?}");
    a.postgres.comment_out(&rejected, &limit()).await.unwrap();
    assert_eq!(a.postgres.check_settings(&files, ConfigMerge::WithExisting, &limit()).await.unwrap(), []);
    a.postgres.write_config(&files, ConfigMerge::WithExisting, &limit()).await.unwrap();
    a.postgres.start(ConfigMerge::WithExisting, &limit()).await.unwrap();
    a.postgres.wait_ready(&limit()).await.unwrap();
    let configured = a.postgres.configured_parameters(&limit()).await.unwrap();
    assert_eq!(configured["max_connections"], "37");
    assert_eq!(configured["work_mem"], "7MB");
    assert_eq!(configured["shared_preload_libraries"], "pg_stat_statements");
    assert_eq!(configured["port"], a.port);
    a.stop().await;
});

instance_test!(recovery_to_a_target_ends_or_says_why_not, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[("archive_mode", "on"), ("archive_command", "cp %p ../archive/%f")]).await;
    let archive = a.directory.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    let b = Instance::new("b", &Passwords::default());
    let backup = format!(
        "PGPASSWORD=replsecret {}/pg_basebackup -w -P -R -h 127.0.0.1 -p {} -U repluser -D \"%d\"",
        stolon_testkit::postgres::bin_directory().unwrap().display(),
        a.port
    );
    let sender = progress();
    b.postgres.restore(&backup, &sender, &limit()).await.unwrap();
    assert!(sender.borrow().bytes_total > 0);
    a.run("CREATE TABLE t AS SELECT 1 AS x; SELECT pg_create_restore_point('here')").await;
    a.run("INSERT INTO t VALUES (2); SELECT pg_switch_wal()").await;
    eventually("the archive", || async { archive.read_dir().unwrap().flatten().count() >= 3 }).await;
    a.stop().await;

    let mut files = b.files(&[]);
    files.recovery.mode = RecoveryMode::Recovery;
    let mut set = |name: &str, value: String| files.recovery.parameters.insert(name.into(), value);
    set("restore_command", format!("cp '{}'/%f \"%p\"", archive.display()));
    set("recovery_target_action", "promote".into());
    set("recovery_target_name", "nowhere".into());
    b.postgres.write_config(&files, ConfigMerge::WithExisting, &limit()).await.unwrap();
    assert!(!b.data().join("standby.signal").exists());
    b.postgres.start(ConfigMerge::WithExisting, &limit()).await.unwrap();
    let error = b.postgres.wait_recovery_end(&limit()).await.unwrap_err();
    let PostgresError::ServerExited { explanation, .. } = &error else { panic!("{error}") };
    assert!(explanation.contains("target was not reached"), "{explanation}");

    b.postgres.restore("echo 'no backup here' >&2; exit 3", &progress(), &limit()).await.unwrap_err();
    assert_eq!(b.postgres.facts().unwrap(), Data::Absent);
});

instance_test!(tools_and_secrets_of_a_killed_keeper_are_gone_before_anything_is_done, || async {
    let a = Instance::new("a", &Passwords::default());
    let secret = a.directory.path().join("secrets/1.0");
    std::fs::create_dir(secret.parent().unwrap()).unwrap();
    std::fs::write(&secret, "secret").unwrap();
    let marker = a.directory.path().join("children");
    let command = format!("(sleep 1000 & echo $! > {0}; sleep 1000) & sleep 1000", marker.display());
    let (sender, limit) = (progress(), limit());
    let restore = a.postgres.restore(&command, &sender, &limit);
    let next_keeper = async {
        eventually("the children", || async {
            std::fs::read_to_string(&marker).is_ok_and(|text| text.ends_with('\n'))
        })
        .await;
        assert_eq!(a.reopened().stop_orphan(&limit).await.unwrap(), OrphanOutcome::None);
        let child = std::fs::read_to_string(&marker).unwrap();
        let words = std::fs::read(format!("/proc/{}/cmdline", child.trim())).unwrap_or_default();
        assert!(words.is_empty(), "it still runs");
    };
    let (restored, ()) = tokio::join!(restore, next_keeper);
    assert!(restored.is_err());
    assert!(!secret.exists());
});

instance_test!(a_reload_that_does_not_happen_is_no_success, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    kill(a.pid(), Signal::STOP);
    let error = a.postgres.reload(&limit()).await.unwrap_err();
    assert!(matches!(error, PostgresError::Timeout { .. }), "{error}");
    kill(a.pid(), Signal::CONT);
    assert_eq!(a.postgres.reload(&limit()).await.unwrap(), []);
    a.stop().await;
});

instance_test!(what_only_receives_wal_is_no_standby, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[("synchronous_standby_names", "stolon_b"), ("synchronous_commit", "local")]).await;
    let target = a.directory.path().join("received");
    std::fs::create_dir(&target).unwrap();
    let mut receiver = std::process::Command::new(bin_directory().unwrap().join("pg_receivewal"))
        .args(["--synchronous", "-w", "-D", target.to_str().unwrap(), "-d"])
        .arg(format!("host=127.0.0.1 port={} user=repluser application_name=stolon_b", a.port))
        .env("PGPASSWORD", "replsecret")
        .spawn()
        .unwrap();
    let sql = a.sql().await;
    eventually("the receiver to count for PostgreSQL", || async {
        let count = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        sql.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    assert_eq!(a.postgres.sample(&limit()).await.unwrap().replication, []);
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    a.stop().await;
});

instance_test!(a_tool_that_is_called_off_leaves_no_process, || async {
    let a = Instance::new("a", &Passwords::default());
    let cancel = CancellationToken::new();
    let marker = a.directory.path().join("children");
    let command = format!("sleep 1000 & echo $! > {0}; sleep 1000", marker.display());
    let limit = Limit::unlimited(&cancel);
    let sender = progress();
    let restore = a.postgres.restore(&command, &sender, &limit);
    let call_off = async {
        eventually("the children", || async {
            std::fs::read_to_string(&marker).is_ok_and(|text| text.ends_with('\n'))
        })
        .await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(restore, call_off);
    assert!(result.unwrap_err().is_cancelled());
    let child: i32 = std::fs::read_to_string(&marker).unwrap().trim().parse().unwrap();
    eventually("the end of the child", || async move {
        std::fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "))
    })
    .await;
    assert_eq!(a.postgres.facts().unwrap(), Data::Absent);
});

instance_test!(a_wrong_superuser_password_is_said_at_once, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    a.stop().await;
    let mut options = a.postgres.options().clone();
    options.superuser.password = "wrong".into();
    let other = LocalPostgres::new(options);
    other.start(ConfigMerge::Replace, &limit()).await.unwrap();
    let error = other.wait_ready(&limit()).await.unwrap_err();
    assert!(error.to_string().contains("superuser \"stolon\" cannot log in"), "{error}");
    assert!(!format!("{other:?}").contains("wrong"));
    other.stop(StopMode::Fast, DEADLINE, &limit()).await.unwrap();
});

instance_test!(limits_below_those_of_the_data_are_explained, || async {
    let a = Instance::new("a", &Passwords::default());
    let b = Instance::new("b", &Passwords::default());
    a.create(&[("max_connections", "60"), ("max_prepared_transactions", "9")]).await;
    a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    b.copy(&a, OldData::DeleteFirst).await.unwrap();
    let control = b.postgres.control_data(&limit()).await.unwrap();
    assert_eq!((control.demands.max_connections, control.demands.max_prepared_transactions), (60, 9));
    let mut files = b.standby_files(&a, &[("max_connections", "20"), ("recovery_target_action", "shutdown")]);
    files.recovery.mode = RecoveryMode::Standby;
    b.postgres.write_config(&files, ConfigMerge::Replace, &limit()).await.unwrap();
    b.postgres.start(ConfigMerge::Replace, &limit()).await.unwrap();
    let error = b.postgres.wait_ready(&limit()).await.unwrap_err();
    assert!(error.to_string().contains("max_connections = 20"), "{error}");
    a.stop().await;
});

instance_test!(clients_are_sent_away_and_slots_kept_in_order, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[("wal_level", "logical"), ("max_slot_wal_keep_size", "1MB"), ("wal_keep_size", "0")]).await;
    a.run("SELECT pg_create_logical_replication_slot('stolon_logical', 'test_decoding')").await;
    a.run("SELECT pg_create_physical_replication_slot('mine'); CREATE ROLE app LOGIN PASSWORD 'app'").await;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(a.port.parse().unwrap()).user("app").password("app").dbname("postgres");
    let (app, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    app.simple_query("SELECT 1").await.unwrap();
    assert_eq!(a.postgres.terminate_clients(&limit()).await.unwrap(), 1);
    eventually("the client gone", || async { app.simple_query("SELECT 1").await.is_err() }).await;

    let wanted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let plan = a.postgres.refresh_slots(&wanted(&["stolon_x", "stolon_y"]), &limit()).await.unwrap();
    assert_eq!(plan.created, ["stolon_x", "stolon_y"]);
    // x loses its WAL: it is made anew; y is dropped; logical and foreign ones stay.
    a.run("CREATE TABLE w (t text)").await;
    eventually("the slot losing its WAL", || async {
        a.run("INSERT INTO w SELECT repeat('x', 1000) FROM generate_series(1, 3000)").await;
        a.run("SELECT pg_switch_wal()").await;
        a.run("CHECKPOINT").await;
        let sql = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'stolon_x'";
        let row = a.sql().await.query_one(sql, &[]).await.unwrap();
        row.get::<_, Option<&str>>(0) == Some("lost")
    })
    .await;
    let plan = a.postgres.refresh_slots(&wanted(&["stolon_x"]), &limit()).await.unwrap();
    assert_eq!((plan.created, plan.dropped.len()), (vec!["stolon_x".to_owned()], 2));
    let rows = a
        .sql()
        .await
        .query("SELECT slot_name::text FROM pg_replication_slots ORDER BY 1", &[])
        .await
        .unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["mine", "stolon_logical", "stolon_x"]);
    a.stop().await;
});

instance_test!(data_of_another_major_version_is_named, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    a.stop().await;
    std::fs::write(a.data().join("PG_VERSION"), "14\n").unwrap();
    assert_eq!(a.present().version.major, 14);
    let rejected = a.postgres.check_settings(&a.files(&[]), ConfigMerge::Replace, &limit()).await.unwrap();
    assert_eq!(rejected.len(), 1, "{rejected:#?}");
    assert!(rejected[0].message.contains("another major version"), "{rejected:#?}");
    let error = a.postgres.start(ConfigMerge::Replace, &limit()).await.unwrap_err();
    assert!(error.to_string().contains("another major version"), "{error}");
});

#[test]
fn a_full_disk_is_named_and_costs_nothing() {
    let _disk = SmallDisk::mount();
    run("a_full_disk_is_named_and_costs_nothing", full_disk);
}

async fn full_disk() {
    let a = Instance::new("a", &Passwords::default());
    let error =
        a.postgres.restore("dd if=/dev/zero of=/dev/full count=1", &progress(), &limit()).await.unwrap_err();
    assert!(matches!(error, PostgresError::DiskFull { .. }), "{error}");
    assert!(error.hint().is_some());

    // A disk of a few megabytes, where the machine lets us make one.
    let Some(small) = SmallDisk::directory() else { return };
    let b = Instance::in_directory("b", &Passwords::default(), small);
    a.create(&[]).await;
    a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    let error = b.copy(&a, OldData::KeepUntilCopied).await.unwrap_err();
    assert!(matches!(error, PostgresError::DiskFull { .. }), "{error}");
    assert_eq!(b.postgres.facts().unwrap(), Data::Absent);
    let error = b.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap_err();
    assert!(matches!(error, PostgresError::DiskFull { .. }), "{error}");
    assert_eq!(b.postgres.facts().unwrap(), Data::Absent);
    a.stop().await;
}

instance_test!(a_server_that_logs_to_files_explains_itself_too, || async {
    let a = Instance::new("a", &Passwords::default());
    a.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
    let mut files = a.files(&[("logging_collector", "on")]);
    files.hba.push(HbaLine::Verbatim("nonsense".into()));
    a.postgres.write_config(&files, ConfigMerge::Replace, &limit()).await.unwrap();
    let started = a.postgres.start(ConfigMerge::Replace, &limit()).await;
    let error = match started {
        Err(error) => error,
        Ok(()) => a.postgres.wait_ready(&limit()).await.unwrap_err(),
    };
    let PostgresError::ServerExited { explanation, tail, .. } = error else { panic!("{error}") };
    assert!(explanation.contains("pg_hba.conf"), "{explanation}");
    assert_eq!(refused_hba_lines(&tail), [6]);
});
