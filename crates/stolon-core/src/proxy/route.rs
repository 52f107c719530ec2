//! Where clients go, by one look at the cluster data.

use std::time::Duration;

use stolon_model::{
    BadClusterData, ClusterData, ClusterDocument, InstanceUid, ProxyHandover, ProxyUid, ServerAddress,
    UsableCluster,
};

use super::Version;

/// Where clients go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// To a server that takes writes, or would.
    Open {
        /// Which one.
        to: Upstream,
        /// Its advertised address.
        address: ServerAddress,
        /// The generation of the proxy section that says so; to be acknowledged before a client is let through.
        generation: i64,
        /// Where its keeper can be asked for a voucher, `host:port`; `None`: nowhere. A legacy server has no keeper.
        vouched_at: Option<String>,
    },
    /// No client is let through.
    Closed {
        /// The reason.
        why: ClosedBecause,
        /// The generation to acknowledge once every connection is closed; `None`: nothing can be acknowledged.
        generation: Option<i64>,
    },
}

/// Whom clients are sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Upstream {
    /// An instance of the cluster.
    Primary(InstanceUid),
    /// The legacy server of a migration, which serves until the cluster takes over.
    Legacy,
}

impl Upstream {
    /// Whether it is this instance. A voucher for an instance says nothing of a legacy server.
    pub fn is_instance(&self, instance: &InstanceUid) -> bool {
        matches!(self, Upstream::Primary(primary) if primary == instance)
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            Upstream::Primary(_) => "the primary",
            Upstream::Legacy => "the legacy server",
        }
    }
}

/// How clients are let go of when the primary is relieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handover {
    /// Sessions that are not idle by then are ended.
    pub grace: Duration,
    /// New clients wait for so long.
    pub hold: Duration,
}

/// Whatever the document says, sessions are ended, and clients turned away, after this.
const LONGEST_GRACE: Duration = Duration::from_secs(5);
const LONGEST_HOLD: Duration = Duration::from_secs(60);

impl Handover {
    fn of(told: &ProxyHandover) -> Handover {
        Handover { grace: told.grace.to_std().min(LONGEST_GRACE), hold: told.hold.to_std().min(LONGEST_HOLD) }
    }
}

/// Why clients go nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClosedBecause {
    /// The store holds no cluster.
    NoClusterData,
    /// The cluster data cannot be worked with.
    BadClusterData(BadClusterData),
    /// The primary is relieved: sessions end where they are idle, and new clients wait.
    HandingOver(Handover),
    /// No primary is elected, or proxies are asked to let go of the last one.
    NoPrimary,
    /// The proxy section names an instance that does not exist.
    UnknownPrimary(InstanceUid),
    /// The primary's keeper has not published its address yet.
    NoAddress(InstanceUid),
    /// The sentinel has not admitted this proxy yet, or believed it to be dead.
    NotEnabled {
        /// Whom the others send clients to.
        to: Upstream,
        /// Its address.
        address: ServerAddress,
    },
    /// The cluster data name another primary, or the primary has another address.
    Moved,
    /// No check succeeded within `proxyTimeout`, so the primary may be another one by now.
    Expired,
    /// The store holds cluster data that are older than what this proxy has seen.
    OlderThanSeen {
        /// The newest version that was seen.
        seen: Version,
        /// The version in the store.
        found: Version,
    },
    /// The program stops.
    Stopping,
}

/// How often a proxy looks, and when it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timings {
    /// Pause between checks (`proxyCheckInterval`).
    pub check_interval: Duration,
    /// Without a successful check for this long everything is closed (`proxyTimeout`).
    pub timeout: Duration,
}

impl Timings {
    /// In force until a specification was read and a report published.
    pub const INITIAL: Timings =
        Timings { check_interval: Duration::from_secs(5), timeout: Duration::from_secs(15) };
}

