use super::*;

const V15: Version = Version { major: 15, minor: 4 };

fn map(pairs: &[(&str, &str)]) -> Parameters {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn goal(user: &[(&str, &str)]) -> ParameterGoal {
    ParameterGoal {
        user: map(user),
        include_captured: false,
        listen_address: "127.0.0.1".into(),
        port: "5432".into(),
        max_standbys: 20,
        additional_wal_senders: 5,
        slot_wal_bound: SlotWalBound::default(),
        use_pg_rewind: false,
        slot_sync: SlotSync::Off,
        synchronous_names: Vec::new(),
        synchronous_quorum: None,
        sync_after_crash: SyncAfterCrash::EachFile,
    }
}

struct Facts {
    version: Version,
    captured: Option<Parameters>,
    demands: Option<Demands>,
    refusals: Refusals,
    room: Option<u64>,
}

fn facts() -> Facts {
    Facts { version: V15, captured: None, demands: None, refusals: Refusals::new(), room: None }
}

fn wanted(goal: &ParameterGoal, facts: &Facts) -> WantedParameters {
    let Facts { version, captured, demands, refusals, room } = facts;
    let facts = ParameterFacts {
        version: *version,
        captured: captured.as_ref(),
        demands: demands.as_ref(),
        refusals,
        slots: 0,
        room_for_slots: *room,
    };
    wanted_parameters(goal, facts)
}

fn value(wanted: &WantedParameters, name: &str) -> Option<String> {
    wanted.parameters.get(name).cloned()
}

#[test]
fn managed_parameters_win() {
    let wanted = wanted(
        &goal(&[
            ("Port", "1"),
            ("hot_standby", "off"),
            ("max_wal_senders", "3"),
            ("unix_socket_directories", "/srv"),
            ("work_mem", "8MB"),
        ]),
        &facts(),
    );
    let expected = map(&[
        ("hot_standby", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("max_replication_slots", "20"),
        ("max_wal_senders", "47"),
        ("port", "5432"),
        ("synchronous_standby_names", ""),
        ("wal_keep_size", "128"),
        ("wal_level", "replica"),
        ("wal_retrieve_retry_interval", "200ms"),
        ("work_mem", "8MB"),
    ]);
    assert_eq!(wanted.parameters, expected);
}

#[test]
fn wal_level_may_only_be_raised_to_logical() {
    for (asked, version, expected) in [
        ("logical", V15, "logical"),
        ("minimal", V15, "replica"),
        ("archive", Version { major: 9, minor: 5 }, "hot_standby"),
        ("replica", Version { major: 9, minor: 6 }, "replica"),
    ] {
        let facts = Facts { version, ..facts() };
        assert_eq!(
            value(&wanted(&goal(&[("wal_level", asked)]), &facts), "wal_level").as_deref(),
            Some(expected)
        );
    }
}

#[test]
fn alter_system_is_off_where_that_can_be_said() {
    for (major, expected) in [(16, None), (17, Some("off"))] {
        let facts = Facts { version: Version { major, minor: 0 }, ..facts() };
        let wanted = wanted(&goal(&[("allow_alter_system", "on")]), &facts);
        assert_eq!(value(&wanted, "allow_alter_system").as_deref(), expected, "{major}");
    }
}

#[test]
fn wal_is_kept_in_the_unit_of_the_version() {
    let v12 = || Facts { version: Version { major: 12, minor: 1 }, ..facts() };
    for (facts, user, name, expected) in [
        (facts(), ("wal_keep_size", "1GB"), "wal_keep_size", Some("1GB")),
        (facts(), ("wal_keep_segments", "20"), "wal_keep_size", Some("320MB")),
        (facts(), ("wal_keep_segments", "20"), "wal_keep_segments", None),
        (v12(), ("wal_keep_segments", "20"), "wal_keep_segments", Some("20")),
        (v12(), ("wal_keep_segments", "3"), "wal_keep_segments", Some("8")),
        (v12(), ("work_mem", "8MB"), "wal_keep_segments", Some("8")),
        (v12(), ("work_mem", "8MB"), "wal_keep_size", None),
    ] {
        assert_eq!(value(&wanted(&goal(&[user]), &facts), name).as_deref(), expected, "{user:?}");
    }
}

#[test]
fn large_numbers_of_standbys_do_not_wrap() {
    let goal = ParameterGoal { max_standbys: u16::MAX, additional_wal_senders: u16::MAX, ..goal(&[]) };
    assert_eq!(value(&wanted(&goal, &facts()), "max_wal_senders").as_deref(), Some("196607"));
}

#[test]
fn commits_wait_for_all_named_standbys() {
    let uids: Vec<InstanceUid> = ["a", "b"].map(InstanceUid::from).into();
    for (standbys, external, expected) in [
        (&uids[..0], &[][..], ""),
        (&uids[..1], &[], "stolon_a"),
        (&uids[..], &[], "2 (stolon_a,stolon_b)"),
        (&uids[..1], &["stolonfakestandby".to_owned()], "2 (stolon_a,stolonfakestandby)"),
        (&uids[..0], &["stolonfakestandby".to_owned()], "stolonfakestandby"),
    ] {
        let names = synchronous_names(standbys, external);
        let text = synchronous_standby_names(&names, None);
        assert_eq!(text, expected);
        assert_eq!(instances_of(&names), standbys);
    }
}

#[test]
fn who_asked_for_less_than_the_copied_cluster_demands_is_told() {
    let demands = Demands { max_connections: 300, max_wal_senders: 90, ..Demands::default() };
    let facts = Facts { demands: Some(demands), ..facts() };
    let told = |user: &[(&str, &str)]| {
        wanted(&goal(user), &facts).problems.into_iter().map(|problem| problem.sentence).collect::<Vec<_>>()
    };
    assert!(told(&[]).is_empty(), "nobody asked for anything");
    assert!(told(&[("max_connections", "400")]).is_empty(), "it is enough");
    assert_eq!(
        told(&[("max_connections", "50")]),
        [
            "max_connections is 300 instead of 50 as long as this PostgreSQL recovers data that were written with 300"
        ]
    );
}

#[test]
fn limits_are_raised_to_what_the_copied_cluster_demands_and_never_lowered() {
    let demands = Demands {
        max_connections: 300,
        max_worker_processes: 4,
        max_wal_senders: 60,
        max_prepared_transactions: 100,
        max_locks_per_transaction: 64,
        track_commit_timestamp: true,
        ..Demands::default()
    };
    let facts = Facts { demands: Some(demands), ..facts() };
    let wanted =
        wanted(&goal(&[("max_prepared_transactions", "200"), ("max_worker_processes", "2")]), &facts);
    for (name, expected) in [
        ("max_connections", Some("300")),
        ("max_worker_processes", Some("4")),
        ("max_wal_senders", Some("60")),
        ("max_prepared_transactions", Some("200")),
        ("max_locks_per_transaction", None),
        ("track_commit_timestamp", Some("on")),
    ] {
        assert_eq!(value(&wanted, name).as_deref(), expected, "{name}");
    }
}

#[test]
fn what_was_left_out_is_reported_as_asked_for() {
    let map = |pairs: &[(&str, &str)]| -> Parameters {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let asked = map(&[("Max_Connections", "7"), ("max_conections", "500"), ("port", "1"), ("hba_file", "x")]);
    let found = with_what_was_left_out(map(&[("max_connections", "300")]), &asked);
    assert_eq!(found, map(&[("max_conections", "500"), ("max_connections", "300")]));
}

#[test]
fn a_synchronous_primary_does_not_reopen_by_itself_after_a_crash() {
    let name = "restart_after_crash";
    assert_eq!(value(&wanted(&goal(&[]), &facts()), name), None);
    let synchronous = |user: &[(&str, &str)]| {
        let goal = ParameterGoal { synchronous_names: vec!["stolon_a".into()], ..goal(user) };
        value(&wanted(&goal, &facts()), name).expect("it is set")
    };
    assert_eq!(synchronous(&[]), "off");
    assert_eq!(synchronous(&[(name, "on")]), "on");
    let reported = reported_parameters(&map(&[(name, "off")]), |_| false);
    assert!(reported.is_empty(), "it must not find its way into the specification");
}

#[test]
fn a_server_that_crashed_syncs_whole_file_systems_where_failures_show() {
    use SyncAfterCrash::{EachFile, FileSystems};
    let name = "recovery_init_sync_method";
    for (sync_after_crash, major, user, expected) in [
        (FileSystems, 14, None, Some("syncfs")),
        (FileSystems, 14, Some("fsync"), Some("fsync")),
        (FileSystems, 13, None, None),
        (EachFile, 15, None, None),
        (EachFile, 15, Some("syncfs"), Some("syncfs")),
    ] {
        let user: Vec<_> = user.map(|value| (name, value)).into_iter().collect();
        let goal = ParameterGoal { sync_after_crash, ..goal(&user) };
        let facts = Facts { version: Version { major, minor: 0 }, ..facts() };
        assert_eq!(value(&wanted(&goal, &facts), name).as_deref(), expected, "{sync_after_crash:?} {major}");
    }
    let reported = reported_parameters(&map(&[(name, "syncfs")]), |_| false);
    assert!(reported.is_empty(), "the kernel of one machine is no wish of the operator's");
}

#[test]
fn captured_parameters_lose_what_is_managed_and_where_files_lie() {
    let captured = map(&[
        ("max_connections", "300"),
        ("restore_command", "cp"),
        ("hba_file", "/etc/postgresql/15/main/pg_hba.conf"),
        ("port", "5433"),
        ("work_mem", "1MB"),
    ]);
    let facts = Facts { captured: Some(captured), ..facts() };
    let goal = ParameterGoal { include_captured: true, ..goal(&[("Work_Mem", "2MB")]) };
    let wanted_with = wanted(&goal, &facts);
    assert_eq!(value(&wanted_with, "max_connections").as_deref(), Some("300"));
    assert_eq!(value(&wanted_with, "work_mem").as_deref(), Some("2MB"));
    assert_eq!(value(&wanted_with, "port").as_deref(), Some("5432"));
    assert_eq!(value(&wanted_with, "restore_command"), None);
    assert_eq!(value(&wanted_with, "hba_file"), None);
    assert_eq!(wanted_with.problems, []);
    let without = wanted(&ParameterGoal { include_captured: false, ..goal }, &facts);
    assert_eq!(value(&without, "max_connections"), None);
}

#[test]
fn what_the_server_refused_is_left_out_until_its_value_changes() {
    let refusal = |instead: Option<&str>| Refusal {
        ground: RefusalGround::Asked,
        value: "nonsense".into(),
        instead: instead.map(str::to_owned),
        sentence: "it will not".into(),
    };
    let refusals = |instead| Refusals::from([("shared_preload_libraries".to_owned(), refusal(instead))]);
    let asked = |value| goal(&[("shared_preload_libraries", value)]);
    let facts_with = |instead| Facts { refusals: refusals(instead), ..facts() };

    let left_out = wanted(&asked("nonsense"), &facts_with(None));
    assert_eq!(value(&left_out, "shared_preload_libraries"), None);
    assert_eq!(left_out.problems.len(), 1);
    let replaced = wanted(&asked("nonsense"), &facts_with(Some("")));
    assert_eq!(value(&replaced, "shared_preload_libraries").as_deref(), Some(""));
    let changed = wanted(&asked("auto_explain"), &facts_with(None));
    assert_eq!(value(&changed, "shared_preload_libraries").as_deref(), Some("auto_explain"));
    assert_eq!(changed.problems, []);
}

#[test]
fn settings_that_would_break_the_keepers_own_are_refused_with_a_sentence() {
    let wanted = wanted(&goal(&[("hba_file", "/x"), ("recovery_target_time", "now")]), &facts());
    assert_eq!(value(&wanted, "hba_file"), None);
    let names: Vec<_> = wanted.problems.iter().map(|problem| problem.name.as_str()).collect();
    assert_eq!(names, ["hba_file", "recovery_target_time"]);
}

#[test]
fn reports_leave_out_what_is_managed_and_our_own_default() {
    let configured = map(&[
        ("DateStyle", "iso"),
        ("Port", "1"),
        ("wal_level", "replica"),
        ("wal_retrieve_retry_interval", "200ms"),
        ("recovery_target_timeline", "latest"),
    ]);
    let names = |specified: bool| -> Vec<String> {
        reported_parameters(&configured, |_| specified).into_keys().collect()
    };
    assert_eq!(names(false), ["DateStyle", "wal_level"]);
    assert_eq!(names(true), ["DateStyle", "wal_level", "wal_retrieve_retry_interval"]);
}

/// Bytes of WAL that slots hold are bounded by PostgreSQL itself from version 13 on.
#[test]
fn slots_hold_what_there_is_room_for_unless_somebody_says_otherwise() {
    let v12 = Version { major: 12, minor: 3 };
    let explicit = [("Max_Slot_Wal_Keep_Size", "1GB")];
    for (version, bound, user, room, expected) in [
        (V15, SlotWalBound::FromFreeSpace, &[][..], Some(512), Some("512MB")),
        (V15, SlotWalBound::FromFreeSpace, &[], None, None),
        (V15, SlotWalBound::Megabytes(64), &[], Some(512), Some("64MB")),
        (V15, SlotWalBound::Unlimited, &[], Some(512), None),
        (V15, SlotWalBound::Megabytes(64), &explicit, Some(512), Some("1GB")),
        (v12, SlotWalBound::Megabytes(64), &[], Some(512), None),
    ] {
        let goal = ParameterGoal { slot_wal_bound: bound, ..goal(user) };
        let wanted = wanted(&goal, &Facts { version, room, ..facts() });
        let found = value(&wanted, "max_slot_wal_keep_size");
        assert_eq!(found.as_deref(), expected, "{version} {bound:?} {room:?}");
    }
}

#[test]
fn what_the_room_of_one_keeper_allows_never_becomes_the_specification() {
    let configured = map(&[("max_slot_wal_keep_size", "512MB"), ("work_mem", "8MB")]);
    assert_eq!(captured_parameters(&configured), map(&[("work_mem", "8MB")]));
}
