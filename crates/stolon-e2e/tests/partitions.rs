//! The host of a primary is cut off, in every direction, or stands still: who takes writes when, and what becomes of them
//! (docs/design/012-lease.md).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use stolon_testkit::local::Target;
use stolon_testkit::{
    Cluster, PATIENCE, Plan, QUERY, Silence, SlowRoad, StoreKind, on_prepared, signal_all, wait_for,
};

/// Three quarters of the `failInterval` of these tests.
const LEASE: Duration = Duration::from_millis(3_750);
/// What the primary had acknowledged so long before a cut its standby has received.
const LAG: Duration = Duration::from_secs(1);
/// Between two writes of one prober.
const PACE: Duration = Duration::from_millis(20);
/// A server that has not acknowledged a write within this is asked again.
const ANSWER: Duration = Duration::from_secs(2);

/// How the others reach a keeper's host, and how it reaches the store.
struct Roads {
    store: SlowRoad,
    server: SlowRoad,
}

/// Rows that one door has acknowledged, and when.
type Accepted = Arc<Mutex<Vec<(u64, Instant)>>>;

/// Somebody who writes through one door all the time.
struct Prober {
    name: String,
    accepted: Accepted,
    task: tokio::task::JoinHandle<()>,
}

impl Prober {
    fn start(name: String, door: Target) -> Prober {
        let accepted = Accepted::default();
        let task = tokio::spawn(probe(name.clone(), door, accepted.clone()));
        Prober { name, accepted, task }
    }

    fn accepted(&self) -> Vec<(u64, Instant)> {
        self.accepted.lock().expect("a prober").clone()
    }

    fn first_after(&self, moment: Instant) -> Option<Instant> {
        self.accepted().into_iter().map(|(_, at)| at).find(|at| *at > moment)
    }

    fn last(&self) -> Option<Instant> {
        self.accepted().last().map(|(_, at)| *at)
    }

