//! The situation matrix: one row each.

use std::sync::Arc;

use stolon_core::keeper::*;
use stolon_core::postgres::Version;
use stolon_model::{
    ArchiveRecoverySettings, FailOutcome, FailRequest, FollowConfig, InstanceInitMode as Init,
    RecoveryTargetSettings, RequestKind, Role, StandbySettings, Timestamp,
};

use crate::given::*;

#[test]
fn a_keeper_that_is_not_known_touches_nothing() {
    let mut cluster = asked(Role::Primary, Init::None);
    let seen = running(DataKind::Primary, &goal(&cluster));
    cluster.keepers.clear();
    assert_eq!(planned(&cluster, &seen), "");
}

#[test]
fn without_an_instance_the_server_stops_and_its_files_stay() {
    let cluster = asked(Role::Primary, Init::None);
    let seen = running(DataKind::Primary, &goal(&cluster));
    let mut none = cluster;
    none.instances.remove(&"us".into());
    assert_eq!(planned(&none, &seen), "stop");
    assert_eq!(planned(&none, &here(DataKind::Primary)), "");
}

#[test]
fn a_boot_that_was_not_acknowledged_keeps_the_server_stopped() {
    let mut cluster = asked(Role::Primary, Init::None);
    let seen = running(DataKind::Primary, &goal(&cluster));
    cluster.keepers.get_mut(&identity().keeper).unwrap().status.boot_uuid = "earlier".into();
    assert_eq!(planned(&cluster, &seen), "stop");
    assert_eq!(planned(&cluster, &here(DataKind::Primary)), "");
}

const NEW: &str = "stop mark wipe initdb configure:primary+merged start ready roles stop finish again";
const COPY: &str = "stop examine mark copy again";

#[test]
fn another_instance_is_made_as_the_cluster_data_says() {
    let other = |data: Data| {
        let local = LocalState { uid: "old".into(), generation: 9, ..LocalState::default() };
        Observation { local, data, ..nothing() }
    };
    let elsewhere =
        Data::Present(Present { version: V15, kind: DataKind::Primary, system_identifier: "other".into() });
    for (mode, data, expected) in [
        (Init::New, Data::Absent, NEW),
        (Init::New, present(DataKind::Primary), NEW),
        (Init::PointInTimeRecovery, Data::Absent, "stop mark wipe restore again"),
        (Init::PointInTimeRecovery, present(DataKind::Primary), "stop mark wipe restore again"),
        (Init::Resync, Data::Absent, COPY),
        (Init::Resync, present(DataKind::Primary), COPY),
        (Init::Resync, elsewhere, COPY),
        (
            Init::Existing,
            present(DataKind::Primary),
            "stop configure:primary+merged start ready stop finish again",
        ),
        (Init::Existing, Data::Absent, "stop trouble"),
        (Init::Existing, Data::Unreadable("PG_VERSION".into()), "stop trouble"),
        (Init::None, Data::Absent, "trouble"),
        (Init::None, present(DataKind::Primary), "trouble"),
    ] {
        let role = if mode == Init::Resync { Role::Standby } else { Role::Primary };
        let cluster = asked(role, mode.clone());
        assert_eq!(planned(&cluster, &other(data.clone())), expected, "{mode} with {data:?}");
    }
}

