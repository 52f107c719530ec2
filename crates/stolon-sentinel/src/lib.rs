//! The sentinel: runs the machine of `stolon-core` against a store.

mod contest;
mod flags;
mod metrics;
mod sentinel;
mod words;

pub use flags::Flags;
pub use sentinel::Sentinel;

use std::process::ExitCode;
use std::sync::Arc;

use stolon_model::Advise as _;
use stolon_runtime::{Failure, Program, Readiness, Shutdown, UsageError, new_registry, new_uid8, parse};

/// The program: from the flags to the exit status.
///
/// # Errors
/// The flags are wrong, or the metrics cannot be served.
pub async fn program(shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let flags: Flags = parse(Program::Sentinel);
    flags.common.init_logging();
    let options = flags.common.store_options_of_reporter()?;
    let initial_spec = flags.initial_spec()?;
    let store = stolon_store::open(&options).map_err(|error| {
        UsageError::because("cannot create sentinel: cannot create store: cannot create kv store", &error)
    })?;
    let mut registry = new_registry(Program::Sentinel, &options.cluster_name);
    let metrics = metrics::Metrics::registered(&mut registry);
    stolon_runtime::register_store_requests(&mut registry, Arc::clone(&store));
    let readiness = Readiness::default();
    readiness.set_ready();
    let address = &flags.common.metrics_listen_address;
    let _metrics_server = match address.is_empty() {
        true => None,
        false => Some(
            stolon_runtime::serve(address, registry, readiness)
                .await
                .map_err(|error| Failure::from(error.explained()))?,
        ),
    };
    let uid = new_uid8();
    tracing::info!(uid, "sentinel uid");
    Sentinel::new(store, uid.as_str().into(), initial_spec, metrics).run(shutdown.token()).await;
    Ok(ExitCode::SUCCESS)
}
