//! A consumer outside of the cluster that streams WAL through a slot of `additionalMasterReplicationSlots` goes on without a gap after a failover.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, wait_for};
use tokio::process::{Child, Command};

const SLOT: &str = "stolon_backup";
/// More than the WAL that servers keep without a slot (`wal_keep_size`, 128 MB), in segments.
const SEGMENTS: usize = 12;

fn receive(cluster: &Cluster, directory: &Path) -> anyhow::Result<Child> {
    let who = &cluster.layout.credentials;
    let mut command = Command::new(cluster.layout.pg_bin.join("pg_receivewal"));
    command
        .args(["--host=127.0.0.1", "--no-password", "--synchronous", "--slot", SLOT])
        .arg(format!("--port={}", cluster.proxy().port))
        .arg(format!("--username={}", who.replication_user))
        .arg(format!("--directory={}", directory.display()))
        .env("PGPASSWORD", &who.replication_password)
        .env("PGCONNECT_TIMEOUT", "5")
        .stderr(Stdio::from(std::fs::File::create(directory.with_extension("log"))?))
        .kill_on_drop(true);
    command.spawn().context("pg_receivewal cannot be run")
}

fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("it has ended")?;
    Ok(kill_process(pid, signal)?)
}

/// Each has something in it.
async fn write_segments(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    let session = cluster.session().await?;
    for _ in 0..count {
        session.rows("insert into t select generate_series(1, 100)", QUERY).await?;
        session.rows("select pg_switch_wal()", QUERY).await?;
    }
    session.rows("checkpoint", QUERY).await?;
    Ok(())
}

/// Up to where a server has let WAL go for the consumer, in bytes.
async fn position(cluster: &Cluster, keeper: usize) -> anyhow::Result<u64> {
    let session = cluster.instance(keeper).connect(QUERY).await?;
    let sql = format!(
        "select coalesce(max(restart_lsn - '0/0'), 0)::bigint from pg_replication_slots where slot_name = '{SLOT}'"
    );
    Ok(session.value(&sql, QUERY).await?.parse()?)
}

/// Timeline and number of the whole segments that were received, and whether the last one is being written.
fn received(directory: &Path) -> anyhow::Result<BTreeSet<(u32, u64)>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.len() == 24 {
            let part = |range| u32::from_str_radix(&name[range], 16);
            // 256 segments of 16 MiB for each of the middle numbers.
            found.insert((part(0..8)?, u64::from(part(8..16)?) * 256 + u64::from(part(16..24)?)));
        }
    }
    Ok(found)
}

async fn receives_more(directory: &Path, than: usize) -> anyhow::Result<usize> {
    wait_for("segments", PATIENCE, async || {
        let count = received(directory)?.len();
        Ok((count >= than).then_some(count))
    })
    .await
}

#[test]
fn wal_is_received_without_a_gap_through_a_failover() {
    // In synchronous mode the consumer is never ahead of the next primary.
    let plan = Plan::new(2).spec(json!({
        "synchronousReplication": true,
        "additionalMasterReplicationSlots": ["backup"],
        "pgParameters": { "max_wal_size": "64MB", "min_wal_size": "32MB" },
    }));
    on_cluster(plan, async |cluster| {
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        let old = cluster.primary().await?;
        let new = 3 - old;
        cluster.session().await?.rows("create table t (id int)", QUERY).await?;
        let files = tempfile::tempdir()?;
        let directory = files.path().join("wal");
        std::fs::create_dir(&directory)?;
        let mut consumer = receive(cluster, &directory)?;
        write_segments(cluster, 3).await?;
        receives_more(&directory, 3).await?;
        // The copy was made while the consumer was there already: it goes along with it.
        let began = position(cluster, new).await?;
        let follows = async |past: u64| {
            wait_for("the slot of the standby", PATIENCE, async || {
                let (ahead, behind) = (position(cluster, old).await?, position(cluster, new).await?);
                ensure!(behind <= position(cluster, old).await?, "the copy is past its consumer");
                ensure!(ahead > past && behind > past, "{ahead} and {behind}, not past {past}");
                Ok(Some(behind))
            })
            .await
        };
        write_segments(cluster, 3).await?;
        let at = follows(began).await?;

        // A consumer that stands still keeps its WAL on both servers.
        signal(&consumer, Signal::STOP)?;
        write_segments(cluster, SEGMENTS).await?;
        cluster.instance(new).connect(QUERY).await?.rows("checkpoint", QUERY).await?;
        ensure!(position(cluster, new).await? >= at);
        let before = received(&directory)?.len();
        cluster.kill_keeper_and_postgres(old).await?;
        cluster.wait_other_primary(old, PATIENCE).await?;
        // Commits wait for a standby.
        cluster.start_service(&format!("keeper{old}"))?;
        cluster.wait_writable(PATIENCE).await?;
        signal(&consumer, Signal::CONT)?;
        write_segments(cluster, 3).await?;
        let log = || std::fs::read_to_string(directory.with_extension("log")).unwrap_or_default();
        let more = receives_more(&directory, before + SEGMENTS + 2).await;
        ensure!(more.is_ok(), "{more:?}: {}", log());
        ensure!(consumer.try_wait()?.is_none(), "it has ended: {}", log());

        let segments = received(&directory)?;
        println!("{segments:?}");
        let numbers: BTreeSet<u64> = segments.iter().map(|(_, number)| *number).collect();
        let (first, last) = (numbers.first().copied().unwrap_or(0), numbers.last().copied().unwrap_or(0));
        ensure!(numbers.len() as u64 == last - first + 1, "there is a gap: {segments:?}");
        let timelines: BTreeSet<u32> = segments.iter().map(|(timeline, _)| *timeline).collect();
        ensure!(timelines == [1, 2].into(), "{segments:?}");
        consumer.kill().await?;
        cluster.wait_streaming(1, PATIENCE).await
    });
}
