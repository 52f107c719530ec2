//! Making an instance in several passes, with the failures between them.

use stolon_core::keeper::*;
use stolon_core::postgres::Version;
use stolon_model::{InstanceInitMode as Init, Lsn, Role, Timeline, TimelineHistoryEntry};

use crate::given::*;

fn half_made(stage: Stage, data: Data) -> Observation {
    let local = LocalState { uid: "us".into(), initializing: true, ..LocalState::default() };
    let attempt = Attempt { instance: "us".into(), stage, ..Attempt::default() };
    Observation { local, data, attempt, ..nothing() }
}

#[test]
fn a_restored_backup_is_recovered_and_then_complete() {
    let mut cluster = asked(Role::Primary, Init::PointInTimeRecovery);
    ours(&mut cluster).spec.include_previous_config = true;
    let mut seen = half_made(Stage::Restored, present(DataKind::Primary));
    const RECOVER: &str = "stop configure:recovery+merged start recovered ready capture stop finish again";
    assert_eq!(words(&plan(&goal(&cluster), &seen)), RECOVER);
    seen.attempt.start_failed();
    assert_eq!(
        words(&plan(&goal(&cluster), &seen)),
        RECOVER,
        "what was restored is kept for another attempt"
    );
    seen.attempt.start_failed();
    seen.attempt.start_failed();
    assert_eq!(words(&plan(&goal(&cluster), &seen)), "stop mark wipe restore again");
    seen.attempt.reached(Stage::Recovered);
    assert_eq!(
        words(&plan(&goal(&cluster), &seen)),
        "stop configure:primary+merged start ready capture stop finish again",
        "a recovery that has ended is not begun again"
    );
}

#[test]
fn a_restored_backup_of_another_major_is_fetched_again_and_said_so() {
    let cluster = asked(Role::Primary, Init::PointInTimeRecovery);
    let version = Version { major: 14, minor: 0 };
    let data = Data::Present(Present { version, kind: DataKind::Primary, system_identifier: SYSTEM.into() });
    let seen = half_made(Stage::Restored, data);
    let plan = plan(&goal(&cluster), &seen);
    assert!(matches!(plan.trouble, Some(Trouble::OtherMajor { .. })));
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::Start(_))), "{plan:?}");
}

#[test]
fn what_vanishes_before_it_was_ever_used_is_made_again() {
    let cluster = asked(Role::Standby, Init::Resync);
    let local = LocalState { uid: "us".into(), ..LocalState::default() };
    let gone = Observation { local: local.clone(), ..nothing() };
    assert_eq!(words(&plan(&goal(&cluster), &gone)), "stop examine mark copy again");
    let used = Observation { local: LocalState { generation: 2, ..local.clone() }, ..nothing() };
    let uncounted = words(&plan(&goal(&cluster), &used));
    assert_eq!(uncounted, "stop examine mark copy again", "no sentinel has read that it was complete");
    for counted in [asked(Role::Standby, Init::None), asked(Role::Primary, Init::Resync)] {
        let words = words(&plan(&goal(&counted), &used));
        assert_eq!(words, "trouble", "the sentinel replaces what was in use, or elected");
    }
    let here = Observation { local, data: present(DataKind::Standby), ..nothing() };
    assert_eq!(words(&plan(&goal(&cluster), &here)), "configure:standby start again", "it is here");
}

#[test]
fn a_copy_counts_once_it_has_started() {
    let cluster = asked(Role::Standby, Init::Resync);
    let mut seen = half_made(Stage::Copied, present(DataKind::Standby));
    assert_eq!(words(&plan(&goal(&cluster), &seen)), "configure:standby start finish again");
    for _ in 0..3 {
        seen.attempt.start_failed();
    }
    assert_eq!(words(&plan(&goal(&cluster), &seen)), "stop examine mark copy again");
}

#[test]
fn a_fresh_copy_reaches_its_generation_when_it_answers() {
    let cluster = asked(Role::Standby, Init::Resync);
    let goal = goal(&cluster);
    let mut seen = running(DataKind::Standby, &goal);
    seen.local.generation = 0;
    seen.server = Server::Running(None);
    assert_eq!(words(&plan(&goal, &seen)), "");
    seen.local.generation = 2;
    seen.applied.as_mut().unwrap().parameters.clear();
    let words_of_complete = words(&plan(&goal, &seen));
    assert_eq!(words_of_complete, "configure:standby reload commit:3", "not before it was told");
    seen = running(DataKind::Standby, &goal);
    seen.local.generation = 0;
    seen.server = Server::Running(Some(live(DataKind::Standby)));
    assert_eq!(words(&plan(&goal, &seen)), "slots commit:3");
}

