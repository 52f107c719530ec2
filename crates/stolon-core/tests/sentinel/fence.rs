//! In asynchronous mode nobody is elected while clients may be on a primary whose keeper works (docs/design/012-lease.md).

use std::time::Duration;

use stolon_core::sentinel::{Change, Decision, Hold, PrimaryFault, Weight};
use stolon_model::*;

use crate::world::*;

/// As much as the lease lasts by default, and a tenth.
const TERM: u64 = 16_500;

/// One round on reports in which the primary's keeper says that clients are out in this generation, or knows no fence.
fn round(world: &mut World, fenced: Option<i64>) -> Decision {
    let mut reports = world.current_reports();
    for report in reports.values_mut() {
        report.activity.as_mut().unwrap().fenced = fenced;
    }
    world.later(100).round_on(&reports)
}

fn is_held(decision: &Decision) -> bool {
    has_hold(decision, |hold| matches!(hold, Hold::AwaitingClientsOut { .. }))
}

fn primary(world: &World) -> Option<InstanceUid> {
    world.data.cluster.status.primary.clone()
}

/// Its PostgreSQL has not worked for long, and its keeper knows fences.
fn broken() -> World {
    World::normal(2, 2).given(|world| world.break_db(1))
}

#[test]
fn clients_of_a_primary_whose_keeper_works_are_out_before_another_one_is_elected() {
    let mut world = broken();
    let decision = round(&mut world, Some(0));
    assert!(is_held(&decision) && decision.wake_at.is_some(), "{:?}", decision.holds);
    assert!(world.db(1).spec.fenced && world.data.proxy.spec.primary.is_none());
    assert!(decision.changes.iter().any(|change| matches!(change, Change::Fenced { .. })));
    let generation = world.db(1).generation;
    // What it said in another generation was about another fence.
    for other in [0, generation - 1, generation + 1] {
        assert!(is_held(&round(&mut world, Some(other))), "{other}");
        assert_eq!(primary(&world), Some(uid(1)));
    }
    round(&mut world, Some(generation));
    assert_eq!(primary(&world), Some(uid(2)));
    assert!(world.data.instances.values().all(|instance| !instance.spec.fenced));
}

/// Whoever reads that it is fenced shuts, and whoever does not read has no lease after a term.
#[test]
fn a_keeper_that_says_nothing_is_waited_for_until_its_lease_is_over() {
    let mut world = broken();
    round(&mut world, Some(0));
    // From here on it is in the store. Each round is a tenth of a second later.
    for tenth in 0..TERM / 100 {
        let decision = round(&mut world, Some(0));
        assert!(is_held(&decision), "{tenth}: {:?}", decision.holds);
    }
    round(&mut world, Some(0));
    round(&mut world, Some(0));
    assert_eq!(primary(&world), Some(uid(2)));
}

#[test]
fn nobody_is_waited_for_where_there_is_nothing_to_wait_for() {
    let cases: [(&str, Option<i64>, fn(&mut World)); 5] = [
        ("a keeper of Stolon's", None, |_| {}),
        ("an operator wants no lease", Some(0), |world| {
            world.data.cluster.spec.fence_without_lease = Some(false);
        }),
        ("it is turned off with the pledges", Some(0), |world| {
            world.data.cluster.spec.primary_lease = Some(GoDuration::from_seconds(0));
        }),
        ("a keeper that was silent for longer than its lease", Some(0), |world| world.silence_keeper(1)),
        ("synchronous mode", Some(0), |world| {
            let working = World::synchronous(2, &[2], &[2]);
            world.data.cluster.spec.synchronous_replication = Some(true);
            world.db(1).spec = working.data.instances[&uid(1)].spec.clone();
            world.db(1).status.synchronous_standbys = uids(&[2]);
        }),
    ];
    for (what, fenced, change) in cases {
        let mut world = broken().given(change);
        let decision = round(&mut world, fenced);
        assert_eq!(primary(&world), Some(uid(2)), "{what}: {:?}", decision.holds);
    }
}

/// Proxies and direct clients are waited for at the same time.
#[test]
fn proxies_and_the_keeper_are_waited_for_together() {
    let mut world = broken().given(|world| world.proxy("p1", 1));
    let decision = round(&mut world, Some(0));
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::AwaitingFence { .. })), "{:?}", decision.holds);
    let generation = world.db(1).generation;
    assert!(world.db(1).spec.fenced, "both are asked in one write");
    round(&mut world, Some(generation));
    assert_eq!(primary(&world), Some(uid(1)));
    let closed = world.data.proxy.generation;
    world.proxy("p1", closed);
    round(&mut world, Some(generation));
    assert_eq!(primary(&world), Some(uid(2)));
}

