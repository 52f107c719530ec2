//! The decisions of sentinel, keeper and proxy.
//!
//! This crate is synchronous and owns no clock, file, socket, randomness or log: every fact is an argument,
//! every decision and its reason is a value.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod backoff;
pub mod condition;
mod evidence;
pub mod keeper;
mod latency;
mod logical_slots;
pub mod operator;
pub mod pause;
pub mod postgres;
pub mod proxy;
pub mod sentinel;
pub mod settings;
pub mod timeline;
pub mod wal_file;

pub use backoff::Backoff;
