//! What every program measures of itself.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use rustix::process::{Resource, getrlimit};
use stolon_store::ClusterStore;

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
        let memory = memory_pages();
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
            memory.map(|(size, _)| size * page),
        )?;
        gauge(
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes",
            getrlimit(Resource::As).current,
        )?;
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes",
            memory.map(|(_, resident)| resident * page),
        )?;
        let Some((cpu_seconds, start_seconds)) = times() else { return Ok(()) };
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

/// Virtual and resident size.
fn memory_pages() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// CPU time in seconds, and the start in seconds since 1970.
fn times() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |index: usize| after_name.get(index)?.parse::<f64>().ok();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(((ticks(11)? + ticks(12)?) / per_second, boot + ticks(19)? / per_second))
}

/// Count the requests that this process sends to the store as `stolon_store_requests_total`.
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
        let help = "Requests sent to the store since the start";
        requests.encode(encoder.encode_descriptor(
            "stolon_store_requests",
            help,
            None,
            requests.metric_type(),
        )?)
    }
}
