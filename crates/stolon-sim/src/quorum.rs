//! Commits that wait for a quorum: where it takes all the guards that there are.

use std::collections::BTreeSet;
use std::time::Duration;

use stolon_model::{Instance, InstanceUid, Quorum};

use crate::invariants::Invariant;
use crate::sabotage::Guard;
use crate::scenario::{Direction, Fault, Lease, Placement, Scenario, Spec, What};
use crate::world::World;

impl World {
    /// I11 where commits wait for a quorum: of enough members of every rule there is one that holds everything, whichever are compared.
    pub(crate) fn check_quorum_promise(&mut self) {
        if self.lacks(Guard::EnoughToCompare) || self.lacks(Guard::JointQuorums) {
            // What is written down is wrong then; what counts is what comes of it.
            return;
        }
        let Some(document) = self.decided().cloned() else { return };
        let Some((uid, _)) = self.elected() else { return };
        let Some(instances) = document.instances.as_ref() else { return };
        let Some(primary) = instances.get(&uid).filter(|primary| primary.spec.synchronous_quorum > 0) else {
            return;
        };
        let rules = primary.status.quorums.as_deref().unwrap_or_default();
        let mut lacking: BTreeSet<&InstanceUid> = BTreeSet::new();
        for uid in rules.iter().flat_map(Quorum::members) {
            let Some(instance) = instances.get(uid) else { continue };
            let Some(keeper) = self.keeper_index(&instance.spec.keeper_uid) else { continue };
            if self.local_instance(keeper).as_ref() != Some(uid) || self.misses_what_it_had(keeper) {
                continue;
            }
            let here = self.durable(keeper);
            if here.is_some_and(|here| self.ledger.lacking(&self.histories, here).is_some()) {
                lacking.insert(uid);
            }
        }
        let fools = |rule: &Quorum| {
            rule.members().iter().filter(|uid| lacking.contains(uid)).count() >= rule.to_compare()
        };
        if !rules.is_empty() && rules.iter().all(fools) {
            self.violate(Invariant::I11SynchronousPromise, || {
                format!("by the rules {rules:?} somebody could be elected who lacks what was promised")
            });
        }
    }

    /// Whether an election by the rules of a primary, without whoever does not work now, finds somebody who holds everything.
    pub(crate) fn quorum_can_spare(
        &self,
        primary: &Instance,
        works: impl Fn(&InstanceUid) -> Option<u8>,
    ) -> bool {
        let rules = primary.status.quorums.as_deref().unwrap_or_default();
        let members: BTreeSet<u8> = rules.iter().flat_map(Quorum::members).filter_map(&works).collect();
        let enough = |rule: &Quorum| {
            rule.members().iter().filter(|uid| works(uid).is_some()).count() >= rule.to_compare()
        };
        // Who is ahead of those may lack nothing either, and be the one that may not be elected.
        !rules.is_empty()
            && rules.iter().all(enough)
            && members.iter().all(|keeper| self.holds_everything(*keeper))
    }

    /// The rules of a primary as a sentinel sees them without this guard.
    pub(crate) fn as_rules_without(&self, guard: Guard, rules: &mut Vec<Quorum>) {
        match guard {
            // As if all had acknowledged, so that anyone will do.
            Guard::EnoughToCompare => rules.iter_mut().for_each(|rule| {
                rule.required = u16::try_from(rule.members().len()).unwrap_or(u16::MAX);
            }),
            // The new one alone.
            _ => drop(rules.drain(..rules.len().saturating_sub(1))),
        }
    }
}

/// Each of three keepers is the primary in a third of the seeds, and each of the others the one that is slow.
fn roles(seed: u64) -> [u8; 3] {
    match seed % 6 {
        0 => [0, 1, 2],
        1 => [0, 2, 1],
        2 => [1, 0, 2],
        3 => [1, 2, 0],
        4 => [2, 0, 1],
        _ => [2, 1, 0],
    }
}

impl Scenario {
    /// Three keepers, and any one of two standbys acknowledges.
    fn any_one_of_two(seed: u64, faults: Vec<Fault>) -> Scenario {
        let scenario = Scenario::focused(seed, Duration::from_secs(200), &[], Some((1, 1)));
        let (sleep, fail, proxy_check, proxy_timeout) = (1_000, 4_000, 1_000, 3_000);
        let (synchronous, quorum) = (Some((1, 2)), Some(1));
        let spec =
            Spec { sleep, fail, proxy_check, proxy_timeout, synchronous, quorum, ..scenario.spec.clone() };
        Scenario {
            keepers: 3,
            clients: 4,
            direct_clients: 2,
            placement: Placement::Apart,
            spec,
            faults,
            ..scenario
        }
    }

    /// One standby is slow to flush; the other one has acknowledged what it lacks, and loses its power together with the primary.
    pub fn two_of_a_quorum(seed: u64) -> Scenario {
        Self::lost_twice(seed, 80_000, |at, [primary, ahead, slow]| {
            [
                Fault { at: at - 1_000, lasts: 25_000, what: What::DiskSlow(slow, 900) },
                Fault { at, lasts: 30_000, what: What::PowerLoss(ahead) },
                Fault { at: at + 2, lasts: 45_000, what: What::PowerLoss(primary) },
            ]
        })
    }

    /// The same faults twice, so many milliseconds apart, with the parts of primary, standby ahead and slow standby played by others.
    fn lost_twice(seed: u64, apart: u64, faults: impl Fn(u64, [u8; 3]) -> [Fault; 3]) -> Scenario {
        let rounds =
            (0..2).flat_map(|round| faults(45_000 + round * apart + seed % 997, roles(seed + round)));
        Self::any_one_of_two(seed, rounds.collect())
    }

    /// The primary's keeper loses the store, and its server goes on: clients come to it directly, and standbys stream from it.
    pub fn quorum_without_the_store(seed: u64) -> Scenario {
        let faults = (0..3).map(|keeper: u8| {
            let at = 45_000 + u64::from(keeper) * 50_000 + seed % 997;
            Fault { at, lasts: 25_000, what: What::CutFromStore(keeper, Direction::Both) }
        });
        let scenario = Self::any_one_of_two(seed, faults.collect());
        // The lease shuts the old primary in time as well, and would hide that the guard is missing.
        let spec = Spec { lease: Lease::Ignored, ..scenario.spec.clone() };
        Scenario { spec, direct_clients: 5, ..scenario }
    }

    /// One standby lacks for seconds what the other one has acknowledged; that one ends, so that the first one is the only member of the next
    /// quorum, and the primary ends when nobody knows yet whether it has everything.
    pub fn quorum_that_changes(seed: u64) -> Scenario {
        Self::lost_twice(seed, 85_000, |at, [primary, ahead, slow]| {
            [
                Fault { at: at - 300, lasts: 30_000, what: What::DiskSlow(slow, 14_000) },
                Fault { at, lasts: 40_000, what: What::PowerLoss(ahead) },
                Fault { at: at + 5_000 + seed % 7 * 500, lasts: 45_000, what: What::PowerLoss(primary) },
            ]
        })
    }
}
