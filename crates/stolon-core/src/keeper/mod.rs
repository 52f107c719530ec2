//! What the keeper decides.
