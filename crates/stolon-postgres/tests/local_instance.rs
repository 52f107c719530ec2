//! The real PostgreSQL as a keeper's machine meets it: looks that tell facts, and steps with typed ends.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use stolon_core::keeper::{
    AlterSystem, ConfigMerge, ControlLook, Data, DeathCause, FailureKind, Instance as _, Learned, Look,
    OldData, RecoveryMode, RoleChange, ServerLook, SlotChanges, SourceTrouble, Step, StepFailure,
    StepOutcome, Upstream,
};
use stolon_model::NewConfig;
use stolon_postgres::{BaseBackup, LocalInstance, LocalPostgres, Options};
use support::*;
use tokio_util::sync::CancellationToken;

fn instance(of: &Instance) -> LocalInstance {
    LocalInstance::new(of.postgres.clone())
}

async fn look(instance: &LocalInstance) -> Look {
    instance.look(DEADLINE).await
}

async fn take(instance: &LocalInstance, step: Step) -> StepOutcome {
    instance.take(step, DEADLINE, &|_| {}, std::future::pending()).await
}

async fn done(instance: &LocalInstance, step: Step) -> Learned {
    match take(instance, step.clone()).await {
        StepOutcome::Done(learned) => learned,
        StepOutcome::Failed(failure) => panic!("{step:?} failed: {failure:?}"),
    }
}

async fn failure(instance: &LocalInstance, step: Step) -> FailureKind {
    match take(instance, step.clone()).await {
        StepOutcome::Done(learned) => panic!("{step:?} is done: {learned:?}"),
        StepOutcome::Failed(failure) => failure.kind,
    }
}

fn configure(of: &Instance, more: &[(&str, &str)]) -> Step {
    Step::Configure { config: Box::new(of.files(more)), merge: ConfigMerge::Replace }
}

instance_test!(a_machine_finds_facts_and_takes_steps_on_the_real_postgresql, || async {
    let a = Instance::new("a", &Passwords::default());
    let it = instance(&a);
    let seen = look(&it).await;
    assert_eq!((&seen.data, &seen.server), (&Data::Absent, &ServerLook::Stopped));
    assert_eq!(seen.control, ControlLook::NotRead);
    assert!(seen.version.is_ok(), "{seen:?}");

    assert_eq!(done(&it, Step::InitDb(NewConfig::default())).await, Learned::Nothing);
    let seen = look(&it).await;
    assert!(matches!(seen.data, Data::Present(_)), "{seen:?}");
    assert!(
        matches!(&seen.control, ControlLook::Demands(demands) if demands.max_connections == 100),
        "{seen:?}"
    );
    assert_eq!(seen.alter_system, AlterSystem::Refused, "no server runs");

    let config = Box::new(a.files(&[("max_conections", "3")]));
    let rejected = done(&it, Step::CheckSettings { config, merge: ConfigMerge::Replace }).await;
    assert!(
        matches!(&rejected, Learned::Rejected(rejected) if rejected[0].name == "max_conections"),
        "{rejected:?}"
    );
    for step in [configure(&a, &[]), Step::Start(ConfigMerge::Replace), Step::WaitReady(None)] {
        assert_eq!(done(&it, step).await, Learned::Nothing);
    }
    let roles = done(&it, Step::SetUpRoles).await;
    assert_eq!(
        roles,
        Learned::Roles(vec![RoleChange::SuperuserPasswordSet, RoleChange::ReplicationRoleCreated])
    );
    let slots = done(&it, Step::EnsureSlots(["stolon_b".to_owned()].into())).await;
    assert_eq!(slots, Learned::Slots(SlotChanges { created: vec!["stolon_b".into()], ..Default::default() }));
    assert_eq!(done(&it, Step::TerminateClients).await, Learned::SessionsEnded(0));
    let Learned::Configured(configured) = done(&it, Step::CaptureParameters).await else {
        panic!("no answer")
    };
    assert_eq!(configured.get("port"), Some(&a.port));

    let seen = look(&it).await;
    let answer = seen.server.answer().unwrap_or_else(|| panic!("no answer: {seen:?}"));
    assert_eq!((answer.in_recovery, answer.timeline.0), (false, 1));
    assert!(seen.slots_on_disk.contains("stolon_b"), "{seen:?}");
    assert_eq!(seen.control, ControlLook::NotRead, "a running server is asked itself");

    done(&it, configure(&a, &[("max_conections", "3")])).await;
    let problems = done(&it, Step::Reload).await;
    assert!(
        matches!(&problems, Learned::NotInForce(lines) if lines[0].name == "max_conections"),
        "{problems:?}"
    );
    done(&it, Step::Stop).await;
    done(&it, Step::Stop).await;
    assert_eq!(look(&it).await.server, ServerLook::Stopped);
});

