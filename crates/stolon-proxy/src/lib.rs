//! The proxy: it sends clients to the primary, and nowhere when it cannot know the primary.
//!
//! [`Proxy`] is the loop *look → decide → act*; [`stolon_core::proxy`] decides. Two rules keep clients away from
//! a primary that was replaced:
//!
//! * A generation is acknowledged only when every connection that it forbids is really closed.
//! * A byte is forwarded only within `proxyTimeout` of the start of a look that found the primary, by a clock
//!   that goes on while the process or the machine is frozen.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod client_address;
mod connection;
mod destination;
mod flags;
mod guests;
mod listener;
mod metrics;
mod proxy;
mod resolve;
mod sentences;
mod session;
mod socket;

use std::process::ExitCode;
use std::sync::Arc;

use stolon_model::{Advise as _, ProxyUid};
use stolon_runtime::{
    Failure, Program, Readiness, Shutdown, UsageError, new_registry, new_uid8, parse, serve,
};

pub use crate::client_address::ClientAddress;
pub use crate::flags::Flags;
pub use crate::metrics::Metrics;
pub use crate::proxy::{Proxy, ProxyOptions};

/// The program `stolon-proxy`.
///
/// # Errors
/// Flags that cannot be right, a store that is badly configured, or metrics that cannot be served.
pub async fn program(shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let flags: Flags = parse(Program::Proxy);
    flags.common.init_logging();
    let options = flags.common.store_options_of_reporter()?;
    let proxy_options = flags.proxy_options()?;
    let open_files = stolon_runtime::raise_open_files_limit();
    let store = stolon_store::open(&options).map_err(|error| {
        UsageError::because(
            "cannot create cluster checker: cannot create store: cannot create kv store",
            &error,
        )
    })?;

    let mut registry = new_registry(Program::Proxy, &options.cluster_name);
    let metrics = Metrics::new(&mut registry);
    stolon_runtime::register_store_requests(&mut registry, Arc::clone(&store));
    let readiness = Readiness::default();
    let _server = match flags.common.metrics_listen_address.as_str() {
        "" => None,
        address => Some(
            serve(address, registry, readiness.clone())
                .await
                .map_err(|error| Failure::from(error.explained()))?,
        ),
    };

    let uid = ProxyUid::from(new_uid8());
    tracing::info!(uid = %uid, version = stolon_runtime::version(), "proxy started");
    Proxy::new(uid, store, proxy_options, open_files, metrics, readiness).run(&shutdown).await;
    Ok(ExitCode::SUCCESS)
}
