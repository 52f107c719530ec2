//! What a migration asks of the sentinel (docs: design/010-migration.md): clients wait while the way back is made, and stay out of a
//! cluster that still takes what the legacy server writes, or that the legacy server has taken over from again.

use std::time::Duration;

use super::Hold;
use super::round::Round;
use super::wake::Wake;

/// Clients do not wait longer for the way back: whoever makes it may have died.
const PATIENCE: Duration = Duration::from_secs(10);

impl Round<'_> {
    /// Whether a migration keeps the proxies closed, and when to look again.
    pub fn migration_keeps_closed(&mut self) -> Option<Wake> {
        let migration = self.seen.document().cluster.status.migration.as_ref()?;
        if migration.closes_cluster() {
            self.hold(Hold::MovedBack);
            return Some(Wake::NEVER);
        }
        if migration.fills_cluster() {
            self.hold(Hold::MovingIn);
            return Some(Wake::NEVER);
        }
        if !migration.prepares_way_back() {
            return None;
        }
        let patience = self.seen.limit(self.closed_since(), PATIENCE);
        if patience.is_over() {
            return None;
        }
        self.hold(Hold::AwaitingWayBack);
        Some(patience.wake())
    }
}
