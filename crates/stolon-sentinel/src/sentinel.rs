//! The loop of a sentinel.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::sentinel::{Hold, Memory};
use stolon_model::{ClusterSpec, ClusterUid, SentinelReport, SentinelUid};
use stolon_store::{ClusterStore, WatchScope};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::office::Office;

/// Wakes that come closer together than this are answered by one round. A failover in synchronous mode takes four rounds, each
/// of which answers what keepers did about the one before, so this is what clients wait for; on a quiet cluster nobody does.
const COALESCE: Duration = Duration::from_millis(10);
/// The sleep interval until a specification says another one.
const DEFAULT_SLEEP_INTERVAL: Duration = Duration::from_secs(5);
/// `sleepInterval` below this would spin.
pub(crate) const SHORTEST_SLEEP: Duration = Duration::from_millis(100);
/// How long the farewell to the store may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// One sentinel process.
pub struct Sentinel {
    pub(crate) store: Arc<dyn ClusterStore>,
    pub(crate) uid: SentinelUid,
    pub(crate) initial_spec: Option<ClusterSpec>,
    /// The cluster that was last seen in the store.
    pub(crate) last_seen: Option<ClusterUid>,
    pub(crate) metrics: Metrics,
    pub(crate) started: Instant,
    pub(crate) memory: Memory,
    pub(crate) holds: Vec<Hold>,
    pub(crate) sleep_interval: Duration,
    /// When the document was last written, or found written by us.
    pub(crate) last_write: Option<Instant>,
    /// When our report was last published.
    pub(crate) last_report: Option<Instant>,
    /// The last trouble that was logged, so that it is logged once.
    pub(crate) trouble: Option<String>,
}

/// When to look again, if nothing happens before.
pub(crate) enum Next {
    /// At once: somebody else wrote between our read and our write.
    AtOnce,
    /// At this moment.
    At(Instant),
}

impl Sentinel {
    /// A sentinel that has seen nothing yet.
    pub fn new(
        store: Arc<dyn ClusterStore>,
        uid: SentinelUid,
        initial_spec: Option<ClusterSpec>,
        metrics: Metrics,
    ) -> Self {
        Sentinel {
            store,
            uid,
            initial_spec,
            last_seen: None,
            metrics,
            started: Instant::now(),
            memory: Memory::default(),
            holds: Vec::new(),
            sleep_interval: DEFAULT_SLEEP_INTERVAL,
            last_write: None,
            last_report: None,
            trouble: None,
        }
    }

    /// Watch over the cluster until told to stop; then hand the leadership over.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut watch = self.store.watch(WatchScope::Everything);
        let mut office = Office::candidate(self.store.as_ref(), self.uid.clone());
        while !stop.is_cancelled() {
            let began = Instant::now();
            let next = tokio::select! {
                () = stop.cancelled() => break,
                next = self.round(office.leads()) => next,
            };
            let floor = began + self.sleep_interval;
            let next = match next {
                Next::AtOnce => began + COALESCE,
                Next::At(deadline) => deadline.min(floor),
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep_until(next) => {}
                () = office.changed() => self.note_office(office.leads()),
                () = watch.changed() => sleep_until(began + COALESCE).await,
            }
        }
        let farewell = async {
            office.resign().await;
            if let Err(error) = self.store.remove_sentinel_report(&self.uid).await {
                tracing::warn!(%error, "could not take the own report out of the store; it will expire");
            }
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::warn!(
                "the store did not take the farewell in time; a successor waits for the lease to end"
            );
        }
    }

    fn note_office(&mut self, leads: bool) {
        self.metrics.is_leader.set(i64::from(leads));
        if leads {
            self.metrics.leader_count.inc();
        }
    }

    /// True when what was last done then must be done again by the round that comes once per sleep interval. Rounds begin
    /// before they write, so this one may come a little early; it must not skip a beat for that.
    pub(crate) fn is_due(&self, last: Instant) -> bool {
        last.elapsed() >= self.sleep_interval.mul_f64(0.9)
    }

    /// Publish the own report when it is due. The TTL is the store's own floor or twice the period.
    pub(crate) async fn publish_report(&mut self) -> Result<(), stolon_store::StoreError> {
        let due = self.last_report.is_none_or(|at| self.is_due(at));
        if due {
            let holds: Vec<String> = self.holds.iter().map(ToString::to_string).collect();
            let holds = (!holds.is_empty()).then_some(holds);
            let report = SentinelReport { uid: self.uid.clone(), holds };
            self.store.put_sentinel_report(&report, self.sleep_interval * 2).await?;
            self.last_report = Some(Instant::now());
        }
        Ok(())
    }
}
