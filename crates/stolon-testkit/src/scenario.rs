//! The frame around an end-to-end test.

use std::time::Duration;

use crate::cluster::{Cluster, Plan};

/// No test takes longer than this, however slow the machine; an outage that was asked for comes on top.
const LIMIT: Duration = Duration::from_secs(240);
/// Variable of the environment: how long a store is away in the tests that take one away, in seconds.
const OUTAGE: &str = "OUTAGE_SECONDS";

/// How long a store is to be away: what whoever runs the tests asks for, else `usual`.
pub fn outage(usual: Duration) -> Duration {
    let asked = std::env::var(OUTAGE).ok().and_then(|seconds| seconds.parse().ok());
    asked.map_or(usual, Duration::from_secs)
}

/// Start a cluster, wait until it works, and run a test on it. A failure comes with the ends of all logs.
///
/// # Panics
/// The test failed.
#[track_caller]
pub fn on_cluster(plan: Plan, test: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    run(async || Cluster::start_and_wait(&plan).await, test);
}

/// Make a cluster ready without starting anything, and run a test on it.
///
/// # Panics
/// The test failed.
#[track_caller]
pub fn on_prepared(plan: Plan, test: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    run(async || Cluster::prepare(&plan).await, test);
}

#[track_caller]
fn run(
    make: impl AsyncFnOnce() -> anyhow::Result<Cluster>,
    test: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
    let outcome = runtime.block_on(async {
        let mut cluster = make().await?;
        let limit = LIMIT + outage(Duration::ZERO);
        let outcome = match tokio::time::timeout(limit, test(&mut cluster)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("the test did not end within {limit:?}")),
        };
        if outcome.is_err() {
            cluster.dump_logs();
        }
        cluster.kill_everything().await;
        outcome
    });
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}
