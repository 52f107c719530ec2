//! A live database moves into a cluster: nothing that was acknowledged is lost, one side takes writes in the end and never both, and the
//! legacy server is left as it was where the migration is given up.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stolon_testkit::local::writes::Writing;
use stolon_testkit::local::{Session, Target};
use stolon_testkit::{
    Cluster, Foreign, PATIENCE, Plan, QUERY, nothing_is_lost, on_prepared, short_timings, wait_for,
    writes_are_back,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

/// The legacy server.
struct Legacy {
    server: Foreign,
}

impl Legacy {
    async fn create(cluster: &mut Cluster, settings: &str) -> anyhow::Result<Legacy> {
        let mut server = Foreign::create(cluster, "legacy", settings).await?;
        server.start().await?;
        Ok(Legacy { server })
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
        // What a killed postmaster had started may take a moment to end.
        wait_for("the legacy server to start", PATIENCE, async || {
            self.server.server.tool("pg_ctl", &arguments, "").await.map(Some)
        })
        .await
        .map(drop)
    }

    /// A base backup that needs archived WAL.
    async fn back_up(&self) -> anyhow::Result<PathBuf> {
        let (port, backup) =
            (self.server.server.port.to_string(), self.server.server.directory.join("backup"));
        let words = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-X", "none", "-c", "fast", "-D"];
        let mut arguments: Vec<&OsStr> = words.iter().map(|word| (*word).as_ref()).collect();
        arguments.push(backup.as_os_str());
        self.server.server.tool("pg_basebackup", &arguments, "").await?;
        Ok(backup)
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

/// The application, which knows both addresses, writes.
async fn goes_on(application: &Writing) -> anyhow::Result<()> {
    writes_are_back(application, Instant::now()).await
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

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid as i32)).context("it has ended")?;
        kill_process(pid, signal).context("it cannot be signalled")
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
    cluster.migrate(arguments, PATIENCE).await
}

/// Start the cluster and a migration, and wait until the cluster follows.
async fn started(cluster: &mut Cluster, legacy: &Legacy, more: &[&str]) -> anyhow::Result<()> {
    cluster.start_services()?;
    cluster.migrate_start(&legacy.server, more, PATIENCE).await.map(drop)
}

/// Both sides have the same, while the application writes.
async fn holds(cluster: &Cluster) -> anyhow::Result<()> {
    let answer = migrate(cluster, &["verify"]).await?;
    ensure!(answer["holds"] == json!(true) && answer["following"] == json!(true), "verify found {answer:#}");
    Ok(())
}

/// Hand the primary over to the other keeper, once that one is fit.
async fn switch_over(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.wait_fit(None, PATIENCE).await?;
    cluster.stolonctl_ok(&["switchover"], "").await?;
    cluster.wait_writable(PATIENCE).await
}

#[test]
fn a_live_database_moves_in() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster, "").await?;
        legacy.server.run("create table notes (id serial primary key, note text)").await?;
        let application = legacy.server.application(&[cluster.proxy()], 1).await?;
        goes_on(&application).await?;
        let since = Instant::now();
        started(cluster, &legacy, &[]).await?;
        let status = migrate(cluster, &["status"]).await?;
        ensure!(status["stage"] == "following" && status["lag_bytes"].is_u64(), "status says {status}");

        // The legacy server restarts, and the cluster goes on following.
        legacy.server.stop().await?;
        legacy.server.start_again().await?;
        goes_on(&application).await?;
        holds(cluster).await?;
        let dry = migrate(cluster, &["switch", "--dry-run"]).await?;
        ensure!(dry["obstacles"] == json!([]), "a dry run found {dry}");
        goes_on(&application).await?;

        let switched = migrate(cluster, &["switch"]).await?;
        ensure!(switched["figures"]["downtime_seconds"].is_f64(), "it measured nothing: {switched}");
        eprintln!("stolonctl measured {switched}");
        goes_on(&application).await?;
        legacy.is_closed().await?;
        nothing_is_lost(&application.stop().await, &cluster.proxy(), since).await?;
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
        let session = cluster.session().await?;
        session.rows("insert into notes (note) values ('of the cluster')", QUERY).await?;
        holds(cluster).await?;

        // The way back ends with the primary, and is not believed when the slot that was left there serves again.
        let first = cluster.primary().await?;
        for back in [false, true] {
            switch_over(cluster).await?;
            ensure!((cluster.primary().await? == first) == back, "no switchover");
            let status = migrate(cluster, &["status"]).await?;
            let (problems, undo) = (status["problems"].to_string(), status["undo"].to_string());
            ensure!(problems.contains("has failed over") && undo.contains("no way back"), "it says {status}");
        }
        let left = "select count(*) from pg_replication_slots where slot_type = 'logical'";
        let left = cluster.session().await?.value(left, QUERY).await?;
        ensure!(left == "1", "{left} slots are left: nothing was tested");
        let refused = cluster.stolonctl(&["migrate", "rollback"], "").await?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("has failed over"), "rollback says {said}");
        switch_over(cluster).await?;
        migrate(cluster, &["finish"]).await?;
        legacy.is_closed().await?;
        let standby = cluster.instance(first).connect(QUERY).await?;
        let kept =
            standby.value("select count(*) from pg_replication_slots where slot_type = 'logical'", QUERY);
        ensure!(kept.await? == "0", "a slot is left on the former primary");
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
        let application = legacy.server.application(&[cluster.proxy()], 1).await?;
        goes_on(&application).await?;
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
            follows(cluster).await.with_context(|| format!("killed at {stage:?}"))?;
            let status = migrate(cluster, &["status"]).await?;
            ensure!(status["stage"] == "switching", "killed at {stage:?}, status says {status}");
            // Taken back: the application goes on where it was.
            migrate(cluster, &["rollback"]).await?;
            goes_on(&application).await?;
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
        goes_on(&application).await?;
        legacy.is_closed().await?;
        let (done, said) = Running::start(cluster, &["switch"])?.end().await?;
        ensure!(done, "{said}");
        nothing_is_lost(&application.stop().await, &cluster.proxy(), since).await?;
        migrate(cluster, &["finish"]).await.map(drop)
    });
}

