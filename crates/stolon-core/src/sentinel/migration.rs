//! What a migration asks of the sentinel (docs: design/010-migration.md): clients go to the legacy server while that serves, and nowhere
//! while one side is closed and the other not open yet; they wait while the way back is made, and stay out of a cluster that still takes
//! what the legacy server writes, or that the legacy server has taken over from again.

use std::time::Duration;

use stolon_model::{ClientsGo, ServerAddress};

use super::Hold;
use super::round::Round;
use super::wake::Wake;

/// Clients do not wait longer for the way back: whoever makes it may have died.
const PATIENCE: Duration = Duration::from_secs(10);

impl Round<'_> {
    /// Whether a migration says where clients go, and not who is primary.
    pub fn legacy_comes_first(&self) -> bool {
        self.draft.clients_go() != ClientsGo::ToCluster
    }

    /// Send clients where a migration wants them, if it does.
    pub fn guide_proxies_of_migration(&mut self) -> Wake {
        let section = &self.draft.proxy.spec;
        match self.draft.clients_go() {
            ClientsGo::ToLegacy(address) => {
                let address = address.clone();
                self.guide_to_legacy(&address)
            }
            ClientsGo::Nowhere => {
                // `stolonctl` has closed them in the write that says so, unless the document was edited by hand.
                if section.primary.is_some() || section.legacy.is_some() {
                    self.draft.send_nowhere();
                }
                self.hold(Hold::BetweenServers);
                self.await_that_proxies_are_away()
            }
            // The record is gone: what it asked for is not done any longer.
            ClientsGo::ToCluster if section.legacy.is_some() => {
                self.draft.send_nowhere();
                self.note_closed();
                Wake::NEVER
            }
            ClientsGo::ToCluster => Wake::NEVER,
        }
    }

    fn guide_to_legacy(&mut self, address: &ServerAddress) -> Wake {
        let section = &self.draft.proxy.spec;
        match (&section.primary, &section.legacy) {
            (None, Some(current)) if current == address => {
                self.memory.closed = None;
                self.draft.enable_proxies(self.seen.active_proxies.clone());
                Wake::NEVER
            }
            (None, None) => {
                self.note_closed();
                if let Some(wake) = self.wait_for_open_proxies() {
                    return wake;
                }
                self.memory.closed = None;
                self.draft.open_to_legacy(address, self.seen.active_proxies.clone());
                Wake::NEVER
            }
            _ => {
                self.draft.send_nowhere();
                self.note_closed();
                Wake::NEVER
            }
        }
    }

    /// Whoever closes one side passes the point of no return when nobody is sent there any more.
    fn await_that_proxies_are_away(&mut self) -> Wake {
        self.note_closed();
        let waiting = self.wait_for_open_proxies();
        if waiting.is_none() {
            self.draft.note_proxies_away();
        }
        waiting.unwrap_or(Wake::NEVER)
    }

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
