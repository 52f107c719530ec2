//! Commits that wait for any so many of the synchronous standbys, and who may be elected then.

use std::collections::BTreeMap;

use stolon_core::sentinel::{Change, Decision, Hold, Rejection, Standing, readiness};
use stolon_model::*;

use crate::world::*;

/// So many of these.
fn any(required: u16, of: &[usize]) -> Quorum {
    Quorum::of(required, of.iter().map(|number| uid(*number)))
}

/// db1 is the primary; `required` of the others must acknowledge. Keepers know quorums.
fn wanting(instances: usize, required: u16) -> World {
    let mut world = World::normal(instances, instances);
    let spec = &mut world.data.cluster.spec;
    spec.synchronous_replication = Some(true);
    spec.max_synchronous_standbys = Some(instances as u16 - 1);
    spec.max_standbys_per_sender = Some(instances as u16);
    spec.synchronous_quorum = Some(required);
    world.knows_quorums = (1..=instances).map(keeper_uid).collect();
    world
}

/// The same, where the quorum is in force.
fn in_force(instances: usize, required: u16) -> World {
    let mut world = wanting(instances, required);
    world.round();
    settle(&mut world);
    assert_eq!(known(&mut world), [any(required, &(2..=instances).collect::<Vec<_>>())]);
    world
}

/// The primary comes to its generation, and says that what is asked of it holds everything.
fn settle(world: &mut World) {
    world.converge();
    let primary = world.db(1);
    let members = primary.spec.synchronous_standbys.iter().flatten().cloned();
    let quorum = Quorum::of(primary.spec.synchronous_quorum, members);
    let report = QuorumReport { generation: primary.generation, quorum };
    world.quorum.insert(uid(1), report);
    world.round();
    world.converge();
}

fn known(world: &mut World) -> Vec<Quorum> {
    world.db(1).status.quorums.clone().unwrap_or_default()
}

fn asked(world: &mut World) -> (u16, Option<Vec<InstanceUid>>) {
    let spec = &world.db(1).spec;
    (spec.synchronous_quorum, spec.synchronous_standbys.clone())
}

fn at(world: &mut World, positions: &[(usize, u64)]) {
    world.db(1).status.lsn = Lsn(900);
    for (number, lsn) in positions {
        world.db(*number).status.lsn = Lsn(*lsn);
    }
}

fn elected_one(decision: &Decision) -> Option<InstanceUid> {
    decision.changes.iter().find_map(|change| match change {
        Change::PrimaryElected { to, .. } => Some(to.clone()),
        _ => None,
    })
}

fn told_to_stop(world: &World) -> Vec<InstanceUid> {
    world.data.instances.values().filter(|it| it.spec.stops_receiving).map(|it| it.uid.clone()).collect()
}

fn rejections(decision: &Decision) -> Vec<Rejection> {
    let held = decision.holds.iter().find_map(|hold| match hold {
        Hold::NoEligibleStandby { rejected, .. } => {
            Some(rejected.iter().map(|(_, why)| why.clone()).collect())
        }
        _ => None,
    });
    held.unwrap_or_default()
}

#[test]
fn nobody_can_be_elected_before_the_primary_says_that_the_quorum_holds_everything() {
    let mut world = wanting(3, 1);
    world.round();
    assert_eq!(asked(&mut world), (1, uids(&[2, 3])));
    assert_eq!(known(&mut world), []);
    assert_eq!(world.db(1).status.synchronous_standbys, uids(&[]), "a sentinel of Stolon's elects nobody");
    world.converge();
    world.silence_keeper(1);
    let decision = world.round();
    assert_eq!(elected_one(&decision), None);
    assert_eq!(rejections(&decision), [Rejection::NotSynchronous, Rejection::NotSynchronous]);
    assert_eq!(told_to_stop(&world), []);
}

#[test]
fn a_report_of_another_generation_says_nothing() {
    let mut world = wanting(3, 1);
    world.round();
    world.converge();
    let generation = world.db(1).generation;
    for (generation, quorum, expected) in [
        (generation - 1, any(1, &[2, 3]), vec![]),
        (generation, any(2, &[2, 3]), vec![]),
        (generation, any(1, &[2]), vec![]),
        (generation, any(1, &[2, 3]), vec![any(1, &[2, 3])]),
    ] {
        world.quorum.insert(uid(1), QuorumReport { generation, quorum });
        world.round();
        assert_eq!(known(&mut world), expected);
    }
}

