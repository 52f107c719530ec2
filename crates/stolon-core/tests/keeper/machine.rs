//! The whole keeper on a fake PostgreSQL: making, serving, failing, ending.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::*;
use stolon_model::{InstanceInitMode as Init, KeeperReport, Parameters, Role};

use crate::given::*;
use crate::world::{World, seconds, serving};

#[test]
fn a_new_primary_is_made_started_and_reported() {
    let cluster = asked(Role::Primary, Init::New);
    let mut world = World::new(cluster, LocalState::default(), Data::Absent);
    world.run(seconds(5));
    let steps: Vec<&str> =
        world.log.iter().map(|(_, word)| word.as_str()).filter(|word| *word != "read").collect();
    assert_eq!(
        steps.join(" "),
        "stop wipe initdb check configure:primary+merged start ready roles stop configure:primary start ready slots"
    );
    assert_eq!(world.reported(), (true, 3));
    assert_eq!(world.problem(), "");
    assert!(world.postgres().admits_clients());
}

#[test]
fn a_backup_is_restored_recovered_and_served() {
    let mut world =
        World::new(asked(Role::Primary, Init::PointInTimeRecovery), LocalState::default(), Data::Absent);
    world.run(seconds(10));
    let steps = world.steps_since(0).replace("read ", "");
    assert!(steps.contains("wipe restore") && steps.contains("start recovered"), "{steps}");
    assert!(steps.contains("configure:recovery+merged"), "{steps}");
    assert_eq!((world.reported(), world.problem()), ((true, 3), String::new()), "{steps}");
    assert!(world.postgres().admits_clients(), "{steps}");
    assert_eq!(steps.matches("restore").count(), 1, "{steps}");
}

#[test]
fn a_standby_that_is_elected_is_promoted_once() {
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.run(seconds(20));
    assert_eq!((world.reported(), world.postgres().in_recovery), ((true, 3), true));
    world.change(|cluster| {
        is_elected_again(cluster);
        let spec = &mut ours(cluster).spec;
        (spec.role, spec.follow_config) = (Some(Role::Primary), None);
    });
    world.run(seconds(20));
    assert_eq!((world.reported(), world.postgres().timeline), ((true, 4), 2), "{:?}", world.log);
    assert!(world.postgres().admits_clients(), "{:?}", world.log);
    assert_eq!(world.log.iter().filter(|(_, word)| word == "promote").count(), 1);
    assert!(world.sayings.contains(&Saying::Promoted));
}

/// Whoever asked for it waits no longer; PostgreSQL went on.
#[test]
fn a_promotion_that_succeeds_late_ends_in_the_configuration_of_a_primary() {
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.run(seconds(20));
    world.postgres_mut().failures.insert("promote".into(), FailureKind::Other);
    world.change(|cluster| {
        is_elected_again(cluster);
        let spec = &mut ours(cluster).spec;
        (spec.role, spec.follow_config) = (Some(Role::Primary), None);
    });
    world.run(seconds(1));
    assert!(!world.reported().0 || world.reported().1 < 4, "{:?}", world.log);
    let mark = world.mark();
    let mut postgres = world.postgres_mut();
    (postgres.in_recovery, postgres.timeline) = (false, 2);
    drop(postgres);
    world.run(seconds(20));
    let steps = world.steps_since(mark);
    assert!(steps.contains("configure:primary"), "{steps}");
    assert_eq!((world.reported(), world.problem()), ((true, 4), String::new()), "{steps}");
    assert!(world.postgres().admits_clients(), "{steps}");
}

