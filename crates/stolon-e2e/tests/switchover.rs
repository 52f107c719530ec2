//! Planned changes of the primary on real servers (docs: design/007-hand-over.md).

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};
use serde_json::json;
use stolon_model::SwitchoverStage;
use stolon_testkit::local::writes::Ledger;
use stolon_testkit::{
    Cluster, PATIENCE, Plan, QUERY, StoreKind, on_cluster, signal_all, start_writing, wait_for,
    writes_are_back,
};

/// How often the keeper has copied or rewound its data.
fn copies(cluster: &Cluster, keeper: usize) -> usize {
    let log = cluster.log(&format!("keeper{keeper}"));
    ["running pg_basebackup", "running pg_rewind"].iter().map(|words| log.matches(words).count()).sum()
}

/// Use `stolonctl switchover` while clients write: nothing is lost, and the old primary follows as it is.
async fn switch_over(cluster: &mut Cluster, keepers: usize, to: Option<usize>) -> anyhow::Result<()> {
    let old = OldPrimary::of(cluster).await?;
    cluster.wait_fit(to, PATIENCE).await?;
    let writing = start_writing(cluster).await?;
    let to_keeper = to.map(|keeper| format!("keeper{keeper}"));
    let mut command = vec!["switchover"];
    command.extend(to_keeper.iter().flat_map(|keeper| ["--to", keeper]));
    let output = cluster.stolonctl(&command, "").await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    for words in ["writes a checkpoint", "stops its PostgreSQL", "elected:", "clients are let in"] {
        ensure!(said.contains(words), "{words:?} is missing in {said}");
    }
    let done = Instant::now();
    let new = cluster.primary().await?;
    ensure!(new != old.keeper, "keeper{new} has still the primary: {said}");
    ensure!(to.is_none_or(|to| to == new), "keeper{new} has it: {said}");
    writes_are_back(&writing, done).await?;
    let ledger = writing.stop().await;
    nothing_is_lost_and_the_old_one_follows(cluster, old, keepers, &ledger).await
}

/// Who has the primary, before it is relieved.
struct OldPrimary {
    keeper: usize,
    copies: usize,
}

impl OldPrimary {
    async fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let keeper = cluster.primary().await?;
        Ok(OldPrimary { keeper, copies: copies(cluster, keeper) })
    }
}

/// All rows are with the new primary, and with the old one, which is its standby now and has copied and rewound nothing.
async fn nothing_is_lost_and_the_old_one_follows(
    cluster: &Cluster,
    old: OldPrimary,
    keepers: usize,
    ledger: &Ledger,
) -> anyhow::Result<()> {
    let verdict = ledger.check(&cluster.proxy()).await?;
    ensure!(verdict.lost.is_empty(), "lost {} of {}", verdict.lost.len(), verdict.acknowledged);
    cluster.wait_streaming(keepers - 1, PATIENCE).await?;
    let OldPrimary { keeper: old, copies: before } = old;
    let returned = cluster.instance(old);
    wait_for("the old primary as a standby with all rows", PATIENCE, async || {
        let session = returned.connect(QUERY).await?;
        ensure!(session.value("select pg_is_in_recovery()", QUERY).await? == "t", "it takes writes");
        let there: usize = session.value("select count(*) from acknowledged_writes", QUERY).await?.parse()?;
        Ok((there >= verdict.acknowledged).then_some(()))
    })
    .await?;
    ensure!(
        copies(cluster, old) == before,
        "keeper{old} has copied or rewound: {}",
        cluster.log(&format!("keeper{old}"))
    );
    Ok(())
}

#[test]
fn a_switchover_loses_nothing_and_the_old_primary_follows_without_a_rewind() {
    on_cluster(Plan::new(3), async |cluster| {
        let first = cluster.primary().await?;
        switch_over(cluster, 3, None).await?;
        // And back.
        switch_over(cluster, 3, Some(first)).await?;
        let history = cluster.stolonctl_ok(&["history"], "").await?;
        ensure!(history.matches("switchover").count() >= 4, "{history}");
        Ok(())
    });
}

#[test]
fn a_switchover_in_synchronous_mode_loses_nothing() {
    let plan = Plan::new(3).spec(json!({ "synchronousReplication": true })).store(StoreKind::Etcd);
    on_cluster(plan, async |cluster| {
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        switch_over(cluster, 3, None).await
    });
}

/// A keeper that may not have the primary, and one that is down.
#[test]
fn a_switchover_to_a_keeper_that_is_not_fit_is_refused_with_the_reason() {
    on_cluster(Plan::new(2), async |cluster| {
        let primary = cluster.primary().await?;
        let standby = 3 - primary;
        let refused = async |to: String, words: &str| {
            let output = cluster.stolonctl(&["switchover", "--to", &to], "").await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success() && said.contains(words), "{words:?} is not in {said}");
            ensure!(cluster.primary().await? == primary);
            Ok(())
        };
        refused(format!("keeper{primary}"), "has the primary already").await?;
        refused("nobody".to_owned(), "keeper doesn't exist").await?;
        let dry = cluster.stolonctl_ok(&["switchover", "--dry-run"], "").await?;
        ensure!(dry.contains(&format!("keeper keeper{standby}")), "{dry}");
        let output = cluster.stolonctl(&["switchover", "--timeout", "0s"], "").await?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        Ok(())
    });
}

