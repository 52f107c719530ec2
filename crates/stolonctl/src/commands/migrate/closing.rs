//! A cluster that is a primary, and closed for clients: proxies send them nowhere, and `pgHBA` admits nobody but us. Both, since either
//! alone leaves a way in: one past the proxies, and one for whoever has our user.

use std::time::Duration;

use stolon_model::{ClusterData, ClusterDocument};
use stolon_postgres::quote::hba_name;
use stolon_runtime::Failure;
use tokio::time::Instant;

use super::record;
use super::wait::{Seen, until};
use crate::stored_cluster::StoredCluster;

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// `pgHBA` that admits this user alone: the keepers' own users get in by lines that come before these.
pub fn lines(user: &str) -> Vec<String> {
    let user = hba_name(user).into_owned();
    ["0.0.0.0/0", "::/0"].map(|address| format!("host all {user} {address} md5")).to_vec()
}

/// Whether these lines are [`lines`] of some user.
pub fn is_ours(found: &[String]) -> bool {
    let user = found.first().and_then(|line| line.strip_prefix("host all ")?.strip_suffix(" 0.0.0.0/0 md5"));
    user.is_some_and(|user| found.len() == 2 && found[1] == format!("host all {user} ::/0 md5"))
}

/// What `pgHBA` says now.
pub fn admitted(document: &ClusterDocument) -> Option<Vec<String>> {
    document.cluster.as_ref()?.spec.as_ref()?.pg_hba.clone()
}

/// Have `pgHBA` say something else.
pub fn admit(document: &mut ClusterDocument, lines: Option<Vec<String>>) {
    if let Some(spec) = document.cluster.as_mut().and_then(|cluster| cluster.spec.as_mut()) {
        spec.pg_hba = lines;
    }
}

/// Until the keeper of the primary has let go of what `pgHBA` allowed before, and proxies send clients nowhere.
///
/// # Errors
/// The store does not answer, or they have not by the deadline.
pub async fn until_closed(cluster: &StoredCluster, hba: &[String], deadline: Instant) -> anyhow::Result<()> {
    until(POLL, deadline, async || {
        let document = cluster.workable_document().await?.value;
        let lets_in = record::lets_clients_in(&document);
        let data = ClusterData::try_from(document)?;
        let is_closed = data.primary().is_some_and(|primary| {
            primary.spec.pg_hba.as_deref().is_some_and(|lines| lines == hba)
                && primary.status.current_generation == primary.generation
        });
        Ok(match is_closed && !lets_in {
            true => Seen::Done(()),
            false => Seen::not_yet(Failure::new("the cluster is not closed for clients in time")),
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_user_with_a_strange_name_is_admitted_by_that_name() {
        assert_eq!(super::lines("all")[0], "host all \"all\" 0.0.0.0/0 md5");
        assert!(super::is_ours(&super::lines("a b")));
        let others = ["host all all 0.0.0.0/0 md5", "host all b ::/0 md5"].map(str::to_owned);
        assert!(!super::is_ours(&others) && !super::is_ours(&others[..1]) && !super::is_ours(&[]));
    }
}
