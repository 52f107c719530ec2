//! The operator after the store went back in time: what `stolonctl settle` and `clusterdata write` do with the rules of the core.
//!
//! Nothing else is settled by a person. Sentinels hold until somebody has decided, and this operator decides as the fault says, as
//! soon as every keeper reports: who settles earlier does not know what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use stolon_core::sentinel::{CannotSettle, Witnesses, accept_loss, take_newest};
use stolon_model::{ClusterData, KeeperReport, KeeperUid, Lsn};

use crate::coverage::Point;
use crate::postgres::Position;
use crate::scenario::{Command, Program, Settlement};
use crate::store::Changed;
use crate::world::{Event, World};

/// Between looks at the cluster.
const LOOK: Duration = Duration::from_secs(3);

/// A person who is called when the store went back in time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Operator {
    /// How this is settled; none: nobody was called yet.
    settles: Option<Settlement>,
    /// The store went back so often without anybody having looked at it yet.
    pub(crate) busy: u8,
    /// So many are ready to go on from what somebody holds when the primary is lost.
    pub(crate) recovering: u8,
    watches: bool,
}

/// What was settled, and whether something was given up by it.
enum Settled {
    /// The cluster goes on from the newest data.
    Kept(ClusterData),
    /// What somebody held beyond the document is given up.
    Lost(ClusterData),
}

impl World {
    /// From now on an operator watches, and settles in this way what sentinels do not decide.
    pub(crate) fn call_operator(&mut self, how: Settlement) {
        self.operator.settles = Some(how);
        self.operator.busy -= 1;
        self.have_operator_watch();
    }

    /// From now on an operator recovers what is lost, where the rules of `stolonctl recover` allow it.
    pub(crate) fn watch_for_losses(&mut self) {
        self.operator.recovering += 1;
        self.have_operator_watch();
    }

    fn have_operator_watch(&mut self) {
        if !std::mem::replace(&mut self.operator.watches, true) {
            self.after(LOOK, Event::OperatorLooks);
        }
    }

    pub(crate) fn operator_looks(&mut self) {
        self.after(LOOK, Event::OperatorLooks);
        if self.operator.recovering > 0 {
            self.operate(&Command::Recover);
        }
        let Some(how) = self.operator.settles.filter(|_| self.operator.busy == 0) else { return };
        match self.settlement(how) {
            None => {}
            Some(Settled::Kept(next)) => self.write_settled(next),
            Some(Settled::Lost(next)) => {
                self.ledger.give_up_everything();
                self.leave_other_branches(&next);
                self.write_settled(next);
            }
        }
    }

    /// Whoever has gone another way than the primary that is gone on from acknowledges commits until it knows: they are given up, too.
    pub(crate) fn leave_other_branches(&mut self, next: &ClusterData) {
        let keeper = next.primary().and_then(|primary| self.keeper_index(&primary.spec.keeper_uid));
        let Some(here) = keeper.and_then(|keeper| self.durable(keeper)) else { return };
        for keeper in 0..self.scenario.keepers {
            let Some(there) = self.durable(keeper) else { continue };
            let beginning = Position { branch: there.branch, lsn: Lsn(0) };
            if !self.histories.contains(here, beginning) {
                self.leave_behind(beginning);
            }
        }
    }

    fn write_settled(&mut self, next: ClusterData) {
        self.log.say(self.now, "##", || {
            format!(
                "an operator settles: epoch {:?}, primary {:?}",
                next.cluster.epoch, next.cluster.status.primary
            )
        });
        self.coverage.reached(Point::Settled);
        self.ledger.disturbances += 1;
        self.ledger.last_disturbance = self.now;
        self.ledger.last_reason = self.now;
        self.ledger.synchronous = next.primary().is_some_and(|it| it.spec.synchronous_replication);
        let document = Rc::new(next.into());
        self.note_decided(&document);
        self.store.put(self.store_time(), Some(document));
        self.document_replaced();
        self.note_return();
        self.notify(Changed::Document);
    }

    /// What is to be written; none: there is nothing to settle, or it is too early.
    fn settlement(&self, how: Settlement) -> Option<Settled> {
        let document = self.store.document()?;
        let data = ClusterData::try_from((**document).clone()).ok()?;
        let (keepers, sentinels) = (self.reports_of_all()?, self.sentinel_reports());
        let witnesses = Witnesses { keepers: &keepers, sentinels: &sentinels };
        let ahead: BTreeSet<KeeperUid> =
            witnesses.ahead(&data).into_iter().map(|ahead| ahead.keeper).collect();
        let wall = self.true_wall();
        if ahead.is_empty() {
            // Nobody has served under what is missing: only sentinels have seen it.
            return accept_loss(&data, &witnesses, &ahead, wall).ok().map(Settled::Kept);
        }
        // Nobody goes on from a primary that is nowhere any more.
        let remains = data.primary().is_some_and(|primary| {
            let report = keepers.get(&primary.spec.keeper_uid);
            let state = report.and_then(|report| report.postgres_state.as_ref());
            state.is_some_and(|state| state.uid == primary.uid)
        });
        if how == Settlement::AcceptLoss && remains {
            return accept_loss(&data, &witnesses, &ahead, wall).ok().map(Settled::Lost);
        }
        match take_newest(&data, &witnesses, &BTreeSet::new(), wall) {
            Ok((_, next)) => Some(Settled::Kept(next)),
            Err(CannotSettle::DataGone(keeper) | CannotSettle::Silent(keeper)) => {
                let next = take_newest(&data, &witnesses, &BTreeSet::from([keeper]), wall);
                let next =
                    next.map(|(_, next)| next).or_else(|_| accept_loss(&data, &witnesses, &ahead, wall));
                next.ok().map(Settled::Lost)
            }
            Err(_) => None,
        }
    }

    /// The reports of all keepers; none while somebody does not report.
    fn reports_of_all(&self) -> Option<BTreeMap<KeeperUid, KeeperReport>> {
        let all_run = (0..self.scenario.keepers).all(|keeper| self.run_of(Program::Keeper(keeper)).is_some());
        let reports = self.store.keeper_reports();
        (all_run && reports.len() == usize::from(self.scenario.keepers)).then_some(reports)
    }
}
