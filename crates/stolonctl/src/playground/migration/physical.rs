//! The way by `stolonctl migrate`: clients write from the first second, to the legacy server, and through the proxy alone from the moment that
//! it sends them there. There and back, there again, and then the primary is lost.

use std::time::Instant;

use stolon_local::Target;
use stolon_local::writes::Writing;

use super::checks::{Checks, Fingerprint};
use super::legacy::Legacy;
use super::steps::{self, Steps};
use super::{
    Args, LIMIT, QUERY, WITHOUT_WRITES, WRITING, check_settings, clients, failover, legacy, start_legacy,
    start_programs, timings_and_parameters, until_acknowledged, until_streaming, within,
};
use crate::playground::live::Playground;

/// Without a key, so that a row that came twice would be there twice.
const WRITTEN: &str = "create table acknowledged_writes (id bigint not null)";

/// What the application does on the cluster before it goes back: each of its kinds has to arrive.
const BUSINESS: &str = "\
insert into orders (placed, customer, amount) values (now(), 'of the cluster', 1), (now(), 'gone again', 2);
update orders set note = 'changed by the cluster' where id % 100 = 0;
delete from orders where customer = 'gone again';
";

/// A migration with clients that write.
struct Journey<'a> {
    playground: &'a mut Playground,
    legacy: &'a Legacy,
    source: String,
    writing: Writing,
    args: &'a Args,
    checks: &'a mut Checks,
    steps: Steps,
}

/// Move in, back, and in again; lose the primary.
///
/// # Errors
/// A step could not be done at all.
pub async fn migrate(
    playground: &mut Playground,
    args: &Args,
    checks: &mut Checks,
    running: &mut Option<Legacy>,
) -> anyhow::Result<()> {
    let mut steps = Steps::new(&playground.layout.logs());
    let (legacy, first) = start_legacy(playground, args, &mut steps, running).await?;
    let source = legacy.source(&playground.layout)?;

    steps.begin("clients write, from now on until the end");
    let server = legacy.server.target();
    server.connect(QUERY).await?.rows(WRITTEN, QUERY).await?;
    let writes = clients(vec![server]);
    let how_many = writes.clients;
    let writing = writes.start().await?;
    until_acknowledged(&writing, Instant::now()).await?;
    steps.end(&format!("{how_many} clients know the address of the legacy server"));

    start_programs(playground, &mut steps).await?;
    let mut journey = Journey { playground, legacy, source, writing, args, checks, steps };
    journey.check().await?;
    journey.copy_and_follow("the first switch").await?;
    let mut journey = journey.move_clients().await?;
    journey.there(&first, "the first switch").await?;
    let changed = journey.write_on_the_cluster().await?;
    journey.verify("on the way back").await?;
    journey.back(&changed).await?;
    journey.copy_and_follow("the second switch").await?;
    journey.there(&changed, "the second switch").await?;
    check_settings(&journey.in_cluster(), args, journey.checks).await?;
    journey.verify("after the second switch").await?;
    journey.finish().await?;

    let Journey { playground, writing, checks, mut steps, .. } = journey;
    failover::make_synchronous(playground, &mut steps).await?;
    let old = failover::lose_primary(playground, writing, checks, &mut steps).await?;
    failover::compare_once_more(playground, &changed, old, checks, &mut steps).await
}

