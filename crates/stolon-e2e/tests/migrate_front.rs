//! The application moves first: it writes through the proxies from before the migration to after it, and what it sees of a switch, and of a way
//! back, is a pause.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use stolon_testkit::local::Target;
use stolon_testkit::local::writes::{Ledger, Writes, Writing};
use stolon_testkit::{
    Cluster, Foreign, PATIENCE, Plan, QUERY, nothing_is_lost, on_prepared, wait_for, writes_are_back,
};
use tokio::task::JoinHandle;

async fn migrate(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    cluster.migrate(arguments, PATIENCE).await
}

/// An application that knows no address but that of the first proxy.
async fn through_the_proxy(cluster: &Cluster, before: Ledger) -> anyhow::Result<Writing> {
    let (pause, limit) = (Duration::from_millis(2), Duration::from_secs(20));
    Writes { doors: vec![cluster.proxy()], clients: 4, pause, limit }.go_on(before).await
}

/// It writes, and what it has written since is of no earlier time.
async fn goes_on(application: &Writing) -> anyhow::Result<()> {
    writes_are_back(application, Instant::now()).await
}

fn pause(application: &Writing, since: Instant, what: &str) {
    let longest = application.ledger().longest_pause(since);
    eprintln!("{what}: the application through the proxy saw a pause of {:.2} s", longest.as_secs_f64());
}