#[test]
fn a_primary_that_stays_after_all_lets_clients_in() {
    let mut world = broken();
    round(&mut world, Some(0));
    assert!(world.db(1).spec.fenced);
    // It works again before it has said anything.
    world.down.clear();
    let decision = round(&mut world, Some(0));
    assert_eq!(primary(&world), Some(uid(1)));
    assert!(!world.db(1).spec.fenced, "{:?}", texts(&decision.changes));
    assert!(decision.changes.iter().any(|change| matches!(change, Change::LetIn { .. })));

    // Nobody is left who could take over.
    let mut world = broken();
    round(&mut world, Some(0));
    world.silence_keeper(2);
    let decision = round(&mut world, Some(0));
    assert!(!world.db(1).spec.fenced, "{:?}", texts(&decision.changes));
}

/// The end is what it holds when nobody writes any more, those among them that came to it directly.
#[test]
fn an_operators_replacement_is_at_its_end_when_clients_are_out() {
    let mut world = World::normal(2, 2).given(|world| {
        world.keeper(1).status.force_fail = true;
        world.db(1).status.lsn = Lsn(500);
        world.db(2).status.lsn = Lsn(500);
    });
    round(&mut world, Some(0));
    assert!(is_held(&round(&mut world, Some(0))));
    world.db(1).status.lsn = Lsn(600);
    let generation = world.db(1).generation;
    let mut last = None;
    for _ in 0..4 {
        last = Some(round(&mut world, Some(generation)));
    }
    let last = last.unwrap();
    let waits = |hold: &Hold| matches!(hold, Hold::AwaitingCatchUp { lsn: Some(Lsn(600)), .. });
    assert!(has_hold(&last, waits), "{:?}", last.holds);
    world.db(2).status.lsn = Lsn(600);
    round(&mut world, Some(generation));
    assert_eq!(primary(&world), Some(uid(2)));
}

/// Its keeper tells of it when it reaches the store again, in each of its reports for a while.
#[test]
fn what_the_lease_did_to_clients_is_entered_once() {
    let mut world = World::normal(2, 2);
    let tell = |world: &mut World, number: u64, replaced: bool| {
        let mut reports = world.current_reports();
        let (instance, why, lasted) = (uid(1), "of this".to_owned(), GoDuration::from_seconds(23));
        let lockout = LockoutReport { instance, number, why, lasted, replaced };
        reports.get_mut(&keeper_uid(1)).unwrap().activity.as_mut().unwrap().locked_out = Some(lockout);
        let decision = world.later(100).round_on(&reports);
        for change in &decision.changes {
            let Change::LockedOut { mark, .. } = change else { panic!("{change}") };
            // As the machine enters it, with a limit to what it keeps of a sentence.
            let details = vec![change.to_string()];
            let mut entry = HistoryEntry::of_sentinel(wall(0), "s1".into(), "locked out", details);
            entry.mark.clone_from(mark);
            world.data.cluster.status.record(entry);
        }
        assert_eq!(decision.changes.is_empty(), decision.weight == Weight::Routine);
        texts(&decision.changes)
    };
    for (number, replaced, end) in [(1, false, "and has let them in again"), (2, true, "until another db")] {
        let said = tell(&mut world, number, replaced);
        let expected = |line: &String| {
            line.contains("for 23 s, ") && line.contains(end) && line.ends_with("since of this")
        };
        assert!(matches!(said.as_slice(), [one] if expected(one)), "{said:?}");
        for _ in 0..3 {
            assert!(tell(&mut world, number, replaced).is_empty());
        }
    }
}

#[test]
fn a_primary_that_is_known_to_be_gone_is_not_waited_for() {
    let mut world = broken();
    let verdict = stolon_core::sentinel::Refused {
        last: None,
        witnesses: vec![keeper_uid(2)],
        within: Duration::from_secs(1),
    };
    world.silent.insert(keeper_uid(1));
    world.memory.refused.insert(keeper_uid(1), verdict);
    let decision = round(&mut world, Some(0));
    let because = decision.changes.iter().find_map(|change| match change {
        Change::PrimaryElected { because, .. } => Some(because.clone()),
        _ => None,
    });
    assert!(
        because.is_some_and(|it| !matches!(it, PrimaryFault::InstanceDown { .. })),
        "{:?}",
        decision.holds
    );
}
