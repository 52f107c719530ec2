//! The legacy server fails over to a standby of its own in the middle of a switch. Its standby knows nothing of the fence, which no WAL carries.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, ensure};
use stolon_testkit::local::Target;
use stolon_testkit::{
    Cluster, Foreign, PATIENCE, Plan, QUERY, nothing_is_lost, on_prepared, short_timings, wait_for,
    writes_are_back,
};
use tokio::io::{AsyncBufReadExt, BufReader};

/// A standby of the legacy server, by PostgreSQL's own means.
struct Standby {
    data: PathBuf,
    target: Target,
}

impl Standby {
    async fn create(of: &Foreign, port: u16) -> anyhow::Result<Standby> {
        let data = of.server.directory.join("standby");
        let from = of.server.port.to_string();
        let words =
            ["-h", "127.0.0.1", "-p", &from, "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "-D"];
        let mut arguments: Vec<&OsStr> = words.iter().map(|word| (*word).as_ref()).collect();
        arguments.push(data.as_os_str());
        of.server.tool("pg_basebackup", &arguments, "").await?;
        let standby = Standby { data, target: Target { port, ..of.server.target() } };
        // Its name as that of its walreceiver, by which its primary waits for it.
        standby.control(of, &["start", "-w", "-o", &format!("-p {port} -c cluster_name=beside")]).await?;
        Ok(standby)
    }

    async fn control(&self, of: &Foreign, words: &[&str]) -> anyhow::Result<()> {
        let log = of.server.directory.join("standby.log");
        let mut arguments: Vec<&OsStr> = words.iter().map(|word| (*word).as_ref()).collect();
        arguments.extend([OsStr::new("-D"), self.data.as_os_str(), OsStr::new("-l"), log.as_os_str()]);
        of.server.tool("pg_ctl", &arguments, "").await.map(drop)
    }
}

/// The head of the cluster takes no writes.
async fn follows(cluster: &Cluster) -> anyhow::Result<()> {
    let head = cluster.instance(cluster.primary().await?).connect(QUERY).await?;
    ensure!(head.value("select pg_is_in_recovery()", QUERY).await? == "t", "the head is promoted");
    Ok(())
}

#[test]
fn a_legacy_server_that_fails_over_during_the_switch_stays_the_one_that_takes_writes() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let mut legacy = Foreign::create(cluster, "legacy", "").await?;
        legacy.start().await?;
        let port = cluster.ports.take()?;
        let standby = Standby::create(&legacy, port).await?;
        // So no acknowledged row dies with the legacy server, which would be its own loss and not the migration's.
        legacy.run("alter system set synchronous_standby_names = 'beside'").await?;
        legacy.run("select pg_reload_conf()").await?;
        let application = legacy.application(&[standby.target.clone(), cluster.proxy()], 1).await?;
        writes_are_back(&application, Instant::now()).await?;
        let since = Instant::now();

        cluster.start_services()?;
        let source = legacy.source().replace("host=127.0.0.1", "host=127.0.0.1,127.0.0.1");
        let both = format!("port={},{port}", legacy.server.port);
        let source = source.replace(&format!("port={}", legacy.server.port), &both);
        let mut spec = short_timings();
        spec.as_object_mut().context("no object")?.remove("initMode");
        let (spec, program) = (spec.to_string(), cluster.layout.pg_bin.join("pg_basebackup"));
        let program = program.display().to_string();
        let start = ["start", "--yes", "--source", &source, "--pg-basebackup", &program, &spec];
        cluster.migrate(&start, PATIENCE).await?;

        // It has closed the legacy server, and waits for a transaction there.
        let busy = legacy.server.target().connect(QUERY).await?;
        busy.rows("begin; insert into acknowledged_writes values (-1)", QUERY).await?;
        let mut command = cluster.layout.stolonctl();
        command.args(["migrate", "switch", "--grace", "4s"]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut switch = command.stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(switch.stderr.take().context("no stderr")?).lines();
        let mut said = String::new();
        while !said.contains("lets nobody in") {
            let line =
                tokio::time::timeout(PATIENCE, lines.next_line()).await.context("it says nothing")??;
            said += &line.with_context(|| format!("it ended: {said}"))?;
        }
        legacy.kill().await?;
        standby.control(&legacy, &["promote", "-w"]).await?;
        let status = tokio::time::timeout(PATIENCE, switch.wait()).await.context("it does not end")??;
        while let Some(line) = lines.next_line().await? {
            said += &line;
        }
        eprintln!("the switch said {said}");
        ensure!(!status.success(), "it has switched: {said}");
        follows(cluster).await?;
        writes_are_back(&application, Instant::now()).await?;

        let given_up = cluster.migrate(&["abort"], PATIENCE).await?;
        eprintln!("abort said {given_up}");
        writes_are_back(&application, Instant::now()).await?;
        follows(cluster).await?;
        wait_for("the record to go", PATIENCE, async || {
            Ok(cluster.data().await?.cluster.status.migration.is_none().then_some(()))
        })
        .await?;
        nothing_is_lost(&application.stop().await, &standby.target, since).await?;
        standby.control(&legacy, &["stop", "-m", "immediate"]).await
    });
}
