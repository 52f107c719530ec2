//! The keeper: it runs one PostgreSQL and brings it to what the cluster data asks for.
//!
//! `stolon_core::keeper::Machine` decides; [`keeper`] does what it asks for, on one thread: steps, looks, publications and files run
//! beside each other, and none waits for another.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod allowed_commands;
mod departure;
mod directory_access;
mod flags;
mod http;
mod keeper;
mod kernel;
mod metrics;
mod password_files;
mod password_source;
mod peer_flags;
mod pledges;
mod rewind_flags;
mod state_files;
mod tablespace_mapping;
mod voice;
mod witness;

use std::process::ExitCode;
use std::time::Duration;

use stolon_core::keeper::{
    Advertised, Beginning, Found, Identity, LocalState, Picture, RewindCredentials, StateFile, Transport,
    User,
};
use stolon_model::{Advise as _, BootUuid, KeeperState, KeeperUid};
use stolon_postgres::instance::{FAST_STOP_PATIENCE, STOP_LIMIT};
use stolon_postgres::{
    AuthMethod, Credentials, FoundData, Limit, LocalInstance, LocalPostgres, LogSink, Options, OrphanOutcome,
    StopMode,
};
use stolon_runtime::{
    Failure, Program, Readiness, Shutdown, UsageError, new_boot_uuid, new_registry, new_uid8,
};
use stolon_store::ClusterStore;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use flags::{Flags, KeeperOptions, Locking};
pub use password_files::PasswordFile;

use http::Shown;
use keeper::{Ending, Hands, Summons};
use state_files::{DataDirectoryLock, KeeperDirectory};

/// How long a keeper that ends tries to take its report along.
const WITHDRAWAL_LIMIT: Duration = Duration::from_secs(5);

/// Runs a keeper until it is told to stop; a primary is handed over before, where that can be. PostgreSQL does not outlive it, unless it is
/// told by SIGUSR1 to leave it to the next keeper.
///
/// # Errors
/// Bad flags, a data directory in use, unreadable state files; or PostgreSQL could not be stopped.
pub async fn run(flags: Flags, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    flags.common.init_logging();
    let _log = stolon_runtime::queue_log();
    let departure = departure::follow_signals()?;
    let options = flags.check()?;
    stolon_runtime::forbid_core_files();
    let cluster_store = stolon_store::open(&flags.common.store_options_of_reporter()?).map_err(|error| {
        UsageError::because("cannot create keeper: cannot create store: cannot create kv store", &error)
    })?;
    refuse_root()?;
    options.prepare_data_directory()?;
    let _lock = match options.locking {
        Locking::Exclusive => Some(DataDirectoryLock::take(&options.data_dir)?),
        Locking::Disabled => None,
    };
    let registry = &mut new_registry(Program::Keeper, &flags.common.cluster_name);
    let metrics = metrics::Metrics::new(registry);
    stolon_runtime::register_store_requests(registry, std::sync::Arc::clone(&cluster_store));
    let directory = KeeperDirectory::new(&options.data_dir);
    let postgres = LocalPostgres::new(Options {
        keeper_directory: options.data_dir.clone(),
        bin_path: options.bin_path.clone(),
        listen_addresses: options.listen_address.clone(),
        port: options.port.clone(),
        public_socket_directory: "/tmp".into(),
        superuser: options.superuser.clone(),
        replication: options.replication.clone(),
        rewinder: options.rewinder.clone(),
        tls: options.tls.clone(),
        tablespace_mapping: options.tablespace_mapping.clone(),
        log: LogSink::new(stolon_runtime::write_log_line),
    });
    let local_method = postgres.local_method();
    refuse_certificate_without_account(&options, &local_method)?;
    let mut beginning = beginning(&options, &directory, local_method)?;
    tracing::info!(uid = %beginning.identity.keeper, "keeper uid");
    let readiness = Readiness::default();
    let _metrics_server = serve_metrics(&flags.common.metrics_listen_address, registry, &readiness).await;
    let found = take_over(&postgres, &beginning.local, &shutdown).await?;

    let uid = beginning.identity.keeper.clone();
    let (pictures, picture) = watch::channel(Picture::default());
    let (sender, questions) = pledges::channel();
    let cluster = flags.common.cluster_name.clone();
    let shown = Shown { keeper: uid.clone(), cluster, picture, questions: sender };
    let health_checks = http::serve(&options.http_listen_address, &options.protection, shown).await;
    if let Some(server) = &health_checks {
        let (protection, asker) = (&options.protection, &options.asker);
        beginning.advertised.http_address =
            pledges::published(server, protection, asker, &options.advertise_address).await;
    }
    let hands = Hands {
        instance: LocalInstance::new(postgres.clone()),
        server: postgres.server(),
        store: std::sync::Arc::clone(&cluster_store),
        directory,
        metrics,
        readiness,
        pictures,
        asker: options.asker.clone(),
    };
    let followed = password_files::follow(options.password_files, postgres.clone(), shutdown.token());
    let followed = tokio::spawn(followed);
    let summons = Summons {
        end: shutdown.token(),
        patience: options.handover_timeout,
        at_once: shutdown.escalated(),
        depart: departure,
    };
    let kept = keeper::run(&hands, beginning, found, questions, &summons).await;
    followed.abort();
    end(kept, &postgres, &*cluster_store, &uid, &shutdown).await
}

