//! etcd, through its version 2 interface.
//!
//! * Keys have no leading slash; etcd puts one in front of each.
//! * There are no transactions: what else than one key is read or written costs a request of its own.
//! * A time to live is that of a key, not of a session: this process makes it longer before it ends, without waking anybody.
//! * Values are text, and a key has either a value or keys below it.

mod election;
mod listening;
mod protocol;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;

use self::election::EtcdV2Contender;
use self::protocol::{Client, Code, Event, Links, Reply, path};
use crate::http::escape;
use crate::kept::{Kept, Prolong};
use crate::leases::{Known, whole_seconds};
use crate::link::Repeat;
use crate::{
    Changes, Contender, Entry, Expected, Key, KvStore, Look, MINIMUM_TTL, Publication, Revision, Selector,
    StoreError, StoreOptions, Version, Watch,
};

/// A store in etcd's version 2 interface. Clones share the connections.
#[derive(Clone)]
pub struct EtcdV2Store {
    links: Arc<Links>,
    kept: Arc<Kept<Prolonger>>,
}

impl EtcdV2Store {
    /// The store at the endpoints of the options. Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the endpoints or the TLS files make no sense.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let links = Arc::new(protocol::links(options)?);
        Ok(EtcdV2Store { kept: Arc::new(Kept::new(Prolonger(Arc::clone(&links)))), links })
    }

    /// Write, whatever is there. Gives the revision.
    async fn set(&self, key: &Key, value: &[u8], ttl: Option<Duration>) -> Result<i64, StoreError> {
        let operation = format!("writing {key}");
        let mut form = format!("value={}", escape(text(&operation, value)?));
        if let Some(ttl) = ttl {
            form += &format!("&ttl={}", whole_seconds(ttl));
        }
        match ask(&self.links, &operation, Repeat::Never, (Method::PUT, &path(key), &form)).await?.outcome {
            Ok(event) => Ok(event.node.modified_index),
            Err(code) => Err(unexpected(operation, code)),
        }
    }

    async fn selected(&self, operation: &str, selector: &Selector) -> Result<(Vec<Entry>, i64), StoreError> {
        let path = match selector {
            Selector::Key(key) => path(key) + "quorum=true",
            Selector::Below(parent) => path(parent) + "quorum=true&recursive=true&sorted=true",
        };
        let Reply { index, outcome } =
            ask(&self.links, operation, Repeat::Safe, (Method::GET, &path, "")).await?;
        let entries = match outcome {
            Ok(Event { node, .. }) => match selector {
                Selector::Key(_) => node.entry().into_iter().collect(),
                Selector::Below(_) => node.entries_below(),
            },
            Err(Code::KeyNotFound) => Vec::new(),
            Err(code) => return Err(unexpected(operation.to_owned(), code)),
        };
        Ok((entries, index))
    }
}

/// A request: method, path with query, form.
type Request<'a> = (Method, &'a str, &'a str);

async fn ask(
    links: &Links,
    operation: &str,
    repeat: Repeat,
    (method, path, form): Request<'_>,
) -> Result<Reply, StoreError> {
    let method = &method;
    links
        .ask(operation, repeat, move |client: Client| async move {
            client.ask(operation, method.clone(), path, form.to_owned()).await
        })
        .await
}

fn unexpected(operation: String, code: Code) -> StoreError {
    StoreError::Refused { operation, cause: format!("{code:?}"), hint: "see the log of etcd".to_owned() }
}

fn text<'a>(operation: &str, value: &'a [u8]) -> Result<&'a str, StoreError> {
    std::str::from_utf8(value).map_err(|error| StoreError::Refused {
        operation: operation.to_owned(),
        cause: format!("the value is no text: {error}"),
        hint: "etcd's version 2 interface holds nothing else".to_owned(),
    })
}

/// Lets keys live on.
struct Prolonger(Arc<Links>);