/// A client of each proxy that takes a transaction number again and again, and notes when which server gave it one.
struct Watchers {
    seen: Receiver<(Instant, String)>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watchers {
    fn start(proxies: Vec<Target>) -> Watchers {
        let (sender, seen) = channel();
        let watch = |proxy: Target| {
            let sender = sender.clone();
            tokio::spawn(async move {
                loop {
                    if let Ok(session) = proxy.connect(Duration::from_secs(1)).await {
                        // In a standby it fails.
                        let sql = "select inet_server_port() || ' ' || txid_current()";
                        while let Ok(port) = session.value(sql, QUERY).await {
                            let port = port.split(' ').next().unwrap_or_default().to_owned();
                            let _ = sender.send((Instant::now(), port));
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        let tasks = proxies.into_iter().map(watch).collect();
        Watchers { seen, tasks }
    }

    /// The servers that took writes, one after the other.
    fn stop(self) -> Vec<String> {
        self.tasks.iter().for_each(JoinHandle::abort);
        let mut seen: Vec<(Instant, String)> = self.seen.try_iter().collect();
        seen.sort();
        let mut ports: Vec<String> = seen.into_iter().map(|(_, port)| port).collect();
        ports.dedup();
        ports
    }
}

#[test]
fn an_application_moves_first_and_notices_nothing_but_a_pause() {
    let plan = Plan { proxies: 2, ..Plan::new(2).uninitialised() };
    on_prepared(plan, async |cluster| {
        let mut legacy = Foreign::create(cluster, "legacy", "").await?;
        legacy.start().await?;
        let at_legacy = legacy.application(&[], 1).await?;
        cluster.start_services()?;
        cluster.migrate_start(&legacy, &[], PATIENCE).await?;
        let status = migrate(cluster, &["status"]).await?;
        let clients = status["clients"].as_str().unwrap_or_default();
        ensure!(clients.contains("to the legacy server at 127.0.0.1"), "status says {status:#}");

        // The quiet day: the application is given the proxies' address.
        let before = at_legacy.stop().await;
        let application = through_the_proxy(cluster, before).await?;
        let watchers = Watchers::start(cluster.proxies());
        goes_on(&application).await?;
        let since = Instant::now();
        ensure!(legacy.server.target().connect(QUERY).await.is_ok(), "the legacy server is closed");

        let refused = cluster.stolonctl(&["promote", "--yes"], "").await?;
        ensure!(!refused.status.success(), "promoted while the legacy server is open");
        let switched = migrate(cluster, &["switch"]).await?;
        goes_on(&application).await?;
        pause(&application, since, "switch");
        eprintln!("stolonctl measured {}", switched["figures"]);
        let first = cluster.instance(cluster.primary().await?).port;

        let since = Instant::now();
        wait_for("the legacy server to take what the cluster writes", PATIENCE, async || {
            let status = migrate(cluster, &["status"]).await?;
            Ok(status["way_back_lag_bytes"].as_u64().filter(|lag| *lag < 1 << 20))
        })
        .await?;
        let back = migrate(cluster, &["rollback"]).await?;
        goes_on(&application).await?;
        pause(&application, since, "rollback");
        eprintln!("stolonctl measured {}", back["figures"]);

        // Begun anew: clients stay where they are.
        let since = Instant::now();
        cluster.migrate_start(&legacy, &[], PATIENCE).await?;
        goes_on(&application).await?;
        pause(&application, since, "start, once more");
        let since = Instant::now();
        migrate(cluster, &["switch"]).await?;
        goes_on(&application).await?;
        pause(&application, since, "switch, once more");
        migrate(cluster, &["finish"]).await?;
        goes_on(&application).await?;

        let second = cluster.instance(cluster.primary().await?).port;
        let old = legacy.server.port;
        let expected = [old, first, old, second].map(|port| port.to_string());
        let served = watchers.stop();
        ensure!(served == expected, "writes went to {served:?}, and not to {expected:?}");
        let ledger = application.stop().await;
        nothing_is_lost(&ledger, &cluster.proxy(), since).await
    });
}

/// A switch that is taken back, an operator who gives up, a record that is lost, and a proxy that hangs.
#[test]
fn clients_return_to_the_legacy_server_and_leave_it_with_the_migration() {
    let plan = Plan { proxies: 2, ..Plan::new(1).uninitialised() };
    on_prepared(plan, async |cluster| {
        let mut legacy = Foreign::create(cluster, "legacy", "").await?;
        legacy.start().await?;
        legacy.run("create table acknowledged_writes (id bigint not null)").await?;
        cluster.start_services()?;
        cluster.migrate_start(&legacy, &[], PATIENCE).await?;
        let application = through_the_proxy(cluster, Ledger::default()).await?;
        let watchers = Watchers::start(cluster.proxies());
        goes_on(&application).await?;
        let since = Instant::now();

        // A proxy that stands still says nothing: the switch waits for the end of its time, or is taken back.
        cluster.process("proxy2")?.signal(Signal::STOP);
        let short = ["migrate", "switch", "--max-downtime", "5s", "--grace", "500ms"];
        let switched = cluster.stolonctl(&short, "").await?;
        let said = String::from_utf8_lossy(&switched.stderr).into_owned();
        ensure!(
            !switched.status.success() && said.contains("a proxy may still be forwarding"),
            "it says {said}"
        );
        ensure!(said.contains("taken back"), "it says {said}");
        goes_on(&application).await?;
        pause(&application, since, "a switch that is taken back");
        cluster.process("proxy2")?.signal(Signal::CONT);

        let given_up = migrate(cluster, &["abort"]).await?;
        ensure!(given_up["did"].to_string().contains("proxies do not"), "it says {given_up}");
        wait_for("the proxy to leave the legacy server", PATIENCE, async || {
            let data = cluster.data().await?;
            Ok(data.proxy.spec.legacy.is_none().then_some(()))
        })
        .await?;
        ensure!(legacy.server.target().connect(QUERY).await.is_ok(), "the legacy server is closed");
        let served = watchers.stop();
        ensure!(served == [legacy.server.port.to_string()], "writes went to {served:?}");
        let ledger = application.stop().await;
        nothing_is_lost(&ledger, &legacy.server.target(), since).await?;

        // The record is lost together with what the proxies were told.
        cluster.migrate_start(&legacy, &["--proxies", "legacy"], PATIENCE).await?;
        wait_for("a proxy at the legacy server", PATIENCE, async || {
            let session = cluster.proxy().connect(QUERY).await?;
            let port = session.value("select inet_server_port()", QUERY).await?;
            Ok((port == legacy.server.port.to_string()).then_some(()))
        })
        .await?;
        let mut document = cluster.store.cluster_document().await?.context("no cluster data")?.value;
        document.cluster.as_mut().context("no cluster")?.status.migration = None;
        cluster.store.put_cluster_document(&document).await?;
        wait_for("the proxies to leave the legacy server", PATIENCE, async || {
            let data = cluster.data().await?;
            Ok(data.proxy.spec.legacy.is_none().then_some(()))
        })
        .await
    });
}
