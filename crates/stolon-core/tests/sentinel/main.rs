//! The decisions of the sentinel: tables of situations, scripts of several rounds, and properties.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod challenge;
mod corners;
mod decision_table;
mod disks;
mod durability;
mod errands;
mod evidence;
mod failover;
mod fence;
mod formers;
mod initialise;
mod legacy;
mod machine;
mod more;
mod pause;
mod preferences;
mod properties;
mod proxies;
mod quorum;
mod readiness;
mod recover;
mod requests;
mod rounds;
mod standbys;
mod stragglers;
mod switchover;
mod synchronous;
mod traces;
mod world;
