//! What the proxy measures of itself.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use stolon_runtime::Registry;

/// The proxy's own metrics. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Connections that are open now.
    pub connections: Gauge,
    /// Connections that were sent to a primary since the start.
    pub connections_accepted: Counter,
    /// 1 while clients are sent to a primary.
    pub forwarding: Gauge,
    /// When the last successful check ended, in seconds since 1970.
    pub last_check_success: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Metrics that `registry` shows.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        registry.register("stolon_proxy_connections", "Connections open now", metrics.connections.clone());
        registry.register(
            "stolon_proxy_connections_accepted",
            "Connections sent to a primary since the start",
            metrics.connections_accepted.clone(),
        );
        registry.register(
            "stolon_proxy_forwarding",
            "Set to 1 while clients are sent to a primary",
            metrics.forwarding.clone(),
        );
        registry.register(
            "stolon_proxy_last_check_success_seconds",
            "Last time a check of the cluster succeeded as unix timestamp",
            metrics.last_check_success.clone(),
        );
        metrics
    }
}
