//! The loop: look at the cluster data, decide, act; and close everything when looking fails for too long.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use socket2::TcpKeepalive;
use stolon_core::proxy::{ClosedBecause, PrimaryAddress, Route, Timings, Verdict, route};
use stolon_model::{BadClusterData, GoDuration, InfoUid, ProxyReport, ProxyUid};
use stolon_runtime::{Backoff, BootInstant, Readiness, Shutdown, new_uid8};
use stolon_store::{ClusterStore, StoreError, WatchScope};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::destination::Destination;
use crate::listener::{Listener, Reception};
use crate::metrics::Metrics;
use crate::resolve::resolve;

/// What the flags ask for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address or name to listen on.
    pub listen_address: String,
    /// Number or name of a service.
    pub port: String,
    /// Stop listening when everything is closed because the store was silent.
    pub stop_listening: bool,
    /// Probes on the connections of clients.
    pub client_keepalive: TcpKeepalive,
    /// Probes on the connections to the primary.
    pub server_keepalive: TcpKeepalive,
    /// How long connecting to the primary may take.
    pub connect_timeout: Duration,
    /// How long open connections may go on after SIGTERM.
    pub drain_timeout: Duration,
}

/// The first pause after a failed check.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long withdrawing the report may take at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// File descriptors that connections never take: store, metrics, listener, name lookups.
const RESERVED_FILES: u64 = 64;

/// A running proxy.
pub struct Proxy {
    uid: ProxyUid,
    store: Arc<dyn ClusterStore>,
    settings: Arc<Settings>,
    /// Where new connections go.
    gate: watch::Sender<Option<Arc<Destination>>>,
    /// A destination whose connections were told to end and may not all have ended.
    closing: Option<Arc<Destination>>,
    accepting: Accepting,
    listener: Option<Listener>,
    room: Arc<Semaphore>,
    /// What the last complete check found and did.
    applied: Option<Verdict>,
    timings: Timings,
    /// When everything is closed, unless a check succeeds before. `None` once it was, until the next success.
    deadline: Option<BootInstant>,
    metrics: Metrics,
    readiness: Readiness,
    announced: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    Yes,
    /// The program ends.
    NoMore,
}

/// Why a check is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    /// It is time to publish again.
    Timer,
    /// The store says that the cluster data changed.
    Watch,
}

/// A check that did what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    /// Published; the deadline moved on.
    Complete,
    /// Nothing new for a proxy in the changed cluster data; the deadline stays.
    Unchanged,
}

/// Why a check did not succeed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("cannot get cluster data: {0}")]
    Read(StoreError),
    #[error("cannot publish proxy info: {0}")]
    Publish(StoreError),
    #[error("cannot listen on {address}: {cause}")]
    Listen { address: String, cause: std::io::Error },
    #[error("cannot resolve the primary's address {name}: {cause}")]
    Resolve { name: PrimaryAddress, cause: std::io::Error },
    #[error("{0}")]
    BadClusterData(BadClusterData),
    #[error("the check took longer than {}, what it read may be outdated", GoDuration::from(*.0))]
    TooOld(Duration),
    #[error("the cluster data changed while its route was being opened")]
    Moved,
    #[error("no check succeeded within the proxy timeout")]
    Expired,
}

impl Proxy {
    /// A proxy that forwards nothing yet. `open_files` is the limit of this process, `None` without one.
    pub fn new(
        uid: ProxyUid,
        store: Arc<dyn ClusterStore>,
        settings: Settings,
        open_files: Option<u64>,
        metrics: Metrics,
        readiness: Readiness,
    ) -> Self {
        Proxy {
            uid,
            store,
            settings: Arc::new(settings),
            gate: watch::Sender::new(None),
            closing: None,
            accepting: Accepting::Yes,
            listener: None,
            room: Arc::new(Semaphore::new(room_for(open_files))),
            applied: None,
            timings: Timings::INITIAL,
            deadline: None,
            metrics,
            readiness,
            announced: String::new(),
        }
    }

    /// Proxy until the shutdown is requested; then drain, close, and withdraw the report.
    pub async fn run(mut self, shutdown: &Shutdown) {
        self.serve_until(shutdown.token().cancelled_owned()).await;
        self.drain(shutdown).await;
        self.leave().await;
    }

