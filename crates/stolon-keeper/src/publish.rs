//! The publisher: a report in every interval, and at once when something happened that others wait for.

use stolon_model::{InfoUid, InstanceUid, KeeperActivity, KeeperReport, PostgresState};
use stolon_runtime::{Backoff, new_uid8};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::namesake::{self, Predecessor};
use crate::shared::{News, Shared};

/// Runs until `stop`, or until another keeper is found to report under the same uid.
///
/// # Errors
/// See [`namesake`].
pub(crate) async fn run(
    shared: &Shared,
    predecessor: &Predecessor,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut news = shared.news.subscribe();
    let mut backoff = Backoff::new(shared.pace().sleep / 10, shared.pace().sleep);
    // Reports that the store took; counted only as far as it matters.
    let mut reports = 0;
    loop {
        let mut now = news.borrow_and_update().clone();
        if !now.cluster_uid.is_empty() {
            match reports {
                0 => namesake::before_first_report(shared, predecessor, stop).await?,
                1 => namesake::before_second_report(shared).await?,
                _ => {}
            }
            now = news.borrow_and_update().clone();
        }
        let published = matter(&now);
        let mut next = Instant::now() + shared.pace().sleep;
        if !now.cluster_uid.is_empty() {
            let put =
                async { shared.store.put_keeper_report(&report(shared, now), 2 * shared.pace().sleep).await };
            match stop.run_until_cancelled(put).await {
                None => return Ok(()),
                Some(Ok(())) => {
                    reports = (reports + 1).min(2);
                    backoff.reset();
                    next = Instant::now() + shared.pace().sleep;
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "failed to update keeper info");
                    next = Instant::now() + backoff.next_pause();
                }
            }
        }
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(next) => break,
                // The sender lives as long as `shared`, so that an error cannot be.
                _ = news.changed() => if matter(&news.borrow()) != published { break },
            }
        }
    }
}

/// What somebody waits for: everything but positions and counters.
fn matter(news: &News) -> News {
    let mut matter = news.clone();
    matter.activity.bytes_done = 0;
    if let Some(state) = &mut matter.state {
        state.lsn = stolon_model::Lsn(0);
        state.older_wal_file.clear();
    }
    matter
}

fn report(shared: &Shared, news: News) -> KeeperReport {
    // An instance that was complete and is gone is for the sentinel to replace; one that is being made is not here yet.
    let is_lost = news.data_is_gone && news.generation != 0;
    let instance = if is_lost { InstanceUid::default() } else { news.instance };
    KeeperReport {
        info_uid: InfoUid::from(new_uid8()),
        uid: shared.uid.clone(),
        cluster_uid: news.cluster_uid,
        boot_uuid: shared.boot.clone(),
        postgres_binary_version: news.version,
        postgres_state: news.state.map(|state| PostgresState {
            uid: instance,
            generation: news.generation,
            listen_address: shared.settings.advertise_address.clone(),
            port: shared.settings.advertise_port.clone(),
            ..state
        }),
        can_be_primary: Some(shared.settings.can_be_primary),
        can_be_synchronous_replica: Some(shared.settings.can_be_synchronous_replica),
        activity: (news.activity != KeeperActivity::default()).then_some(news.activity),
    }
}
