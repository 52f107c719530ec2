//! What the benches of this repository share.

pub mod statistics;
