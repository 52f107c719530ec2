//! Requests about the PostgreSQL of one keeper, as `restart`, `reload` and `reinit` make them.

use std::time::Duration;

use stolon_core::operator::{self, CannotPlace, Errand, place_errand};
use stolon_model::{
    ClusterData, FailOutcome, Instance, KeeperReport, KeeperUid, Pause, RequestKind, Timestamp,
};
use stolon_runtime::{Failure, new_uid8};
use tokio::time::Instant;

use crate::commands::removekeeper::no_such_keeper;
use crate::stored_cluster::StoredCluster;

/// Between two looks at what became of a request.
const POLL: Duration = Duration::from_millis(200);

/// A request that lies in the cluster data.
pub struct Placed {
    uid: String,
    keeper: KeeperUid,
}

/// What can be seen of a keeper and its instance.
pub struct Seen {
    /// Its instance; `None`: it has none.
    pub instance: Option<Instance>,
    /// Its last report.
    pub report: Option<KeeperReport>,
}

/// Put a request into the cluster data, made for the instance and the primary that are there now. `started` is the start of the server
/// that is to be restarted.
///
/// # Errors
/// There is no such keeper, it has no instance, the cluster is paused, or the store does not answer.
pub async fn place(
    cluster: &StoredCluster,
    keeper: &KeeperUid,
    kind: RequestKind,
    started: Option<Timestamp>,
) -> anyhow::Result<Placed> {
    let uid = new_uid8();
    let command = format!("{} {keeper}", kind.as_str());
    cluster
        .change(&command, |document| {
            let errand = Errand { uid: &uid, kind: kind.clone(), started };
            let now = Timestamp::utc(jiff::Timestamp::now());
            place_errand(document, keeper, &errand, now).map_err(|why| refused(keeper, why))
        })
        .await?;
    Ok(Placed { uid, keeper: keeper.clone() })
}

/// A paused cluster is left as it is.
///
/// # Errors
/// It is paused.
pub fn refuse_pause(data: &ClusterData) -> Result<(), Failure> {
    operator::refuse_pause(data).map_err(|pause| paused(&pause))
}

fn paused(pause: &Pause) -> Failure {
    Failure::new(format!("the cluster is paused {pause}")).hint("stolonctl resume ends the pause")
}

fn refused(keeper: &KeeperUid, why: CannotPlace) -> anyhow::Error {
    match why {
        CannotPlace::Bad(bad) => bad.into(),
        CannotPlace::Paused(pause) => paused(&pause).into(),
        CannotPlace::NoInstance => Failure::new(format!("keeper {keeper} has no db")).into(),
        CannotPlace::NoSuchKeeper(none) => no_such_keeper(keeper, none.known.iter()).into(),
    }
}

impl Placed {
    /// By which keepers say that they have carried it out.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Wait until `is_done` by what is seen of the keeper.
    ///
    /// # Errors
    /// The request comes to nothing, or takes longer than `limit`.
    pub async fn until(
        &self,
        cluster: &StoredCluster,
        limit: Duration,
        is_done: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<()> {
        until(cluster, &self.keeper, limit, |seen, data| match is_done(seen) {
            true => Ok(true),
            false => self.came_to_nothing(data).map(|()| false),
        })
        .await
    }

    fn came_to_nothing(&self, data: &ClusterData) -> Result<(), Failure> {
        let request = data.keepers.get(&self.keeper).and_then(|keeper| keeper.status.fail_request.as_ref());
        let Some(request) = request.filter(|request| request.uid == self.uid) else { return Ok(()) };
        match request.outcome {
            None | Some(FailOutcome::Counted | FailOutcome::Replaced) => Ok(()),
            Some(FailOutcome::Nothing | FailOutcome::Lapsed | FailOutcome::Unknown(_)) => {
                Err(Failure::new(format!("keeper {}: nothing was done: {}", self.keeper, request.because)))
            }
        }
    }
}

/// Wait until `is_done` by what is seen of a keeper, and by the cluster data.
///
/// # Errors
/// `is_done` gives up, or it takes longer than `limit`.
pub async fn until(
    cluster: &StoredCluster,
    keeper: &KeeperUid,
    limit: Duration,
    is_done: impl Fn(&Seen, &ClusterData) -> Result<bool, Failure>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        let Ok(Some(found)) = cluster.document().await else { continue };
        let Ok(mut reports) = cluster.store.keeper_reports().await else { continue };
        let Ok(data) = ClusterData::try_from(found.value) else { continue };
        let seen = Seen { instance: data.instance_of(keeper).cloned(), report: reports.remove(keeper) };
        if is_done(&seen, &data)? {
            return Ok(());
        }
    }
    Err(Failure::new(format!("keeper {keeper} is not done within {limit:?}"))
        .hint("stolonctl status shows what it does; it goes on by itself")
        .into())
}

impl Seen {
    /// Its PostgreSQL works, does what is asked of it, and receives WAL if it is a standby.
    pub fn is_well(&self) -> bool {
        let works = self.instance.as_ref().is_some_and(|instance| {
            instance.status.healthy && instance.status.current_generation == instance.generation
        });
        let report = self.report.as_ref();
        let answers = report.and_then(|it| it.postgres_state.as_ref()).is_some_and(|state| state.healthy);
        let receives = report.and_then(|it| it.activity.as_ref());
        works && answers && receives.is_none_or(|activity| activity.replication_problem.is_empty())
    }
}
