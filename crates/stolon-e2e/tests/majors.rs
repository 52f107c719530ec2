//! What a cluster must be able to do, on every major of PostgreSQL that the keepers know: one short life of a cluster for each.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_prepared, short_timings, wait_for};

/// A test for each major, by which it can be chosen.
macro_rules! majors {
    ($($name:ident: $major:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            a_life($major);
        })*
    };
}

majors! {
    postgresql_10: 10, postgresql_11: 11, postgresql_12: 12, postgresql_13: 13, postgresql_14: 14,
    postgresql_15: 15, postgresql_16: 16, postgresql_17: 17, postgresql_18: 18,
}

fn a_life(major: u16) {
    let archive = tempfile::Builder::new().prefix("stolon-archive-").tempdir().expect("a directory");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(archive.path(), everybody).expect("our own directory");
    let parameters = parameters(&archive.path().display().to_string());
    let plan = Plan::new(2).major(major).spec(json!({ "pgParameters": parameters }));
    on_prepared(plan, async |cluster| Life { archive: archive.path().to_owned(), major }.of(cluster).await);
}

/// What every cluster here is given: an archive.
fn parameters(archive: &str) -> Value {
    json!({
        "archive_mode": "on",
        "archive_command": format!("test ! -f {archive}/%f && cp %p {archive}/%f"),
        "log_checkpoints": "on",
        "log_connections": "on",
    })
}

struct Life {
    archive: PathBuf,
    major: u16,
}

impl Life {
    async fn of(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.begins_alone_with_a_tablespace(cluster).await?;
        self.begins_with_a_standby(cluster).await?;
        self.takes_parameters_and_synchronous_standbys(cluster).await?;
        self.survives_its_primary(cluster).await?;
        self.is_restored_to_a_point(cluster).await?;
        self.adopts_its_data(cluster).await
    }

    /// Where keepers share a machine, a tablespace is there before a standby is; both have a user for rewinds.
    async fn begins_alone_with_a_tablespace(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let secret = cluster.layout.directory.join("rewind-password");
        cluster.layout.account.write_private(&secret, "rewindpassword")?;
        let space = |number: usize| cluster.layout.directory.join(format!("space{number}"));
        let spaces = [space(1), space(2)].map(|path| path.display().to_string());
        for (keeper, [own, others]) in [("keeper1", [0, 1]), ("keeper2", [1, 0])] {
            cluster.layout.account.make_directory(Path::new(&spaces[own]))?;
            let mapping = format!("{}={}", spaces[others], spaces[own]);
            cluster.add_flag(keeper, "--tablespace-mapping", &mapping)?;
            cluster.add_flag(keeper, "--pg-rewind-username", "rewinder")?;
            cluster.add_flag(keeper, "--pg-rewind-passwordfile", &secret.display().to_string())?;
        }
        for name in cluster.services().iter().filter(|name| *name != "keeper2") {
            cluster.start_service(name)?;
        }
        cluster.wait_writable(PATIENCE).await?;
        let session = cluster.session().await?;
        session.rows(&format!("create tablespace space location '{}'", spaces[0]), QUERY).await?;
        session
            .rows("create table in_space (id int) tablespace space; insert into in_space values (1)", QUERY)
            .await?;
        drop(session);
        cluster.start_service("keeper2")?;
        cluster.wait_streaming(1, PATIENCE).await
    }