/// The last acts of a keeper: PostgreSQL is stopped for good, and its report withdrawn; or both are left to the next one.
async fn end(
    kept: anyhow::Result<Ending>,
    postgres: &LocalPostgres,
    store: &dyn ClusterStore,
    uid: &KeeperUid,
    shutdown: &Shutdown,
) -> anyhow::Result<ExitCode> {
    let hurry = match kept {
        Ok(Ending::Departure) if !shutdown.token().is_cancelled() => {
            tracing::info!("keeper exits, postgres is left to the next keeper as it is");
            return Ok(ExitCode::SUCCESS);
        }
        Ok(Ending::CutShort) => shutdown.insisted(),
        Ok(Ending::InOrder | Ending::Departure) | Err(_) => shutdown.escalated(),
    };
    let stopped = stop_for_good(postgres, &hurry).await;
    if kept.is_ok() {
        withdraw_report(store, uid).await;
    }
    kept.and(stopped)
}

/// What the machine begins with.
fn beginning(
    options: &KeeperOptions,
    directory: &KeeperDirectory,
    local_method: String,
) -> anyhow::Result<Beginning> {
    let predecessor = directory.predecessor()?;
    let state = keeper_state(options, directory)?;
    let instance = directory.instance()?.unwrap_or_default();
    Ok(Beginning {
        identity: identity(options, state.uid, local_method),
        advertised: Advertised {
            address: options.advertise_address.clone(),
            port: options.advertise_port.clone(),
            // Known once it is listened on.
            http_address: String::new(),
            can_be_primary: options.can_be_primary,
            can_be_synchronous_replica: options.can_be_synchronous_replica,
            failover_priority: options.failover_priority,
            zone: options.zone.clone(),
        },
        cluster: state.cluster_uid,
        local: LocalState {
            uid: instance.uid,
            generation: instance.generation,
            initializing: instance.initializing,
            captured: instance.init_pg_parameters,
        },
        proven: directory.proven(),
        served: directory.served()?,
        predecessor,
        pledged: directory.pledged()?.unwrap_or_default().term.to_std(),
    })
}

/// `local_method` is how the superuser logs in over a unix socket.
fn identity(options: &KeeperOptions, keeper: KeeperUid, local_method: String) -> Identity {
    let transport = if options.tls.mode.requires_tls() { Transport::Tls } else { Transport::Any };
    let user = |credentials: &Credentials| {
        let method = credentials.auth.as_str().to_owned();
        // Only the superuser comes over a socket.
        let local_method = if credentials.auth == AuthMethod::Cert { "reject" } else { &method }.to_owned();
        User { name: credentials.username.clone(), local_method, method, transport }
    };
    let superuser = &options.superuser;
    Identity {
        keeper,
        boot: BootUuid::from(new_boot_uuid()),
        listen_address: options.listen_address.clone(),
        port: options.port.clone(),
        superuser: User { local_method, ..user(superuser) },
        rewind_credentials: match (superuser.auth, superuser.password_to_send()) {
            _ if options.rewinder.is_some() => RewindCredentials::Present,
            (AuthMethod::Cert, _) | (_, Some(_)) if !superuser.username.is_empty() => {
                RewindCredentials::Present
            }
            _ => RewindCredentials::Absent,
        },
        replication: user(&options.replication),
        rewinder: options.rewinder.as_ref().map(user),
        commands: options.commands.clone(),
        sync_after_crash: kernel::sync_after_crash(),
    }
}

