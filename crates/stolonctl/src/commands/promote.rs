//! `stolonctl promote`

use stolon_model::{ClusterData, Role};
use stolon_runtime::{CommonArgs, Failure, UsageError};

use crate::commands::refuse_surplus;
use crate::confirm::{self, Answer};
use crate::output;
use crate::stored_cluster::{Edit, StoredCluster};

/// Flags of `promote`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,

    #[arg(hide = true)]
    surplus: Vec<String>,
}

/// Set the cluster's role to primary.
///
/// # Errors
/// The operator gave no answer, the cluster does not take the change, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    refuse_surplus(&args.surplus, 0, "promote [--yes]")?;
    let cluster = StoredCluster::open(common)?;
    if !args.yes && confirm::ask().await? == Answer::No {
        return Ok(());
    }
    cluster.cluster_data().await?;
    cluster
        .change("promote", |document| {
            if let Some(legacy) = ClusterData::try_from(document.clone())?.legacy_for_clients() {
                return Err(Failure::new(format!("proxies send clients to the legacy server of a migration at {legacy}, which would stay open"))
                    .hint("stolonctl migrate switch closes it first; stolonctl migrate abort gives the migration up")
                    .into());
            }
            let Some(cluster) = document.cluster.as_mut() else { return Ok(Edit::Unneeded) };
            let old = cluster.spec.take().unwrap_or_default();
            if old.effective().role == Role::Primary {
                output::note("cluster spec role already set to master");
                return Ok(Edit::Unneeded);
            }
            let mut new = old.clone();
            new.role = Some(Role::Primary);
            old.check_update(&new).map_err(|reason| {
                UsageError::new(format!("Cannot update cluster spec: {reason}"))
                    .hint("stolonctl spec shows the specification, stolonctl update changes it")
            })?;
            cluster.spec = Some(new);
            Ok(Edit::Write)
        })
        .await
        .map(drop)
}
