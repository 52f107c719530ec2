//! Watches that outlive connections: a gap between two connections is a piece of news as well.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Event, EventType, WatchOptions, WatchStream};
use stolon_model::with_causes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::link::{Link, Links};
use crate::{Change, Key, News, Selector, Version};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Keep a watch open, over as many connections as it takes.
pub async fn listen(links: Arc<Links>, selectors: Vec<Selector>, news: mpsc::Sender<News>) {
    let mut pause = FIRST_PAUSE;
    let mut silent = Silence::default();
    loop {
        let deadline = Instant::now() + links.timeout();
        let ended = match links.link(deadline).await {
            Ok(link) => {
                let opened = tokio::time::timeout_at(deadline, open(&link, &selectors)).await;
                match opened {
                    Ok(Ok(stream)) => {
                        silent.broken();
                        pause = FIRST_PAUSE;
                        follow(&links, &link, stream, &news).await
                    }
                    Ok(Err(error)) => Ended::Failed(Box::new(link), with_causes(&error)),
                    Err(_) => Ended::Failed(Box::new(link), "no answer".to_owned()),
                }
            }
            Err(cause) => Ended::NotConnected(cause),
        };
        match ended {
            Ended::Moved => continue,
            Ended::NobodyListens => return,
            Ended::Failed(link, cause) => {
                links.give_up(&link);
                tracing::debug!(cause, "the watch of the store broke off, opening it again");
            }
            Ended::NotConnected(cause) => silent.report(&cause, links.endpoint_count()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why a watch must be opened again.
enum Ended {
    /// Another connection is in use, or soon will be.
    Moved,
    /// This connection does not work.
    Failed(Box<Link>, String),
    /// There is no connection.
    NotConnected(String),
    /// The receiver was dropped.
    NobodyListens,
}

async fn open(link: &Link, selectors: &[Selector]) -> Result<WatchStream, etcd_client::Error> {
    let ranges: Vec<(String, WatchOptions)> = selectors
        .iter()
        .map(|selector| match selector {
            Selector::Key(key) => (key.to_string(), WatchOptions::new()),
            Selector::Below(parent) => (parent.children_prefix(), WatchOptions::new().with_prefix()),
        })
        .collect();
    let mut ranges = ranges.into_iter();
    let Some((key, options)) = ranges.next() else {
        return Err(etcd_client::Error::InvalidArgs("nothing to watch".to_owned()));
    };
    let mut stream = link.client.watch_client().watch(key, Some(options)).await?;
    for (key, options) in ranges {
        stream.watch(key, Some(options)).await?;
    }
    Ok(stream)
}

/// Tell of each event, and each time that a range begins to be watched: what was written before that is not an event. Ends when
/// the stream does, or when the connection it runs over is given up.
async fn follow(links: &Links, link: &Link, mut stream: WatchStream, news: &mpsc::Sender<News>) -> Ended {
    let failed = |cause: String| Ended::Failed(Box::new(link.clone()), cause);
    let mut connections = links.subscribe();
    loop {
        let is_current =
            connections.borrow_and_update().as_ref().is_some_and(|current| current.number == link.number);
        if !is_current {
            return Ended::Moved;
        }
        let message = tokio::select! {
            message = stream.message() => message,
            _ = connections.changed() => continue,
        };
        let piece = match message {
            Ok(Some(response)) if response.canceled() => {
                return failed(format!("the store ended it: {}", response.cancel_reason()));
            }
            Ok(Some(response)) if response.created() => News::Anew,
            Ok(Some(response)) if response.events().is_empty() => continue,
            Ok(Some(response)) => News::Carried {
                changes: response.events().iter().filter_map(change).collect(),
                version: newest(response.events()),
            },
            Ok(None) => return failed("the store closed it".to_owned()),
            Err(error) => return failed(with_causes(&error)),
        };
        if news.send(piece).await.is_err() {
            return Ended::NobodyListens;
        }
    }
}

fn change(event: &Event) -> Option<Change> {
    let pair = event.kv()?;
    let entry = match event.event_type() {
        EventType::Put => Some(super::entry(pair)),
        EventType::Delete => None,
    };
    Some(Change { key: Key::new(String::from_utf8_lossy(pair.key())), entry })
}

/// The state after these events. That of the header may be later, and is about other keys.
fn newest(events: &[Event]) -> Version {
    let revisions = events.iter().filter_map(|event| event.kv().map(etcd_client::KeyValue::mod_revision));
    Version(revisions.max().unwrap_or(0))
}

/// Says once that the store cannot be reached, after every endpoint had its turn; and again once a minute.
#[derive(Default)]
struct Silence {
    failures: usize,
    reported: Option<Instant>,
}

impl Silence {
    fn broken(&mut self) {
        if self.reported.is_some() {
            tracing::info!("the store is watched again");
        }
        *self = Silence::default();
    }

    fn report(&mut self, cause: &str, endpoints: usize) {
        self.failures += 1;
        let is_due = self.reported.is_none_or(|at| at.elapsed() > Duration::from_secs(60));
        if self.failures >= endpoints && is_due {
            self.reported = Some(Instant::now());
            tracing::warn!(cause, "the store cannot be watched, trying again");
        }
    }
}
