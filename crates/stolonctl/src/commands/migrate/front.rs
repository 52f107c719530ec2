//! Applications reach the legacy server through the proxies (docs: design/010-migration.md, "The application first"): from `start` on
//! proxies send clients there, so that the switch is a pause for them and no other address.

use std::net::IpAddr;
use std::time::Duration;

use stolon_model::{
    ClientsGo, ClusterData, ClusterDocument, GoDuration, Migration, MigrationStage, ProxyHandover,
    ServerAddress,
};
use stolon_postgres::conninfo::{Conninfo, Place};
use stolon_runtime::{Failure, UsageError, postgres_port};
use tokio::time::Instant;

use super::record;
use super::wait::{Seen, until};
use crate::output;
use crate::stored_cluster::{Edit, StoredCluster};

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
/// So much longer than the downtime may last proxies hold new clients: a little more is better than to turn them away at the end of it.
const LONGER: Duration = Duration::from_secs(15);

/// Where proxies send clients until the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Proxies {
    /// To the legacy server.
    Legacy,
    /// As if there was no migration: to a standby cluster, which is read-only; nowhere by the logical method.
    Cluster,
}

/// Flags of `migrate start` about the proxies.
#[derive(Debug, clap::Args)]
pub struct FrontArgs {
    /// Where proxies send clients until the switch: legacy, so that applications can use the proxies' address from now on; cluster, where
    /// they would go without a migration. Without it legacy, where --source has an address that is no socket
    #[arg(long, value_enum, value_name = "WHERE")]
    pub proxies: Option<Proxies>,

    /// Where proxies reach the legacy server, if not where --source does: HOST:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub legacy_address: Option<ServerAddress>,
}

fn address(text: &str) -> Result<ServerAddress, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let (host, port) = (stolon_runtime::host(host)?, postgres_port(port)?);
    if host.is_empty() || port.is_empty() {
        return Err("a host and a port are needed, as in 10.0.0.7:5432".to_owned());
    }
    Ok(ServerAddress { host: host.trim_matches(['[', ']']).to_owned(), port })
}

/// Whether it is a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For good.
    Migration,
    /// Applications stay where they are.
    Rehearsal,
}

impl FrontArgs {
    /// Where proxies are to reach the legacy server, whose primary is at `place`; none: they do not.
    ///
    /// # Errors
    /// The flags exclude each other, or the server has no address that a proxy could use.
    pub fn wanted(&self, place: &Place, purpose: Purpose) -> Result<Option<ServerAddress>, UsageError> {
        if purpose == Purpose::Rehearsal {
            return match self.proxies == Some(Proxies::Legacy) || self.legacy_address.is_some() {
                true => Err(UsageError::new("a rehearsal leaves applications where they are")
                    .hint("leave out --proxies and --legacy-address, or --rehearsal")),
                false => Ok(None),
            };
        }
        let at = match (self.proxies, &self.legacy_address) {
            (Some(Proxies::Cluster), Some(_)) => {
                return Err(UsageError::new("--proxies cluster and --legacy-address exclude each other"));
            }
            (Some(Proxies::Cluster), None) => return Ok(None),
            (_, Some(address)) => address.clone(),
            (asked, None) if place.host.starts_with('/') => {
                let why = format!("proxies cannot reach the legacy server by the socket in {}", place.host);
                if asked.is_some() {
                    return Err(UsageError::new(why).hint("--legacy-address HOST:PORT says where they can"));
                }
                output::note(&format!("{why}, and send nobody there: --legacy-address says where they can"));
                return Ok(None);
            }
            (_, None) => ServerAddress { host: place.host.clone(), port: place.port.clone() },
        };
        if is_loopback(&at) {
            output::note(&format!(
                "proxies are told that the legacy server is at {at}, which is right for those on its own host alone: --legacy-address \
                 gives the others an address"
            ));
        }
        Ok(Some(at))
    }

