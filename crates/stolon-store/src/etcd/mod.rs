//! etcd, through its version 3 interface.

mod election;
mod leases;
mod protocol;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, ResponseHeader, SortOrder, SortTarget, Txn,
    TxnOp, TxnOpResponse, TxnResponse,
};

use self::election::EtcdContender;
use self::leases::{EtcdGrantor, Leases};
use self::protocol::{Links, is_lease_missing};
use crate::leases::whole_seconds;
use crate::link::Repeat;
use crate::{
    Changes, Contender, Entry, Expected, Key, KvStore, Look, MINIMUM_TTL, Publication, Revision, Selector,
    StoreError, StoreOptions, Version, Watch,
};

/// A store in etcd. Clones share the connection and the leases.
#[derive(Clone)]
pub struct EtcdStore {
    links: Arc<Links>,
    leases: Arc<Leases>,
    entries: Arc<AtomicU64>,
}

impl EtcdStore {
    /// The store at the endpoints of the options. Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the endpoints or the TLS files make no sense.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let links = Arc::new(protocol::links(options)?);
        Ok(EtcdStore {
            leases: Arc::new(Leases::new(EtcdGrantor(Arc::clone(&links)))),
            links,
            entries: Arc::default(),
        })
    }

    fn links(&self) -> &Arc<Links> {
        &self.links
    }

    fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// How often this process has entered an election.
    fn count_entry(&self) -> u64 {
        self.entries.fetch_add(1, Ordering::Relaxed)
    }

    /// Put a value that hangs on a lease of this process, and do `more` in the same transaction.
    async fn put_mortal(
        &self,
        key: &Key,
        value: &[u8],
        ttl: Duration,
        more: &[TxnOp],
    ) -> Result<TxnResponse, StoreError> {
        let seconds = whole_seconds(ttl.max(MINIMUM_TTL));
        let operation = format!("writing {key}");
        self.leases.hang(key.as_str(), seconds);
        let mut lost = 0;
        loop {
            let lease = self.leases.of(seconds).await?;
            let put = |mut client: Client| async move {
                let put = TxnOp::put(key.as_str(), value, Some(PutOptions::new().with_lease(lease.id)));
                let operations = [&[put], more].concat();
                match client.txn(Txn::new().and_then(operations)).await {
                    Ok(answer) => Ok(Some(answer)),
                    Err(error) if is_lease_missing(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            };
            if let Some(answer) = self.links.ask(&operation, Repeat::Never, put).await? {
                return Ok(answer);
            }
            // The lease had ended unnoticed, and nothing was written.
            self.leases.forget(&lease.id);
            lost += 1;
            if lost > LEASES_LOST {
                return Err(StoreError::Refused {
                    operation,
                    cause: "each new lease is gone at once".to_owned(),
                    hint: "see the log of etcd, and whether something revokes all leases".to_owned(),
                });
            }
        }
    }
}

/// How many leases may be found gone during one write.
const LEASES_LOST: usize = 2;

/// What the selected keys are to etcd.
fn range(selector: &Selector, options: GetOptions) -> (String, GetOptions) {
    match selector {
        Selector::Key(key) => (key.to_string(), options),
        Selector::Below(parent) => (parent.children_prefix(), options.with_prefix()),
    }
}

fn version(header: Option<&ResponseHeader>) -> Version {
    Version(header.map_or(0, ResponseHeader::revision))
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

    async fn look(&self, selector: &Selector, since: Version) -> Result<Look, StoreError> {
        // etcd leaves out what is older, and counts it all the same.
        let newer = GetOptions::new().with_min_mod_revision(since.0.saturating_add(1));
        let (key, options) = &range(selector, newer);
        let answer = self
            .links
            .ask(&format!("reading {key}"), Repeat::Safe, move |mut client: Client| async move {
                client.get(key.as_str(), Some(options.clone())).await
            })
            .await?;
        Ok(Look {
            changed: answer.kvs().iter().map(entry).collect(),
            count: usize::try_from(answer.count()).unwrap_or(0),
            version: version(answer.header()),
        })
    }

    async fn publish(&self, publication: Publication) -> Result<Look, StoreError> {
        let Publication { key, value, ttl, notice: _, read } = publication;
        let read = TxnOp::get(read.as_str(), None);
        let answer = self.put_mortal(&key, &value, ttl, &[read]).await?;
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(found) => Some(found),
            _ => None,
        });
        let changed: Vec<Entry> = found.iter().flat_map(|found| found.kvs().iter().map(entry)).collect();
        Ok(Look { count: changed.len(), changed, version: version(answer.header()) })
    }

    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError> {
        if let Some(ttl) = ttl {
            return self.put_mortal(key, &value, ttl, &[]).await.map(|_| ());
        }
        let (operation, value) = (format!("writing {key}"), value.as_slice());
        self.links
            .ask(&operation, Repeat::Never, move |mut client: Client| async move {
                client.put(key.as_str(), value, None).await
            })
            .await?;
        self.leases.let_go(key.as_str());
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
        self.leases.let_go(key.as_str());
        Ok(())
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        let links = Arc::clone(&self.links);
        Watch::of_any(vec![Changes::by_task(|news| watch::listen(links, selectors, news))])
    }

    fn changes(&self, selector: Selector) -> Changes {
        let links = Arc::clone(&self.links);
        Changes::by_task(|news| watch::listen(links, vec![selector], news))
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
