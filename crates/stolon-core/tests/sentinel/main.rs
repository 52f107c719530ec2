//! The decisions of the sentinel: tables of situations, scripts of several rounds, and properties.

mod admission;
mod corners;
mod decision_table;
mod durability;
mod failover;
mod initialise;
mod more;
mod properties;
mod proxies;
mod rounds;
mod standbys;
mod synchronous;
mod traces;
mod world;