impl Journey<'_> {
    /// The clients get the proxy's address, which is that of the legacy server for now, and no other one.
    async fn move_clients(self) -> anyhow::Result<Self> {
        let Journey { playground, legacy, source, writing, args, checks, mut steps } = self;
        steps.begin("the clients move to the proxy, which sends them to the legacy server");
        let proxy = playground.proxy_target();
        let reached = within(LIMIT, "the proxy to send clients to the legacy server", until_reached(&proxy));
        reached.await?;
        let writing = clients(vec![proxy]).go_on(writing.stop().await).await?;
        until_acknowledged(&writing, Instant::now()).await?;
        steps.end("they know no other address from now on");
        Ok(Journey { playground, legacy, source, writing, args, checks, steps })
    }

    /// The application's database in the cluster.
    fn in_cluster(&self) -> Target {
        self.playground.proxy_target().database(legacy::DATABASE)
    }

    /// Nothing stands in the way of it.
    async fn check(&mut self) -> anyhow::Result<()> {
        self.steps.begin("stolonctl migrate check --source '…'");
        let arguments = ["migrate", "check", "--source", &self.source];
        let status = steps::stolonctl_ends(&self.playground.layout, &arguments).await?;
        let found = match status.code() {
            Some(0) => "nothing is in the way",
            Some(1) => "nothing is in the way, with warnings",
            _ => "something is in the way: see above",
        };
        self.steps.end(found);
        self.checks.note("migrate check", found, matches!(status.code(), Some(0 | 1)));
        Ok(())
    }

    /// Compare, switch, compare.
    async fn there(&mut self, before: &Fingerprint, which: &str) -> anyhow::Result<()> {
        self.verify(&format!("before {which}")).await?;
        self.switch("switch", which).await?;
        self.steps.begin("comparing row counts and checksums through the proxy");
        let found = Fingerprint::take(&self.in_cluster()).await?;
        before.compare_briefly(&found, &format!("after {which}"), self.checks);
        self.steps.end("done");
        Ok(())
    }

    async fn copy_and_follow(&mut self, which: &str) -> anyhow::Result<()> {
        let spec = timings_and_parameters(self.args).to_string();
        let program = self.playground.layout.pg_bin.join("pg_basebackup").display().to_string();
        let source = self.source.clone();
        self.step(&["start", "--yes", "--source", &source, "--pg-basebackup", &program, &spec]).await?;
        let standbys = usize::from(self.playground.args.keepers) - 1;
        self.steps.begin("second keeper, before anything is switched");
        // The proxy leads to the legacy server.
        let (_, head) = failover::primary(self.playground).await?;
        let target = self.playground.keeper_target(head)?;
        let streaming = within(LIMIT, "the standbys to stream", until_streaming(&target, standbys)).await;
        self.checks.await_end(
            &format!("second keeper before {which}"),
            "follows the first one",
            streaming,
        )?;
        self.steps.end(&format!("{standbys} streaming"));
        Ok(())
    }

    /// A switch in either direction, and the pause that the writers saw.
    async fn switch(&mut self, command: &str, which: &str) -> anyhow::Result<()> {
        let asked = Instant::now();
        self.step(&[command]).await?;
        let writes = until_acknowledged(&self.writing, Instant::now()).await;
        self.checks.if_late(which, writes)?;
        let gap = self.writing.ledger().longest_pause(asked);
        let found = format!("the writers saw a pause of {:.1} s", gap.as_secs_f64());
        self.steps.say(&found);
        self.checks.note(which, &found, gap <= WITHOUT_WRITES);
        Ok(())
    }

    /// The application works on the cluster for a while; returns what it holds then.
    async fn write_on_the_cluster(&mut self) -> anyhow::Result<Fingerprint> {
        self.steps.begin("the application inserts, updates and deletes in the cluster");
        let application = self.in_cluster();
        application.connect(QUERY).await?.rows(BUSINESS, QUERY).await?;
        tokio::time::sleep(WRITING).await;
        let changed = Fingerprint::take(&application).await?;
        self.steps.end(&changed.summary());
        Ok(changed)
    }

    /// The legacy server takes over again, with what the cluster wrote.
    async fn back(&mut self, changed: &Fingerprint) -> anyhow::Result<()> {
        self.switch("rollback", "the rollback").await?;
        self.steps.begin("comparing row counts and checksums on the legacy server");
        let found = Fingerprint::take(&self.legacy.application()).await?;
        changed.compare_briefly(&found, "after the rollback", self.checks);
        self.steps.end("done");
        Ok(())
    }

    async fn verify(&mut self, when: &str) -> anyhow::Result<()> {
        self.steps.begin("stolonctl migrate verify");
        let status = steps::stolonctl_ends(&self.playground.layout, &["migrate", "verify"]).await?;
        self.steps.end(if status.success() { "everything holds" } else { "not everything holds" });
        let found = match status.success() {
            true => "both sides have the same, while clients write",
            false => "not everything holds: see above",
        };
        self.checks.note(&format!("migrate verify {when}"), found, status.success());
        Ok(())
    }

    /// What was made on the legacy server goes, and it stays closed.
    async fn finish(&mut self) -> anyhow::Result<()> {
        self.step(&["finish"]).await?;
        let closed = self.legacy.server.target().connect(QUERY).await.is_err();
        let found = if closed { "lets nobody in, not even its superuser" } else { "lets its superuser in" };
        self.checks.note("legacy server", found, closed);
        Ok(())
    }

    /// A step of `stolonctl migrate`, as it is typed.
    async fn step(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let shown: Vec<String> = arguments.iter().map(|word| shell_word(word)).collect();
        self.steps.begin(&format!("stolonctl migrate {}", shown.join(" ")));
        let mut all = vec!["migrate"];
        all.extend(arguments);
        steps::stolonctl(&self.playground.layout, &all).await?;
        self.steps.end("done");
        Ok(())
    }
}

/// Wait until it lets a client in.
async fn until_reached(target: &Target) {
    while target.connect(QUERY).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A word as a shell would have to be given it.
fn shell_word(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}
