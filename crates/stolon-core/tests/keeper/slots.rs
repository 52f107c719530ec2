//! Replication slots: which ones a keeper lets go, and what it tells of them.

use stolon_core::keeper::*;
use stolon_core::postgres::Version;
use stolon_model::{ClusterData, InstanceInitMode as Init, Lsn, Role};

use crate::given::*;
use crate::world::{World, seconds};

const V12: Version = Version { major: 12, minor: 17 };
const MEGABYTE: u64 = 1 << 20;
const POSITION: Lsn = Lsn(1 << 30);

/// A slot that holds so many megabytes.
fn slot(name: &str, megabytes: u64) -> SlotRow {
    SlotRow {
        failover: Failover::No,
        name: name.into(),
        kind: SlotKind::Physical,
        active: false,
        restart_lsn: Some(Lsn(POSITION.0 - megabytes * MEGABYTE)),
        wal_status: None,
        safe_wal_size: None,
    }
}

/// A primary with two standbys and an additional slot.
fn primary(bound: &str) -> ClusterData {
    let mut cluster = asked(Role::Primary, Init::None);
    cluster.cluster.spec.max_slot_wal_keep_size = Some(bound.into());
    let spec = &mut cluster.instances.get_mut(&"us".into()).unwrap().spec;
    spec.followers = Some(vec!["bb".into(), "cc".into()]);
    spec.additional_replication_slots = Some(vec!["backup".into()]);
    cluster
}

#[test]
fn before_version_13_the_slot_of_a_dead_standby_that_holds_too_much_is_made_anew() {
    let bb = || slot("stolon_bb", 65);
    let logical = SlotRow { kind: SlotKind::Logical, ..bb() };
    let none_reserved = SlotRow { restart_lsn: None, ..bb() };
    let dropped = "drop:stolon_bb slots:stolon_backup,stolon_bb,stolon_cc commit:3";
    let kept = "slots:stolon_backup,stolon_bb,stolon_cc commit:3";
    for (version, bound, room, slot, expected) in [
        (V12, "64MB", None, bb(), dropped),
        (V12, "auto", Some(64), bb(), dropped),
        (V12, "auto", None, bb(), kept),
        (V12, "unlimited", Some(64), bb(), kept),
        (V12, "65MB", Some(1), bb(), kept),
        (V12, "64MB", None, SlotRow { active: true, ..bb() }, kept),
        (V12, "64MB", None, logical, kept),
        (V12, "64MB", None, none_reserved, kept),
        (V12, "64MB", None, slot("stolon_backup", 900), kept),
        (V12, "64MB", None, slot("stolon_gone", 900), kept),
        (V12, "64MB", None, slot("mine", 900), kept),
        (V15, "64MB", None, bb(), kept),
    ] {
        let cluster = primary(bound);
        let goal = goal(&cluster);
        let data =
            Data::Present(Present { version, kind: DataKind::Primary, system_identifier: SYSTEM.into() });
        let mut seen = Observation { version, data, room_for_slots: room, ..here(DataKind::Primary) };
        seen.applied = plan(&goal, &seen).steps.iter().find_map(|step| match step {
            Step::Configure { config, .. } => Some((**config).clone()),
            _ => None,
        });
        let live = Live { lsn: POSITION, slots: vec![slot.clone()], ..live(DataKind::Primary) };
        seen.server = Server::Running(Some(live));
        assert_eq!(words(&plan(&goal, &seen)), expected, "{version} {bound} {slot:?}");
    }
}

#[test]
fn what_is_let_go_is_said_once_with_what_it_held_and_what_is_there_is_reported() {
    let mut world = World::with(primary("64MB"), DataKind::Primary);
    world.postgres_mut().version = Ok(V12);
    world.postgres_mut().data =
        Data::Present(Present { version: V12, kind: DataKind::Primary, system_identifier: SYSTEM.into() });
    world.postgres_mut().lsn = POSITION.0;
    world.postgres_mut().slots = vec![slot("mine", 10)];
    world.run(seconds(10));
    world.postgres_mut().slots.push(slot("stolon_cc", 80));
    world.run(seconds(30));
    let said: Vec<&Saying> = world
        .sayings
        .iter()
        .filter(|it| matches!(it, Saying::SlotLetGo(..) | Saying::SlotDropped(_)))
        .collect();
    assert_eq!(said, [&Saying::SlotLetGo("stolon_cc".into(), 80 * MEGABYTE)]);
    let slots = world.reports.last().unwrap().activity.as_ref().unwrap().slots.clone().unwrap();
    let told: Vec<_> = slots.iter().map(|slot| (slot.name.as_str(), slot.held_bytes)).collect();
    assert_eq!(told, [("mine", Some(10 * MEGABYTE))]);
}

#[test]
fn the_room_on_the_disk_bounds_what_slots_hold_from_the_first_start_on() {
    let mut world = World::with(primary("auto"), DataKind::Primary);
    let with_room = |gigabytes: u64| {
        let uses = vec![DiskUse::Data, DiskUse::Wal];
        let file_system = FileSystem { uses, total: 1 << 40, free: gigabytes << 30 };
        Room { file_systems: vec![file_system], ..Room::default() }
    };
    world.postgres_mut().room = with_room(100);
    world.run(seconds(10));
    let bound = |world: &World| world.postgres().in_force("max_slot_wal_keep_size").map(str::to_owned);
    assert_eq!(bound(&world).as_deref(), Some("32768MB"));
    let reloads = |world: &World| world.steps_since(0).matches("reload").count();
    assert_eq!(reloads(&world), 0);
    world.postgres_mut().room = with_room(70);
    world.run(seconds(10));
    assert_eq!((bound(&world).as_deref(), reloads(&world)), (Some("32768MB"), 0), "it does not flutter");
    world.postgres_mut().room = with_room(20);
    world.run(seconds(10));
    assert_eq!((bound(&world).as_deref(), reloads(&world)), (Some("8192MB"), 1));
}

