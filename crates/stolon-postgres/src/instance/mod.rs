//! The instance of a keeper's machine (`stolon_core::keeper::machine`) on the real PostgreSQL: it is looked at, and takes steps.
//!
//! Nothing is remembered from one call to the next: what a keeper has to remember is the machine's.

mod failure;
mod look;
mod take;

use std::future::Future;
use std::time::Duration;

use stolon_core::keeper::{Look, ServerDeath, Step, StepOutcome};
use tokio_util::sync::CancellationToken;

use crate::explain;
use crate::local::{LocalPostgres, ProgressSender};
use crate::server::ServerState;

pub use take::{FAST_STOP_PATIENCE, STOP_LIMIT};

/// Something that a keeper's machine can be run with.
pub trait Instance {
    /// What there is to be seen; what has not answered within `within`, or when `cancel` ends the look, is silent. Changes nothing, and
    /// may run beside a step.
    fn look(&self, within: Duration, cancel: &CancellationToken) -> impl Future<Output = Look>;

    /// Takes one step, and tells `progress` how far it is. `request_timeout` limits each request to PostgreSQL; `cancel` calls the step
    /// off. Steps must not overlap.
    fn take(
        &self,
        step: &Step,
        request_timeout: Duration,
        progress: &ProgressSender,
        cancel: &CancellationToken,
    ) -> impl Future<Output = StepOutcome>;
}

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
}

impl Instance for LocalInstance {
    fn look(&self, within: Duration, cancel: &CancellationToken) -> impl Future<Output = Look> {
        self.look_within(within, cancel)
    }

    async fn take(
        &self,
        step: &Step,
        request_timeout: Duration,
        progress: &ProgressSender,
        cancel: &CancellationToken,
    ) -> StepOutcome {
        match self.run(step, request_timeout, progress, cancel).await {
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
