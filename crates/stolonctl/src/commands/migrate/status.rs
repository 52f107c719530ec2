//! `stolonctl migrate status`: how far it is, what is next, and how to undo it.

use std::collections::BTreeMap;

use serde::Serialize;
use stolon_core::condition::cannot_reach;
use stolon_model::{
    ByteCount, ClusterData, ClusterDocument, KeeperReport, KeeperUid, Lsn, Migration, MigrationStage, Phase,
    Role, Timestamp,
};
use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_runtime::{CommonArgs, Shutdown, explained};

use super::OutputArgs;
use super::facts::Slot;
use super::flow::Lag;
use super::head::Head;
use super::legacy::{Legacy, SourceArgs, trouble};
use super::logical::progress::{self, Depth, Table};
use super::way_back::WayBack;
use super::{logical, record};
use crate::output::{self, Format};
use crate::pretty::to_tabbed_json;
use crate::stored_cluster::{StoredCluster, cannot_get};

/// Flags of `migrate status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Show it again every two seconds, until it is interrupted
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// What is known of a migration.
#[derive(Debug, Default, Serialize)]
pub struct Picture {
    stage: String,
    what: String,
    method: String,
    rehearsal: bool,
    source: String,
    began: String,
    /// The keeper that holds the head, or is to.
    keeper: String,
    /// What the keeper does now.
    #[serde(skip_serializing_if = "String::is_empty")]
    step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    copied_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_to_go: Option<u64>,
    /// What the legacy server has written and the cluster has not received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// What the cluster has written and the legacy server has not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    way_back_lag_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// Logical method: tables that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    tables_ready: Option<u64>,
    /// Logical method: all tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    tables_total: Option<u64>,
    /// Logical method: tables that do not follow yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tables: Vec<Table>,
    /// Where the proxies are told to send clients.
    clients: String,
    problems: Vec<String>,
    next: String,
    undo: String,
    /// The copy is complete, and its instance works.
    #[serde(skip)]
    is_copied: bool,
}

/// What `undo` says where there is none.
const NO_WAY_BACK: &str = "there is no way back";

/// How many tables that do not follow yet people are shown.
const TABLES: usize = 10;

/// A cluster that is less far behind follows.
const NEAR: u64 = 16 << 20;

impl Picture {
    /// Whether the copy is complete and the cluster is not far behind.
    pub fn follows(&self) -> bool {
        self.is_copied && self.lag_bytes.is_some_and(|lag| lag < NEAR)
    }

    /// How far the copy is, in a line; empty: there is nothing to say. On a terminal in small steps, else in tenths.
    pub fn progress(&self, steps: Steps) -> String {
        if let Some(problem) = self.problems.first() {
            return problem.clone();
        }
        match (self.copied_bytes, self.total_bytes, self.lag_bytes) {
            (Some(done), Some(total), _) => {
                let parts = match steps {
                    Steps::Small => 100,
                    Steps::Large => 10,
                };
                let percent = (done * parts).checked_div(total).unwrap_or(0) * (100 / parts);
                format!("keeper {} has {percent} % of {}", self.keeper, ByteCount(total))
            }
            (_, _, Some(lag)) if self.is_copied => format!("the cluster is {} behind", ByteCount(lag)),
            _ if self.is_copied => "the copy is complete".to_owned(),
            _ => self.step.clone(),
        }
    }
}

/// How often progress is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// Each hundredth.
    Small,
    /// Each tenth.
    Large,
}

/// Show it once, or again and again.
///
/// # Errors
/// There is no migration, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    let format = args.output.format()?;
    let cluster = StoredCluster::open(common)?;
    let stop = shutdown.token();
    let picture = async || {
        let mut picture = look(&cluster, &args.source, &stop).await?;
        let proxies = cluster.store.proxy_reports().await.map_err(cannot_get)?;
        picture.problems.extend(cannot_reach(&proxies).map(|finding| finding.to_string()));
        Ok(shown(&picture, format))
    };
    if args.watch {
        return crate::watch::watch(&stop, picture).await;
    }
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        picture = picture() => Ok(output::result(&picture?)?),
    }
}

