//! A cluster on this machine: its processes, their flags, their users and ports.
//!
//! The playground, the end-to-end tests and the bench start the same programs in the same way; this crate is
//! that way. It knows the command lines of the programs and nothing of what is inside them.

mod account;
mod layout;
mod orphans;
mod ports;
mod process;
mod programs;
mod server;
mod sql;
mod tree;
pub mod writes;

pub use account::Account;
pub use layout::{Credentials, LOGS, Layout, Service};
pub use orphans::adopt_orphans;
pub use ports::{Ports, is_free, try_port};
pub use process::{Process, Stopped, describe_exit, tail};
pub use programs::{PROGRAMS, can_run, no_setpriv, reachable_programs};
pub use server::Server;
pub use sql::{Session, Target};
pub use tree::{kill_tree, running_in, tree};
