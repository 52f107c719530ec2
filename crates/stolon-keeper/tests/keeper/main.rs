//! The keeper on a real PostgreSQL, with cluster data written by hand in the place of a sentinel.

#![allow(clippy::field_reassign_with_default, clippy::unwrap_used)]

mod lifecycle;
mod making;
mod parameters;
mod start_up;
mod taking_over;
mod world;
