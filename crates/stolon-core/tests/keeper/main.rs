//! The decisions of a keeper: what an observer sees in each situation, and what never happens.

#![allow(clippy::field_reassign_with_default, clippy::unwrap_used)]

mod ailing;
mod allowed_commands;
mod archive;
mod binaries;
mod contract;
mod deposed;
mod disk;
mod fence;
mod given;
mod lease;
mod leaving;
mod machine;
mod matrix;
mod pledges;
mod promotion;
mod properties;
mod reload;
mod sequences;
mod served;
mod slot_sync;
mod slots;
mod store;
mod switchover;
mod taken_over;
mod witness;
mod world;
