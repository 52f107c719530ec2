//! Flags and fields that few clusters use, several of them at once.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::fs::FlockOperation;
use serde_json::json;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, SlowRoad, on_prepared, wait_for};

/// Keepers that others reach at another port than they listen on, one in a directory that somebody else has locked; databases made as
/// `newConfig` says; a `pg_wal` that was put elsewhere before the data were copied anew.
#[test]
fn addresses_locks_newly_made_data_and_wal_elsewhere() {
    let made = json!({ "locale": "C", "encoding": "LATIN1", "dataChecksums": true });
    let plan = Plan::new(2).spec(json!({ "newConfig": made, "usePgrewind": false }));
    on_prepared(plan, async |cluster| {
        let mut roads = Vec::new();
        for number in [1, 2] {
            let road = SlowRoad::to(cluster.instance(number).port, Duration::ZERO).await?;
            let keeper = format!("keeper{number}");
            cluster.add_flag(&keeper, "--pg-advertise-address", "localhost")?;
            cluster.add_flag(&keeper, "--pg-advertise-port", &road.port().to_string())?;
            roads.push(road);
        }
        let lock = lock_directory(cluster, 1)?;
        cluster.start_services()?;
        let locked = cluster.process("keeper1")?.exited().await;
        ensure!(!locked.success(), "a keeper works in a directory that is locked");
        cluster.add_flag("keeper1", "--disable-data-dir-locking", "true")?;
        cluster.start_service("keeper1")?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        drop(lock);

        let old = cluster.primary().await?;
        let data = cluster.data().await?;
        let status = &data.primary().context("no primary")?.status;
        let advertised = (status.listen_address.as_str(), status.port.as_str());
        ensure!(
            advertised == ("localhost", &*roads[old - 1].port().to_string()),
            "published is {advertised:?}"
        );
        let session = cluster.session().await?;
        for (sql, value) in [
            ("select datcollate from pg_database where datname = 'postgres'", "C"),
            ("show server_encoding", "LATIN1"),
            ("show data_checksums", "on"),
        ] {
            let found = session.value(sql, QUERY).await?;
            ensure!(found == value, "{sql}: {found}");
        }
        session.rows("create table t (id int); insert into t values (1)", QUERY).await?;
        drop(session);
        returns_with_its_wal_elsewhere(cluster, old).await
    });
}

/// An exclusive lock on a keeper's directory, held as long as the file is open.
fn lock_directory(cluster: &Cluster, number: usize) -> anyhow::Result<std::fs::File> {
    let directory = cluster.layout.keeper_directory(number);
    cluster.layout.account.make_directory(&directory)?;
    let path = directory.join("lock");
    cluster.layout.account.write_private(&path, "")?;
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// The primary's `pg_wal` becomes a link; it is lost, and copied anew where the link points to.
async fn returns_with_its_wal_elsewhere(cluster: &mut Cluster, old: usize) -> anyhow::Result<()> {
    let keeper = format!("keeper{old}");
    cluster.kill_keeper_and_postgres(old).await?;
    let (wal, elsewhere) =
        (cluster.data_directory(old).join("pg_wal"), cluster.layout.directory.join("wal of another disk"));
    std::fs::rename(&wal, &elsewhere)?;
    std::os::unix::fs::symlink(&elsewhere, &wal)?;
    cluster.wait_other_primary(old, PATIENCE).await?;
    cluster.start_service(&keeper)?;
    cluster.wait_writable(PATIENCE).await?;
    cluster.wait_streaming(1, PATIENCE).await?;
    ensure!(cluster.log(&keeper).contains("running pg_basebackup"), "it was not copied");
    ensure!(std::fs::read_link(&wal)? == elsewhere, "pg_wal is no longer where the operator put it");
    ensure!(has_segments(&elsewhere)?, "the WAL is somewhere else");
    Ok(())
}

fn has_segments(directory: &Path) -> anyhow::Result<bool> {
    let names = std::fs::read_dir(directory)?.flatten().map(|entry| entry.file_name());
    Ok(names.into_iter().any(|name| name.len() == 24))
}

/// Three standbys at most, none at least; a keeper that must not be primary; keepers that nobody needs are forgotten.
#[test]
fn synchronous_standbys_from_three_to_none() {
    let spec = json!({
        "synchronousReplication": true, "minSynchronousStandbys": 0, "maxSynchronousStandbys": 3,
        "deadKeeperRemovalInterval": "2s",
    });
    on_prepared(Plan::new(4).spec(spec), async |cluster| {
        cluster.add_flag("keeper4", "--can-be-master", "false")?;
        // Where it is the only one that reports, it makes the first instance all the same.
        for name in cluster.services().into_iter().filter(|name| name != "keeper4") {
            cluster.start_service(&name)?;
        }
        cluster.wait_writable(PATIENCE).await?;
        cluster.start_service("keeper4")?;
        let standbys = cluster.wait_synchronous_set(PATIENCE, |keepers| keepers.len() == 3).await?;
        ensure!(standbys.contains(&4), "whoever must not be primary may be synchronous: {standbys:?}");
        let session = cluster.session().await?;
        session.rows("create table t (id int); insert into t values (1)", QUERY).await?;
        drop(session);

        // Of three equal ones, somebody else is elected.
        let old = cluster.primary().await?;
        cluster.kill_keeper_and_postgres(old).await?;
        let new = cluster.wait_other_primary(old, PATIENCE).await?;
        ensure!(new != 4, "the keeper that must not be primary is");
        cluster.wait_writable(PATIENCE).await?;
        for number in (1..=4).filter(|number| ![old, new].contains(number)) {
            cluster.kill_keeper_and_postgres(number).await?;
        }
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_synchronous(&[], PATIENCE).await?;

        cluster.patch(json!({ "maxStandbysPerSender": 1 })).await?;
        wait_for("the removal of keepers without a database", PATIENCE, async || {
            let keepers = cluster.data().await?.keepers.len();
            ensure!(keepers < 4, "{keepers} keepers");
            Ok(Some(()))
        })
        .await
    });
}
