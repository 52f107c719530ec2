//! Physical replication slots of one instance.
