//! Whether clients that come to the old primary directly are out before another one is elected, in asynchronous mode
//! (docs/design/012-lease.md).

use std::time::Duration;

use stolon_model::{Instance, InstanceUid};

use super::PrimaryFault;
use super::memory::Fenced;
use super::proxy::CLOCK_TOLERANCE;
use super::round::Round;
use super::wake::{Limit, Wake};

impl Round<'_> {
    /// Have a primary that is to be replaced let its clients go: when to look again, or none where nobody has to wait for it.
    pub fn fence_primary(&mut self, primary: &Instance, because: &PrimaryFault) -> Option<Wake> {
        let term = self.seen.spec.lease_term().filter(|_| self.knows_fences(primary))?;
        self.draft.fence(&primary.uid, because);
        let since = self.fenced_since(&primary.uid);
        if has_run_out(because) || self.is_shut(primary) {
            return None;
        }
        // Whoever has not read it by then has no lease any more: it counts from the last reading.
        match self.seen.limit(since, term.mul_f64(CLOCK_TOLERANCE)) {
            Limit::Over => None,
            limit => Some(limit.wake()),
        }
    }

    /// The primary stays.
    pub fn lift_fence(&mut self, primary: &Instance) {
        self.memory.fenced = None;
        self.draft.let_in(&primary.uid);
    }

    /// Keepers of Stolon's know no fence, and are not waited for.
    fn knows_fences(&self, primary: &Instance) -> bool {
        self.answered(primary).is_some()
    }

    fn answered(&self, primary: &Instance) -> Option<i64> {
        self.last_report(&primary.spec.keeper_uid)?.activity.as_ref()?.fenced
    }

    /// Whether its keeper says that nobody writes there, since it has read that.
    fn is_shut(&self, primary: &Instance) -> bool {
        let stored = self.seen.document().instances.get(&primary.uid).filter(|stored| stored.spec.fenced);
        stored.is_some_and(|stored| self.answered(primary) == Some(stored.generation))
    }

    /// Since when the document says it. Until it was found in the store it is only decided.
    fn fenced_since(&mut self, uid: &InstanceUid) -> Duration {
        let arrived = self.seen.arrived;
        let in_store = self.seen.document().instances.get(uid).is_some_and(|stored| stored.spec.fenced);
        let known = self.memory.fenced.take().filter(|known| known.instance == *uid && in_store);
        let since = known.map_or(arrived, |known| known.since);
        self.memory.fenced = in_store.then(|| Fenced { instance: uid.clone(), since });
        since
    }
}

/// Whether the lease of the primary has run out by our clock, or its server is known to be gone. Silence lasts for `failInterval`, which is
/// longer than a lease and the time between two readings.
fn has_run_out(because: &PrimaryFault) -> bool {
    match because {
        PrimaryFault::KeeperSilent { .. }
        | PrimaryFault::KeeperRefused { .. }
        | PrimaryFault::KeeperUnknown { .. }
        | PrimaryFault::HandedOver { .. } => true,
        PrimaryFault::ForcedByOperator { .. }
        | PrimaryFault::InstanceDown { .. }
        | PrimaryFault::NotConverged { .. }
        | PrimaryFault::KeepsCrashing { .. }
        | PrimaryFault::DiskFull { .. }
        | PrimaryFault::WentBack { .. } => false,
    }
}
