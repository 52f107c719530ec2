//! The real PostgreSQL as a keeper's machine meets it: looks that tell facts, and steps with typed ends.

#![allow(clippy::unwrap_used)]

mod support;

use stolon_core::keeper::{
    AlterSystem, ConfigMerge, ControlLook, Data, DeathCause, FailureKind, Learned, Look, OldData, RoleChange,
    ServerLook, SlotChanges, SourceTrouble, Step, StepFailure, StepOutcome, Upstream,
};
use stolon_model::NewConfig;
use stolon_postgres::instance::Instance as _;
use stolon_postgres::{BaseBackup, LocalInstance, LocalPostgres, Options, ProgressSender};
use support::*;
use tokio_util::sync::CancellationToken;

fn instance(of: &Instance) -> LocalInstance {
    LocalInstance::new(of.postgres.clone())
}

async fn look(instance: &LocalInstance) -> Look {
    instance.look(DEADLINE, &CancellationToken::new()).await
}

async fn take(instance: &LocalInstance, step: Step) -> StepOutcome {
    instance.take(&step, DEADLINE, &ProgressSender::default(), &CancellationToken::new()).await
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
    let outcome =
        instance(&a).take(&Step::WaitReady(None), DEADLINE, &ProgressSender::default(), &cancelled).await;
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
