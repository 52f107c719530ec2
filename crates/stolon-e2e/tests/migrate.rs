//! A live database moves into a cluster: nothing that was acknowledged is lost, one side takes writes in the end and never both, and the
//! legacy server is left as it was where the migration is given up.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use stolon_testkit::local::writes::Ledger;
use stolon_testkit::local::{Session, Target};
use stolon_testkit::{Cluster, Foreign, PATIENCE, Plan, QUERY, on_prepared, short_timings, wait_for};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

/// The legacy server, and how `stolonctl` and the keepers connect to it.
struct Legacy {
    server: Foreign,
    source: String,
}

impl Legacy {
    async fn create(cluster: &mut Cluster, settings: &str) -> anyhow::Result<Legacy> {
        let mut server = Foreign::create(cluster, "legacy", settings).await?;
        server.start().await?;
        server.run("create table acknowledged_writes (id bigint primary key)").await?;
        let source = format!(
            "host=127.0.0.1 port={} user={} passfile={}",
            server.server.port,
            cluster.layout.credentials.superuser,
            server.password_file.display()
        );
        Ok(Legacy { server, source })
    }

    fn target(&self) -> Target {
        self.server.server.target()
    }

    async fn restart(&self) -> anyhow::Result<()> {
        let (data, log) = (self.server.server.data(), self.server.server.directory.join("restarted.log"));
        let arguments = [
            "restart".as_ref(),
            "-w".as_ref(),
            "-D".as_ref(),
            data.as_os_str(),
            "-l".as_ref(),
            log.as_os_str(),
        ];
        self.server.server.tool("pg_ctl", &arguments, "").await.map(drop)
    }

    /// As whoever knows how the fence is passed.
    async fn past_fence(&self, sql: &str) -> anyhow::Result<String> {
        let port = self.server.server.port;
        let conninfo =
            format!("host=127.0.0.1 port={port} user=postgres options='-c session_preload_libraries='");
        let arguments = ["-d".as_ref(), conninfo.as_ref(), "-Atc".as_ref(), sql.as_ref()];
        self.server.server.tool("psql", &arguments, "").await
    }

    /// Nobody gets in, not even its superuser.
    async fn is_closed(&self) -> anyhow::Result<()> {
        let entered = self.target().connect(QUERY).await;
        let refused = entered.err().context("the legacy server lets its superuser in")?;
        ensure!(format!("{refused:#}").contains("58P01"), "refused for another reason: {refused:#}");
        Ok(())
    }

    /// What a migration could have changed there.
    async fn as_it_is(&self) -> anyhow::Result<Vec<String>> {
        let data = self.server.server.data();
        let mut found = Vec::new();
        for file in ["postgresql.auto.conf", "postgresql.conf", "pg_hba.conf"] {
            let text = std::fs::read_to_string(data.join(file))?;
            let mut lines: Vec<&str> = text.lines().collect();
            // ALTER SYSTEM appends what it sets again.
            lines.sort_unstable();
            found.push(lines.join("\n"));
        }
        let session = self.target().connect(QUERY).await?;
        for sql in [
            "select string_agg(r::text, ' ' order by rolname) from pg_authid r",
            "select string_agg(slot_name, ' ') from pg_replication_slots",
            "select string_agg(pubname, ' ') from pg_publication",
            "select string_agg(subname, ' ') from pg_subscription",
            "select string_agg(d::text, ' ' order by setdatabase, setrole) from pg_db_role_setting d",
            "select string_agg(name || '=' || setting, ' ' order by name) from pg_settings where source <> 'override'",
            "select string_agg(datname || coalesce(datacl::text, ''), ' ' order by datname) from pg_database",
        ] {
            found.push(session.value(sql, QUERY).await?);
        }
        Ok(found)
    }
}

/// An application that knows both addresses, as a connection string with two hosts does, and what was acknowledged to it.
struct Application {
    ledger: tokio::task::JoinHandle<Ledger>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<std::sync::Mutex<Instant>>,
}

impl Application {
    fn start(doors: [Target; 2]) -> Application {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(std::sync::Mutex::new(Instant::now()));
        let ledger = tokio::spawn(write(doors, stop.clone(), acknowledged.clone()));
        Application { ledger, stop, acknowledged }
    }

