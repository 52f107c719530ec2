//! Fixtures for tests: real etcd, real Consul, real PostgreSQL, real programs, and an API server of Kubernetes.

pub mod authority;
pub mod cluster;
mod command;
pub mod consul;
mod daemon;
pub mod etcd;
mod foreign;
pub mod haproxy;
pub mod kubernetes;
mod load;
mod majors;
pub mod memory;
mod metrics;
mod migration;
pub mod postgres;
mod scenario;
mod slow_road;
mod status;
mod store_server;
mod wait;

pub use cluster::{Cluster, PATIENCE, Plan, QUERY, short_timings};
pub use daemon::{free_ports, http, http_at, signal_all};
pub use foreign::Foreign;
pub use load::{nothing_is_lost, start_writing, writes_are_back};
pub use majors::{INSTALLED_MAJOR, fixtures_directory, programs_of_major};
pub use metrics::Metrics;
pub use scenario::{on_cluster, on_prepared, outage};
pub use slow_road::{Silence, SlowRoad};
pub use stolon_local as local;
pub use store_server::{StoreKind, StoreServer};
pub use wait::{passes, wait_for};