#[test]
fn a_standby_that_lacks_wal_is_copied_since_a_rewind_would_bring_it_nothing() {
    let mut cluster = asked(Role::Standby, Init::Resync);
    ours(&mut cluster).spec.use_pg_rewind = true;
    let old = LocalState { uid: "old".into(), generation: 9, ..LocalState::default() };
    for (position, oldest, expected) in [
        (Some(0x3FF_FFFF), "000000010000000000000004", "copy"),
        (Some(0x400_0000), "000000010000000000000004", "rewind"),
        (None, "000000010000000000000004", "rewind"),
        (Some(0x3FF_FFFF), "", "rewind"),
    ] {
        cluster.instances.get_mut(&"pp".into()).unwrap().status.older_wal_file = oldest.into();
        let seen = Observation {
            local: old.clone(),
            data: present(DataKind::Standby),
            position: position.map(Lsn),
            ..nothing()
        };
        let planned = words(&plan(&goal(&cluster), &seen));
        assert_eq!(planned, format!("stop examine mark {expected} again"), "{position:?} {oldest}");
    }
}

/// A standby has the slots of its primary's consumers, and goes along with them; never past them, nor past what it has.
#[test]
fn a_standby_copies_the_slots_of_consumers_and_never_goes_past_them() {
    const V10: Version = Version { major: 10, minor: 23 };
    let at = |megabytes: u64| Lsn(POSITION.0 - megabytes * MEGABYTE);
    let own = |megabytes| slot("stolon_backup", megabytes);
    let advance = |to: Lsn| format!("slots:stolon_backup advance:stolon_backup={to}");
    let kept = || "slots:stolon_backup".to_owned();
    let cases: [(&str, Version, Option<Lsn>, Vec<SlotRow>, String); 13] = [
        ("it is made", V15, Some(at(3)), vec![], kept()),
        ("it goes along", V15, Some(at(3)), vec![own(5)], advance(at(3))),
        ("on 12, too", V12, Some(at(3)), vec![own(5)], advance(at(3))),
        ("it is there already", V15, Some(at(3)), vec![own(3)], kept()),
        ("what is older than ours changes nothing", V15, Some(at(9)), vec![own(3)], kept()),
        ("never past what is here", V15, Some(Lsn(POSITION.0 + 7)), vec![own(5)], advance(POSITION)),
        ("somebody streams from it", V15, Some(at(3)), vec![SlotRow { active: true, ..own(5) }], kept()),
        ("its WAL is gone", V15, Some(at(3)), vec![SlotRow { restart_lsn: None, ..own(5) }], kept()),
        ("a logical one", V15, Some(at(3)), vec![SlotRow { kind: SlotKind::Logical, ..own(5) }], kept()),
        ("nobody tells where its consumer is", V15, None, vec![], "slots".to_owned()),
        ("nobody tells any more", V15, None, vec![own(5)], kept()),
        ("PostgreSQL cannot advance it", V10, Some(at(3)), vec![own(5)], "slots".to_owned()),
        ("another one's", V15, Some(at(3)), vec![slot("stolon_other", 5), own(3)], kept()),
    ];
    for (case, version, position, slots, expected) in cases {
        let mut cluster = asked(Role::Standby, Init::None);
        cluster.cluster.spec.max_slot_wal_keep_size = Some("64MB".into());
        cluster.cluster.spec.additional_primary_replication_slots = Some(vec!["backup".into()]);
        let positions = position.map(|position| [("stolon_backup".to_owned(), position)].into());
        cluster.instances.get_mut(&"pp".into()).unwrap().status.slot_positions = positions;
        let data =
            Data::Present(Present { version, kind: DataKind::Standby, system_identifier: SYSTEM.into() });
        let live = Live { lsn: POSITION, slots, ..live(DataKind::Standby) };
        let seen =
            Observation { version, data, server: Server::Running(Some(live)), ..here(DataKind::Standby) };
        let planned = words(&plan(&goal(&cluster), &seen));
        let about_slots =
            planned.split(' ').filter(|word| ["slots", "advance"].contains(&word.split(':').next().unwrap()));
        assert_eq!(about_slots.collect::<Vec<_>>().join(" "), expected, "{case}: {planned}");
    }
}

/// A primary tells up to where its consumers are; of its standbys, whose slots are theirs, nothing.
#[test]
fn a_primary_tells_where_its_consumers_are() {
    let mut world = World::with(primary("64MB"), DataKind::Primary);
    world.postgres_mut().lsn = POSITION.0;
    world.postgres_mut().slots =
        vec![slot("stolon_backup", 10), slot("stolon_bb", 20), slot("mine", 30), slot("stolon_gone", 40)];
    world.run(seconds(20));
    let told = world.report().postgres_state.clone().unwrap().slot_positions;
    assert_eq!(told, Some([("stolon_backup".to_owned(), Lsn(POSITION.0 - 10 * MEGABYTE))].into()));
}
