//! The limits that a standby must not have below its primary's, while it runs.

use super::Machine;
use crate::keeper::look::{ControlLook, Look};

impl Machine {
    /// A running standby that has replayed that its primary runs with other limits asks for those: lowered ones are lowered here after that
    /// (PostgreSQL manual, "Hot Standby", administrator's overview). They come into force like every parameter that needs a restart.
    pub(super) fn note_replayed_limits(&mut self, look: &Look) {
        let replays = look.server.answer().is_some_and(|answer| answer.in_recovery);
        if let (true, false, ControlLook::Demands(demands)) =
            (replays, self.disk.local.initializing, &look.control)
        {
            self.making.demands = Some(*demands);
        }
    }
}
