//! What the tests of keepers share: [`FakeInstance`], a model of one PostgreSQL with switches for its failures, behind the
//! [`Instance`](stolon_core::keeper::Instance) that the real one is behind, and [`given`], the cluster data that it is asked by.
//!
//! The tests of the keeper's machine poll it in virtual time, those of the keeper's loop await it.

pub mod given;
mod instance;
mod postgres;
mod words;

pub use instance::{FakeInstance, LOOK};
pub use postgres::{FakePostgres, NEEDS_RESTART};
pub use words::word;