/// A store that was emptied looks new to a sentinel with an initial specification; it is no order to lose databases.
#[test]
fn data_of_another_cluster_are_set_aside_unless_an_operator_agreed_to_lose_them() {
    let unasked = |mode: Init| {
        let role = if mode == Init::Resync { Role::Standby } else { Role::Primary };
        let mut cluster = asked(role, mode);
        cluster.cluster.overwrite_data = false;
        let primary = cluster.instances.get_mut(&"pp".into()).unwrap();
        primary.status.system_identifier = "another".into();
        cluster
    };
    let old = || {
        let mut seen = here(DataKind::Primary);
        seen.local.uid = "old".into();
        seen
    };
    let restored = "stop aside:old mark wipe restore again";
    for (mode, with_data) in [
        (Init::New, NEW.replacen("mark", "aside:old mark", 1)),
        (Init::PointInTimeRecovery, restored.to_owned()),
        (Init::Resync, COPY.replacen("mark", "aside:old mark", 1)),
    ] {
        let cluster = unasked(mode.clone());
        assert_eq!(planned(&cluster, &old()), with_data);
        let without = with_data.replacen("aside:old ", "", 1);
        let mut nothing_there = old();
        nothing_there.data = Data::Absent;
        assert_eq!(planned(&cluster, &nothing_there), without, "there is nothing to keep");
        let mut damaged = old();
        damaged.data = Data::Unreadable("pg_control".into());
        let expected = if mode == Init::Resync { &without } else { &with_data };
        assert_eq!(planned(&cluster, &damaged), *expected, "what is damaged may still be precious");
        let mut half_made = old();
        half_made.local.initializing = true;
        assert_eq!(planned(&cluster, &half_made), without, "what is half-made holds nobody's data");
        let mut never_used = old();
        never_used.local.generation = 0;
        assert_eq!(planned(&cluster, &never_used), without, "what was never in use holds nobody's data");
    }
    let mut same_system = unasked(Init::Resync);
    same_system.instances.get_mut(&"pp".into()).unwrap().status.system_identifier = SYSTEM.into();
    assert_eq!(planned(&same_system, &old()), COPY, "the primary has the same data");
}

/// `dbWaitReadyTimeout` and `syncTimeout` 0 are no limit; as a limit they would end every wait before it began.
#[test]
fn zero_is_no_limit() {
    for mode in [Init::New, Init::Existing, Init::None] {
        let mut cluster = asked(Role::Primary, mode.clone());
        let waits = |cluster: &stolon_model::ClusterData| {
            let seen = match mode {
                Init::New => nothing(),
                Init::Existing => {
                    let mut seen = here(DataKind::Primary);
                    seen.local.uid = "old".into();
                    seen
                }
                _ => here(DataKind::Primary),
            };
            let steps = plan(&goal(cluster), &seen).steps;
            steps.into_iter().find(|step| matches!(step, Step::WaitReady(_)))
        };
        assert_eq!(
            waits(&cluster),
            Some(Step::WaitReady(Some(std::time::Duration::from_secs(60)))),
            "{mode}"
        );
        cluster.cluster.spec.db_wait_ready_timeout = Some(stolon_model::GoDuration(0));
        assert_eq!(waits(&cluster), Some(Step::WaitReady(None)), "{mode}");
    }
}

#[test]
fn what_alter_system_has_set_is_taken_back_at_once() {
    for (role, kind) in [(Role::Primary, DataKind::Primary), (Role::Standby, DataKind::Standby)] {
        let cluster = asked(role, Init::None);
        let mut seen = running(kind, &goal(&cluster));
        assert!(!planned(&cluster, &seen).contains("reload"));
        seen.alter_system = AlterSystem::Possible;
        let words = planned(&cluster, &seen);
        assert!(words.contains("configure:") && words.contains("reload"), "{words}");
    }
}

/// PostgreSQL does not start with room for fewer slots than there are on disk, and new followers need theirs.
#[test]
fn there_is_room_for_the_slots_on_disk_and_those_to_come() {
    let mut cluster = asked(Role::Primary, Init::None);
    ours(&mut cluster).spec.max_standbys = 2;
    ours(&mut cluster).spec.followers = Some(vec!["bb".into(), "cc".into()]);
    let mut seen = here(DataKind::Primary);
    seen.slots_on_disk = ["foreign".to_owned(), "other".to_owned(), "stolon_bb".to_owned()].into();
    let config = plan(&goal(&cluster), &seen).steps.into_iter().find_map(|step| match step {
        Step::Configure { config, .. } => Some(config),
        _ => None,
    });
    assert_eq!(config.unwrap().parameters["max_replication_slots"], "4");
}

#[test]
fn a_new_cluster_captures_its_parameters_when_they_are_to_be_merged() {
    let mut cluster = asked(Role::Primary, Init::New);
    ours(&mut cluster).spec.include_previous_config = true;
    assert!(planned(&cluster, &nothing()).contains("start ready capture roles stop finish"));
}

