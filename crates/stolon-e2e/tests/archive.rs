//! A whole cluster that archives its WAL, and loses its primary while the archive takes nothing: nothing of any timeline is missing from it
//! afterwards, whichever way the former primary comes back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use serde_json::json;
use stolon_testkit::local::Server;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, short_timings, wait_for};

/// It is taken away by its name: `archive_command` fails as long as there is no such directory. It runs in PGDATA.
const ARCHIVE: &str = "../../archive";

fn archive(cluster: &Cluster) -> PathBuf {
    cluster.directory().join("archive")
}

fn archiving(rewinds: &str) -> Plan {
    // What is there already is archived, if it is the same: a new primary may have to archive what the former one has, too
    // (PostgreSQL manual, "Setting Up WAL Archiving").
    let command = format!(
        "if test -f {ARCHIVE}/%f; then cmp -s %p {ARCHIVE}/%f; \
         else cp %p {ARCHIVE}/%f.part && mv {ARCHIVE}/%f.part {ARCHIVE}/%f; fi"
    );
    Plan::new(2).spec(json!({
        "usePgrewind": rewinds == "rewinding",
        "pgParameters": { "archive_mode": "on", "archive_command": command },
    }))
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// What a server has yet to archive.
fn ready(cluster: &Cluster, number: usize) -> BTreeSet<String> {
    let marks = names(&cluster.data_directory(number).join("pg_wal/archive_status"));
    marks.iter().filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).collect()
}

async fn back_up(cluster: &Cluster, number: usize) -> anyhow::Result<PathBuf> {
    let layout = &cluster.layout;
    let server = Server {
        directory: layout.directory.clone(),
        pg_bin: layout.pg_bin.clone(),
        account: layout.account.clone(),
        port: cluster.instance(number).port,
        password: layout.credentials.replication_password.clone(),
    };
    let (port, to) = (server.port.to_string(), cluster.directory().join("backup"));
    let user = layout.credentials.replication_user.clone();
    let mut arguments = ["-h", "127.0.0.1", "-p", &port, "-U", &user, "-X", "none", "-c", "fast", "-D"]
        .map(std::ffi::OsStr::new)
        .to_vec();
    arguments.push(to.as_os_str());
    server.tool("pg_basebackup", &arguments, "").await?;
    Ok(to)
}

/// Rows, each in a segment of its own. Returns the last of these segments.
async fn write(cluster: &Cluster, rows: std::ops::RangeInclusive<usize>) -> anyhow::Result<String> {
    let session = cluster.session().await?;
    let mut last = String::new();
    for row in rows {
        session.rows(&format!("insert into t values ({row})"), QUERY).await?;
        last = session.value("select pg_walfile_name(pg_switch_wal())", QUERY).await?;
    }
    Ok(last)
}

/// Segments of one timeline between the first and the last that the archive has of it.
fn missing(archived: &BTreeSet<String>, timeline: &str) -> Vec<String> {
    let number = |name: &str| {
        let (log, segment) = (name.get(8..16)?, name.get(16..24)?);
        Some(u64::from_str_radix(log, 16).ok()? * 256 + u64::from_str_radix(segment, 16).ok()?)
    };
    let of_it = archived.iter().filter(|name| name.len() == 24 && name.starts_with(timeline));
    let numbers: BTreeSet<u64> = of_it.filter_map(|name| number(name)).collect();
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
        return vec![timeline.to_owned()];
    };
    let gaps = (*first..=*last).filter(|number| !numbers.contains(number));
    gaps.map(|number| format!("{timeline} {number:X}")).collect()
}

/// A cluster is made of the backup and the archive, up to the point `last`.
async fn restore(cluster: &Cluster, backup: &Path, rows: usize) -> anyhow::Result<()> {
    let mut spec = short_timings();
    spec["initMode"] = json!("pitr");
    spec["pgParameters"] = json!({ "archive_mode": "off" });
    spec["pitrConfig"] = json!({
        "dataRestoreCommand": format!("cp -a {}/. %d", backup.display()),
        "archiveRecoverySettings": { "restoreCommand": format!("cp {}/%f %p", archive(cluster).display()) },
        "recoveryTargetSettings": { "recoveryTargetName": "last" },
    });
    cluster.stolonctl_ok(&["init", "--yes", &spec.to_string()], "").await?;
    wait_for("the restored rows", PATIENCE, async || {
        let session = cluster.proxy().connect(QUERY).await?;
        let found = session.value("select count(*) || ' to ' || max(id) from t", QUERY).await?;
        ensure!(found == format!("{rows} to {rows}"), "the rows are {found}");
        session.rows("create table writable ()", QUERY).await?;
        Ok(Some(()))
    })
    .await
}

