//! Leases: what makes reports vanish after their process. A process has one for each length that it asks for, which is one
//! as a rule, and keeps it alive as long as it goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::{BootInstant, StoreError};

/// Pause between attempts to keep a lease alive.
const PAUSE: Duration = Duration::from_secs(1);

/// What grants leases.
#[async_trait]
pub trait Grantor: Send + Sync + 'static {
    /// Names a lease.
    type Id: Clone + PartialEq + Send + Sync;

    /// Ask for a lease of so many seconds. One whose id does not arrive ends by itself.
    async fn grant(&self, seconds: u64) -> Result<Granted<Self::Id>, StoreError>;

    /// Let a lease last its whole length from now on.
    async fn keep_alive(&self, id: &Self::Id) -> Result<Known, StoreError>;
}

/// A lease as the store gives it.
pub struct Granted<Id> {
    /// Names the lease.
    pub id: Id,
    /// How long it lives at least after it was granted or kept alive.
    pub length: Duration,
}

/// Whether the store knows of a lease, or of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It goes on.
    Yes,
    /// It has ended; what hung on a lease is gone.
    No,
}

/// A lease that the store knew of when it was last asked.
#[derive(Clone, Debug)]
pub struct Lease<Id> {
    /// Id of the lease in the store.
    pub id: Id,
    /// What the store granted, which need not be what was asked for.
    length: Duration,
    /// What a key must have left of its life when it is put: a third of the time that was asked for.
    needed: Duration,
    /// When the lease was last requested or renewed. The store's clock for it began later.
    asked_at: BootInstant,
}

impl<Id> Lease<Id> {
    /// The moment until which the lease lives in any case.
    pub fn lives_until(&self, margin: Duration) -> BootInstant {
        self.asked_at + self.length.saturating_sub(margin)
    }

    /// True if too little of its time is left for a new key.
    fn is_short(&self) -> bool {
        self.lives_until(self.needed).is_past()
    }

    /// When to renew it, so that no new key has to wait for a renewal.
    fn due(&self) -> BootInstant {
        self.lives_until(self.needed + self.length / 20)
    }
}

/// The leases of this process, by the seconds that were asked for.
pub struct Leases<G: Grantor> {
    all: Arc<All<G>>,
    granting: tokio::sync::Mutex<()>,
    keeping: OnceLock<AbortOnDropHandle<()>>,
}

/// What keeps them alive knows this of them, and ends with [`Leases`].
struct All<G: Grantor> {
    grantor: G,
    held: Mutex<BTreeMap<u64, Lease<G::Id>>>,
    /// What hangs on them, by its key.
    hung: Mutex<BTreeMap<String, u64>>,
    changed: Notify,
}

impl<G: Grantor> Leases<G> {
    /// Without leases yet.
    pub fn new(grantor: G) -> Self {
        let all = All { grantor, held: Mutex::default(), hung: Mutex::default(), changed: Notify::new() };
        Leases { all: Arc::new(all), granting: tokio::sync::Mutex::default(), keeping: OnceLock::new() }
    }

    /// The key hangs on the lease of this length, until it is let go. Leases on which nothing hangs are not kept.
    pub fn hang(&self, key: &str, seconds: u64) {
        self.all.hung().insert(key.to_owned(), seconds);
    }

    /// The key hangs on no lease any more.
    pub fn let_go(&self, key: &str) {
        self.all.hung().remove(key);
    }

    /// A lease with at least a third of its time left. Asks for one, or for more time, only where that is needed.
    pub async fn of(&self, seconds: u64) -> Result<Lease<G::Id>, StoreError> {
        if let Some(lease) = self.all.usable(seconds) {
            return Ok(lease);
        }
        let _one_at_a_time = self.granting.lock().await;
        if let Some(lease) = self.all.usable(seconds) {
            return Ok(lease);
        }
        let short = self.all.held().get(&seconds).cloned();
        if let Some(lease) = short
            && let Some(lease) = self.all.renew(seconds, &lease.id).await?
        {
            return Ok(lease);
        }
        let lease = self.all.grant(seconds).await?;
        self.all.held().insert(seconds, lease.clone());
        self.all.changed.notify_one();
        let all = Arc::clone(&self.all);
        self.keeping.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(keep_all(all))));
        Ok(lease)
    }

    /// Renew a lease. `None`: the store has no such lease any more, and what hung on it is gone.
    pub async fn renew(&self, seconds: u64, id: &G::Id) -> Result<Option<Lease<G::Id>>, StoreError> {
        self.all.renew(seconds, id).await
    }

    /// Forget a lease that the store does not know any more.
    pub fn forget(&self, id: &G::Id) {
        self.all.forget(id);
    }
}

impl<G: Grantor> All<G> {
    fn usable(&self, seconds: u64) -> Option<Lease<G::Id>> {
        self.held().get(&seconds).cloned().filter(|lease| !lease.is_short())
    }

    fn hung(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.hung.lock()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Lease<G::Id>>> {
        self.held.lock()
    }

    async fn renew(&self, seconds: u64, id: &G::Id) -> Result<Option<Lease<G::Id>>, StoreError> {
        let Some(lease) = self.held().get(&seconds).cloned().filter(|lease| lease.id == *id) else {
            return Ok(None);
        };
        let asked_at = BootInstant::now();
        match self.grantor.keep_alive(id).await? {
            Known::Yes => {
                // Another lease may have taken its place meanwhile.
                self.held().entry(seconds).and_modify(|held| {
                    if held.id == *id {
                        held.asked_at = asked_at;
                    }
                });
                Ok(Some(Lease { asked_at, ..lease }))
            }
            Known::No => {
                self.forget(id);
                Ok(None)
            }
        }
    }

    fn forget(&self, id: &G::Id) {
        self.held().retain(|_, lease| lease.id != *id);
    }

    async fn grant(&self, seconds: u64) -> Result<Lease<G::Id>, StoreError> {
        let asked_at = BootInstant::now();
        let Granted { id, length } = self.grantor.grant(seconds).await?;
        Ok(Lease { id, length, needed: Duration::from_secs(seconds) / 3, asked_at })
    }

    /// Keep alive what is due; gives the moment at which something will be.
    async fn keep_due(&self) -> Option<BootInstant> {
        let held: Vec<(u64, Lease<G::Id>)> =
            self.held().iter().map(|(seconds, lease)| (*seconds, lease.clone())).collect();
        for (seconds, lease) in held {
            if !self.hung().values().any(|used| *used == seconds) {
                // It ends by itself.
                self.forget(&lease.id);
                continue;
            }
            if lease.due().is_past()
                && let Err(error) = self.renew(seconds, &lease.id).await
            {
                tracing::debug!(%error, "a lease could not be kept alive, trying again");
                return Some(BootInstant::now() + PAUSE);
            }
        }
        self.held().values().map(Lease::due).min()
    }
}

/// Keep all leases alive.
async fn keep_all<G: Grantor>(all: Arc<All<G>>) {
    loop {
        let due = all.keep_due().await;
        let changed = all.changed.notified();
        match due {
            Some(due) => {
                let _ = tokio::time::timeout(due.remaining(), changed).await;
            }
            None => changed.await,
        }
    }
}

/// No store takes a longer time to live than Consul's day ("Session HTTP API", `TTL`), and each renewal begins it anew.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// Leases have whole seconds; a part of one counts as one, so that nothing vanishes early.
pub fn whole_seconds(ttl: Duration) -> u64 {
    let ttl = ttl.min(LONGEST_TTL);
    ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)
}