#[test]
fn what_is_half_made_is_made_from_nothing() {
    for (mode, expected) in
        [(Init::New, NEW), (Init::PointInTimeRecovery, "stop mark wipe restore again"), (Init::Resync, COPY)]
    {
        let role = if mode == Init::Resync { Role::Standby } else { Role::Primary };
        let cluster = asked(role, mode);
        let mut seen = here(DataKind::Primary);
        seen.local.initializing = true;
        assert_eq!(planned(&cluster, &seen), expected);
    }
    let mut seen = here(DataKind::Primary);
    seen.local.initializing = true;
    assert_eq!(
        planned(&asked(Role::Primary, Init::None), &seen),
        "stop trouble",
        "nothing says that it may be wiped, nor that it may run"
    );
    assert_eq!(planned(&asked(Role::Primary, Init::Existing), &seen), "stop trouble");
}

#[test]
fn data_of_the_same_system_is_rewound_when_rewinding_is_on() {
    let rewinding = || {
        let mut cluster = asked(Role::Standby, Init::Resync);
        ours(&mut cluster).spec.use_pg_rewind = true;
        cluster
    };
    let old = || {
        let mut seen = here(DataKind::Primary);
        seen.local.uid = "old".into();
        seen
    };
    assert_eq!(planned(&rewinding(), &old()), "stop examine mark rewind again");

    let mut other_system = rewinding();
    other_system.instances.get_mut(&"pp".into()).unwrap().status.system_identifier = "another".into();
    assert_eq!(planned(&other_system, &old()), COPY);

    let mut no_primary = rewinding();
    no_primary.cluster.status.primary = None;
    assert_eq!(planned(&no_primary, &old()), COPY);

    let trust = Identity { rewind_credentials: RewindCredentials::Absent, ..identity() };
    let cluster = rewinding();
    let goal = Goal::of(&cluster.try_into().unwrap(), &trust);
    assert_eq!(words(&plan(&goal, &old())), COPY);
}

#[test]
fn md5_is_answered_where_the_source_stores_nothing_better() {
    let answered = |stores_md5: bool| {
        let mut cluster = asked(Role::Standby, Init::Resync);
        cluster.instances.get_mut(&"pp".into()).unwrap().status.stores_md5 = stores_md5;
        let goal = Goal::of(&cluster.try_into().unwrap(), &identity());
        let steps = plan(&goal, &nothing()).steps;
        let passwords = steps.iter().find_map(|step| match step {
            Step::BaseBackup { upstream, .. } => Some(upstream.passwords),
            _ => None,
        });
        passwords.expect("a copy")
    };
    assert_eq!(answered(false), PasswordProtocol::Scram);
    assert_eq!(answered(true), PasswordProtocol::ScramOrMd5);
}

#[test]
fn a_copy_is_not_begun_before_its_source_is_known() {
    let mut cluster = asked(Role::Standby, Init::Resync);
    cluster.instances.get_mut(&"pp".into()).unwrap().status.listen_address.clear();
    assert_eq!(planned(&cluster, &nothing()), "stop trouble");
    cluster.instances.remove(&"pp".into());
    assert_eq!(planned(&cluster, &nothing()), "stop trouble");
}

#[test]
fn a_primary_that_is_stopped_is_started_and_locked_when_synchronous() {
    let mut cluster = asked(Role::Primary, Init::None);
    let seen = here(DataKind::Primary);
    assert_eq!(planned(&cluster, &seen), "configure:primary start ready again");
    ours(&mut cluster).spec.synchronous_replication = true;
    ours(&mut cluster).spec.synchronous_standbys = Some(vec!["bb".into()]);
    assert_eq!(planned(&cluster, &seen), "gate configure:primary start ready again");
    let standby = here(DataKind::Standby);
    assert_eq!(planned(&cluster, &standby), "gate configure:primary start ready again");
}