    /// Check now, at every interval, and whenever the cluster data changes; expire when checks fail for too long.
    async fn serve_until(&mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut changes = self.store.watch(WatchScope::ClusterData);
        let mut backoff = Backoff::new(FIRST_PAUSE, self.timings.check_interval);
        let mut trigger = Trigger::Timer;
        let mut next = Instant::now();
        loop {
            let outcome = tokio::select! {
                biased;
                () = &mut stop => return,
                outcome = self.bounded_check(trigger) => outcome,
            };
            match outcome {
                Ok(Checked::Unchanged) => {}
                Ok(Checked::Complete) => {
                    backoff = Backoff::new(FIRST_PAUSE, self.timings.check_interval);
                    next = Instant::now() + self.timings.check_interval;
                }
                Err(CheckError::Expired) => {
                    self.expire().await;
                    next = Instant::now();
                }
                Err(CheckError::Moved) => next = Instant::now(),
                Err(error) => {
                    let pause = backoff.next_pause();
                    tracing::error!(%error, retry_in = %GoDuration::from(pause), "check failed");
                    next = Instant::now() + pause;
                }
            }
            trigger = tokio::select! {
                biased;
                () = &mut stop => return,
                () = expiry(self.deadline) => {
                    self.expire().await;
                    Trigger::Timer
                }
                () = tokio::time::sleep_until(next) => Trigger::Timer,
                () = changes.changed() => Trigger::Watch,
            };
        }
    }

    /// A check that ends when the deadline passes, and in half of the timeout.
    async fn bounded_check(&mut self, trigger: Trigger) -> Result<Checked, CheckError> {
        let deadline = self.deadline;
        let limit = self.age_limit();
        tokio::select! {
            biased;
            () = expiry(deadline) => Err(CheckError::Expired),
            outcome = tokio::time::timeout(limit, self.check(trigger)) => {
                outcome.unwrap_or(Err(CheckError::TooOld(limit)))
            }
        }
    }

    /// What was read longer ago than this is not acted on.
    fn age_limit(&self) -> Duration {
        self.timings.timeout / 2
    }

    async fn check(&mut self, trigger: Trigger) -> Result<Checked, CheckError> {
        let started = BootInstant::now();
        let verdict = self.look().await?;
        self.listen().await?;
        if trigger == Trigger::Watch && self.applied.as_ref() == Some(&verdict) {
            return Ok(Checked::Unchanged);
        }
        self.applied = None;
        match &verdict.route {
            Route::Closed { why, generation } => {
                self.close(&why.to_string()).await;
                if let Some(generation) = *generation {
                    self.publish(generation, &verdict).await?;
                }
                if let ClosedBecause::BadClusterData(bad) = why {
                    return Err(CheckError::BadClusterData(bad.clone()));
                }
                self.succeed(started)?;
            }
            Route::Open { address, generation } => self.open(address, *generation, &verdict, started).await?,
        }
        self.applied = Some(verdict);
        Ok(Checked::Complete)
    }

    async fn look(&self) -> Result<Verdict, CheckError> {
        let document = self.store.cluster_document().await.map_err(CheckError::Read)?;
        Ok(route(document.as_ref().map(|document| &document.value), &self.uid))
    }

    /// Clients go to `name`: close another destination, acknowledge, make sure that the answer still holds, open.
    async fn open(
        &mut self,
        name: &PrimaryAddress,
        generation: i64,
        verdict: &Verdict,
        started: BootInstant,
    ) -> Result<(), CheckError> {
        let current = self.gate.borrow().clone();
        let resolved = self.resolve(name, current.as_deref()).await;
        let is_current = match (&resolved, &current) {
            (Ok(address), Some(current)) => current.address == *address,
            (Err(_), Some(current)) => current.name == *name,
            (_, None) => false,
        };
        if !is_current {
            self.close("the primary moved").await;
        }
        self.publish(generation, verdict).await?;
        let address = resolved?;
        let current = current.filter(|_| is_current);
        if current.is_none() && self.look().await? != *verdict {
            return Err(CheckError::Moved);
        }
        let deadline = self.succeed(started)?;
        match current {
            Some(current) => current.set_deadline(deadline),
            None => {
                _ = self.gate.send_replace(Some(Arc::new(Destination::new(name.clone(), address, deadline))))
            }
        }
        self.announce(&format!("forwarding to the primary at {address}"));
        self.metrics.forwarding.set(1);
        self.readiness.set_ready();
        Ok(())
    }

    /// The address in use while it is still one of the name's, otherwise the first one.
    async fn resolve(
        &self,
        name: &PrimaryAddress,
        current: Option<&Destination>,
    ) -> Result<std::net::SocketAddr, CheckError> {
        let failed = |cause| CheckError::Resolve { name: name.clone(), cause };
        let found = resolve(&name.host, &name.port).await.map_err(failed)?;
        let in_use = current.map(|current| current.address).filter(|address| found.contains(address));
        in_use.or_else(|| found.first().copied()).ok_or_else(|| {
            failed(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"))
        })
    }

    /// Tell the sentinel what holds now. Only after that the specification's timings are ours, so that it never
    /// believes that we gave up before we did.
    async fn publish(&mut self, generation: i64, verdict: &Verdict) -> Result<(), CheckError> {
        let wanted = verdict.timings.unwrap_or(self.timings);
        let timeout = self.timings.timeout.max(wanted.timeout);
        let report = ProxyReport {
            info_uid: InfoUid::from(new_uid8()),
            uid: self.uid.clone(),
            generation,
            proxy_timeout: GoDuration::from(timeout).0,
        };
        self.store.put_proxy_report(&report, timeout * 2).await.map_err(CheckError::Publish)?;
        self.timings = wanted;
        Ok(())
    }

    /// Move the deadline, unless the check is too old or the deadline passed meanwhile. With a timeout that was lowered it may come
    /// earlier than before: the sentinel knows the new timeout, and goes by it.
    fn succeed(&mut self, started: BootInstant) -> Result<BootInstant, CheckError> {
        if self.deadline.is_some_and(BootInstant::is_past) {
            return Err(CheckError::Expired);
        }
        if (started + self.age_limit()).is_past() {
            return Err(CheckError::TooOld(self.age_limit()));
        }
        let deadline = started + self.timings.timeout;
        self.deadline = Some(deadline);
        if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            self.metrics.last_check_success.set(now.as_secs_f64());
        }
        Ok(deadline)
    }

