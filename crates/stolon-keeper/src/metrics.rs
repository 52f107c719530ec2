//! What a keeper measures (docs: "Metrics").

use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stolon_core::keeper::{DataKind, Measure};

type Number = Gauge<i64, AtomicI64>;
type RoleFamily = Family<Vec<(&'static str, &'static str)>, Number>;

/// The gauges of a keeper. Cheap to clone; all clones are the same gauges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    last_valid_update: Number,
    target_role: RoleFamily,
    local_role: RoleFamily,
    needs_reload: Number,
    needs_restart: Number,
    last_sync_success: Number,
    sleep_interval: Number,
    shutdown: Number,
    healthy: Number,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = metrics.clone();
        let mut add = |name: &str, help: &str, gauge: Number| registry.register(name, help, gauge);
        add(
            "stolon_keeper_clusterdata_last_valid_update_seconds",
            "Last time we received a valid clusterdata from our store as seconds since unix epoch",
            m.last_valid_update,
        );
        add("stolon_keeper_needs_reload", "Set to 1 if Postgres requires reload", m.needs_reload);
        add("stolon_keeper_needs_restart", "Set to 1 if Postgres requires restart", m.needs_restart);
        add(
            "stolon_keeper_last_sync_success_seconds",
            "Last time we successfully synced our keeper",
            m.last_sync_success,
        );
        add("stolon_keeper_sleep_interval", "Seconds to sleep between sync loops", m.sleep_interval);
        add(
            "stolon_keeper_shutdown_seconds",
            "Shutdown time (received termination signal) since unix epoch in seconds",
            m.shutdown,
        );
        add("stolon_keeper_healthy", "Set to 1 if the last look at Postgres succeeded", m.healthy);
        registry.register("stolon_keeper_target_role", "Keeper last requested target role", m.target_role);
        registry.register("stolon_keeper_local_role", "Keeper current local role", m.local_role);
        for family in [&metrics.target_role, &metrics.local_role] {
            for role in ["undefined", "master", "standby"] {
                family.get_or_create(&vec![("role", role)]).set(0);
            }
        }
        metrics
    }

    /// A gauge changes.
    pub(crate) fn measure(&self, measure: Measure) {
        let flag = |gauge: &Number, set: bool| _ = gauge.set(i64::from(set));
        match measure {
            Measure::ValidUpdate => _ = self.last_valid_update.set(unix_seconds()),
            Measure::SyncSuccess => _ = self.last_sync_success.set(unix_seconds()),
            Measure::SleepInterval(interval) => {
                self.sleep_interval.set(i64::try_from(interval.as_secs()).unwrap_or(i64::MAX));
            }
            Measure::TargetRole(role) => set_role(&self.target_role, role),
            Measure::LocalRole(role) => set_role(&self.local_role, role),
            Measure::NeedsReload(set) => flag(&self.needs_reload, set),
            Measure::NeedsRestart(set) => flag(&self.needs_restart, set),
            Measure::Healthy(set) => flag(&self.healthy, set),
            Measure::Ready => {}
        }
    }

    pub(crate) fn shutdown_now(&self) {
        self.shutdown.set(unix_seconds());
    }
}

/// A role as the metrics name it; none: undefined.
fn set_role(family: &RoleFamily, role: Option<DataKind>) {
    for (label, kind) in
        [("undefined", None), ("master", Some(DataKind::Primary)), ("standby", Some(DataKind::Standby))]
    {
        family.get_or_create(&vec![("role", label)]).set(i64::from(kind == role));
    }
}

fn unix_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}
