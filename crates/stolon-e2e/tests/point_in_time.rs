//! Clusters that are made from a backup and an archive, up to a point: each kind of target shows the rows up to it and none after
//! (PostgreSQL manual, "Continuous Archiving and Point-in-Time Recovery", "Recovery Target").

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use stolon_testkit::{
    Cluster, Foreign, INSTALLED_MAJOR, PATIENCE, Plan, QUERY, on_prepared, short_timings, wait_for,
};

/// A server with an archive. A row of `t` is written after each point that a recovery can stop at.
struct Past {
    foreign: Foreign,
    directory: PathBuf,
    archive: PathBuf,
}

/// What names the points of the past.
struct Points {
    lsn: String,
    time: String,
    xid: String,
}

impl Past {
    /// Row 1, a backup as files and one as tar, and nothing more.
    async fn begin(cluster: &mut Cluster) -> anyhow::Result<Past> {
        let directory = cluster.layout.directory.join("past");
        let archive = directory.join("archive");
        let settings = format!(
            "archive_mode = on\narchive_command = 'test ! -f {0}/%f && cp %p {0}/%f'\n\
             autovacuum = off\n",
            archive.display()
        );
        let mut foreign = Foreign::create(cluster, "past", &settings).await?;
        cluster.layout.account.make_directory(&archive)?;
        foreign.start().await?;
        foreign.run("create table t (id int primary key); insert into t values (1)").await?;
        let past = Past { foreign, directory, archive };
        past.back_up("files", &[]).await?;
        past.back_up("tar", &["-F", "tar"]).await?;
        Ok(past)
    }

    async fn back_up(&self, name: &str, more: &[&str]) -> anyhow::Result<()> {
        let (port, directory) = (self.foreign.server.port.to_string(), self.directory.join(name));
        let mut arguments =
            ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-X", "none", "-c", "fast", "-D"]
                .map(std::ffi::OsStr::new)
                .to_vec();
        arguments.push(directory.as_os_str());
        arguments.extend(more.iter().map(std::ffi::OsStr::new));
        self.foreign.server.tool("pg_basebackup", &arguments, "").await.map(drop)
    }

    /// Rows 2 to 6 on the timeline of the backup, with a point after each of the first four, and row 7 on the next timeline.
    async fn go_on(&mut self) -> anyhow::Result<Points> {
        let session = self.foreign.server.target().connect(QUERY).await?;
        let value = async |sql: &str| session.value(sql, QUERY).await;
        session.rows("insert into t values (2)", QUERY).await?;
        value("select pg_create_restore_point('two')").await?;
        let xid = value("insert into t values (3) returning txid_current()").await?;
        session.rows("insert into t values (4)", QUERY).await?;
        let lsn = value("select pg_current_wal_lsn()").await?;
        session.rows("insert into t values (5)", QUERY).await?;
        let time = value("select clock_timestamp()").await?;
        session.rows("insert into t values (6)", QUERY).await?;
        drop(session);
        self.begin_timeline().await?;
        self.foreign.run("insert into t values (7)").await?;
        let session = self.foreign.server.target().connect(QUERY).await?;
        let last = session.value("select pg_walfile_name(pg_switch_wal())", QUERY).await?;
        wait_for("the archive", PATIENCE, async || Ok(self.archive.join(&last).exists().then_some(())))
            .await?;
        Ok(Points { lsn, time, xid })
    }

    /// Start again as a standby of nobody, and end that.
    async fn begin_timeline(&mut self) -> anyhow::Result<()> {
        self.foreign.stop().await?;
        let data = self.foreign.server.data();
        let version = std::fs::read_to_string(data.join("PG_VERSION"))?;
        let has_signal_files = version.trim().parse::<u16>()? >= 12;
        let (file, text) = match has_signal_files {
            true => ("standby.signal", ""),
            false => ("recovery.conf", "standby_mode = 'on'\n"),
        };
        self.foreign.server.account.write_private(&data.join(file), text)?;
        self.foreign.start_again().await?;
        let data = data.as_os_str();
        let arguments = ["promote".as_ref(), "-w".as_ref(), "-D".as_ref(), data];
        self.foreign.server.tool("pg_ctl", &arguments, "").await.map(drop)
    }

    fn fetch_files(&self) -> String {
        format!("cp -a {}/. %d", self.directory.join("files").display())
    }

    fn fetch_tar(&self) -> String {
        format!("tar -xf {} -C %d", self.directory.join("tar/base.tar").display())
    }

    fn spec(&self, restore: &str, target: Value) -> Value {
        let archive = self.archive.display();
        let mut pitr = json!({
            "dataRestoreCommand": restore,
            "archiveRecoverySettings": { "restoreCommand": format!("cp {archive}/%f %p") },
        });
        if !target.is_null() {
            pitr["recoveryTargetSettings"] = target;
        }
        restoring(pitr)
    }
}

