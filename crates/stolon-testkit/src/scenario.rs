//! The frame around an end-to-end test.

use std::time::Duration;

use crate::cluster::{Cluster, Plan};

/// No test takes longer than this, however slow the machine.
const LIMIT: Duration = Duration::from_secs(240);

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
        let outcome = match tokio::time::timeout(LIMIT, test(&mut cluster)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("the test did not end within {LIMIT:?}")),
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