#[test]
fn a_switchover_to_a_standby_that_is_down_is_refused_and_the_primary_goes_on() {
    on_cluster(Plan::new(2), async |cluster| {
        let primary = cluster.primary().await?;
        let standby = 3 - primary;
        let writing = start_writing(cluster).await?;
        cluster.kill_keeper_and_postgres(standby).await?;
        let killed = Instant::now();
        let output = cluster.stolonctl(&["switchover", "--timeout", "20s"], "").await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{said}");
        ensure!(cluster.primary().await? == primary, "{said}");
        writes_are_back(&writing, killed).await?;
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.lost.is_empty(), "{verdict:?}");
        Ok(())
    });
}

async fn freeze_when_it_begins(cluster: &Cluster, family: &[Pid]) -> anyhow::Result<()> {
    wait_for("the first stage", PATIENCE, async || Ok(stage(cluster).await?.map(drop))).await?;
    signal_all(family, Signal::STOP)
}

async fn stage(cluster: &Cluster) -> anyhow::Result<Option<SwitchoverStage>> {
    Ok(cluster.data().await?.cluster.status.switchover.and_then(|record| record.stage))
}

/// Ctrl-C when the primary is being stopped already: it comes back, with everything.
#[test]
fn an_operator_who_interrupts_it_gets_everything_back() {
    on_cluster(Plan::new(2).spec(json!({ "failInterval": "20s" })), async |cluster| {
        let primary = cluster.primary().await?;
        let standby = 3 - primary;
        let writing = start_writing(cluster).await?;
        // A successor that says nothing keeps it from being done before the signal.
        let family = stolon_testkit::local::tree(cluster.process(&format!("keeper{standby}"))?.pid());
        let mut command = cluster.layout.stolonctl();
        command.arg("switchover").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.kill_on_drop(true).spawn()?;
        let operator =
            child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).context("it has ended")?;
        freeze_when_it_begins(cluster, &family).await?;
        wait_for("the order to stop", PATIENCE, async || {
            Ok((stage(cluster).await? == Some(SwitchoverStage::Stopping)).then_some(()))
        })
        .await?;
        signal_all(&[operator], Signal::INT)?;
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("was taken back"), "{said}");
        writes_are_back(&writing, Instant::now()).await?;
        ensure!(cluster.primary().await? == primary, "{said}");
        signal_all(&family, Signal::CONT)?;
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.lost.is_empty() && verdict.unexpected.is_empty(), "{verdict:?}");
        Ok(())
    });
}

/// The successor dies when the primary has been stopped for it: the old primary comes back, with everything.
#[test]
fn the_old_primary_comes_back_when_its_successor_dies_before_the_election() {
    on_cluster(Plan::new(2).spec(json!({ "failInterval": "20s" })), async |cluster| {
        let primary = cluster.primary().await?;
        let standby = 3 - primary;
        let postmaster = cluster.postmaster(primary)?;
        let writing = start_writing(cluster).await?;
        // Frozen, it keeps its primary's sender waiting, and says nothing: as good as dead, and no faster than this test.
        let family = stolon_testkit::local::tree(cluster.process(&format!("keeper{standby}"))?.pid());
        let begun = cluster.stolonctl(&["switchover", "--timeout", "40s"], "");
        let (output, frozen) = tokio::join!(begun, freeze_when_it_begins(cluster, &family));
        frozen?;
        let said = String::from_utf8_lossy(&output?.stderr).into_owned();
        ensure!(said.contains("did not come about"), "{said}");
        ensure!(cluster.primary().await? == primary, "{said}");
        writes_are_back(&writing, Instant::now()).await?;
        ensure!(
            cluster.postmaster(primary)? != postmaster,
            "the primary was not stopped, so this shows nothing"
        );
        signal_all(&family, Signal::CONT)?;
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.lost.is_empty() && verdict.unexpected.is_empty(), "{verdict:?}");
        Ok(())
    });
}

/// The defaults of a specification: nobody is replaced for silence before 20 s.
fn default_timings() -> serde_json::Value {
    json!({
        "sleepInterval": null, "requestTimeout": null, "failInterval": null, "proxyCheckInterval": null, "proxyTimeout": null,
        "usePgrewind": false,
    })
}