/// A switch that has just closed the legacy server, and waits for a transaction there.
async fn closed(cluster: &Cluster, legacy: &Legacy) -> anyhow::Result<(Running, Session)> {
    let busy = legacy.target().connect(QUERY).await?;
    busy.rows("begin; insert into acknowledged_writes values (-1)", QUERY).await?;
    let mut switch = Running::start(cluster, &["switch", "--grace", "4s"])?;
    switch.until("lets nobody in").await?;
    Ok((switch, busy))
}

/// It stands still, and not with the lock of the store's file in its hand: that would be another test.
async fn fall_asleep(cluster: &Cluster, running: &Running) -> anyhow::Result<()> {
    wait_for("a moment without the lock of the store", PATIENCE, async || {
        running.signal(Signal::STOP)?;
        let answer = tokio::time::timeout(Duration::from_millis(500), cluster.data()).await;
        if !matches!(answer, Ok(Ok(_))) {
            running.signal(Signal::CONT)?;
        }
        answer?.map(|_| Some(()))
    })
    .await
}

/// The head follows, so it takes no writes.
async fn follows(cluster: &Cluster) -> anyhow::Result<()> {
    let head = cluster.instance(cluster.primary().await?).connect(QUERY).await?;
    let in_recovery = head.value("select pg_is_in_recovery()", QUERY).await?;
    ensure!(in_recovery == "t", "the head is promoted");
    Ok(())
}

