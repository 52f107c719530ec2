//! What the sentinel decides.
