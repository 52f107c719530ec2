//! The documents of a cluster, kept up to date.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stolon_model::ClusterDocument;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::feed::{Attention, KvFeed};
use crate::{BootInstant, Changes, Everything, StoreError, Tells, Versioned};

/// A value with the moment as of which it is known: it holds everything that was acknowledged before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    /// The value.
    pub value: T,
    /// At the latest the moment when the request that confirmed the value was sent.
    pub as_of: BootInstant,
    /// When the store last told of something new by itself; that, and all that was written before, is in the value.
    pub told: Option<BootInstant>,
}

/// What is young enough to be used without asking the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// It is known as of at most so long ago. Zero: the store is asked in any case.
    pub age: Duration,
    /// Within this time the store was asked and answered, or told of something new.
    pub silence: Duration,
}

/// Makes the value of a feed from its copy of the keys.
pub(crate) type Read<T> = Box<dyn FnMut(&KvFeed) -> Result<T, StoreError> + Send>;

/// A document, or several, that follow the store. Dropping it ends the following.
pub struct Feed<T> {
    copy: Arc<KvFeed>,
    /// What the store tells of these keys.
    tells: Tells,
    read: Mutex<Read<T>>,
    wakes: watch::Receiver<u64>,
    _following: AbortOnDropHandle<()>,
}

/// Wakes after changes of a [`Feed`].
pub struct FeedNews {
    wakes: watch::Receiver<u64>,
}

impl FeedNews {
    /// See [`Feed::changed`]. Never returns once the feed is dropped. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.wakes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The cluster document; a stored JSON `null` counts as absent.
pub type DocumentFeed = Feed<Option<Versioned<ClusterDocument>>>;

/// All that a sentinel decides on.
pub type EverythingFeed = Feed<Everything>;

impl<T> Feed<T> {
    /// Begin to follow. Call inside a tokio runtime.
    pub(crate) fn start(copy: Arc<KvFeed>, changes: Changes, tells: Tells, read: Read<T>) -> Self {
        let following = {
            let copy = Arc::clone(&copy);
            tokio::spawn(async move { copy.follow(changes).await })
        };
        Feed {
            wakes: copy.wakes(),
            copy,
            tells,
            read: Mutex::new(read),
            _following: AbortOnDropHandle::new(following),
        }
    }

    /// What is known now, however old; `None` before the store was read once. Sends no request.
    ///
    /// # Errors
    /// What lies in the store cannot be read.
    pub fn latest(&self) -> Option<Result<Seen<T>, StoreError>> {
        // The moment is taken first: what arrives between the two is newer than the moment says.
        let (as_of, told) = (self.copy.as_of()?, self.copy.told());
        Some(self.value().map(|value| Seen { value, as_of, told }))
    }

    /// What is known as of at most `age` ago. Asks the store only where what is known is older, where the store does not tell
    /// of every change, or where its watch broke off; an age of zero always asks.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn at_most(&self, age: Duration) -> Result<Seen<T>, StoreError> {
        self.within(Tolerance { age, silence: Duration::MAX }).await
    }

    /// The same, where the store is also asked after it has been silent for a while.
    ///
    /// # Errors
    /// Those of a read.
    pub async fn within(&self, tolerance: Tolerance) -> Result<Seen<T>, StoreError> {
        let Tolerance { age, silence } = tolerance;
        let is_young =
            |moment: Option<BootInstant>, age| moment.is_some_and(|moment| !(moment + age).is_past());
        let is_known = self.tells == Tells::Everything
            && !age.is_zero()
            && !self.copy.is_cut_off()
            && is_young(self.copy.as_of(), age)
            && is_young(self.copy.as_of().max(self.copy.told()), silence);
        let asked_at = BootInstant::now();
        if !is_known {
            self.copy.confirm().await?;
        }
        // The moments are taken first: what arrives between them and the value is newer than they say.
        let as_of = self.copy.as_of().unwrap_or(asked_at);
        let told = self.copy.told();
        self.value().map(|value| Seen { value, as_of, told })
    }

    /// To wait for changes elsewhere than where the feed is asked.
    pub fn news(&self) -> FeedNews {
        FeedNews { wakes: self.wakes.clone() }
    }

    /// Returns after a change that matters since the last return (or since the feed was made), also one that a question
    /// found. A return may come without a change. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.wakes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What to return after.
    pub fn attend(&self, attention: Attention) {
        self.copy.attend(attention);
    }

    fn value(&self) -> Result<T, StoreError> {
        let mut read = self.read.lock();
        read(&self.copy)
    }
}
