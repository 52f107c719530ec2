//! Time without writes after a kill, split by what it was spent on.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::json;
use stolon_model::{ClusterData, KeeperUid};
use stolon_store::{ClusterStore, WatchScope};
use stolon_testkit::local::Target;
use stolon_testkit::local::writes::{Writes, Writing};
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, wait_for};

use super::Options;
use xtask_bench::statistics::{longest, median, seconds};

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Postmaster,
    KeeperAndPostmaster,
}

/// Whether commits wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Asynchronous,
    Synchronous,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Asynchronous => "async",
            Mode::Synchronous => "sync",
        }
    }

    /// A synchronous cluster that lost its primary needs another standby to go on.
    pub fn keepers(self) -> usize {
        if self == Mode::Synchronous { 3 } else { 2 }
    }
}

/// What was seen when, by whoever looks at the store and at the instances.
#[derive(Clone, Copy, Debug, Default)]
struct Sightings {
    detected: Option<Instant>,
    decided: Option<Instant>,
    promoted: Option<Instant>,
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Run {
    gap: Duration,
    detected: Duration,
    decided: Duration,
    promoted: Duration,
    routed: Duration,
    lost: usize,
    acknowledged: usize,
}

/// Measure all kinds, and print a table.
pub async fn measure(options: &Options, programs: &Path) -> anyhow::Result<()> {
    println!("\nTime without writes, {} runs each, seconds: median (longest)", options.runs);
    println!(
        "  {:<22} {:<12} {:>15}   {:>15} {:>15} {:>15} {:>15}   lost rows",
        "kill -9", "replication", "without writes", "detected", "decided", "promoted", "routed"
    );
    for fault in [Fault::Postmaster, Fault::KeeperAndPostmaster] {
        for mode in [Mode::Asynchronous, Mode::Synchronous] {
            let runs =
                cell(options, programs, fault, mode).await.with_context(|| format!("{fault:?}, {mode:?}"))?;
            print_cell(fault, mode, &runs);
        }
    }
    println!(
        "  detected: the store shows trouble; decided: it names the next primary; promoted: an instance takes"
    );
    println!(
        "  writes; routed: a client's write through the proxy is acknowledged. Counted from the last acknowledged"
    );
    println!("  write. After a crash of the postmaster the keeper decides alone.");
    Ok(())
}

fn print_cell(fault: Fault, mode: Mode, runs: &[Run]) {
    let column = |part: fn(&Run) -> Duration| {
        let sample: Vec<Duration> = runs.iter().map(part).collect();
        format!("{} ({})", seconds(median(&sample)), seconds(longest(&sample)))
    };
    let fault = match fault {
        Fault::Postmaster => "postmaster",
        Fault::KeeperAndPostmaster => "keeper and postmaster",
    };
    let mode = mode.name();
    let (lost, promised) =
        runs.iter().fold((0, 0), |(lost, promised), run| (lost + run.lost, promised + run.acknowledged));
    println!(
        "  {fault:<22} {mode:<12} {:>15}   {:>15} {:>15} {:>15} {:>15}   {lost} of {promised}",
        column(|run| run.gap),
        column(|run| run.detected),
        column(|run| run.decided),
        column(|run| run.promoted),
        column(|run| run.routed),
    );
}

async fn cell(options: &Options, programs: &Path, fault: Fault, mode: Mode) -> anyhow::Result<Vec<Run>> {
    let keepers = mode.keepers();
    let plan = Plan { programs: Some(programs.to_path_buf()), ..options.plan(keepers) }
        // What is measured is one crash, again and again, not a server that keeps crashing.
        .spec(json!({ "synchronousReplication": mode == Mode::Synchronous, "maxRestartsPerMinute": 1000 }));
    repeat(options, &plan, mode, async |cluster| run(cluster, fault, keepers).await).await
}

/// Do it again and again on one cluster, each time once everybody is healthy.
pub async fn repeat<R>(
    options: &Options,
    plan: &Plan,
    mode: Mode,
    mut run: impl AsyncFnMut(&mut Cluster) -> anyhow::Result<R>,
) -> anyhow::Result<Vec<R>> {
    let mut cluster = Cluster::start_and_wait(plan).await?;
    let mut runs = Vec::new();
    for _ in 0..options.runs {
        let outcome = async {
            settle(&cluster, mode.keepers(), mode).await?;
            run(&mut cluster).await
        }
        .await;
        match outcome {
            Ok(run) => runs.push(run),
            Err(error) => {
                cluster.dump_logs();
                cluster.kill_everything().await;
                return Err(error);
            }
        }
    }
    cluster.kill_everything().await;
    Ok(runs)
}

/// Wait until every member of the cluster is healthy.
pub async fn settle(cluster: &Cluster, keepers: usize, mode: Mode) -> anyhow::Result<()> {
    cluster.wait_writable(PATIENCE).await?;
    cluster.wait_streaming(keepers - 1, PATIENCE).await?;
    if mode == Mode::Synchronous {
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
    }
    wait_for("the sentinel to find everybody healthy", PATIENCE, async || {
        let data = cluster.data().await?;
        let good = data.instances.values().filter(|instance| {
            instance.status.healthy && instance.status.current_generation >= instance.generation
        });
        Ok((good.count() == keepers).then_some(()))
    })
    .await
}

/// Four clients that write as fast as they can.
pub async fn start_writing(cluster: &Cluster) -> anyhow::Result<Writing> {
    let writes = Writes {
        doors: vec![cluster.proxy()],
        clients: 4,
        pause: Duration::from_millis(1),
        limit: Duration::from_secs(30),
    };
    writes.start().await
}

/// The longest time without writes since `begun`, once there have been writes for two seconds after `done`: its ends.
pub async fn last_gap(
    writing: &Writing,
    begun: Instant,
    done: Instant,
) -> anyhow::Result<(Instant, Instant)> {
    let back = wait_for("writes after it", PATIENCE, async || {
        let ledger = writing.ledger();
        let gap = ledger.longest_gap(begun);
        Ok(gap.filter(|_| ledger.times.last().is_some_and(|last| *last > done + Duration::from_secs(2))))
    })
    .await;
    back.with_context(|| format!("the last failure: {}", writing.last_failure()))
}

async fn run(cluster: &mut Cluster, fault: Fault, keepers: usize) -> anyhow::Result<Run> {
    let primary = cluster.primary().await?;
    let sightings = Arc::new(Mutex::new(Sightings::default()));
    let writing = start_writing(cluster).await?;
    // A fault comes at any moment between two heartbeats.
    let phase = Duration::from_millis(1000 + RandomState::new().build_hasher().finish() % 1000);
    tokio::time::sleep(phase).await;

    let observer = tokio::spawn(watch_store(
        cluster.store.clone(),
        KeeperUid::from(format!("keeper{primary}")),
        sightings.clone(),
    ));
    match fault {
        Fault::Postmaster => cluster.kill_postmaster(primary)?,
        Fault::KeeperAndPostmaster => cluster.kill_keeper_and_postgres(primary).await?,
    }
    let killed = Instant::now();
    let probers: Vec<_> = (1..=keepers)
        .map(|number| {
            let (target, sightings) = (cluster.instance(number), Arc::clone(&sightings));
            tokio::spawn(async move {
                watch_instance(target).await;
                sightings.lock().promoted.get_or_insert_with(Instant::now);
            })
        })
        .collect();
    let back = last_gap(&writing, killed, killed).await;
    observer.abort();
    probers.iter().for_each(tokio::task::JoinHandle::abort);
    let (before, after) = back?;
    let ledger = writing.stop().await;
    let verdict = ledger.check(&cluster.proxy()).await?;
    if fault == Fault::KeeperAndPostmaster {
        cluster.start_service(&format!("keeper{primary}"))?;
    }
    let seen = *sightings.lock();
    Ok(split(before, after, seen, verdict.lost.len(), verdict.acknowledged))
}

fn split(before: Instant, after: Instant, seen: Sightings, lost: usize, acknowledged: usize) -> Run {
    let parts = parts(before, after, &[seen.detected, seen.decided, seen.promoted]);
    Run {
        gap: after - before,
        detected: parts[0],
        decided: parts[1],
        promoted: parts[2],
        routed: parts[3],
        lost,
        acknowledged,
    }
}

/// Divide the time without writes at the moments that were seen, into one part more than moments; one that was not seen takes no time.
pub fn parts(before: Instant, after: Instant, seen: &[Option<Instant>]) -> Vec<Duration> {
    let mut start = before;
    let moments = seen.iter().copied().chain([Some(after)]);
    let part = |until: Option<Instant>| {
        let until = until.unwrap_or(start).clamp(start, after.max(start));
        let length = until - start;
        start = until;
        length
    };
    moments.map(part).collect()
}

/// Note when the store first shows trouble with the primary, and another primary.
async fn watch_store(store: Arc<dyn ClusterStore>, old: KeeperUid, sightings: Arc<Mutex<Sightings>>) {
    let mut changes = store.watch(WatchScope::Everything);
    loop {
        let now_or_soon = tokio::time::timeout(Duration::from_millis(250), changes.changed()).await;
        drop(now_or_soon);
        let Ok(Some(document)) = store.cluster_document().await else { continue };
        let Ok(data) = ClusterData::try_from(document.value) else { continue };
        let report = store.keeper_reports().await.ok().and_then(|mut reports| reports.remove(&old));
        let now = Instant::now();
        let dead = report.and_then(|report| report.postgres_state).is_some_and(|state| !state.healthy);
        let mut seen = sightings.lock();
        if dead || in_trouble(&data, &old) {
            seen.detected.get_or_insert(now);
        }
        if data.primary().is_some_and(|primary| primary.spec.keeper_uid != old) {
            seen.decided.get_or_insert(now);
        }
    }
}

fn in_trouble(data: &ClusterData, old: &KeeperUid) -> bool {
    let keeper = data.keepers.get(old).is_none_or(|keeper| !keeper.status.healthy);
    let instance = data.instance_of(old).is_none_or(|instance| !instance.status.healthy);
    keeper || instance || data.proxy.spec.primary.is_none()
}

/// Until an instance takes writes.
pub async fn watch_instance(target: Target) {
    loop {
        if let Ok(session) = target.connect(QUERY).await
            && session.value("select pg_is_in_recovery()", QUERY).await.is_ok_and(|answer| answer == "f")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_make_up_the_whole() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let seen = Sightings { detected: Some(at(50)), decided: None, promoted: Some(at(70)) };
        let run = split(start, at(100), seen, 0, 0);
        assert_eq!(
            [run.detected, run.decided, run.promoted, run.routed].map(|part| part.as_millis()),
            [50, 0, 20, 30]
        );
        let early = Sightings { detected: Some(at(0)), decided: Some(at(400)), promoted: None };
        let run = split(at(10), at(100), early, 0, 0);
        assert_eq!(
            [run.detected, run.decided, run.promoted, run.routed].map(|part| part.as_millis()),
            [0, 90, 0, 0]
        );
    }
}