/// The others die in a switch, or sleep: in the end one side takes writes, and never both.
#[test]
fn whatever_dies_in_a_switch_one_side_takes_writes() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster, "").await?;
        let application = legacy.server.application(&[cluster.proxy()], 1).await?;
        goes_on(&application).await?;
        let since = Instant::now();
        started(cluster, &legacy, &[]).await?;

        // A laptop that sleeps: what another one has opened stays open when it wakes up.
        let (switch, _busy) = closed(cluster, &legacy).await?;
        fall_asleep(cluster, &switch).await?;
        migrate(cluster, &["rollback"]).await?;
        goes_on(&application).await?;
        switch.signal(Signal::CONT)?;
        let (done, said) = switch.end().await?;
        ensure!(!done, "the one that slept has switched: {said}");
        goes_on(&application).await?;

        // The keeper of the head, with its PostgreSQL.
        let head = cluster.primary().await?;
        let (switch, _busy) = closed(cluster, &legacy).await?;
        cluster.kill_keeper_and_postgres(head).await?;
        let (done, said) = switch.end().await?;
        ensure!(!done && said.contains("taken back"), "without a head it says {said}");
        goes_on(&application).await?;
        cluster.start_service(&format!("keeper{head}"))?;
        wait_for("the cluster to follow again", PATIENCE, async || {
            migrate(cluster, &["switch", "--dry-run"]).await.map(Some)
        })
        .await?;

        // The legacy server: its fence is there when it is back.
        let (switch, _busy) = closed(cluster, &legacy).await?;
        legacy.server.kill().await?;
        let (done, said) = switch.end().await?;
        ensure!(!done && said.contains("may stay closed"), "without the legacy server it says {said}");
        follows(cluster).await?;
        legacy.restart().await?;
        legacy.is_closed().await?;
        migrate(cluster, &["rollback"]).await?;
        goes_on(&application).await?;
        follows(cluster).await?;
        wait_for("the cluster to follow the server that was restarted", PATIENCE, async || {
            migrate(cluster, &["switch", "--dry-run"]).await.map(Some)
        })
        .await?;

        // Whoever promotes, and whoever lets clients in: nobody takes writes until they are back.
        let (mut switch, _busy) = closed(cluster, &legacy).await?;
        wait_for("the sentinel to say that no proxy forwards", PATIENCE, async || {
            let migration = cluster.data().await?.cluster.status.migration.context("no record")?;
            Ok(migration.proxies_away.map(drop))
        })
        .await?;
        cluster.kill_service("proxy1").await?;
        cluster.kill_service("sentinel1").await?;
        switch.until("is being promoted").await?;
        legacy.is_closed().await?;
        follows(cluster).await?;
        cluster.start_service("sentinel1")?;
        cluster.start_service("proxy1")?;
        let (done, said) = switch.end().await?;
        ensure!(done, "{said}");
        goes_on(&application).await?;
        legacy.is_closed().await?;
        nothing_is_lost(&application.stop().await, &cluster.proxy(), since).await
    });
}

/// The cluster has served for a while, and the legacy server takes over again: with every row, also in tables without a key, and with
/// sequences that go on. `stolonctl` dies on the way.
#[test]
fn a_database_moves_back() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let mut legacy = Legacy::create(cluster, "").await?;
        legacy
            .server
            .run("create table notes (id serial, note text); insert into notes (note) values ('of before')")
            .await?;
        legacy.server.run("create database \"Other One\"").await?;
        let before = legacy.as_it_is().await?;
        let application = legacy.server.application(&[cluster.proxy()], 1).await?;
        goes_on(&application).await?;
        let since = Instant::now();
        // The application knows both addresses, and each is what it is.
        started(cluster, &legacy, &["--proxies", "cluster"]).await?;
        let switched = migrate(cluster, &["switch"]).await?;
        ensure!(
            switched["undo"].as_str().is_some_and(|undo| undo.contains("rollback")),
            "no way back: {switched}"
        );
        goes_on(&application).await?;
        let session = cluster.session().await?;
        session.rows("insert into notes (note) values ('new'), ('gone')", QUERY).await?;
        session.rows("update notes set note = 'changed' where id = 1", QUERY).await?;
        session.rows("delete from notes where note = 'gone'", QUERY).await?;
        drop(session);

        // A rollback is not begun while the legacy server is far behind, as it is after a promotion: that begins a new WAL segment.
        wait_for("the legacy server to take what the cluster writes", PATIENCE, async || {
            let status = migrate(cluster, &["status"]).await?;
            Ok(status["way_back_lag_bytes"].as_u64().filter(|lag| *lag < 1 << 20))
        })
        .await?;

        // The legacy server dies before it has taken everything: the cluster goes on serving.
        let takers = legacy.server.backends("logical replication worker")?;
        takers.iter().try_for_each(|taker| kill_process(*taker, Signal::STOP))?;
        let mut rollback = Running::start(cluster, &["rollback", "--max-downtime", "5s"])?;
        rollback.until("lets no client in").await?;
        legacy.server.kill().await?;
        takers.iter().try_for_each(|taker| kill_process(*taker, Signal::KILL))?;
        let (done, said) = rollback.end().await?;
        ensure!(!done && said.contains("taken back"), "without the legacy server it says {said}");
        goes_on(&application).await?;
        legacy.restart().await?;

        let mut rollback = Running::start(cluster, &["rollback"])?;
        rollback.until("lets no client in").await?;
        rollback.kill().await?;
        legacy.is_closed().await?;
        let (done, said) = Running::start(cluster, &["rollback"])?.end().await?;
        ensure!(done, "{said}");
        goes_on(&application).await?;
        nothing_is_lost(&application.stop().await, &legacy.target(), since).await?;
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
        let application = legacy.server.application(&[], 1).await?;
        started(cluster, &legacy, &[]).await?;
        ensure!(legacy.as_it_is().await? != before, "there is no slot to be removed");

        let mut switch = Running::start(cluster, &["switch"])?;
        switch.until("lets nobody in").await?;
        switch.kill().await?;
        legacy.is_closed().await?;
        migrate(cluster, &["abort"]).await?;
        goes_on(&application).await?;
        let after = legacy.as_it_is().await?;
        ensure!(after == before, "before: {before:#?}, after: {after:#?}");
        nothing_is_lost(&application.stop().await, &legacy.target(), Instant::now()).await?;

        // Once more, and the record is lost meanwhile.
        started(cluster, &legacy, &[]).await?;
        let mut switch = Running::start(cluster, &["switch"])?;
        switch.until("lets nobody in").await?;
        switch.kill().await?;
        cluster.stolonctl_ok(&["init", "--yes", &short_timings().to_string()], "").await?;
        migrate(cluster, &["abort", "--source", &legacy.server.source()]).await?;
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
        let application = legacy.server.application(&[cluster.proxy()], 1).await?;
        goes_on(&application).await?;
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
        goes_on(&application).await?;
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
        goes_on(&application).await?;
        legacy.is_closed().await?;
        nothing_is_lost(&application.stop().await, &cluster.proxy(), since).await
    });
}