/// SIGTERM to the primary's keeper while clients write, and its return.
async fn the_primarys_keeper_is_told_to_end(cluster: &mut Cluster, keepers: usize) -> anyhow::Result<()> {
    let old = OldPrimary::of(cluster).await?;
    let name = format!("keeper{}", old.keeper);
    cluster.wait_fit(None, PATIENCE).await?;
    let writing = start_writing(cluster).await?;
    let told = Instant::now();
    cluster.stop_service(&name).await?;
    let took = told.elapsed();
    let new = cluster.primary().await?;
    let log = cluster.log(&name);
    ensure!(new != old.keeper, "{name} ended after {took:?} and nobody has relieved it: {log}");
    ensure!(log.contains("another keeper has the primary"), "{log}");
    writes_are_back(&writing, Instant::now()).await?;
    let ledger = writing.stop().await;
    let gap = ledger.longest_gap(told).map(|(before, after)| after - before);
    println!("{name} ended after {took:?}; writes stopped for {gap:?}");
    ensure!(gap.is_some_and(|gap| gap < FAIL_INTERVAL), "writes stopped for {gap:?}");
    cluster.start_service(&name)?;
    nothing_is_lost_and_the_old_one_follows(cluster, old, keepers, &ledger).await
}

/// The default of `failInterval`, after which an ordinary failover would begin.
const FAIL_INTERVAL: Duration = Duration::from_secs(20);

#[test]
fn a_primarys_keeper_that_is_told_to_end_hands_over_first() {
    on_cluster(Plan::new(2).spec(default_timings()), async |cluster| {
        the_primarys_keeper_is_told_to_end(cluster, 2).await
    });
}

#[test]
fn a_primarys_keeper_that_is_told_to_end_hands_over_first_in_synchronous_mode() {
    let mut spec = default_timings();
    spec["synchronousReplication"] = json!(true);
    on_cluster(Plan::new(3).spec(spec).store(StoreKind::Etcd), async |cluster| {
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        the_primarys_keeper_is_told_to_end(cluster, 3).await
    });
}

/// The standby is too far behind when the primary's keeper is told to end, and catches up a moment later.
#[test]
fn a_primarys_keeper_that_is_told_to_end_waits_for_a_standby_that_catches_up() {
    on_cluster(Plan::new(2).spec(default_timings()), async |cluster| {
        let old = OldPrimary::of(cluster).await?;
        let name = format!("keeper{}", old.keeper);
        cluster.wait_fit(None, PATIENCE).await?;
        let receiver = cluster.backends(3 - old.keeper, "walreceiver")?;
        ensure!(!receiver.is_empty(), "the standby has no WAL receiver");
        signal_all(&receiver, Signal::STOP)?;
        let writing = start_writing(cluster).await?;
        // Four times maxStandbyLag.
        let filler = "select pg_logical_emit_message(false, 'test', repeat('x', 4 * 1024 * 1024))";
        cluster.session().await?.rows(filler, QUERY).await?;
        wait_for("a standby that lags by what is reported", PATIENCE, async || {
            let output = cluster.stolonctl(&["switchover", "--dry-run"], "").await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(said.contains("bytes behind"), "{said}");
            Ok(Some(()))
        })
        .await?;
        signal_all(&[cluster.process(&name)?.pid()], Signal::TERM)?;
        wait_for("the word of what is waited for", PATIENCE, async || {
            let awaits = "waiting for another keeper that can take over the primary: no db can take over";
            ensure!(cluster.log(&name).contains(awaits), "{}", cluster.log(&name));
            Ok(Some(()))
        })
        .await?;
        signal_all(&receiver, Signal::CONT)?;
        wait_for("another primary, and the keeper's word of it", PATIENCE, async || {
            Ok(cluster.log(&name).contains("another keeper has the primary").then_some(()))
        })
        .await?;
        cluster.stop_service(&name).await?;
        let log = cluster.log(&name);
        ensure!(cluster.primary().await? != old.keeper, "{log}");
        writes_are_back(&writing, Instant::now()).await?;
        let ledger = writing.stop().await;
        cluster.start_service(&name)?;
        nothing_is_lost_and_the_old_one_follows(cluster, old, 2, &ledger).await
    });
}

/// With nobody to take over, and where the operator does not want it, it ends as it always has.
#[test]
fn a_keeper_that_has_nobody_to_hand_over_to_stops_at_once() {
    on_cluster(Plan::new(2).spec(default_timings()), async |cluster| {
        let primary = cluster.primary().await?;
        let name = format!("keeper{primary}");
        cluster.wait_fit(None, PATIENCE).await?;
        cluster.stop_service(&name).await?;
        cluster.add_flag(&name, "--handover-timeout", "0s")?;
        cluster.start_service(&name)?;
        let relieved = cluster.primary().await?;
        ensure!(relieved != primary);
        cluster.wait_fit(None, PATIENCE).await?;
        // Back to where it is not wanted, then to the end.
        cluster.stolonctl_ok(&["switchover"], "").await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        ensure!(cluster.primary().await? == primary);
        cluster.stop_service(&name).await?;
        let log = cluster.log(&name);
        ensure!(log.contains("the primary is not handed over: --handover-timeout is 0"), "{log}");
        ensure!(cluster.primary().await? == primary, "not before it counts as failed");
        Ok(())
    });
}
