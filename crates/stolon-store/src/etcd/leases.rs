//! Leases: what makes reports vanish after their process. A process has one for each length that it asks for, which is one
//! as a rule, and keeps it alive as long as it goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::link::{Links, Repeat, is_lease_missing};
use crate::{BootInstant, StoreError};

/// Pause between attempts to keep a lease alive.
const PAUSE: Duration = Duration::from_secs(1);

/// A lease that the store knew of when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Id of the lease in the store.
    pub id: i64,
    /// What the store granted, which may be more than was asked for.
    length: Duration,
    /// When the lease was last requested or renewed. The store's clock for it began later.
    asked_at: BootInstant,
}

impl Lease {
    /// The moment until which the lease lives in any case.
    pub fn lives_until(&self, margin: Duration) -> BootInstant {
        self.asked_at + self.length.saturating_sub(margin)
    }

    /// The moment from which less than a third of its time is left: too little for a new key.
    fn is_short(&self) -> bool {
        self.lives_until(self.length / 3).is_past()
    }

    /// When to renew it, so that no new key has to wait for a renewal.
    fn due(&self) -> BootInstant {
        self.lives_until(self.length / 3 + self.length / 20)
    }
}

/// The leases of this process, by the seconds that were asked for.
pub struct Leases {
    known: Arc<Known>,
    granting: tokio::sync::Mutex<()>,
    keeping: OnceLock<AbortOnDropHandle<()>>,
}

/// What keeps them alive knows this of them, and ends with [`Leases`].
struct Known {
    links: Arc<Links>,
    held: Mutex<BTreeMap<i64, Lease>>,
    /// What hangs on them, by its key.
    hung: Mutex<BTreeMap<String, i64>>,
    changed: Notify,
}

impl Leases {
    /// Without leases yet.
    pub fn new(links: Arc<Links>) -> Self {
        let known = Known { links, held: Mutex::default(), hung: Mutex::default(), changed: Notify::new() };
        Leases { known: Arc::new(known), granting: tokio::sync::Mutex::default(), keeping: OnceLock::new() }
    }

    /// The key hangs on the lease of this length, until it is let go. Leases on which nothing hangs are not kept.
    pub fn hang(&self, key: &str, seconds: i64) {
        self.known.hung().insert(key.to_owned(), seconds);
    }

    /// The key hangs on no lease any more.
    pub fn let_go(&self, key: &str) {
        self.known.hung().remove(key);
    }

    /// A lease with at least a third of its time left. Asks for one, or for more time, only where that is needed.
    pub async fn of(&self, seconds: i64) -> Result<Lease, StoreError> {
        if let Some(lease) = self.known.usable(seconds) {
            return Ok(lease);
        }
        let _one_at_a_time = self.granting.lock().await;
        if let Some(lease) = self.known.usable(seconds) {
            return Ok(lease);
        }
        let short = self.known.held().get(&seconds).copied();
        if let Some(lease) = short
            && let Some(lease) = self.known.renew(seconds, lease.id).await?
        {
            return Ok(lease);
        }
        let lease = self.known.grant(seconds).await?;
        self.known.held().insert(seconds, lease);
        self.known.changed.notify_one();
        let known = Arc::clone(&self.known);
        self.keeping.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(keep_all(known))));
        Ok(lease)
    }

    /// Renew a lease. `None`: the store has no such lease any more, and what hung on it is gone.
    pub async fn renew(&self, seconds: i64, id: i64) -> Result<Option<Lease>, StoreError> {
        self.known.renew(seconds, id).await
    }

    /// Forget a lease that the store does not know any more.
    pub fn forget(&self, id: i64) {
        self.known.forget(id);
    }
}

impl Known {
    fn usable(&self, seconds: i64) -> Option<Lease> {
        self.held().get(&seconds).copied().filter(|lease| !lease.is_short())
    }

    fn hung(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.hung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<i64, Lease>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn renew(&self, seconds: i64, id: i64) -> Result<Option<Lease>, StoreError> {
        let Some(lease) = self.held().get(&seconds).copied().filter(|lease| lease.id == id) else {
            return Ok(None);
        };
        let kept = self.keep_alive(lease).await?;
        match kept {
            Some(lease) => {
                // Another lease may have taken its place meanwhile.
                self.held().entry(seconds).and_modify(|held| {
                    if held.id == id {
                        held.asked_at = lease.asked_at;
                    }
                });
            }
            None => self.forget(id),
        }
        Ok(kept)
    }

    fn forget(&self, id: i64) {
        self.held().retain(|_, lease| lease.id != id);
    }

    /// A lease whose id did not arrive ends by itself.
    async fn grant(&self, seconds: i64) -> Result<Lease, StoreError> {
        let asked_at = BootInstant::now();
        let answer = self
            .links
            .ask("asking for a lease", Repeat::Safe, move |mut client| async move {
                client.lease_grant(seconds, None).await
            })
            .await?;
        let granted = u64::try_from(answer.ttl()).unwrap_or(0);
        Ok(Lease { id: answer.id(), length: Duration::from_secs(granted), asked_at })
    }

    async fn keep_alive(&self, lease: Lease) -> Result<Option<Lease>, StoreError> {
        let asked_at = BootInstant::now();
        self.links
            .ask("keeping a lease alive", Repeat::Safe, move |mut client| async move {
                match client.lease_keep_alive(lease.id).await {
                    Ok(_) => Ok(Some(Lease { asked_at, ..lease })),
                    Err(error) if is_lease_missing(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    /// Keep alive what is due; gives the moment at which something will be.
    async fn keep_due(&self) -> Option<BootInstant> {
        let held: Vec<(i64, Lease)> = self.held().iter().map(|(seconds, lease)| (*seconds, *lease)).collect();
        for (seconds, lease) in held {
            if !self.hung().values().any(|used| *used == seconds) {
                // It ends by itself.
                self.forget(lease.id);
                continue;
            }
            if lease.due().is_past()
                && let Err(error) = self.renew(seconds, lease.id).await
            {
                tracing::debug!(%error, "a lease could not be kept alive, trying again");
                return Some(BootInstant::now() + PAUSE);
            }
        }
        self.held().values().map(Lease::due).min()
    }
}

/// Keep all leases alive.
async fn keep_all(known: Arc<Known>) {
    loop {
        let due = known.keep_due().await;
        let changed = known.changed.notified();
        match due {
            Some(due) => {
                let _ = tokio::time::timeout(due.remaining(), changed).await;
            }
            None => changed.await,
        }
    }
}

/// Leases have whole seconds; a part of one counts as one, so that nothing vanishes early.
pub fn whole_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
