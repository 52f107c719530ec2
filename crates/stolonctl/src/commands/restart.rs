//! `stolonctl restart`

use std::time::Duration;

use stolon_model::{ClusterData, KeeperActivity, KeeperUid, RequestKind, Timestamp};
use stolon_runtime::{CommonArgs, Failure, Shutdown, UsageError, go_duration};
use tokio::time::Instant;

use crate::commands::removekeeper::only_uid;
use crate::commands::request::{Seen, place, refuse_pause, until};
use crate::commands::switchover::{hand_over, judge};
use crate::output;
use crate::stored_cluster::StoredCluster;
use crate::unless_interrupted;

/// A standby that was restarted just now has so long to be fit for the primary.
const FIT: Duration = Duration::from_secs(20);
/// Between two looks whether one is.
const POLL: Duration = Duration::from_millis(500);
/// How long another keeper may take to have the primary.
const HAND_OVER: Duration = Duration::from_secs(60);

/// Flags of `restart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid
    #[arg(value_name = "KEEPER")]
    uid: Vec<String>,

    /// Restart every PostgreSQL, one at a time: the standbys first, then the primary, which is handed over to one of them before
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
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    if args.all && !args.uid.is_empty() {
        return Err(UsageError::new("either KEEPER or --all").into());
    }
    let named = if args.all { None } else { Some(only_uid(&args.uid, "restart KEEPER|--all")?) };
    let cluster = StoredCluster::open(common)?;
    let keepers = unless_interrupted(shutdown, async {
        let usable = cluster.cluster_data_to_change().await?;
        refuse_pause(usable.data())?;
        Ok(named.map_or_else(|| in_order(usable.data()), |uid| vec![uid]))
    })
    .await?;
    for keeper in keepers {
        let Some(before) = unless_interrupted(shutdown, to_restart(&cluster, &keeper, args)).await? else {
            continue;
        };
        match args.all {
            true => relieve_or_restart(&cluster, &keeper, before, args, shutdown).await?,
            false => unless_interrupted(shutdown, restart(&cluster, &keeper, before, args)).await?,
        }
        output::note(&format!("keeper {keeper}: PostgreSQL was restarted"));
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

/// When the server of a keeper was started that is to be restarted; none: nothing is to be done.
async fn to_restart(
    cluster: &StoredCluster,
    keeper: &KeeperUid,
    args: &Args,
) -> anyhow::Result<Option<Timestamp>> {
    let mut reports = cluster.store.keeper_reports().await?;
    let activity = reports.remove(keeper).and_then(|report| report.activity).unwrap_or_default();
    if args.if_pending && !activity.pending_restart {
        output::note(&format!("keeper {keeper}: nothing waits for a restart"));
        return Ok(None);
    }
    let before = started(&activity).ok_or_else(|| {
        Failure::new(format!("the PostgreSQL of keeper {keeper} does not answer"))
            .hint("its keeper starts it by itself; stolonctl status shows what keeps it from that")
    })?;
    Ok(Some(before))
}

/// The primary is handed over where somebody is fit, so that clients wait for moments; its server is started anew as a standby.
async fn relieve_or_restart(
    cluster: &StoredCluster,
    keeper: &KeeperUid,
    before: Timestamp,
    args: &Args,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    match unless_interrupted(shutdown, heir(cluster, keeper)).await? {
        Heir::NotNeeded => {}
        Heir::None(why) => output::note(&format!("keeper {keeper} keeps the primary meanwhile: {why}")),
        Heir::Fit(heir) => {
            output::note(&format!("keeper {keeper} has the primary: handing it over to keeper {heir}"));
            hand_over(cluster, Some(&heir), HAND_OVER, shutdown).await?;
            let is_done = |seen: &Seen, _: &ClusterData| Ok(is_restarted(seen, before));
            return unless_interrupted(shutdown, until(cluster, keeper, args.timeout, is_done)).await;
        }
    }
    unless_interrupted(shutdown, restart(cluster, keeper, before, args)).await
}

/// Who takes the primary over before its server is restarted.
enum Heir {
    /// It is not the primary.
    NotNeeded,
    Fit(KeeperUid),
    /// Nobody, for this reason.
    None(String),
}

/// A standby that was restarted just now may need a moment.
async fn heir(cluster: &StoredCluster, keeper: &KeeperUid) -> anyhow::Result<Heir> {
    let deadline = Instant::now() + FIT;
    loop {
        let usable = cluster.cluster_data_to_change().await?;
        if usable.data().primary().is_none_or(|primary| primary.spec.keeper_uid != *keeper) {
            return Ok(Heir::NotNeeded);
        }
        let obstacle = match judge(cluster, &usable, None).await? {
            Ok((heir, _)) => {
                let report = cluster.store.keeper_reports().await?.remove(&heir);
                let is_pending =
                    report.and_then(|report| report.activity).is_some_and(|it| it.pending_restart);
                // Parameters that go down do so on the primary first.
                return Ok(match is_pending {
                    true => Heir::None(format!("keeper {heir} waits for a restart itself")),
                    false => Heir::Fit(heir),
                });
            }
            Err(obstacle) => obstacle,
        };
        if !obstacle.may_pass() || Instant::now() >= deadline {
            return Ok(Heir::None(obstacle.to_string()));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn restart(
    cluster: &StoredCluster,
    keeper: &KeeperUid,
    before: Timestamp,
    args: &Args,
) -> anyhow::Result<()> {
    let placed = place(cluster, keeper, RequestKind::Restart, Some(before)).await?;
    output::note(&format!("keeper {keeper}: restarting PostgreSQL"));
    placed.until(cluster, args.timeout, |seen| is_restarted(seen, before)).await
}

/// Another server than the one that was started at `before` runs, and is well.
fn is_restarted(seen: &Seen, before: Timestamp) -> bool {
    let now = seen.report.as_ref().and_then(|report| started(report.activity.as_ref()?));
    now.is_some_and(|now| now != before) && seen.is_well()
}

fn started(activity: &KeeperActivity) -> Option<Timestamp> {
    activity.started
}
