//! Whether this sentinel leads: a candidature, or the leadership that it won.

use stolon_model::SentinelUid;
use stolon_store::{Campaign, ClusterStore, Leadership};

/// Candidate or leader.
pub struct Office {
    campaign: Campaign,
    leadership: Option<Leadership>,
}

impl Office {
    /// Stand for election.
    pub fn candidate(store: &dyn ClusterStore, uid: SentinelUid) -> Self {
        Office { campaign: store.campaign(uid), leadership: None }
    }

    /// True while nobody else can lead.
    pub fn leads(&self) -> bool {
        self.leadership.as_ref().is_some_and(Leadership::is_held)
    }

    /// Returns when the office was won or lost. Cancel-safe.
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

    /// Give the office up, so that a successor can take over at once.
    pub async fn resign(self) {
        let Office { campaign, leadership } = self;
        if let Some(leadership) = leadership {
            leadership.resign().await;
            tracing::info!("leadership was given up");
        }
        campaign.withdraw().await;
    }
}
