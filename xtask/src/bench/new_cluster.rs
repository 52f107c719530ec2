//! From nothing to a cluster that takes writes.

use std::path::Path;
use std::time::Instant;

use stolon_testkit::{Cluster, PATIENCE, Plan};

use super::Options;
use xtask_bench::statistics::{longest, median, seconds};

/// Measure and print.
pub async fn measure(options: &Options, programs: &Path) -> anyhow::Result<()> {
    let (mut writable, mut streaming) = (Vec::new(), Vec::new());
    let runs = options.runs.min(5);
    for _ in 0..runs {
        let plan = Plan { programs: Some(programs.to_path_buf()), ..Plan::new(2).store(options.store()) };
        let mut cluster = Cluster::start(&plan).await?;
        let started = Instant::now();
        cluster.wait_writable(PATIENCE).await?;
        let written = Instant::now();
        cluster.wait_streaming(1, PATIENCE).await?;
        writable.push(written - started);
        streaming.push(written.elapsed());
        cluster.kill_everything().await;
    }
    println!("\nA new cluster of two keepers, {runs} runs, seconds (median, longest)");
    println!(
        "  last process started to first write    {:>8} {:>8}",
        seconds(median(&writable)),
        seconds(longest(&writable))
    );
    println!(
        "  first write to the standby streaming   {:>8} {:>8}",
        seconds(median(&streaming)),
        seconds(longest(&streaming))
    );
    Ok(())
}