    async fn begins_with_a_standby(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let session = cluster.session().await?;
        let version = session.value("show server_version_num", QUERY).await?;
        ensure!(version.starts_with(&self.major.to_string()), "the server is of {version}");
        let scram = "select count(*) from pg_authid where rolname in ('stolon', 'repluser') and rolpassword like 'SCRAM-SHA-256$%'";
        ensure!(session.value(scram, QUERY).await? == "2", "a password of ours is stored for MD5");
        session.rows("create table t (id int primary key); insert into t values (1)", QUERY).await?;
        rows_on(cluster, 3 - cluster.primary().await?, 1).await?;
        // With 10 only a superuser reads files.
        let rewinders =
            session.value("select count(*) from pg_roles where rolname = 'rewinder'", QUERY).await?;
        ensure!(rewinders == if self.major > 10 { "1" } else { "0" }, "{rewinders} users for rewinds");
        let slots = "select count(*) from pg_replication_slots where active and slot_name like 'stolon%'";
        wait_for("the standby's slot", PATIENCE, async || {
            Ok((session.value(slots, QUERY).await? == "1").then_some(()))
        })
        .await
    }

    async fn takes_parameters_and_synchronous_standbys(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let mut parameters = parameters(&self.archive.display().to_string());
        parameters["work_mem"] = json!("7MB");
        cluster.patch(json!({ "synchronousReplication": true, "pgParameters": parameters })).await?;
        for number in [1, 2] {
            let instance = cluster.instance(number);
            wait_for("the parameter", PATIENCE, async || {
                let session = instance.connect(QUERY).await?;
                Ok((session.value("show work_mem", QUERY).await? == "7MB").then_some(()))
            })
            .await?;
        }
        cluster.wait_synchronous(&[3 - cluster.primary().await?], PATIENCE).await?;
        let session = cluster.session().await?;
        let refused = session.rows("alter system set work_mem = '9MB'", QUERY).await;
        ensure!(refused.is_err(), "ALTER SYSTEM went around the specification");
        session.rows("insert into t values (2)", QUERY).await.map(drop)
    }

    /// The old primary returns by a rewind where its PostgreSQL has the tool, and by a copy where not.
    async fn survives_its_primary(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let old = cluster.primary().await?;
        cluster.kill_keeper_and_postgres(old).await?;
        let new = cluster.wait_other_primary(old, PATIENCE).await?;
        // Commits wait for a synchronous standby: there is none until the old primary is back.
        cluster.start_service(&format!("keeper{old}"))?;
        cluster.wait_writable(PATIENCE).await?;
        let session = cluster.session().await?;
        ensure!(session.value("select count(*) from t", QUERY).await? == "2", "acknowledged rows are lost");
        cluster.wait_streaming(1, PATIENCE).await?;
        cluster.wait_synchronous(&[old], PATIENCE).await?;
        session.rows("insert into t values (3)", QUERY).await?;
        rows_on(cluster, old, 3).await?;
        ensure!(cluster.primary().await? == new, "the primary changed again");

        let log = cluster.log(&format!("keeper{old}"));
        let copied = log.contains("running pg_basebackup");
        if cluster.layout.pg_bin.join("pg_rewind").exists() {
            ensure!(log.contains("running pg_rewind") && !copied, "it was not rewound");
            let came = "connection authorized: user=rewinder database=postgres";
            ensure!(cluster.log(&format!("keeper{new}")).contains(came), "the rewind was somebody else's");
        } else {
            ensure!(copied && log.contains("pg_rewind: entity not found"), "it was copied without a reason");
        }
        self.has_the_tablespace(cluster, old).await?;
        // The backup below knows nothing of it.
        session.rows("drop table in_space", QUERY).await?;
        session.rows("drop tablespace space", QUERY).await.map(drop)
    }

    /// The former primary has it where its mapping says, and nothing of the other one's.
    async fn has_the_tablespace(&self, cluster: &Cluster, number: usize) -> anyhow::Result<()> {
        let session = cluster.instance(number).connect(QUERY).await?;
        ensure!(
            session.value("select count(*) from in_space", QUERY).await? == "1",
            "the tablespace is empty"
        );
        let place = "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'space'";
        let found = session.value(place, QUERY).await?;
        ensure!(found.ends_with(&format!("space{number}")), "its tablespace lies in {found}");
        Ok(())
    }