    /// Let no connection through, and return when the last one has ended.
    async fn close(&mut self, why: &str) {
        self.announce(&format!("clients are sent nowhere: {why}"));
        self.metrics.forwarding.set(0);
        self.readiness.set_not_ready(why);
        if let Some(destination) = self.gate.send_replace(None) {
            destination.closed.cancel();
            destination.connections.close();
            self.closing = Some(destination);
        }
        if let Some(closing) = self.closing.clone() {
            closing.connections.wait().await;
            self.closing = None;
        }
    }

    /// No check succeeded for too long: nobody knows who is primary.
    async fn expire(&mut self) {
        self.deadline = None;
        self.applied = None;
        self.close("no check succeeded within the proxy timeout").await;
        if self.settings.stop_listening {
            self.stop_listening().await;
        }
    }

    async fn listen(&mut self) -> Result<(), CheckError> {
        if self.listener.is_some() || self.accepting == Accepting::NoMore {
            return Ok(());
        }
        let reception = Reception {
            settings: Arc::clone(&self.settings),
            gate: self.gate.subscribe(),
            room: Arc::clone(&self.room),
            metrics: self.metrics.clone(),
        };
        let listener = Listener::open(reception).await.map_err(|cause| CheckError::Listen {
            address: format!("{}:{}", self.settings.listen_address, self.settings.port),
            cause,
        })?;
        tracing::info!(address = %listener.address, "listening");
        self.listener = Some(listener);
        Ok(())
    }

    async fn stop_listening(&mut self) {
        if let Some(listener) = self.listener.take() {
            tracing::info!(address = %listener.address, "stopped listening");
            listener.close().await;
        }
    }

    /// Accept no one, and go on checking while connections are open, for a while.
    async fn drain(&mut self, shutdown: &Shutdown) {
        self.accepting = Accepting::NoMore;
        self.readiness.set_not_ready("the proxy stops");
        self.stop_listening().await;
        let Some(destination) = self.gate.borrow().clone() else { return };
        destination.connections.close();
        if destination.connections.is_empty() {
            return;
        }
        let limit = self.settings.drain_timeout;
        let open = destination.connections.len();
        tracing::info!(connections = open, limit = %GoDuration::from(limit), "waiting for connections to end");
        let escalated = shutdown.escalated();
        self.serve_until(async move {
            tokio::select! {
                () = destination.connections.wait() => {}
                () = tokio::time::sleep(limit) => {}
                () = escalated.cancelled() => {}
            }
        })
        .await;
    }

    /// Close everything, and only then let the sentinel forget us.
    async fn leave(&mut self) {
        self.close("the proxy stops").await;
        match tokio::time::timeout(FAREWELL, self.store.remove_proxy_report(&self.uid)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot withdraw the proxy's report, it will expire"),
            Err(_) => tracing::warn!("cannot withdraw the proxy's report in time, it will expire"),
        }
        tracing::info!("proxy stopped");
    }

    /// Log where clients go, when that changes.
    fn announce(&mut self, sentence: &str) {
        if self.announced != sentence {
            tracing::info!("{sentence}");
            sentence.clone_into(&mut self.announced);
        }
    }
}

/// Returns when the moment has come, by a clock that goes on while the machine sleeps.
async fn expiry(deadline: Option<BootInstant>) {
    let Some(deadline) = deadline else { return std::future::pending().await };
    while !deadline.is_past() {
        tokio::time::sleep(deadline.remaining()).await;
    }
}

/// How many connections the file descriptors suffice for: each takes two.
fn room_for(open_files: Option<u64>) -> usize {
    let Some(limit) = open_files else { return Semaphore::MAX_PERMITS };
    let reserved = RESERVED_FILES.min(limit / 2);
    usize::try_from((limit - reserved) / 2).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_are_never_taken_by_connections() {
        assert_eq!(room_for(None), Semaphore::MAX_PERMITS);
        assert_eq!(room_for(Some(1024)), 480);
        assert_eq!(room_for(Some(64)), 16);
        assert_eq!(room_for(Some(0)), 1);
    }
}