#[test]
fn a_backup_is_called_off_when_it_is_of_no_use_any_more() {
    let cluster = asked(Role::Standby, Init::Resync);
    let mut world = World::new(cluster, LocalState::default(), Data::Absent);
    world.run(seconds(10));
    assert!(world.steps_since(0).ends_with("copy read"), "{:?}", world.log);
    assert_eq!(world.report().activity.as_ref().unwrap().step, "base backup");
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(10));
    assert!(!world.steps_since(0).contains("called-off"), "parameters come later");
    world.change(|cluster| cluster.instances.get_mut(&"pp".into()).unwrap().status.port = "9".into());
    world.run(seconds(1));
    assert!(world.steps_since(0).contains("called-off"), "{:?}", world.log);
    assert_eq!(world.log.iter().filter(|(_, word)| word == "copy").count(), 2, "it begins anew");
}

#[test]
fn a_server_that_lets_nobody_new_in_is_not_looked_at_without_a_pause() {
    // Whoever waits for it is told at once that it is ready, and the next look fails at once.
    for role in [Role::Primary, Role::Standby] {
        let kind = if role == Role::Primary { DataKind::Primary } else { DataKind::Standby };
        let mut world = World::with(asked(role, Init::None), kind);
        world.run(seconds(30));
        world.postgres_mut().answers = false;
        let (before, mark) = (world.looks, world.mark());
        world.run(seconds(60));
        // At most 40 a second for ten seconds, four afterwards.
        assert!(world.looks - before < 700, "{} looks in a minute", world.looks - before);
        assert!(world.mark() - mark < 600, "{} steps and readings in a minute", world.mark() - mark);
        assert_eq!(world.reported(), (false, 3));
        world.postgres_mut().answers = true;
        world.run(seconds(1));
        assert_eq!(world.reported(), (true, 3), "noticed within a moment");
    }
}

#[test]
fn slots_that_cannot_be_made_are_shown_and_keep_nobody_from_the_generation() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.postgres_mut().failures.insert("slots".into(), FailureKind::Other);
    world.run(seconds(20));
    assert_eq!(world.reported(), (true, 3));
    assert_eq!(world.problem(), "slots failed");
    let said = world.sayings.iter().filter(|saying| matches!(saying, Saying::SlotsFailed(_))).count();
    assert_eq!(said, 1, "once");
    world.postgres_mut().failures.clear();
    world.run(seconds(20));
    assert_eq!(world.problem(), "");
}

/// PostgreSQL manual, "Hot Standby", administrator's overview: a limit is lowered on the primary first, and on its standbys once they have
/// replayed that.
#[test]
fn a_lowered_limit_reaches_a_standby_after_its_primary() {
    for automatic in [true, false] {
        let mut cluster = asked(Role::Standby, Init::None);
        cluster.cluster.spec.automatic_pg_restart = Some(automatic);
        let limits = Parameters::from([("max_connections".to_owned(), "100".to_owned())]);
        ours(&mut cluster).spec.pg_parameters = Some(Arc::new(limits));
        let mut world = World::with(cluster, DataKind::Standby);
        let runs_with =
            |max_connections| ControlLook::Demands(Demands { max_connections, ..Demands::default() });
        world.postgres_mut().control = runs_with(300);
        world.run(seconds(30));
        assert_eq!(
            (world.reported(), world.postgres().started_with("max_connections")),
            ((true, 3), Some("300"))
        );
        world.postgres_mut().control = runs_with(100);
        world.run(seconds(30));
        let wanted = if automatic { "100" } else { "300" };
        assert_eq!(world.postgres().started_with("max_connections"), Some(wanted), "{:?}", world.log);
        assert_eq!(world.reported(), (true, 3));
        assert_eq!(world.report().activity.as_ref().unwrap().pending_restart, !automatic);
    }
}

#[test]
fn unexpected_ends_are_counted_for_a_minute_and_reported_at_once() {
    let mut world = serving(asked(Role::Primary, Init::None));
    let restarts = |world: &World| world.report().activity.as_ref().map_or(0, |activity| activity.restarts);
    for count in 1..=3 {
        world.server_dies();
        world.run(Duration::from_millis(4));
        assert_eq!(world.reported(), (false, 3), "at once");
        world.run(seconds(8));
        assert_eq!(world.reported(), (true, 3), "it is started again");
        assert_eq!(restarts(&world), count);
    }
    world.run(seconds(60));
    assert_eq!(restarts(&world), 0);
}

