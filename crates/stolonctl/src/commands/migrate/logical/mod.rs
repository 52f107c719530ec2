//! The logical method: rows come by logical replication into a cluster that exists already, of the same or a newer major version of PostgreSQL
//! (docs: design/010-migration.md, "The logical method").
//!
//! The cluster is a primary from the beginning, and closed for clients until the switch. So the point of no return opens it instead of
//! promoting it.

mod definitions;
mod fit;
mod locks;
mod programs;
pub mod progress;
mod publishing;
mod schema;
pub mod start;

use stolon_model::{ClusterData, ClusterDocument, Migration};
use stolon_postgres::conninfo::Place;
use stolon_postgres::foreign::ForeignSession;
use stolon_runtime::{Failure, explained};

use super::flow::{self, End, Flow, databases, each};
use super::head::Head;
use super::legacy::{Legacy, trouble};
use super::{closing, fence};
use crate::output;

pub use publishing::{found, withdraw};

/// So many values of a sequence are skipped at the switch: what a server has given out and not written down is never given out again.
const MARGIN: u32 = 32;

/// What the legacy server writes comes to the cluster.
pub fn inflow<'a>(legacy: &'a Legacy, head: &'a Head, place: &'a Place, uid: &'a str) -> Flow<'a> {
    Flow { from: End::Legacy(legacy), to: End::Cluster { head, legacy, place }, uid, timeline: None }
}

/// What keeps a cluster that is filled from taking over.
///
/// # Errors
/// One of the servers does not answer.
pub async fn obstacles(flow: &Flow<'_>, head: &Head, migration: &Migration) -> anyhow::Result<Vec<String>> {
    let mut obstacles = progress::obstacles(flow).await?;
    if head.timeline() != migration.cluster_timeline {
        obstacles.push(
            "the cluster has failed over since it began to take rows, and those that its new primary had not received will never come: \
             stolonctl migrate abort, and begin anew"
                .to_owned(),
        );
    }
    Ok(obstacles)
}

/// Why there can be no way back from this cluster.
///
/// # Errors
/// The cluster does not answer.
pub async fn no_way_back(flow: &Flow<'_>) -> anyhow::Result<Option<String>> {
    let cannot = |problem| trouble("the cluster cannot be asked", &problem);
    let session = flow.to.enter(None).await.map_err(cannot)?;
    let level =
        session.value("SELECT current_setting('wal_level')", &flow.to.question()).await.map_err(cannot)?;
    Ok((level.as_deref() != Some("logical")).then(|| "wal_level of the cluster is not logical".to_owned()))
}

/// With the legacy server closed, and everything taken: what rows do not carry.
///
/// # Errors
/// A server does not answer, or something was defined anew on the legacy server meanwhile.
pub async fn carry_over(flow: &Flow<'_>, session: &ForeignSession) -> anyhow::Result<()> {
    let cannot = |problem| trouble("definitions cannot be compared", &problem);
    let databases = databases(session, &flow.from.question()).await.map_err(cannot)?;
    each(&databases, async |database| {
        let from = flow.from.enter(Some(&database.name)).await.map_err(cannot)?;
        let to = flow.to.enter(Some(&database.name)).await.map_err(cannot)?;
        let changes = progress::changes(flow, &from, &to).await.map_err(cannot)?;
        if !changes.is_empty() {
            return Err(anyhow::Error::from(schema::changed(database, &changes)));
        }
        flow.carry_sequences_of(&from, &to, MARGIN).await
    })
    .await?;
    output::note("sequences go on where those of the legacy server are");
    Ok(())
}

/// The cluster takes nothing from the legacy server any more.
///
/// # Errors
/// The cluster does not answer.
pub async fn stop_taking(legacy: &Legacy, head: &Head, place: &Place, uid: &str) -> anyhow::Result<()> {
    flow::stop_taking(End::Cluster { head, legacy, place }, uid).await
}

/// The cluster follows the legacy server no more: what goes back to that must not come again.
///
/// # Errors
/// The cluster does not answer.
pub async fn stop_following(legacy: &Legacy, head: &Head, place: &Place, uid: &str) -> anyhow::Result<()> {
    flow::unsubscribe(End::Cluster { head, legacy, place }, uid).await
}

/// Remove from both sides what was made to fill the cluster. A cluster that does not answer is left as it is, which is said.
///
/// # Errors
/// The legacy server does not answer.
pub async fn remove(legacy: &Legacy, document: ClusterDocument, uid: &str) -> anyhow::Result<()> {
    let head =
        ClusterData::try_from(document).map_err(anyhow::Error::from).and_then(|data| Ok(Head::of(&data)?));
    let stopped = match &head {
        Ok(head) => stop_following(legacy, head, &legacy.first_place(), uid).await,
        Err(error) => Err(Failure::new(explained(error).sentence).into()),
    };
    if let Err(error) = stopped {
        output::note(&format!(
            "the cluster still tries to follow the legacy server: {}",
            explained(&error).sentence
        ));
    }
    withdraw(legacy, uid, head.as_ref().ok().map(Head::system_identifier)).await
}

/// Nobody knows any more whether the cluster has taken over; only that it is closed as it was when rows came into it tells that it has not.
///
/// # Errors
/// The cluster is open, or there is none.
pub fn must_be_closed(document: Option<&ClusterDocument>) -> Result<(), Failure> {
    match document.and_then(closing::admitted) {
        Some(lines) if closing::is_ours(&lines) => Ok(()),
        _ => Err(Failure::new("the record of the migration is lost, and nobody knows whether the cluster has taken over")
            .hint(
                "if it has not: connect to the legacy server with options='-c session_preload_libraries=', and ALTER SYSTEM RESET \
                 session_preload_libraries and default_transaction_read_only",
            )),
    }
}

/// Whether a fence stands on the legacy server.
///
/// # Errors
/// It does not answer.
pub async fn is_closed(session: &ForeignSession, legacy: &Legacy) -> anyhow::Result<bool> {
    let settings = fence::settings(session, legacy).await;
    Ok(settings
        .map_err(|problem| trouble("the legacy server cannot be asked", &problem))?
        .fenced_for()
        .is_some())
}
