//! `stolonctl migrate switch`: the legacy server is closed, and the cluster takes over; or everything is taken back.

mod look;

use std::time::Duration;

use stolon_model::{
    ClusterDocument, Lsn, Migration, MigrationStage, MigrationWorker, Role, Timeline, Timestamp,
};
use stolon_postgres::foreign::ForeignSession;
use stolon_runtime::{CommonArgs, Failure, Shutdown, UsageError, explained, go_duration};
use tokio::time::Instant;

use super::downtime::{Downtime, Part};
use super::facts::Facts;
use super::fence::Side;
use super::follower::Follower;
use super::head::{Head, until_promoted, until_writable};
use super::legacy::{Legacy, SourceArgs, trouble};
use super::underway::Underway;
use super::way_back::{WayBack, Wish, remove_from_legacy};
use super::worker::{Worker, stands_still};
use super::{Outcome, OutputArgs, closing, fence, front, logical, record};
use crate::output::{self, Format};
use crate::stored_cluster::{Edit, StoredCluster};
use look::Look;

/// What a promotion may take: so much of the allowed downtime is left for it.
const PROMOTION: Duration = Duration::from_secs(3);
/// How long to wait until the cluster is near enough, before anything is closed.
const APPROACH: Duration = Duration::from_secs(30);
/// How long the legacy server may take to open again.
const REOPENING: Duration = Duration::from_secs(30);
/// How long the cluster may take to be writable after it was told to.
const OPENING: Duration = Duration::from_secs(60);

/// Flags of `migrate switch`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Only say what would happen, or what is in the way
    #[arg(long)]
    dry_run: bool,

    /// For how long nobody may be able to write; what would take longer is taken back
    #[arg(long, default_value = "10s", value_name = "SPAN", value_parser = go_duration)]
    max_downtime: Duration,

    /// How long transactions that run may go on before they are ended; part of the downtime
    #[arg(long, default_value = "1s", value_name = "SPAN", value_parser = go_duration)]
    grace: Duration,

    /// Do without the way back: what the cluster writes does not go to the legacy server
    #[arg(long)]
    no_way_back: bool,

    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    fn wish(&self, migration: &Migration) -> Wish {
        match self.no_way_back || migration.rehearsal {
            true => Wish::NoWayBack,
            false => Wish::WayBack,
        }
    }
}

/// What a switch works with.
struct Switch<'a> {
    cluster: &'a StoredCluster,
    legacy: &'a Legacy,
    migration: &'a Migration,
    args: &'a Args,
}

/// Have the cluster take over, or go on with that.
///
/// # Errors
/// Something is in the way, or it did not come about: then the legacy server is open as before, unless the message says otherwise.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    let format = args.output.format()?;
    if args.max_downtime <= PROMOTION || args.grace >= args.max_downtime - PROMOTION {
        return Err(UsageError::new("--max-downtime leaves no time for the switch")
            .hint(format!("the grace and {} s for the promotion must fit into it", PROMOTION.as_secs()))
            .into());
    }
    let Underway { cluster, document, migration, legacy, stop } =
        Underway::open(common, &args.source, shutdown).await?;
    let switch = Switch { cluster: &cluster, legacy: &legacy, migration: &migration, args };
    match &migration.stage {
        Some(MigrationStage::Following | MigrationStage::Switching) => {}
        Some(MigrationStage::Promoting) => return switch.wait_along(format).await,
        Some(MigrationStage::Switched) if migration.opened.is_none() => {
            return switch.wait_along(format).await;
        }
        Some(MigrationStage::RollingBack | MigrationStage::RolledBack) => {
            return Err(Failure::new("this migration is being rolled back, or was")
                .hint("stolonctl migrate status shows what is next")
                .into());
        }
        Some(MigrationStage::Switched | MigrationStage::Finishing) => {
            return Err(Failure::new("the cluster has taken over already")
                .hint("stolonctl migrate finish removes what was made on the legacy server")
                .into());
        }
        Some(MigrationStage::TakingBack) => {
            return Err(Failure::new("an earlier switch is not taken back yet")
                .hint("stolonctl migrate rollback goes on with that")
                .into());
        }
        Some(MigrationStage::Aborting) => {
            return Err(Failure::new("this migration is being given up")
                .hint("stolonctl migrate abort goes on with it")
                .into());
        }
        Some(MigrationStage::Unknown(_)) | None => {
            return Err(Failure::new("the migration has not begun to follow")
                .hint("stolonctl migrate start goes on with it")
                .into());
        }
    }
    // One who is at work would end the session that looks.
    let before = stands_still(&cluster).await?;
    let look = Look::take(&cluster, &document, &legacy, &migration, args.wish(&migration)).await?;
    if args.dry_run {
        return look.show(args.max_downtime, format);
    }
    look.in_the_way()?;
    switch.carry_out(&look.head, before.as_ref(), &stop, format).await
}