    /// Until a row is acknowledged that was begun after now.
    async fn writes(&self) -> anyhow::Result<()> {
        let since = Instant::now();
        wait_for("an acknowledged row", PATIENCE, async || {
            let last = *self.acknowledged.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
            Ok((last > since).then_some(()))
        })
        .await
    }

    async fn stop(self) -> anyhow::Result<Ledger> {
        self.stop.store(true, Ordering::SeqCst);
        Ok(self.ledger.await?)
    }
}

async fn write(
    doors: [Target; 2],
    stop: Arc<AtomicBool>,
    acknowledged: Arc<std::sync::Mutex<Instant>>,
) -> Ledger {
    let mut ledger = Ledger::default();
    let (mut open, mut at, mut id): (Option<Session>, usize, i64) = (None, 0, 0);
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let Some(session) = &open else {
            open = doors[at].connect(Duration::from_secs(2)).await.ok();
            at = if open.is_some() { at } else { 1 - at };
            continue;
        };
        id += 1;
        let sql = format!("insert into public.acknowledged_writes values ({id})");
        match tokio::time::timeout(Duration::from_secs(5), session.client.simple_query(&sql)).await {
            Ok(Ok(_)) => {
                ledger.acknowledged.insert(id);
                ledger.times.push(Instant::now());
                if let Ok(mut last) = acknowledged.lock() {
                    *last = Instant::now();
                }
                continue;
            }
            // What ends the session may come after the commit.
            Ok(Err(error))
                if error.as_db_error().is_some_and(|said| !said.code().code().starts_with("57P")) =>
            {
                ledger.failed += 1;
            }
            Ok(Err(_)) | Err(_) => {
                ledger.unknown.insert(id);
            }
        }
        (open, at) = (None, 1 - at);
    }
    ledger
}

/// `stolonctl migrate` with its progress, so that it can be killed in the middle.
struct Running {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    said: Vec<String>,
}

impl Running {
    fn start(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Running> {
        let mut command = cluster.layout.stolonctl();
        command.arg("migrate").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        Ok(Running { child, lines, said: Vec::new() })
    }

    /// Until it says something with these words.
    async fn until(&mut self, words: &str) -> anyhow::Result<()> {
        loop {
            let line =
                tokio::time::timeout(PATIENCE, self.lines.next_line()).await.context("it says nothing")??;
            let line = line.with_context(|| format!("it ended without {words:?}: {:?}", self.said))?;
            let found = line.contains(words);
            self.said.push(line);
            if found {
                return Ok(());
            }
        }
    }

    async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("it cannot be killed")
    }

    /// Its exit, and everything that it said.
    async fn end(mut self) -> anyhow::Result<(bool, String)> {
        while let Some(line) =
            tokio::time::timeout(PATIENCE, self.lines.next_line()).await.context("it does not end")??
        {
            self.said.push(line);
        }
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        Ok((status.success(), self.said.join("\n")))
    }
}

async fn migrate(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut all = vec!["migrate"];
    all.extend(arguments);
    all.extend(["--output", "json"]);
    let said = cluster.stolonctl_ok(&all, "").await?;
    // A question before it, and warnings, come first.
    let begins = said.find('{').context("no JSON")?;
    Ok(serde_json::from_str(&said[begins..])?)
}

/// Start a migration and wait until the cluster follows.
async fn started(cluster: &mut Cluster, legacy: &Legacy, more: &[&str]) -> anyhow::Result<()> {
    cluster.start_services()?;
    let mut spec = short_timings();
    spec.as_object_mut().context("no object")?.remove("initMode");
    let (spec, program) =
        (spec.to_string(), cluster.layout.pg_bin.join("pg_basebackup").display().to_string());
    let mut arguments = vec!["start", "--yes", "--source", &legacy.source, "--pg-basebackup", &program];
    arguments.extend(more);
    arguments.push(&spec);
    migrate(cluster, &arguments).await.map(drop)
}

/// What the application was promised is there, once, and nothing else.
async fn nothing_is_lost(ledger: &Ledger, target: &Target, since: Instant) -> anyhow::Result<()> {
    let verdict = ledger.check(target).await?;
    let gap = ledger.longest_gap(since).map(|(before, after)| after - before).unwrap_or_default();
    eprintln!("{} rows promised, nothing acknowledged for {:.2} s", verdict.acknowledged, gap.as_secs_f64());
    ensure!(verdict.lost.is_empty(), "{} promised rows are lost", verdict.lost.len());
    ensure!(verdict.unexpected.is_empty(), "{} rows from nowhere", verdict.unexpected.len());
    ensure!(verdict.acknowledged > 100, "only {} rows were promised", verdict.acknowledged);
    Ok(())
}