#[test]
fn who_is_furthest_ahead_is_elected_once_all_that_count_receive_nothing_any_more() {
    let mut world = in_force(3, 1);
    at(&mut world, &[(2, 100), (3, 300)]);
    world.silence_keeper(1);
    let decision = world.round();
    assert_eq!(elected_one(&decision), None, "something may still come to either");
    assert_eq!(told_to_stop(&world), [uid(2), uid(3)]);
    // Until then the first one receives what nobody else has.
    at(&mut world, &[(2, 500)]);
    world.db(2).status.current_generation += 1;
    let decision = world.round();
    assert_eq!(elected_one(&decision), None, "one of two that any one of them may have it");
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::AwaitingPositions { .. })));
    world.db(3).status.current_generation += 1;
    let decision = world.round();
    assert_eq!(elected_one(&decision), Some(uid(2)));
    let new = world.db(2);
    assert_eq!((new.spec.synchronous_quorum, new.spec.stops_receiving), (0, false));
    assert_eq!(new.spec.synchronous_standbys, uids(&[1, 3]), "it acknowledges nothing yet");
    assert_eq!(told_to_stop(&world), [uid(3)], "the former primary may not acknowledge by it");
}

#[test]
fn of_two_of_three_any_two_are_enough_to_compare() {
    let mut world = in_force(4, 2);
    at(&mut world, &[(2, 100), (3, 300), (4, 900)]);
    world.silence_keeper(1);
    world.round();
    assert_eq!(told_to_stop(&world), [uid(2), uid(3), uid(4)]);
    // The third one never answers.
    for number in [2, 3] {
        world.db(number).status.current_generation += 1;
    }
    assert_eq!(elected_one(&world.round()), Some(uid(3)));
}

#[test]
fn with_too_few_to_compare_nobody_is_elected_and_nobody_is_stopped() {
    let mut world = in_force(3, 1);
    at(&mut world, &[(2, 100), (3, 300)]);
    world.silence_keeper(1);
    world.silence_keeper(2);
    let decision = world.round();
    assert_eq!(elected_one(&decision), None);
    assert!(rejections(&decision).contains(&Rejection::TooFewToCompare { found: 1, needed: 2 }));
    assert_eq!(told_to_stop(&world), []);
}

#[test]
fn those_that_were_stopped_receive_again_when_the_primary_stays() {
    let mut world = in_force(3, 1);
    world.silence_keeper(1);
    world.round();
    assert_eq!(told_to_stop(&world).len(), 2);
    world.converge();
    world.silent.clear();
    world.keeper(1).status.healthy = true;
    world.memory.trouble.clear();
    world.round();
    assert_eq!(told_to_stop(&world), []);
    assert_eq!(known(&mut world), [any(1, &[2, 3])]);
}

#[test]
fn who_holds_less_than_before_is_not_compared() {
    let mut world = in_force(3, 1);
    at(&mut world, &[(2, 5_000_000), (3, 4_000_000)]);
    world.round();
    at(&mut world, &[(2, 100)]);
    world.silence_keeper(1);
    let decision = world.round();
    assert!(rejections(&decision).contains(&Rejection::TooFewToCompare { found: 1, needed: 2 }));
}

/// One of two members is lost while the primary works.
fn one_lost() -> World {
    let mut world = in_force(3, 1);
    at(&mut world, &[(2, 100), (3, 300)]);
    world.silence_keeper(3);
    world.break_db(3);
    world.round();
    world
}

#[test]
fn a_member_that_is_lost_leaves_and_both_quorums_count_until_the_new_one_holds_everything() {
    let mut world = one_lost();
    assert_eq!(asked(&mut world), (1, uids(&[2])));
    assert_eq!(known(&mut world), [any(1, &[2, 3]), any(1, &[2])]);
    let mut lost = one_lost();
    lost.silence_keeper(1);
    assert_eq!(elected_one(&lost.round()), None, "the lost one may have acknowledged alone");
    assert_eq!(told_to_stop(&lost), []);
    settle(&mut world);
    assert_eq!(known(&mut world), [any(1, &[2])]);
    world.silence_keeper(1);
    world.round();
    world.converge();
    assert_eq!(elected_one(&world.round()), Some(uid(2)));
}

