//! The metrics of a sentinel (docs: "Metrics").

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::gauge::Gauge;
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
        metrics
    }
}
