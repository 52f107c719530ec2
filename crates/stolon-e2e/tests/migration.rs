//! The live migration of a legacy PostgreSQL, and what can be wrong on the way: each trouble is one clear sentence in
//! `stolonctl status` and in the keeper's log, and once it is mended the migration goes on by itself.

use std::path::PathBuf;

use anyhow::ensure;
use serde_json::{Value, json};
use stolon_testkit::local::Target;
use stolon_testkit::{Cluster, Foreign, PATIENCE, Plan, QUERY, on_prepared, short_timings};

/// A legacy server beside the cluster, not started yet, with the users that the cluster needs once it is.
struct Legacy {
    foreign: Foreign,
    marker: PathBuf,
}

const TUNED: &str = "\
max_connections = 300
max_prepared_transactions = 100
max_locks_per_transaction = 80
max_worker_processes = 11
max_wal_senders = 12
track_commit_timestamp = on
wal_level = logical
shared_preload_libraries = 'pg_stat_statements'
";

impl Legacy {
    async fn create(cluster: &mut Cluster) -> anyhow::Result<Legacy> {
        let foreign = Foreign::create(cluster, "legacy", TUNED).await?;
        Ok(Legacy { marker: foreign.server.directory.join("mended"), foreign })
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        self.foreign.start().await?;
        let content = "create extension pg_stat_statements; create table t (id int primary key, v text); \
                       insert into t select n, repeat(n::text, 50) from generate_series(1, 5000) n";
        self.foreign.run(content).await
    }

    fn spec(restore_command: &str) -> Value {
        let mut spec = short_timings();
        spec["initMode"] = json!("pitr");
        spec["pitrConfig"] = json!({
            "dataRestoreCommand": restore_command,
            "archiveRecoverySettings": { "restoreCommand": "echo 1" },
        });
        spec
    }
}

async fn content(target: &Target) -> anyhow::Result<String> {
    let session = target.connect(QUERY).await?;
    session.value("select count(*) || ' ' || sum(hashtextextended(t::text, 0)::numeric) from t", QUERY).await
}

/// The database takes writes, and holds what the legacy one held.
async fn migrated(cluster: &Cluster, legacy: &Legacy) -> anyhow::Result<()> {
    cluster.wait_writable(PATIENCE).await?;
    let (before, after) = (content(&legacy.foreign.server.target()).await?, content(&cluster.proxy()).await?);
    ensure!(before == after, "legacy {before}, migrated {after}");
    Ok(())
}

/// Wait until all these parts stand in one sentence of `stolonctl status`, and the log has it too.
async fn said(cluster: &Cluster, parts: &[&str]) -> anyhow::Result<()> {
    let sentence = cluster.wait_said(parts).await?;
    ensure!(sentence.len() < 600, "not one clear sentence: {sentence}");
    let log = cluster.log("keeper1");
    ensure!(log.lines().any(|line| parts.iter().all(|part| line.contains(part))), "the log lacks {parts:?}");
    Ok(())
}

/// Nothing was promoted, and no client gets anywhere.
async fn nothing_half_made(cluster: &Cluster) -> anyhow::Result<()> {
    let early = cluster.proxy().connect(std::time::Duration::from_secs(2)).await;
    ensure!(early.is_err(), "the proxy lets clients in before the migration is done");
    Ok(())
}

#[test]
fn with_parameters_and_a_second_keeper() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster).await?;
        legacy.start().await?;
        cluster.start_services()?;
        cluster
            .stolonctl_ok(&["init", &Legacy::spec(&legacy.foreign.restore_command()).to_string()], "yes\n")
            .await?;
        let parameters =
            json!({ "pgParameters": { "max_connections": "400", "max_prepared_transactions": "100" } });
        cluster.patch(parameters).await?;
        migrated(cluster, &legacy).await?;
        let session = cluster.session().await?;
        for (name, value) in [
            ("max_connections", "400"),
            ("max_prepared_transactions", "100"),
            ("track_commit_timestamp", "on"),
            ("wal_level", "logical"),
        ] {
            let found = session.value(&format!("show {name}"), QUERY).await?;
            ensure!(found == value, "{name} is {found}");
        }
        session.value("select count(*) from pg_stat_statements", QUERY).await?;
        cluster.wait_streaming(1, PATIENCE).await
    });
}

#[test]
fn without_parameters_the_control_data_decide() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster).await?;
        legacy.start().await?;
        cluster.start_services()?;
        // Nothing of the copied configuration helps either.
        let command = format!("{} && : > %d/postgresql.conf", legacy.foreign.restore_command());
        cluster.stolonctl_ok(&["init", &Legacy::spec(&command).to_string()], "yes\n").await?;
        migrated(cluster, &legacy).await?;
        let session = cluster.session().await?;
        for (name, least) in [
            ("max_connections", 300),
            ("max_prepared_transactions", 100),
            ("max_locks_per_transaction", 80),
            ("max_worker_processes", 11),
            ("max_wal_senders", 12),
        ] {
            let found: i64 = session.value(&format!("show {name}"), QUERY).await?.parse()?;
            ensure!(found >= least, "{name} is {found}, the data demand {least}");
        }
        let found = session.value("show wal_level", QUERY).await?;
        ensure!(found == "logical", "publications of the legacy need wal_level = logical, it is {found}");
        cluster.wait_streaming(1, PATIENCE).await
    });
}

