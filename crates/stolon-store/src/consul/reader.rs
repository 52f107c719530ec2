//! Reading keys, once or as often as they change.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::sync::mpsc;

use super::protocol::{Client, Links};
use super::transaction::Pair;
use crate::http::{Answer, escape_path};
use crate::link::{Failed, Repeat};
use crate::listen::{Ended, Heard};
use crate::{BootInstant, Entry, Look, News, Selector, StoreError, Version};

/// How long Consul may hold back its answer when nothing changes.
const WAIT: Duration = Duration::from_secs(60);

/// Reads the keys of a Consul. Clones share what they know.
#[derive(Clone)]
pub struct Reader {
    /// The connection.
    pub links: Arc<Links>,
    newest: Arc<AtomicI64>,
}

/// What was found.
pub struct Found {
    /// In order.
    pub pairs: Vec<Pair>,
    /// The state in which any of the selected keys was last written.
    index: i64,
}

impl Found {
    fn read(answer: &Answer) -> Result<Self, Failed> {
        // It always names a state, and never this one.
        let index = answer.number("x-consul-index").unwrap_or(0).max(1);
        match answer.status {
            StatusCode::NOT_FOUND => Ok(Found { pairs: Vec::new(), index }),
            _ => Ok(Found { pairs: answer.json()?, index }),
        }
    }
}

impl Reader {
    /// Nothing is known yet.
    pub fn new(links: Arc<Links>) -> Self {
        Reader { links, newest: Arc::default() }
    }

    /// The newest state that this process knows of.
    fn newest(&self) -> i64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Something was written in this state, or found in it.
    pub fn know(&self, index: i64) {
        self.newest.fetch_max(index, Ordering::Relaxed);
    }

    /// The selected keys, linearizable.
    pub async fn read(&self, operation: &str, selector: &Selector) -> Result<Found, StoreError> {
        let path = path(selector);
        let path = path.as_str();
        let found = self
            .links
            .ask(operation, Repeat::Safe, move |client: Client| async move {
                Found::read(&client.ask(operation, Method::GET, path, String::new()).await?)
            })
            .await?;
        self.know(found.index);
        Ok(found)
    }

    /// The entries of the selected keys.
    pub async fn entries(&self, operation: &str, selector: &Selector) -> Result<Vec<Entry>, StoreError> {
        entries(self.read(operation, selector).await?.pairs).map_err(|failed| unreadable(operation, failed))
    }

    /// All selected keys, with a version that fits to those of other answers: Consul only says when any of them was last written.
    /// The state that a question is answered in is at least the newest one that was known when it was asked.
    pub async fn look(&self, operation: &str, selector: &Selector) -> Result<Look, StoreError> {
        let known = self.newest();
        let found = self.read(operation, selector).await?;
        look(found, known).map_err(|failed| unreadable(operation, failed))
    }

    /// Tell of all selected keys each time that one of them changes.
    pub async fn listen(self, selector: Selector, news: mpsc::Sender<News>) {
        let links = Arc::clone(&self.links);
        crate::listen::listen(links, &news, |client| self.follow(client, &selector, &news)).await;
    }

    async fn follow(&self, client: Client, selector: &Selector, news: &mpsc::Sender<News>) -> Ended {
        let (mut index, mut heard) = (0, Heard::Nothing);
        loop {
            let (known, asked_at) = (self.newest(), BootInstant::now());
            let found = match self.next(&client, selector, index).await {
                Ok(found) => found,
                Err(cause) => return Ended::Failed { cause, heard },
            };
            heard = Heard::Something;
            if found.index == index {
                continue;
            }
            index = found.index;
            self.know(index);
            let piece = match look(found, known) {
                Ok(look) => News::Found { look, asked_at },
                Err(_) => News::Look,
            };
            if news.send(piece).await.is_err() {
                return Ended::NobodyListens;
            }
        }
    }

    /// Ask for a state other than this one, and wait for it.
    async fn next(&self, client: &Client, selector: &Selector, index: i64) -> Result<Found, String> {
        let operation = "waiting for changes";
        // Consul adds up to a sixteenth of the time.
        let (patience, waiting) = match index {
            0 => (self.links.timeout(), String::new()),
            _ => {
                (WAIT + WAIT / 16 + self.links.timeout(), format!("&index={index}&wait={}s", WAIT.as_secs()))
            }
        };
        self.links.count_request();
        let path = path(selector) + &waiting;
        let asking = async { Found::read(&client.ask(operation, Method::GET, &path, String::new()).await?) };
        match tokio::time::timeout(patience, asking).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(Failed::NotSent(cause) | Failed::NoAnswer(cause))) => Err(cause),
            Ok(Err(Failed::Refused(error))) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }
}

fn path(selector: &Selector) -> String {
    match selector {
        Selector::Key(key) => format!("/v1/kv/{}?consistent=", escape_path(super::plain(key))),
        Selector::Below(parent) => {
            format!("/v1/kv/{}/?recurse=&consistent=", escape_path(super::plain(parent)))
        }
    }
}

fn entries(pairs: Vec<Pair>) -> Result<Vec<Entry>, Failed> {
    pairs.into_iter().map(Pair::entry).collect()
}

fn look(found: Found, known: i64) -> Result<Look, Failed> {
    let (version, changed) = (Version(found.index.max(known)), entries(found.pairs)?);
    Ok(Look { count: changed.len(), changed, version })
}

fn unreadable(operation: &str, failed: Failed) -> StoreError {
    match failed {
        Failed::Refused(error) => error,
        Failed::NotSent(cause) | Failed::NoAnswer(cause) => StoreError::Refused {
            operation: operation.to_owned(),
            cause,
            hint: "is this a Consul? check --store-endpoints".to_owned(),
        },
    }
}
