//! Watches of etcd.

use std::sync::Arc;

use etcd_client::{Client, Event, EventType, WatchOptions, WatchStream};
use stolon_model::with_causes;
use tokio::sync::mpsc;

use super::protocol::Links;
use crate::listen::{Ended, Heard};
use crate::{Change, Key, News, Selector, Version};

/// Keep a watch open, over as many connections as it takes.
pub async fn listen(links: Arc<Links>, selectors: Vec<Selector>, news: mpsc::Sender<News>) {
    let timeout = links.timeout();
    let (selectors, news) = (&selectors, &news);
    crate::listen::listen(links, news, |client| async move {
        match tokio::time::timeout(timeout, open(&client, selectors)).await {
            Ok(Ok(stream)) => follow(stream, news).await,
            Ok(Err(error)) => Ended::Failed { cause: with_causes(&error), heard: Heard::Nothing },
            Err(_) => Ended::Failed { cause: "no answer".to_owned(), heard: Heard::Nothing },
        }
    })
    .await;
}

async fn open(client: &Client, selectors: &[Selector]) -> Result<WatchStream, etcd_client::Error> {
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
    let mut stream = client.watch_client().watch(key, Some(options)).await?;
    for (key, options) in ranges {
        stream.watch(key, Some(options)).await?;
    }
    Ok(stream)
}

/// Tell of each event, and each time that a range begins to be watched: what was written before that is not an event.
async fn follow(mut stream: WatchStream, news: &mpsc::Sender<News>) -> Ended {
    let failed = |cause: String| Ended::Failed { cause, heard: Heard::Something };
    loop {
        let piece = match stream.message().await {
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
