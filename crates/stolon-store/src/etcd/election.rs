//! etcd's standard election: the oldest key below a prefix leads, and each key hangs on a lease.
//! The same recipe as that of etcd's own clients, which can take part.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp};
use tokio_util::task::TaskTracker;

use super::EtcdStore;
use super::leases::{grant, keep_alive, revoke};
use super::link::{Links, Repeat};
use crate::{BootInstant, Contender, Key, KvStore, Renewal, Selector, StoreError, Tenure};

/// Whole seconds; all programs that share an election use the same.
const LEASE_SECONDS: i64 = 20;
const LEASE: Duration = Duration::from_secs(LEASE_SECONDS as u64);
/// The leader stops that much before the store may let its lease end.
const MARGIN: Duration = Duration::from_secs(2);
/// A third of the lease, as etcd's own clients do.
const RENEW_AFTER: Duration = Duration::from_millis(6_600);

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

/// Somebody who wants to lead.
pub struct EtcdContender {
    store: EtcdStore,
    place: Key,
    name: String,
    revocations: TaskTracker,
}

impl EtcdContender {
    pub fn new(store: EtcdStore, place: Key, name: String) -> Self {
        EtcdContender { store, place, name, revocations: TaskTracker::new() }
    }
}

/// A lease with its key in the queue.
struct Candidate {
    links: Arc<Links>,
    place: Key,
    key: String,
    lease: i64,
    held_until: BootInstant,
    revoked: Revoked,
    revocations: TaskTracker,
}

#[derive(PartialEq)]
enum Revoked {
    Yes,
    No,
}

/// Where a candidate stands.
#[derive(PartialEq)]
enum Standing {
    First,
    Behind,
    Gone,
}

#[async_trait]
impl Contender for EtcdContender {
    async fn contend(&self) -> Result<Box<dyn Tenure>, StoreError> {
        let mut candidate = Candidate::enter(self).await?;
        let mut changes = self.store.watch(vec![Selector::Below(self.place.clone())]);
        let gone = || StoreError::Refused {
            operation: "standing for election".to_owned(),
            cause: "the lease of this candidate has ended".to_owned(),
            hint: "it stands again by itself".to_owned(),
        };
        loop {
            match candidate.standing().await? {
                Standing::First if !candidate.held_until.is_past() => return Ok(Box::new(candidate)),
                Standing::First | Standing::Behind => {}
                Standing::Gone => return Err(gone()),
            }
            let renewal = candidate.held_until.remaining().saturating_sub(LEASE - MARGIN - RENEW_AFTER);
            tokio::select! {
                () = changes.changed() => {}
                () = tokio::time::sleep(renewal) => {
                    if candidate.renew().await? == Renewal::Lost {
                        return Err(gone());
                    }
                }
            }
        }
    }

    async fn withdrawn(&self) {
        self.revocations.close();
        self.revocations.wait().await;
    }
}

impl Candidate {
    /// Stand in the queue.
    async fn enter(contender: &EtcdContender) -> Result<Self, StoreError> {
        let (links, place) = (Arc::clone(contender.store.links()), &contender.place);
        let name = contender.name.as_str();
        let started = BootInstant::now();
        let lease = grant(&links, LEASE_SECONDS).await?;
        let key = format!("{}{lease:x}", place.children_prefix());
        let candidate = Candidate {
            links,
            place: place.clone(),
            key,
            lease,
            held_until: started + (LEASE - MARGIN),
            revoked: Revoked::No,
            revocations: contender.revocations.clone(),
        };
        let key = candidate.key.as_str();
        // Repeating it finds the key that the first attempt made: nobody else has this lease.
        candidate
            .links
            .ask("standing for election", Repeat::Safe, move |mut client| async move {
                let put = || TxnOp::put(key, name, Some(PutOptions::new().with_lease(lease)));
                let absent = Compare::create_revision(key, CompareOp::Equal, 0);
                client.txn(Txn::new().when([absent]).and_then([put()]).or_else([TxnOp::get(key, None)])).await
            })
            .await?;
        Ok(candidate)
    }

    /// Whether this candidate's key is the oldest.
    async fn standing(&self) -> Result<Standing, StoreError> {
        let prefix = &self.place.children_prefix();
        let answer = self
            .links
            .ask("counting the candidates", Repeat::Safe, move |mut client| async move {
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
}

#[async_trait]
impl Tenure for Candidate {
    fn held_until(&self) -> BootInstant {
        self.held_until
    }

    fn renew_after(&self) -> Duration {
        RENEW_AFTER
    }

    async fn renew(&mut self) -> Result<Renewal, StoreError> {
        let started = BootInstant::now();
        if !keep_alive(&self.links, self.lease).await? {
            return Ok(Renewal::Lost);
        }
        // Somebody may have removed the key itself.
        if self.standing().await? == Standing::Gone {
            return Ok(Renewal::Lost);
        }
        self.held_until = started + (LEASE - MARGIN);
        Ok(Renewal::Extended)
    }

    async fn release(&mut self) {
        self.revoked = Revoked::Yes;
        if let Err(error) = revoke(&self.links, self.lease).await {
            tracing::warn!(%error, "the leadership ends with its lease");
        }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if self.revoked == Revoked::Yes {
            return;
        }
        let (links, lease) = (Arc::clone(&self.links), self.lease);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let revocation = async move {
                if let Err(error) = revoke(&links, lease).await {
                    tracing::debug!(%error, "a candidature ends with its lease");
                }
            };
            self.revocations.spawn_on(revocation, &runtime);
        }
    }
}