/// What one look at the cluster data tells a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// Where clients go.
    pub route: Route,
    /// What the specification asks for; `None` without one.
    pub timings: Option<Timings>,
    /// How new the cluster data are; `None` without usable ones.
    pub version: Option<Version>,
}

/// Where clients go, by the document in the store (docs: "Rules that keep it safe").
///
/// The health of the primary does not count: who is primary is the sentinel's decision alone.
pub fn route(document: Option<&ClusterDocument>, own: &ProxyUid) -> Verdict {
    let Some(document) = document else {
        return unknown(ClosedBecause::NoClusterData);
    };
    let cluster = match UsableCluster::try_from(document.clone()) {
        Ok(cluster) => cluster,
        Err(bad) => return unknown(ClosedBecause::BadClusterData(bad)),
    };
    let spec = cluster.spec();
    let timings = Timings { check_interval: spec.proxy_check_interval, timeout: spec.proxy_timeout };
    let version = Some(Version::of(cluster.data()));
    Verdict { route: route_of(cluster.data(), own), timings: Some(timings), version }
}

/// Closed, without a generation that could be acknowledged.
fn unknown(why: ClosedBecause) -> Verdict {
    Verdict { route: Route::Closed { why, generation: None }, timings: None, version: None }
}

fn route_of(cluster: &ClusterData, own: &ProxyUid) -> Route {
    let generation = cluster.proxy.generation;
    let closed = |why| Route::Closed { why, generation: Some(generation) };
    let spec = &cluster.proxy.spec;
    let is_enabled = spec.enabled_proxies.iter().flatten().any(|proxy| proxy == own);
    let not_enabled = |to, address| closed(ClosedBecause::NotEnabled { to, address });
    let Some(uid) = spec.primary.as_ref().filter(|uid| !uid.is_empty()) else {
        if let Some(address) = cluster.legacy_for_clients().cloned() {
            let to = Upstream::Legacy;
            return match is_enabled {
                true => Route::Open { to, address, generation, vouched_at: None },
                false => not_enabled(to, address),
            };
        }
        return closed(match &spec.handover {
            Some(handover) => ClosedBecause::HandingOver(Handover::of(handover)),
            None => ClosedBecause::NoPrimary,
        });
    };
    let Some(primary) = cluster.instances.get(uid) else {
        return closed(ClosedBecause::UnknownPrimary(uid.clone()));
    };
    let status = &primary.status;
    if status.listen_address.is_empty() || status.port.is_empty() {
        return closed(ClosedBecause::NoAddress(uid.clone()));
    }
    let address = ServerAddress { host: status.listen_address.clone(), port: status.port.clone() };
    let to = Upstream::Primary(uid.clone());
    if !is_enabled {
        return not_enabled(to, address);
    }
    let keeper = cluster.keepers.get(&primary.spec.keeper_uid).map(|keeper| &keeper.status.http_address);
    let vouched_at = keeper.filter(|address| !address.is_empty()).cloned();
    Route::Open { to, address, generation, vouched_at }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use stolon_model::{
        ClusterSpec, ClusterUid, GoDuration, Instance, InstanceStatus, ProxySection, ProxySpec, Timestamp,
    };

    use super::*;

    const OWN: &str = "0a1b2c3d";

    /// A cluster whose proxy section is at generation 7.
    fn document(primary: Option<&str>, enabled: Option<&[&str]>, listen_address: &str) -> ClusterDocument {
        let spec = ClusterSpec {
            proxy_check_interval: Some(GoDuration::from_seconds(1)),
            proxy_timeout: Some(GoDuration::from_seconds(3)),
            init_mode: Some(stolon_model::InitMode::New),
            ..ClusterSpec::default()
        };
        let mut cluster = ClusterData::initial(ClusterUid::from("c"), spec, Timestamp::ZERO);
        let status = InstanceStatus {
            listen_address: listen_address.to_owned(),
            port: "5433".to_owned(),
            ..Default::default()
        };
        cluster.instances =
            BTreeMap::from([(InstanceUid::from("db1"), Instance { status, ..Default::default() })]);
        cluster.proxy = ProxySection {
            generation: 7,
            spec: ProxySpec {
                primary: primary.map(InstanceUid::from),
                enabled_proxies: enabled.map(|uids| uids.iter().map(|uid| ProxyUid::from(*uid)).collect()),
                ..ProxySpec::default()
            },
            ..ProxySection::default()
        };
        cluster.into()
    }

    fn given(document: Option<&ClusterDocument>) -> Route {
        route(document, &ProxyUid::from(OWN)).route
    }

    fn closed(why: ClosedBecause) -> Route {
        Route::Closed { why, generation: Some(7) }
    }

    #[test]
    fn the_table_of_routes() {
        let address = ServerAddress { host: "10.0.0.1".to_owned(), port: "5433".to_owned() };
        let primary = Upstream::Primary(InstanceUid::from("db1"));
        let unknown = ClosedBecause::UnknownPrimary(InstanceUid::from("db2"));
        let not_enabled = || ClosedBecause::NotEnabled { to: primary.clone(), address: address.clone() };
        for (document, expected) in [
            (
                document(Some("db1"), Some(&["other", OWN]), "10.0.0.1"),
                Route::Open {
                    to: primary.clone(),
                    address: address.clone(),
                    generation: 7,
                    vouched_at: None,
                },
            ),
            (document(Some("db1"), Some(&["other"]), "10.0.0.1"), closed(not_enabled())),
            (document(Some("db1"), None, "10.0.0.1"), closed(not_enabled())),
            (document(None, Some(&[OWN]), "10.0.0.1"), closed(ClosedBecause::NoPrimary)),
            (document(Some(""), Some(&[OWN]), "10.0.0.1"), closed(ClosedBecause::NoPrimary)),
            (document(Some("db2"), Some(&[OWN]), "10.0.0.1"), closed(unknown)),
            (
                document(Some("db1"), Some(&[OWN]), ""),
                closed(ClosedBecause::NoAddress(InstanceUid::from("db1"))),
            ),
        ] {
            assert_eq!(given(Some(&document)), expected);
        }
    }

    #[test]
    fn without_usable_data_nothing_is_acknowledged() {
        assert_eq!(given(None), Route::Closed { why: ClosedBecause::NoClusterData, generation: None });
        let open = document(Some("db1"), Some(&[OWN]), "10.0.0.1");
        let newer = ClusterDocument { format_version: 2, ..open.clone() };
        let mut invalid = open.clone();
        if let Some(spec) = invalid.cluster.as_mut().and_then(|cluster| cluster.spec.as_mut()) {
            spec.sleep_interval = Some(GoDuration::from_seconds(-1));
        }
        for document in [newer, invalid, ClusterDocument { cluster: None, ..open }] {
            let verdict = route(Some(&document), &ProxyUid::from(OWN));
            let Route::Closed { why: ClosedBecause::BadClusterData(_), generation: None } = verdict.route
            else {
                panic!("{:?}", verdict.route)
            };
            assert_eq!(verdict.timings, None);
        }
    }

    #[test]
    fn a_document_without_proxy_section_acknowledges_generation_zero() {
        let document = ClusterDocument { proxy: None, ..document(Some("db1"), Some(&[OWN]), "h") };
        let expected = Route::Closed { why: ClosedBecause::NoPrimary, generation: Some(0) };
        assert_eq!(given(Some(&document)), expected);
    }

    #[test]
    fn timings_are_the_specifications() {
        let verdict = route(Some(&document(None, None, "")), &ProxyUid::from(OWN));
        let expected = Timings { check_interval: Duration::from_secs(1), timeout: Duration::from_secs(3) };
        assert_eq!(verdict.timings, Some(expected));
    }

    #[test]
    fn addresses_of_ipv6_are_shown_in_brackets() {
        let address = ServerAddress { host: "::1".to_owned(), port: "5432".to_owned() };
        assert_eq!(address.to_string(), "[::1]:5432");
    }
}
