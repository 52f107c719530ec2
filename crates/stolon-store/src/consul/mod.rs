//! Consul.
//!
//! * Keys have no leading slash; Consul would take one for a part of the key.
//! * What has a time to live hangs on a session of this process. What is written anew is removed and written in one
//!   transaction, which frees it of whatever session it hung on, and gives it a new revision also where the value is the same:
//!   Consul by itself takes that for no change.
//! * A transaction holds at most 512 KiB, values encoded in base64 (`txn_max_req_len` of the agent).

mod catalogue;
mod election;
mod protocol;
mod reader;
mod sessions;
mod transaction;

pub use catalogue::{CatalogueAccess, Service, ServiceCatalogue};

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;

use self::election::ConsulContender;
use self::protocol::Links;
use self::reader::Reader;
use self::sessions::Sessions;
use self::transaction::{Outcome, Pair, Step, transact};
use crate::http::escape_path;
use crate::leases::{Leases, whole_seconds};
use crate::link::Repeat;
use crate::{
    Changes, Contender, Entry, Expected, Key, KvStore, Look, MINIMUM_TTL, Publication, Revision, Selector,
    StoreError, StoreOptions, Version, Watch,
};

/// How many sessions may be found gone during one write.
const SESSIONS_LOST: usize = 2;

/// A store in Consul. Clones share the connections and the sessions.
#[derive(Clone)]
pub struct ConsulStore {
    reader: Reader,
    sessions: Arc<Leases<Sessions>>,
}

/// The key as Consul has it.
fn plain(key: &Key) -> &str {
    key.as_str().trim_start_matches('/')
}

impl ConsulStore {
    /// The store at the endpoint of the options. Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: there are several endpoints, or the endpoint or the TLS files make no sense.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let links = Arc::new(protocol::links(options)?);
        let sessions = Arc::new(Leases::new(Sessions(Arc::clone(&links))));
        Ok(ConsulStore { reader: Reader::new(links), sessions })
    }

    fn links(&self) -> &Arc<Links> {
        &self.reader.links
    }

    fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Write a value that hangs on a session of this process, and do `more` in the same transaction.
    async fn put_mortal(
        &self,
        key: &Key,
        value: &[u8],
        ttl: Duration,
        more: Option<&Key>,
    ) -> Result<Vec<Pair>, StoreError> {
        let seconds = whole_seconds(ttl.max(MINIMUM_TTL));
        let operation = format!("writing {key}");
        self.sessions.hang(key.as_str(), seconds);
        let mut lost = 0;
        loop {
            let session = self.sessions.of(seconds).await?.id;
            let mut steps = vec![Step::delete(key), Step::lock(key, value, &session)];
            steps.extend(more.map(Step::read_beginning_with));
            let cause = match transact(self.links(), &operation, Repeat::Never, &steps).await? {
                Outcome::Done(found) => {
                    found.first().into_iter().for_each(|written| self.reader.know(written.modify_index));
                    return Ok(found);
                }
                Outcome::Refused { cause, .. } => cause,
            };
            lost += 1;
            if lost > SESSIONS_LOST || self.is_known(seconds, &session).await? {
                return Err(refused(operation, cause));
            }
        }
    }

    /// False: the session had ended unnoticed, and nothing was written with it.
    async fn is_known(&self, seconds: u64, session: &String) -> Result<bool, StoreError> {
        Ok(self.sessions.renew(seconds, session).await?.is_some())
    }

    /// Whether the key is still as expected.
    async fn is_as(&self, key: &Key, expected: Expected) -> Result<bool, StoreError> {
        let found = self.get(key).await?.map(|entry| entry.revision);
        Ok(match expected {
            Expected::Absent => found.is_none(),
            Expected::Revision(revision) => found == Some(revision),
        })
    }
}

fn refused(operation: String, cause: String) -> StoreError {
    let hint = "see the log of Consul, and whether CONSUL_HTTP_TOKEN may write this key".to_owned();
    StoreError::Refused { operation, cause, hint }
}

#[async_trait]
impl KvStore for ConsulStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let selector = Selector::Key(key.clone());
        Ok(self.reader.entries(&format!("reading {key}"), &selector).await?.pop())
    }

    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError> {
        let selector = Selector::Below(parent.clone());
        self.reader.entries(&format!("listing {parent}"), &selector).await
    }

    async fn look(&self, selector: &Selector, _since: Version) -> Result<Look, StoreError> {
        self.reader.look("looking for changes", selector).await
    }

    async fn publish(&self, publication: Publication) -> Result<Look, StoreError> {
        let Publication { key, value, ttl, notice: _, read } = publication;
        let mut found = self.put_mortal(&key, &value, ttl, Some(&read)).await?.into_iter();
        let version = Version(found.next().map_or(0, |written| written.modify_index));
        // A key that only begins with the same words is not the one.
        let entries =
            found.filter_map(|pair| pair.entry().ok()).filter(|entry| entry.key.as_str() == plain(&read));
        let changed: Vec<Entry> = entries.collect();
        Ok(Look { count: changed.len(), changed, version })
    }

    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError> {
        if let Some(ttl) = ttl {
            return self.put_mortal(key, &value, ttl, None).await.map(|_| ());
        }
        let operation = format!("writing {key}");
        let steps = [Step::delete(key), Step::set(key, &value)];
        match transact(self.links(), &operation, Repeat::Never, &steps).await? {
            Outcome::Done(found) => {
                found.first().into_iter().for_each(|written| self.reader.know(written.modify_index));
                self.sessions.let_go(key.as_str());
                Ok(())
            }
            Outcome::Refused { cause, .. } => Err(refused(operation, cause)),
        }
    }

    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        let operation = format!("writing {key}");
        let steps = match expected {
            Expected::Absent => vec![Step::create(key, &value)],
            Expected::Revision(revision) => {
                vec![Step::check(key, revision), Step::delete(key), Step::set(key, &value)]
            }
        };
        match transact(self.links(), &operation, Repeat::Never, &steps).await? {
            Outcome::Done(found) => {
                let written = found.last().map(|pair| pair.modify_index).ok_or_else(|| {
                    StoreError::Unknown { operation, cause: "the answer has no revision".to_owned() }
                })?;
                self.reader.know(written);
                Ok(Revision(written))
            }
            // A step also fails where this client may not do it.
            Outcome::Refused { step: 0, cause } if self.is_as(key, expected).await? => {
                Err(refused(operation, cause))
            }
            Outcome::Refused { step: 0, .. } => Err(StoreError::Conflict),
            Outcome::Refused { cause, .. } => Err(refused(operation, cause)),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let (operation, path) = (format!("removing {key}"), format!("/v1/kv/{}?", escape_path(plain(key))));
        let (named, path) = (operation.as_str(), path.as_str());
        self.links()
            .ask(named, Repeat::Never, move |client: protocol::Client| async move {
                client.ask(named, Method::DELETE, path, String::new()).await.map(|_| ())
            })
            .await?;
        self.sessions.let_go(key.as_str());
        Ok(())
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        let listening: Vec<Changes> = selectors.into_iter().map(|selector| self.changes(selector)).collect();
        Watch::of_any(listening)
    }

    fn changes(&self, selector: Selector) -> Changes {
        let reader = self.reader.clone();
        Changes::by_task(|news| reader.listen(selector, news))
    }

    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError> {
        election::leader(&self.reader, place).await
    }

    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender> {
        Box::new(ConsulContender::new(self.clone(), place.clone(), name.to_owned()))
    }

    fn requests(&self) -> u64 {
        self.links().requests()
    }
}
