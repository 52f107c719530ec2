//! What a switch would meet, before anything is changed.

use std::time::Duration;

use serde::Serialize;
use stolon_model::{ByteCount, ClusterData, ClusterDocument, Migration, Role};
use stolon_runtime::Failure;

use super::super::facts::Facts;
use super::super::fence::Side;
use super::super::flow::Lag;
use super::super::head::Head;
use super::super::legacy::{Legacy, trouble};
use super::super::way_back::Wish;
use super::super::{fence, logical, status, way_back};
use crate::output::{self, Format};
use crate::pretty::to_tabbed_json;
use crate::stored_cluster::{StoredCluster, cannot_get};

/// A cluster that is further behind would not catch up in time.
const FAR: u64 = 64 << 20;

/// What was found.
pub struct Look {
    /// Who would take over.
    pub head: Head,
    clients: u64,
    in_transactions: u64,
    lag: Option<u64>,
    obstacles: Vec<String>,
}

/// What `--dry-run` answers.
#[derive(Serialize)]
struct Answer<'a> {
    keeper: &'a str,
    clients: u64,
    in_transactions: u64,
    lag_bytes: Option<u64>,
    obstacles: &'a [String],
}

impl Look {
    /// Look at the cluster and the legacy server.
    ///
    /// # Errors
    /// One of them does not answer, or there is no head.
    pub async fn take(
        cluster: &StoredCluster,
        document: &ClusterDocument,
        legacy: &Legacy,
        migration: &Migration,
        wish: Wish,
    ) -> anyhow::Result<Look> {
        let data = ClusterData::try_from(document.clone())?;
        let head = Head::of(&data)?;
        let cannot = |problem| trouble("the legacy server cannot be asked", &problem);
        let session = legacy.connect_past_fence().await.map_err(cannot)?;
        let facts = Facts::ask(&session, legacy).await?;
        let mut obstacles = Vec::new();
        let place = session.place().clone();
        let flow = migration.is_logical().then(|| logical::inflow(legacy, &head, &place, &migration.uid));
        if let Some(flow) = &flow {
            obstacles.extend(logical::obstacles(flow, &head, migration).await?);
        } else if data.cluster.spec.effective().role != Role::Standby {
            obstacles.push("the cluster was promoted by other means".to_owned());
        }
        if facts.system_identifier != migration.system_identifier {
            obstacles.push("another server answers in the place of the legacy server".to_owned());
        }
        if flow.is_none() && !head.is_copy_of(&facts.system_identifier) {
            obstacles.push(format!("keeper {} does not hold a copy of the legacy server", head.keeper));
        }
        if facts.timeline != migration.timeline {
            obstacles.push("the legacy server has failed over since the migration began".to_owned());
        }
        if !migration.rehearsal {
            obstacles.extend(fence::obstacles(&session, legacy).await.map_err(cannot)?);
        }
        if !matches!(cluster.store.leader().await, Ok(Some(_))) {
            obstacles.push("no sentinel leads now, so nobody would promote the cluster".to_owned());
        }
        let reports = cluster.store.keeper_reports().await.map_err(cannot_get)?;
        let reported = status::reported(&reports, head.keeper.as_str());
        let lag = match &flow {
            Some(flow) => flow.lag().await.map(Lag::bytes).map_err(cannot)?,
            None => status::lag(&session, legacy, migration, reported).await.map_err(cannot)?,
        };
        match lag {
            None => {
                obstacles.push("the cluster does not receive anything from the legacy server now".to_owned())
            }
            Some(lag) if lag > FAR => obstacles.push(format!("the cluster is {} behind", ByteCount(lag))),
            Some(_) => {}
        }
        if wish == Wish::WayBack {
            if let Some(flow) = &flow
                && let Some(why) = logical::no_way_back(flow).await?
            {
                obstacles.push(format!("no way back, which --no-way-back does without: {why}"));
            }
            for why in way_back::obstacles(&session, legacy).await.map_err(cannot)? {
                obstacles.push(format!("no way back, which --no-way-back does without: {why}"));
            }
        }
        let (clients, in_transactions) =
            fence::clients(&session, legacy, Side::Legacy).await.map_err(cannot)?;
        Ok(Look { head, clients, in_transactions, lag, obstacles })
    }

    /// Nothing is in the way.
    ///
    /// # Errors
    /// Something is.
    pub fn in_the_way(&self) -> Result<(), Failure> {
        match self.obstacles.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(format!("no switch: {}", self.obstacles.join("; ")))
                .hint("nothing was changed; stolonctl migrate status shows how far it is")),
        }
    }

    /// The answer to `--dry-run`.
    ///
    /// # Errors
    /// Something is in the way.
    pub fn show(&self, max_downtime: Duration, format: Format) -> anyhow::Result<()> {
        let keeper = self.head.keeper.as_str();
        let text = match format {
            Format::Json => {
                let answer = Answer {
                    keeper,
                    clients: self.clients,
                    in_transactions: self.in_transactions,
                    lag_bytes: self.lag,
                    obstacles: &self.obstacles,
                };
                format!("{}\n", to_tabbed_json(&answer))
            }
            Format::Text => format!(
                "{} sessions of clients would be ended, {} of them in a transaction now\n\
                 the cluster is {} behind; keeper {keeper} would be promoted, within {} s or not at all\n\
                 nothing was changed\n",
                self.clients,
                self.in_transactions,
                ByteCount(self.lag.unwrap_or_default()),
                max_downtime.as_secs(),
            ),
        };
        output::result(&text)?;
        Ok(self.in_the_way()?)
    }
}
