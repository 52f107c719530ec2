//! The keeper: it runs one PostgreSQL and brings it to what the cluster data asks for.
//!
//! Three activities share one thread: [`Keeper`] observes, plans and applies; the sampler looks at PostgreSQL;
//! the publisher reports. None of them waits for another.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod apply;
mod configure;
mod flags;
mod instance;
mod keeper;
mod metrics;
mod namesake;
mod observe;
mod publish;
mod sample;
mod shared;
mod state_files;

use std::process::ExitCode;
use std::time::Duration;

use stolon_model::{BootUuid, InstanceState, KeeperState, KeeperUid};
use stolon_postgres::instance::{FAST_STOP_PATIENCE, STOP_LIMIT};
use stolon_postgres::{Limit, LocalPostgres, Options, OrphanOutcome, StopMode};
use stolon_runtime::{
    Failure, Program, Readiness, Shutdown, UsageError, new_boot_uuid, new_registry, new_uid8,
};
use tokio_util::sync::CancellationToken;

pub use flags::{Flags, Locking, Settings};
pub use keeper::Keeper;

use namesake::Predecessor;
use shared::Shared;
use state_files::{DataDirectoryLock, load, store};

/// Runs a keeper until it is told to stop. PostgreSQL does not outlive it.
///
/// # Errors
/// Bad flags, a data directory in use, unreadable state files; or PostgreSQL could not be stopped.
pub async fn run(flags: Flags, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    flags.common.init_logging();
    let settings = flags.check()?;
    refuse_root()?;
    let _lock = match settings.locking {
        Locking::Exclusive => Some(DataDirectoryLock::take(&settings.data_dir)?),
        Locking::Disabled => None,
    };
    let registry = &mut new_registry(Program::Keeper, &flags.common.cluster_name);
    let metrics = metrics::Metrics::new(registry);
    let cluster_store = stolon_store::open(&flags.common.store_options()?).map_err(|error| {
        UsageError::because("cannot create keeper: cannot create store: cannot create kv store", &error)
    })?;
    stolon_runtime::register_store_requests(registry, std::sync::Arc::clone(&cluster_store));
    let predecessor = Predecessor::of(&settings.data_dir)?;
    let state = keeper_state(&settings)?;
    let instance: InstanceState = load(&settings.data_dir.join("dbstate"))?.unwrap_or_default();
    tracing::info!(uid = %state.uid, "keeper uid");

    let postgres = LocalPostgres::new(Options {
        keeper_directory: settings.data_dir.clone(),
        bin_path: settings.bin_path.clone(),
        port: settings.port.clone(),
        public_socket_directory: "/tmp".into(),
        superuser: settings.superuser.clone(),
        replication: settings.replication.clone(),
    });
    let readiness = Readiness::default();
    let _metrics_server = serve_metrics(&flags.common.metrics_listen_address, registry, &readiness).await;
    stop_orphan(&postgres, &shutdown).await?;

    let boot = BootUuid::from(new_boot_uuid());
    let shared = Shared::new(settings, state, boot, cluster_store, postgres.clone(), metrics, readiness);
    let stop = shutdown.token();
    let ((), (), (), published) = tokio::join!(
        async {
            stop.cancelled().await;
            shared.metrics.shutdown_now();
        },
        Keeper::new(&shared, instance, stop.clone()).run(),
        sample::run(&shared, &stop),
        async {
            let published = publish::run(&shared, &predecessor, &stop).await;
            // Nothing is managed that is not reported.
            stop.cancel();
            published
        },
    );
    let stopped = stop_for_good(&postgres, &shutdown).await;
    published.and(stopped)
}

/// PostgreSQL refuses root, so a keeper that is root could only fail later.
fn refuse_root() -> Result<(), UsageError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(UsageError::new("the keeper runs as root, and PostgreSQL refuses to")
        .hint("run it as an unprivileged user, for example: sudo -u postgres stolon-keeper …"))
}

/// Who we are: saved, given, or new.
fn keeper_state(settings: &Settings) -> anyhow::Result<KeeperState> {
    let path = settings.data_dir.join("keeperstate");
    let mut state: KeeperState = load(&path)?.unwrap_or_default();
    let other =
        settings.uid.as_ref().filter(|uid| !state.uid.is_empty() && state.uid.as_str() != uid.as_str());
    if let Some(uid) = other {
        let message = format!("saved uid \"{}\" differs from configuration uid: \"{uid}\"", state.uid);
        return Err(UsageError::new(message)
            .hint(
                "a data directory belongs to one keeper for ever: leave --uid out, or use another --data-dir",
            )
            .into());
    }
    if state.uid.is_empty() {
        state.uid = KeeperUid::from(settings.uid.clone().unwrap_or_else(new_uid8));
        store(&path, &state)?;
    }
    Ok(state)
}

/// A port that is taken costs the metrics, not the database.
async fn serve_metrics(
    address: &str,
    registry: &mut stolon_runtime::Registry,
    readiness: &Readiness,
) -> Option<stolon_runtime::MetricsServer> {
    if address.is_empty() {
        return None;
    }
    match stolon_runtime::serve(address, std::mem::take(registry), readiness.clone()).await {
        Ok(server) => Some(server),
        Err(error) => {
            tracing::error!(%error, "metrics http server error");
            None
        }
    }
}

/// A keeper that was killed leaves its PostgreSQL running. Nobody may be its parent any more, so it is stopped.
async fn stop_orphan(postgres: &LocalPostgres, shutdown: &Shutdown) -> anyhow::Result<()> {
    let limit = Limit::within(STOP_LIMIT, &shutdown.escalated());
    match postgres.stop_orphan(&limit).await {
        Ok(OrphanOutcome::None) => Ok(()),
        Ok(OrphanOutcome::Stopped { pid }) => {
            tracing::info!(pid, "stopped the postgres instance that the previous keeper left running");
            Ok(())
        }
        Err(error) => Err(Failure::new(format!(
            "cannot stop the PostgreSQL that the previous keeper left running: {error}"
        ))
        .into()),
    }
}

/// Stops PostgreSQL and makes sure of it: fast, at once after a second signal, and by force at the end.
async fn stop_for_good(postgres: &LocalPostgres, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let never = CancellationToken::new();
    let fast = Limit::within(STOP_LIMIT, &shutdown.escalated());
    let mut stopped = postgres.stop(StopMode::Fast, FAST_STOP_PATIENCE, &fast).await;
    if stopped.is_err() {
        tracing::warn!("stopping postgres at once");
        let limit = Limit::within(STOP_LIMIT, &never);
        stopped = postgres.stop(StopMode::Immediate, Duration::from_secs(5), &limit).await;
    }
    let running = postgres.server().borrow().is_running();
    match stopped {
        Ok(()) if !running => {
            tracing::info!("postgres is stopped, keeper exits");
            Ok(ExitCode::SUCCESS)
        }
        Ok(()) => Err(Failure::new("PostgreSQL still runs").into()),
        Err(error) => Err(Failure::new(format!("cannot stop PostgreSQL: {error}")).into()),
    }
}
