//! Whom commits wait for, and who may be elected then.

use std::sync::Arc;

use stolon_core::sentinel::{Change, Hold};
use stolon_model::*;

use crate::world::*;

fn fake() -> Option<Vec<String>> {
    Some(vec![FAKE_STANDBY.to_owned()])
}

fn waits(world: &mut World, listed: &[usize], known: &[usize]) {
    let primary = world.db(1);
    primary.spec.synchronous_replication = true;
    primary.spec.synchronous_standbys = uids(listed);
    primary.status.synchronous_standbys = uids(known);
}

#[test]
fn synchronous_mode_begins_with_the_standby_that_is_there() {
    World::normal(2, 2).given(|world| world.data.cluster.spec.synchronous_replication = Some(true)).expect(
        "row 16, as it is named",
        |world| {
            waits(world, &[2], &[]);
            world.db(1).spec.external_synchronous_standbys = Some(Vec::new());
            world.db(1).generation = 2;
        },
    );
    World::normal(1, 1).given(|world| world.data.cluster.spec.synchronous_replication = Some(true)).expect(
        "none",
        |world| {
            waits(world, &[], &[]);
            world.db(1).spec.external_synchronous_standbys = fake();
            world.db(1).generation = 2;
        },
    );
}

/// What is asked of a primary in trouble may never reach it. If its data are gone, only those can take over that held everything before.
#[test]
fn whom_commits_wait_for_does_not_change_while_the_primary_is_in_trouble() {
    let in_trouble = |world: &mut World| world.down.extend([uid(1)]);
    let without_its_standby = |world: &mut World| {
        world.data.cluster.spec.min_synchronous_standbys = Some(0);
        world.break_db(2);
    };
    World::synchronous(2, &[2], &[2]).given(without_its_standby).expect("a standby is given up", |world| {
        waits(world, &[], &[]);
        world.db(1).generation = 2;
    });
    World::synchronous(2, &[2], &[2])
        .given(without_its_standby)
        .given(in_trouble)
        .expect_unchanged("the primary reports that it does not work");
    World::normal(2, 2)
        .given(|world| world.data.cluster.spec.synchronous_replication = Some(true))
        .given(in_trouble)
        .expect_unchanged("synchronous mode does not begin with a primary that does not work");
    for (silence, changes) in [(9_000, true), (11_000, false)] {
        let mut world = World::synchronous(2, &[2], &[2]);
        world.round();
        without_its_standby(&mut world);
        world.silent.insert(keeper_uid(1));
        world.later(silence).round();
        let listed = &world.db(1).spec.synchronous_standbys;
        assert_eq!(listed.as_ref().is_some_and(Vec::is_empty), changes, "after {silence} ms of silence");
    }
}

#[test]
fn specification_values_reach_every_instance() {
    World::normal(2, 2)
        .given(|world| {
            let spec = &mut world.data.cluster.spec;
            spec.request_timeout = Some(GoDuration::from_seconds(20));
            spec.max_standbys = Some(40);
            spec.additional_wal_senders = Some(10);
            spec.use_pg_rewind = Some(true);
            spec.synchronous_replication = Some(true);
            spec.pg_parameters = Some([("a".to_owned(), "b".to_owned())].into());
        })
        .expect("row 14", |world| {
            for number in [1, 2] {
                let instance = world.db(number);
                instance.generation = 2;
                instance.spec.request_timeout = GoDuration::from_seconds(20);
                instance.spec.max_standbys = 40;
                instance.spec.additional_wal_senders = 10;
                instance.spec.use_pg_rewind = true;
                instance.spec.pg_parameters = Some(Arc::new([("a".to_owned(), "b".to_owned())].into()));
            }
            waits(world, &[2], &[]);
            world.db(1).spec.external_synchronous_standbys = Some(Vec::new());
        });
}

/// A situation, and the lists that follow from it: `None` for no change.
struct Row {
    name: &'static str,
    listed: &'static [usize],
    known: &'static [usize],
    bad: &'static [usize],
    gone: &'static [usize],
    minimum: u16,
    maximum: u16,
    next: &'static [usize],
    next_known: &'static [usize],
    blocked: bool,
}

