//! One local PostgreSQL: observe it, change it.