#[test]
fn a_start_that_fails_is_no_restart() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    let death = ServerDeath { status: "1".into(), explanation: "no".into(), cause: DeathCause::PortTaken };
    world.postgres_mut().failures.insert("start".into(), FailureKind::ServerExited(death));
    world.run(seconds(30));
    assert!(world.problem().contains("start failed"), "{}", world.problem());
    let begun = world.log.iter().filter(|(_, word)| word == "start").count();
    assert!((3..20).contains(&begun), "with pauses: {begun}");
}

#[test]
fn a_refused_setting_is_left_out_and_the_keeper_goes_on() {
    let mut cluster = asked(Role::Primary, Init::None);
    let parameters = [("work_mem".to_owned(), "4MB".to_owned())];
    ours(&mut cluster).spec.pg_parameters = Some(Arc::new(parameters.into_iter().collect()));
    let mut world = World::with(cluster, DataKind::Primary);
    world.postgres_mut().rejected = vec![RejectedSetting {
        name: "work_mem".into(),
        value: "4MB".into(),
        message: "not today".into(),
        instead: None,
        origin: Origin::Parameters,
    }];
    world.run(seconds(10));
    assert_eq!(world.reported(), (true, 3));
    assert_eq!(world.postgres().in_force("work_mem"), None);
    let problems = world.report().activity.clone().unwrap().parameter_problems.unwrap();
    assert!(problems[0].contains("not today"), "{problems:?}");
    world.run(seconds(40));
    assert_eq!(world.postgres().in_force("work_mem"), Some("4MB"), "asked about again");
}

#[test]
fn parameters_that_change_are_announced_each_time() {
    let mut world = serving(asked(Role::Primary, Init::None));
    let changed = |world: &World| {
        let is_it =
            |saying: &&Saying| matches!(saying, Saying::Reason { reason: Reason::ParametersChanged, .. });
        world.sayings.iter().filter(is_it).count()
    };
    let not_changed =
        |world: &World| world.sayings.iter().filter(|saying| **saying == Saying::NothingChanged).count();
    let (before, unchanged) = (changed(&world), not_changed(&world));
    for (number, value) in ["1MB", "2MB", "3MB"].into_iter().enumerate() {
        world.change(|cluster| {
            let ours = ours(cluster);
            ours.spec.pg_parameters =
                Some(Arc::new([("work_mem".to_owned(), value.to_owned())].into_iter().collect()));
            ours.generation += 1;
        });
        world.run(Duration::from_millis(50));
        assert_eq!(changed(&world), before + number + 1, "{value}");
    }
    world.run(seconds(20));
    assert!(not_changed(&world) > unchanged, "once the last one is in force, by the next look");
    let unchanged = not_changed(&world);
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(1));
    assert_eq!(not_changed(&world), unchanged + 1);
}

#[test]
fn a_namesake_that_wrote_last_ends_a_keeper_without_an_instance() {
    for (local, ends) in [(LocalState::default(), true), (complete("us"), false)] {
        let mut world = World::new(cluster(), local, Data::Absent);
        let mut other = KeeperReport::default();
        other.boot_uuid = "another".into();
        world.namesake = Some(other);
        world.run(seconds(20));
        assert_eq!(world.exit.is_some(), ends, "{:?}", world.exit);
        assert_eq!(world.reports.len() == 1, ends, "before the second report");
    }
}

#[test]
fn a_stopped_keeper_calls_off_what_is_under_way_and_asks_for_nothing_more() {
    let mut world = World::new(asked(Role::Standby, Init::Resync), LocalState::default(), Data::Absent);
    world.run(seconds(10));
    world.tell(Event::StopRequested);
    assert!(world.steps_since(0).ends_with("called-off"), "{:?}", world.log);
    let mark = world.mark();
    world.run(seconds(60));
    assert_eq!(world.steps_since(mark), "");
}
