//! The metrics of a sentinel (docs: "Metrics").

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use stolon_core::sentinel::{Change, Loss, PrimaryFault};
use stolon_model::InstanceUid;
use stolon_runtime::Registry;

/// The metrics of a sentinel.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Unix time of the last round that was completed as the leader.
    pub last_success: Gauge<f64, AtomicU64>,
    /// 1 while this sentinel leads.
    pub is_leader: Gauge<i64, AtomicI64>,
    /// How often this process was elected.
    pub leader_count: Gauge<i64, AtomicI64>,
    /// How many things the last round left undone with a reason.
    pub holds: Gauge<i64, AtomicI64>,
    /// 1 while this sentinel leads and an operator's pause holds.
    pub paused: Gauge<i64, AtomicI64>,
    /// While this sentinel leads, how many former primaries an operator could go on from.
    pub former_primaries: Gauge<i64, AtomicI64>,
    ready: Gauge<i64, AtomicI64>,
    loss: Gauge<i64, AtomicI64>,
    failovers: Failovers,
}

type Labels = Vec<(&'static str, &'static str)>;

/// From a second to some minutes: a failover takes a few `sleepInterval`, and longer where nobody can take over.
const SECONDS: [f64; 11] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0];

const REASONS: [&str; 10] = [
    "keeper_silent",
    "keeper_refused",
    "instance_down",
    "keeper_unknown",
    "operator",
    "not_converged",
    "keeps_crashing",
    "disk_full",
    "went_back",
    "switchover",
];

/// Elections of another primary that this sentinel has made.
#[derive(Clone, Debug)]
struct Failovers {
    count: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    /// Who was elected, and when: clients are not sent there yet.
    elected: Option<(InstanceUid, Instant)>,
}

impl Default for Failovers {
    fn default() -> Self {
        Failovers {
            count: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            elected: None,
        }
    }
}

impl Failovers {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "stolon_sentinel_failovers",
            "Elections of another primary by this sentinel, by the reason",
            self.count.clone(),
        );
        registry.register(
            "stolon_sentinel_failover_duration_seconds",
            "How long failovers took: phase detection from the last good report of the primary to the election, \
             phase takeover from there to where clients are sent to the next one",
            self.durations.clone(),
        );
        for reason in REASONS {
            let _ = self.count.get_or_create(&vec![("reason", reason)]);
        }
        for phase in ["detection", "takeover"] {
            let _ = self.durations.get_or_create(&vec![("phase", phase)]);
        }
    }

    fn took(&self, phase: &'static str, time: Duration) {
        self.durations.get_or_create(&vec![("phase", phase)]).observe(time.as_secs_f64());
    }

    fn note(&mut self, change: &Change) {
        match change {
            Change::PrimaryElected { to, because, .. } => {
                let (reason, detection) = fault(because);
                self.count.get_or_create(&vec![("reason", reason)]).inc();
                detection.into_iter().for_each(|time| self.took("detection", time));
                self.elected = Some((to.clone(), Instant::now()));
            }
            Change::ProxiesOpened { to, .. } => {
                let elected = self.elected.take_if(|(elected, _)| elected == to);
                elected.into_iter().for_each(|(_, at)| self.took("takeover", at.elapsed()));
            }
            _ => {}
        }
    }
}

/// The label of a fault, and how long it had lasted when it counted, where that is measured.
fn fault(because: &PrimaryFault) -> (&'static str, Option<Duration>) {
    match because {
        PrimaryFault::KeeperSilent { silent_for, .. } => ("keeper_silent", Some(*silent_for)),
        PrimaryFault::KeeperRefused { quiet_for, .. } => ("keeper_refused", Some(*quiet_for)),
        PrimaryFault::InstanceDown { down_for, .. } => ("instance_down", Some(*down_for)),
        PrimaryFault::KeeperUnknown { .. } => ("keeper_unknown", None),
        PrimaryFault::ForcedByOperator { .. } => ("operator", None),
        PrimaryFault::NotConverged { within, .. } => ("not_converged", Some(*within)),
        PrimaryFault::KeepsCrashing { .. } => ("keeps_crashing", None),
        PrimaryFault::DiskFull { .. } => ("disk_full", None),
        PrimaryFault::WentBack { .. } => ("went_back", None),
        PrimaryFault::HandedOver { .. } => ("switchover", None),
    }
}

impl Metrics {
    /// Metrics that `registry` shows.
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        registry.register(
            "stolon_sentinel_last_cluster_check_success_seconds",
            "Last time we successfully performed a cluster check as seconds since unix epoch",
            metrics.last_success.clone(),
        );
        registry.register(
            "stolon_sentinel_is_leader",
            "Set to 1 if the sentinel is currently the leader",
            metrics.is_leader.clone(),
        );
        registry.register(
            "stolon_sentinel_leader_count",
            "Number of times this sentinel has been elected as leader",
            metrics.leader_count.clone(),
        );
        registry.register(
            "stolon_sentinel_holds",
            "Number of things that the last round left undone, each with a reason in the log",
            metrics.holds.clone(),
        );
        registry.register(
            "stolon_sentinel_paused",
            "Set to 1 while this sentinel leads and an operator has paused the cluster",
            metrics.paused.clone(),
        );
        registry.register(
            "stolon_sentinel_failover_ready",
            "Set to 1 while this sentinel leads and a standby could take over from the primary",
            metrics.ready.clone(),
        );
        registry.register(
            "stolon_sentinel_failover_loss_bytes",
            "WAL that the standby that would take over lacks by the last reports; 0 in synchronous mode",
            metrics.loss.clone(),
        );
        registry.register(
            "stolon_sentinel_former_primaries",
            "While this sentinel leads, former primaries whose keepers report that they hold the data unchanged",
            metrics.former_primaries.clone(),
        );
        metrics.failovers.register(registry);
        metrics
    }

    /// What a failover would cost now; none: there would be none.
    pub fn loss_at_failover(&self, loss: Option<Loss>) {
        self.ready.set(i64::from(loss.is_some()));
        self.loss.set(match loss {
            Some(Loss::UpTo { bytes, .. }) => i64::try_from(bytes).unwrap_or(i64::MAX),
            Some(Loss::Nothing) | None => 0,
        });
    }

    /// Something was changed in the cluster.
    pub fn changed(&mut self, change: &Change) {
        self.failovers.note(change);
    }
}