#[test]
fn a_live_database_moves_in() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster, "").await?;
        let application = Application::start([legacy.target(), cluster.proxy()]);
        application.writes().await?;
        let since = Instant::now();
        started(cluster, &legacy, &[]).await?;
        let status = migrate(cluster, &["status"]).await?;
        ensure!(status["stage"] == "following" && status["lag_bytes"].is_u64(), "status says {status}");

        // The legacy server restarts, and the cluster goes on following.
        legacy.server.stop().await?;
        legacy.server.start_again().await?;
        application.writes().await?;
        let dry = migrate(cluster, &["switch", "--dry-run"]).await?;
        ensure!(dry["obstacles"] == json!([]), "a dry run found {dry}");
        application.writes().await?;

        let switched = migrate(cluster, &["switch"]).await?;
        ensure!(switched["figures"]["downtime_seconds"].is_f64(), "it measured nothing: {switched}");
        eprintln!("stolonctl measured {switched}");
        application.writes().await?;
        legacy.is_closed().await?;
        nothing_is_lost(&application.stop().await?, &cluster.proxy(), since).await?;
        cluster.wait_streaming(1, PATIENCE).await?;

        // Also after a restart, and after what was made there is gone.
        legacy.restart().await?;
        legacy.is_closed().await?;
        let again = cluster.stolonctl(&["migrate", "switch"], "").await?;
        ensure!(!again.status.success(), "a second switch");
        let late = cluster.stolonctl(&["migrate", "abort"], "").await?;
        ensure!(String::from_utf8_lossy(&late.stderr).contains("both would take writes"), "abort afterwards");
        wait_for("the way back", PATIENCE, async || {
            let status = migrate(cluster, &["status"]).await?;
            Ok(status["way_back_lag_bytes"].is_u64().then_some(()))
        })
        .await?;
        migrate(cluster, &["finish"]).await?;
        legacy.is_closed().await?;
        for left in ["pg_replication_slots", "pg_subscription", "pg_publication"] {
            let count = format!("select count(*) from {left}");
            let on_legacy = legacy.past_fence(&count).await?;
            let on_cluster = cluster.session().await?.value(&count, QUERY).await?;
            let own = if left == "pg_replication_slots" { "1" } else { "0" };
            ensure!(
                (on_legacy.trim(), on_cluster.as_str()) == ("0", own),
                "{left}: {on_legacy}, {on_cluster}"
            );
        }
        let over = cluster.stolonctl(&["migrate", "status"], "").await?;
        ensure!(String::from_utf8_lossy(&over.stderr).contains("no migration"), "status afterwards");
        Ok(())
    });
}

/// `stolonctl` dies in each stage, once it is past the first change, and another one goes on.
#[test]
fn whoever_switches_may_die_in_each_stage() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let legacy = Legacy::create(cluster, "").await?;
        let application = Application::start([legacy.target(), cluster.proxy()]);
        application.writes().await?;
        let since = Instant::now();
        started(cluster, &legacy, &[]).await?;
        for stage in ["is up to date", "lets nobody in", "sessions are ended"] {
            // Whoever waits for this transaction can be killed at leisure, and then for what the head does not receive.
            let busy = legacy.target().connect(QUERY).await?;
            busy.rows("begin; insert into acknowledged_writes values (-1)", QUERY).await?;
            let mut switch = Running::start(cluster, &["switch", "--grace", "3s"])?;
            let mut receivers = Vec::new();
            if stage == "sessions are ended" {
                switch.until("lets nobody in").await?;
                receivers = cluster.backends(cluster.primary().await?, "walreceiver")?;
                receivers.iter().try_for_each(|receiver| kill_process(*receiver, Signal::STOP))?;
            }
            switch.until(stage).await?;
            switch.kill().await?;
            receivers.iter().try_for_each(|receiver| kill_process(*receiver, Signal::CONT))?;
            let head = cluster.instance(cluster.primary().await?).connect(QUERY).await?;
            let in_recovery = head.value("select pg_is_in_recovery()", QUERY).await?;
            ensure!(in_recovery == "t", "promoted at {stage:?}");
            let status = migrate(cluster, &["status"]).await?;
            ensure!(status["stage"] == "switching", "killed at {stage:?}, status says {status}");
            // Taken back: the application goes on where it was.
            migrate(cluster, &["rollback"]).await?;
            application.writes().await?;
            ensure!(migrate(cluster, &["status"]).await?["stage"] == "following", "it does not follow");
        }
        // Left half-way, and gone on with.
        let mut switch = Running::start(cluster, &["switch"])?;
        switch.until("lets nobody in").await?;
        switch.kill().await?;
        legacy.is_closed().await?;
        let mut switch = Running::start(cluster, &["switch"])?;
        switch.until("is being promoted").await?;
        switch.kill().await?;
        // The cluster goes on by itself, and the next command waits along.
        application.writes().await?;
        legacy.is_closed().await?;
        let (done, said) = Running::start(cluster, &["switch"])?.end().await?;
        ensure!(done, "{said}");
        nothing_is_lost(&application.stop().await?, &cluster.proxy(), since).await?;
        migrate(cluster, &["finish"]).await.map(drop)
    });
}

