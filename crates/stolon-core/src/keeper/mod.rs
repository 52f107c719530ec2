//! The decisions of a keeper: what is wanted of the instance in its charge, and the next steps towards it.
//!
//! [`Goal::of`] reads the cluster data, [`plan()`] compares the goal with an [`Observation`]. Doing the steps, and
//! looking again, is the business of the program.

mod converge;
mod goal;
mod hba;
mod make;
mod observation;
mod parameters;
mod plan;
mod recovery;
mod step;
mod version;
mod warrant;

pub use goal::*;
pub use hba::*;
pub use observation::*;
pub use parameters::*;
pub use plan::plan;
pub use recovery::*;
pub use step::*;
pub use version::BinaryVersion;
pub use warrant::{DestroyWarrant, Ground, assigned_anew, half_made};
