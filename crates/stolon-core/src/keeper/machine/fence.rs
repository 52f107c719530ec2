//! A primary that is about to be replaced although its keeper works: it lets its clients go before another one is elected, and says when they
//! are out (docs/design/012-lease.md).

use std::time::Duration;

use super::Machine;
use crate::keeper::look::ServerLook;

/// What became of the clients of a fenced primary.
#[derive(Debug, Default)]
pub(super) struct FenceWatch {
    asked: Option<Asked>,
    found: Found,
}

/// What the last look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Found {
    #[default]
    Server,
    /// One that does not answer.
    Silence,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// When it was read.
    since: Duration,
    clients: Clients,
}

/// Whether ordinary clients may still be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    MayBeThere,
    Out,
}

impl FenceWatch {
    /// The clients of the server that runs are out, and no others come in.
    pub(super) fn shut(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.clients = Clients::Out;
        }
    }

    /// A look that began then has found this, while nothing was under way. A server that is started after it found none is started for the
    /// fenced primary, and lets nobody in.
    pub(super) fn looked(&mut self, began: Duration, found: &ServerLook) {
        self.found = match found {
            ServerLook::Stopped => Found::Nothing,
            ServerLook::Answering(_) | ServerLook::Stranger(_) => Found::Server,
            ServerLook::Starting | ServerLook::Silent(_) => Found::Silence,
        };
        if self.found == Found::Nothing && self.asked.is_some_and(|asked| asked.since <= began) {
            self.shut();
        }
    }
}

impl Machine {
    /// The cluster data were read.
    pub(super) fn note_fence(&mut self) {
        let is_asked = self.orders.goal().fenced_in().is_some();
        self.fence.asked = match self.fence.asked {
            Some(asked) if is_asked => Some(asked),
            _ => is_asked.then_some(Asked { since: self.now, clients: Clients::MayBeThere }),
        };
    }

    /// A server that does not answer is replaced for that: its clients are not asked to go, since nobody waits for them.
    pub(super) fn kill_what_is_fenced_and_silent(&mut self) {
        let may_serve = self.fence.asked.is_some_and(|asked| asked.clients == Clients::MayBeThere);
        if may_serve && self.fence.found == Found::Silence && self.server.disks.server_may_run() {
            self.kill();
        }
    }

    /// What the sentinel is told: the generation in which our primary is fenced, once its clients are out.
    pub(super) fn fenced(&self) -> i64 {
        let is_out = self.fence.asked.is_some_and(|asked| asked.clients == Clients::Out);
        self.orders.goal().fenced_in().filter(|_| is_out).unwrap_or_default()
    }
}
