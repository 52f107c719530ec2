//! Changes of keepers.

use std::collections::BTreeMap;

use stolon_model::{Empty, FailOutcome, Keeper, KeeperReport, KeeperStatus, KeeperUid, Pause, Timestamp};

use super::Draft;
use crate::sentinel::joined::joined;
use crate::sentinel::{Change, KeeperFault};

impl Draft<'_> {
    /// Take keepers that report for the first time into the document, and what known ones say about themselves.
    pub fn register(&mut self, reports: &BTreeMap<&KeeperUid, &KeeperReport>) {
        let mut changes = Vec::new();
        let mut strangers = Vec::new();
        for (uid, report, keeper) in
            joined(reports.iter().map(|(uid, report)| (*uid, *report)), &mut self.data.keepers)
        {
            match keeper {
                None => strangers.push(report),
                Some(keeper) => {
                    if keeper.status.boot_uuid != report.boot_uuid {
                        keeper.status.boot_uuid = report.boot_uuid.clone();
                        changes.push(Change::KeeperRestarted { keeper: uid.clone() });
                    }
                    copy_abilities(&mut keeper.status, report);
                }
            }
        }
        for report in strangers {
            let keeper = registered(report, self.wall);
            changes.push(Change::KeeperRegistered { keeper: keeper.uid.clone() });
            self.data.keepers.insert(keeper.uid.clone(), keeper);
        }
        self.changes.extend(changes);
    }

    /// Write down for every keeper whether it works: those in `faults` do not.
    pub fn judge_keepers(&mut self, faults: &BTreeMap<KeeperUid, KeeperFault>) {
        for (uid, keeper, fault) in joined(&mut self.data.keepers, faults) {
            let status = &mut keeper.status;
            let was_healthy = std::mem::replace(&mut status.healthy, fault.is_none());
            if status.healthy || status.last_healthy_time.is_never() {
                status.last_healthy_time = self.wall;
            }
            let keeper = uid.clone();
            match (fault, was_healthy) {
                (Some(because @ KeeperFault::ForcedByOperator), _) | (Some(because), true) => {
                    self.changes.push(Change::KeeperFailed { keeper, because: because.clone() });
                }
                (None, false) => self.changes.push(Change::KeeperRecovered { keeper }),
                (Some(_), false) | (None, true) => {}
            }
        }
    }

    pub fn forget_keeper(&mut self, uid: KeeperUid) {
        if self.data.keepers.remove(&uid).is_some() {
            self.note(Change::KeeperForgotten { keeper: uid });
        }
    }

    /// Take the operator's request to treat a keeper as failed: true if there was one.
    pub fn take_force_fail(&mut self, uid: &KeeperUid) -> bool {
        self.data.keepers.get_mut(uid).is_some_and(|keeper| std::mem::take(&mut keeper.status.force_fail))
    }

    /// Write down what became of a request of an operator, if that is not written down yet.
    pub fn conclude_request(&mut self, uid: &KeeperUid, outcome: FailOutcome, because: String) {
        let request = self.data.keepers.get_mut(uid).and_then(|keeper| keeper.status.fail_request.as_mut());
        if let Some(request) = request.filter(|request| request.outcome.is_none()) {
            request.outcome = Some(outcome);
            request.because = because;
            request.decided_at = self.wall;
        }
    }

    /// A pause has lapsed.
    pub fn end_pause(&mut self, pause: &Pause) {
        if self.data.cluster.pause.take().is_some() {
            self.note(Change::PauseLapsed { pause: pause.clone() });
        }
    }

    /// What became of a request is shown no longer.
    pub fn drop_request(&mut self, uid: &KeeperUid) {
        if let Some(keeper) = self.data.keepers.get_mut(uid) {
            keeper.status.fail_request = None;
        }
    }
}

fn registered(report: &KeeperReport, wall: Timestamp) -> Keeper {
    let mut keeper = Keeper { uid: report.uid.clone(), generation: 1, ..Keeper::default() };
    keeper.spec = Some(Empty {});
    keeper.status.healthy = true;
    keeper.status.last_healthy_time = wall;
    keeper.status.boot_uuid = report.boot_uuid.clone();
    copy_abilities(&mut keeper.status, report);
    keeper
}

fn copy_abilities(status: &mut KeeperStatus, report: &KeeperReport) {
    status.can_be_primary = report.can_be_primary;
    status.can_be_synchronous_replica = report.can_be_synchronous_replica;
    status.postgres_binary_version = report.postgres_binary_version.clone();
    let activity = report.activity.as_ref();
    status.http_address = activity.map(|it| it.http_address.clone()).unwrap_or_default();
    status.zone = activity.map(|it| it.zone.clone()).unwrap_or_default();
    status.failover_priority = activity.and_then(|it| it.failover_priority);
}
