//! The decisions of the sentinel: tables of situations, scripts of several rounds, and properties.

mod admission;
mod corners;
mod failover;
mod initialise;
mod properties;
mod proxies;
mod rounds;
mod standbys;
mod synchronous;
mod world;
