//! `stolonctl removekeeper`

use stolon_core::operator::{CannotRemove, LastCopy, remove_keeper};
use stolon_core::sentinel::CannotSpare;
use stolon_model::KeeperUid;
use stolon_runtime::{CommonArgs, Failure, UsageError};

use crate::commands::refuse_surplus;
use crate::stored_cluster::{StoredCluster, cannot_get};

/// Flags of `removekeeper`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid
    #[arg(value_name = "KEEPER")]
    uid: Vec<String>,

    /// Remove it although it may have the last copy of what was committed
    #[arg(long)]
    accept_data_loss: bool,
}

/// Delete a keeper and its instance from the cluster data.
///
/// # Errors
/// There is no such keeper, it has the primary or the last copy of the data, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    let uid = only_uid(&args.uid, "removekeeper KEEPER")?;
    let cluster = StoredCluster::open(common)?;
    cluster.cluster_data_to_change().await?;
    let last_copy = if args.accept_data_loss { LastCopy::MayBeLost } else { LastCopy::Kept };
    let reports = cluster.store.keeper_reports().await.map_err(cannot_get)?;
    cluster
        .change(&format!("removekeeper {uid}"), |document| {
            remove_keeper(document, &reports, &uid, last_copy).map_err(|why| refused(&uid, why))
        })
        .await?;
    // Its last report would look like a sign of life to a sentinel that is started now.
    cluster.store.remove_keeper_report(&uid).await.map_err(|error| {
        Failure::because(
            "the keeper is removed, but its last report could not be taken out of the store",
            &error,
        )
    })?;
    Ok(())
}

fn refused(uid: &KeeperUid, why: CannotRemove) -> anyhow::Error {
    match why {
        CannotRemove::Bad(bad) => bad.into(),
        CannotRemove::NoSuchKeeper(none) => no_such_keeper(uid, none.known.iter()).into(),
        CannotRemove::CannotSpare(why) => cannot_spare(uid, &why).into(),
    }
}

fn cannot_spare(uid: &KeeperUid, why: &CannotSpare) -> Failure {
    match why {
        CannotSpare::Primary => Failure::new("keeper assigned db is the current cluster master db.")
            .hint(format!("stolonctl failkeeper {uid} lets another keeper take over first")),
        CannotSpare::LastCopy { primary } => Failure::new(format!(
            "keeper {uid} may have the last copy of what was committed: the master keeper {primary} does not work, and no other keeper can take over"
        ))
        .hint(format!(
            "repair {primary} or {uid} first; --accept-data-loss removes {uid} all the same"
        )),
    }
}

/// Exactly one argument.
pub(super) fn only_uid(given: &[String], usage: &str) -> Result<KeeperUid, UsageError> {
    refuse_surplus(given, 1, usage)?;
    match given.first() {
        Some(uid) if !uid.is_empty() => Ok(KeeperUid::from(uid.as_str())),
        _ => Err(UsageError::new("keeper uid required").hint("stolonctl status lists the keepers")),
    }
}

/// There is no such keeper; who there is.
pub(super) fn no_such_keeper<'a>(uid: &KeeperUid, keepers: impl Iterator<Item = &'a KeeperUid>) -> Failure {
    let known: Vec<&str> = keepers.map(KeeperUid::as_str).collect();
    let failure = Failure::new("keeper doesn't exist");
    match known.as_slice() {
        [] => failure.hint(format!("no keeper is registered, so not {:?} either", uid.as_str())),
        known => failure.hint(format!(
            "there is no keeper {:?}; the keepers are {}",
            uid.as_str(),
            known.join(", ")
        )),
    }
}
