//! `stolonctl migrate abort`: the migration is given up, and the legacy server is left as it was.

use std::time::Duration;

use stolon_core::sentinel::Witnesses;
use stolon_model::{ClusterData, ClusterDocument, MigrationStage, Role, StandbyConfig};
use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_postgres::quote::sql_literal;
use stolon_runtime::{CommonArgs, Failure, Shutdown};
use tokio::time::Instant;

use super::facts::{Facts, Slot};
use super::legacy::{Legacy, SourceArgs, trouble};
use super::wait::{Seen, until};
use super::worker::{self, Worker};
use super::{Outcome, OutputArgs, fence, front, logical, record};
use crate::stored_cluster::{StoredCluster, cannot_get};

/// How long the legacy server may take to open, and a slot to be let go.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Flags of `migrate abort`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Take off the fence, remove the slot, and have the cluster follow nobody.
///
/// # Errors
/// The cluster has taken over, or the store or the legacy server does not answer.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    let format = args.output.format()?;
    let stop = shutdown.token();
    let cluster = StoredCluster::open(common)?;
    let document = cluster.document().await?.map(|found| found.value);
    let recorded = document.as_ref().and_then(record::of).cloned();
    let legacy = args.source.legacy(recorded.as_ref(), &stop)?;
    let mut outcome = Outcome::new(
        "stolonctl migrate start, or stolonctl init, makes the cluster anew",
        "nothing is left to undo",
    );
    let Some(migration) = recorded else {
        without_record(&cluster, document, &legacy, &mut outcome).await?;
        return outcome.show(format);
    };
    let worker = Worker::claim(&cluster, "migrate abort", begin).await?;
    if !migration.rehearsal {
        let session = worker.session(&legacy).await?;
        open(&session, &legacy, &mut outcome).await?;
        if migration.is_logical() {
            logical::remove(&legacy, cluster.workable_document().await?.value, &migration.uid).await?;
            outcome.did(
                "publications, slots and replica identities of the migration are gone from the legacy server",
            );
        } else {
            drop_slot(&session, &legacy, &migration.slot).await?;
            outcome.did(format!("replication slot {} is gone from the legacy server", migration.slot));
        }
    }
    worker.change(record::forget).await?;
    if migration.legacy_address.is_some() {
        outcome.did("proxies do not send clients to the legacy server any more");
    }
    outcome.did("the cluster does not follow the legacy server any more");
    outcome.show(format)
}

fn begin(document: &mut ClusterDocument) -> anyhow::Result<()> {
    if record::of(document).is_none_or(|migration| !migration.is_logical()) {
        refuse_promoted(document)?;
    }
    let migration = record::to_change(document)?;
    let too_late = [
        MigrationStage::Promoting,
        MigrationStage::Switched,
        MigrationStage::RollingBack,
        MigrationStage::RolledBack,
        MigrationStage::Finishing,
    ]
    .map(Some);
    if too_late.contains(&migration.stage) {
        return Err(taken_over().into());
    }
    migration.stage = Some(MigrationStage::Aborting);
    let is_logical = migration.is_logical();
    if front::is_wanted(document) {
        record::turn_clients_away(document);
    }
    if is_logical {
        return Ok(());
    }
    let spec = document.cluster.as_mut().and_then(|cluster| cluster.spec.as_mut());
    if let Some(spec) = spec {
        spec.standby_config = Some(StandbyConfig::default());
    }
    Ok(())
}

fn refuse_promoted(document: &ClusterDocument) -> Result<(), Failure> {
    let spec = document.cluster.as_ref().and_then(|cluster| cluster.spec.as_ref());
    match spec.is_some_and(|spec| spec.effective().role == Role::Primary) {
        true => Err(taken_over()),
        false => Ok(()),
    }
}

fn taken_over() -> Failure {
    Failure::new("the cluster has taken over: if the legacy server were open, both would take writes")
        .hint("stolonctl migrate finish removes what was made on the legacy server")
}

async fn open(session: &ForeignSession, legacy: &Legacy, outcome: &mut Outcome) -> anyhow::Result<()> {
    let settings = fence::settings(session, legacy).await;
    let settings = settings.map_err(|problem| trouble("the legacy server cannot be asked", &problem))?;
    if settings.fenced_for().is_some() {
        fence::open(session, legacy, Instant::now() + PATIENCE).await?;
        outcome.did("the legacy server is open again");
    }
    Ok(())
}

/// Remove a slot, also from under somebody who streams from it.
///
/// # Errors
/// The legacy server does not answer, or somebody keeps streaming.
pub async fn drop_slot(session: &ForeignSession, legacy: &Legacy, slot: &str) -> anyhow::Result<()> {
    let cannot = |problem: ForeignProblem| {
        trouble("the replication slot on the legacy server cannot be removed", &problem)
    };
    let name = sql_literal(slot);
    let end = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = {name} AND active"
    );
    let remove = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {name} AND NOT active"
    );
    until(POLL, Instant::now() + PATIENCE, async || {
        if Slot::look(session, legacy, slot).await.map_err(cannot)? == Slot::Absent {
            return Ok(Seen::Done(()));
        }
        session.rows(&end, &legacy.question()).await.map_err(cannot)?;
        // Somebody may take it at the same moment: then it is tried again.
        Ok(Seen::not_yet(match session.rows(&remove, &legacy.question()).await {
            Ok(_) => Failure::new(format!("somebody keeps streaming from the slot {slot}")),
            Err(problem) => cannot(problem),
        }))
    })
    .await
}

/// The record was lost: what is on the legacy server says what to undo, and the cluster whether that may be done.
async fn without_record(
    cluster: &StoredCluster,
    document: Option<ClusterDocument>,
    legacy: &Legacy,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let session = worker::alone(legacy).await?;
    let facts = Facts::ask(&session, legacy).await?;
    let filling = logical::found(&session, legacy).await?;
    if !filling.is_empty() && logical::is_closed(&session, legacy).await? {
        logical::must_be_closed(document.as_ref())?;
    }
    if let Some(document) = document {
        let data = ClusterData::try_from(document.clone())?;
        let is_copy =
            data.instances.values().any(|it| it.status.system_identifier == facts.system_identifier);
        if is_copy {
            refuse_promoted(&document)?;
        }
        let (keepers, sentinels) =
            tokio::join!(cluster.store.keeper_reports(), cluster.store.sentinel_reports());
        let (keepers, sentinels) = (keepers.map_err(cannot_get)?, sentinels.map_err(cannot_get)?);
        let witnesses = Witnesses { keepers: &keepers, sentinels: &sentinels };
        if !witnesses.ahead(&data).is_empty() || !witnesses.saw_newer(&data).is_empty() {
            return Err(Failure::new(
                "the store went back in time: nobody knows whether the cluster has taken over",
            )
            .hint("stolonctl settle chooses what to go on from")
            .into());
        }
    }
    open(&session, legacy, outcome).await?;
    const OURS: &str = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name ~ '^migration_[0-9a-f]+$'";
    let slots = session.rows(OURS, &legacy.question()).await;
    let slots = slots.map_err(|problem| trouble("the legacy server cannot be asked", &problem))?;
    for slot in slots.iter().filter_map(|row| row.get(0)) {
        drop_slot(&session, legacy, slot).await?;
        outcome.did(format!("replication slot {slot} is gone from the legacy server"));
    }
    for uid in filling {
        logical::withdraw(legacy, &uid, None).await?;
        outcome.did(format!("what migration {uid} had made is gone from the legacy server"));
    }
    if outcome.did.is_empty() {
        outcome.did("nothing of a migration was found on the legacy server");
    }
    Ok(())
}