    /// When the rows were acknowledged that are not there.
    async fn lost(&self, there: &Target) -> anyhow::Result<Vec<Instant>> {
        // Before it is looked for, since the prober goes on.
        let accepted = self.accepted();
        let session = there.connect(QUERY).await?;
        let rows =
            session.rows(&format!("select row from probes where door = '{}'", self.name), QUERY).await?;
        let present: std::collections::BTreeSet<u64> =
            rows.iter().filter_map(|row| row.get(0)?.parse().ok()).collect();
        Ok(accepted.into_iter().filter(|(row, _)| !present.contains(row)).map(|(_, at)| at).collect())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn probe(name: String, door: Target, accepted: Accepted) {
    let mut row = 0;
    loop {
        tokio::time::sleep(PACE).await;
        let Ok(session) = door.connect(ANSWER).await else { continue };
        loop {
            row += 1;
            let write = format!("insert into probes values ('{name}', {row})");
            if session.rows(&write, ANSWER).await.is_err() {
                break;
            }
            accepted.lock().expect("a prober").push((row, Instant::now()));
            tokio::time::sleep(PACE).await;
        }
    }
}

/// What a cut has shown.
struct Seen {
    old: usize,
    cut: Instant,
    probers: Vec<Prober>,
}

impl Seen {
    /// Of the server of a keeper.
    fn server(&self, keeper: usize) -> &Prober {
        &self.probers[keeper - 1]
    }

    fn proxy(&self) -> anyhow::Result<&Prober> {
        self.probers.last().context("nobody writes through the proxy")
    }

    /// For how long both servers took writes; none: one after the other.
    fn overlap(&self) -> Option<Duration> {
        let promoted = self.server(3 - self.old).first_after(self.cut)?;
        self.server(self.old).last()?.checked_duration_since(promoted)
    }
}

/// Ordinary clients at every door: the superuser is let in always.
async fn watch(cluster: &Cluster) -> anyhow::Result<Seen> {
    let old = cluster.primary().await?;
    cluster.wait_streaming(1, PATIENCE).await?;
    let session = cluster.instance(old).connect(QUERY).await?;
    session
        .rows(
            "drop table if exists probes; create table probes (door text, row bigint); \
             do $$ begin create role app login password 'of the app'; exception when duplicate_object then null; end $$; \
             grant all on probes to app",
            QUERY,
        )
        .await?;
    let as_app = |door: Target| Target { user: "app".to_owned(), password: "of the app".to_owned(), ..door };
    let servers =
        [1, 2].map(|keeper| Prober::start(format!("server{keeper}"), as_app(cluster.instance(keeper))));
    let mut probers = Vec::from(servers);
    probers.push(Prober::start("proxy".to_owned(), as_app(cluster.proxy())));
    let seen = Seen { old, cut: Instant::now(), probers };
    for prober in [seen.server(old), seen.proxy()?] {
        wait_for("rows", PATIENCE, async || Ok((prober.accepted().len() > 50).then_some(()))).await?;
    }
    Ok(seen)
}

async fn prepared(cluster: &mut Cluster) -> anyhow::Result<Vec<Roads>> {
    let store = cluster.layout.store_endpoints.rsplit(':').next().unwrap_or_default().parse()?;
    let mut roads = Vec::new();
    for number in [1, 2] {
        let host = Roads {
            store: SlowRoad::to(store, Duration::ZERO).await?,
            server: SlowRoad::to(cluster.instance(number).port, Duration::ZERO).await?,
        };
        let keeper = format!("keeper{number}");
        cluster.add_flag(&keeper, "--store-endpoints", &host.store.endpoint())?;
        cluster.add_flag(&keeper, "--pg-advertise-address", "127.0.0.1")?;
        cluster.add_flag(&keeper, "--pg-advertise-port", &host.server.port().to_string())?;
        roads.push(host);
    }
    cluster.start_answering(2).await?;
    Ok(roads)
}

/// Nobody writes on the old primary and the new one for longer than the lease, and what was acknowledged before the cut is there.
async fn one_primary_after_the_other(cluster: &Cluster, seen: &Seen) -> anyhow::Result<Vec<Instant>> {
    let new = 3 - seen.old;
    wait_for("writes on the new primary", PATIENCE, async || Ok(seen.server(new).first_after(seen.cut)))
        .await?;
    let through = Instant::now();
    wait_for("writes through the proxy", PATIENCE, async || Ok(seen.proxy()?.first_after(through))).await?;
    let overlap = seen.overlap().unwrap_or_default();
    let mut lost = Vec::new();
    for prober in &seen.probers {
        let missing = prober.lost(&cluster.instance(new)).await?;
        println!(
            "{}: {} rows, {} lost; two primaries for {overlap:?}",
            prober.name,
            prober.accepted().len(),
            missing.len()
        );
        lost.extend(missing);
    }
    ensure!(overlap <= LEASE, "two servers took writes for {overlap:?}");
    let before = lost.iter().filter(|at| **at + LAG < seen.cut).count();
    ensure!(before == 0, "{before} rows are lost that were acknowledged before the cut");
    let proxied = seen.proxy()?.lost(&cluster.instance(new)).await?;
    ensure!(proxied.iter().all(|at| *at < seen.cut), "lost of the proxy's: {proxied:?}");
    Ok(lost)
}

/// How the host of a primary is cut off.
#[derive(Clone, Copy, Debug)]
struct Cut {
    store: Silence,
    server: Silence,
}

/// The primary is cut off, replaced, and back: returns the rows that were lost.
async fn replaced(cluster: &Cluster, roads: &[Roads], cut: Cut) -> anyhow::Result<Vec<Instant>> {
    let mut seen = watch(cluster).await?;
    let host = &roads[seen.old - 1];
    seen.cut = Instant::now();
    host.store.fall_silent(cut.store);
    host.server.fall_silent(cut.server);
    let lost = one_primary_after_the_other(cluster, &seen).await.with_context(|| format!("{cut:?}"))?;
    let took = seen.server(3 - seen.old).first_after(seen.cut).map(|at| at - seen.cut);
    println!("{cut:?}: writes on the new primary after {took:?}");
    host.store.fall_silent(Silence::Nowhere);
    host.server.fall_silent(Silence::Nowhere);
    cluster.wait_streaming(1, PATIENCE).await?;
    Ok(lost)
}

#[test]
fn a_primary_whose_host_is_cut_off_in_any_direction_has_no_clients_beside_its_successor() {
    use Silence::{BothWays, Nowhere, ToClient, ToServer};
    on_prepared(Plan::new(2).store(StoreKind::Etcd), async |cluster| {
        let roads = prepared(cluster).await?;
        // From the store alone: its standby receives everything until it is shut.
        for store in [BothWays, ToServer, ToClient] {
            let lost = replaced(cluster, &roads, Cut { store, server: Nowhere }).await?;
            ensure!(lost.is_empty(), "{} rows are lost, cut from the store {store:?}", lost.len());
        }
        // The host has vanished: nobody is refused.
        replaced(cluster, &roads, Cut { store: BothWays, server: BothWays }).await?;
        Ok(())
    });
}

/// Who is cut off from its standby and the proxies alone stays the primary: its keeper says that it works.
#[test]
fn a_primary_that_only_its_standby_and_the_proxies_do_not_reach_stays() {
    on_prepared(Plan::new(2).store(StoreKind::Etcd), async |cluster| {
        let roads = prepared(cluster).await?;
        let seen = watch(cluster).await?;
        let cut = Instant::now();
        roads[seen.old - 1].server.fall_silent(Silence::BothWays);
        // Several times `failInterval`.
        wait_for("time to pass", PATIENCE, async || Ok((cut.elapsed() > 4 * LEASE).then_some(()))).await?;
        let on = Instant::now();
        wait_for("writes", PATIENCE, async || Ok(seen.server(seen.old).first_after(on))).await?;
        ensure!(cluster.primary().await? == seen.old, "the primary was replaced");
        roads[seen.old - 1].server.fall_silent(Silence::Nowhere);
        cluster.wait_streaming(1, PATIENCE).await?;
        for prober in &seen.probers {
            let lost = prober.lost(&cluster.instance(seen.old)).await?;
            ensure!(lost.is_empty(), "{}: {} rows are lost", prober.name, lost.len());
        }
        Ok(())
    });
}

/// With everything on it. When it goes on its keeper shuts before it does anything else.
#[test]
fn a_host_that_stood_still_while_it_was_replaced_takes_no_writes_when_it_goes_on() {
    on_prepared(Plan::new(2).store(StoreKind::Etcd), async |cluster| {
        // Dropped at the end: without its roads nobody reaches anything.
        let _roads = prepared(cluster).await?;
        let mut seen = watch(cluster).await?;
        let mut frozen = stolon_testkit::local::tree(cluster.postmaster(seen.old)?);
        frozen.push(cluster.process(&format!("keeper{}", seen.old))?.pid());
        seen.cut = Instant::now();
        signal_all(&frozen, Signal::STOP)?;
        let new = 3 - seen.old;
        wait_for("writes on the new primary", PATIENCE, async || Ok(seen.server(new).first_after(seen.cut)))
            .await?;
        let thawed = Instant::now();
        signal_all(&frozen, Signal::CONT)?;
        let old = cluster.instance(seen.old);
        wait_for("the old primary as a standby", PATIENCE, async || {
            let session = old.connect(QUERY).await?;
            Ok((session.value("select pg_is_in_recovery()", QUERY).await? == "t").then_some(()))
        })
        .await?;
        let late = seen.server(seen.old).last().and_then(|last| last.checked_duration_since(thawed));
        println!("the old primary acknowledged until {late:?} after it went on");
        ensure!(late.unwrap_or_default() <= LEASE, "it took writes for {late:?}");
        // A session of a prober may have had its answer on the way; nothing of before is lost.
        one_primary_after_the_other(cluster, &seen).await.map(drop)
    });
}
