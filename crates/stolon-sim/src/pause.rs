//! While an operator's pause holds nobody is elected, nothing is removed, and no sentinel ends it.

use std::time::Duration;

use stolon_model::{ClusterData, Pause, Phase};

use crate::Time;
use crate::coverage::Point;
use crate::invariants::Invariant;
use crate::scenario::Program;
use crate::world::World;

/// The clocks of hosts run so much too fast at the most, in parts of a hundred.
const FAST: i32 = 6;

/// The last pause that an operator asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastPause {
    began: Time,
    until: Time,
}

impl World {
    /// An operator pauses the cluster from now on.
    pub(crate) fn note_pause(&mut self, span: Duration) {
        self.ledger.last_pause = Some(LastPause { began: self.now, until: self.now + span });
        self.coverage.reached(Point::Paused);
    }

    /// When there was last a reason to replace a primary. What could not be answered during a pause is answered after it.
    pub(crate) fn last_reason(&self, aftermath: Duration) -> Time {
        let last = self.ledger.last_reason;
        match self.ledger.last_pause {
            Some(pause) if last + aftermath >= pause.began && last <= pause.until => last.max(pause.until),
            _ => last,
        }
    }

    /// A sentinel replaced the document `last` by `next`.
    pub(crate) fn check_pause(&mut self, sentinel: Program, last: &ClusterData, next: &ClusterData) {
        let Some(pause) = last.cluster.pause.clone() else { return };
        let is_right = self.host(sentinel).wall_offset_ms == 0;
        if !is_right || last.cluster.status.phase != Some(Phase::Normal) || !self.certainly_holds(&pause) {
            return;
        }
        let elected = last.cluster.status.primary != next.cluster.status.primary;
        if elected {
            self.violate(Invariant::PauseIsKept, || format!("{sentinel:?} elects somebody in a pause"));
        }
        let removed = last.instances.keys().any(|uid| !next.instances.contains_key(uid))
            || last.keepers.keys().any(|uid| !next.keepers.contains_key(uid));
        if removed {
            self.violate(Invariant::PauseIsKept, || format!("{sentinel:?} removes something in a pause"));
        }
        if next.cluster.pause.is_none() {
            self.violate(Invariant::PauseIsKept, || format!("{sentinel:?} ends a pause before its time"));
        }
    }

    /// Whether a pause holds also by a monotonic clock that is too fast.
    fn certainly_holds(&self, pause: &Pause) -> bool {
        let (wall, until) = (self.true_wall().instant(), pause.until.instant());
        let meant = until.duration_since(pause.since.instant());
        until.duration_since(wall) > meant * FAST / 100
    }
}