// What a lowered limit waits for: the primary has it, and the standby has replayed that.
instance_test!(a_running_standby_shows_what_its_primary_runs_with, || async {
    let (a, b) = (Instance::new("a", &Passwords::default()), Instance::new("b", &Passwords::default()));
    a.create(&[("max_connections", "150")]).await;
    b.follow(&a, &[("max_connections", "150")]).await;
    let it = instance(&b);
    let shown = async || match look(&it).await.control {
        ControlLook::Demands(demands) => demands.max_connections,
        other => panic!("{other:?}"),
    };
    assert_eq!(shown().await, 150);
    a.stop().await;
    a.start(&a.files(&[("max_connections", "90")])).await;
    eventually("the lowered limit", async || shown().await == 90).await;
    b.stop().await;
    a.stop().await;
});

instance_test!(failures_are_told_by_their_kind, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let b = Instance::new("b", &Passwords::default());
    let it = instance(&b);
    let upstream = Upstream { application_name: b.slot(), ..a.source_for(&b) };
    let nowhere =
        Upstream { port: stolon_testkit::postgres::free_port().unwrap().to_string(), ..upstream.clone() };
    let examine = |upstream: &Upstream, system: Option<&str>| Step::ExamineSource {
        upstream: upstream.clone(),
        system_identifier: system.map(str::to_owned),
        slot: b.slot(),
    };
    let source = FailureKind::Source;
    assert_eq!(failure(&it, examine(&nowhere, None)).await, source(SourceTrouble::Unreachable));
    assert_eq!(failure(&it, examine(&upstream, Some("7"))).await, source(SourceTrouble::OtherCluster));

    // A slot that cannot be made is told, and is no failure.
    let slots: std::collections::BTreeSet<String> = (0..11).map(|n| format!("stolon_{n:02}")).collect();
    let Learned::Slots(changes) = done(&instance(&a), Step::EnsureSlots(slots)).await else {
        panic!("no slots")
    };
    assert_eq!((changes.created.len(), changes.kept.len()), (10, 1), "{changes:?}");

    // The port of another server, found by the server itself.
    done(&it, Step::InitDb(NewConfig::default())).await;
    done(&it, configure(&b, &[("port", &a.port), ("unix_socket_directories", "")])).await;
    let started = take(&it, Step::Start(ConfigMerge::Replace)).await;
    let outcome = match started {
        StepOutcome::Done(_) => take(&it, Step::WaitReady(Some(DEADLINE))).await,
        failed => failed,
    };
    let StepOutcome::Failed(failed) = outcome else { panic!("two servers on one port") };
    let is_port =
        matches!(&failed.kind, FailureKind::ServerExited(death) if death.cause == DeathCause::PortTaken);
    assert!(is_port || failed.kind == FailureKind::PortTaken, "{failed:?}");

    // What is called off.
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let outcome = instance(&a).take(Step::WaitReady(None), DEADLINE, &|_| {}, cancelled.cancelled()).await;
    assert!(
        matches!(&outcome, StepOutcome::Failed(failed) if failed.kind == FailureKind::CalledOff),
        "{outcome:?}"
    );
    a.stop().await;
});

instance_test!(a_full_disk_of_the_source_is_not_ours, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let b = Instance::new("b", &Passwords::default());
    b.follow(&a, &[]).await;
    b.stop().await;
    // A source without space cannot be had here, so a tool that hands on what such a source says stands for the real one.
    let tools = b.directory.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    let real = b.postgres.options().bin_path.clone().unwrap();
    for tool in ["postgres", "pg_controldata"] {
        std::os::unix::fs::symlink(real.join(tool), tools.join(tool)).unwrap();
    }
    let says = "#!/bin/sh\necho 'pg_basebackup: error: could not get COPY data stream: ERROR:  could not write to file \"x\": \
         No space left on device' >&2\nexit 1\n";
    std::fs::write(tools.join("pg_basebackup"), says).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tools.join("pg_basebackup"), executable).unwrap();
    let options = Options { bin_path: Some(tools), ..b.postgres.options().clone() };
    let backup =
        BaseBackup { source: a.source_for(&b), slot: Some(b.slot()), old_data: OldData::KeepUntilCopied };
    let before = fingerprint(&b.data());
    let error = LocalPostgres::new(options).base_backup(&backup, &progress(), &limit()).await.unwrap_err();
    assert_eq!(StepFailure::from(error).kind, FailureKind::DiskFullAtSource);
    assert_eq!(fingerprint(&b.data()), before, "what is here stays");
    a.stop().await;
});

instance_test!(a_reload_that_nobody_can_confirm_is_not_done, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let it = instance(&a);
    assert_eq!(done(&it, Step::Reload).await, Learned::NotInForce(Vec::new()));
    let sql = a.sql().await;
    let shut_out = "ALTER ROLE stolon NOLOGIN; \
                    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'stolon-keeper'";
    sql.batch_execute(shut_out).await.unwrap();
    assert_eq!(failure(&it, Step::Reload).await, FailureKind::Other);
    sql.batch_execute("ALTER ROLE stolon LOGIN").await.unwrap();
    assert_eq!(done(&it, Step::Reload).await, Learned::NotInForce(Vec::new()));
    a.stop().await;
});