/// When the legacy server was closed, and where it ended.
struct Closed {
    downtime: Downtime,
    time: Timestamp,
    end: Lsn,
    facts: Facts,
}

/// Whether what the cluster writes is kept for the legacy server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prepared {
    /// The legacy server is left behind.
    Not,
    /// An earlier command has seen to it.
    Before,
    /// From now on, as long as the cluster stays on this timeline.
    On(Timeline),
}

impl Switch<'_> {
    async fn carry_out(
        &self,
        head: &Head,
        before: Option<&MigrationWorker>,
        stop: &tokio_util::sync::CancellationToken,
        format: Format,
    ) -> anyhow::Result<()> {
        let worker = Worker::claim_from(self.cluster, "migrate switch", before, |document| {
            to_switch(document).map(drop)
        })
        .await?;
        let attempt = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Failure::new("interrupted").into()),
            attempt = self.close_and_promote(&worker, head) => attempt,
        };
        let began = match attempt {
            Ok(closed) => Some(closed.downtime),
            Err(error) => {
                // What was interrupted must not interrupt the way back.
                let legacy = self.legacy.uninterrupted();
                take_back(&worker, &legacy, error).await?;
                None
            }
        };
        self.complete(&worker, began, format).await
    }

    /// Up to the point of no return.
    async fn close_and_promote(&self, worker: &Worker, head: &Head) -> anyhow::Result<Closed> {
        let (legacy, args) = (self.legacy, self.args);
        let session = worker.session(legacy).await?;
        let place = session.place().clone();
        let follower = Follower::of(self.migration, legacy, head, &place).await?;
        let near = fence::end_of_wal(&session, legacy).await?;
        follower.until_has(&session, near, Instant::now() + APPROACH).await?;
        let (mut downtime, time) = (Downtime::begin(), Timestamp::utc(jiff::Timestamp::now()));
        let deadline = downtime.began + args.max_downtime - PROMOTION;
        worker.change(|document| begin_to_close(document, args)).await?;
        output::note(&format!("keeper {} is up to date", head.keeper));
        let end = match self.migration.rehearsal {
            true => fence::end_of_wal(&session, legacy).await?,
            false => self.close(&session, &follower, deadline, &mut downtime).await?,
        };
        follower.until_has(&session, end, deadline).await?;
        output::note(&format!("keeper {} has applied everything up to {end}", head.keeper));
        let facts = Facts::ask(&session, legacy).await?;
        if facts.timeline != self.migration.timeline {
            return Err(Failure::new("the legacy server has failed over meanwhile").into());
        }
        downtime.mark(Part::Arriving);
        follower.carry_over(&session).await?;
        downtime.mark(Part::Carrying);
        front::until_away(self.cluster, deadline).await?;
        downtime.mark(Part::Proxies);
        let closed = Closed { downtime, time, end, facts };
        // From here on the time could be over before the promotion is.
        if Instant::now() >= deadline {
            return Err(Failure::new("there is not enough time left for the promotion").into());
        }
        let wish = args.wish(self.migration);
        worker.change(|document| no_return(document, head, &closed, wish)).await?;
        output::note("the cluster is being promoted");
        Ok(closed)
    }

    /// Close the legacy server, until nobody is in it who could write.
    async fn close(
        &self,
        session: &ForeignSession,
        follower: &Follower<'_>,
        deadline: Instant,
        downtime: &mut Downtime,
    ) -> anyhow::Result<Lsn> {
        let (legacy, args) = (self.legacy, self.args);
        let patience = Instant::now() + args.grace;
        fence::close(session, legacy, &self.migration.uid, patience, deadline).await?;
        output::note("the legacy server lets nobody in any more");
        fence::end_sessions(session, legacy, Side::Legacy, patience, deadline).await?;
        output::note("all its sessions are ended");
        downtime.mark(Part::Closing);
        loop {
            let end = fence::end_of_wal(session, legacy).await?;
            follower.until_has(session, end, deadline).await?;
            // A session that had begun before the fence, and was not ready when the others were ended.
            let clients = fence::clients(session, legacy, Side::Legacy).await;
            if clients.map_err(|problem| trouble("the legacy server cannot be asked", &problem))?.0 == 0 {
                return Ok(end);
            }
            fence::end_sessions(session, legacy, Side::Legacy, patience, deadline).await?;
        }
    }

    /// The cluster is told to take over: make the way back, let clients in, and say so. Each part may have been done before, by
    /// somebody who died.
    async fn complete(
        &self,
        worker: &Worker,
        mut downtime: Option<Downtime>,
        format: Format,
    ) -> anyhow::Result<()> {
        let (deadline, legacy) = (Instant::now() + OPENING, self.legacy);
        let wants_way_back = self.wants_way_back_still().await?;
        // The legacy server may be away by now.
        let place = legacy.first_place();
        let head = match wants_way_back || self.migration.is_logical() {
            true => Some(until_promoted(self.cluster, legacy, &place, deadline).await?),
            false => None,
        };
        if let Some(head) = head.as_ref().filter(|_| self.migration.is_logical()) {
            logical::stop_taking(legacy, head, &place, &self.migration.uid).await?;
        }
        mark(&mut downtime, Part::TakingOver);
        let made = head.as_ref().filter(|_| wants_way_back);
        let made = made.map(|head| WayBack::of(self.migration, legacy, &place, head));
        let prepared = match &made {
            Some(made) => self.prepare_way_back(made).await,
            None => Prepared::Not,
        };
        mark(&mut downtime, Part::WayBack);
        let mut way_back = prepared != Prepared::Not;
        worker
            .change(|document| {
                // Once clients were let in, rows may be missing on the way back.
                let is_late = record::lets_clients_in(document);
                let migration = record::to_change(document)?;
                if migration.stage == Some(MigrationStage::Promoting) {
                    migration.stage = Some(MigrationStage::Switched);
                    migration.way_back = way_back && !is_late;
                    if let Prepared::On(timeline) = prepared {
                        migration.way_back_timeline = timeline;
                    }
                }
                way_back = migration.way_back;
                Ok(Edit::Write)
            })
            .await?;
        if let Some(made) = made.as_ref().filter(|_| !way_back)
            && let Err(error) = made.remove_from_cluster().await
        {
            output::note(&explained(&error).sentence);
        }
        until_writable(self.cluster, deadline).await?;
        mark(&mut downtime, Part::Opening);
        let now = Timestamp::utc(jiff::Timestamp::now());
        // What goes back must not come again.
        if let Some(head) = head.as_ref().filter(|_| self.migration.is_logical()) {
            logical::stop_following(legacy, head, &place, &self.migration.uid).await?;
        }
        if let Some(made) = made.as_ref().filter(|_| way_back) {
            way_back = subscribe(made).await;
        }
        self.remove_what_filled(head.as_ref()).await;
        worker
            .note(|migration| {
                migration.opened = Some(now);
                migration.way_back = way_back;
                migration.worker = None;
            })
            .await?;
        let wish = if way_back { Wish::WayBack } else { Wish::NoWayBack };
        self.show(downtime, wish, format)
    }

    /// What was made to fill the cluster is of no use any more, and keeps WAL on the legacy server. What stays is removed later.
    async fn remove_what_filled(&self, head: Option<&Head>) {
        if self.migration.is_logical()
            && let Err(error) =
                logical::withdraw(self.legacy, &self.migration.uid, head.map(Head::system_identifier)).await
        {
            output::note(&explained(&error).sentence);
        }
    }

    /// By what the record says now.
    async fn wants_way_back_still(&self) -> anyhow::Result<bool> {
        let document = self.cluster.workable_document().await?.value;
        Ok(record::of(&document).is_some_and(|migration| migration.way_back))
    }

    /// Whether what the cluster writes from now on is kept for the legacy server. A switch does not fail for want of it.
    async fn prepare_way_back(&self, made: &WayBack<'_>) -> Prepared {
        let document = self.cluster.workable_document().await.map(|found| found.value);
        let stage = document.as_ref().ok().and_then(record::of).and_then(|migration| migration.stage.clone());
        if stage == Some(MigrationStage::Switched) {
            return Prepared::Before;
        }
        if document.is_ok_and(|document| record::lets_clients_in(&document)) {
            output::note("there will be no way back: clients were let in before it was made");
            return Prepared::Not;
        }
        match made.prepare().await {
            Ok(timeline) => Prepared::On(timeline),
            Err(error) => {
                output::note(&format!("there will be no way back: {}", explained(&error).sentence));
                Prepared::Not
            }
        }
    }

    /// Another command has passed the point of no return, and may have died.
    async fn wait_along(&self, format: Format) -> anyhow::Result<()> {
        output::note("the cluster was told to take over already: waiting until it does");
        let worker = Worker::claim(self.cluster, "migrate switch", |_| Ok(())).await?;
        self.complete(&worker, None, format).await
    }

    fn show(&self, downtime: Option<Downtime>, made: Wish, format: Format) -> anyhow::Result<()> {
        let undo = match made {
            Wish::WayBack => "stolonctl migrate rollback: the legacy server takes over again",
            Wish::NoWayBack => "there is no way back",
        };
        let mut outcome = Outcome::new("stolonctl migrate finish, when you trust the result", undo);
        match self.migration.rehearsal {
            true => {
                outcome.did("the cluster takes writes; the legacy server stays open, for it was a rehearsal")
            }
            false => outcome.did("the cluster takes writes; the legacy server stays closed"),
        }
        if made == Wish::WayBack {
            outcome.did("what it writes goes back to the legacy server");
        }
        if let Some(downtime) = downtime {
            downtime.tell(&mut outcome);
        }
        outcome.show(format)
    }
}

