//! The migrated cluster loses its primary, and the old one comes back.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use stolon_local::kill_tree;
use stolon_local::writes::Writing;
use stolon_model::KeeperUid;

use super::checks::{Checks, Fingerprint};
use super::steps::{self, Steps};
use super::{
    LIMIT, QUERY, WITHOUT_WRITES, WRITING, legacy, until_acknowledged, until_replayed, until_streaming,
    within,
};
use crate::playground::live::Playground;
use crate::playground::view::View;

/// Let commits wait for a standby, so that a failover can lose nothing. With `minSynchronousStandbys` 0 the cluster
/// goes on with the one keeper that is left when the other one is lost. The primary that was lost is rewound: a keeper that was moved away
/// from by a rollback could not be, since a head that was copied anew has no WAL of before.
pub async fn make_synchronous(playground: &mut Playground, steps: &mut Steps) -> anyhow::Result<()> {
    let patch = json!({ "synchronousReplication": true, "minSynchronousStandbys": 0, "usePgrewind": true });
    let patch = patch.to_string();
    steps.begin(&format!("stolonctl update --patch '{patch}'"));
    steps::stolonctl(&playground.layout, &["update", "--patch", &patch]).await?;
    let store = playground.store.clone();
    within(LIMIT, "a synchronous standby", async {
        loop {
            if let Ok(view) = View::look(&store).await
                && let Some(primary) = view.data.as_ref().and_then(|data| data.primary())
                && primary.status.current_generation >= primary.generation
                && primary.status.synchronous_standbys.iter().flatten().next().is_some()
                && primary.spec.synchronous_replication
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await?;
    steps.end("a standby is in sync");
    Ok(())
}

/// `kill -9` of the primary's whole process tree under writing clients, which are stopped afterwards. Returns the number of its keeper, which
/// runs a standby in the end.
pub async fn lose_primary(
    playground: &mut Playground,
    writing: Writing,
    checks: &mut Checks,
    steps: &mut Steps,
) -> anyhow::Result<usize> {
    let target = playground.proxy_target();
    let (primary, number) = primary(playground).await?;
    steps.begin(&format!("kill -9 of {primary} and its PostgreSQL, under writing clients"));
    steps.say(&format!("clients write for {} s before the kill", WRITING.as_secs()));
    tokio::time::sleep(WRITING).await;
    let pid = playground.supervisor.pid(primary.as_str()).context("the primary's keeper does not run")?;
    playground.supervisor.hold(primary.as_str());
    let killed = kill_tree(Some(pid), &playground.layout.keeper_directory(number)).await;
    let died = Instant::now();
    let promised = writing.acknowledged();
    steps.say(&format!("{killed} processes killed, waiting for writes to come back"));
    checks.if_late("failover", until_acknowledged(&writing, died).await)?;
    steps.say(&format!("writes are back, clients go on for {} s", WRITING.as_secs()));
    tokio::time::sleep(WRITING).await;
    let ledger = writing.stop().await;
    let gap = ledger.longest_pause(died);
    steps.end(&format!("{:.1} s without writes", gap.as_secs_f64()));

    let verdict = ledger.check(&target).await?;
    checks.note(
        "failover",
        &format!("{:.1} s without writes, at most {}", gap.as_secs_f64(), WITHOUT_WRITES.as_secs()),
        gap <= WITHOUT_WRITES,
    );
    checks.note(
        "acknowledged rows",
        &format!(
            "{} promised ({promised} before the kill), {} lost, {} doubled, {} of {} doubtful ones present",
            verdict.acknowledged,
            verdict.lost.len(),
            verdict.doubled.len(),
            verdict.unknown_present,
            ledger.unknown.len()
        ),
        verdict.lost.is_empty()
            && verdict.unexpected.is_empty()
            && verdict.doubled.is_empty()
            && promised > 0,
    );
    let (successor, _) = self::primary(playground).await?;
    checks.note("new primary", &format!("{successor}, before it was {primary}"), successor != primary);
    rejoin(playground, &primary, checks, steps).await?;
    Ok(number)
}

async fn rejoin(
    playground: &mut Playground,
    old: &KeeperUid,
    checks: &mut Checks,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    steps.begin(&format!("{old} comes back"));
    playground.supervisor.release(old.as_str())?;
    let target = playground.proxy_target();
    let standbys = usize::from(playground.args.keepers) - 1;
    let streaming = within(LIMIT, "the old primary to stream", until_streaming(&target, standbys)).await;
    checks.await_end("old primary", "is a standby of the new one", streaming)?;
    steps.end("it streams from the new primary");
    Ok(())
}

/// The data on the new primary, and on the old one, which is a standby now.
pub async fn compare_once_more(
    playground: &Playground,
    before: &Fingerprint,
    old: usize,
    checks: &mut Checks,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    steps.begin("comparing once more, on the new primary and on the old one");
    let new = playground.proxy_target().database(legacy::DATABASE);
    before.compare(&Fingerprint::take(&new).await?, "after the failover", checks);
    let session = new.connect(QUERY).await?;
    let (next, last) = (
        session.value("select nextval('orders_id_seq')", QUERY).await?,
        session.value("select max(id) from orders", QUERY).await?,
    );
    let goes_on = matches!((next.parse::<i64>(), last.parse::<i64>()), (Ok(next), Ok(last)) if next > last);
    checks.note("orders_id_seq", &format!("goes on with {next}, the last id is {last}"), goes_on);
    let written = session.value("select pg_current_wal_lsn()", QUERY).await?;
    let old = playground.keeper_target(old)?.database(legacy::DATABASE);
    within(LIMIT, "the old primary to replay what the new one wrote", until_replayed(&old, &written)).await?;
    before.compare(&Fingerprint::take(&old).await?, "on the old primary", checks);
    steps.end("done");
    Ok(())
}

/// The keeper with the primary, and its number.
pub async fn primary(playground: &Playground) -> anyhow::Result<(KeeperUid, usize)> {
    let view = View::look(&playground.store).await?;
    let keeper = view.primary_keeper().context("there is no primary")?.clone();
    let number = keeper.as_str().trim_start_matches("keeper").parse().context("an unknown keeper")?;
    Ok((keeper, number))
}
