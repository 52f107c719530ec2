//! The whole keeper on a disk that is full, broken or hangs.

use stolon_core::keeper::*;
use stolon_model::{ClusterData, InstanceInitMode as Init, Role};

use crate::given::*;
use crate::world::{World, seconds};

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
