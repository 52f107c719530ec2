//! `stolonctl reload`

use std::time::Duration;

use stolon_model::{KeeperUid, RequestKind};
use stolon_runtime::{CommonArgs, UsageError, go_duration};

use crate::commands::removekeeper::only_uid;
use crate::commands::request::{Seen, place};
use crate::output;
use crate::stored_cluster::StoredCluster;

/// Flags of `reload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid
    #[arg(value_name = "KEEPER")]
    uid: Vec<String>,

    /// Every keeper that has a PostgreSQL
    #[arg(long)]
    all: bool,

    /// How long one keeper may take
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = go_duration)]
    timeout: Duration,
}

/// Have the PostgreSQL of keepers read their files again, and wait until they have.
///
/// # Errors
/// There is no such keeper, it does not carry it out, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    if args.all && !args.uid.is_empty() {
        return Err(UsageError::new("either KEEPER or --all").into());
    }
    let named = if args.all { None } else { Some(only_uid(&args.uid, "reload KEEPER|--all")?) };
    let cluster = StoredCluster::open(common)?;
    let usable = cluster.cluster_data_to_change().await?;
    let all = || usable.data().instances.values().map(|instance| instance.spec.keeper_uid.clone()).collect();
    let keepers: Vec<KeeperUid> = named.map_or_else(all, |uid| vec![uid]);
    for keeper in keepers {
        let placed = place(&cluster, &keeper, RequestKind::Reload, None).await?;
        let is_done = |seen: &Seen| {
            let activity = seen.report.as_ref().and_then(|report| report.activity.as_ref());
            activity.is_some_and(|activity| activity.reloaded == placed.uid())
        };
        placed.until(&cluster, args.timeout, is_done).await?;
        output::note(&format!("keeper {keeper}: PostgreSQL has read its files"));
    }
    Ok(())
}
