//! `stolonctl migrate rollback`: a switch is taken back, half-way or after it.

use std::time::Duration;

use stolon_model::{ClusterData, ClusterDocument, Lsn, Migration, MigrationStage, Timestamp};
use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_runtime::{CommonArgs, Failure, Shutdown, explained, go_duration};
use tokio::time::Instant;

use super::downtime::{Downtime, Part};
use super::fence::Side;
use super::head::Head;
use super::legacy::{Legacy, SourceArgs, trouble};
use super::switch::reopen;
use super::underway::Underway;
use super::way_back::WayBack;
use super::worker::Worker;
use super::{Outcome, OutputArgs, closing, fence, front, logical, record};
use crate::output::{self, Format};
use crate::stored_cluster::{Edit, StoredCluster};

/// How long the legacy server may take to open.
const OPENING: Duration = Duration::from_secs(30);
/// How long to wait until the legacy server is near enough, before anything is closed.
const APPROACH: Duration = Duration::from_secs(30);
/// How long transactions that come through the proxies may go on.
const GRACE: Duration = Duration::from_secs(1);
/// So much may be left to be taken when the cluster is closed.
const NEAR: u64 = 16 << 20;

/// Flags of `migrate rollback`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// For how long nobody may be able to write; what would take longer is taken back
    #[arg(long, default_value = "10s", value_name = "SPAN", value_parser = go_duration)]
    max_downtime: Duration,

    #[command(flatten)]
    output: OutputArgs,
}

/// Have the legacy server serve again: opened and followed as before where a switch did not come through, in the place of the cluster
/// where it did.
///
/// # Errors
/// There is nothing to take back, or no way back, or the store or one of the servers does not answer.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    let format = args.output.format()?;
    let Underway { cluster, migration, legacy, stop, .. } =
        Underway::open(common, &args.source, shutdown).await?;
    let through =
        [MigrationStage::Switched, MigrationStage::RollingBack, MigrationStage::RolledBack].map(Some);
    if through.contains(&migration.stage) {
        let back = Rollback { cluster: &cluster, legacy: &legacy, migration: &migration };
        return back.carry_out(args.max_downtime, &stop, format).await;
    }
    let worker = Worker::claim(&cluster, "migrate rollback", begin).await?;
    reopen(&worker, &legacy).await?;
    let mut outcome =
        Outcome::new("stolonctl migrate switch, when it shall be tried again", "stolonctl migrate abort");
    outcome.did("the legacy server is open as before, and the cluster follows it");
    outcome.show(format)
}

/// A switch that is half-way is taken back.
fn begin(document: &mut ClusterDocument) -> anyhow::Result<()> {
    let migration = record::to_change(document)?;
    match migration.stage {
        Some(MigrationStage::Switching | MigrationStage::TakingBack) => {
            migration.stage = Some(MigrationStage::TakingBack);
            Ok(())
        }
        Some(MigrationStage::Promoting) => Err(Failure::new("the cluster is being promoted")
            .hint("stolonctl migrate switch waits until it is; after that it can be rolled back")
            .into()),
        _ => Err(Failure::new("there is nothing to take back: no switch is half-way")
            .hint("stolonctl migrate abort gives the migration up")
            .into()),
    }
}

/// The legacy server takes over from the cluster.
struct Rollback<'a> {
    cluster: &'a StoredCluster,
    legacy: &'a Legacy,
    migration: &'a Migration,
}

