//! What a keeper does about a server that an earlier one left: it takes it over, or ends it (`docs/design/011-keeper-upgrade.md`).

use stolon_core::keeper::{DataKind, Event as MachineEvent, Found, FoundServer, Gate};

use crate::coverage::Point;
use crate::postgres::{Disk, Phase};
use crate::sabotage::Guard;
use crate::world::World;

/// What a keeper that begins makes of what it finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trust {
    /// It takes over what is healthy.
    #[default]
    Healthy,
    /// It was given another port, say: it starts its own.
    Nothing,
}

/// Whether a keeper that ends leaves its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Will {
    /// It stops it.
    #[default]
    Stops,
    /// It leaves it to the next one.
    Leaves,
}

impl World {
    /// The server that a keeper takes over when it begins.
    pub(crate) fn found(&mut self, index: u8) -> Found {
        let (postgres, keeper) = (&self.postgres[usize::from(index)], &self.keepers[usize::from(index)]);
        let (Some(server), Some(data)) = (&postgres.server, &postgres.data) else { return Found::Nothing };
        let is_complete = !keeper.files.instance.uid.is_empty() && !keeper.files.instance.initializing;
        let is_healthy = server.phase == Phase::Up
            && !postgres.troubles.postmaster_hangs
            && postgres.troubles.disk != Disk::Hung;
        if keeper.trust == Trust::Nothing || !is_complete || !is_healthy {
            return Found::Nothing;
        }
        let role = if server.in_recovery { DataKind::Standby } else { DataKind::Primary };
        let is_open = data.admits_clients() || self.lacks(Guard::FoundGate);
        self.coverage.reached(Point::TakenOver);
        self.log.say(self.now, &format!("k{index}"), || format!("takes over a {role:?}"));
        Found::Server(FoundServer { role, gate: if is_open { Gate::Open } else { Gate::Closed } })
    }

    /// Ends what is not taken over: in order first, and then with everything that belongs to it.
    pub(crate) fn end_what_was_left(&mut self, index: u8) {
        let server = self.postgres[usize::from(index)].server.as_ref();
        match server.is_some_and(|server| server.phase == Phase::Stopping) {
            true => self.end_what_does_not_end(index),
            false => self.stop_server(index),
        }
    }

    /// SIGUSR1.
    pub(crate) fn keeper_is_told_to_depart(&mut self, index: u8) {
        self.keeper(index).will = Will::Leaves;
        self.coverage.reached(Point::Departed);
        self.tell_keeper(index, MachineEvent::DepartureRequested);
    }
}