#[test]
fn an_unreachable_host_then_a_wrong_password() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster).await?;
        cluster.start_services()?;
        let spec = Legacy::spec(&legacy.foreign.restore_command()).to_string();
        cluster.stolonctl_ok(&["init", "--yes", &spec], "").await?;
        said(cluster, &["connection to server at \"127.0.0.1\"", "failed"]).await?;
        nothing_half_made(cluster).await?;

        legacy.foreign.write_password("wrong")?;
        legacy.start().await?;
        said(cluster, &["password authentication failed for user \"stolon\""]).await?;
        legacy.foreign.write_password(&cluster.layout.credentials.superuser_password)?;
        migrated(cluster, &legacy).await
    });
}

#[test]
fn data_of_another_major_version() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster).await?;
        legacy.start().await?;
        cluster.start_services()?;
        let command = format!(
            "{} && {{ test -e {} || echo 13 > %d/PG_VERSION; }}",
            legacy.foreign.restore_command(),
            legacy.marker.display()
        );
        cluster.stolonctl_ok(&["init", "--yes", &Legacy::spec(&command).to_string()], "").await?;
        said(cluster, &["the data is of PostgreSQL 13, the binaries are of PostgreSQL 15"]).await?;
        nothing_half_made(cluster).await?;
        std::fs::write(&legacy.marker, "")?;
        migrated(cluster, &legacy).await
    });
}

#[test]
fn a_library_that_is_missing_here() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster).await?;
        legacy.start().await?;
        cluster.start_services()?;
        // What the copied configuration asks for exists on the legacy machine only.
        let library = legacy.foreign.server.directory.join("late_library");
        let command = format!(
            "{} && echo \"shared_preload_libraries = '{}'\" >> %d/postgresql.conf",
            legacy.foreign.restore_command(),
            library.display()
        );
        cluster.stolonctl_ok(&["init", "--yes", &Legacy::spec(&command).to_string()], "").await?;
        said(cluster, &["late_library"]).await?;
        let output = std::process::Command::new(legacy.foreign.server.pg_bin.join("pg_config"))
            .arg("--pkglibdir")
            .output();
        let directory = match output {
            Ok(output) if output.status.success() => {
                PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
            }
            _ => PathBuf::from("/usr/lib/postgresql/15/lib"),
        };
        std::fs::copy(directory.join("pg_stat_statements.so"), library.with_extension("so"))?;
        migrated(cluster, &legacy).await
    });
}

#[test]
fn a_full_disk() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster).await?;
        legacy.start().await?;
        let disk = SmallDisk::mount(cluster)?;
        cluster.start_services()?;
        let command = format!("{}{}", disk.obstacle(&legacy), legacy.foreign.restore_command());
        cluster.stolonctl_ok(&["init", "--yes", &Legacy::spec(&command).to_string()], "").await?;
        said(cluster, &["o space left on device"]).await?;
        nothing_half_made(cluster).await?;
        disk.mend(&legacy)?;
        migrated(cluster, &legacy).await
    });
}

/// A disk that is too small: a file system of its own where we may mount one, else a device that is always full.
enum SmallDisk {
    Mounted(PathBuf),
    Device,
}

impl SmallDisk {
    fn mount(cluster: &Cluster) -> anyhow::Result<SmallDisk> {
        let place = cluster.layout.keeper_directory(1);
        cluster.layout.account.make_directory(&place)?;
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=20m,mode=0777", "tmpfs"])
            .arg(&place)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            return Ok(SmallDisk::Device);
        }
        cluster.layout.account.own(&place)?;
        Ok(SmallDisk::Mounted(place))
    }

    fn obstacle(&self, legacy: &Legacy) -> String {
        match self {
            SmallDisk::Mounted(_) => String::new(),
            SmallDisk::Device => format!(
                "{{ test -e {} || dd if=/dev/zero of=/dev/full bs=8k count=1; }} && ",
                legacy.marker.display()
            ),
        }
    }

    fn mend(&self, legacy: &Legacy) -> anyhow::Result<()> {
        match self {
            SmallDisk::Mounted(place) => {
                let status = std::process::Command::new("mount")
                    .args(["-o", "remount,size=500m"])
                    .arg(place)
                    .status()?;
                ensure!(status.success(), "the disk cannot be made larger");
            }
            SmallDisk::Device => std::fs::write(&legacy.marker, "")?,
        }
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let SmallDisk::Mounted(place) = self {
            // Whoever works on it would not be found any more once it is gone.
            for pid in place.parent().into_iter().flat_map(stolon_testkit::local::running_in) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            let _ = std::process::Command::new("umount").arg("-l").arg(place).status();
        }
    }
}
