//! `stolonctl removekeeper`

use stolon_model::{InstanceUid, KeeperUid};
use stolon_runtime::{CommonArgs, Failure, UsageError};

use crate::commands::refuse_surplus;
use crate::stored_cluster::{Edit, StoredCluster};

/// Flags of `removekeeper`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid
    #[arg(value_name = "KEEPER")]
    uid: Vec<String>,
}

/// Delete a keeper and its instance from the cluster data.
///
/// # Errors
/// There is no such keeper, it has the primary, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    let uid = only_uid(&args.uid, "removekeeper KEEPER")?;
    let cluster = StoredCluster::open(common)?;
    cluster.cluster_data_to_change().await?;
    cluster
        .change(|document| {
            let mut keepers = document.keepers.take().unwrap_or_default();
            if keepers.remove(&uid).is_none() {
                return Err(no_such_keeper(&uid, keepers.keys()).into());
            }
            let mut instances = document.instances.take().unwrap_or_default();
            let assigned: Option<InstanceUid> = instances
                .iter()
                .find(|(_, instance)| instance.spec.keeper_uid == uid)
                .map(|(instance_uid, _)| instance_uid.clone());
            let primary = document.cluster.as_ref().and_then(|cluster| cluster.status.primary.as_ref());
            if assigned.is_some() && assigned.as_ref() == primary {
                return Err(Failure::new("keeper assigned db is the current cluster master db.")
                    .hint(format!("stolonctl failkeeper {uid} lets another keeper take over first"))
                    .into());
            }
            if let Some(assigned) = assigned {
                instances.remove(&assigned);
            }
            document.keepers = Some(keepers);
            document.instances = Some(instances);
            Ok(Edit::Write)
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