/// What cannot be kept out is said beforehand, and a password on the command line is refused. A full server is closed like any other.
#[test]
fn what_is_in_the_way_is_said_before_anything_is_closed() {
    const CONNECTIONS: usize = 20;
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let legacy = Legacy::create(cluster, &format!("max_connections = {CONNECTIONS}\n")).await?;
        let with_password = format!("{} password=secret", legacy.server.source());
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
        legacy.server.run("create table t (); alter role postgres reset session_preload_libraries").await?;

        // Clients that take all connections but one, superusers too, keep nobody from closing it.
        let mut clients = Vec::new();
        wait_for("a server without a free connection", PATIENCE, async || {
            while let Ok(client) = legacy.target().connect(QUERY).await {
                clients.push(client);
            }
            ensure!(clients.len() == CONNECTIONS, "{} connections", clients.len());
            Ok(Some(()))
        })
        .await?;
        clients[0].rows("begin; insert into t default values", QUERY).await?;
        clients.pop();
        migrate(cluster, &["switch", "--no-way-back"]).await?;
        legacy.is_closed().await?;
        migrate(cluster, &["finish"]).await.map(drop)
    });
}

/// A rehearsal makes nothing on the legacy server, and leaves it open. It begins with a backup that is older than what the server has of WAL.
#[test]
fn a_rehearsal_leaves_the_legacy_server_alone() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let archive = cluster.layout.directory.join("archive");
        let settings = format!(
            "archive_mode = on\narchive_command = 'cp %p {0}/%f'\nwal_keep_size = 0\n",
            archive.display()
        );
        cluster.layout.account.make_directory(&archive)?;
        let legacy = Legacy::create(cluster, &settings).await?;
        let before = legacy.as_it_is().await?;
        let application = legacy.server.application(&[], 1).await?;
        let backup = legacy.back_up().await?;
        // Once the server has no such WAL any more.
        for _ in 0..3 {
            goes_on(&application).await?;
            legacy.server.run("select pg_switch_wal(); checkpoint").await?;
        }
        let restore = format!("cp -a {}/. %d", backup.display());
        let fetch = format!("cp {}/%f %p", archive.display());
        let begin = ["--rehearsal", "--restore-command", &restore, "--fetch-wal", &fetch];
        started(cluster, &legacy, &begin).await?;
        migrate(cluster, &["switch"]).await?;
        goes_on(&application).await?;
        cluster.wait_writable(PATIENCE).await?;
        migrate(cluster, &["finish"]).await?;
        ensure!(legacy.as_it_is().await? == before, "something is left on the legacy server");
        nothing_is_lost(&application.stop().await, &legacy.target(), Instant::now()).await
    });
}
