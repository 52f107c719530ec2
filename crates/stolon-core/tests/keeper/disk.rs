//! The whole keeper on a disk that is full, broken or hangs.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::*;
use stolon_fake::LOOK;
use stolon_model::{ClusterData, DiskFault, InstanceInitMode as Init, Role};

use crate::given::*;
use crate::world::{World, seconds, serving};

#[test]
fn a_generation_is_reached_although_it_cannot_be_written_down() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.disk_fails = Some((StateFileKind::Instance, "cannot write dbstate: read-only file system"));
    world.run(seconds(20));
    assert_eq!(world.reported(), (true, 3));
    assert!(world.problem().contains("read-only"), "{}", world.problem());
    world.disk_fails = None;
    world.run(seconds(20));
    assert_eq!(world.problem(), "");
    let reached = |file: &StateFile| matches!(file, StateFile::Instance(state) if state.generation == 3);
    assert!(world.files.iter().any(reached), "written down later: {:?}", world.files);
}

#[test]
fn data_are_not_touched_before_it_is_written_down_that_they_are_half_made() {
    let local = complete("old");
    let cluster = asked(Role::Primary, Init::New);
    let mut world = World::new(cluster, local, present(DataKind::Primary));
    world.disk_fails = Some((StateFileKind::Instance, "full"));
    world.run(seconds(60));
    assert!(!world.steps_since(0).contains("wipe"), "{:?}", world.log);
    assert!(world.problem().contains("full"));
}

#[test]
fn that_data_are_half_made_is_taken_back_where_nobody_wants_it_any_more() {
    let local = complete("us");
    let mut world = World::new(asked(Role::Standby, Init::None), local.clone(), present(DataKind::Standby));
    world.run(seconds(10));
    assert_eq!(world.reported(), (true, 3));
    // Another instance is assigned, and the write that it begins with fails, or does not end.
    let before = world.cluster.clone();
    let another = |cluster: &mut ClusterData| {
        add(cluster, "new", "k1", Role::Standby, Init::Resync);
        cluster.instances.remove(&"us".into());
        let new = cluster.instances.get_mut(&"new".into()).unwrap();
        new.spec.follow_config = Some(stolon_model::FollowConfig::internal("pp".into()));
    };
    (world.disk_fails, world.failed_writes_arrive) = (Some((StateFileKind::Instance, "I/O error")), true);
    world.change(another);
    world.run(seconds(1));
    assert!(world.dbstate().initializing, "{:?}", world.files);
    world.disk_fails = None;
    world.change(|cluster| *cluster = before.clone());
    world.run(seconds(20));
    let whole = LocalState { generation: 3, ..local };
    assert_eq!(world.dbstate(), whole, "{:?}", world.files);
    assert_eq!((world.reported(), world.problem()), ((true, 3), String::new()));

    world.disk_hangs = Some(StateFileKind::Instance);
    world.change(another);
    world.run(seconds(30));
    assert!(world.problem().contains("hangs"), "{}", world.problem());
    assert!(!world.steps_since(0).contains("wipe"), "{:?}", world.log);
    world.change(|cluster| *cluster = before);
    world.run(seconds(1));
    world.disk_works();
    world.run(seconds(20));
    assert_eq!(world.dbstate(), whole, "{:?}", world.files);
    assert_eq!((world.reported(), world.problem()), ((true, 3), String::new()));
}

#[test]
fn a_disk_that_hangs_keeps_nobody_from_the_generation_and_is_reported() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.disk_hangs = Some(StateFileKind::Instance);
    world.run(seconds(20));
    assert_eq!(world.reported(), (true, 3), "{:?}", world.log);
    let activity = world.report().activity.clone().unwrap();
    assert_eq!(activity.hindrance, Some(stolon_model::Hindrance::StateFile));
    assert!(world.problem().contains("hangs"), "{}", world.problem());
    // And again, behind the first write.
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(20));
    assert_eq!(world.reported(), (true, 4), "{:?}", world.log);
    world.disk_works();
    world.run(seconds(20));
    assert_eq!((world.problem(), world.dbstate().generation), (String::new(), 4));
    assert_eq!(world.report().activity.as_ref().and_then(|activity| activity.hindrance.clone()), None);
}

#[test]
fn a_disk_that_is_full_here_makes_room_and_one_at_the_source_does_not() {
    for (kind, old_data) in [
        (FailureKind::DiskFullHere, OldData::DeleteFirst),
        (FailureKind::DiskFullAtSource, OldData::KeepUntilCopied),
    ] {
        let local = complete("old");
        let mut world = World::new(asked(Role::Standby, Init::Resync), local, present(DataKind::Primary));
        world.postgres_mut().failures.insert("copy".into(), kind);
        world.run(seconds(150));
        let asked = world.sayings.iter().rev().find_map(|saying| match saying {
            Saying::Begins(step) => match &**step {
                Step::BaseBackup { old_data, .. } => Some(*old_data),
                _ => None,
            },
            _ => None,
        });
        assert_eq!(asked, Some(old_data));
    }
}

