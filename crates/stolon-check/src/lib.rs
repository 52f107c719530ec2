//! Model checking: every order of turns and every placement of faults within a bound, on the production decisions.
//!
//! Three keepers, two sentinels, one proxy. The sentinels run `reconcile`, the keepers `Goal::of` and `plan`, the proxy its whole
//! machine. The store is linearizable; PostgreSQL is a model of what promotion and synchronous replication need. In each second
//! everybody who can has one turn, in every order (keepers among themselves in a fixed one), and faults strike between and within
//! turns. What must never be stands in `World::judge` and where cluster data are written.

mod actors;
mod bound;
mod hashed;
mod model;
mod postgres;
mod world;

use stateright::{Checker, Model};

pub use actors::Outcome;
pub use bound::{Bound, Guard, Recovery, Replication};
pub use model::{Action, ClusterModel};
pub use world::{Actor, World};

/// What a check found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Distinct states that were visited.
    pub states: usize,
    /// States that were generated, repeated ones included.
    pub generated: usize,
    /// The longest way from the steady state, in actions.
    pub depth: usize,
    /// How a rule is broken: which, and by what actions. None: it is not, within the bound.
    pub violation: Option<(&'static str, Vec<Action>)>,
    /// Somewhere a client was told that its commit is safe, and somewhere clients came to another primary.
    pub reached: Reached,
}

/// Whether a check came to where it can prove something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Commits and a change of the primary.
    CommitsAndFailover,
    /// Less: the bound is too small.
    Less,
}

/// Visit every state within the bound, or as many as it takes to break a rule.
pub fn check(bound: &Bound) -> Findings {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = ClusterModel { bound: bound.clone() }.checker().threads(threads).spawn_bfs().join();
    let discoveries = checker.discoveries();
    let reached =
        match ["clients commit", "another primary"].iter().all(|name| discoveries.contains_key(name)) {
            true => Reached::CommitsAndFailover,
            false => Reached::Less,
        };
    let violation = discoveries.get("safe").map(|path| {
        let broken = path.last_state().broken.unwrap_or("unknown");
        (broken, path.clone().into_actions())
    });
    Findings {
        states: checker.unique_state_count(),
        generated: checker.state_count(),
        depth: checker.max_depth(),
        violation,
        reached,
    }
}
