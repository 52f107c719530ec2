//! etcd's standard election: the oldest key below a prefix leads, and each key hangs on a lease.
//! The same recipe as that of etcd's own clients, which can take part. The lease is the one that the process has anyway.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp};

use super::EtcdStore;
use super::leases::{Lease, Leases};
use super::protocol::{Links, is_lease_missing};
use crate::leaving::Leaving;
use crate::link::Repeat;
use crate::{BootInstant, Contender, Key, KvStore, Renewal, Selector, StoreError, Tenure, Watch};

/// Whole seconds; all programs that share an election use the same.
const LEASE_SECONDS: u64 = 20;
/// How long before the end of its lease in the store a leader stops.
const MARGIN: Duration = Duration::from_secs(2);
/// How often a lease is renewed; leaves time for a second attempt.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// The value of the oldest key below `place`. Reads only.
pub async fn leader(links: &Links, place: &Key) -> Result<Option<String>, StoreError> {
    let prefix = &place.children_prefix();
    let answer = links
        .ask("reading the leader", Repeat::Safe, move |mut client| async move {
            let oldest = GetOptions::new()
                .with_prefix()
                .with_sort(SortTarget::Create, SortOrder::Ascend)
                .with_limit(1);
            client.get(prefix.as_str(), Some(oldest)).await
        })
        .await?;
    Ok(answer.kvs().first().map(|oldest| String::from_utf8_lossy(oldest.value()).into_owned()))
}

/// A contender for leadership.
pub struct EtcdContender {
    store: EtcdStore,
    place: Key,
    name: String,
    /// Keys. The lease that they hang on lives as long as this process.
    leaving: Leaving,
}

impl EtcdContender {
    pub fn new(store: EtcdStore, place: Key, name: String) -> Self {
        let links = Arc::clone(store.links());
        let leaving = Leaving::new(move |key| {
            let links = Arc::clone(&links);
            async move { remove(&links, &key).await }
        });
        EtcdContender { store, place, name, leaving }
    }
}

/// A key in the queue, which hangs on the lease of this process.
struct Entrant {
    links: Arc<Links>,
    leases: Arc<Leases>,
    place: Key,
    key: String,
    lease: Lease,
    /// Of the queue, since it was last looked at.
    changes: Watch,
    removed: Removed,
    leaving: Leaving,
}

#[derive(PartialEq)]
enum Removed {
    Yes,
    No,
}

/// The place of a contender in the queue.
#[derive(PartialEq)]
enum Standing {
    First,
    Behind,
    Gone,
}

#[async_trait]
impl Contender for EtcdContender {
    async fn contend(&self) -> Result<Box<dyn Tenure>, StoreError> {
        self.leaving.end_all().await?;
        let mut entrant = Entrant::enter(self).await?;
        loop {
            match entrant.standing().await? {
                Standing::First if !entrant.held_until().is_past() => return Ok(Box::new(entrant)),
                Standing::First => {
                    if entrant.live_on().await? == Renewal::Lost {
                        return Err(lease_is_gone());
                    }
                }
                Standing::Behind => entrant.changes.changed().await,
                Standing::Gone => return Err(lease_is_gone()),
            }
        }
    }

    async fn withdrawn(&self) {
        self.leaving.withdrawn().await;
    }
}

fn lease_is_gone() -> StoreError {
    StoreError::Refused {
        operation: "standing for election".to_owned(),
        cause: "the lease of this contender has ended".to_owned(),
        hint: "it tries again by itself".to_owned(),
    }
}

impl Entrant {
    /// Stand in the queue.
    async fn enter(contender: &EtcdContender) -> Result<Self, StoreError> {
        let (store, place) = (&contender.store, &contender.place);
        let changes = store.watch(vec![Selector::Below(place.clone())]);
        let lease = store.leases().of(LEASE_SECONDS).await?;
        let lease_id = lease.id;
        let entrant = Entrant {
            links: Arc::clone(store.links()),
            leases: Arc::clone(store.leases()),
            place: place.clone(),
            key: contender.key_with(lease_id),
            lease,
            changes,
            removed: Removed::No,
            leaving: contender.leaving.clone(),
        };
        let (key, name) = (entrant.key.as_str(), contender.name.as_str());
        entrant.leases.hang(key, LEASE_SECONDS);
        // A repetition finds the key that the first attempt made: nobody else uses this key.
        let stands = entrant
            .links
            .ask("standing for election", Repeat::Safe, move |mut client| async move {
                let put = || TxnOp::put(key, name, Some(PutOptions::new().with_lease(lease_id)));
                let absent = Compare::create_revision(key, CompareOp::Equal, 0);
                match client.txn(Txn::new().when([absent]).and_then([put()])).await {
                    Ok(_) => Ok(true),
                    Err(error) if is_lease_missing(&error) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await?;
        if !stands {
            entrant.leases.forget(&lease_id);
            return Err(lease_is_gone());
        }
        Ok(entrant)
    }

    /// Whether this entrant's key is the oldest.
    async fn standing(&mut self) -> Result<Standing, StoreError> {
        self.changes.take();
        let prefix = &self.place.children_prefix();
        let answer = self
            .links
            .ask("counting the entrants", Repeat::Safe, move |mut client| async move {
                let queue = GetOptions::new()
                    .with_prefix()
                    .with_keys_only()
                    .with_sort(SortTarget::Create, SortOrder::Ascend);
                client.get(prefix.as_str(), Some(queue)).await
            })
            .await?;
        Ok(match answer.kvs().iter().position(|entry| entry.key() == self.key.as_bytes()) {
            Some(0) => Standing::First,
            Some(_) => Standing::Behind,
            None => Standing::Gone,
        })
    }

    /// Renew the lease.
    async fn live_on(&mut self) -> Result<Renewal, StoreError> {
        match self.leases.renew(LEASE_SECONDS, &self.lease.id).await? {
            Some(lease) => {
                self.lease = lease;
                Ok(Renewal::Extended)
            }
            None => Ok(Renewal::Lost),
        }
    }
}

impl EtcdContender {
    /// As etcd's own clients name it. A later entry on the same lease must not be mistaken for an earlier one, whose
    /// removal may still be on its way.
    fn key_with(&self, id: i64) -> String {
        let prefix = self.place.children_prefix();
        match self.store.count_entry() {
            0 => format!("{prefix}{id:x}"),
            number => format!("{prefix}{id:x}-{number}"),
        }
    }
}

async fn remove(links: &Links, key: &str) -> Result<(), StoreError> {
    links
        .ask("leaving the election", Repeat::Safe, move |mut client| async move {
            client.delete(key, None).await.map(|_| ())
        })
        .await
}

#[async_trait]
impl Tenure for Entrant {
    fn held_until(&self) -> BootInstant {
        self.lease.lives_until(MARGIN)
    }

    fn renew_after(&self) -> Duration {
        RENEW_AFTER
    }

    async fn renew(&mut self) -> Result<Renewal, StoreError> {
        // Somebody may have removed the key itself. The watch does not sleep through that.
        if self.changes.take() && self.standing().await? == Standing::Gone {
            return Ok(Renewal::Lost);
        }
        self.live_on().await
    }

    async fn release(&mut self) {
        self.removed = Removed::Yes;
        self.leaving.release(&self.key).await;
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        self.leases.let_go(&self.key);
        if self.removed == Removed::No {
            self.leaving.withdraw(&self.key);
        }
    }
}
