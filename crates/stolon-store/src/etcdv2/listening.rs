//! Waiting for changes: etcd answers each question with one change.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::sync::mpsc;

use super::protocol::{Client, Code, Links, Reply, path};
use crate::link::Failed;
use crate::listen::{Ended, Heard};
use crate::{Change, Key, News, Selector, Version};

/// How long a question waits for its answer before it is asked again.
const WAIT: Duration = Duration::from_secs(60);

/// Tell of each change, over as many connections as it takes.
pub async fn listen(links: Arc<Links>, selector: Selector, news: mpsc::Sender<News>) {
    let listener = Listener { links: &links, selector, news };
    crate::listen::listen(Arc::clone(&links), &listener.news, |client| listener.follow(client)).await;
}

struct Listener<'a> {
    links: &'a Links,
    selector: Selector,
    news: mpsc::Sender<News>,
}

impl Listener<'_> {
    async fn follow(&self, client: Client) -> Ended {
        let mut heard = Heard::Nothing;
        loop {
            let Err(ended) = self.follow_from_now(&client, &mut heard).await else { continue };
            return ended;
        }
    }

    /// Returns when changes were missed.
    async fn follow_from_now(&self, client: &Client, heard: &mut Heard) -> Result<(), Ended> {
        let (key, deeper) = match &self.selector {
            Selector::Key(key) => (key, ""),
            Selector::Below(parent) => (parent, "&recursive=true"),
        };
        let now = self.ask(client, &(path(key) + "quorum=true"), self.links.timeout()).await;
        let mut index = match now {
            Ok(Some(Reply { index, .. })) => index,
            Ok(None) => return Err(Ended::Failed { cause: "no answer".to_owned(), heard: *heard }),
            Err(cause) => return Err(Ended::Failed { cause, heard: *heard }),
        };
        *heard = Heard::Something;
        self.tell(News::Anew).await?;
        loop {
            let next = format!("{}wait=true&waitIndex={}{deeper}", path(key), index + 1);
            let reply = match self.ask(client, &next, WAIT).await {
                Ok(Some(reply)) => reply,
                Ok(None) => continue,
                Err(cause) => return Err(Ended::Failed { cause, heard: *heard }),
            };
            let event = match reply.outcome {
                Ok(event) => event,
                Err(Code::EventIndexCleared) => return Ok(()),
                Err(code) => return Err(Ended::Failed { cause: format!("{code:?}"), heard: *heard }),
            };
            if event.node.dir {
                // With everything below it.
                return Ok(());
            }
            index = event.node.modified_index;
            if self.selector.contains(event.node.key()) {
                let entry = if event.is_removal() { None } else { event.node.entry() };
                let changes = vec![Change { key: Key::new(event.node.key()), entry }];
                self.tell(News::Carried { changes, version: Version(index) }).await?;
            }
        }
    }

    async fn tell(&self, news: News) -> Result<(), Ended> {
        self.news.send(news).await.map_err(|_| Ended::NobodyListens)
    }

    /// `None`: no answer within that time.
    async fn ask(&self, client: &Client, path: &str, patience: Duration) -> Result<Option<Reply>, String> {
        self.links.count_request();
        let asking = client.ask("waiting for changes", Method::GET, path, String::new());
        match tokio::time::timeout(patience, asking).await {
            Ok(Ok(reply)) => Ok(Some(reply)),
            Ok(Err(Failed::NotSent(cause) | Failed::NoAnswer(cause))) => Err(cause),
            Ok(Err(Failed::Refused(error))) => Err(error.to_string()),
            Err(_) => Ok(None),
        }
    }
}