/// The last word of a keeper must not outlive it where that can be helped.
async fn withdraw_report(store: &dyn ClusterStore, uid: &KeeperUid) {
    match tokio::time::timeout(WITHDRAWAL_LIMIT, store.remove_keeper_report(uid)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = error.explained().on_one_line(), "cannot withdraw the keeper info");
        }
        Err(_) => tracing::warn!("cannot withdraw the keeper info in time"),
    }
}

/// PostgreSQL refuses root, so a keeper that is root could only fail later.
fn refuse_root() -> Result<(), UsageError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(UsageError::new("the keeper runs as root, and PostgreSQL refuses to")
        .hint("run it as an unprivileged user, for example: sudo -u postgres stolon-keeper …"))
}

/// Over its socket the superuser can only be let in by account, or with a password.
fn refuse_certificate_without_account(options: &KeeperOptions, local_method: &str) -> Result<(), UsageError> {
    if options.superuser.auth != AuthMethod::Cert || local_method.starts_with("peer") {
        return Ok(());
    }
    Err(UsageError::new("--pg-su-auth-method cert needs an account with a name, and this keeper's has none")
        .hint("give the account a name in /etc/passwd, or let the superuser use scram-sha-256"))
}

/// Who we are: saved, given, or new.
fn keeper_state(options: &KeeperOptions, directory: &KeeperDirectory) -> anyhow::Result<KeeperState> {
    let mut state = directory.keeper()?.unwrap_or_default();
    let other =
        options.uid.as_ref().filter(|uid| !state.uid.is_empty() && state.uid.as_str() != uid.as_str());
    if let Some(uid) = other {
        let message = format!("saved uid \"{}\" differs from configuration uid: \"{uid}\"", state.uid);
        return Err(UsageError::new(message)
            .hint(
                "a data directory belongs to one keeper for ever: leave --uid out, or use another --data-dir",
            )
            .into());
    }
    if state.uid.is_empty() {
        state.uid = KeeperUid::from(options.uid.clone().unwrap_or_else(new_uid8));
        directory.save(&StateFile::Keeper(state.clone()))?;
    }
    Ok(state)
}

/// A port that is taken costs the metrics, not the database.
async fn serve_metrics(
    address: &str,
    registry: &mut stolon_runtime::Registry,
    readiness: &Readiness,
) -> Option<stolon_runtime::HttpServer> {
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

/// A keeper that was killed, or told to, leaves its PostgreSQL running. It goes on in our charge, or is stopped
/// (docs/design/011-keeper-upgrade.md).
async fn take_over(
    postgres: &LocalPostgres,
    local: &LocalState,
    shutdown: &Shutdown,
) -> anyhow::Result<Found> {
    let limit = Limit::within(STOP_LIMIT, &shutdown.escalated());
    let data = match local.uid.is_empty() || local.initializing {
        true => FoundData::Other,
        false => FoundData::Complete,
    };
    match postgres.take_over(data, &limit).await {
        Ok(OrphanOutcome::None) => Ok(Found::Nothing),
        Ok(OrphanOutcome::TakenOver { pid, found }) => {
            tracing::info!(pid, "took over the postgres instance that the previous keeper left running");
            Ok(Found::Server(found))
        }
        Ok(OrphanOutcome::Stopped { pid }) => {
            tracing::info!(pid, "stopped the postgres instance that the previous keeper left running");
            Ok(Found::Nothing)
        }
        Err(error) => Err(Failure::new(format!(
            "cannot stop the PostgreSQL that the previous keeper left running: {error}"
        ))
        .into()),
    }
}

/// Stops PostgreSQL and makes sure of it: fast, at once after `hurry`, and by force at the end.
async fn stop_for_good(postgres: &LocalPostgres, hurry: &CancellationToken) -> anyhow::Result<ExitCode> {
    let never = CancellationToken::new();
    let fast = Limit::within(STOP_LIMIT, hurry);
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
