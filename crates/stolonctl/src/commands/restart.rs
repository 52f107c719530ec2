//! `stolonctl restart`

use std::time::Duration;

use stolon_model::{ClusterData, KeeperActivity, KeeperUid, RequestKind, Timestamp};
use stolon_runtime::{CommonArgs, Failure, UsageError, go_duration};

use crate::commands::removekeeper::only_uid;
use crate::commands::request::{Seen, place, refuse_pause};
use crate::output;
use crate::stored_cluster::StoredCluster;

/// Flags of `restart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid
    #[arg(value_name = "KEEPER")]
    uid: Vec<String>,

    /// Restart every PostgreSQL, one at a time: the standbys first, the primary last
    #[arg(long)]
    all: bool,

    /// Only where parameters wait for a restart
    #[arg(long)]
    if_pending: bool,

    /// How long one restart may take
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = go_duration)]
    timeout: Duration,
}

/// Have keepers restart their PostgreSQL, one after the other, each when the one before works again.
///
/// # Errors
/// There is no such keeper, a restart takes too long, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    if args.all && !args.uid.is_empty() {
        return Err(UsageError::new("either KEEPER or --all").into());
    }
    let named = if args.all { None } else { Some(only_uid(&args.uid, "restart KEEPER|--all")?) };
    let cluster = StoredCluster::open(common)?;
    let usable = cluster.cluster_data_to_change().await?;
    refuse_pause(usable.data())?;
    let keepers = named.map_or_else(|| in_order(usable.data()), |uid| vec![uid]);
    for keeper in keepers {
        restart(&cluster, &keeper, args).await?;
    }
    Ok(())
}

/// The keepers that have an instance, that of the primary last.
fn in_order(data: &ClusterData) -> Vec<KeeperUid> {
    let primary = data.primary().map(|primary| &primary.uid);
    let mut instances: Vec<_> = data.instances.values().collect();
    instances.sort_by_key(|instance| (Some(&instance.uid) == primary, &instance.spec.keeper_uid));
    instances.into_iter().map(|instance| instance.spec.keeper_uid.clone()).collect()
}

async fn restart(cluster: &StoredCluster, keeper: &KeeperUid, args: &Args) -> anyhow::Result<()> {
    let mut reports = cluster.store.keeper_reports().await?;
    let activity = reports.remove(keeper).and_then(|report| report.activity).unwrap_or_default();
    if args.if_pending && !activity.pending_restart {
        output::note(&format!("keeper {keeper}: nothing waits for a restart"));
        return Ok(());
    }
    let before = started(&activity).ok_or_else(|| {
        Failure::new(format!("the PostgreSQL of keeper {keeper} does not answer"))
            .hint("its keeper starts it by itself; stolonctl status shows what keeps it from that")
    })?;
    let placed = place(cluster, keeper, RequestKind::Restart, Some(before)).await?;
    output::note(&format!("keeper {keeper}: restarting PostgreSQL"));
    let is_done = |seen: &Seen| {
        let now = seen.report.as_ref().and_then(|report| started(report.activity.as_ref()?));
        now.is_some_and(|now| now != before) && seen.is_well()
    };
    placed.until(cluster, args.timeout, is_done).await?;
    output::note(&format!("keeper {keeper}: PostgreSQL was restarted"));
    Ok(())
}

fn started(activity: &KeeperActivity) -> Option<Timestamp> {
    activity.started
}