fn probed(probed: Probed) -> Room {
    Room { probes: vec![(DiskUse::Data, Probed::Written), (DiskUse::Wal, probed)], ..Room::default() }
}

/// A server that answers every question, and whose commits wait for a disk, is not healthy.
#[test]
fn a_primary_whose_writes_hang_or_fail_is_not_reported_to_work() {
    let mut world = serving(asked(Role::Primary, Init::None));
    for (room, healthy, fault) in [
        (probed(Probed::UnderWay(seconds(4))), true, None),
        (probed(Probed::UnderWay(seconds(60))), false, Some(DiskFault::Hangs)),
        (probed(Probed::Written), true, None),
        (probed(Probed::Failed("I/O error".into())), false, Some(DiskFault::Fails)),
        (probed(Probed::NoSpace), true, Some(DiskFault::Full)),
    ] {
        world.postgres_mut().room = room.clone();
        world.run(seconds(15));
        let report = world.report().clone();
        let activity = report.activity.unwrap();
        assert_eq!(report.postgres_state.unwrap().healthy, healthy, "{room:?}");
        assert_eq!(activity.disk.and_then(|disk| disk.fault), fault, "{room:?}");
        assert!(world.postgres().running && world.postgres().admits_clients(), "only others may take over");
    }
    world.run(seconds(60));
    let disk = world.report().activity.clone().unwrap().disk.unwrap();
    assert!(disk.lasting && disk.place == "wal", "{disk:?}");
    let said = world.sayings.iter().filter(|it| matches!(it, Saying::DiskTrouble(_))).count();
    assert_eq!(said, 3, "once each");
}

/// Its clients cannot be locked out by files, and nothing that they wait for may be acknowledged when the disk comes back. The disk hangs
/// before or after it is deposed, and whatever is under way then may hang as well.
#[test]
fn a_deposed_primary_whose_disk_hangs_is_killed_whatever_is_under_way() {
    let hang = |world: &World| world.postgres_mut().room = probed(Probed::UnderWay(seconds(60)));
    for under_way in ["nothing", LOOK, "configure", "reload", "slots", "commit"] {
        for deposed_first in [false, true] {
            let mut world = serving(asked(Role::Primary, Init::None));
            match under_way {
                "nothing" => {}
                "commit" => world.disk_hangs = Some(StateFileKind::Instance),
                step => _ = world.postgres_mut().hanging.insert(step.into()),
            }
            if under_way == LOOK || deposed_first {
                world.look_takes = seconds(2);
            }
            if !deposed_first {
                world.postgres_mut().hanging.remove(LOOK);
                hang(&world);
                world.change(|cluster| {
                    ours(cluster).generation += 1;
                    ours(cluster).spec.pg_parameters =
                        Some(Arc::new([("work_mem".to_owned(), "4MB".to_owned())].into_iter().collect()));
                });
                world.run(seconds(10));
                if under_way == LOOK {
                    world.postgres_mut().hanging.insert(LOOK.into());
                    world.run(seconds(10));
                }
            }
            let mark = world.mark();
            world.change(is_deposed);
            if deposed_first {
                world.run(Duration::from_millis(10));
                hang(&world);
                world.postgres_mut().hanging.remove(LOOK);
                world.run(seconds(12));
            }
            world.run(Duration::from_millis(50));
            let steps = world.steps_since(mark);
            assert!(steps.contains("kill"), "{under_way} {deposed_first}: {steps}");
            assert_eq!(steps.matches("kill").count(), 1, "{under_way} {deposed_first}: {steps}");
            assert!(!world.postgres().running, "{under_way} {deposed_first}: {steps}");
            // It would hang again.
            world.let_go();
            world.disk_works();
            world.run(seconds(60));
            assert!(!world.postgres().running, "{under_way} {deposed_first}: {:?}", world.log);
            world.postgres_mut().room = probed(Probed::Written);
            world.run(seconds(20));
            let postgres = world.postgres();
            let is_back = postgres.running && !postgres.admits_clients();
            assert!(is_back, "{under_way} {deposed_first}: {:?}", world.log);
        }
    }
}

/// A storage that is away for a moment costs nobody a recovery: only an election does.
#[test]
fn a_server_whose_disk_hangs_is_not_killed_while_nobody_else_was_elected() {
    let mut world = serving(asked(Role::Primary, Init::None));
    let mark = world.mark();
    world.postgres_mut().room = probed(Probed::UnderWay(seconds(60)));
    world.run(seconds(60));
    assert!(world.postgres().running && !world.steps_since(mark).contains("kill"));
}
