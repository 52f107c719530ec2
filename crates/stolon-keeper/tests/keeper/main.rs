//! The keeper on a real PostgreSQL, with cluster data written by hand in the place of a sentinel.

mod lifecycle;
mod making;
mod parameters;
mod start_up;
mod world;