    /// From a base backup and the archive, to a name: what came after it is gone.
    async fn is_restored_to_a_point(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let backup = cluster.layout.directory.join("backup");
        self.back_up(cluster, &backup)?;
        let session = cluster.session().await?;
        session.rows("insert into t values (4)", QUERY).await?;
        session.value("select pg_create_restore_point('four')", QUERY).await?;
        session.rows("insert into t values (5)", QUERY).await?;
        let wal = session.value("select pg_walfile_name(pg_switch_wal())", QUERY).await?;
        wait_for("the archive", PATIENCE, async || Ok(self.archive.join(&wal).exists().then_some(())))
            .await?;
        drop(session);

        let mut spec = self.spec();
        spec["initMode"] = json!("pitr");
        spec["pitrConfig"] = json!({
            "dataRestoreCommand": format!("cp -a {}/. %d", backup.display()),
            "archiveRecoverySettings": { "restoreCommand": format!("cp {}/%f %p", self.archive.display()) },
            "recoveryTargetSettings": { "recoveryTargetName": "four" },
        });
        cluster.stolonctl_ok(&["init", "--yes", &spec.to_string()], "").await?;
        self.is_whole_with(cluster, "1 2 3 4").await
    }

    fn back_up(&self, cluster: &Cluster, directory: &std::path::Path) -> anyhow::Result<()> {
        let (target, who) = (cluster.proxy(), &cluster.layout.credentials);
        let program = cluster.layout.pg_bin.join("pg_basebackup");
        let output = stolon_testkit::postgres::unprivileged_command(&program)
            .args(["-h", "127.0.0.1", "-p", &target.port.to_string(), "-U", &who.replication_user, "-w"])
            .args(["-X", "none", "--checkpoint=fast", "-D"])
            .arg(directory)
            .env("PGPASSWORD", &who.replication_password)
            .current_dir("/")
            .output()
            .context("pg_basebackup cannot be run")?;
        ensure!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// The data of a keeper become those of a new cluster, as they are.
    async fn adopts_its_data(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let keeper = cluster.primary().await?;
        let session = cluster.session().await?;
        session.rows("insert into t values (6)", QUERY).await?;
        drop(session);
        let mut spec = self.spec();
        spec["initMode"] = json!("existing");
        spec["existingConfig"] = json!({ "keeperUID": format!("keeper{keeper}") });
        cluster.stolonctl_ok(&["init", "--yes", &spec.to_string()], "").await?;
        self.is_whole_with(cluster, "1 2 3 4 6").await?;
        ensure!(cluster.primary().await? == keeper, "somebody else's data were taken");
        Ok(())
    }

    fn spec(&self) -> Value {
        let mut spec = short_timings();
        spec["pgParameters"] = parameters(&self.archive.display().to_string());
        spec
    }

    async fn is_whole_with(&self, cluster: &Cluster, rows: &str) -> anyhow::Result<()> {
        wait_for("the restored rows", PATIENCE, async || {
            let session = cluster.proxy().connect(QUERY).await?;
            let found = session.value("select string_agg(id::text, ' ' order by id) from t", QUERY).await?;
            ensure!(found == rows, "the rows are {found}");
            ensure!(session.value("select pg_is_in_recovery()", QUERY).await? == "f");
            Ok(Some(()))
        })
        .await?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        let count = rows.split(' ').count();
        rows_on(cluster, 3 - cluster.primary().await?, count).await
    }
}

/// Wait until a keeper's server has so many rows, as a standby.
async fn rows_on(cluster: &Cluster, number: usize, rows: usize) -> anyhow::Result<()> {
    let instance = cluster.instance(number);
    wait_for("the rows on the standby", PATIENCE, async || {
        let session = instance.connect(QUERY).await?;
        ensure!(session.value("select pg_is_in_recovery()", QUERY).await? == "t");
        let found: usize = session.value("select count(*) from t", QUERY).await?.parse()?;
        Ok((found == rows).then_some(()))
    })
    .await
}