const ROW: Row = Row {
    name: "",
    listed: &[2],
    known: &[2],
    bad: &[],
    gone: &[],
    minimum: 1,
    maximum: 1,
    next: &[2],
    next_known: &[2],
    blocked: false,
};

/// db1 is the primary, db2 to db4 are standbys; `R` is empty.
const ROWS: &[Row] = &[
    Row { name: "row 18, only one, and bad: kept", bad: &[2, 3, 4], ..ROW },
    Row { name: "row 19, bad, another good: both", bad: &[2, 4], next: &[2, 3], ..ROW },
    Row {
        name: "row 21, newcomer not yet in sync: wait",
        listed: &[2, 3],
        bad: &[2, 4],
        next: &[2, 3],
        ..ROW
    },
    Row { name: "row 22, newcomer went bad: roll back", listed: &[2, 3], bad: &[2, 3, 4], ..ROW },
    Row { name: "gone, another good", gone: &[2], bad: &[4], next: &[3], next_known: &[], ..ROW },
    Row {
        name: "gone, nobody good: block",
        gone: &[2],
        bad: &[3, 4],
        next: &[],
        next_known: &[],
        blocked: true,
        ..ROW
    },
    Row {
        name: "newcomer bad, another good",
        listed: &[2],
        known: &[],
        bad: &[2, 4],
        next: &[3],
        next_known: &[],
        ..ROW
    },
    Row {
        name: "min 2 max 3, one bad, a third good",
        listed: &[2, 3],
        known: &[2, 3],
        bad: &[2],
        minimum: 2,
        maximum: 3,
        next: &[2, 3, 4],
        next_known: &[2, 3],
        ..ROW
    },
    Row {
        name: "min 2 max 3, one bad, no third",
        listed: &[2, 3],
        known: &[2, 3],
        bad: &[2],
        gone: &[4],
        minimum: 2,
        maximum: 3,
        next: &[2, 3],
        next_known: &[2, 3],
        ..ROW
    },
    Row {
        name: "min 2 max 3, one gone, one bad",
        listed: &[2, 3],
        known: &[2, 3],
        bad: &[3],
        gone: &[2, 4],
        minimum: 2,
        maximum: 3,
        next: &[3],
        next_known: &[3],
        blocked: true,
    },
    Row {
        name: "min 2 max 2, only one there",
        gone: &[3, 4],
        minimum: 2,
        maximum: 2,
        next: &[2],
        next_known: &[2],
        blocked: true,
        ..ROW
    },
    Row {
        name: "row 30, min 0, bad: go on alone",
        bad: &[2, 3, 4],
        minimum: 0,
        next: &[],
        next_known: &[],
        ..ROW
    },
];

#[test]
fn the_set_of_standbys_to_wait_for() {
    for row in ROWS {
        let world = World::synchronous(4, row.listed, row.known).given(|world| {
            world.data.cluster.spec.min_synchronous_standbys = Some(row.minimum);
            world.data.cluster.spec.max_synchronous_standbys = Some(row.maximum);
            for number in row.bad {
                world.break_db(*number);
            }
            for number in row.gone {
                world.data.instances.remove(&uid(*number));
                world.data.keepers.remove(&keeper_uid(*number));
                world.silent.insert(keeper_uid(*number));
            }
        });
        world.expect(row.name, |world| {
            let spec_before = world.db(1).spec.clone();
            waits(world, row.next, row.next_known);
            let spec = &mut world.db(1).spec;
            spec.external_synchronous_standbys = if row.blocked { fake() } else { Some(Vec::new()) };
            spec.followers.iter_mut().for_each(|followers| {
                followers.retain(|follower| !row.gone.iter().any(|number| uid(*number) == *follower))
            });
            world.db(1).generation += i64::from(world.db(1).spec != spec_before);
        });
    }
}