#[test]
fn after_all_of_them_each_of_those_in_sync_counts_alone_beside_the_quorum() {
    let mut world = World::synchronous(3, &[2, 3], &[2, 3]);
    let spec = &mut world.data.cluster.spec;
    (spec.max_synchronous_standbys, spec.synchronous_quorum) = (Some(2), Some(1));
    world.knows_quorums = (1..=3).map(keeper_uid).collect();
    world.round();
    assert_eq!(known(&mut world), [any(2, &[2, 3]), any(1, &[2, 3])]);
    assert_eq!(world.db(1).status.synchronous_standbys, uids(&[]));
    settle(&mut world);
    // And back: nobody counts before the primary has waited for it.
    world.data.cluster.spec.synchronous_quorum = None;
    world.round();
    assert_eq!(asked(&mut world), (0, uids(&[2, 3])));
    assert_eq!(world.db(1).status.synchronous_standbys, uids(&[]));
    assert_eq!(world.db(1).status.quorums, None);
}

#[test]
fn with_fewer_than_the_quorum_commits_block_unless_the_primary_may_go_on_alone() {
    for (minimum, required, fake) in [(1, 2, true), (0, 1, false)] {
        let mut world = wanting(2, 1);
        let spec = &mut world.data.cluster.spec;
        (spec.max_synchronous_standbys, spec.synchronous_quorum) = (Some(2), Some(2));
        spec.min_synchronous_standbys = Some(minimum);
        world.round();
        assert_eq!(asked(&mut world), (required, uids(&[2])), "minimum {minimum}");
        let external = world.db(1).spec.external_synchronous_standbys.clone().unwrap();
        assert_eq!(!external.is_empty(), fake, "minimum {minimum}");
    }
    let mut world = wanting(1, 1);
    world.data.cluster.spec.max_synchronous_standbys = Some(1);
    world.data.cluster.spec.min_synchronous_standbys = Some(0);
    world.round();
    assert_eq!(asked(&mut world), (0, uids(&[])), "nobody is there");
}

#[test]
fn keepers_that_know_no_quorums_are_all_waited_for() {
    let mut world = wanting(3, 1);
    world.knows_quorums.remove(&keeper_uid(1));
    world.round();
    assert_eq!(asked(&mut world), (0, uids(&[2, 3])));
    let mut world = wanting(3, 1);
    world.knows_quorums.remove(&keeper_uid(3));
    world.round();
    assert_eq!(asked(&mut world), (1, uids(&[2])), "who cannot be stopped cannot be compared");
}

#[test]
fn a_full_disk_stops_standbys_once_and_elects_one_of_them() {
    let mut world = in_force(3, 1);
    at(&mut world, &[(2, 100), (3, 300)]);
    let full = |world: &mut World| {
        let mut reports = world.current_reports();
        let activity = reports.get_mut(&keeper_uid(1)).unwrap().activity.as_mut().unwrap();
        activity.disk =
            Some(DiskReport { fault: Some(DiskFault::Full), lasting: true, ..DiskReport::default() });
        world.round_on(&reports)
    };
    assert_eq!(elected_one(&full(&mut world)), None);
    assert_eq!(told_to_stop(&world).len(), 2);
    let decision = full(&mut world);
    assert_eq!(told_to_stop(&world).len(), 2, "{:?}", texts(&decision.changes));
    world.converge();
    assert_eq!(elected_one(&full(&mut world)), Some(uid(3)));
}

#[test]
fn what_would_be_lost_is_nothing_where_enough_can_be_compared() {
    let mut world = in_force(3, 1);
    at(&mut world, &[(2, 100), (3, 300)]);
    let ready = |world: &World| {
        let cluster = world.data.clone().try_into().unwrap();
        let reports: BTreeMap<KeeperUid, KeeperReport> = BTreeMap::new();
        readiness(&cluster, |uid| reports.get(uid), stolon_core::sentinel::Leadership::Held).unwrap()
    };
    let expected = "if the primary failed now: keeper3 would take over, nothing would be lost";
    assert_eq!(ready(&world).to_string(), expected);
    world.db(2).status.healthy = false;
    let readiness = ready(&world);
    assert_eq!(readiness.successor, None);
    assert!(
        readiness.rejected.contains(&(keeper_uid(3), Rejection::TooFewToCompare { found: 1, needed: 2 }))
    );
    assert_eq!(world.standing, Standing::Leader);
}
