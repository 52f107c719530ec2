//! The way back: from the switch on, what is written to the cluster goes to the legacy server too, by logical replication,
//! so that it can take over again.

use stolon_model::{Migration, Timeline};
use stolon_postgres::conninfo::Place;
use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_postgres::quote::{sql_identifier, sql_literal};
use stolon_runtime::Failure;

use super::flow::{self, Begin, Database, End, Flow, TIMELINE, column, databases, each};
use super::head::Head;
use super::identities;
use super::legacy::{Legacy, trouble};

/// Whether there is to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// What the cluster writes goes to the legacy server too.
    WayBack,
    /// The legacy server is left behind.
    NoWayBack,
}

/// The way back of one migration.
pub struct WayBack<'a> {
    /// Where it leads.
    pub legacy: &'a Legacy,
    /// Where on the legacy server's side it is connected to.
    pub place: &'a Place,
    /// From where.
    pub head: &'a Head,
    /// Uid of the migration.
    pub uid: &'a str,
    /// The timeline of the cluster on which it was made; none: it was not yet, or is not known.
    timeline: Option<Timeline>,
}

impl<'a> WayBack<'a> {
    /// That of a migration, as its record says.
    pub fn of(migration: &'a Migration, legacy: &'a Legacy, place: &'a Place, head: &'a Head) -> WayBack<'a> {
        let timeline = Some(migration.way_back_timeline).filter(|timeline| *timeline != Timeline::default());
        WayBack { legacy, place, head, uid: &migration.uid, timeline }
    }

    /// What flows on it.
    pub fn flow(&self) -> Flow<'_> {
        let from = End::Cluster { head: self.head, legacy: self.legacy, place: self.place };
        Flow { from, to: End::Legacy(self.legacy), uid: self.uid, timeline: self.timeline }
    }

    /// On the promoted head, before any client writes: what is written from then on is kept for the legacy server. Returns the timeline
    /// on which it is.
    ///
    /// # Errors
    /// The head does not answer, or has no room for the slots.
    pub async fn prepare(&self) -> anyhow::Result<Timeline> {
        let cannot =
            |problem: ForeignProblem| trouble("the way back cannot be made on the cluster", &problem);
        let (flow, limit) = (self.flow(), self.legacy.question());
        self.drop_slots().await?;
        let session = flow.from.enter(None).await.map_err(cannot)?;
        let databases = databases(&session, &limit).await.map_err(cannot)?;
        each(&databases, async |database| self.publish(database).await).await.map_err(cannot)?;
        // A slot waits for the transactions that run when it is made, so all of those come first.
        each(&databases, async |database| self.keep(database).await).await.map_err(cannot)?;
        // In the session from before: a failover meanwhile would have ended it.
        let timeline = session.value(&format!("SELECT {TIMELINE}"), &limit).await.map_err(cannot)?;
        let timeline = timeline.and_then(|text| text.parse().ok()).map(Timeline);
        timeline.ok_or_else(|| Failure::new("the cluster does not say which timeline it writes").into())
    }

    /// Publish a database of the head, in the place of what an earlier attempt may have left.
    async fn publish(&self, database: &Database) -> Result<(), ForeignProblem> {
        let (flow, limit) = (self.flow(), self.legacy.question());
        let session = flow.from.enter(Some(&database.name)).await?;
        self.unpublish(&session).await?;
        let needed = identities::needed(&session, &limit).await?;
        let name = sql_identifier(&flow.name());
        let mut sql: String = needed.iter().map(identities::Identity::take_whole_rows).collect();
        sql.push_str(&format!("CREATE PUBLICATION {name} FOR ALL TABLES; "));
        sql.push_str(&identities::remark(&name, &needed));
        session.rows(&sql, &limit).await.map(drop)
    }

    /// Remove what [`WayBack::publish`] made, from the database that a session is with.
    async fn unpublish(&self, session: &ForeignSession) -> Result<(), ForeignProblem> {
        let (name, limit) = (self.flow().name(), self.legacy.question());
        let Some(changed) = identities::of_publication(session, &limit, &name).await? else { return Ok(()) };
        let mut sql: String = changed.iter().map(identities::Identity::give_back).collect();
        sql.push_str(&format!("DROP PUBLICATION {}", sql_identifier(&name)));
        session.rows(&sql, &limit).await.map(drop)
    }

    /// Keep what is written to a database of the head from now on.
    async fn keep(&self, database: &Database) -> Result<(), ForeignProblem> {
        let flow = self.flow();
        let session = flow.from.enter(Some(&database.name)).await?;
        let slot = sql_literal(&flow.slot(database));
        let sql = format!("SELECT pg_create_logical_replication_slot({slot}, 'pgoutput')");
        session.rows(&sql, &self.legacy.question()).await.map(drop)
    }

    /// On the legacy server, behind its fence: have it take what the cluster writes.
    ///
    /// # Errors
    /// It does not answer, or cannot connect to the head.
    pub async fn subscribe(&self) -> anyhow::Result<()> {
        let cannot =
            |problem: ForeignProblem| trouble("the way back cannot be made on the legacy server", &problem);
        let flow = self.flow();
        let session = flow.from.enter(None).await.map_err(cannot)?;
        let databases = databases(&session, &self.legacy.question()).await.map_err(cannot)?;
        let subscribed = each(&databases, async |database| {
            flow.subscribe(database, self.head.place(), Begin::Level, None).await
        });
        Ok(subscribed.await.map(drop).map_err(cannot)?)
    }

    /// Remove its slots from the head alone: a former primary would keep WAL for them for ever.
    ///
    /// # Errors
    /// The head does not answer.
    pub async fn drop_slots(&self) -> anyhow::Result<()> {
        let cannot =
            |problem: ForeignProblem| trouble("the way back cannot be removed from the cluster", &problem);
        let flow = self.flow();
        let session = flow.from.enter(None).await.map_err(cannot)?;
        let sql = format!("SELECT slot_name FROM pg_replication_slots WHERE {}", flow.named_slots());
        for slot in column(&session.rows(&sql, &self.legacy.question()).await.map_err(cannot)?) {
            super::abort::drop_slot(&session, self.legacy, &slot).await?;
        }
        Ok(())
    }

    /// Remove what was made for it on the cluster.
    ///
    /// # Errors
    /// The head does not answer.
    pub async fn remove_from_cluster(&self) -> anyhow::Result<()> {
        let cannot =
            |problem: ForeignProblem| trouble("the way back cannot be removed from the cluster", &problem);
        self.drop_slots().await?;
        let (flow, limit) = (self.flow(), self.legacy.question());
        let session = flow.from.enter(None).await.map_err(cannot)?;
        let databases = databases(&session, &limit).await.map_err(cannot)?;
        let removed = each(&databases, async |database| {
            self.unpublish(&flow.from.enter(Some(&database.name)).await?).await
        });
        Ok(removed.await.map(drop).map_err(cannot)?)
    }
}

/// Remove what was made for it on the legacy server. Nothing was: nothing is done.
///
/// # Errors
/// The server does not answer.
pub async fn remove_from_legacy(legacy: &Legacy, uid: &str) -> anyhow::Result<()> {
    flow::unsubscribe(End::Legacy(legacy), uid).await
}

/// Why rows could not be carried to the other side, by what the legacy server holds: tables whose rows could not be found again, and large
/// objects.
///
/// # Errors
/// It does not answer.
pub async fn obstacles(session: &ForeignSession, legacy: &Legacy) -> Result<Vec<String>, ForeignProblem> {
    let mut found = Vec::new();
    let limit = legacy.question();
    for database in databases(session, &limit).await? {
        let session = legacy.database_past_fence(&database.name).await?;
        for table in identities::impossible(&session, &limit).await? {
            found.push(format!(
                "table {table} of database {} has no key, and a column that cannot be compared",
                database.name
            ));
        }
        let large = session.value("SELECT count(*) FROM pg_largeobject_metadata", &limit).await?;
        if large.as_deref() != Some("0") {
            found.push(format!("database {} holds large objects, which are not replicated", database.name));
        }
    }
    Ok(found)
}
