//! A primary in whose place another one was elected, as the cluster data remember it (docs: design/013-recover.md).

use crate::cluster::{ClusterStatus, Instance};
use crate::json::document;
use crate::lsn::{Lsn, Timeline};
use crate::time::Timestamp;
use crate::uid::{InstanceUid, KeeperUid};

document! {
    /// A former primary whose data its keeper may still hold. Losing it is safe: the data then come back only by an operator's word.
    pub struct FormerPrimary {
        /// The instance; the cluster data may not hold it any more.
        instance: InstanceUid = "dbUID", omit;
        /// Its keeper.
        keeper: KeeperUid = "keeperUID", omit;
        /// Its generation when it was replaced.
        generation: i64 = "generation", omit;
        /// PostgreSQL system identifier in decimal.
        system_identifier: String = "systemID", omit;
        /// Its timeline by then.
        timeline: Timeline = "timelineID", omit;
        /// Its position by then.
        lsn: Lsn = "xLogPos", omit;
        /// When it was replaced, by the clock of whoever did it.
        replaced_at: Timestamp = "replacedAt", keep;
        /// The instance that was elected in its place.
        replaced_by: InstanceUid = "replacedBy", omit;
        /// Whether it holds everything that any client was told of: no document since let anybody else acknowledge a commit.
        complete: bool = "complete", omit;
        /// From here on an operator has given up what it holds on its timeline.
        given_up_from: Option<Lsn> = "givenUpFrom", omit;
    }
}

impl FormerPrimary {
    /// A primary in whose place `successor` was elected at `moment`; it does not count as complete.
    pub fn of(primary: &Instance, successor: &InstanceUid, moment: Timestamp) -> FormerPrimary {
        FormerPrimary {
            instance: primary.uid.clone(),
            keeper: primary.spec.keeper_uid.clone(),
            generation: primary.generation,
            system_identifier: primary.status.system_identifier.clone(),
            timeline: primary.status.timeline,
            lsn: primary.status.lsn,
            replaced_at: moment,
            replaced_by: successor.clone(),
            complete: false,
            given_up_from: None,
        }
    }
}

impl ClusterStatus {
    /// Somebody else may acknowledge commits: no former primary holds everything any more.
    pub fn void_formers(&mut self) {
        for former in self.formers.iter_mut().flatten() {
            former.complete = false;
        }
    }
}