#[test]
fn rewound_data_has_to_come_up_on_the_right_branch() {
    let mut cluster = asked(Role::Standby, Init::Resync);
    ours(&mut cluster).spec.use_pg_rewind = true;
    let source = cluster.instances.get_mut(&"pp".into()).unwrap();
    source.status.timeline = Timeline(2);
    source.status.lsn = Lsn(2000);
    source.status.timelines_history = Some(vec![TimelineHistoryEntry {
        timeline: Timeline(1),
        switch_point: Lsn(1000),
        ..Default::default()
    }]);
    let mut seen = half_made(Stage::Rewound, present(DataKind::Standby));
    assert_eq!(words(&plan(&goal(&cluster), &seen)), "configure:standby start follows again");

    let answer = |lsn| Live { in_recovery: true, timeline: Timeline(1), lsn: Lsn(lsn), ..Live::default() };
    seen.server = Server::Running(Some(answer(1000)));
    assert_eq!(words(&plan(&goal(&cluster), &seen)), "finish again");
    seen.server = Server::Running(Some(answer(1001)));
    assert_eq!(words(&plan(&goal(&cluster), &seen)), "stop examine mark copy again");

    seen.server = Server::Stopped;
    seen.attempt.start_failed();
    assert_eq!(words(&plan(&goal(&cluster), &seen)), "stop examine mark copy again", "it did not come up");
}

#[test]
fn a_rewind_is_tried_twice_before_everything_is_copied() {
    let mut cluster = asked(Role::Standby, Init::Resync);
    ours(&mut cluster).spec.use_pg_rewind = true;
    let mut seen = here(DataKind::Primary);
    seen.local.uid = "old".into();
    for expected in ["rewind", "rewind", "copy"] {
        assert_eq!(words(&plan(&goal(&cluster), &seen)), format!("stop examine mark {expected} again"));
        let failures = seen.attempt.rewind_failures + 1;
        seen = half_made(Stage::Nothing, present(DataKind::Primary));
        seen.attempt.rewind_failures = failures;
    }
}

#[test]
fn what_an_earlier_process_left_half_made_is_not_rewound() {
    let mut cluster = asked(Role::Standby, Init::Resync);
    ours(&mut cluster).spec.use_pg_rewind = true;
    let mut seen = half_made(Stage::Nothing, present(DataKind::Standby));
    assert_eq!(words(&plan(&goal(&cluster), &seen)), "stop examine mark copy again");
    seen.local.uid = "other".into();
    assert_eq!(words(&plan(&goal(&cluster), &seen)), "stop examine mark copy again", "made for another");
}

#[test]
fn what_is_being_made_is_given_up_when_something_else_is_wanted() {
    let cluster = asked(Role::Standby, Init::Resync);
    let now = goal(&cluster);
    let changed = |change: fn(&mut stolon_model::ClusterData)| {
        let mut other = cluster.clone();
        change(&mut other);
        now.is_given_up_by(&goal(&other))
    };
    assert!(!changed(|_| ()));
    assert!(!changed(|cluster| ours(cluster).generation += 1), "parameters come later");
    assert!(!changed(|cluster| cluster.instances.get_mut(&"pp".into()).unwrap().status.lsn = Lsn(9)));
    assert!(!changed(|cluster| cluster.keepers.clear()), "nothing may be touched then");
    assert!(changed(|cluster| _ = cluster.instances.remove(&"us".into())));
    assert!(changed(|cluster| _ = cluster.instances.remove(&"pp".into())), "the source is gone");
    assert!(changed(|cluster| cluster.instances.get_mut(&"pp".into()).unwrap().status.port = "1".into()));
    assert!(changed(|cluster| {
        add(cluster, "nn", "k3", Role::Primary, Init::None);
        ours(cluster).spec.follow_config = Some(stolon_model::FollowConfig::internal("nn".into()));
    }));
}

#[test]
fn the_memory_of_one_instance_does_not_count_for_another() {
    let attempt = Attempt {
        instance: "us".into(),
        stage: Stage::Copied,
        failures: 2,
        rewind_failures: 1,
        ..Attempt::default()
    };
    assert_eq!(attempt.clone().at(&"us".into()), attempt);
    assert_eq!(attempt.at(&"them".into()), Attempt { instance: "them".into(), ..Attempt::default() });
}
