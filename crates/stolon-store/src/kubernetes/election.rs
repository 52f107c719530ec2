//! The election that Stolon's sentinels hold, which is the one of Kubernetes' own programs: a record in an annotation of the ConfigMap.
//!
//! Whoever finds the record without a holder, or unchanged for as long as a lease, writes itself into it. That nobody else did is
//! shown by the state of the ConfigMap that the write goes along with.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stolon_model::Timestamp;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use super::objects::ConfigMap;
use super::place::{LEADER, Place};
use super::{Change, KubernetesStore};
use crate::{BootInstant, Contender, Key, KvStore as _, Renewal, Selector, StoreError, Tenure};

/// All programs that share an election use the same.
const LEASE: Duration = Duration::from_secs(15);
/// How long before the end of its lease a leader stops. A candidate counts from when it first saw the record, by a clock of its own.
const MARGIN: Duration = Duration::from_secs(2);
/// How often a lease is renewed; leaves time for a second attempt. Everybody who watches the cluster document is sent each renewal.
const RENEW_AFTER: Duration = Duration::from_secs(5);

/// The record, as Kubernetes' own programs write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    /// Empty: nobody.
    holder_identity: String,
    lease_duration_seconds: i64,
    acquire_time: Option<String>,
    renew_time: Option<String>,
    leader_transitions: i64,
}

impl Record {
    /// `None`: there is none, or nobody understands it.
    fn read(text: Option<&str>) -> Option<Self> {
        serde_json::from_str(text?).ok()
    }

    fn of(map: Option<&ConfigMap>) -> Option<Self> {
        Self::read(map?.annotation(LEADER))
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same, renewed now. A renewal that says what was said before would change nothing, and nobody would see it.
    fn renewed(&self) -> Self {
        let now = now();
        let renew_time = match &self.renew_time {
            Some(last) if *last == now => Some(shortly_after(last)),
            _ => Some(now),
        };
        Record { renew_time, ..self.clone() }
    }

    /// A record of this holder, after that one.
    fn taken_over(before: Option<&Record>, holder: &str) -> Self {
        let now = now();
        let transitions = before
            .map_or(0, |before| before.leader_transitions + i64::from(before.holder_identity != holder));
        Record {
            holder_identity: holder.to_owned(),
            lease_duration_seconds: LEASE.as_secs().try_into().unwrap_or(i64::MAX),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            leader_transitions: transitions,
        }
    }

    /// How long it holds after somebody saw it.
    fn lasts(&self) -> Duration {
        let seconds = u64::try_from(self.lease_duration_seconds).unwrap_or(0);
        // Stolon's programs go by their own number, whatever stands there.
        Duration::from_secs(seconds).max(LEASE)
    }
}

/// Now, in whole seconds.
fn now() -> String {
    let second = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second());
    Timestamp::utc(second.unwrap_or_default()).to_string()
}

fn shortly_after(moment: &str) -> String {
    let parsed: Result<jiff::Timestamp, _> = moment.parse();
    let later = parsed.and_then(|moment| jiff::Timestamp::from_second(moment.as_second() + 1));
    later.map_or_else(|_| now(), |later| Timestamp::utc(later).to_string())
}

/// Whoever a record names.
pub fn holder(text: &str) -> Option<String> {
    Record::read(Some(text)).map(|record| record.holder_identity).filter(|holder| !holder.is_empty())
}

/// A contender for leadership.
pub struct KubernetesContender {
    store: KubernetesStore,
    place: Key,
    name: String,
    /// Of one attempt at a time: what an earlier one wrote must be taken back before the next one begins.
    turn: Arc<Mutex<()>>,
    releases: TaskTracker,
}

/// The record as a candidate first saw it.
struct Observed {
    text: Option<String>,
    since: BootInstant,
}

impl KubernetesContender {
    pub fn new(store: KubernetesStore, place: Key, name: String) -> Self {
        KubernetesContender { store, place, name, turn: Arc::default(), releases: TaskTracker::new() }
    }

    fn cluster(&self) -> Result<String, StoreError> {
        match Place::of(&self.place)? {
            Place::Leader(cluster) => Ok(cluster),
            _ => Err(super::place_of_its_own(&self.place)),
        }
    }

