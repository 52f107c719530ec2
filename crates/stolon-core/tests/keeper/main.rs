//! The decisions of a keeper: what an observer sees in each situation, and what never happens.

mod given;
mod matrix;
mod properties;
mod sequences;