    /// The same for a migration that was begun before. Where nothing is asked for, an address that came from the source follows the primary
    /// of the legacy server, and any other one stays.
    ///
    /// # Errors
    /// The same.
    pub fn renewed(
        &self,
        migration: &Migration,
        source: &Conninfo,
        place: &Place,
    ) -> Result<Option<ServerAddress>, UsageError> {
        let purpose = if migration.rehearsal { Purpose::Rehearsal } else { Purpose::Migration };
        if self.proxies.is_some() || self.legacy_address.is_some() {
            return self.wanted(place, purpose);
        }
        let known = migration.legacy_address.as_ref();
        let is_of_source = |known: &&ServerAddress| {
            source.places().iter().any(|place| place.host == known.host && place.port == known.port)
        };
        match known.filter(is_of_source) {
            Some(known) if known.host != place.host || known.port != place.port => {
                self.wanted(place, purpose)
            }
            _ => Ok(known.cloned()),
        }
    }
}

/// Whether only programs of the same host reach it.
pub fn is_loopback(address: &ServerAddress) -> bool {
    let is_local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    address.host == "localhost" || address.host.parse().is_ok_and(is_local)
}

/// Write down where proxies reach the legacy server of a migration that was begun before. The sentinel has them move.
///
/// # Errors
/// The store does not answer.
pub async fn renew(
    cluster: &StoredCluster,
    uid: &str,
    address: Option<&ServerAddress>,
) -> anyhow::Result<()> {
    cluster
        .amend(|document| {
            let migration = record::to_change(document)?;
            let is_early = matches!(migration.stage, None | Some(MigrationStage::Following));
            if migration.uid != uid || !is_early || migration.legacy_address.as_ref() == address {
                return Ok(Edit::Unneeded);
            }
            migration.legacy_address = address.cloned();
            Ok(Edit::Write)
        })
        .await
}

/// A cluster that is made anew in the place of one that was moved away from again: clients who are sent to the same legacy server stay there.
pub fn keep_clients(found: &ClusterDocument, document: &mut ClusterDocument) {
    let Ok(before) = ClusterData::try_from(found.clone()) else { return };
    let Ok(data) = ClusterData::try_from(document.clone()) else { return };
    let ClientsGo::ToLegacy(address) = data.clients_go() else { return };
    if before.legacy_for_clients() == Some(address) {
        let mut proxy = before.proxy.clone();
        proxy.generation += 1;
        document.proxy = Some(proxy);
    }
}

/// Whether proxies send clients to the legacy server while that serves.
pub fn is_wanted(document: &ClusterDocument) -> bool {
    record::of(document).is_some_and(|migration| migration.legacy_address.is_some())
}

/// One side of the migration is being closed: proxies that served it let go of their clients, and hold new ones for as long as that may
/// take.
pub fn hold_clients(document: &mut ClusterDocument, grace: Duration, max_downtime: Duration) {
    let hold = GoDuration::from(max_downtime.saturating_add(LONGER));
    record::hold_clients(document, ProxyHandover { grace: GoDuration::from(grace), hold });
}

/// Whether no proxy can be forwarding any more, as the sentinel has found for these very cluster data.
pub fn is_away(document: &ClusterDocument) -> bool {
    let Some(proxy) = &document.proxy else { return false };
    let told = record::of(document).and_then(|migration| migration.proxies_away);
    let is_closed = proxy.spec.primary.is_none() && proxy.spec.legacy.is_none();
    is_closed && told == Some(proxy.generation)
}

/// What a point of no return needs: where proxies served the other side, none of them does any more.
///
/// # Errors
/// One may.
pub fn must_be_away(document: &ClusterDocument) -> Result<(), Failure> {
    match is_wanted(document) && !is_away(document) {
        true => Err(still_there()),
        false => Ok(()),
    }
}

fn still_there() -> Failure {
    Failure::new("a proxy may still be forwarding to the side that was closed").hint(
        "the sentinel's log names it: one that hangs closes by itself after proxyTimeout, one that has died is forgotten after twice as long",
    )
}

