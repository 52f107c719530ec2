//! Time without writes while another keeper gets the primary in good order, split by what it was spent on.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use serde_json::json;
use stolon_model::{ClusterData, SwitchoverStage};
use stolon_store::{ClusterStore, WatchScope};
use stolon_testkit::{Cluster, Plan};

use super::Options;
use super::failover::{Mode, last_gap, parts, repeat, start_writing, watch_instance};
use xtask_bench::statistics::{longest, median, seconds};

/// Who asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// `stolonctl switchover`.
    ByOperator,
    /// SIGTERM to the primary's keeper, which is started again afterwards.
    BySignal,
}

/// What was seen when: proxies closed, the primary told to stop, its end known, the successor elected, and taking writes.
type Sightings = [Option<Instant>; 5];

const CLOSED: usize = 0;
const STOPPING: usize = 1;
const ENDED: usize = 2;
const ELECTED: usize = 3;
const PROMOTED: usize = 4;
const COLUMNS: [&str; 6] = ["closed", "told to stop", "stopped", "elected", "promoted", "routed"];

/// One run.
struct Run {
    gap: Duration,
    parts: Vec<Duration>,
    lost: usize,
    acknowledged: usize,
}

/// Measure all kinds, and print a table.
///
/// # Errors
/// A cluster does not work.
pub async fn measure(options: &Options, programs: &Path) -> anyhow::Result<()> {
    println!("\nTime without writes, {} runs each, seconds: median (longest)", options.runs);
    print!("  {:<12} {:<12} {:>15}  ", "asked by", "replication", "without writes");
    COLUMNS.iter().for_each(|column| print!(" {column:>15}"));
    println!("   lost rows");
    for asked in [Asked::ByOperator, Asked::BySignal] {
        for mode in [Mode::Asynchronous, Mode::Synchronous] {
            let runs =
                cell(options, programs, asked, mode).await.with_context(|| format!("{asked:?}, {mode:?}"))?;
            print_cell(asked, mode, &runs);
        }
    }
    println!(
        "  Each column is the time since the one before it, the first since the last acknowledged write."
    );
    Ok(())
}

fn print_cell(asked: Asked, mode: Mode, runs: &[Run]) {
    let column = |part: &dyn Fn(&Run) -> Duration| {
        let sample: Vec<Duration> = runs.iter().map(part).collect();
        format!("{} ({})", seconds(median(&sample)), seconds(longest(&sample)))
    };
    let asked = match asked {
        Asked::ByOperator => "stolonctl",
        Asked::BySignal => "SIGTERM",
    };
    print!("  {asked:<12} {:<12} {:>15}  ", mode.name(), column(&|run| run.gap));
    (0..COLUMNS.len()).for_each(|index| print!(" {:>15}", column(&|run| run.parts[index])));
    let (lost, promised) =
        runs.iter().fold((0, 0), |(lost, promised), run| (lost + run.lost, promised + run.acknowledged));
    println!("   {lost} of {promised}");
}

async fn cell(options: &Options, programs: &Path, asked: Asked, mode: Mode) -> anyhow::Result<Vec<Run>> {
    let keepers = mode.keepers();
    let plan = Plan { programs: Some(programs.to_path_buf()), ..options.plan(keepers) }
        .spec(json!({ "synchronousReplication": mode == Mode::Synchronous }));
    repeat(options, &plan, mode, async |cluster| run(cluster, asked, keepers).await).await
}

async fn run(cluster: &mut Cluster, asked: Asked, keepers: usize) -> anyhow::Result<Run> {
    let primary = cluster.primary().await?;
    let writing = start_writing(cluster).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sightings = Arc::new(Mutex::new(Sightings::default()));
    let observer = tokio::spawn(watch_store(cluster.store.clone(), primary, Arc::clone(&sightings)));
    let probers: Vec<_> = (1..=keepers)
        .filter(|number| *number != primary)
        .map(|number| {
            let sightings = Arc::clone(&sightings);
            let target = cluster.instance(number);
            tokio::spawn(async move {
                watch_instance(target).await;
                sightings.lock()[PROMOTED].get_or_insert_with(Instant::now);
            })
        })
        .collect();
    let begun = Instant::now();
    ask(cluster, asked, primary).await?;
    let done = Instant::now();
    let back = last_gap(&writing, begun, done).await;
    observer.abort();
    probers.iter().for_each(tokio::task::JoinHandle::abort);
    let (before, after) = back?;
    let verdict = writing.stop().await.check(&cluster.proxy()).await?;
    ensure!(cluster.primary().await? != primary, "keeper{primary} has still the primary");
    if asked == Asked::BySignal {
        cluster.start_service(&format!("keeper{primary}"))?;
    }
    let seen = *sightings.lock();
    Ok(Run {
        gap: after - before,
        parts: parts(before, after, &seen),
        lost: verdict.lost.len(),
        acknowledged: verdict.acknowledged,
    })
}

async fn ask(cluster: &mut Cluster, asked: Asked, primary: usize) -> anyhow::Result<()> {
    match asked {
        Asked::ByOperator => cluster.stolonctl_ok(&["switchover"], "").await.map(drop),
        Asked::BySignal => cluster.stop_service(&format!("keeper{primary}")).await,
    }
}

/// Note when the store shows each stage.
async fn watch_store(store: Arc<dyn ClusterStore>, old: usize, sightings: Arc<Mutex<Sightings>>) {
    let mut changes = store.watch(WatchScope::Everything);
    loop {
        let now_or_soon = tokio::time::timeout(Duration::from_millis(250), changes.changed()).await;
        drop(now_or_soon);
        let Ok(Some(document)) = store.cluster_document().await else { continue };
        let Ok(data) = ClusterData::try_from(document.value) else { continue };
        let now = Instant::now();
        let mut seen = sightings.lock();
        let mut saw = |index: usize| seen[index] = seen[index].or(Some(now));
        let record = data.cluster.status.switchover.as_ref().filter(|record| record.is_open());
        if data.proxy.spec.primary.is_none() {
            saw(CLOSED);
        }
        if record.is_some_and(|record| record.stage == Some(SwitchoverStage::Stopping)) {
            saw(STOPPING);
        }
        if record.is_some_and(|record| record.end.is_some()) {
            saw(ENDED);
        }
        if data.primary().is_some_and(|primary| primary.spec.keeper_uid.as_str() != format!("keeper{old}")) {
            saw(ELECTED);
        }
    }
}
