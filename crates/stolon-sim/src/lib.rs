//! A whole cluster in one deterministic single-threaded loop with virtual time.
//!
//! The decisions of sentinel, keeper and proxy are those of `stolon-core`, unchanged; what stands around them here is a model: a
//! store, PostgreSQL, hosts with clocks, links, clients that remember what was promised to them, and operators. A [`Scenario`] is
//! drawn from a seed; [`run()`] plays it and says what it broke ([`Violation`]) and how far it got ([`Coverage`]).
//!
//! Nothing here reads a clock, starts a thread, or depends on the order of a hash: the same scenario gives the same run.

mod client;
mod convergence;
mod coverage;
mod elections;
mod evidence;
mod faults;
mod feed;
mod handing;
mod host;
mod invariants;
mod keeper;
mod lease;
mod names;
mod operators;
mod pause;
mod pledges;
mod postgres;
mod proxy;
mod quorum;
mod random;
mod restored;
mod sabotage;
mod scenario;
mod sentinel;
mod settle;
mod store;
mod taken_over;
mod trace;
mod world;

pub mod campaign;

use std::time::Duration;

pub use coverage::{Coverage, Point};
pub use invariants::{Invariant, Violation};
pub use sabotage::Guard;
pub use scenario::{
    Command, Direction, Fault, Lease, Placement, Program, Rewind, Scenario, Settlement, Spec, What,
};
pub use trace::Trace;
use world::World;

/// Virtual time since the run began.
pub type Time = Duration;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was broken; none: everything held.
    pub violation: Option<Violation>,
    /// How far it got.
    pub coverage: Coverage,
    /// Stands for everything that happened, in its order.
    pub digest: u64,
    /// Events handled.
    pub events: u64,
    /// Virtual time that was played.
    pub lasted: Time,
    /// What happened, for people; empty unless it was asked for.
    pub trace: Vec<String>,
}

/// Play a scenario.
pub fn run(scenario: &Scenario, trace: Trace) -> Outcome {
    World::new(scenario.clone(), trace).run()
}

/// Play a scenario without one of the guards.
pub fn run_without(guard: Guard, scenario: &Scenario, trace: Trace) -> Outcome {
    let mut world = World::new(scenario.clone(), trace);
    world.sabotage = Some(guard);
    world.run()
}
