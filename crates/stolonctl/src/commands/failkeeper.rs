//! `stolonctl failkeeper`

use stolon_model::KeeperUid;
use stolon_runtime::CommonArgs;

use crate::commands::removekeeper::{no_such_keeper, only_uid};
use crate::stored_cluster::{Edit, StoredCluster};

/// Flags of `failkeeper`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid
    #[arg(value_name = "KEEPER")]
    uid: Vec<String>,
}

/// Ask the leading sentinel to treat a keeper as failed in its next round.
///
/// # Errors
/// There is no such keeper, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    let uid: KeeperUid = only_uid(&args.uid, "failkeeper KEEPER")?;
    let cluster = StoredCluster::open(common)?;
    cluster.cluster_data_to_change().await?;
    cluster
        .change(|document| {
            let mut keepers = document.keepers.take().unwrap_or_default();
            match keepers.get_mut(&uid) {
                Some(keeper) => keeper.status.force_fail = true,
                None => return Err(no_such_keeper(&uid, keepers.keys()).into()),
            }
            document.keepers = Some(keepers);
            Ok(Edit::Write)
        })
        .await
}
