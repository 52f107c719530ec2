//! One local PostgreSQL: observe it, change it.
//!
//! [`LocalPostgres`] stands for one data directory with its binaries, users and server process. It decides
//! nothing about clusters. Every call that can wait takes a [`Limit`]; secrets reach PostgreSQL's tools only
//! through files that nobody else can read.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod account;
mod archive;
mod backup;
mod config;
mod connection;
pub mod conninfo;
pub mod control_data;
pub mod credentials;
mod data_directory;
pub mod ending;
mod environment;
pub mod error;
pub mod explain;
mod files;
pub mod foreign;
mod initialise;
pub mod instance;
pub mod limit;
pub mod local;
mod lock_files;
mod log_sink;
mod port;
mod probe;
mod process;
mod process_end;
mod process_table;
pub mod quote;
mod replication;
pub mod room;
mod sample;
mod server;
mod server_log;
mod settings_check;
mod slots;
mod socket;
pub mod source;
mod tablespaces;
mod taking_over;
mod tls;
mod trial;

pub use control_data::{ClusterState, ControlData};
pub use credentials::{AuthMethod, ClientCertificate, Credentials, Password, Replaced};
pub use ending::StopMode;
pub use error::{Disk, Mismatch, PostgresError, Result};
pub use explain::{explain_startup_failure, refused_hba_lines};
pub use instance::LocalInstance;
pub use limit::Limit;
pub use local::{BaseBackup, LocalPostgres, Options, OrphanOutcome, ProgressSender};
pub use log_sink::LogSink;
pub use process_end::end_of_process;
pub use sample::parse_history;
pub use server::ServerState;
pub use source::{SourceFacts, SourceProblem, WeakProof};
pub use tablespaces::TablespaceMapping;
pub use taking_over::{Doubt, FoundData};
pub use tls::{PeerTls, SslMode};
pub use trial::parse_setting;