/// Until [`is_away`].
///
/// # Errors
/// The store does not answer, or it is not by the deadline.
pub async fn until_away(cluster: &StoredCluster, deadline: Instant) -> anyhow::Result<()> {
    until(POLL, deadline, async || {
        let document = cluster.workable_document().await?.value;
        Ok(match must_be_away(&document) {
            Ok(()) => Seen::Done(()),
            Err(failure) => Seen::not_yet(failure),
        })
    })
    .await
}

/// Until proxies are told to send clients to the legacy server; at once where they never do.
///
/// # Errors
/// The store does not answer, or they are not by the deadline.
pub async fn until_forwarding(cluster: &StoredCluster, deadline: Instant) -> anyhow::Result<()> {
    until(POLL, deadline, async || {
        let document = cluster.workable_document().await?.value;
        let is_told =
            !is_wanted(&document) || ClusterData::try_from(document)?.legacy_for_clients().is_some();
        Ok(match is_told {
            true => Seen::Done(()),
            false => Seen::not_yet(Failure::new("the proxies do not send clients to the legacy server yet")),
        })
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn place(host: &str) -> Place {
        Place { host: host.to_owned(), port: "5432".to_owned() }
    }

    fn args(proxies: Option<Proxies>, address: Option<&str>) -> FrontArgs {
        FrontArgs { proxies, legacy_address: address.map(|text| super::address(text).unwrap()) }
    }

    #[test]
    fn addresses_are_a_host_and_a_port() {
        let read = |text| address(text).map(|address| address.to_string());
        assert_eq!(read("db:5432").unwrap(), "db:5432");
        assert_eq!(read("[::1]:5433").unwrap(), "[::1]:5433");
        for wrong in ["", "db", "db:", ":5432", "db:0", "db:70000", "[::1:5432", "/run/db:5432", "a b:1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_table_of_where_proxies_go() {
        use Proxies::{Cluster, Legacy};
        use Purpose::{Migration, Rehearsal};
        let wanted = |proxies, address, host: &str, purpose| {
            args(proxies, address).wanted(&place(host), purpose).map(|it| it.map(|it| it.to_string())).ok()
        };
        let at = |text: &str| Some(Some(text.to_owned()));
        assert_eq!(wanted(None, None, "db", Migration), at("db:5432"));
        assert_eq!(wanted(Some(Legacy), None, "db", Migration), at("db:5432"));
        assert_eq!(wanted(None, Some("x:1"), "/run", Migration), at("x:1"));
        assert_eq!(wanted(None, None, "/run", Migration), Some(None), "a default is no promise");
        assert_eq!(wanted(Some(Legacy), None, "/run", Migration), None);
        assert_eq!(wanted(Some(Cluster), None, "db", Migration), Some(None));
        assert_eq!(wanted(Some(Cluster), Some("x:1"), "db", Migration), None);
        assert_eq!(wanted(None, None, "db", Rehearsal), Some(None));
        assert_eq!(wanted(Some(Legacy), None, "db", Rehearsal), None);
        assert_eq!(wanted(None, Some("x:1"), "db", Rehearsal), None);
    }

    /// The legacy server has failed over to another of its hosts: `start`, given again, has proxies follow.
    #[test]
    fn an_address_of_the_source_follows_its_primary() {
        let source = Conninfo::parse("host=a,b user=u").unwrap();
        for (known, expected) in [
            (Some("a:5432"), Some("b:5432")),
            (Some("b:5432"), Some("b:5432")),
            (Some("vip:1"), Some("vip:1")),
            (None, None),
        ] {
            let legacy_address = known.map(|text| address(text).unwrap());
            let migration = Migration { legacy_address, ..Migration::default() };
            let found = args(None, None).renewed(&migration, &source, &place("b")).unwrap();
            assert_eq!(found.map(|found| found.to_string()).as_deref(), expected, "{known:?}");
        }
    }
}