#[test]
fn when_the_maximum_is_lowered_the_best_stays() {
    let mut world = World::synchronous(3, &[2, 3], &[2, 3]).given(|world| {
        world.db(2).status.lsn = Lsn(10);
        world.db(3).status.lsn = Lsn(20);
    });
    world.round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[3]), "never the better one is dropped");
}

/// The newcomer is the one that has least to catch up.
#[test]
fn the_newcomer_is_the_one_that_is_furthest_ahead() {
    let mut world = World::normal(3, 3).given(|world| {
        world.data.cluster.spec.synchronous_replication = Some(true);
        world.db(2).status.lsn = Lsn(500);
        world.db(3).status.lsn = Lsn(900);
    });
    world.round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[3]));
}

#[test]
fn who_may_not_be_synchronous_is_not_added_but_may_stay() {
    World::synchronous(2, &[], &[])
        .given(|world| {
            world.keeper(2).status.can_be_synchronous_replica = Some(false);
            world.db(1).spec.external_synchronous_standbys = fake();
        })
        .expect_unchanged("row 26");
    World::synchronous(3, &[2], &[2])
        .given(|world| world.keeper(2).status.can_be_synchronous_replica = Some(false))
        .expect_unchanged("A23, stays");
}

#[test]
fn postgresql_of_old_waits_for_exactly_one() {
    let mut world = World::synchronous(3, &[2], &[2]).given(|world| {
        world.data.cluster.spec.min_synchronous_standbys = Some(2);
        world.data.cluster.spec.max_synchronous_standbys = Some(3);
        world.keeper(1).status.postgres_binary_version = PostgresVersion { major: 9, minor: 5 };
        world.break_db(2);
    });
    world.round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[3]));
}

#[test]
fn leaving_synchronous_mode_clears_the_lists() {
    let mut world = World::synchronous(2, &[2], &[2])
        .given(|world| world.data.cluster.spec.synchronous_replication = Some(false));
    let decision = world.round();
    assert!(decision.changes.iter().any(|change| matches!(change, Change::SynchronousReplicationOff { .. })));
    let primary = world.db(1);
    assert!(!primary.spec.synchronous_replication);
    assert_eq!(
        (primary.spec.synchronous_standbys.clone(), primary.status.synchronous_standbys.clone()),
        (None, None)
    );
}

fn elected_synchronously(world: &mut World, to: usize, listed: &[usize]) {
    elected(world, 1, to);
    let new = world.db(to);
    new.spec.synchronous_replication = true;
    new.spec.synchronous_standbys = uids(listed);
    new.spec.external_synchronous_standbys = Some(Vec::new());
}

#[test]
fn only_those_that_hold_every_commit_are_elected() {
    World::synchronous(2, &[2], &[2])
        .given(|world| world.break_db(1))
        .expect("row 17", |world| elected_synchronously(world, 2, &[1]));
    World::synchronous(3, &[3], &[2, 3])
        .given(|world| {
            world.db(1).generation = 3;
            world.db(1).status.current_generation = 2;
            world.break_db(1);
            world.break_db(2);
        })
        .expect("row 24, the one in both lists", |world| elected_synchronously(world, 3, &[1]));
    World::synchronous(3, &[2, 3], &[2, 3])
        .given(|world| {
            world.break_db(1);
            world.break_db(2);
        })
        .expect("row 25, one of two is bad", |world| elected_synchronously(world, 3, &[1, 2]));
    World::synchronous(3, &[2, 3], &[2])
        .given(|world| {
            world.db(1).generation = 2;
            world.break_db(1);
            world.break_db(2);
        })
        .expect_unchanged("row 20, the newcomer is not in sync yet");
    World::synchronous(2, &[2], &[2])
        .given(|world| {
            world.break_db(1);
            world.keeper(2).status.can_be_primary = Some(false);
        })
        .expect_unchanged("row 27, must not be primary");
}

