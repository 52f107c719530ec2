//! What a keeper's loop needs of the PostgreSQL in its charge.

use std::future::Future;
use std::time::Duration;

use super::event::Progress;
use super::look::Look;
use super::outcome::StepOutcome;
use super::step::Step;

/// Something that can be looked at and that takes steps ("Looks and steps" of [`super::Machine`]): the real PostgreSQL, or a model of it.
///
/// The futures may be dropped at any time. None is asked to be `Send`: a keeper is one loop.
pub trait Instance {
    /// Looks at everything, which changes nothing and may run beside a step. Ends within `within`, with what was found out until then.
    fn look(&self, within: Duration) -> impl Future<Output = Look>;

    /// Takes one step that is not the machine's own ([`Step::is_taken_by_machine`]), and tells `progress` how far it is.
    /// `request_timeout` limits each request to PostgreSQL. Ends soon after `called_off` does, and leaves nothing running that works on
    /// the data. Steps must not overlap.
    fn take(
        &self,
        step: Step,
        request_timeout: Duration,
        progress: &dyn Fn(Progress),
        called_off: impl Future<Output = ()>,
    ) -> impl Future<Output = StepOutcome>;
}
