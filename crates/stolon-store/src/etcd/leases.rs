//! Leases: what makes reports vanish. Each report has one, kept alive by each publication.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::link::{Links, Repeat, is_lease_missing};
use crate::{Key, StoreError};

/// Ask for a lease of so many seconds. A lease whose number did not arrive ends by itself.
pub async fn grant(links: &Links, seconds: i64) -> Result<i64, StoreError> {
    let answer = links
        .ask("asking for a lease", Repeat::Safe, move |mut client| async move {
            client.lease_grant(seconds, None).await
        })
        .await?;
    Ok(answer.id())
}

/// Start a lease's time anew. False: there is no such lease any more.
pub async fn keep_alive(links: &Links, lease: i64) -> Result<bool, StoreError> {
    links
        .ask("keeping a lease alive", Repeat::Safe, move |mut client| async move {
            match client.lease_keep_alive(lease).await {
                Ok(_) => Ok(true),
                Err(error) if is_lease_missing(&error) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
}

/// End a lease and what hangs on it. That there is none is no error.
pub async fn revoke(links: &Links, lease: i64) -> Result<(), StoreError> {
    links
        .ask("ending a lease", Repeat::Safe, move |mut client| async move {
            match client.lease_revoke(lease).await {
                Ok(_) => Ok(()),
                Err(error) if is_lease_missing(&error) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await
}

/// The leases of the keys that this process has put.
#[derive(Default)]
pub struct Leases {
    by_key: Mutex<BTreeMap<Key, Lease>>,
}

#[derive(Clone, Copy)]
struct Lease {
    id: i64,
    seconds: i64,
}

impl Leases {
    /// A lease for the key whose time has just begun: the one it has, or a new one.
    pub async fn fresh(&self, links: &Links, key: &Key, ttl: Duration) -> Result<i64, StoreError> {
        let seconds = whole_seconds(ttl);
        let known = self.lock().get(key).copied();
        if let Some(lease) = known.filter(|lease| lease.seconds == seconds)
            && keep_alive(links, lease.id).await?
        {
            return Ok(lease.id);
        }
        // One of another length ends by itself once nothing hangs on it any more.
        self.renewed(links, key, ttl).await
    }

    /// A new lease for the key.
    pub async fn renewed(&self, links: &Links, key: &Key, ttl: Duration) -> Result<i64, StoreError> {
        let seconds = whole_seconds(ttl);
        let id = grant(links, seconds).await?;
        self.lock().insert(key.clone(), Lease { id, seconds });
        Ok(id)
    }

    /// Forget the lease of a key that hangs on it no longer.
    pub fn take(&self, key: &Key) -> Option<i64> {
        self.lock().remove(key).map(|lease| lease.id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Lease>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leases have whole seconds; a part of one counts as one, so that nothing vanishes early.
fn whole_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
