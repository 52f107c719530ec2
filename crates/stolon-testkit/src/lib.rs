//! Fixtures for tests: real etcd, real PostgreSQL, real programs.
pub mod etcd;
pub mod postgres;
