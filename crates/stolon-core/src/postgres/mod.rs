//! What is known of PostgreSQL itself: its versions and what differs between them, and what its parameters are to a keeper.

mod parameter;
mod version;

pub use parameter::{
    Owner, PARAMETERS, Parameter, RECOVERY_INIT_SYNC_METHOD, RESTART_AFTER_CRASH, Recovery,
    WAL_RETRIEVE_RETRY_INTERVAL, is_made_here, is_recovery_parameter, is_reported, is_standby_limit, owner,
    parameter,
};
pub use version::{Support, Version};
