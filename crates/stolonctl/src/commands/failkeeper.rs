//! `stolonctl failkeeper`

use std::time::Duration;

use stolon_core::operator::fail_keeper;
use stolon_model::{ClusterDocument, EffectiveSpec, FailOutcome, KeeperStatus, KeeperUid, Timestamp};
use stolon_runtime::{CommonArgs, Failure, new_uid8};
use tokio::time::Instant;

use crate::commands::removekeeper::{no_such_keeper, only_uid};
use crate::output;
use crate::stored_cluster::{Edit, StoredCluster};

/// Between two looks at what became of the request.
const POLL: Duration = Duration::from_millis(200);

/// Flags of `failkeeper`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid
    #[arg(value_name = "KEEPER")]
    uid: Vec<String>,
}

/// Ask the leading sentinel to treat a keeper as failed in its next round, and say what became of it.
///
/// # Errors
/// There is no such keeper, nobody could take its place, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    let uid: KeeperUid = only_uid(&args.uid, "failkeeper KEEPER")?;
    let cluster = StoredCluster::open(common)?;
    let patience = patience(cluster.cluster_data_to_change().await?.spec());
    let request = new_uid8();
    cluster.change(&format!("failkeeper {uid}"), |document| mark(document, &uid, &request)).await?;
    let leader = cluster.store.leader().await;
    if !matches!(leader, Ok(Some(_))) {
        output::note("no sentinel leads now: the request lapses unless one takes over soon");
        return Ok(());
    }
    follow(&cluster, &uid, &request, patience).await
}

/// A few rounds, and the time that proxies may need to close.
fn patience(spec: &EffectiveSpec) -> Duration {
    spec.sleep_interval * 3 + spec.fail_interval + spec.proxy_timeout * 2
}

fn mark(document: &mut ClusterDocument, uid: &KeeperUid, request: &str) -> anyhow::Result<Edit> {
    fail_keeper(document, uid, request, Timestamp::utc(jiff::Timestamp::now()))
        .map_err(|none| no_such_keeper(uid, none.known.iter()).into())
}

/// Until it is known what became of the request.
async fn follow(
    cluster: &StoredCluster,
    uid: &KeeperUid,
    request: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        let Ok(Some(found)) = cluster.document().await else { continue };
        let keeper = found.value.keepers.as_ref().and_then(|keepers| keepers.get(uid));
        let Some(status) = keeper.map(|keeper| &keeper.status) else {
            output::note(&format!("keeper {uid} is not registered any more"));
            return Ok(());
        };
        if let Some(told) = told(uid, status, request) {
            return told.map_err(Into::into);
        }
    }
    withdraw(cluster, uid, request).await?;
    Err(Failure::new(format!("no sentinel has said within {patience:?} what became of the request"))
        .hint("the request is withdrawn; stolonctl status shows what goes on")
        .into())
}

/// What the cluster data tell about the request; nothing yet as long as it is under way.
fn told(uid: &KeeperUid, status: &KeeperStatus, request: &str) -> Option<Result<(), Failure>> {
    let Some(found) = status.fail_request.as_ref().filter(|found| found.uid == request) else {
        // A sentinel of Stolon drops what it does not know.
        if !status.force_fail {
            output::note("the leading sentinel has taken the request, and does not tell what becomes of it");
            return Some(Ok(()));
        }
        return None;
    };
    match found.outcome.as_ref()? {
        FailOutcome::Replaced => output::note(&format!("keeper {uid} was replaced: {}", found.because)),
        FailOutcome::Counted => output::note(&format!("keeper {uid} counted as failed: {}", found.because)),
        FailOutcome::Nothing | FailOutcome::Lapsed | FailOutcome::Unknown(_) => {
            return Some(Err(Failure::new(format!("keeper {uid} was not replaced: {}", found.because))));
        }
    }
    Some(Ok(()))
}

/// A request that nobody has taken must not fire later.
async fn withdraw(cluster: &StoredCluster, uid: &KeeperUid, request: &str) -> anyhow::Result<()> {
    cluster
        .change(&format!("failkeeper {uid}, withdrawn"), |document| {
            let keeper = document.keepers.as_mut().and_then(|keepers| keepers.get_mut(uid));
            let Some(status) = keeper.map(|keeper| &mut keeper.status) else { return Ok(Edit::Unneeded) };
            if status
                .fail_request
                .as_ref()
                .is_none_or(|found| found.uid != request || found.outcome.is_some())
            {
                return Ok(Edit::Unneeded);
            }
            status.force_fail = false;
            status.fail_request = None;
            Ok(Edit::Write)
        })
        .await
        .map(drop)
}
