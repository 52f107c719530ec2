//! One round: read the view, reconcile, compare-and-put.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use stolon_core::sentinel::{Decision, Now, Standing, UidSource, View, Weight, reconcile};
use stolon_model::{
    Advise, BadClusterData, ClusterData, ClusterDocument, ClusterSpec, ClusterUid, InstanceUid, KeeperReport,
    KeeperUid, Timestamp, UsableCluster,
};
use stolon_runtime::new_uid8;
use stolon_store::{Everything, Expected, Revision, StoreError};
use tokio::time::Instant;

use crate::sentinel::{Next, SHORTEST_SLEEP, Sentinel};

/// Why a round ended before a decision.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("error retrieving cluster data: {0}")]
    View(StoreError),
    #[error(transparent)]
    Unusable(#[from] BadClusterData),
    #[error("cannot publish the own report: {0}")]
    OwnReport(StoreError),
    #[error("cannot create the cluster: {0}")]
    Create(StoreError),
    #[error("no cluster data available: waiting for stolonctl init")]
    NoCluster,
    #[error(
        "the cluster data of cluster {0} are gone from the store: no new cluster is made in their place, since its keepers would \
         overwrite their databases"
    )]
    Vanished(ClusterUid),
}

impl Advise for Trouble {
    fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Trouble::View(error) | Trouble::OwnReport(error) | Trouble::Create(error) => error.hint(),
            Trouble::Vanished(_) => Some(
                "write the data back with `stolonctl clusterdata write`, or begin anew with `stolonctl init`"
                    .into(),
            ),
            Trouble::Unusable(_) | Trouble::NoCluster => None,
        }
    }
}

struct RandomUids;

impl UidSource for RandomUids {
    fn instance_uid(&mut self) -> InstanceUid {
        new_uid8().into()
    }
}

impl Sentinel {
    /// One round. Whatever goes wrong is logged once, and looked at again at the next wake.
    pub(crate) async fn round(&mut self, leads: bool) -> Next {
        let standing = if leads { Standing::Leader } else { Standing::Follower };
        match self.try_round(standing).await {
            Ok(next) => {
                if self.trouble.take().is_some() {
                    tracing::info!("rounds succeed again");
                }
                next
            }
            Err(trouble) => {
                self.log_once(&trouble);
                Next::At(Instant::now() + self.sleep_interval)
            }
        }
    }

    fn log_once(&mut self, trouble: &Trouble) {
        let text = trouble.explained().on_one_line();
        if self.trouble.as_ref() != Some(&text) {
            match trouble {
                Trouble::NoCluster => tracing::info!("{text}"),
                _ => tracing::error!("{text}; trying again"),
            }
            self.trouble = Some(text);
        }
    }

    async fn try_round(&mut self, standing: Standing) -> Result<Next, Trouble> {
        let Everything { document, keepers, proxies } =
            self.store.everything().await.map_err(Trouble::View)?;
        let Some(read) = document else { return self.create_cluster(&keepers).await };
        let cluster = UsableCluster::try_from(read.value)?;
        self.last_seen = Some(cluster.data().cluster.uid.clone());
        self.sleep_interval = cluster.spec().sleep_interval.max(SHORTEST_SLEEP);
        self.publish_report().await.map_err(Trouble::OwnReport)?;
        let view = View { cluster: &cluster, keepers: &keepers, proxies: &proxies, standing };
        let now = Now { monotonic: self.started.elapsed(), wall: wall_clock() };
        let decision = reconcile(&view, &self.memory, now, &mut RandomUids);
        let wake_at = decision
            .wake_at
            .map_or(Next::At(Instant::now() + self.sleep_interval), |at| Next::At(self.started + at));
        match standing {
            Standing::Follower => {
                // It has no verdicts to be in time with: what it sees it remembers when it sees it.
                self.memory = decision.memory;
                Ok(Next::At(Instant::now() + self.sleep_interval))
            }
            Standing::Leader => Ok(self.carry_out(decision, read.revision).await.unwrap_or(wake_at)),
        }
    }

    /// Write what was decided: at once when somebody must act on it, otherwise as a sign of life.
    async fn carry_out(&mut self, decision: Decision, revision: Revision) -> Option<Next> {
        let due = self.last_write.is_none_or(|at| self.is_due(at));
        if decision.weight == Weight::Decisive || due {
            let document = ClusterDocument::from(decision.next.clone());
            match self.store.compare_and_put_cluster_document(&document, Expected::Revision(revision)).await {
                Ok(_) => self.last_write = Some(Instant::now()),
                Err(error) => return Some(self.refused(decision, &error)),
            }
        }
        self.explain(&decision);
        self.memory = decision.memory;
        self.metrics.last_success.set(unix_seconds());
        None
    }

    fn refused(&mut self, decision: Decision, error: &StoreError) -> Next {
        self.memory = decision.memory_of_refused_write(&self.memory);
        match error {
            StoreError::Conflict => {
                tracing::info!("somebody else changed the cluster data meanwhile, deciding again");
                Next::AtOnce
            }
            error => {
                tracing::error!(%error, "error saving clusterdata");
                Next::At(Instant::now() + self.sleep_interval)
            }
        }
    }

    /// Every change once; what does not happen only when the reasons are other ones than before.
    fn explain(&mut self, decision: &Decision) {
        for change in &decision.changes {
            tracing::info!("{change}");
        }
        for hold in &decision.holds {
            if !self.holds.iter().any(|known| known.is_same_as(hold)) {
                tracing::info!("{hold}");
            }
        }
        self.metrics.holds.set(i64::try_from(decision.holds.len()).unwrap_or(i64::MAX));
        let same = self.holds.len() == decision.holds.len()
            && self.holds.iter().zip(&decision.holds).all(|(known, hold)| known.is_same_as(hold));
        if !same {
            // Published with the next report, which is due now.
            self.last_report = None;
        }
        self.holds.clone_from(&decision.holds);
    }

    /// There is no document: make one if this sentinel was told how, and if nobody remembers another one. A store that was lost or
    /// emptied is no operator's consent to overwrite databases.
    async fn create_cluster(&mut self, keepers: &BTreeMap<KeeperUid, KeeperReport>) -> Result<Next, Trouble> {
        if let Some(cluster) = self.remembered_cluster(keepers) {
            return Err(Trouble::Vanished(cluster));
        }
        let Some(spec) = self.initial_spec.clone() else { return Err(Trouble::NoCluster) };
        let document = initial_document(spec);
        match self.store.compare_and_put_cluster_document(&document, Expected::Absent).await {
            Ok(_) => tracing::info!("the cluster was created from the initial specification"),
            Err(StoreError::Conflict) => tracing::info!("another sentinel has created the cluster"),
            Err(error) => return Err(Trouble::Create(error)),
        }
        Ok(Next::AtOnce)
    }

    /// The cluster that this sentinel has seen, or that keepers report to.
    fn remembered_cluster(&self, keepers: &BTreeMap<KeeperUid, KeeperReport>) -> Option<ClusterUid> {
        let reported = || keepers.values().map(|report| &report.cluster_uid).find(|uid| !uid.is_empty());
        self.last_seen.as_ref().or_else(reported).cloned()
    }
}

fn initial_document(spec: ClusterSpec) -> ClusterDocument {
    ClusterData::initial(ClusterUid(new_uid8()), spec, wall_clock()).into()
}

fn wall_clock() -> Timestamp {
    Timestamp::utc(jiff::Timestamp::now())
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
