//! The keeper as a machine: events in, effects out.
//!
//! # Contract
//!
//! [`Machine::handle`] is given the time and what happened, and returns what is to be done. The machine holds everything that a keeper
//! remembers, decides everything that a keeper decides, and touches nothing: no clock, file, socket, log or randomness.
//! The same events at the same times give the same effects.
//!
//! * `now` is a monotonic clock that goes on while the process, or the whole machine, sleeps (`CLOCK_BOOTTIME`), from any
//!   origin. It never goes back.
//! * The first event is [`Event::Started`].
//! * At any time at most one step, one look, one reading of the cluster data, one of our own report, one publication, and
//!   one write of each file is under way. Each is asked for by one effect and answered by exactly one event, whatever becomes of it:
//!   [`Effect::Take`] by [`Event::StepEnded`], [`Effect::Look`] by [`Event::Looked`], [`Effect::ReadCluster`] by
//!   [`Event::ClusterRead`], [`Effect::ReadOwnReport`] by [`Event::OwnReportRead`], [`Effect::Publish`] by [`Event::ReportTaken`] or
//!   [`Event::ReportRefused`], [`Effect::Save`] by [`Event::Saved`].
//! * Different activities run beside each other: a report goes out, and PostgreSQL is looked at, while a base backup runs.
//! * [`Effect::WakeAt`] replaces the time that was asked for before. [`Event::TimePassed`] may come at any time.
//! * After [`Event::StopRequested`] the machine calls off what is under way and asks for nothing more. Stopping PostgreSQL for good
//!   is the program's last act, once all that was under way has ended.
//!
//! # Looks and steps
//!
//! An instance is something that can be looked at and that takes steps: the real PostgreSQL in the keeper's program, a model of it
//! in tests and in the simulator. A look tells facts ([`super::Look`]) and changes nothing. A step changes one thing, checks before
//! it begins what can be checked without a change, and ends with a [`super::StepOutcome`] whose kind, never whose sentence, decides how it
//! goes on. Steps that only change what the machine remembers, or what it has written down, never reach an instance
//! ([`super::Step::is_taken_by_machine`]).

use std::time::Duration;

use super::event::{Effect, Event};
use super::goal::Identity;
use super::observation::LocalState;

/// What a keeper is made from: its flags, and what its data directory holds.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Who we are.
    pub identity: Identity,
    /// `dbstate`.
    pub local: LocalState,
}

/// A keeper.
#[derive(Debug)]
pub struct Machine {
    #[expect(dead_code, reason = "decisions move in next")]
    beginning: Beginning,
}

impl Machine {
    /// A keeper that has seen nothing yet.
    pub fn new(beginning: Beginning) -> Self {
        Machine { beginning }
    }

    /// What is to be done about `event`, which happened at `now`.
    pub fn handle(&mut self, _now: Duration, _event: Event) -> Vec<Effect> {
        Vec::new()
    }
}