#[async_trait]
impl Prolong for Prolonger {
    /// Writing a key replaces it, so that the state it was made in names the write.
    async fn live_on(&self, key: &Key, revision: i64, ttl: Duration) -> Result<Known, StoreError> {
        let operation = format!("keeping {key}");
        let read = path(key) + "quorum=true";
        let found = ask(&self.0, &operation, Repeat::Safe, (Method::GET, &read, "")).await?;
        let Ok(Event { node, .. }) = found.outcome else { return Ok(Known::No) };
        if node.created_index != revision {
            return Ok(Known::No);
        }
        let form = longer(node.modified_index, ttl);
        let kept = ask(&self.0, &operation, Repeat::Safe, (Method::PUT, &path(key), &form)).await?;
        match kept.outcome {
            Ok(_) => Ok(Known::Yes),
            Err(Code::KeyNotFound) => Ok(Known::No),
            // Something was written in between, perhaps by an earlier attempt: that is found out when it is looked at again.
            Err(code) => Err(unexpected(operation, code)),
        }
    }
}

/// The form that lets a key live on from now, and wakes nobody.
fn longer(modified: i64, ttl: Duration) -> String {
    format!("refresh=true&prevExist=true&prevIndex={modified}&ttl={}", whole_seconds(ttl))
}

#[async_trait]
impl KvStore for EtcdV2Store {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let selector = Selector::Key(key.clone());
        Ok(self.selected(&format!("reading {key}"), &selector).await?.0.pop())
    }

    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError> {
        let selector = Selector::Below(parent.clone());
        Ok(self.selected(&format!("listing {parent}"), &selector).await?.0)
    }

    async fn look(&self, selector: &Selector, _since: Version) -> Result<Look, StoreError> {
        let (changed, index) = self.selected("looking for changes", selector).await?;
        Ok(Look { count: changed.len(), changed, version: Version(index) })
    }

    async fn publish(&self, publication: Publication) -> Result<Look, StoreError> {
        let Publication { key, value, ttl, notice: _, read } = publication;
        self.put(&key, value, Some(ttl)).await?;
        self.look(&Selector::Key(read), Version::START).await
    }

    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError> {
        let ttl = ttl.map(|ttl| ttl.max(MINIMUM_TTL));
        let revision = self.set(key, &value, ttl).await?;
        match ttl {
            Some(ttl) => self.kept.keep(key.clone(), revision, ttl),
            None => self.kept.let_go(key),
        }
        Ok(())
    }

    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        let operation = format!("writing {key}");
        let condition = match expected {
            Expected::Absent => "prevExist=false".to_owned(),
            Expected::Revision(revision) => format!("prevExist=true&prevIndex={}", revision.0),
        };
        let form = format!("value={}&{condition}", escape(text(&operation, &value)?));
        match ask(&self.links, &operation, Repeat::Never, (Method::PUT, &path(key), &form)).await?.outcome {
            Ok(event) => Ok(Revision(event.node.modified_index)),
            Err(Code::CompareFailed | Code::NodeExists | Code::KeyNotFound) => Err(StoreError::Conflict),
            Err(code) => Err(unexpected(operation, code)),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let operation = format!("removing {key}");
        let outcome =
            ask(&self.links, &operation, Repeat::Never, (Method::DELETE, &path(key), "")).await?.outcome;
        match outcome {
            Ok(_) | Err(Code::KeyNotFound) => {
                self.kept.let_go(key);
                Ok(())
            }
            Err(code) => Err(unexpected(operation, code)),
        }
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        Watch::of_any(selectors.into_iter().map(|selector| self.changes(selector)).collect())
    }

    fn changes(&self, selector: Selector) -> Changes {
        let links = Arc::clone(&self.links);
        Changes::by_task(|news| listening::listen(links, selector, news))
    }

    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError> {
        let leader = self.get(place).await?;
        Ok(leader.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }

    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender> {
        Box::new(EtcdV2Contender::new(self.clone(), place.clone(), name.to_owned()))
    }

    fn requests(&self) -> u64 {
        self.links.requests()
    }
}