#[test]
fn a_primary_that_runs_gets_its_slots_and_reaches_its_generation() {
    let mut cluster = asked(Role::Primary, Init::None);
    let seen = running(DataKind::Primary, &goal(&cluster));
    assert_eq!(planned(&cluster, &seen), "slots commit:3");
    ours(&mut cluster).spec.followers = Some(vec!["bb".into(), "us".into()]);
    ours(&mut cluster).spec.additional_replication_slots = Some(vec!["extra".into()]);
    assert_eq!(planned(&cluster, &seen), "slots:stolon_bb,stolon_extra commit:3");
    ours(&mut cluster).spec.pg_parameters =
        Some(Arc::new([("work_mem".to_owned(), "8MB".to_owned())].into()));
    assert_eq!(planned(&cluster, &seen), "slots:stolon_bb,stolon_extra configure:primary reload commit:3");
}

#[test]
fn a_server_that_does_not_answer_is_waited_for() {
    let cluster = asked(Role::Primary, Init::None);
    let mut seen = running(DataKind::Primary, &goal(&cluster));
    seen.server = Server::Running(None);
    assert_eq!(planned(&cluster, &seen), "ready again");
}

#[test]
fn data_that_is_gone_is_never_made_again_by_itself() {
    for role in [Role::Primary, Role::Standby] {
        for data in
            [Data::Absent, Data::Incomplete { missing: vec!["base".into()] }, Data::Unreadable("x".into())]
        {
            let cluster = asked(role.clone(), Init::None);
            let seen = Observation { data, ..here(DataKind::Primary) };
            assert_eq!(planned(&cluster, &seen), "trouble");
        }
    }
}

#[test]
fn data_of_another_major_is_not_started() {
    let cluster = asked(Role::Primary, Init::None);
    let data = Data::Present(Present {
        version: Version { major: 14, minor: 0 },
        kind: DataKind::Primary,
        system_identifier: SYSTEM.into(),
    });
    let seen = Observation { data, ..here(DataKind::Primary) };
    let plan = plan(&goal(&cluster), &seen);
    assert_eq!(words(&plan), "trouble");
    let sentence = plan.trouble.unwrap().to_string();
    assert!(
        sentence.starts_with("the data is of PostgreSQL 14, the binaries are of PostgreSQL 15"),
        "{sentence}"
    );
}

#[test]
fn a_standby_is_started_and_followed_up() {
    let cluster = asked(Role::Standby, Init::None);
    assert_eq!(planned(&cluster, &here(DataKind::Standby)), "configure:standby start commit:3 again");
    let seen = running(DataKind::Standby, &goal(&cluster));
    assert_eq!(planned(&cluster, &seen), "slots commit:3");
    assert_eq!(planned(&cluster, &here(DataKind::Primary)), "trouble", "a primary is never demoted in place");
    let primary =
        Observation { server: Server::Running(Some(live(DataKind::Primary))), ..here(DataKind::Primary) };
    assert_eq!(planned(&cluster, &primary), "trouble");
}

#[test]
fn a_new_upstream_is_followed_with_a_reload_where_postgresql_can() {
    let mut cluster = asked(Role::Standby, Init::None);
    let mut seen = running(DataKind::Standby, &goal(&cluster));
    cluster.instances.get_mut(&"pp".into()).unwrap().status.port = "5433".into();
    assert_eq!(planned(&cluster, &seen), "configure:standby reload slots commit:3");
    seen.version = Version { major: 12, minor: 9 };
    seen.data = Data::Present(Present {
        version: seen.version,
        kind: DataKind::Standby,
        system_identifier: SYSTEM.into(),
    });
    assert_eq!(planned(&cluster, &seen), "stop configure:standby start commit:3 again");
}

#[test]
fn a_standby_that_does_not_come_up_is_restarted_to_follow_another() {
    let mut cluster = asked(Role::Standby, Init::None);
    let mut seen = running(DataKind::Standby, &goal(&cluster));
    seen.server = Server::Running(None);
    assert_eq!(planned(&cluster, &seen), "commit:3");
    cluster.instances.get_mut(&"pp".into()).unwrap().status.port = "5433".into();
    assert_eq!(planned(&cluster, &seen), "stop configure:standby start commit:3 again");
}

#[test]
fn a_standby_whose_upstream_is_gone_keeps_streaming() {
    let mut cluster = asked(Role::Standby, Init::None);
    let seen = running(DataKind::Standby, &goal(&cluster));
    cluster.instances.remove(&"pp".into());
    assert_eq!(planned(&cluster, &seen), "trouble");
}

