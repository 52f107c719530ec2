//! Fixtures for tests: real etcd, real PostgreSQL, real programs.