/// What is known now.
///
/// # Errors
/// There is no migration, or the store does not answer.
pub async fn look(
    cluster: &StoredCluster,
    source: &SourceArgs,
    stop: &tokio_util::sync::CancellationToken,
) -> anyhow::Result<Picture> {
    let document = cluster.workable_document().await?.value;
    let record = record::of(&document).ok_or_else(record::nothing_under_way)?.clone();
    let reports = cluster.store.keeper_reports().await.map_err(cannot_get)?;
    let legacy = source.legacy(Some(&record), stop)?;
    let mut picture = by_the_store(&record, document.clone(), &reports)?;
    if record.way_back && record.opened.is_some() {
        by_the_way_back(&mut picture, &legacy, &record, &document).await;
        return Ok(picture);
    }
    if !record.closes_cluster() && record.stage != Some(MigrationStage::Switched) {
        let received = reported(&reports, &picture.keeper);
        match record.is_logical() {
            true => by_rows(&mut picture, &legacy, &record, &document).await,
            false => by_the_legacy(&mut picture, &legacy, &record, received).await,
        }
    }
    Ok(picture)
}

/// What lies in the store.
fn by_the_store(
    record: &Migration,
    document: ClusterDocument,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
) -> anyhow::Result<Picture> {
    let data = ClusterData::try_from(document)?;
    let stage = record.stage.as_ref();
    let mut picture = Picture {
        clients: clients(&data),
        stage: stage.map_or("preparing", MigrationStage::as_str).to_owned(),
        what: record::stage_in_words(stage),
        method: record::method(record).to_owned(),
        rehearsal: record.rehearsal,
        source: record.source.clone(),
        began: record.began.to_string(),
        worker: record.worker.as_ref().map(|worker| format!("{} by {}", worker.command, worker.who)),
        ..Picture::default()
    };
    let head = data.primary().or_else(|| data.instances.values().next());
    let Some(head) = head else {
        picture
            .problems
            .push("no keeper has taken up the copy yet: do sentinels and keepers run?".to_owned());
        (picture.next, picture.undo) = next_and_undo(record, &data);
        return Ok(picture);
    };
    picture.keeper = head.spec.keeper_uid.to_string();
    picture.is_copied = data
        .primary()
        .is_some_and(|head| head.status.healthy && head.status.system_identifier == record.system_identifier);
    if let Some(activity) = reports.get(&head.spec.keeper_uid).and_then(|report| report.activity.as_ref()) {
        picture.step.clone_from(&activity.step);
        if activity.bytes_total > 0 {
            let (done, total) = (activity.bytes_done.min(activity.bytes_total), activity.bytes_total);
            (picture.copied_bytes, picture.total_bytes) = (Some(done), Some(total));
            let rate = rate(done, record.began, Timestamp::utc(jiff::Timestamp::now()));
            picture.bytes_per_second = rate;
            picture.seconds_to_go = rate.and_then(|rate| (total - done).checked_div(rate));
        }
        let problems = [&activity.problem, &activity.replication_problem];
        picture.problems.extend(problems.into_iter().filter(|problem| !problem.is_empty()).cloned());
    }
    (picture.next, picture.undo) = next_and_undo(record, &data);
    Ok(picture)
}

/// Where the proxies are told to send clients, in words.
fn clients(data: &ClusterData) -> String {
    let proxies = data.proxy.spec.enabled_proxies.as_ref().map_or(0, Vec::len);
    if let Some(address) = data.legacy_for_clients() {
        return format!("{} to the legacy server at {address}", counted(proxies));
    }
    let primary = data.proxy.spec.primary.as_ref().and_then(|uid| data.instances.get(uid));
    match primary {
        Some(primary) => format!("{} to keeper {}", counted(proxies), primary.spec.keeper_uid),
        None => "nowhere for the moment".to_owned(),
    }
}

fn counted(proxies: usize) -> String {
    match proxies {
        0 => "no proxy runs; they would go".to_owned(),
        1 => "one proxy sends them".to_owned(),
        more => format!("{more} proxies send them"),
    }
}

/// Bytes a second since the beginning; none when no time has passed.
fn rate(done: u64, began: Timestamp, now: Timestamp) -> Option<u64> {
    let elapsed = now.instant().duration_since(began.instant());
    let millis = u64::try_from(elapsed.as_millis()).ok().filter(|millis| *millis > 0)?;
    done.saturating_mul(1000).checked_div(millis)
}

