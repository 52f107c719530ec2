//! A store that is far away: half a second a round trip, with timings that are short for it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use stolon_testkit::local::writes::Writes;
use stolon_testkit::{Cluster, PATIENCE, Plan, StoreKind, on_cluster, wait_for};

const ROUND_TRIP: Duration = Duration::from_millis(500);
/// Several times as long as a proxy may forward without a good check.
const WATCHED: Duration = Duration::from_secs(12);

const CLOSED: &str = "clients are sent nowhere";
const ELECTED: &str = "electing db as the new master";

fn count(cluster: &Cluster, program: &str, sentence: &str) -> usize {
    cluster.log(program).matches(sentence).count()
}

/// Clients are served without a break, and the loss of a node ends as it does with a store that is near.
#[test]
fn clients_are_served_and_a_failover_ends_well() {
    let plan = Plan::new(2).store(StoreKind::EtcdFarAway { round_trip: ROUND_TRIP });
    on_cluster(plan, async |cluster| {
        let writes = Writes {
            doors: vec![cluster.proxy()],
            clients: 2,
            pause: Duration::from_millis(20),
            limit: Duration::from_secs(15),
        };
        let writing = writes.start().await?;
        wait_for("rows", PATIENCE, async || Ok((writing.acknowledged() > 10).then_some(()))).await?;
        let (closed_before, old) = (count(cluster, "proxy1", CLOSED), cluster.primary().await?);
        let quiet_since = Instant::now();
        let watched = wait_for("the time in which nothing may happen", PATIENCE, async || {
            ensure!(
                count(cluster, "proxy1", CLOSED) == closed_before,
                "the proxy closed although nothing had happened"
            );
            Ok((quiet_since.elapsed() > WATCHED).then_some(()))
        });
        watched.await?;
        ensure!(cluster.primary().await? == old, "a failover without a reason");
        let elected_before = count(cluster, "sentinel1", ELECTED);

        cluster.kill_keeper_and_postgres(old).await?;
        let died = Instant::now();
        let new = cluster.wait_other_primary(old, PATIENCE).await?;
        wait_for("rows after the loss", PATIENCE, async || {
            let last = writing.last_acknowledged();
            Ok(last.is_some_and(|last| last > died + ROUND_TRIP).then_some(()))
        })
        .await?;
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.unexpected.is_empty(), "rows from nowhere: {:?}", verdict.unexpected);
        ensure!(cluster.primary().await? == new, "the successor did not stay");
        let elected = count(cluster, "sentinel1", ELECTED) - elected_before;
        ensure!(elected == 1, "one failover, one election, not {elected}");
        cluster.start_service(&format!("keeper{old}"))?;
        cluster.wait_streaming(1, PATIENCE).await
    });
}