/// The cluster has served for a while, and the legacy server takes over again: with every row, also in tables without a key, and with
/// sequences that go on. `stolonctl` dies on the way.
#[test]
fn a_database_moves_back() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let legacy = Legacy::create(cluster, "").await?;
        legacy
            .server
            .run("create table notes (id serial, note text); insert into notes (note) values ('of before')")
            .await?;
        legacy.server.run("create database \"Other One\"").await?;
        let before = legacy.as_it_is().await?;
        let application = Application::start([legacy.target(), cluster.proxy()]);
        application.writes().await?;
        let since = Instant::now();
        started(cluster, &legacy, &[]).await?;
        let switched = migrate(cluster, &["switch"]).await?;
        ensure!(
            switched["undo"].as_str().is_some_and(|undo| undo.contains("rollback")),
            "no way back: {switched}"
        );
        application.writes().await?;
        let session = cluster.session().await?;
        session.rows("insert into notes (note) values ('new'), ('gone')", QUERY).await?;
        session.rows("update notes set note = 'changed' where id = 1", QUERY).await?;
        session.rows("delete from notes where note = 'gone'", QUERY).await?;
        drop(session);

        let mut rollback = Running::start(cluster, &["rollback"])?;
        rollback.until("lets no client in").await?;
        rollback.kill().await?;
        legacy.is_closed().await?;
        let (done, said) = Running::start(cluster, &["rollback"])?.end().await?;
        ensure!(done, "{said}");
        application.writes().await?;
        nothing_is_lost(&application.stop().await?, &legacy.target(), since).await?;
        let session = legacy.target().connect(QUERY).await?;
        let notes = "select string_agg(id || ' ' || note, ', ' order by id) from notes";
        ensure!(session.value(notes, QUERY).await? == "1 changed, 2 new", "other notes");
        ensure!(
            session.value("select nextval('notes_id_seq')", QUERY).await? == "4",
            "the sequence is behind"
        );
        ensure!(legacy.as_it_is().await? == before, "something is left on the legacy server");
        // The cluster lets in neither the application nor its superuser.
        ensure!(cluster.proxy().connect(Duration::from_secs(2)).await.is_err(), "the proxy lets clients in");
        let direct = Target { port: cluster.instance(cluster.primary().await?).port, ..legacy.target() };
        ensure!(direct.connect(QUERY).await.is_err(), "the cluster lets clients in");
        Ok(())
    });
}

/// A death with the legacy server closed, and the operator gives it up: everything is as it was, and the application writes there again.
#[test]
fn what_is_given_up_leaves_the_legacy_server_as_it_was() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let legacy = Legacy::create(cluster, "").await?;
        legacy.server.run("alter system set session_preload_libraries = 'auto_explain'").await?;
        legacy.server.run("alter system set default_transaction_read_only = off").await?;
        legacy.restart().await?;
        let before = legacy.as_it_is().await?;
        let application = Application::start([legacy.target(), legacy.target()]);
        started(cluster, &legacy, &[]).await?;
        ensure!(legacy.as_it_is().await? != before, "there is no slot to be removed");

        let mut switch = Running::start(cluster, &["switch"])?;
        switch.until("lets nobody in").await?;
        switch.kill().await?;
        legacy.is_closed().await?;
        migrate(cluster, &["abort"]).await?;
        application.writes().await?;
        let after = legacy.as_it_is().await?;
        ensure!(after == before, "before: {before:#?}, after: {after:#?}");
        nothing_is_lost(&application.stop().await?, &legacy.target(), Instant::now()).await?;

        // Once more, and the record is lost meanwhile.
        started(cluster, &legacy, &[]).await?;
        let mut switch = Running::start(cluster, &["switch"])?;
        switch.until("lets nobody in").await?;
        switch.kill().await?;
        cluster.stolonctl_ok(&["init", "--yes", &short_timings().to_string()], "").await?;
        migrate(cluster, &["abort", "--source", &legacy.source]).await?;
        ensure!(legacy.as_it_is().await? == before, "without a record something is left");
        Ok(())
    });
}