/// What is restored must not write into the archive that it is restored from: the next recovery would follow its timeline.
fn restoring(pitr: Value) -> Value {
    let mut spec = short_timings();
    spec["initMode"] = json!("pitr");
    spec["pitrConfig"] = pitr;
    spec["pgParameters"] = json!({ "archive_mode": "off" });
    spec
}

/// Make the cluster anew, and wait until it takes writes and holds exactly these rows.
async fn restored(cluster: &Cluster, spec: &Value, rows: &str) -> anyhow::Result<()> {
    cluster.stolonctl_ok(&["init", "--yes", &spec.to_string()], "").await?;
    let what = format!("the rows {rows} after {}", spec["pitrConfig"]);
    wait_for(&what, PATIENCE, async || {
        let session = cluster.proxy().connect(QUERY).await?;
        let found = session.value("select string_agg(id::text, ' ' order by id) from t", QUERY).await?;
        ensure!(found == rows, "the rows are {found}");
        session.rows("create table writable ()", QUERY).await?;
        Ok(Some(()))
    })
    .await
}

/// One recovery after the other to these kinds of targets. Neighbours differ in their rows, so that none is taken for the one before it.
fn recoveries(major: u16, kinds: &[&str]) {
    on_prepared(Plan::new(1).major(major).uninitialised(), async |cluster| {
        let mut past = Past::begin(cluster).await?;
        let points = past.go_on().await?;
        cluster.start_services()?;
        for kind in kinds {
            let (value, rows) = match *kind {
                "recoveryTarget" => ("immediate", "1"),
                "recoveryTargetName" => ("two", "1 2"),
                "recoveryTargetXid" => (&*points.xid, "1 2 3"),
                "recoveryTargetLsn" => (&*points.lsn, "1 2 3 4"),
                "recoveryTargetTime" => (&*points.time, "1 2 3 4 5"),
                "recoveryTargetTimeline" => ("1", "1 2 3 4 5 6"),
                other => anyhow::bail!("{other} is no target"),
            };
            restored(cluster, &past.spec(&past.fetch_files(), json!({ *kind: value })), rows).await?;
        }
        restored(cluster, &past.spec(&past.fetch_files(), Value::Null), "1 2 3 4 5 6 7").await?;
        restored(cluster, &past.spec(&past.fetch_tar(), json!({ "recoveryTargetName": "two" })), "1 2").await
    });
}

#[test]
fn every_kind_of_target_ends_where_it_says() {
    let kinds = [
        "recoveryTarget",
        "recoveryTargetName",
        "recoveryTargetXid",
        "recoveryTargetLsn",
        "recoveryTargetTime",
        "recoveryTargetTimeline",
    ];
    recoveries(INSTALLED_MAJOR, &kinds);
}

#[test]
fn the_same_with_recovery_conf() {
    recoveries(11, &["recoveryTarget", "recoveryTargetTime", "recoveryTargetTimeline"]);
}

#[test]
fn the_same_on_the_newest_major() {
    recoveries(18, &["recoveryTarget", "recoveryTargetTime"]);
}

/// The reason is said, the restored data stay, nobody is let in, and the next order is carried out.
#[test]
fn a_target_that_is_never_reached_is_said() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let mut past = Past::begin(cluster).await?;
        past.go_on().await?;
        cluster.start_services()?;
        let counter = cluster.layout.directory.join("copies");
        let counted = format!("echo once >> {}; {}", counter.display(), past.fetch_files());
        let nowhere = past.spec(&counted, json!({ "recoveryTargetName": "nowhere" }));
        cluster.stolonctl_ok(&["init", "--yes", &nowhere.to_string()], "").await?;
        cluster
            .wait_said(&["keeper1", "recovery ended before configured recovery target was reached"])
            .await?;
        let tries = || cluster.log("keeper1").matches("recovery ended before configured").count();
        wait_for("a second try", PATIENCE, async || Ok((tries() >= 4).then_some(()))).await?;
        let copies = std::fs::read_to_string(&counter)?.lines().count();
        ensure!(copies == 1, "the backup was fetched {copies} times");
        ensure!(cluster.data_directory(1).join("PG_VERSION").exists(), "the restored data are gone");
        ensure!(cluster.proxy().connect(QUERY).await.is_err(), "clients are let in");
        restored(cluster, &past.spec(&past.fetch_files(), json!({ "recoveryTargetName": "two" })), "1 2")
            .await
    });
}

