//! What the programs share: flags, logging, metrics, signals, exit codes.
//!
//! A program's `main` is one call:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use clap::Parser;
//! use stolon_runtime::{CommonArgs, Program, parse, run};
//!
//! #[derive(Parser)]
//! struct Flags {
//!     #[command(flatten)]
//!     common: CommonArgs,
//! }
//!
//! fn main() -> ExitCode {
//!     run(Program::Sentinel, async |shutdown| {
//!         let flags: Flags = parse(Program::Sentinel);
//!         flags.common.init_logging();
//!         let _options = flags.common.store_options()?;
//!         shutdown.token().cancelled().await;
//!         Ok(ExitCode::SUCCESS)
//!     })
//! }
//! ```
//!
//! This crate knows nothing of clusters: it decides nothing and reads no document.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod addresses;
mod command_line;
mod common_args;
mod endpoint;
mod http_client;
mod http_server;
mod identity;
mod limited_listener;
mod limits;
mod log_queue;
mod logging;
mod metrics;
mod metrics_server;
mod program;
mod reread;
mod shutdown;
mod usage;
mod values;

pub use addresses::{host, host_and_port, hosts, postgres_port};
pub use command_line::{Stop, command, help_text, parse, try_parse_from};
pub use common_args::{COMMON_OPTIONS, CommonArgs};
pub use endpoint::{Access, EndpointFlags, Protection};
pub use http_client::{Asker, HTTPS, HttpAnswer};
pub use http_server::{HttpError, HttpServer, Service, serve_routes};
pub use identity::{new_boot_uuid, new_uid8};
pub use limits::{forbid_core_files, raise_open_files_limit};
pub use log_queue::{QueuedLog, queue_log, write_log_line};
pub use logging::{LogColor, LogLevel, fatal, init_bare_logging, init_logging, redact};
pub use metrics::{ProcessMetrics, new_registry, register_store_requests};
pub use metrics_server::{Readiness, serve};
pub use program::{Program, version};
pub use prometheus_client::registry::Registry;
pub use shutdown::{Shutdown, run};
pub use stolon_store::BootInstant;
pub use usage::{Failure, UsageError, check_name, explained};
pub use values::{go_bool, go_duration, go_integer};
