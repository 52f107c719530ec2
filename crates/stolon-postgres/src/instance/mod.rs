//! The instance of a keeper's machine (`stolon_core::keeper::machine`) on the real PostgreSQL: it is looked at, and takes steps.
//!
//! Nothing is remembered from one call to the next: what a keeper has to remember is the machine's.

mod failure;
mod look;
mod take;

use std::time::Duration;

use stolon_core::keeper::{ServerDeath, Step, StepOutcome};
use tokio_util::sync::CancellationToken;

use crate::explain;
use crate::local::{LocalPostgres, ProgressSender};
use crate::server::ServerState;

pub use take::{FAST_STOP_PATIENCE, STOP_LIMIT};

/// The real PostgreSQL of this machine.
#[derive(Clone, Debug)]
pub struct LocalInstance {
    postgres: LocalPostgres,
}

impl LocalInstance {
    /// The one that `postgres` stands for.
    pub fn new(postgres: LocalPostgres) -> Self {
        Self { postgres }
    }

    /// Takes one step, and tells `progress` how far it is. `request_timeout` limits each request to PostgreSQL; `called_off` calls the
    /// step off, which then leaves nothing running that works on the data. Steps must not overlap.
    pub async fn take(
        &self,
        step: &Step,
        request_timeout: Duration,
        progress: &ProgressSender,
        called_off: &CancellationToken,
    ) -> StepOutcome {
        match self.run(step, request_timeout, progress, called_off).await {
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
