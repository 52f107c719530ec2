//! The whole keeper with programs of PostgreSQL that are missing or of another version.

use stolon_core::keeper::*;
use stolon_core::postgres::Version;
use stolon_core::settings::MAJORS;
use stolon_model::{InstanceInitMode as Init, Role};

use crate::given::*;
use crate::world::{World, seconds};

#[test]
fn a_server_that_must_stop_is_stopped_although_the_version_is_not_known() {
    let mut cluster = asked(Role::Primary, Init::None);
    cluster.instances.remove(&"us".into());
    let mut world = World::with(cluster, DataKind::Primary);
    world.postgres_mut().version = Err("cannot run postgres: no such file".into());
    world.postgres_mut().running = true;
    world.run(seconds(10));
    assert!(!world.postgres().running, "{:?}", world.log);
}

#[test]
fn without_a_version_nothing_is_planned_and_with_an_earlier_one_everything_goes_on() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.postgres_mut().version = Err("no such file".into());
    world.run(seconds(10));
    assert!(!world.postgres().running);
    assert!(world.problem().contains("no such file"), "{}", world.problem());
    world.postgres_mut().version = Ok(V15);
    world.run(seconds(20));
    assert!(world.postgres().running);
    world.postgres_mut().version = Err("no such file".into());
    world.change(is_deposed);
    world.run(seconds(10));
    assert!(!world.postgres().admits_clients(), "{:?}", world.log);
}

#[test]
fn binaries_that_are_too_old_are_refused_with_a_way_out_and_newer_ones_are_warned_about() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    let of = |major, minor| Version { major, minor };
    world.postgres_mut().version = Ok(of(9, 6));
    world.run(seconds(10));
    assert!(!world.postgres().running, "{:?}", world.log);
    let problem = world.problem();
    assert!(problem.contains("9.6 is older") && problem.contains("10 to 18"), "{problem}");

    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    let newer = of(MAJORS.end() + 1, 0);
    world.postgres_mut().version = Ok(newer);
    world.postgres_mut().data =
        Data::Present(Present { version: newer, kind: DataKind::Primary, system_identifier: SYSTEM.into() });
    world.run(seconds(30));
    assert!(world.postgres().running && world.problem().is_empty(), "{}", world.problem());
    let warned = world.sayings.iter().filter(|saying| **saying == Saying::VersionNewer(newer)).count();
    assert_eq!(warned, 1, "once");
}

#[test]
fn without_pg_rewind_everything_is_copied_at_once() {
    for (kind, attempts) in
        [(FailureKind::NoProgram, 1), (FailureKind::NotRewindable, 1), (FailureKind::Other, 2)]
    {
        let mut cluster = asked(Role::Standby, Init::Resync);
        ours(&mut cluster).spec.use_pg_rewind = true;
        let mut world = World::new(cluster, complete("old"), present(DataKind::Primary));
        world.postgres_mut().failures.insert("rewind".into(), kind.clone());
        world.run(seconds(5));
        let steps = world.steps_since(0);
        assert_eq!(steps.matches("rewind").count(), attempts, "{kind:?}: {steps}");
        assert!(steps.contains("copy"), "{kind:?}: {steps}");
    }
}

/// The source was copied after the two had parted: it has no WAL of before that, and nobody waits for it to come.
#[test]
fn what_was_rewound_and_lacks_wal_is_copied_at_once() {
    let mut cluster = asked(Role::Standby, Init::Resync);
    ours(&mut cluster).spec.use_pg_rewind = true;
    let mut world = World::new(cluster, complete("old"), present(DataKind::Primary));
    world.postgres_mut().failures.insert("follows".into(), FailureKind::LacksWal);
    world.run(seconds(5));
    let steps = world.steps_since(0);
    assert_eq!((steps.matches("rewind").count(), steps.matches("follows").count()), (1, 1), "{steps}");
    assert!(steps.contains("copy"), "{steps}");
}

#[test]
fn without_pg_controldata_a_standby_is_started_all_the_same() {
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.postgres_mut().control = ControlLook::NoProgram("/bin/pg_controldata".into());
    world.run(seconds(10));
    assert!(world.postgres().running, "{:?}", world.log);
    world.server_dies();
    world.run(seconds(20));
    let said = world.sayings.iter().filter(|saying| matches!(saying, Saying::DemandsUnknown(_))).count();
    assert_eq!(said, 1, "once: {:?}", world.sayings);
}
