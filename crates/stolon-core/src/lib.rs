//! The decisions of sentinel, keeper and proxy.
//!
//! This crate is synchronous and owns no clock, file, socket, randomness or log: every fact is an argument,
//! every decision and its reason is a value.

pub mod keeper;
pub mod proxy;
pub mod sentinel;
pub mod settings;
pub mod timeline;
