//! What PostgreSQL accepts as parameters, per major version.