/// How far behind the cluster is.
async fn by_the_legacy(picture: &mut Picture, legacy: &Legacy, record: &Migration, received: Option<Lsn>) {
    let asked = async {
        let session = legacy.connect_to_look().await?;
        lag(&session, legacy, record, received).await
    };
    match asked.await {
        Ok(lag) => picture.lag_bytes = lag,
        Err(problem) => {
            picture.problems.push(trouble("the legacy server cannot be asked", &problem).message);
        }
    }
}

/// How far the cluster is that takes rows.
async fn by_rows(picture: &mut Picture, legacy: &Legacy, record: &Migration, document: &ClusterDocument) {
    let asked = async {
        let head = Head::of(&ClusterData::try_from(document.clone())?)?;
        let place = legacy.first_place();
        let flow = logical::inflow(legacy, &head, &place, &record.uid);
        let progress = progress::read(&flow, Depth::Definitions).await?;
        anyhow::Ok((progress, flow.lag().await?))
    };
    match asked.await {
        Ok((progress, lag)) => {
            picture.lag_bytes = lag.bytes();
            (picture.tables_ready, picture.tables_total) = (Some(progress.ready), Some(progress.total));
            if !progress.is_copied() {
                (picture.copied_bytes, picture.total_bytes) = (Some(progress.copied), Some(progress.bytes));
            }
            if record.stage == Some(MigrationStage::Following) && !progress.is_complete() {
                let next = if progress.is_copied() {
                    "stolonctl migrate start makes indexes and the like"
                } else {
                    "wait for the copy"
                };
                next.clone_into(&mut picture.next);
            }
            picture.tables = progress.tables;
            picture.problems.extend(progress.problems.into_iter().chain(progress.changes));
        }
        Err(error) => picture.problems.push(explained(&error).sentence),
    }
}

/// How far behind the legacy server is, which takes what the cluster writes.
async fn by_the_way_back(
    picture: &mut Picture,
    legacy: &Legacy,
    record: &Migration,
    document: &ClusterDocument,
) {
    let asked = async {
        let head = Head::of(&ClusterData::try_from(document.clone())?)?;
        let place = legacy.first_place();
        let way_back = WayBack::of(record, legacy, &place, &head);
        anyhow::Ok(way_back.flow().lag().await?)
    };
    match asked.await {
        Ok(Lag::Bytes(lag)) => picture.way_back_lag_bytes = Some(lag),
        Ok(Lag::Idle) => picture.problems.push(
            "the legacy server takes nothing from the cluster now; its log says why, if it lasts".to_owned(),
        ),
        Ok(Lag::Gone) => {
            picture
                .problems
                .push("the way back is gone: the cluster has failed over since the switch".to_owned());
            NO_WAY_BACK.clone_into(&mut picture.undo);
        }
        Err(error) => picture.problems.push(explained(&error).sentence),
    }
}

/// What the legacy server has written and the cluster has not: by the slot, else by what its keeper reported last. None where neither
/// is known.
///
/// # Errors
/// The legacy server does not answer.
pub async fn lag(
    session: &ForeignSession,
    legacy: &Legacy,
    record: &Migration,
    reported: Option<Lsn>,
) -> Result<Option<u64>, ForeignProblem> {
    let written = session.value("SELECT pg_current_wal_insert_lsn()", &legacy.question()).await?;
    let Some(written) = written.and_then(|text| text.parse::<Lsn>().ok()) else { return Ok(None) };
    let received = match Slot::look(session, legacy, &record.slot).await? {
        Slot::Active { flushed: Some(flushed) } => Some(flushed),
        Slot::Absent => reported,
        Slot::Idle | Slot::Active { flushed: None } => None,
    };
    Ok(received.map(|received| written.0.saturating_sub(received.0)))
}

/// Where a keeper's PostgreSQL is by its last report.
pub fn reported(reports: &BTreeMap<KeeperUid, KeeperReport>, keeper: &str) -> Option<Lsn> {
    let state = reports.get(&KeeperUid::from(keeper))?.postgres_state.as_ref()?;
    state.healthy.then_some(state.lsn)
}

