//! The whole keeper when PostgreSQL, or what it is at, does not do what it should: hang, die, receive nothing.

use std::time::Duration;

use stolon_core::keeper::*;
use stolon_fake::LOOK;
use stolon_model::{InstanceInitMode as Init, Role};

use crate::given::*;
use crate::world::{World, seconds, serving};

#[test]
fn a_look_that_hangs_is_bad_news_by_itself() {
    let mut world = serving(asked(Role::Primary, Init::None));
    world.postgres_mut().hanging.insert(LOOK.into());
    // The look under way has ended, the next one hangs for an interval.
    world.run(seconds(10));
    assert_eq!(world.reported(), (false, 3), "{:?}", world.log);
    assert!(world.sayings.contains(&Saying::LookTakesLong));
    let (looks, reports) = (world.looks, world.reports.len());
    world.run(seconds(60));
    assert_eq!(world.looks, looks, "one at a time");
    assert!(world.reports.len() >= reports + 10, "it goes on reporting");
    world.let_go();
    world.run(seconds(5));
    assert_eq!(world.reported(), (true, 3));
}

#[test]
fn a_copy_that_hangs_keeps_neither_looks_nor_reports_back_and_is_ended_when_it_is_of_no_use() {
    let mut world = World::new(asked(Role::Standby, Init::Resync), LocalState::default(), Data::Absent);
    world.postgres_mut().hanging.insert("copy".into());
    world.run(seconds(100));
    let (looks, reports, mark) = (world.looks, world.reports.len(), world.mark());
    world.run(seconds(300));
    assert!(world.looks > looks + 50 && world.reports.len() > reports + 50);
    assert_eq!(world.report().activity.as_ref().unwrap().step, "base backup");
    world.change(|cluster| _ = cluster.instances.remove(&"us".into()));
    world.run(seconds(5));
    let steps = world.steps_since(mark);
    assert!(steps.contains("called-off"), "{steps}");
    assert_eq!(world.report().activity.as_ref().map_or("", |activity| &activity.step), "");
}

#[test]
fn a_server_that_dies_while_it_is_waited_for_ends_the_wait_and_is_started_again() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.ready_takes = seconds(20);
    world.run(seconds(5));
    assert!(world.steps_since(0).ends_with("start ready"), "{:?}", world.log);
    world.server_dies();
    world.ready_takes = Duration::from_millis(2);
    world.run(seconds(40));
    assert_eq!(world.reported(), (true, 3), "{:?}", world.log);
    let starts = world.log.iter().filter(|(_, word)| word == "start").count();
    assert_eq!(starts, 2, "{:?}", world.log);
    assert!(world.sayings.iter().any(|saying| matches!(saying, Saying::StartFailed(_))));
}

#[test]
fn a_server_that_dies_again_and_again_is_started_with_pauses() {
    let mut world = serving(asked(Role::Primary, Init::None));
    let mark = world.mark();
    let begun = world.now;
    let starts = |world: &World| world.log[mark..].iter().filter(|(_, word)| word == "start").count();
    while world.now < begun + seconds(60) {
        if world.postgres().running {
            world.server_dies();
        }
        world.run(Duration::from_millis(50));
    }
    // 0.2 s, doubled up to 5 s.
    assert!((10..25).contains(&starts(&world)), "{} starts in a minute", starts(&world));
    world.run(seconds(30));
    assert_eq!((world.reported(), world.problem()), ((true, 3), String::new()), "it is not given up");
}

#[test]
fn a_standby_that_receives_no_wal_is_reported_and_left_as_it_is() {
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.run(seconds(20));
    let problem = |world: &World| {
        world
            .report()
            .activity
            .as_ref()
            .map(|activity| activity.replication_problem.clone())
            .unwrap_or_default()
    };
    assert_eq!((world.reported(), problem(&world)), ((true, 3), String::new()));
    let mark = world.mark();
    world.postgres_mut().receiver = WalReceiver::Absent(Some("no pg_hba.conf entry".into()));
    world.run(seconds(30));
    assert_eq!(problem(&world), "the standby receives no WAL from 10.0.0.2:5432: no pg_hba.conf entry");
    assert_eq!(world.reported(), (true, 3), "PostgreSQL itself is well");
    let steps = world.steps_since(mark);
    assert!(steps.split(' ').all(|step| ["read", "slots"].contains(&step)), "{steps}");
    world.postgres_mut().receiver = WalReceiver::Streaming;
    world.run(seconds(10));
    assert_eq!(problem(&world), "");
}
