//! The instance of a keeper's machine (`stolon_core::keeper::machine`) on the real PostgreSQL: it is looked at, and takes steps.
//!
//! Nothing that matters is remembered from one call to the next: what a keeper has to remember is the machine's.

mod failure;
mod look;
mod take;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stolon_core::keeper::{Instance, Look, Progress, ServerDeath, Step, StepOutcome};
use tokio_util::sync::CancellationToken;

use crate::explain;
use crate::limit::Limit;
use crate::local::{LocalPostgres, ProgressSender};
use crate::room::RoomWatch;
use crate::server::ServerState;

use look::KnownControl;

pub use take::{FAST_STOP_PATIENCE, STOP_LIMIT};

/// The real PostgreSQL of this machine.
#[derive(Clone, Debug)]
pub struct LocalInstance {
    postgres: LocalPostgres,
    /// So that a program is run only when it could say something new.
    read_control: Arc<Mutex<Option<KnownControl>>>,
    room: RoomWatch,
}

impl LocalInstance {
    /// The one that `postgres` stands for.
    pub fn new(postgres: LocalPostgres) -> Self {
        Self { postgres, read_control: Arc::default(), room: RoomWatch::new() }
    }
}

impl Instance for LocalInstance {
    async fn look(&self, within: Duration) -> Look {
        // Whoever wants no look any more drops it.
        self.see(&Limit::within(within, &CancellationToken::new())).await
    }

    async fn take(
        &self,
        step: Step,
        request_timeout: Duration,
        progress: &dyn Fn(Progress),
        called_off: impl Future<Output = ()>,
    ) -> StepOutcome {
        let (seen, cancel) = (ProgressSender::default(), CancellationToken::new());
        let mut follow = seen.subscribe();
        let work = self.run(&step, request_timeout, &seen, &cancel);
        tokio::pin!(work, called_off);
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut work => break ended,
                () = &mut called_off, if !cancel.is_cancelled() => cancel.cancel(),
                Ok(()) = follow.changed() => progress(*follow.borrow_and_update()),
            }
        };
        match ended {
            Ok(learned) => StepOutcome::Done(learned),
            Err(error) => StepOutcome::Failed(error.into()),
        }
    }
}

impl ServerState {
    /// How the server ended, if it was not asked to.
    pub fn death(&self) -> Option<ServerDeath> {
        match self {
            Self::Died { status, explanation, tail } => Some(ServerDeath {
                status: status.clone(),
                explanation: explanation.clone(),
                cause: explain::death_cause(tail),
            }),
            Self::Stopped | Self::Running { .. } => None,
        }
    }
}
