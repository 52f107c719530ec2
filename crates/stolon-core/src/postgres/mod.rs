//! What is known of PostgreSQL itself: its versions and what differs between them.

mod version;

pub use version::Version;