fn mark(downtime: &mut Option<Downtime>, part: Part) {
    if let Some(downtime) = downtime {
        downtime.mark(part);
    }
}

/// Have the legacy server take what the cluster writes. Where it cannot, nothing of that is left.
async fn subscribe(made: &WayBack<'_>) -> bool {
    let Err(error) = made.subscribe().await else { return true };
    output::note(&format!("there is no way back: {}", explained(&error).sentence));
    for removed in [remove_from_legacy(made.legacy, made.uid).await, made.remove_from_cluster().await] {
        if let Err(error) = removed {
            output::note(&explained(&error).sentence);
        }
    }
    false
}

/// The record, if it can still be switched.
fn to_switch(document: &mut ClusterDocument) -> anyhow::Result<&mut Migration> {
    let migration = record::to_change(document)?;
    match migration.stage {
        Some(MigrationStage::Following | MigrationStage::Switching) => Ok(migration),
        _ => Err(Failure::new("another command has moved the migration on")
            .hint("stolonctl migrate status shows how far it is")
            .into()),
    }
}

/// From this write on the legacy server may be closed. Proxies that send clients there let go of them.
fn begin_to_close(document: &mut ClusterDocument, args: &Args) -> anyhow::Result<Edit> {
    to_switch(document)?.stage = Some(MigrationStage::Switching);
    if front::is_wanted(document) {
        front::hold_clients(document, args.grace, args.max_downtime);
    }
    Ok(Edit::Write)
}