impl Rollback<'_> {
    async fn carry_out(
        &self,
        max_downtime: Duration,
        stop: &tokio_util::sync::CancellationToken,
        format: Format,
    ) -> anyhow::Result<()> {
        if !self.migration.way_back {
            return Err(Failure::new(
                "there is no way back: what the cluster wrote did not go to the legacy server",
            )
            .hint("stolonctl migrate finish removes what was made there")
            .into());
        }
        let is_over = self.migration.stage == Some(MigrationStage::RolledBack);
        let head = Head::of(&ClusterData::try_from(self.cluster.workable_document().await?.value)?);
        let (worker, downtime) = match (is_over, head) {
            (true, _) => (Worker::claim(self.cluster, "migrate rollback", |_| Ok(())).await?, None),
            (false, Err(failure)) => return Err(failure.into()),
            (false, Ok(head)) => {
                let (worker, downtime) = self.close_cluster(&head, max_downtime, stop).await?;
                (worker, Some(downtime))
            }
        };
        self.open_legacy(&worker, downtime, format).await
    }

    /// Up to its point of no return: the cluster is closed, and the legacy server has everything.
    async fn close_cluster(
        &self,
        head: &Head,
        max_downtime: Duration,
        stop: &tokio_util::sync::CancellationToken,
    ) -> anyhow::Result<(Worker, Downtime)> {
        let place = self.legacy.connect_past_fence().await.map_err(cannot_ask)?.place().clone();
        let way_back = WayBack::of(self.migration, self.legacy, &place, head);
        way_back.flow().until_near(NEAR, Instant::now() + APPROACH).await?;
        let hba = closing::lines(head.entered_as(self.legacy, &place).0.get("user").unwrap_or_default());
        let worker = Worker::claim(self.cluster, "migrate rollback", |document| {
            close_for_clients(document, &hba, max_downtime)
        })
        .await?;
        let mut downtime = Downtime::begin();
        let deadline = downtime.began + max_downtime;
        let attempt = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Failure::new("interrupted").into()),
            attempt = self.drain(&way_back, &worker, &hba, deadline, &mut downtime) => attempt,
        };
        match attempt {
            Ok(()) => Ok((worker, downtime)),
            Err(error) => Err(take_back(&worker, error).await),
        }
    }

    async fn drain(
        &self,
        way_back: &WayBack<'_>,
        worker: &Worker,
        hba: &[String],
        deadline: Instant,
        downtime: &mut Downtime,
    ) -> anyhow::Result<()> {
        // Proxies have let go of clients, or do so when their time is over.
        let patience = match self.migration.legacy_address {
            Some(_) => Instant::now() + GRACE,
            None => Instant::now(),
        };
        closing::until_closed(self.cluster, hba, deadline).await?;
        output::note("the cluster lets no client in any more");
        downtime.mark(Part::Closing);
        let session = way_back.head.connect(self.legacy, way_back.place, None).await.map_err(cannot_ask)?;
        loop {
            fence::end_sessions(&session, self.legacy, Side::Cluster, patience, deadline).await?;
            let end = position(&session, self.legacy).await?;
            way_back.flow().until_taken(&session, end, deadline).await?;
            if fence::clients(&session, self.legacy, Side::Cluster).await.map_err(cannot_ask)?.0 == 0 {
                break;
            }
        }
        output::note("the legacy server has taken everything");
        downtime.mark(Part::Arriving);
        way_back.flow().carry_sequences(0).await?;
        downtime.mark(Part::Carrying);
        front::until_away(self.cluster, deadline).await?;
        downtime.mark(Part::Proxies);
        if Instant::now() >= deadline {
            return Err(Failure::new("there is not enough time left").into());
        }
        worker
            .change(|document| {
                front::must_be_away(document)?;
                record::to_change(document)?.stage = Some(MigrationStage::RolledBack);
                Ok(Edit::Write)
            })
            .await
    }

    /// After its point of no return, also for one who goes on with it.
    async fn open_legacy(
        &self,
        worker: &Worker,
        downtime: Option<Downtime>,
        format: Format,
    ) -> anyhow::Result<()> {
        let legacy = self.legacy.uninterrupted();
        let session = worker.session(&legacy).await?;
        fence::open(&session, &legacy, Instant::now() + OPENING).await?;
        let now = Timestamp::utc(jiff::Timestamp::now());
        worker.note(|migration| migration.reopened = Some(now)).await?;
        front::until_forwarding(self.cluster, Instant::now() + OPENING).await?;
        let mut outcome = Outcome::new(
            "stolonctl migrate start begins anew, stolonctl init makes another cluster",
            "stolonctl migrate start",
        );
        outcome.did("the legacy server takes writes again; the cluster stays closed");
        if let Some(mut downtime) = downtime {
            downtime.mark(Part::Opening);
            downtime.tell(&mut outcome);
        }
        super::way_back::remove_from_legacy(&legacy, &self.migration.uid).await?;
        match self.migration.is_logical() {
            true => logical::withdraw(&legacy, &self.migration.uid, None).await?,
            false => super::abort::drop_slot(&session, &legacy, &self.migration.slot).await?,
        }
        outcome.did("what was made on the legacy server is gone");
        worker.note(|migration| migration.worker = None).await?;
        outcome.show(format)
    }
}

fn cannot_ask(problem: ForeignProblem) -> Failure {
    trouble("the way back cannot be gone", &problem)
}

async fn position(session: &ForeignSession, legacy: &Legacy) -> anyhow::Result<Lsn> {
    let sql = "SELECT pg_current_wal_insert_lsn()";
    let position = session.value(sql, &legacy.question()).await.map_err(cannot_ask)?;
    position
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::new("the cluster does not say where its WAL ends").into())
}

fn close_for_clients(
    document: &mut ClusterDocument,
    hba: &[String],
    max_downtime: Duration,
) -> anyhow::Result<()> {
    let former = closing::admitted(document);
    let migration = record::to_change(document)?;
    match migration.stage {
        // One who died has written down what there was.
        Some(MigrationStage::RollingBack) => {}
        Some(MigrationStage::Switched) => migration.former_pg_hba = former,
        _ => {
            return Err(Failure::new("another command has moved the migration on")
                .hint("stolonctl migrate status shows how far it is")
                .into());
        }
    }
    migration.stage = Some(MigrationStage::RollingBack);
    match front::is_wanted(document) {
        true => front::hold_clients(document, GRACE, max_downtime),
        false => record::turn_clients_away(document),
    }
    closing::admit(document, Some(hba.to_vec()));
    Ok(())
}

/// Let clients into the cluster again. Returns why it did not come about.
async fn take_back(worker: &Worker, why: anyhow::Error) -> anyhow::Error {
    let reason = explained(&why).sentence;
    let taken = worker.change(|document| {
        let migration = record::to_change(document)?;
        if migration.stage != Some(MigrationStage::RollingBack) {
            return Err(Failure::new("it was too late to take it back").into());
        }
        migration.stage = Some(MigrationStage::Switched);
        migration.worker = None;
        let former = migration.former_pg_hba.take();
        closing::admit(document, former);
        Ok(Edit::Write)
    });
    match taken.await {
        Ok(()) => Failure::new(format!("no rollback: {reason}"))
            .hint("everything was taken back: the cluster lets clients in as before")
            .into(),
        Err(error) => Failure::new(format!("no rollback: {reason}; {}", explained(&error).sentence))
            .hint("stolonctl migrate rollback goes on with it; stolonctl migrate status shows how far it is")
            .into(),
    }
}
