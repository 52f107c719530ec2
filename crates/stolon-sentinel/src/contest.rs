//! The contest for the leadership among the sentinels of a cluster.

use stolon_model::SentinelUid;
use stolon_store::{Campaign, ClusterStore, Leadership};

/// A contender, or the leader.
pub struct Contest {
    campaign: Campaign,
    leadership: Option<Leadership>,
}

impl Contest {
    /// Enter the contest.
    pub fn enter(store: &dyn ClusterStore, uid: SentinelUid) -> Self {
        Contest { campaign: store.campaign(uid), leadership: None }
    }

    /// True while no other sentinel can lead.
    pub fn leads(&self) -> bool {
        self.leadership.as_ref().is_some_and(Leadership::is_held)
    }

    /// Returns when the leadership was won or lost. Cancel-safe.
    pub async fn changed(&mut self) {
        match &mut self.leadership {
            None => {
                self.leadership = Some(self.campaign.elected().await);
                tracing::info!("leader election result: this sentinel leads");
            }
            Some(leadership) => {
                leadership.lost().await;
                self.leadership = None;
                tracing::warn!("this sentinel no longer leads");
            }
        }
    }

    /// Give up the leadership, so that another sentinel can take over at once.
    pub async fn resign(self) {
        let Contest { campaign, leadership } = self;
        if let Some(leadership) = leadership {
            leadership.resign().await;
            tracing::info!("this sentinel has given up the leadership");
        }
        campaign.withdraw().await;
    }
}
