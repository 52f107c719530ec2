//! I3, I8, I9, I10: what must hold when another primary is elected, and for the one that was deposed.

use std::time::Duration;

use stolon_model::{ClusterData, InstanceUid, KeeperUid, Lsn};

use crate::coverage::Point;
use crate::invariants::Invariant;
use crate::lease::Successor;
use crate::postgres::Position;
use crate::scenario::Program;
use crate::world::{Life, World};

/// A deposed primary has locked its clients out within this, where nothing keeps its keeper from it.
const DEPOSED: Duration = Duration::from_secs(3);

/// One whose disk hangs has been ended within this and a sleep interval, where nothing else is wrong: a look that waits for the disk comes
/// first.
const HUNG: Duration = Duration::from_secs(6);

impl World {
    /// I9, I10: another primary was elected.
    pub(crate) fn check_election(&mut self, synchronous: bool) {
        self.ledger.synchronous = synchronous;
        self.ledger.elections += 1;
        self.coverage.reached(Point::Failover);
        let now = self.now;
        if self.ledger.last_election.is_some_and(|last| now - last < Duration::from_secs(60)) {
            self.coverage.reached(Point::DoubleFailover);
        }
        self.ledger.last_election = Some(now);
        let spec = &self.scenario.spec;
        let aftermath = Duration::from_millis(spec.fail * 3 + spec.convergence * 2) + Duration::from_secs(60);
        if self.ledger.active_reasons == 0 && now.saturating_sub(self.last_reason(aftermath)) > aftermath {
            self.violate(Invariant::I9NoFalseFailover, || {
                "another primary was elected for no reason".to_owned()
            });
        }
        let (elections, disturbances) = (self.ledger.elections, self.ledger.disturbances);
        if elections > 3 + 3 * disturbances {
            self.violate(Invariant::I10NoFlapping, || {
                format!("{elections} elections for {disturbances} beginnings and ends of faults")
            });
        }
    }

    /// I8 in asynchronous mode: who is elected is not further behind what the primary had reported than `maxStandbyLag`.
    pub(crate) fn check_lag(&mut self, last: &ClusterData, old: &InstanceUid, new: &InstanceUid) {
        let Some((_, keeper)) = self.elected().filter(|_| !self.ledger.synchronous) else { return };
        let Some(here) = self.durable(keeper).filter(|_| self.local_instance(keeper).as_ref() == Some(new))
        else {
            return;
        };
        // Nobody knows at once that a host was set back; it must not be promoted.
        if self.misses_what_it_had(keeper) {
            return;
        }
        let Some(reported) = last.instances.get(old).map(|primary| primary.status.lsn) else { return };
        let limit = last.cluster.spec.effective().max_standby_lag;
        if here.lsn.0.saturating_add(limit.into()) < reported.0 {
            self.violate(Invariant::I8PromotedHoldsEverything, || {
                format!("k{keeper} is elected at {} although the primary had reported {reported}", here.lsn)
            });
        }
    }

    /// A keeper reports.
    pub(crate) fn note_life(&mut self, uid: &KeeperUid) {
        let now = self.now;
        if let Some(index) = self.keeper_index(uid) {
            self.keeper(index).reported_at = Some(now);
        }
    }

    /// I8: the keeper of who is elected has reported since the sentinel began that elects it. What was there when it began may be the
    /// last word of somebody who is dead.
    pub(crate) fn check_life(&mut self, sentinel: Program) {
        let Program::Sentinel(sentinel) = sentinel else { return };
        let Some((_, keeper)) = self.elected() else { return };
        let began = self.sentinels[usize::from(sentinel)].began;
        if self.keepers[usize::from(keeper)].reported_at.is_none_or(|reported| reported < began) {
            self.violate(Invariant::I8ElectedIsAlive, || {
                format!("s{sentinel} elects k{keeper}, which has not reported since s{sentinel} began")
            });
        }
    }

    /// A primary whose successor let nobody in through a proxy may be elected again and goes on where it was: the successor's promotion
    /// counts no more. In asynchronous mode that gives up what the successor acknowledged to whoever went to it directly. If
    /// proxies had sent it anybody, the next commit through one would break I2.
    pub(crate) fn note_return(&mut self) {
        let Some((_, keeper)) = self.elected() else { return };
        let Some(here) = self.durable(keeper) else { return };
        let histories = &self.histories;
        self.ledger.left_at.retain(|branch, lsn| {
            let beyond = Position { branch: *branch, lsn: Lsn(lsn.0 + 1) };
            *branch != here.branch && !histories.contains(here, beyond)
        });
        let Some(Successor { branch: promoted, .. }) = self.ledger.promoted else { return };
        if !self.histories.contains(here, Position { branch: promoted, lsn: Lsn(0) }) {
            self.ledger.promoted = Some(Successor { keeper, branch: here.branch, at: self.now });
            if !self.ledger.synchronous {
                self.ledger.left_at.insert(promoted, Lsn(0));
                self.give_up_asynchronously(here);
            }
        }
    }

    /// In asynchronous mode a server was promoted at `from`. Whoever worked before it may go on for a while, and tell those that go to it
    /// directly that they have committed: nobody promised to keep that, also when an operator switches to synchronous mode meanwhile.
    pub(crate) fn leave_behind(&mut self, from: Position) {
        self.ledger.left_at.insert(from.branch, from.lsn);
    }

    /// Whether a position lies beyond where its branch, or one that it grew from, was left in asynchronous mode.
    pub(crate) fn was_left(&self, position: Position) -> bool {
        self.ledger.left_at.iter().any(|(branch, lsn)| {
            let beyond = Position { branch: *branch, lsn: Lsn(lsn.0 + 1) };
            self.histories.contains(position, beyond)
        })
    }

    /// I3: a keeper that knows since a while that another primary was elected lets nobody commit, whatever the mode; a fault may have
    /// kept it from locking them out, so that the time counts anew.
    pub(crate) fn check_deposed(&mut self, keeper: u8) {
        let Some(since) = self.keepers[usize::from(keeper)].deposed_since else { return };
        let sleep = Duration::from_millis(self.scenario.spec.sleep);
        if let Some(thaw) = self.postgres[usize::from(keeper)].troubles.thaw
            && thaw.at.saturating_sub(thaw.undisturbed_since.max(since)) > HUNG + sleep
            && self.now - thaw.at < DEPOSED
        {
            self.violate(Invariant::I3NoSplitBrain, || {
                format!("pg{keeper} was deposed while its disk hung, and lets clients commit when it is back")
            });
        }
        let since = since.max(self.ledger.last_disturbance);
        let works = self.processes.get(&Program::Keeper(keeper)).is_some_and(|it| it.life == Life::Running);
        let troubled = !works || self.postgres[usize::from(keeper)].troubles.is_any();
        if !troubled && self.now - since > DEPOSED {
            self.violate(Invariant::I3NoSplitBrain, || {
                format!("pg{keeper} lets clients commit although its keeper knows that it was deposed")
            });
        }
    }
}
