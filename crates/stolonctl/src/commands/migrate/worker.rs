//! One command at a time carries a migration on, and one that died, or sleeps, is taken over from
//! (docs: design/010-migration.md, "Who is the worker").

use std::time::Duration;

use stolon_model::{ClusterDocument, Migration, MigrationWorker};
use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_runtime::{Failure, new_uid8};
use tokio::time::Instant;

use super::legacy::{Legacy, trouble};
use super::record;
use super::wait::{Seen, until};
use crate::operator;
use crate::stored_cluster::{Edit, StoredCluster};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// A worker that gives no sign of life for so long is taken over from.
const STANDSTILL: Duration = Duration::from_secs(5);
/// Between two looks at another one's signs of life.
const POLL: Duration = Duration::from_millis(250);
/// How long a session of another worker may take to end.
const SESSION_ENDS: Duration = Duration::from_secs(5);
/// The advisory lock on the legacy server: whoever changes the server holds it. Two numbers that nobody else is likely to choose.
const LOCK: (i32, i32) = (0x5374_6f6c, 0x6d69_6772);

/// This command carries the migration on, for as long as nobody took over from it.
pub struct Worker {
    cluster: StoredCluster,
    uid: String,
    beats: tokio::task::JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

impl Worker {
    /// Become the worker, with a change of the cluster data in the same write. Another one that lives is left alone.
    ///
    /// # Errors
    /// Another one is at work, there is no migration, `turn` refuses, or the store does not answer.
    pub async fn claim(
        cluster: &StoredCluster,
        command: &str,
        turn: impl FnMut(&mut ClusterDocument) -> anyhow::Result<()>,
    ) -> anyhow::Result<Worker> {
        let before = stands_still(cluster).await?;
        Worker::claim_from(cluster, command, before.as_ref(), turn).await
    }

    /// [`Worker::claim`] where it is known already that the worker that there was gives no sign of life.
    ///
    /// # Errors
    /// The same.
    pub async fn claim_from(
        cluster: &StoredCluster,
        command: &str,
        before: Option<&MigrationWorker>,
        mut turn: impl FnMut(&mut ClusterDocument) -> anyhow::Result<()>,
    ) -> anyhow::Result<Worker> {
        let uid = new_uid8();
        cluster
            .change(command, |document| {
                let other = record::to_change(document)?.worker.as_ref();
                if let Some(other) = other.filter(|other| Some(*other) != before) {
                    return Err(busy(other).into());
                }
                turn(document)?;
                let migration = record::to_change(document)?;
                let (who, command) = (operator::name(), command.to_owned());
                migration.worker = Some(MigrationWorker { uid: uid.clone(), who, command, beat: 0 });
                Ok(Edit::Write)
            })
            .await?;
        let beats = tokio::spawn(beats(cluster.clone(), uid.clone()));
        Ok(Worker { cluster: cluster.clone(), uid, beats })
    }

    /// Change the cluster data, if nobody has taken over. The history gets no entry.
    ///
    /// # Errors
    /// Somebody has taken over, `edit` refuses, or the store does not answer.
    pub async fn change(
        &self,
        mut edit: impl FnMut(&mut ClusterDocument) -> anyhow::Result<Edit>,
    ) -> anyhow::Result<()> {
        self.cluster
            .amend(|document| {
                self.must_be_at_work(record::of(document))?;
                edit(document)
            })
            .await
    }

    /// [`Worker::change`] of the record alone.
    ///
    /// # Errors
    /// The same.
    pub async fn note(&self, mut edit: impl FnMut(&mut Migration)) -> anyhow::Result<()> {
        self.change(|document| {
            edit(record::to_change(document)?);
            Ok(Edit::Write)
        })
        .await
    }

    fn must_be_at_work(&self, migration: Option<&Migration>) -> Result<(), Failure> {
        match migration.and_then(|migration| migration.worker.as_ref()) {
            Some(worker) if worker.uid == self.uid => Ok(()),
            Some(other) => Err(Failure::new(format!("{} by {} has taken over", other.command, other.who))
                .hint("stolonctl migrate status shows how far it is")),
            None => Err(Failure::new("the migration was ended meanwhile")),
        }
    }

    /// The only session through which the legacy server is changed. Those of others that changed it are ended, and the record is
    /// read again after that: so nobody who was taken over from changes anything later.
    ///
    /// # Errors
    /// The legacy server does not let us in, the session of another one does not end, or somebody has taken over.
    pub async fn session(&self, legacy: &Legacy) -> anyhow::Result<ForeignSession> {
        let session = alone(legacy).await?;
        let document = self.cluster.workable_document().await?.value;
        self.must_be_at_work(record::of(&document))?;
        Ok(session)
    }
}

/// A session past the fence that holds the lock, when no other session holds it any more.
///
/// # Errors
/// The legacy server does not let us in, or the session of another one does not end.
pub async fn alone(legacy: &Legacy) -> anyhow::Result<ForeignSession> {
    let cannot = |problem: ForeignProblem| trouble("the legacy server cannot be changed", &problem);
    let session = legacy.connect_past_fence().await.map_err(cannot)?;
    let (high, low) = LOCK;
    let take = format!("SELECT pg_try_advisory_lock({high}, {low})");
    // Locks belong to a database: another one's may be in another.
    let others = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND classid = {high} \
         AND objid = {low} AND objsubid = 2 AND granted AND pid <> pg_backend_pid()"
    );
    let mut has_lock = false;
    until(POLL, Instant::now() + SESSION_ENDS, async || {
        if !has_lock {
            has_lock =
                session.value(&take, &legacy.question()).await.map_err(cannot)?.as_deref() == Some("t");
        }
        let ended = session.value(&others, &legacy.question()).await.map_err(cannot)?;
        anyhow::Ok(match has_lock && ended.as_deref() == Some("0") {
            true => Seen::Done(()),
            false => Seen::not_yet(Failure::new(
                "the session of another stolonctl on the legacy server does not end",
            )),
        })
    })
    .await?;
    Ok(session)
}

/// The worker that the record names, once it is known that it gives no sign of life.
///
/// # Errors
/// It does; or there is no migration, or the store does not answer.
pub async fn stands_still(cluster: &StoredCluster) -> anyhow::Result<Option<MigrationWorker>> {
    let look = async || {
        let document = cluster.workable_document().await?.value;
        let migration = record::of(&document).ok_or_else(record::nothing_under_way)?;
        anyhow::Ok(migration.worker.clone())
    };
    let Some(seen) = look().await? else { return Ok(None) };
    let deadline = Instant::now() + STANDSTILL;
    while Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        match look().await? {
            None => return Ok(None),
            Some(now) if now != seen => return Err(busy(&now).into()),
            Some(_) => {}
        }
    }
    Ok(Some(seen))
}

fn busy(other: &MigrationWorker) -> Failure {
    Failure::new(format!("{} by {} is under way", other.command, other.who))
        .hint("stolonctl migrate status --watch shows how far it is")
}

async fn beats(cluster: StoredCluster, uid: String) {
    loop {
        tokio::time::sleep(BEAT).await;
        // A beat that fails is missed; the worker's own writes tell whether somebody took over.
        let beat = cluster.amend(|document| {
            let worker = record::to_change(document)?.worker.as_mut().filter(|worker| worker.uid == uid);
            let Some(worker) = worker else { return Ok(Edit::Unneeded) };
            worker.beat += 1;
            Ok(Edit::Write)
        });
        let _ = beat.await;
    }
}
