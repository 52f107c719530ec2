//! `stolonctl promote`

use stolon_core::operator::{self, CannotPromote};
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
            let edit = operator::promote(document).map_err(refused)?;
            if edit == Edit::Unneeded {
                output::note("cluster spec role already set to master");
            }
            Ok(edit)
        })
        .await
        .map(drop)
}

fn refused(why: CannotPromote) -> anyhow::Error {
    match why {
        CannotPromote::Bad(bad) => bad.into(),
        CannotPromote::LegacyServes(legacy) => Failure::new(format!(
            "proxies send clients to the legacy server of a migration at {legacy}, which would stay open"
        ))
        .hint("stolonctl migrate switch closes it first; stolonctl migrate abort gives the migration up")
        .into(),
        CannotPromote::Refused(reason) => UsageError::new(format!("Cannot update cluster spec: {reason}"))
            .hint("stolonctl spec shows the specification, stolonctl update changes it")
            .into(),
    }
}