#[test]
fn whom_a_standby_streams_from_is_known_unless_it_lives_on_an_archive() {
    let mut cluster = asked(Role::Standby, Init::None);
    ours(&mut cluster).spec.follow_config = Some(external());
    assert_eq!(goal(&cluster).upstream_in_words(), None, "an archive alone");
    let mut follow = external();
    let mut settings = StandbySettings::default();
    settings.primary_conninfo = "host=outside password=secret".into();
    follow.standby_settings = Some(settings);
    ours(&mut cluster).spec.follow_config = Some(follow);
    let words = goal(&cluster).upstream_in_words().unwrap();
    assert!(words.contains("primaryConninfo") && !words.contains("secret"), "{words}");
}

#[test]
fn archive_settings_are_there_at_the_first_start() {
    let mut cluster = asked(Role::Standby, Init::None);
    let mut follow = external();
    follow.archive_recovery_settings =
        Some(ArchiveRecoverySettings { restore_command: "fetch %f %p".into() });
    ours(&mut cluster).spec.follow_config = Some(follow);
    let plan = plan(&goal(&cluster), &here(DataKind::Standby));
    let Some(Step::Configure { config, .. }) =
        plan.steps.iter().find(|step| matches!(step, Step::Configure { .. }))
    else {
        panic!("{plan:?}")
    };
    assert_eq!(config.recovery.parameters.get("restore_command").map(String::as_str), Some("fetch %f %p"));
}