/// The head receives nothing any more once the legacy server is closed: it opens again by itself, and a later switch works. While that
/// one waits for a transaction, another one is told so.
#[test]
fn a_switch_that_would_take_too_long_is_taken_back() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let legacy = Legacy::create(cluster, "").await?;
        let application = Application::start([legacy.target(), cluster.proxy()]);
        application.writes().await?;
        let since = Instant::now();
        started(cluster, &legacy, &[]).await?;

        let busy = legacy.target().connect(QUERY).await?;
        busy.rows("begin; insert into acknowledged_writes values (-1)", QUERY).await?;
        let mut switch = Running::start(cluster, &["switch", "--max-downtime", "7s", "--grace", "2s"])?;
        switch.until("lets nobody in").await?;
        let receivers = cluster.backends(1, "walreceiver")?;
        ensure!(receivers.len() == 1, "no WAL receiver");
        kill_process(receivers[0], Signal::STOP)?;
        let (done, said) = switch.end().await?;
        ensure!(
            !done && said.contains("not received everything") && said.contains("taken back"),
            "it says {said}"
        );
        kill_process(receivers[0], Signal::CONT)?;
        application.writes().await?;
        let session = legacy.target().connect(QUERY).await?;
        session.rows("insert into acknowledged_writes values (-2)", QUERY).await?;
        session.rows("delete from acknowledged_writes where id < 0", QUERY).await?;

        let busy = legacy.target().connect(QUERY).await?;
        busy.rows("begin; insert into acknowledged_writes values (-1)", QUERY).await?;
        let mut switch = Running::start(cluster, &["switch", "--max-downtime", "20s", "--grace", "10s"])?;
        switch.until("lets nobody in").await?;
        let (done, said) = Running::start(cluster, &["switch"])?.end().await?;
        ensure!(!done && said.contains("is under way"), "the second one says {said}");
        let (done, said) = switch.end().await?;
        ensure!(done, "{said}");
        application.writes().await?;
        legacy.is_closed().await?;
        nothing_is_lost(&application.stop().await?, &cluster.proxy(), since).await
    });
}

/// What cannot be kept out is said beforehand, and a password on the command line is refused.
#[test]
fn what_is_in_the_way_is_said_before_anything_is_closed() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let legacy = Legacy::create(cluster, "").await?;
        let with_password = format!("{} password=secret", legacy.source);
        let refused =
            cluster.stolonctl(&["migrate", "start", "--yes", "--source", &with_password], "").await?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(2) && said.contains("passfile="), "it says {said}");
        ensure!(!said.contains("secret"), "the password is shown");

        started(cluster, &legacy, &[]).await?;
        legacy.server.run("alter role postgres set session_preload_libraries = 'auto_explain'").await?;
        let refused = cluster.stolonctl(&["migrate", "switch"], "").await?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("role postgres"), "it says {said}");
        legacy.target().connect(QUERY).await?.rows("create table t ()", QUERY).await.map(drop)
    });
}

/// A rehearsal makes nothing on the legacy server, and leaves it open.
#[test]
fn a_rehearsal_leaves_the_legacy_server_alone() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let legacy = Legacy::create(cluster, "").await?;
        let before = legacy.as_it_is().await?;
        let application = Application::start([legacy.target(), legacy.target()]);
        started(cluster, &legacy, &["--rehearsal"]).await?;
        migrate(cluster, &["switch"]).await?;
        application.writes().await?;
        cluster.wait_writable(PATIENCE).await?;
        migrate(cluster, &["finish"]).await?;
        ensure!(legacy.as_it_is().await? == before, "something is left on the legacy server");
        nothing_is_lost(&application.stop().await?, &legacy.target(), Instant::now()).await
    });
}
