//! A copy of some keys that is kept up to date: by the changes that the store carries, and confirmed by a read now and
//! then.
//!
//! The copy says as of when it is known to be complete: *everything that was acknowledged before that moment is in it*.
//! Only an answer to a question proves that, and the moment is the one at which the question was asked. News that arrives
//! by itself makes the copy newer, but never its age younger: it may have been long on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::{BootInstant, Change, Changes, Entry, KvStore, Look, News, Selector, StoreError, Version};

/// Pauses between attempts to read what was missed.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a change means to those who wait for some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Readers must see it at once.
    Wakes,
    /// Readers see it when they next look.
    Quiet,
}

/// Says what a change means: the key, what was there, what is there now.
pub type Weigh = fn(&Selector, Option<&Entry>, Option<&Entry>) -> Weight;

/// What wakes a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// What matters.
    Matters,
    /// Every change that the store carries, also one of a position.
    Everything,
}

/// The copy.
pub struct KvFeed {
    store: Arc<dyn KvStore>,
    selector: Selector,
    weigh: Weigh,
    attentive: AtomicBool,
    copy: Mutex<Copied>,
    wakes: watch::Sender<u64>,
}

/// What is known.
#[derive(Default)]
struct Copied {
    entries: BTreeMap<String, Held>,
    /// Everything up to this state is in `entries`.
    version: Version,
    as_of: Option<BootInstant>,
    /// When the store last told of something new by itself.
    told: Option<BootInstant>,
    hearing: Hearing,
}

/// Whether the store would tell of a change now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hearing {
    #[default]
    Works,
    /// What was missed could not be read.
    CutOff,
}

/// An entry of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// What is in the store.
    pub entry: Entry,
    /// When it came here, which may be long after it was written.
    pub arrived: BootInstant,
}

impl Copied {
    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key).map(|held| &held.entry)
    }

    /// An entry that was there before has not arrived again. A store that was restored may give its revision to another value.
    fn hold(&mut self, entry: Entry, now: BootInstant) {
        let known = self.entries.get(entry.key.as_str());
        if known.is_none_or(|known| known.entry != entry) {
            self.entries.insert(entry.key.to_string(), Held { entry, arrived: now });
        }
    }
}

/// Whether an answer made the copy complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absorbed {
    Complete,
    /// A removal was missed, or the store went back in time: only all of it helps.
    NeedsAll,
}

impl KvFeed {
    pub(crate) fn new(store: Arc<dyn KvStore>, selector: Selector, weigh: Weigh) -> Self {
        KvFeed {
            store,
            selector,
            weigh,
            attentive: AtomicBool::new(false),
            copy: Mutex::default(),
            wakes: watch::Sender::new(0),
        }
    }

    pub(crate) fn wakes(&self) -> watch::Receiver<u64> {
        self.wakes.subscribe()
    }

    pub(crate) fn attend(&self, attention: Attention) {
        self.attentive.store(attention == Attention::Everything, Ordering::Relaxed);
    }

    /// When the copy was complete; `None` before the first answer.
    pub(crate) fn as_of(&self) -> Option<BootInstant> {
        self.copy().as_of
    }

    /// When the store last told of something new by itself; `None`: not yet.
    pub(crate) fn told(&self) -> Option<BootInstant> {
        self.copy().told
    }