#[test]
fn data_that_were_written_for_logical_decoding_are_not_written_with_less() {
    let wal_level = |mode: Init, written: WalLevel, parameters: &[(&str, &str)]| {
        let mut cluster = asked(Role::Primary, mode.clone());
        let parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ours(&mut cluster).spec.pg_parameters = Some(Arc::new(parameters));
        let mut seen = Observation { data: present(DataKind::Primary), wal_level: written, ..nothing() };
        if mode == Init::PointInTimeRecovery {
            seen.local = LocalState { uid: "us".into(), initializing: true, ..LocalState::default() };
            seen.attempt = Attempt { instance: "us".into(), stage: Stage::Restored, ..Attempt::default() };
        }
        let plan = plan(&goal(&cluster), &seen);
        let found = plan.steps.iter().find_map(|step| match step {
            Step::Configure { config, .. } => Some(config.parameters["wal_level"].clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{plan:?}"))
    };
    for mode in [Init::Existing, Init::PointInTimeRecovery] {
        assert_eq!(wal_level(mode.clone(), WalLevel::Logical, &[]), "logical");
        assert_eq!(wal_level(mode.clone(), WalLevel::Replica, &[]), "replica");
        assert_eq!(wal_level(mode.clone(), WalLevel::Logical, &[("WAL_LEVEL", "replica")]), "replica");
        assert_eq!(wal_level(mode, WalLevel::Replica, &[("wal_level", "logical")]), "logical");
    }
    assert_eq!(wal_level(Init::New, WalLevel::Logical, &[]), "replica", "of data that are deleted");
}

#[test]
fn a_line_of_pg_hba_that_postgresql_refuses_is_left_out_and_shown() {
    let mut cluster = asked(Role::Primary, Init::None);
    ours(&mut cluster).spec.pg_hba =
        Some(Arc::new(vec!["host all all nowhere".into(), "host all all all md5".into()]));
    let mut seen = here(DataKind::Primary);
    seen.refused_hba.insert("host all all nowhere".into(), "end-of-line".into());
    let plan = plan(&goal(&cluster), &seen);
    let config = plan.steps.iter().find_map(|step| match step {
        Step::Configure { config, .. } => Some(config),
        _ => None,
    });
    assert_eq!(config.unwrap().hba.len(), 8);
    let problem = "the line \"host all all nowhere\" of pgHBA is left out: end-of-line";
    assert_eq!(plan.parameter_problems, [problem]);
}

#[test]
fn restarts_wait_for_the_operator_or_happen_in_order() {
    let mut cluster = asked(Role::Primary, Init::None);
    let pending = |names: &[&str], cluster: &stolon_model::ClusterData| {
        let mut seen = running(DataKind::Primary, &goal(cluster));
        let mut answer = live(DataKind::Primary);
        answer.pending_restart = names.iter().map(|&name| name.to_owned()).collect();
        seen.server = Server::Running(Some(answer));
        seen
    };
    const RESTART: &str = "slots:stolon_pp stop configure:primary start ready again";
    ours(&mut cluster).spec.followers = Some(vec!["pp".into()]);
    let manual = plan(&goal(&cluster), &pending(&["max_connections"], &cluster));
    assert_eq!(words(&manual), "slots:stolon_pp commit:3");
    assert_eq!(manual.restart, PendingRestart::Yes);

    cluster.cluster.spec.automatic_pg_restart = Some(true);
    assert_eq!(planned(&cluster, &pending(&["max_connections"], &cluster)), RESTART);
    cluster.cluster.pause = Some(stolon_model::Pause::default());
    assert_eq!(
        planned(&cluster, &pending(&["max_connections"], &cluster)),
        "slots:stolon_pp commit:3",
        "not while the cluster is paused"
    );
    cluster.cluster.pause = None;

    cluster.cluster.spec.automatic_pg_restart = Some(false);
    let asked = FailRequest {
        kind: Some(RequestKind::Restart),
        instance: "us".into(),
        started: Some(Timestamp::ZERO),
        ..FailRequest::default()
    };
    let ask = |cluster: &mut stolon_model::ClusterData, request: FailRequest| {
        let keeper = cluster.keepers.get_mut(&"k1".into()).unwrap();
        keeper.status.fail_request = Some(request);
        planned(cluster, &pending(&[], cluster))
    };
    const NOTHING: &str = "slots:stolon_pp commit:3";
    assert_eq!(ask(&mut cluster, asked.clone()), RESTART, "the operator asks for it");
    let ended = FailRequest { started: Some("2026-01-02T03:04:05Z".parse().unwrap()), ..asked.clone() };
    assert_eq!(ask(&mut cluster, ended), NOTHING, "that server ended long ago");
    let over = FailRequest { outcome: Some(FailOutcome::Lapsed), ..asked.clone() };
    assert_eq!(ask(&mut cluster, over), NOTHING, "it is over");
    let of_another = FailRequest { instance: "pp".into(), ..asked };
    assert_eq!(ask(&mut cluster, of_another), NOTHING, "made for another db");
    cluster.cluster.spec.automatic_pg_restart = Some(true);
    assert_eq!(
        planned(&cluster, &pending(&["recovery_target_timeline"], &cluster)),
        "slots:stolon_pp commit:3"
    );

    let follower = cluster.instances.get_mut(&"pp".into()).unwrap();
    follower.status.healthy = true;
    follower.status.current_generation = 2;
    let mut seen = pending(&["shared_buffers"], &cluster);
    assert_eq!(planned(&cluster, &seen), "slots:stolon_pp commit:3", "the standby restarts first");
    seen.restart_patience = Patience::Spent;
    assert_eq!(planned(&cluster, &seen), RESTART);
    let mut limits = pending(&["shared_buffers", "max_connections"], &cluster);
    limits.restart_patience = Patience::Spent;
    assert_eq!(
        planned(&cluster, &limits),
        "slots:stolon_pp commit:3",
        "a limit waits for it, however long it takes"
    );
    cluster.instances.get_mut(&"pp".into()).unwrap().status.healthy = false;
    assert_eq!(planned(&cluster, &limits), RESTART, "one that is down comes back with the new limit");
    cluster.instances.get_mut(&"pp".into()).unwrap().status.healthy = true;

    ours(&mut cluster).spec.synchronous_replication = true;
    ours(&mut cluster).spec.synchronous_standbys = Some(Vec::new());
    let mut seen = pending(&["shared_buffers"], &cluster);
    seen.gate = Gate::Open;
    seen.restart_patience = Patience::Spent;
    assert_eq!(
        planned(&cluster, &seen),
        "slots:stolon_pp configure:primary reload stop gate configure:primary start ready again"
    );
}

/// What a reload leaves waiting for a restart is seen only afterwards. A standby that said before that it has reached its generation
/// would have the primary raise its limits at once.
#[test]
fn no_generation_is_reached_before_it_is_known_whether_a_restart_follows() {
    for role in [Role::Primary, Role::Standby] {
        let mut cluster = asked(role.clone(), Init::None);
        let kind = if role == Role::Primary { DataKind::Primary } else { DataKind::Standby };
        let seen = running(kind, &goal(&cluster));
        let mut changed = |name: &str, automatic: bool| {
            cluster.cluster.spec.automatic_pg_restart = Some(automatic);
            ours(&mut cluster).spec.pg_parameters =
                Some(Arc::new([(name.to_owned(), "150".to_owned())].into()));
            let words = planned(&cluster, &seen);
            words.rsplit(' ').next().map(str::to_owned)
        };
        assert_eq!(changed("max_connections", true).as_deref(), Some("again"), "{role:?}");
        assert_eq!(changed("an.extension", true).as_deref(), Some("again"), "{role:?}");
        assert_eq!(changed("work_mem", true).as_deref(), Some("commit:3"), "{role:?}");
        assert_eq!(changed("max_connections", false).as_deref(), Some("commit:3"), "{role:?}");
    }
}

#[test]
fn odd_cluster_data_is_left_alone() {
    let odd = |change: fn(&mut stolon_model::ClusterData)| {
        let mut cluster = asked(Role::Standby, Init::Resync);
        change(&mut cluster);
        matches!(goal(&cluster), Goal::LeaveAlone(LeaveAlone::Impossible(_)))
    };
    assert!(odd(|cluster| ours(cluster).spec.role = None));
    assert!(odd(|cluster| ours(cluster).spec.role = Some("witness".into())));
    assert!(odd(|cluster| ours(cluster).spec.follow_config = None));
    assert!(odd(|cluster| ours(cluster).spec.follow_config = Some(FollowConfig::default())));
}

/// How an instance is made only matters where it has to be made. A standby that is elected before the sentinel has seen it
/// ready keeps `resync`, but follows nobody any more.
#[test]
fn an_instance_that_is_here_need_not_be_made() {
    let changes: [fn(&mut stolon_model::Instance); 3] = [
        |us| us.spec.init_mode = Some(Init::Resync),
        |us| us.spec.init_mode = Some("magic".into()),
        |us| us.spec.init_mode = Some(Init::PointInTimeRecovery),
    ];
    for change in changes {
        let mut cluster = asked(Role::Primary, Init::None);
        let standby = running(DataKind::Standby, &goal(&asked(Role::Standby, Init::None)));
        change(ours(&mut cluster));
        assert_eq!(planned(&cluster, &standby), "promote again");
        let mut other = standby;
        other.local.uid = "old".into();
        assert_eq!(planned(&cluster, &other), "trouble", "nothing says how to make it");
    }
}

#[test]
fn impossible_recoveries_are_refused_before_anything_is_deleted() {
    let mut cluster = asked(Role::Primary, Init::PointInTimeRecovery);
    let target = |time: &str, xid: &str| RecoveryTargetSettings {
        recovery_target_time: time.into(),
        recovery_target_xid: xid.into(),
        ..RecoveryTargetSettings::default()
    };
    let seen = here(DataKind::Primary);
    for (settings, archive, expected) in [
        (Some(target("2026-01-01", "")), None, "trouble"),
        (Some(target("2026-01-01", "")), Some("fetch"), "commit:3"),
        (Some(target("2026-01-01", "7")), Some("fetch"), "trouble"),
        (None, None, "ok"),
    ] {
        let pitr = ours(&mut cluster).spec.pitr_config.as_mut().unwrap();
        pitr.recovery_target_settings = settings;
        pitr.archive_recovery_settings =
            archive.map(|command: &str| ArchiveRecoverySettings { restore_command: command.into() });
        let mut seen = seen.clone();
        seen.local.uid = "old".into();
        let words = planned(&cluster, &seen);
        match expected {
            "trouble" => assert_eq!(words, "stop trouble"),
            _ => assert_eq!(words, "stop mark wipe restore again"),
        }
    }
}
