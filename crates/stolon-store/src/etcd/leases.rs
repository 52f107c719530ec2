//! Leases of etcd.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::protocol::{Links, is_lease_missing};
use crate::StoreError;
use crate::leases::{Granted, Grantor, Known};
use crate::link::Repeat;

/// The leases of this process.
pub type Leases = crate::leases::Leases<EtcdGrantor>;
/// A lease of etcd.
pub type Lease = crate::leases::Lease<i64>;

/// etcd as a grantor of leases.
pub struct EtcdGrantor(pub Arc<Links>);

#[async_trait]
impl Grantor for EtcdGrantor {
    type Id = i64;

    async fn grant(&self, seconds: u64) -> Result<Granted<i64>, StoreError> {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let answer = self
            .0
            .ask("asking for a lease", Repeat::Safe, move |mut client| async move {
                client.lease_grant(seconds, None).await
            })
            .await?;
        let granted = u64::try_from(answer.ttl()).unwrap_or(0);
        Ok(Granted { id: answer.id(), length: Duration::from_secs(granted) })
    }

    async fn keep_alive(&self, id: &i64) -> Result<Known, StoreError> {
        let id = *id;
        self.0
            .ask("keeping a lease alive", Repeat::Safe, move |mut client| async move {
                match client.lease_keep_alive(id).await {
                    Ok(_) => Ok(Known::Yes),
                    Err(error) if is_lease_missing(&error) => Ok(Known::No),
                    Err(error) => Err(error),
                }
            })
            .await
    }
}