/// The point of no return: the cluster becomes one of its own in the same write that says so.
fn no_return(
    document: &mut ClusterDocument,
    head: &Head,
    closed: &Closed,
    wish: Wish,
) -> anyhow::Result<Edit> {
    let migration = record::to_change(document)?;
    if migration.stage != Some(MigrationStage::Switching) {
        return Err(Failure::new("the switch was taken back meanwhile").into());
    }
    migration.stage = Some(MigrationStage::Promoting);
    migration.end = Some(closed.end);
    migration.timeline = closed.facts.timeline;
    migration.fenced = Some(closed.time);
    migration.way_back = wish == Wish::WayBack;
    let (is_logical, former) = (migration.is_logical(), migration.former_pg_hba.take());
    if is_logical {
        closing::admit(document, former);
    }
    front::must_be_away(document)?;
    if wish == Wish::WayBack {
        front::hold_clients(document, Duration::ZERO, Duration::ZERO);
    }
    let Some(cluster) = document.cluster.as_mut() else { return Ok(Edit::Unneeded) };
    if cluster.status.primary.as_ref() != Some(&head.instance) {
        return Err(Failure::new("another keeper has become the head meanwhile").into());
    }
    let old = cluster.spec.take().unwrap_or_default();
    let mut new = old.clone();
    new.role = Some(Role::Primary);
    old.check_update(&new)
        .map_err(|reason| Failure::new(format!("the cluster cannot be promoted: {reason}")))?;
    cluster.spec = Some(new);
    Ok(Edit::Write)
}

