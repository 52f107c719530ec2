//! etcd, through its version 3 interface.

mod election;
mod endpoints;
mod leases;
mod link;
mod tls;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
};

use self::election::EtcdContender;
use self::leases::Leases;
use self::link::{Links, Repeat, is_lease_missing};
use crate::{
    Contender, Entry, Expected, Key, KvStore, MINIMUM_TTL, Revision, Selector, StoreError, StoreOptions,
    Watch,
};

/// A store in etcd. Clones share the connection.
#[derive(Clone)]
pub struct EtcdStore {
    links: Arc<Links>,
    leases: Arc<Leases>,
}

impl EtcdStore {
    /// The store at the endpoints of the options. Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the endpoints or the TLS files make no sense.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        Ok(EtcdStore { links: Arc::new(Links::new(options)?), leases: Arc::default() })
    }

    fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// Put a value that ends with a lease.
    async fn put_mortal(&self, key: &Key, value: &[u8], ttl: Duration) -> Result<(), StoreError> {
        let lease = self.leases.fresh(&self.links, key, ttl).await?;
        if self.put_with_lease(key, value, lease).await? == Lease::Missing {
            // It ended between two requests, and nothing was written.
            let lease = self.leases.renewed(&self.links, key, ttl).await?;
            self.put_with_lease(key, value, lease).await?;
        }
        Ok(())
    }

    async fn put_with_lease(&self, key: &Key, value: &[u8], lease: i64) -> Result<Lease, StoreError> {
        let operation = format!("writing {key}");
        self.links
            .ask(&operation, Repeat::Never, move |mut client: Client| async move {
                let options = PutOptions::new().with_lease(lease);
                match client.put(key.as_str(), value, Some(options)).await {
                    Ok(_) => Ok(Lease::Used),
                    Err(error) if is_lease_missing(&error) => Ok(Lease::Missing),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    /// End the lease that a key had, if this process gave it one. It would end by itself, only later.
    async fn drop_lease(&self, key: &Key) {
        if let Some(lease) = self.leases.take(key)
            && let Err(error) = leases::revoke(&self.links, lease).await
        {
            tracing::debug!(%error, %key, "a lease that is not needed any more is left to end by itself");
        }
    }
}

#[derive(PartialEq)]
enum Lease {
    Used,
    Missing,
}

fn entry(pair: &KeyValue) -> Entry {
    Entry {
        key: Key::new(String::from_utf8_lossy(pair.key())),
        value: pair.value().to_vec(),
        revision: Revision(pair.mod_revision()),
    }
}

#[async_trait]
impl KvStore for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let operation = format!("reading {key}");
        let answer = self
            .links
            .ask(&operation, Repeat::Safe, move |mut client: Client| async move {
                client.get(key.as_str(), None).await
            })
            .await?;
        Ok(answer.kvs().first().map(entry))
    }

    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError> {
        let operation = format!("listing {parent}");
        let prefix = &parent.children_prefix();
        let answer = self
            .links
            .ask(&operation, Repeat::Safe, move |mut client: Client| async move {
                let options = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Ascend);
                client.get(prefix.as_str(), Some(options)).await
            })
            .await?;
        Ok(answer.kvs().iter().map(entry).collect())
    }

    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError> {
        if let Some(ttl) = ttl {
            return self.put_mortal(key, &value, ttl.max(MINIMUM_TTL)).await;
        }
        let (operation, value) = (format!("writing {key}"), value.as_slice());
        self.links
            .ask(&operation, Repeat::Never, move |mut client: Client| async move {
                client.put(key.as_str(), value, None).await
            })
            .await?;
        self.drop_lease(key).await;
        Ok(())
    }

    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        let (operation, value) = (format!("writing {key}"), value.as_slice());
        let answer = self
            .links
            .ask(&operation, Repeat::Never, move |mut client: Client| async move {
                let condition = match expected {
                    Expected::Absent => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
                    Expected::Revision(revision) => {
                        Compare::mod_revision(key.as_str(), CompareOp::Equal, revision.0)
                    }
                };
                let put = TxnOp::put(key.as_str(), value, None);
                client.txn(Txn::new().when([condition]).and_then([put])).await
            })
            .await?;
        if !answer.succeeded() {
            return Err(StoreError::Conflict);
        }
        answer
            .header()
            .map(|header| Revision(header.revision()))
            .ok_or_else(|| StoreError::Unknown { operation, cause: "the answer has no revision".to_owned() })
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let operation = format!("removing {key}");
        self.links
            .ask(&operation, Repeat::Never, move |mut client: Client| async move {
                client.delete(key.as_str(), None).await
            })
            .await?;
        self.drop_lease(key).await;
        Ok(())
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        let links = Arc::clone(&self.links);
        Watch::by_task(|waker| watch::watch(links, selectors, waker))
    }

    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError> {
        election::leader(&self.links, place).await
    }

    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender> {
        Box::new(EtcdContender::new(self.clone(), place.clone(), name.to_owned()))
    }

    fn requests(&self) -> u64 {
        self.links.requests()
    }
}