fn a_lost_primary(rewinds: &str, step: &str) {
    on_cluster(archiving(rewinds), async |cluster| {
        let (archive, away) = (archive(cluster), cluster.directory().join("away"));
        cluster.layout.account.make_directory(&archive)?;
        let old = cluster.primary().await?;
        cluster.session().await?.rows("create table t (id int primary key)", QUERY).await?;
        let backup = back_up(cluster, old).await?;
        let first = write(cluster, 1..=2).await?;
        wait_for("the archive", PATIENCE, async || Ok(archive.join(&first).exists().then_some(()))).await?;

        std::fs::rename(&archive, &away)?;
        write(cluster, 3..=6).await?;
        let said = cluster.wait_said(&["WAL is not archived", "has waited since", "failed last for"]).await?;
        ensure!(said.contains(&format!("keeper{old}")), "{said}");
        let judged = cluster.stolonctl(&["status", "--check"], "").await?;
        ensure!(judged.status.code() == Some(1), "an archive that takes nothing: {judged:?}");
        ensure!(cluster.primary().await? == old, "an archive is no reason to replace a primary");
        cluster.wait_streaming(1, PATIENCE).await?;

        cluster.kill_keeper_and_postgres(old).await?;
        let left = ready(cluster, old);
        ensure!(left.len() >= 4, "what was left: {left:?}");
        cluster.wait_other_primary(old, PATIENCE).await?;
        cluster.wait_writable(PATIENCE).await?;
        std::fs::rename(&away, &archive)?;
        write(cluster, 7..=8).await?;
        cluster.start_service(&format!("keeper{old}"))?;
        cluster.wait_streaming(1, PATIENCE).await?;
        let log = cluster.log(&format!("keeper{old}"));
        ensure!(log.contains(step), "the former primary came back otherwise than by {step}");
        ensure!(!log.contains("the archive lacks"), "what was left could not be archived");

        let session = cluster.session().await?;
        session.value("select pg_create_restore_point('last')", QUERY).await?;
        drop(session);
        let last = write(cluster, 9..=9).await?;
        wait_for("the archive of the last segment", PATIENCE, async || {
            Ok(archive.join(&last).exists().then_some(()))
        })
        .await?;
        let archived = names(&archive);
        let lost: Vec<&String> = left.difference(&archived).collect();
        ensure!(lost.is_empty(), "the archive lacks {lost:?}: {archived:?}");
        ensure!(archived.contains("00000002.history"), "{archived:?}");
        let gaps: Vec<String> =
            ["00000001", "00000002"].iter().flat_map(|it| missing(&archived, it)).collect();
        ensure!(gaps.is_empty(), "the archive lacks {gaps:?}: {archived:?}");
        restore(cluster, &backup, 8).await
    });
}

#[test]
fn what_a_lost_primary_had_not_archived_is_archived_before_it_is_rewound() {
    a_lost_primary("rewinding", "pg_rewind");
}

#[test]
fn what_a_lost_primary_had_not_archived_is_archived_before_it_is_copied() {
    a_lost_primary("copying", "base backup");
}

/// Nobody can archive it any more: it is named, and the standby is not missing for its sake.
#[test]
fn what_cannot_be_archived_either_is_named() {
    on_cluster(archiving("copying"), async |cluster| {
        let old = cluster.primary().await?;
        cluster.session().await?.rows("create table t (id int primary key)", QUERY).await?;
        write(cluster, 1..=3).await?;
        cluster.kill_keeper_and_postgres(old).await?;
        let left = ready(cluster, old);
        cluster.wait_other_primary(old, PATIENCE).await?;
        cluster.start_service(&format!("keeper{old}"))?;
        cluster.wait_streaming(1, PATIENCE).await?;
        let log = cluster.log(&format!("keeper{old}"));
        let line = log.lines().find(|line| line.contains("the archive lacks")).unwrap_or_default();
        let unnamed: Vec<&String> = left.iter().filter(|name| !line.contains(*name)).collect();
        ensure!(!left.is_empty() && unnamed.is_empty(), "{unnamed:?} in {line:?}");
        Ok(())
    });
}

/// Without WAL that `pg_rewind` must read the former primary is copied: it never waits for what nobody has.
#[test]
fn a_rewind_that_lacks_wal_ends_in_a_copy() {
    on_cluster(archiving("rewinding"), async |cluster| {
        let old = cluster.primary().await?;
        cluster.session().await?.rows("create table t (id int primary key)", QUERY).await?;
        write(cluster, 1..=3).await?;
        cluster.kill_keeper_and_postgres(old).await?;
        let wal = cluster.data_directory(old).join("pg_wal");
        for segment in names(&wal).iter().filter(|name| name.len() == 24) {
            std::fs::remove_file(wal.join(segment))?;
        }
        cluster.wait_other_primary(old, PATIENCE).await?;
        cluster.start_service(&format!("keeper{old}"))?;
        cluster.wait_streaming(1, PATIENCE).await?;
        let log = cluster.log(&format!("keeper{old}"));
        ensure!(log.contains("running pg_rewind") && log.contains("running pg_basebackup"), "{log}");
        Ok(())
    });
}
