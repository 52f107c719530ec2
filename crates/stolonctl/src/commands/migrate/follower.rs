//! What has to have everything that the legacy server wrote before it can take over.

use stolon_model::{Lsn, Migration};
use stolon_postgres::conninfo::Place;
use stolon_postgres::foreign::ForeignSession;
use tokio::time::Instant;

use super::flow::Flow;
use super::head::{Head, until_applied};
use super::legacy::{Legacy, trouble};
use super::logical;

/// How the cluster follows.
pub enum Follower<'a> {
    /// The head is a standby.
    Standby {
        /// A session with the head.
        head: ForeignSession,
        /// What it is a standby of.
        legacy: &'a Legacy,
    },
    /// The head is a primary that takes rows.
    Rows(Flow<'a>),
}

impl<'a> Follower<'a> {
    /// By what the record says.
    ///
    /// # Errors
    /// The head does not let us in.
    pub async fn of(
        migration: &'a Migration,
        legacy: &'a Legacy,
        head: &'a Head,
        place: &'a Place,
    ) -> anyhow::Result<Follower<'a>> {
        if migration.is_logical() {
            return Ok(Follower::Rows(logical::inflow(legacy, head, place, &migration.uid)));
        }
        let session = head.connect(legacy, place, None).await;
        let head =
            session.map_err(|problem| trouble("the head of the cluster does not let us in", &problem))?;
        Ok(Follower::Standby { head, legacy })
    }

    /// Until it has everything before a position of the legacy server, which `session` is with.
    ///
    /// # Errors
    /// A server does not answer, or it has not by the deadline.
    pub async fn until_has(
        &self,
        session: &ForeignSession,
        end: Lsn,
        deadline: Instant,
    ) -> anyhow::Result<()> {
        match self {
            Follower::Standby { head, legacy } => until_applied(head, legacy, end, deadline).await,
            Follower::Rows(flow) => flow.until_taken(session, end, deadline).await,
        }
    }

    /// What does not come by itself, once nobody writes to the legacy server any more.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn carry_over(&self, session: &ForeignSession) -> anyhow::Result<()> {
        match self {
            Follower::Standby { .. } => Ok(()),
            Follower::Rows(flow) => logical::carry_over(flow, session).await,
        }
    }
}