/// What failed is said in the command's own words for it, not in its last ones.
#[test]
fn a_restore_command_that_fails_is_shown_by_its_real_error() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let past = Past::begin(cluster).await?;
        cluster.start_services()?;
        let pg_basebackup = past.foreign.server.pg_bin.join("pg_basebackup");
        for (command, reason) in [
            (format!("{} -D %d -x", pg_basebackup.display()), "invalid option -- 'x'"),
            ("tar -xf /nowhere/base.tar -C %d".to_owned(), "/nowhere/base.tar: Cannot open: No such file"),
            ("head -c 99 /dev/zero | tar -xzf - -C %d".to_owned(), "not in gzip format"),
            ("cp --sideways /a %d".to_owned(), "unrecognized option '--sideways'"),
            ("/nowhere/program %d".to_owned(), "/nowhere/program: not found"),
        ] {
            let spec = past.spec(&command, Value::Null);
            cluster.stolonctl_ok(&["init", "--yes", &spec.to_string()], "").await?;
            cluster.wait_said(&["keeper1", "dataRestoreCommand", reason]).await?;
        }
        let mut spec = past.spec(&past.fetch_files(), Value::Null);
        spec["pitrConfig"]["archiveRecoverySettings"]["restoreCommand"] = json!("cp /nowhere/%f %p");
        cluster.stolonctl_ok(&["init", "--yes", &spec.to_string()], "").await?;
        cluster
            .wait_said(&["keeper1", "restore_command said: cp: cannot stat '/nowhere/0000"])
            .await
            .map(drop)
    });
}

/// pgBackRest on the foreign server and on the keeper's host, which are one here.
struct PgBackRest {
    configuration: PathBuf,
    password_file: PathBuf,
}

impl PgBackRest {
    fn new(cluster: &Cluster) -> anyhow::Result<PgBackRest> {
        let directory = cluster.layout.directory.join("pgbackrest");
        cluster.layout.account.make_directory(&directory)?;
        Ok(PgBackRest { configuration: directory.join("pgbackrest.conf"), password_file: PathBuf::new() })
    }

    /// Know the server that is backed up. `main` is the name of its stanza.
    fn serve(&mut self, foreign: &Foreign) -> anyhow::Result<()> {
        let directory = self.configuration.parent().unwrap_or(Path::new("/")).display();
        let server = &foreign.server;
        let text = format!(
            "[global]\nrepo1-path={directory}/repository\nlock-path={directory}/lock\n\
             log-level-file=off\nstart-fast=y\n\
             [main]\npg1-path={}\npg1-port={}\npg1-socket-path=/tmp\npg1-user=stolon\n",
            server.data().display(),
            server.port,
        );
        self.password_file = foreign.password_file.clone();
        server.account.write_private(&self.configuration, &text)
    }

    /// A command line of it, for a shell.
    fn command(&self, rest: &str) -> String {
        format!("pgbackrest --config={} --stanza=main {rest}", self.configuration.display())
    }

    async fn run(&self, cluster: &Cluster, rest: &str) -> anyhow::Result<Output> {
        let mut command = cluster.layout.account.expendable_command("sh");
        command.args(["-c", &self.command(rest)]).env("PGPASSFILE", &self.password_file).current_dir("/");
        let output = tokio::time::timeout(PATIENCE, command.output()).await.context("it does not end")??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "pgbackrest {rest}: {said}");
        Ok(output)
    }
}

#[test]
fn a_backup_of_pgbackrest_is_restored_to_a_time() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let mut tool = PgBackRest::new(cluster)?;
        let settings =
            format!("archive_mode = on\narchive_command = '{}'\n", tool.command("archive-push %p"));
        let mut foreign = Foreign::create(cluster, "foreign", &settings).await?;
        tool.serve(&foreign)?;
        foreign.start().await?;
        foreign.run("create table t (id int primary key); insert into t values (1)").await?;
        tool.run(cluster, "stanza-create").await?;
        tool.run(cluster, "backup").await?;
        foreign.run("insert into t values (2)").await?;
        let session = foreign.server.target().connect(QUERY).await?;
        let time = session.value("select clock_timestamp()", QUERY).await?;
        foreign.run("insert into t values (3)").await?;
        tool.run(cluster, "check").await?;

        // The directory that a restore command works in is PGDATA; here it is another one than on the foreign server.
        cluster.start_services()?;
        let spec = restoring(json!({
            "dataRestoreCommand": tool.command("--pg1-path=%d restore"),
            "archiveRecoverySettings": { "restoreCommand": tool.command("--pg1-path=\"$PWD\" archive-get %f \"%p\"") },
            "recoveryTargetSettings": { "recoveryTargetTime": time },
        }));
        restored(cluster, &spec, "1 2").await?;
        cluster.wait_streaming(1, PATIENCE).await
    });
}
