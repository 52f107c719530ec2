//! `stolonctl migrate finish`: what was made on the legacy server goes, once the cluster has taken over.

use std::time::Duration;

use stolon_model::{ClusterData, ClusterDocument, Migration, MigrationStage, Role};
use stolon_postgres::conninfo::Place;
use stolon_runtime::{CommonArgs, Failure, Shutdown, explained};
use tokio::time::Instant;

use super::abort::drop_slot;
use super::head::{Head, all_listen};
use super::legacy::{Legacy, SourceArgs};
use super::underway::Underway;
use super::wait::{Seen, until};
use super::way_back::{WayBack, remove_from_legacy};
use super::worker::Worker;
use super::{Outcome, OutputArgs, logical, record};
use crate::output;
use crate::stored_cluster::StoredCluster;

/// How long a former primary has to let us in as a standby.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const POLL: Duration = Duration::from_millis(200);

/// Flags of `migrate finish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Remove the slot, and end the migration. The legacy server stays closed.
///
/// # Errors
/// The cluster has not taken over, or the store or the legacy server does not answer.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    let format = args.output.format()?;
    let Underway { cluster, migration, legacy, .. } = Underway::open(common, &args.source, shutdown).await?;
    let worker = Worker::claim(&cluster, "migrate finish", begin).await?;
    let mut outcome = Outcome::new(
        "shut the legacy server down for good; set up backups and monitoring of the cluster",
        "there is no way back",
    );
    if !migration.slot.is_empty() {
        let session = worker.session(&legacy).await?;
        drop_slot(&session, &legacy, &migration.slot).await?;
        outcome.did(format!("replication slot {} is gone from the legacy server", migration.slot));
    }
    if migration.is_logical() {
        let _session = worker.session(&legacy).await?;
        logical::remove(&legacy, cluster.workable_document().await?.value, &migration.uid).await?;
        outcome.did("what had been made to fill the cluster is gone from the legacy server");
    }
    if migration.way_back {
        let session = worker.session(&legacy).await?;
        remove_from_legacy(&legacy, &migration.uid).await?;
        let data = ClusterData::try_from(cluster.workable_document().await?.value)?;
        let head = Head::of(&data)?;
        let place = session.place().clone();
        let way_back = WayBack::of(&migration, &legacy, &place, &head);
        way_back.remove_from_cluster().await?;
        if let Err(error) = clear_former_primaries(&cluster, &migration, &legacy, &place).await {
            let why = explained(&error).sentence;
            output::note(&format!("slots of the way back may be left on a former primary: {why}"));
        }
        outcome.did("what was made for the way back is gone from both");
    }
    worker.change(record::forget).await?;
    outcome.did(match migration.rehearsal {
        true => "the rehearsal is over; stolonctl init makes the cluster anew",
        false => {
            "the migration is over; the legacy server stays closed, so that nobody writes there by mistake"
        }
    });
    outcome.show(format)
}

/// Remove the slots of the way back from every instance that may have been the primary; one that has just become a standby is still starting.
///
/// # Errors
/// One of them has not let us in within [`PATIENCE`], or the store does not answer.
async fn clear_former_primaries(
    cluster: &StoredCluster,
    migration: &Migration,
    legacy: &Legacy,
    place: &Place,
) -> anyhow::Result<()> {
    until(POLL, Instant::now() + PATIENCE, async || {
        let data = ClusterData::try_from(cluster.workable_document().await?.value)?;
        let mut left: Option<anyhow::Error> = match all_listen(&data) {
            true => None,
            false => {
                Some(Failure::new("a standby that is being made does not say yet where it listens").into())
            }
        };
        for other in Head::others(&data)? {
            let dropped = WayBack::of(migration, legacy, place, &other).drop_slots().await;
            left = left.or(dropped.err().map(|error| {
                let why = explained(&error).sentence;
                Failure::new(format!("keeper {}: {why}", other.keeper)).into()
            }));
        }
        Ok(left.map_or(Seen::Done(()), Seen::NotYet))
    })
    .await
}

fn begin(document: &mut ClusterDocument) -> anyhow::Result<()> {
    let spec = document.cluster.as_ref().and_then(|cluster| cluster.spec.as_ref());
    let is_promoted = spec.is_some_and(|spec| spec.effective().role == Role::Primary);
    let migration = record::to_change(document)?;
    match migration.stage {
        Some(MigrationStage::Finishing) => {}
        Some(MigrationStage::Switched) if migration.opened.is_some() => {}
        // By `stolonctl promote`: the legacy server was not closed.
        Some(MigrationStage::Following) if is_promoted && !migration.is_logical() => {}
        Some(MigrationStage::Promoting | MigrationStage::Switched) => {
            return Err(Failure::new("the cluster does not take writes yet")
                .hint("stolonctl migrate switch waits until it does")
                .into());
        }
        _ => {
            return Err(Failure::new("the cluster has not taken over")
                .hint("stolonctl migrate switch has it take over, stolonctl migrate abort gives it up")
                .into());
        }
    }
    migration.stage = Some(MigrationStage::Finishing);
    Ok(())
}