fn next_and_undo(record: &Migration, data: &ClusterData) -> (String, String) {
    let text = |next: &str, undo: &str| (next.to_owned(), undo.to_owned());
    let copies = data.cluster.status.phase != Some(Phase::Normal);
    match record.stage {
        None => text("stolonctl migrate start goes on with it", "stolonctl migrate abort"),
        Some(MigrationStage::Following)
            if !record.is_logical() && data.cluster.spec.effective().role == Role::Primary =>
        {
            text("the cluster was promoted by other means: stolonctl migrate finish", NO_WAY_BACK)
        }
        Some(MigrationStage::Following) if copies => text("wait for the copy", "stolonctl migrate abort"),
        Some(MigrationStage::Following) => {
            text("stolonctl migrate switch, when the lag is small", "stolonctl migrate abort")
        }
        Some(MigrationStage::Switching) => text(
            "stolonctl migrate switch goes on with it, if whoever began it died",
            "stolonctl migrate abort",
        ),
        Some(MigrationStage::TakingBack | MigrationStage::Aborting) => {
            text("stolonctl migrate abort", "it is being undone")
        }
        Some(MigrationStage::Promoting) => text(
            "stolonctl migrate switch goes on with it, if whoever began it died",
            "too late until it is through",
        ),
        Some(MigrationStage::Switched) if record.opened.is_none() => text(
            "stolonctl migrate switch goes on with it, if whoever began it died",
            "too late until it is through",
        ),
        Some(MigrationStage::Switched) if record.way_back => text(
            "stolonctl migrate finish, when you trust the result",
            "stolonctl migrate rollback: the legacy server takes over again",
        ),
        Some(MigrationStage::Switched | MigrationStage::Finishing) => {
            text("stolonctl migrate finish, when you trust the result", NO_WAY_BACK)
        }
        Some(MigrationStage::RollingBack) => {
            text("stolonctl migrate rollback goes on with it, if whoever began it died", "it is being undone")
        }
        Some(MigrationStage::RolledBack) => text(
            "stolonctl migrate start begins anew, stolonctl init makes another cluster",
            "stolonctl migrate start",
        ),
        Some(MigrationStage::Unknown(_)) => text("use a newer stolonctl", "use a newer stolonctl"),
    }
}

fn shown(picture: &Picture, format: Format) -> String {
    if format == Format::Json {
        return format!("{}\n", to_tabbed_json(picture));
    }
    let mut lines = vec![
        format!("stage:   {} ({})", picture.stage, picture.what),
        format!("method:  {}{}", picture.method, if picture.rehearsal { ", a rehearsal" } else { "" }),
        format!("legacy:  {}", picture.source),
        format!("began:   {}", picture.began),
        format!("clients: {}", picture.clients),
    ];
    if let Some(worker) = &picture.worker {
        lines.push(format!("at work: {worker}"));
    }
    if let (Some(done), Some(total)) = (picture.copied_bytes, picture.total_bytes) {
        let rate = picture.bytes_per_second.map(|rate| format!(", {} a second", ByteCount(rate)));
        let to_go = picture.seconds_to_go.map(|seconds| format!(", {seconds} s to go"));
        lines.push(format!(
            "copied:  {} of {}{}{}",
            ByteCount(done),
            ByteCount(total),
            rate.unwrap_or_default(),
            to_go.unwrap_or_default()
        ));
    }
    if let (Some(ready), Some(total)) = (picture.tables_ready, picture.tables_total) {
        lines.push(format!("tables:  {ready} of {total} follow"));
        let shown = picture.tables.iter().take(TABLES);
        lines.extend(shown.map(|it| {
            format!("         {} of {} {}, {}", it.table, it.database, it.state, ByteCount(it.bytes))
        }));
    }
    if let Some(lag) = picture.lag_bytes {
        lines.push(format!("lag:     {}", ByteCount(lag)));
    }
    if let Some(lag) = picture.way_back_lag_bytes {
        lines.push(format!("way back: {} behind", ByteCount(lag)));
    }
    lines.extend(picture.problems.iter().map(|problem| format!("problem: {problem}")));
    lines.push(format!("next:    {}", picture.next));
    lines.push(format!("undo:    {}", picture.undo));
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}
