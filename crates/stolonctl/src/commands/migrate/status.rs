//! `stolonctl migrate status`: how far it is, what is next, and how to undo it.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use serde::Serialize;
use stolon_model::{
    ByteCount, ClusterData, ClusterDocument, Explained, KeeperReport, KeeperUid, Lsn, Migration,
    MigrationStage, Phase, Role, Timestamp,
};
use stolon_postgres::foreign::ForeignSession;
use stolon_runtime::{CommonArgs, Shutdown, explained};

use super::OutputArgs;
use super::legacy::{Legacy, SourceArgs, trouble};
use super::record;
use crate::output::{self, Format};
use crate::pretty::to_tabbed_json;
use crate::stored_cluster::{StoredCluster, cannot_get};

/// Between two pictures of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

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
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    problems: Vec<String>,
    next: String,
    undo: String,
}

/// Show it once, or again and again.
///
/// # Errors
/// There is no migration, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    let format = args.output.format()?;
    let cluster = StoredCluster::open(common)?;
    let stop = shutdown.token();
    let pictures = async {
        if !args.watch {
            let picture = look(&cluster, &args.source, &stop).await?;
            return Ok(output::result(&shown(&picture, format))?);
        }
        let clear = if std::io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
        loop {
            let picture = match look(&cluster, &args.source, &stop).await {
                Ok(picture) => shown(&picture, format),
                Err(error) => {
                    let Explained { sentence, hint } = explained(&error);
                    let hint = hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
                    format!("{sentence}\n{hint}")
                }
            };
            output::result(&format!("{clear}{picture}"))?;
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        ended = pictures => ended,
    }
}

/// What is known now.
async fn look(
    cluster: &StoredCluster,
    source: &SourceArgs,
    stop: &tokio_util::sync::CancellationToken,
) -> anyhow::Result<Picture> {
    let document = cluster.workable_document().await?.value;
    let record = record::of(&document).ok_or_else(record::nothing_under_way)?.clone();
    let reports = cluster.store.keeper_reports().await.map_err(cannot_get)?;
    let legacy = source.legacy(Some(&record), stop)?;
    let mut picture = by_the_store(&record, document, &reports)?;
    by_the_legacy(&mut picture, &legacy, &reports).await;
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

/// Bytes a second since the beginning; none when no time has passed.
fn rate(done: u64, began: Timestamp, now: Timestamp) -> Option<u64> {
    let elapsed = now.instant().duration_since(began.instant());
    let millis = u64::try_from(elapsed.as_millis()).ok().filter(|millis| *millis > 0)?;
    done.saturating_mul(1000).checked_div(millis)
}

/// How far behind the cluster is.
async fn by_the_legacy(picture: &mut Picture, legacy: &Legacy, reports: &BTreeMap<KeeperUid, KeeperReport>) {
    let received = reports.get(&KeeperUid::from(picture.keeper.as_str())).and_then(|report| {
        let state = report.postgres_state.as_ref()?;
        state.healthy.then_some(state.lsn)
    });
    let position = async {
        let session = legacy.connect(None).await?;
        written(&session, legacy).await
    };
    match position.await {
        Ok(Some(written)) => {
            picture.lag_bytes = received.map(|received| written.0.saturating_sub(received.0));
        }
        Ok(None) => {}
        Err(problem) => {
            picture.problems.push(trouble("the legacy server cannot be asked", &problem).message);
        }
    }
}

/// The end of what the legacy server has written.
pub async fn written(
    session: &ForeignSession,
    legacy: &Legacy,
) -> Result<Option<Lsn>, stolon_postgres::foreign::ForeignProblem> {
    let text = session.value("SELECT pg_current_wal_insert_lsn()", &legacy.question()).await?;
    Ok(text.and_then(|text| text.parse().ok()))
}

fn next_and_undo(record: &Migration, data: &ClusterData) -> (String, String) {
    let text = |next: &str, undo: &str| (next.to_owned(), undo.to_owned());
    let copies = data.cluster.status.phase != Some(Phase::Normal);
    match record.stage {
        None => text("stolonctl migrate start goes on with it", "stolonctl migrate abort"),
        Some(MigrationStage::Following) if data.cluster.spec.effective().role == Role::Primary => {
            text("the cluster was promoted by other means: stolonctl migrate finish", "there is no way back")
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
        Some(MigrationStage::Promoting) => {
            text("stolonctl migrate switch goes on with it, if whoever began it died", "there is no way back")
        }
        Some(MigrationStage::Switched | MigrationStage::Finishing) => {
            text("stolonctl migrate finish, when you trust the result", "there is no way back")
        }
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
    if let Some(lag) = picture.lag_bytes {
        lines.push(format!("lag:     {}", ByteCount(lag)));
    }
    lines.extend(picture.problems.iter().map(|problem| format!("problem: {problem}")));
    lines.push(format!("next:    {}", picture.next));
    lines.push(format!("undo:    {}", picture.undo));
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}