/// A2: of several that hold every acknowledged commit the one that is furthest ahead.
#[test]
fn of_several_synchronous_standbys_the_best_is_elected() {
    let mut world = World::synchronous(3, &[2, 3], &[2, 3]).given(|world| {
        world.break_db(1);
        world.db(2).status.lsn = Lsn(1 << 40);
        world.db(3).status.lsn = Lsn(77);
    });
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

/// A6: switching off takes effect only through a primary that works.
#[test]
fn a_dead_synchronous_primary_stays_synchronous() {
    let mut world = World::synchronous(3, &[2], &[2]).given(|world| {
        world.data.cluster.spec.synchronous_replication = Some(false);
        world.break_db(1);
        world.break_db(2);
    });
    let decision = world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::NoEligibleStandby { .. })));
}

/// A new primary that dies before it has reported has acknowledged nothing: the document never let it. So the former one comes back, if
/// it works.
#[test]
fn after_an_election_the_former_primary_comes_back_when_the_new_one_never_reports() {
    for (works, elected) in [(true, 1), (false, 2)] {
        let mut world = World::synchronous(2, &[2], &[2]).given(|world| world.break_db(1));
        world.round();
        if works {
            world.down.remove(&uid(1));
        }
        world.break_db(2);
        for _ in 0..40 {
            world.later(1000).round();
        }
        assert_eq!(world.data.cluster.status.primary, Some(uid(elected)));
    }
}

/// The primary fails, and its successor too before it has reported. The third one holds every commit that was acknowledged, but not
/// what the successor may have shown to readers since: what it had received and the third one had not.
#[test]
fn after_two_failures_at_once_nobody_takes_over_who_may_lack_what_was_shown() {
    let mut world = World::synchronous(3, &[2, 3], &[2, 3]).given(|world| {
        world.db(2).status.lsn = Lsn(90);
        world.db(3).status.lsn = Lsn(80);
        world.break_db(1);
    });
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    world.break_db(2);
    for _ in 0..40 {
        world.later(1000).round();
    }
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

#[test]
fn in_synchronous_mode_promotion_does_not_wait_for_proxies() {
    let mut world = World::synchronous(2, &[2], &[2]).given(|world| {
        world.proxy("p1", 1);
        world.break_db(1);
    });
    world.round();
    assert_eq!(
        world.data.cluster.status.primary,
        Some(uid(2)),
        "the old primary can acknowledge nothing any more"
    );
    assert_eq!(world.data.proxy.spec.primary, None);
}

/// db1 has just been promoted; nobody is on its timeline yet, and everybody's WAL is a part of its own.
fn just_promoted(instances: usize, listed: &[usize]) -> World {
    World::synchronous(instances, listed, &[]).given(|world| {
        let fork =
            TimelineHistoryEntry { timeline: Timeline(1), switch_point: Lsn(1_000), ..Default::default() };
        let primary = &mut world.db(1).status;
        (primary.timeline, primary.lsn, primary.timelines_history) =
            (Timeline(2), Lsn(1_200), Some(vec![fork]));
        for number in 2..=instances {
            world.db(number).status.lsn = Lsn(1_000);
        }
    })
}

/// Commits go on when it streams, without another word from a sentinel.
#[test]
fn whoever_is_still_to_come_to_the_new_timeline_is_waited_for_at_once() {
    let mut world = just_promoted(2, &[]);
    world.db(1).spec.external_synchronous_standbys = fake();
    world.round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[2]));
    assert_eq!(world.db(1).spec.external_synchronous_standbys, Some(Vec::new()));
    assert_eq!(
        world.db(1).status.synchronous_standbys,
        uids(&[]),
        "it holds nothing of the new timeline yet"
    );
}

#[test]
fn whoever_is_there_comes_before_those_who_are_still_to_come() {
    let mut world = just_promoted(3, &[]).given(|world| world.db(3).status.timeline = Timeline(2));
    world.round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[3]));
    // One that does not come makes room for another one that does.
    let mut world = just_promoted(3, &[2]);
    world.round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[2]));
    world.db(3).status.timeline = Timeline(2);
    world.later(1000).round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[3]));
}

#[test]
fn without_a_minimum_nobody_is_waited_for_who_is_still_to_come() {
    let mut world =
        just_promoted(2, &[]).given(|world| world.data.cluster.spec.min_synchronous_standbys = Some(0));
    world.round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[]));
}
