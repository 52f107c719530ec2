//! Clients that write through the proxy while something is done to a cluster.

use std::time::{Duration, Instant};

use anyhow::ensure;
use stolon_local::Target;
use stolon_local::writes::{Ledger, Writes, Writing};

use crate::{Cluster, PATIENCE, wait_for};

/// So many rows show that clients are served, and not just that one of them got through.
const SOME: usize = 20;

/// Three clients write, and the first rows are acknowledged.
///
/// # Errors
/// None is acknowledged within [`PATIENCE`].
pub async fn start_writing(cluster: &Cluster) -> anyhow::Result<Writing> {
    let writes = Writes {
        doors: vec![cluster.proxy()],
        clients: 3,
        pause: Duration::from_millis(5),
        limit: Duration::from_secs(15),
    };
    let writing = writes.start().await?;
    wait_for("the first acknowledged rows", PATIENCE, async || {
        Ok((writing.acknowledged() > SOME).then_some(()))
    })
    .await?;
    Ok(writing)
}

/// Wait until rows are acknowledged that were begun after `since`.
///
/// # Errors
/// None is within [`PATIENCE`].
pub async fn writes_are_back(writing: &Writing, since: Instant) -> anyhow::Result<()> {
    let before = writing.acknowledged();
    wait_for("acknowledged rows again", PATIENCE, async || {
        ensure!(writing.last_acknowledged().is_some_and(|last| last > since), "{}", writing.last_failure());
        Ok((writing.acknowledged() > before + SOME).then_some(()))
    })
    .await
}

/// What clients were promised is there, once, and nothing else.
///
/// # Errors
/// It is not, or the server does not answer.
pub async fn nothing_is_lost(ledger: &Ledger, target: &Target, since: Instant) -> anyhow::Result<()> {
    let verdict = ledger.check(target).await?;
    let gap = ledger.longest_pause(since);
    eprintln!("{} rows promised, nothing acknowledged for {:.2} s", verdict.acknowledged, gap.as_secs_f64());
    ensure!(verdict.lost.is_empty(), "{} promised rows are lost", verdict.lost.len());
    ensure!(verdict.unexpected.is_empty(), "{} rows from nowhere", verdict.unexpected.len());
    ensure!(verdict.doubled.is_empty(), "{} rows came twice", verdict.doubled.len());
    ensure!(verdict.acknowledged > 100, "only {} rows were promised", verdict.acknowledged);
    Ok(())
}