    /// Write this name into the record if it is still the one that was observed. `None`: it is not.
    async fn take_over(
        &self,
        cluster: &str,
        observed: &Observed,
        turn: &mut Option<OwnedMutexGuard<()>>,
    ) -> Result<Option<Entrant>, StoreError> {
        let before = Record::read(observed.text.as_deref());
        let mut entrant = Entrant {
            store: self.store.clone(),
            cluster: cluster.to_owned(),
            record: Record::taken_over(before.as_ref(), &self.name),
            asked_at: BootInstant::now(),
            released: Released::No,
            releases: self.releases.clone(),
            turn: turn.take(),
        };
        let text = entrant.record.text();
        let taking = self.store.change_config("standing for election", cluster, |map| {
            let now = map.and_then(|map| map.annotation(LEADER));
            match now == observed.text.as_deref() {
                true => Ok(Change::Write(vec![(LEADER, Some(text.clone()))])),
                false => Err(StoreError::Conflict),
            }
        });
        match taking.await {
            Ok(_) => Ok(Some(entrant)),
            Err(StoreError::Conflict) => {
                entrant.released = Released::Yes;
                *turn = entrant.turn.take();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Contender for KubernetesContender {
    async fn contend(&self) -> Result<Box<dyn Tenure>, StoreError> {
        let cluster = self.cluster()?;
        let mut turn = Some(Arc::clone(&self.turn).lock_owned().await);
        let mut changes = self.store.changes(Selector::Key(self.place.clone()));
        let map = self.store.read_config("looking at the election", &cluster).await?;
        let text = map.and_then(|map| map.annotation(LEADER).map(str::to_owned));
        let mut observed = Observed { text, since: BootInstant::now() };
        loop {
            let record = Record::read(observed.text.as_deref());
            let is_free = record.as_ref().is_none_or(|record| {
                record.holder_identity.is_empty()
                    || record.holder_identity == self.name
                    || (observed.since + record.lasts()).is_past()
            });
            if is_free && let Some(entrant) = self.take_over(&cluster, &observed, &mut turn).await? {
                if entrant.held_until().is_past() {
                    return Err(StoreError::Timeout {
                        operation: "standing for election".to_owned(),
                        timeout: LEASE,
                        cause: "the lease was over before it could be used".to_owned(),
                    });
                }
                return Ok(Box::new(entrant));
            }
            if !is_free {
                let over = observed.since + record.map_or(LEASE, |record| record.lasts());
                let _ = tokio::time::timeout(over.remaining(), changes.next()).await;
            }
            let map = self.store.shared.mirror.config_map(&cluster);
            let text = map.and_then(|map| map.annotation(LEADER).map(str::to_owned));
            if text != observed.text {
                observed = Observed { text, since: BootInstant::now() };
            }
        }
    }

    async fn withdrawn(&self) {
        self.releases.close();
        self.releases.wait().await;
    }
}

/// The record of a leader, or of an attempt to become one.
struct Entrant {
    store: KubernetesStore,
    cluster: String,
    record: Record,
    /// When it was written or renewed.
    asked_at: BootInstant,
    released: Released,
    releases: TaskTracker,
    turn: Option<OwnedMutexGuard<()>>,
}

#[derive(PartialEq)]
enum Released {
    Yes,
    No,
}

/// Whether a record is that of this tenure, renewed or not.
fn is_same(now: Option<&Record>, own: &Record) -> bool {
    now.is_some_and(|now| {
        now.holder_identity == own.holder_identity
            && now.acquire_time == own.acquire_time
            && now.leader_transitions == own.leader_transitions
    })
}

/// Take the name out of the record, if it is still there.
async fn release(store: &KubernetesStore, cluster: &str, own: &Record) -> Result<(), StoreError> {
    let releasing = store.change_config("leaving the election", cluster, |map| {
        let now = Record::of(map);
        if !is_same(now.as_ref(), own) {
            return Ok(Change::Nothing);
        }
        let nobody = Record { holder_identity: String::new(), lease_duration_seconds: 1, ..own.renewed() };
        Ok(Change::Write(vec![(LEADER, Some(nobody.text()))]))
    });
    releasing.await.map(|_| ())
}

#[async_trait]
impl Tenure for Entrant {
    fn held_until(&self) -> BootInstant {
        self.asked_at + (LEASE - MARGIN)
    }

    fn renew_after(&self) -> Duration {
        RENEW_AFTER
    }

    async fn renew(&mut self) -> Result<Renewal, StoreError> {
        let asked_at = BootInstant::now();
        let own = &self.record;
        let renewing =
            self.store.change_config("renewing the leadership", &self.cluster, |map| match Record::of(map) {
                Some(now) if is_same(Some(&now), own) => {
                    Ok(Change::Write(vec![(LEADER, Some(now.renewed().text()))]))
                }
                _ => Err(StoreError::Conflict),
            });
        match renewing.await {
            Ok(_) => {
                self.asked_at = asked_at;
                Ok(Renewal::Extended)
            }
            Err(StoreError::Conflict) => Ok(Renewal::Lost),
            Err(error) => Err(error),
        }
    }

    async fn release(&mut self) {
        self.released = Released::Yes;
        if let Err(error) = release(&self.store, &self.cluster, &self.record).await {
            tracing::warn!(%error, "the leadership ends with its lease");
        }
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        if self.released == Released::Yes {
            return;
        }
        let (store, cluster, record) = (self.store.clone(), self.cluster.clone(), self.record.clone());
        let turn = self.turn.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let releasing = async move {
                if let Err(error) = release(&store, &cluster, &record).await {
                    tracing::debug!(%error, "a campaign ends with its lease");
                }
                drop(turn);
            };
            self.releases.spawn_on(releasing, &runtime);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// As a program of Stolon wrote it.
    const THEIRS: &str = r#"{"holderIdentity":"theirs","leaseDurationSeconds":15,"acquireTime":"2026-11-22T08:47:45Z","renewTime":"2026-11-22T08:47:53Z","leaderTransitions":1}"#;

    #[test]
    fn records_are_those_that_stolon_knows() {
        let theirs = Record::read(Some(THEIRS)).unwrap();
        assert_eq!(theirs.text(), THEIRS);
        let ours = Record::taken_over(Some(&theirs), "ours");
        assert_eq!((ours.leader_transitions, ours.lease_duration_seconds), (2, 15));
        assert!(
            ours.renew_time.as_deref().unwrap().ends_with('Z') && !ours.text().contains('.'),
            "{}",
            ours.text()
        );
        assert_eq!(Record::taken_over(Some(&theirs), "theirs").leader_transitions, 1);
        assert_eq!(Record::taken_over(None, "ours").leader_transitions, 0);
        assert_eq!(holder(THEIRS).as_deref(), Some("theirs"));
        assert_eq!(holder(r#"{"holderIdentity":"","leaseDurationSeconds":1}"#), None);
    }

    #[test]
    fn a_renewal_always_changes_the_record() {
        let mut record = Record::taken_over(None, "ours");
        for _ in 0..3 {
            let renewed = record.renewed();
            assert_ne!(renewed.text(), record.text());
            assert!(is_same(Some(&renewed), &record));
            record = renewed;
        }
    }
}