/// Open the legacy server again, unless the point of no return is passed after all: its write may have had no answer.
///
/// # Errors
/// Always the reason why the switch did not come about, unless it has.
async fn take_back(worker: &Worker, legacy: &Legacy, why: anyhow::Error) -> anyhow::Result<()> {
    let reason = explained(&why).sentence;
    let mut stage = None;
    let taken = worker
        .change(|document| {
            let migration = record::to_change(document)?;
            stage.clone_from(&migration.stage);
            match stage {
                Some(MigrationStage::Promoting) => return Ok(Edit::Unneeded),
                // Nothing was closed yet, and clients notice nothing.
                Some(MigrationStage::Following) => migration.worker = None,
                _ => migration.stage = Some(MigrationStage::TakingBack),
            }
            Ok(Edit::Write)
        })
        .await;
    let closed = |what: &str| {
        Failure::new(format!("no switch: {reason}; {what}, so the legacy server may stay closed"))
            .hint("stolonctl migrate rollback opens it, stolonctl migrate status shows how far it is")
    };
    if let Err(error) = taken {
        return Err(closed(&explained(&error).sentence).into());
    }
    match stage {
        Some(MigrationStage::Promoting) => return Ok(()),
        Some(MigrationStage::Following) => {
            return Err(Failure::new(format!("no switch: {reason}"))
                .hint("nothing was changed; stolonctl migrate status shows how far it is")
                .into());
        }
        _ => {}
    }
    if let Err(error) = reopen(worker, legacy).await {
        return Err(closed(&explained(&error).sentence).into());
    }
    Err(Failure::new(format!("no switch: {reason}"))
        .hint("everything was taken back: the legacy server is open as before, and the cluster follows it")
        .into())
}

/// Take the fence off, and go on following.
///
/// # Errors
/// The legacy server or the store does not answer, or somebody has taken over.
pub async fn reopen(worker: &Worker, legacy: &Legacy) -> anyhow::Result<()> {
    let session = worker.session(legacy).await?;
    fence::open(&session, legacy, Instant::now() + REOPENING).await?;
    worker
        .note(|migration| {
            migration.stage = Some(MigrationStage::Following);
            migration.worker = None;
        })
        .await
}