#[test]
fn data_on_a_mount_point_are_copied_in_place() {
    let _bound = BoundDirectory::mount();
    run("data_on_a_mount_point_are_copied_in_place", mounted);
}

async fn mounted() {
    // Where the machine lets us make one.
    let Some(directory) = BoundDirectory::of_parent() else { return };
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let home = tempfile::tempdir().unwrap();
    let b = Instance::with("b", &Passwords::default(), home, |options| options.keeper_directory = directory);
    a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    for _ in 0..2 {
        b.copy(&a, OldData::KeepUntilCopied).await.unwrap();
        assert!(matches!(b.postgres.facts().unwrap(), Data::Present(_)));
    }
    b.postgres.remove_data(&limit()).await.unwrap();
    assert_eq!(b.postgres.facts().unwrap(), Data::Absent);
    a.stop().await;
}

fn remove_wal(of: &Instance) {
    for segment in std::fs::read_dir(of.data().join("pg_wal")).unwrap().flatten() {
        if segment.file_type().unwrap().is_file() {
            std::fs::remove_file(segment.path()).unwrap();
        }
    }
}

/// Copies what `a` holds to `b`, as a backup that is not consistent before so many segments of WAL were replayed, none of which is there.
async fn backup_without_wal(a: &Instance, b: &Instance, segments: usize) -> String {
    let sql = a.sql().await;
    sql.batch_execute("SELECT pg_backup_start('slow', true)").await.unwrap();
    let copied = std::process::Command::new("cp").args(["-a"]).arg(a.data()).arg(b.data()).status().unwrap();
    assert!(copied.success());
    for _ in 0..segments {
        let segment = "SELECT pg_logical_emit_message(false, 'x', 'x'); SELECT pg_switch_wal()";
        sql.batch_execute(segment).await.unwrap();
    }
    let row = sql.query_one("SELECT labelfile FROM pg_backup_stop(false)", &[]).await.unwrap();
    let label: String = row.get(0);
    std::fs::write(b.data().join("backup_label"), &label).unwrap();
    for stale in ["postmaster.pid", "postmaster.opts"] {
        std::fs::remove_file(b.data().join(stale)).unwrap();
    }
    remove_wal(b);
    label
}

instance_test!(a_server_whose_source_has_not_the_wal_that_it_needs_is_given_up_at_once, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[("wal_keep_size", "0"), ("min_wal_size", "32MB")]).await;
    let b = Instance::new("b", &Passwords::default());
    backup_without_wal(&a, &b, 8).await;
    a.sql().await.batch_execute("CHECKPOINT; CHECKPOINT").await.unwrap();
    a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    let it = instance(&b);
    let config = Box::new(b.standby_files(&a, &[]));
    done(&it, Step::Configure { config, merge: ConfigMerge::Replace }).await;
    done(&it, Step::Start(ConfigMerge::Replace)).await;
    assert_eq!(failure(&it, Step::WaitFollowing(None)).await, FailureKind::LacksWal);
    done(&it, Step::Stop).await;
    a.stop().await;
});

instance_test!(a_recovery_that_makes_progress_is_waited_for, || async {
    const SEGMENTS: usize = 8;
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let b = Instance::new("b", &Passwords::default());
    // A backup that needs eight segments of WAL before it can be read, fetched one by one.
    let label = backup_without_wal(&a, &b, SEGMENTS).await;
    let it = instance(&b);
    let fetching = |command: String| {
        let mut config = b.files(&[]);
        config.recovery.mode = RecoveryMode::Standby;
        config.recovery.parameters.insert("restore_command".into(), command);
        Step::Configure { config: Box::new(config), merge: ConfigMerge::Replace }
    };
    done(&it, fetching(format!("sleep 0.5; cp {}/pg_wal/%f %p", a.data().display()))).await;
    done(&it, Step::Start(ConfigMerge::Replace)).await;
    let begun = std::time::Instant::now();
    let patience = Duration::from_secs(2);
    done(&it, Step::WaitReady(Some(patience))).await;
    assert!(begun.elapsed() > patience, "the recovery was over too early to show anything");

    // One that stands still is not.
    done(&it, Step::Stop).await;
    std::fs::write(b.data().join("backup_label"), label).unwrap();
    done(&it, fetching("sleep 60".to_owned())).await;
    remove_wal(&b);
    done(&it, Step::Start(ConfigMerge::Replace)).await;
    assert_eq!(failure(&it, Step::WaitReady(Some(patience))).await, FailureKind::TimedOut);
    a.stop().await;
});
