//! What a keeper needs of the PostgreSQL in its charge.

use std::time::Duration;

use stolon_core::keeper::{Look, Step, StepOutcome};
use stolon_postgres::{Limit, LocalInstance, ProgressSender};
use tokio_util::sync::CancellationToken;

/// Something that can be looked at and that takes steps (contract: `stolon_core::keeper::machine`).
pub(crate) trait Instance {
    /// Looks at everything. Ends within the limit, with what was found out until then.
    async fn look(&self, limit: &Limit) -> Look;

    /// Takes one step. Ends soon after `called_off` is cancelled, and leaves nothing running that works on the data.
    async fn take(
        &self,
        step: Step,
        request_timeout: Duration,
        progress: &ProgressSender,
        called_off: &CancellationToken,
    ) -> StepOutcome;
}

impl Instance for LocalInstance {
    async fn look(&self, limit: &Limit) -> Look {
        LocalInstance::look(self, limit).await
    }

    async fn take(
        &self,
        step: Step,
        request_timeout: Duration,
        progress: &ProgressSender,
        called_off: &CancellationToken,
    ) -> StepOutcome {
        LocalInstance::take(self, &step, request_timeout, progress, called_off).await
    }
}
