//! What a store tells of changes, in order.

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{BootInstant, Entry, Key, Look, Version, Watch};

/// How many pieces of news may wait for their reader before the store is made to wait.
const QUEUE: usize = 64;

/// A key that was written or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Key,
    /// The entry that is there now; `None`: the key was removed.
    pub entry: Option<Entry>,
}

/// A piece of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// All changes between the piece of news before this one and this version.
    Carried {
        /// In the order of the store.
        changes: Vec<Change>,
        /// The state after them.
        version: Version,
    },
    /// All of these keys, as a question found them that was asked at that moment.
    Found {
        /// What was found.
        look: Look,
        /// When the question was asked.
        asked_at: BootInstant,
    },
    /// Something may have changed.
    Look,
    /// Listening begins here. Earlier changes were not heard.
    Anew,
    /// Nothing is heard any more, perhaps since the store is away. Listening begins again by itself.
    BrokenOff,
}

/// What a store tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// Every change.
    Everything,
    /// No quiet write ([`crate::Notice::Quiet`]).
    WhatWakes,
}

/// News of some keys, for one reader. Dropping it ends the listening.
pub struct Changes {
    source: Source,
}

enum Source {
    Task { news: mpsc::Receiver<News>, _listening: AbortOnDropHandle<()> },
    Watch { watch: Watch, begun: Begun },
}

/// Whether a watch was asked for the first time: what existed before is not a change.
#[derive(PartialEq)]
enum Begun {
    No,
    Yes,
}

impl Changes {
    /// Changes that a task sends; the task ends when the receiver is dropped. Call inside a tokio runtime.
    pub fn by_task<F, L>(listening: L) -> Changes
    where
        L: FnOnce(mpsc::Sender<News>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, news) = mpsc::channel(QUEUE);
        let task = AbortOnDropHandle::new(tokio::spawn(listening(sender)));
        Changes { source: Source::Task { news, _listening: task } }
    }

    /// After each wake of a watch a request to look.
    pub fn woken_by(watch: Watch) -> Changes {
        Changes { source: Source::Watch { watch, begun: Begun::No } }
    }

    /// What these news leave out.
    pub fn tells(&self) -> Tells {
        match self.source {
            Source::Task { .. } => Tells::Everything,
            Source::Watch { .. } => Tells::WhatWakes,
        }
    }

    /// The next piece of news. Cancel-safe.
    pub async fn next(&mut self) -> News {
        match &mut self.source {
            Source::Task { news, .. } => match news.recv().await {
                Some(news) => news,
                None => std::future::pending().await,
            },
            Source::Watch { begun, .. } if *begun == Begun::No => {
                *begun = Begun::Yes;
                News::Anew
            }
            Source::Watch { watch, .. } => {
                watch.changed().await;
                News::Look
            }
        }
    }
}