    /// Whether the watch broke off and the store has not answered since: then what is known is not what the store would say now.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.copy().hearing == Hearing::CutOff
    }

    /// Look at the copy.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&BTreeMap<String, Held>) -> T) -> T {
        look(&self.copy().entries)
    }

    fn copy(&self) -> MutexGuard<'_, Copied> {
        self.copy.lock()
    }

    /// Ask the store what is new since the copy was complete; one request, two after a missed removal.
    pub(crate) async fn confirm(&self) -> Result<(), StoreError> {
        let since = self.copy().version;
        match self.ask(since).await? {
            Absorbed::Complete => Ok(()),
            Absorbed::NeedsAll => self.ask_for_all().await,
        }
    }

    async fn ask_for_all(&self) -> Result<(), StoreError> {
        self.ask(Version::START).await.map(|_| ())
    }

    async fn ask(&self, since: Version) -> Result<Absorbed, StoreError> {
        let (asked_at, known) = (BootInstant::now(), self.copy().version);
        let look = self.store.look(&self.selector, since).await?;
        Ok(self.absorb_answer(look, since, known, asked_at))
    }

    /// An answer to a question that was asked at that moment, of everything after `since`, when `known` was the version of
    /// the copy.
    pub(crate) fn absorb_look(&self, look: Look, asked_at: BootInstant, known: Version) {
        self.absorb_answer(look, Version::START, known, asked_at);
    }

    /// The version that a question that is asked now must be answered with, or a later one.
    pub(crate) fn version(&self) -> Version {
        self.copy().version
    }

    fn absorb_answer(&self, look: Look, since: Version, known: Version, asked_at: BootInstant) -> Absorbed {
        let (mut copy, now) = (self.copy(), BootInstant::now());
        let went_back = look.version < known;
        if !went_back && look.version < copy.version {
            // News was faster than the answer: the copy holds all of it already.
            copy.as_of = copy.as_of.max(Some(asked_at));
            return Absorbed::Complete;
        }
        let mut heavy = false;
        if since == Version::START {
            let there: BTreeSet<&str> = look.changed.iter().map(|entry| entry.key.as_str()).collect();
            copy.entries.retain(|key, old| {
                let stays = there.contains(key.as_str());
                heavy |= !stays && self.is_heavy(Some(&old.entry), None);
                stays
            });
            for entry in look.changed {
                heavy |= self.is_heavy(copy.entry(entry.key.as_str()), Some(&entry));
                copy.hold(entry, now);
            }
        } else {
            let new = look.changed.iter().filter(|entry| !copy.entries.contains_key(entry.key.as_str()));
            if went_back || copy.entries.len() + new.count() != look.count {
                return Absorbed::NeedsAll;
            }
            for entry in look.changed {
                heavy |= self.is_heavy(copy.entry(entry.key.as_str()), Some(&entry));
                copy.hold(entry, now);
            }
        }
        copy.version = look.version;
        copy.as_of = if went_back { Some(asked_at) } else { copy.as_of.max(Some(asked_at)) };
        drop(copy);
        if heavy {
            self.wake();
        }
        Absorbed::Complete
    }

    fn absorb_changes(&self, changes: Vec<Change>, version: Version) {
        let (mut copy, now) = (self.copy(), BootInstant::now());
        if version <= copy.version {
            return; // known from an answer, or received twice
        }
        let mut heavy = false;
        for Change { key, entry } in changes {
            let old = copy.entry(key.as_str());
            if let (Some(old), Some(entry)) = (old, &entry)
                && entry.revision.0 <= old.revision.0
            {
                continue;
            }
            heavy |= self.is_heavy(old, entry.as_ref());
            match entry {
                Some(entry) => copy.hold(entry, now),
                None => drop(copy.entries.remove(key.as_str())),
            }
        }
        copy.version = version;
        copy.told = Some(now);
        drop(copy);
        if heavy {
            self.wake();
        }
    }

    fn is_heavy(&self, old: Option<&Entry>, new: Option<&Entry>) -> bool {
        let changed = old.map(|entry| entry.revision) != new.map(|entry| entry.revision);
        changed
            && (self.attentive.load(Ordering::Relaxed)
                || (self.weigh)(&self.selector, old, new) == Weight::Wakes)
    }

    fn wake(&self) {
        self.wakes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Keep the copy up to date with what the store tells.
    pub(crate) async fn follow(&self, mut changes: Changes) {
        loop {
            match changes.next().await {
                News::Carried { changes, version } => self.absorb_changes(changes, version),
                News::Found { look, asked_at } => self.absorb_look(look, asked_at, Version::START),
                News::Look => self.catch_up(Missed::Changes).await,
                News::Anew | News::BrokenOff => self.catch_up(Missed::Unknown).await,
            }
        }
    }

    /// Read what was missed, as often as it takes: later news makes no sense before that.
    async fn catch_up(&self, missed: Missed) {
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = match missed {
                Missed::Changes => self.confirm().await,
                Missed::Unknown => self.ask_for_all().await,
            };
            match outcome {
                Ok(()) => {
                    self.copy().hearing = Hearing::Works;
                    return;
                }
                Err(error) => tracing::debug!(%error, "cannot read what the watch of the store missed"),
            }
            if std::mem::replace(&mut self.copy().hearing, Hearing::CutOff) == Hearing::Works {
                // Whoever relies on the store learns now that it is away, and not when its next question is due.
                self.wake();
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What a watch did not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// Some changes.
    Changes,
    /// The watch was cut off: even the store may be another one.
    Unknown,
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
