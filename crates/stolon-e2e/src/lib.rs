//! Whole clusters under test: real programs, real PostgreSQL, real signals. Everything is in `tests/`.
