//! What every program measures of itself.

use std::sync::Arc;

use procfs::process::{Process, Stat};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use rustix::process::{Resource, getrlimit};
use stolon_store::{ClusterStore, Latencies};

use crate::Program;

/// A registry with `stolon_cluster_identifier` and the usual `process_…` metrics.
pub fn new_registry(program: Program, cluster_name: &str) -> Registry {
    let mut registry = Registry::default();
    let identifier = Family::<Vec<(String, String)>, Gauge>::default();
    let labels = [("cluster_name", cluster_name), ("component", program.component())];
    identifier
        .get_or_create(&labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
        .set(1);
    registry.register(
        "stolon_cluster_identifier",
        "Set to 1, is labeled with cluster name and component",
        identifier,
    );
    registry.register_collector(Box::new(ProcessMetrics));
    registry
}

/// CPU, memory and files of this process, read when they are asked for.
#[derive(Debug)]
pub struct ProcessMetrics;

impl Collector for ProcessMetrics {
    /// What `/proc` does not tell is left out.
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<u64>| -> std::fmt::Result {
            let Some(value) = value else { return Ok(()) };
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(name, help, None::<&Unit>, metric.metric_type())?)
        };
        let stat = Process::myself().and_then(|process| process.stat()).ok();
        let page = rustix::param::page_size() as u64;
        let files =
            std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as u64);
        gauge("process_open_fds", "Number of open file descriptors", files)?;
        gauge(
            "process_max_fds",
            "Maximum number of open file descriptors",
            getrlimit(Resource::Nofile).current,
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes",
            stat.as_ref().map(|stat| stat.vsize),
        )?;
        gauge(
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes",
            getrlimit(Resource::As).current,
        )?;
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes",
            stat.as_ref().map(|stat| stat.rss * page),
        )?;
        let Some((cpu_seconds, start_seconds)) = stat.as_ref().and_then(times) else { return Ok(()) };
        let start = ConstGauge::new(start_seconds);
        start.encode(encoder.encode_descriptor(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds",
            None,
            start.metric_type(),
        )?)?;
        let cpu = ConstCounter::new(cpu_seconds);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds",
            None,
            cpu.metric_type(),
        )?)
    }
}

/// CPU time in seconds, and the start in seconds since 1970.
fn times(stat: &Stat) -> Option<(f64, f64)> {
    let per_second = procfs::ticks_per_second() as f64;
    let boot = procfs::boot_time_secs().ok()? as f64;
    Some(((stat.utime + stat.stime) as f64 / per_second, boot + stat.starttime as f64 / per_second))
}

/// Count the requests that this process sends to the store as `stolon_store_requests_total`, and how long they take and how many fail.
pub fn register_store_requests(registry: &mut Registry, store: Arc<dyn ClusterStore>) {
    registry.register_collector(Box::new(StoreRequests(store)));
}

struct StoreRequests(Arc<dyn ClusterStore>);

impl std::fmt::Debug for StoreRequests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreRequests")
    }
}

impl Collector for StoreRequests {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let requests = ConstCounter::new(self.0.requests());
        requests.encode(encoder.encode_descriptor(
            "stolon_store_requests",
            "Requests sent to the store since the start",
            None,
            requests.metric_type(),
        )?)?;
        let latencies = self.0.latencies();
        let kinds = [("read", latencies.reads), ("write", latencies.writes)];
        let mut durations = encoder.encode_descriptor(
            "stolon_store_request_duration_seconds",
            "How long the store took to answer, or not to answer, reads and writes",
            None,
            MetricType::Histogram,
        )?;
        for (kind, latencies) in kinds {
            Durations(latencies).encode(durations.encode_family(&[("operation", kind)])?)?;
        }
        let mut failures = encoder.encode_descriptor(
            "stolon_store_request_failures",
            "Requests that the store did not answer or refused",
            None,
            MetricType::Counter,
        )?;
        for (kind, latencies) in kinds {
            ConstCounter::new(latencies.failures).encode(failures.encode_family(&[("operation", kind)])?)?;
        }
        Ok(())
    }
}

struct Durations(Latencies);

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let buckets: Vec<(f64, u64)> = self.0.buckets().collect();
        encoder.encode_histogram::<NoLabelSet>(self.0.seconds, self.0.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
