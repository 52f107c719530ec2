//! The head: the instance of the cluster that follows the legacy server, and is promoted.

use std::time::Duration;

use stolon_model::{ClusterData, Instance, InstanceUid, KeeperUid, Lsn, Role, Timeline};
use stolon_postgres::conninfo::{Conninfo, Place};
use stolon_postgres::foreign::{self, Door, Entry, ForeignProblem, ForeignSession};
use stolon_runtime::Failure;
use tokio::time::Instant;

use super::legacy::{Legacy, trouble};
use super::wait::{Seen, until};
use crate::stored_cluster::StoredCluster;

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// The head, by the cluster data.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its keeper.
    pub keeper: KeeperUid,
    /// The instance.
    pub instance: InstanceUid,
    place: Place,
    system_identifier: String,
    timeline: Timeline,
    /// How its PostgreSQL is entered, where that is not as the legacy server is.
    own: Option<Conninfo>,
}

impl Head {
    /// The elected instance.
    ///
    /// # Errors
    /// Nobody is elected, or the elected one is not known to work.
    pub fn of(data: &ClusterData) -> Result<Head, Failure> {
        let nobody = || {
            Failure::new("the copy is not complete yet: the cluster has no master")
                .hint("stolonctl migrate status shows how far it is")
        };
        let head = data.primary().ok_or_else(nobody)?;
        if !head.status.healthy {
            return Err(Failure::new(format!("PostgreSQL of keeper {} does not work", head.spec.keeper_uid))
                .hint("stolonctl status shows what is going on"));
        }
        Head::at(head, data)
    }

    /// All other instances that have said where they listen: one of them may have been the head before.
    ///
    /// # Errors
    /// The record does not say how they are entered.
    pub fn others(data: &ClusterData) -> Result<Vec<Head>, Failure> {
        let head = data.primary().map(|head| &head.uid);
        let others = data.instances.values().filter(|instance| Some(&instance.uid) != head);
        let others = others.filter(|instance| !instance.status.listen_address.is_empty());
        others.map(|instance| Head::at(instance, data)).collect()
    }

    fn at(instance: &Instance, data: &ClusterData) -> Result<Head, Failure> {
        let target = data.cluster.status.migration.as_ref().map_or("", |record| record.target.as_str());
        let own = match target {
            "" => None,
            target => Some(Conninfo::parse(target).map_err(|bad| {
                Failure::because("the migration does not say how the cluster is entered", &bad)
            })?),
        };
        Ok(Head {
            own,
            keeper: instance.spec.keeper_uid.clone(),
            instance: instance.uid.clone(),
            place: Place { host: instance.status.listen_address.clone(), port: instance.status.port.clone() },
            system_identifier: instance.status.system_identifier.clone(),
            timeline: instance.status.timeline,
        })
    }

    /// Of its data, in decimal.
    pub fn system_identifier(&self) -> &str {
        &self.system_identifier
    }

    /// Its timeline.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// Whether its data are a copy of a server with this system identifier.
    pub fn is_copy_of(&self, system_identifier: &str) -> bool {
        self.system_identifier == system_identifier
    }

    /// As whom its PostgreSQL is entered, and by which server's line in the password file. The users of a copy are those of the legacy
    /// server, which listens at `legacy_place`.
    pub fn entered_as<'a>(&'a self, legacy: &'a Legacy, legacy_place: &Place) -> (&'a Conninfo, Place) {
        match &self.own {
            None => (&legacy.conninfo, legacy_place.clone()),
            Some(own) => (own, own.places().into_iter().next().unwrap_or_else(|| self.place.clone())),
        }
    }

    /// A session with it. `database`: none for the usual one.
    ///
    /// # Errors
    /// It does not let us in.
    pub async fn connect(
        &self,
        legacy: &Legacy,
        legacy_place: &Place,
        database: Option<&str>,
    ) -> Result<ForeignSession, ForeignProblem> {
        let (who, password_of) = self.entered_as(legacy, legacy_place);
        let door =
            Door { place: &self.place, password_of: &password_of, database, entry: Entry::PastLibraries };
        foreign::enter(who, door, &legacy.question()).await
    }

    /// Where it listens.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

/// Until the head has applied everything before a position of the legacy server.
///
/// # Errors
/// It does not answer, is no standby any more, or has not by the deadline.
pub async fn until_applied(
    head: &ForeignSession,
    legacy: &Legacy,
    end: Lsn,
    deadline: Instant,
) -> anyhow::Result<()> {
    let sql = format!("SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= '{end}'");
    until(POLL, deadline, async || {
        let applied = head.value(&sql, &legacy.question()).await;
        let applied = applied.map_err(|problem| trouble("the cluster cannot be asked", &problem))?;
        Ok(match applied.as_deref() {
            Some("t") => Seen::Done(()),
            _ => Seen::not_yet(Failure::new("the cluster has not received everything in time")),
        })
    })
    .await
}

/// Until the elected instance has been promoted, and answers: a session with it.
///
/// # Errors
/// It has not by the deadline.
pub async fn until_promoted(
    cluster: &StoredCluster,
    legacy: &Legacy,
    legacy_place: &Place,
    deadline: Instant,
) -> anyhow::Result<Head> {
    let promoted = async || {
        let head = Head::of(&ClusterData::try_from(cluster.workable_document().await?.value)?)?;
        let session = head.connect(legacy, legacy_place, None).await?;
        let in_recovery = session.value("SELECT pg_is_in_recovery()", &legacy.question()).await?;
        anyhow::Ok((in_recovery.as_deref() == Some("f")).then_some(head))
    };
    until(POLL, deadline, async || {
        // A head that does not answer now may in a moment, or another one is elected.
        Ok(match promoted().await {
            Ok(Some(head)) => Seen::Done(head),
            Ok(None) => Seen::not_yet(Failure::new("the cluster is not promoted yet")),
            Err(error) => Seen::NotYet(error),
        })
    })
    .await
}

/// Until the store says that the elected instance works as a primary and proxies are sent there.
///
/// # Errors
/// It does not by the deadline.
pub async fn until_writable(cluster: &StoredCluster, deadline: Instant) -> anyhow::Result<()> {
    until(POLL, deadline, async || {
        if let Ok(Some(found)) = cluster.document().await
            && let Ok(data) = ClusterData::try_from(found.value)
            && is_writable(&data)
        {
            return Ok(Seen::Done(()));
        }
        Ok(Seen::not_yet(Failure::new("the cluster does not take writes yet").hint(
            "its promotion goes on; stolonctl status shows what is going on, stolonctl migrate switch waits again",
        )))
    })
    .await
}

/// Whether every standby that is wanted, and can be, has said where it listens: right after a failover the former primary has not.
pub fn all_listen(data: &ClusterData) -> bool {
    let standbys = usize::from(data.cluster.spec.effective().max_standbys_per_sender);
    let keepers = data.keepers.values().filter(|keeper| keeper.status.healthy).count();
    let working = data.instances.values().filter(|instance| !instance.status.listen_address.is_empty());
    working.count() >= keepers.min(1 + standbys)
}

fn is_writable(data: &ClusterData) -> bool {
    data.primary().is_some_and(|primary| {
        primary.spec.role == Some(Role::Primary)
            && primary.status.healthy
            && primary.status.current_generation == primary.generation
            && data.proxy.spec.primary.as_ref() == Some(&primary.uid)
    })
}
