//! The lines of `pg_hba.conf`, in order (docs: "Lines of pg_hba.conf").

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use stolon_model::AccessMode;

use super::slot_sync::DATABASE;

/// One of the two users that keepers connect as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Role name.
    pub name: String,
    /// Word of `pg_hba.conf`: `md5`, `scram-sha-256`, `cert`, `trust`.
    pub method: String,
    /// The same for a unix socket, with options: `peer map=…` where the system's account proves who it is.
    pub local_method: String,
    /// How the user has to come over TCP.
    pub transport: Transport,
}

/// What a connection over TCP must be for a line of `pg_hba.conf` to match it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Encrypted or not (`host`).
    #[default]
    Any,
    /// Over TLS (`hostssl`).
    Tls,
}

/// A line of `pg_hba.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaLine {
    /// Made here; names still have to be quoted.
    Rule(HbaRule),
    /// Written by the operator.
    Verbatim(String),
}

/// A line made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaRule {
    /// Where the connection comes from.
    pub origin: HbaOrigin,
    /// What it must be, if it comes over TCP.
    pub transport: Transport,
    /// What it may connect to.
    pub database: HbaDatabase,
    /// Who may connect.
    pub user: HbaUser,
    /// Word of `pg_hba.conf`.
    pub method: String,
}

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaOrigin {
    /// The unix socket.
    Local,
    /// TCP from any IPv4 address.
    AnyIpv4,
    /// TCP from any IPv6 address.
    AnyIpv6,
    /// TCP from one address.
    Address(IpAddr),
    /// TCP from a host that is looked up by name.
    HostName(String),
}

impl HbaRule {
    /// The kind and address columns.
    pub fn columns(&self) -> (&'static str, Option<String>) {
        let kind = match self.transport {
            Transport::Any => "host",
            Transport::Tls => "hostssl",
        };
        match &self.origin {
            HbaOrigin::Local => ("local", None),
            HbaOrigin::AnyIpv4 => (kind, Some("0.0.0.0/0".to_owned())),
            HbaOrigin::AnyIpv6 => (kind, Some("::0/0".to_owned())),
            HbaOrigin::Address(IpAddr::V4(address)) => (kind, Some(format!("{address}/32"))),
            HbaOrigin::Address(IpAddr::V6(address)) => (kind, Some(format!("{address}/128"))),
            HbaOrigin::HostName(name) => (kind, Some(name.clone())),
        }
    }
}

/// The database column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaDatabase {
    /// A database by name.
    Named(&'static str),
    /// Replication connections.
    Replication,
    /// Every database.
    All,
}

/// The user column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaUser {
    /// A role by name.
    Named(String),
    /// Every role.
    All,
}

/// What the lines are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaGoal {
    /// `defaultSUReplAccessMode`.
    pub access: AccessMode,
    /// The advertised addresses of the other instances, if this instance is the one they connect to: for strict mode, and for users without
    /// a proof.
    pub peers: Vec<String>,
    /// Who may ask for logical slots, which is done in a database, as the replication user.
    pub slot_readers: SlotReaders,
    /// Who reads files for rewinds besides the superuser.
    pub rewinder: Option<User>,
    /// `pgHBA`; none admits everybody with a password.
    pub operator_lines: Option<Vec<String>>,
}

/// Who may ask for logical slots in order to copy them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotReaders {
    /// Nobody.
    #[default]
    Nobody,
    /// The standbys.
    Standbys,
}

/// Who is admitted besides superuser and replication user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Whom the operator admits.
    Everybody,
    /// Nobody: the primary waits for its synchronous standbys, or is fenced.
    OnlyInternal,
}

/// The word of `pg_hba.conf` for no proof at all.
const TRUST: &str = "trust";
/// Where `pg_rewind` calls the functions that read files.
const REWIND_DATABASE: &str = "postgres";

/// The lines of `pg_hba.conf`.
pub fn hba_lines(goal: &HbaGoal, superuser: &User, replication: &User, admission: Admission) -> Vec<HbaLine> {
    let named = |origin: HbaOrigin, database: HbaDatabase, user: &User| {
        let user_column = HbaUser::Named(user.name.clone());
        let method = match origin {
            HbaOrigin::Local => user.local_method.clone(),
            _ => user.method.clone(),
        };
        HbaLine::Rule(HbaRule { origin, transport: user.transport, database, user: user_column, method })
    };
    let mut lines = vec![
        named(HbaOrigin::Local, HbaDatabase::Named("postgres"), superuser),
        // The keeper asks a standby for its timeline over a replication connection.
        named(HbaOrigin::Local, HbaDatabase::Replication, superuser),
        named(HbaOrigin::Local, HbaDatabase::Replication, replication),
    ];
    let mut wanted = vec![(HbaDatabase::All, superuser), (HbaDatabase::Replication, replication)];
    if goal.slot_readers == SlotReaders::Standbys {
        wanted.push((HbaDatabase::Named(DATABASE), replication));
    }
    wanted.extend(goal.rewinder.iter().map(|user| (HbaDatabase::Named(REWIND_DATABASE), user)));
    if goal.access == AccessMode::Strict {
        for origin in strict_origins(&goal.peers) {
            let of_origin = wanted.iter().cloned();
            lines.extend(of_origin.map(|(database, user)| named(origin.clone(), database, user)));
        }
    } else {
        for (database, user) in wanted {
            let origins = origins_outside_strict_mode(user, &goal.peers);
            lines.extend(origins.into_iter().map(|origin| named(origin, database.clone(), user)));
        }
    }
    if admission == Admission::OnlyInternal {
        return lines;
    }
    match &goal.operator_lines {
        Some(entries) => lines.extend(entries.iter().cloned().map(HbaLine::Verbatim)),
        None => lines.extend([HbaOrigin::AnyIpv4, HbaOrigin::AnyIpv6].map(|origin| {
            let (database, user) = (HbaDatabase::All, HbaUser::All);
            let method = "md5".to_owned();
            HbaLine::Rule(HbaRule { origin, transport: Transport::Any, database, user, method })
        })),
    }
    lines
}

/// From anywhere with a proof; without one from this host and the other keepers', since the line lets in whoever comes from there.
fn origins_outside_strict_mode(user: &User, peers: &[String]) -> Vec<HbaOrigin> {
    if user.method != TRUST {
        return vec![HbaOrigin::AnyIpv4, HbaOrigin::AnyIpv6];
    }
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut origins: Vec<HbaOrigin> = loopback.map(HbaOrigin::Address).into();
    origins.extend(
        strict_origins(peers)
            .into_iter()
            .filter(|origin| !loopback.iter().any(|own| *origin == HbaOrigin::Address(*own))),
    );
    origins
}

fn strict_origins(peers: &[String]) -> Vec<HbaOrigin> {
    let mut addresses: Vec<&String> = peers.iter().filter(|peer| is_writable(peer)).collect();
    addresses.sort();
    addresses
        .into_iter()
        .map(|address| match without_zone(address).parse::<IpAddr>() {
            Ok(literal) => HbaOrigin::Address(literal),
            Err(_) => HbaOrigin::HostName(address.clone()),
        })
        .collect()
}

/// `fe80::1` of `fe80::1%eth0`: a line of the file has no place for the interface.
fn without_zone(address: &str) -> &str {
    address.split_once('%').map_or(address, |(literal, _)| literal)
}

/// An instance that has not reported yet has no address, and an odd one must not spoil the file.
fn is_writable(address: &str) -> bool {
    !address.is_empty() && address.chars().all(|c| c.is_ascii_alphanumeric() || ".:-_%".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, method: &str) -> User {
        User {
            name: name.into(),
            method: method.into(),
            local_method: method.into(),
            transport: Transport::Any,
        }
    }

    fn text(line: &HbaLine) -> String {
        let rule = match line {
            HbaLine::Verbatim(text) => return text.clone(),
            HbaLine::Rule(rule) => rule,
        };
        let database = match rule.database {
            HbaDatabase::Named(name) => name,
            HbaDatabase::Replication => "replication",
            HbaDatabase::All => "all",
        };
        let user = match &rule.user {
            HbaUser::Named(name) => name,
            HbaUser::All => "all",
        };
        match rule.columns() {
            (kind, None) => format!("{kind} {database} {user} {}", rule.method),
            (kind, Some(address)) => format!("{kind} {database} {user} {address} {}", rule.method),
        }
    }

    fn lines(
        access: AccessMode,
        peers: &[&str],
        operator: Option<&[&str]>,
        admission: Admission,
    ) -> Vec<String> {
        let goal = HbaGoal {
            access,
            peers: peers.iter().map(|&peer| peer.to_owned()).collect(),
            slot_readers: SlotReaders::Nobody,
            rewinder: None,
            operator_lines: operator.map(|lines| lines.iter().map(|&line| line.to_owned()).collect()),
        };
        hba_lines(&goal, &user("su", "md5"), &user("repl", "trust"), admission).iter().map(text).collect()
    }

    const LOCAL: [&str; 3] =
        ["local postgres su md5", "local replication su md5", "local replication repl trust"];
    /// With the keeper at 10.0.0.9: whoever is trusted comes from there or from this host.
    const OUTSIDE_STRICT_MODE: [&str; 5] = [
        "host all su 0.0.0.0/0 md5",
        "host all su ::0/0 md5",
        "host replication repl 127.0.0.1/32 trust",
        "host replication repl ::1/128 trust",
        "host replication repl 10.0.0.9/32 trust",
    ];
    const EVERYBODY: [&str; 2] = ["host all all 0.0.0.0/0 md5", "host all all ::0/0 md5"];

    /// `pgHBA`, who is admitted, and the lines at the end.
    type Case<'a> = (Option<&'a [&'a str]>, Admission, &'a [&'a str]);

    #[test]
    fn every_node_is_admitted_by_default() {
        let cases: [Case<'_>; 6] = [
            (None, Admission::Everybody, &EVERYBODY),
            (None, Admission::OnlyInternal, &[]),
            (Some(&[]), Admission::Everybody, &[]),
            (Some(&[]), Admission::OnlyInternal, &[]),
            (
                Some(&["host all all all scram-sha-256"]),
                Admission::Everybody,
                &["host all all all scram-sha-256"],
            ),
            (Some(&["host all all all scram-sha-256"]), Admission::OnlyInternal, &[]),
        ];
        for (operator, admission, tail) in cases {
            let expected = [&LOCAL[..], &OUTSIDE_STRICT_MODE, tail].concat();
            assert_eq!(lines(AccessMode::All, &["10.0.0.9", "127.0.0.1"], operator, admission), expected);
        }
    }

    #[test]
    fn a_keeper_proves_itself_by_its_account_where_it_has_one() {
        let goal = HbaGoal {
            access: AccessMode::Strict,
            peers: vec![],
            slot_readers: SlotReaders::Nobody,
            rewinder: None,
            operator_lines: Some(vec![]),
        };
        let by_account = User { local_method: "peer map=keeper".into(), ..user("su", "md5") };
        let made = |replication: &User| -> Vec<String> {
            hba_lines(&goal, &by_account, replication, Admission::Everybody).iter().map(text).collect()
        };
        let first = ["local postgres su peer map=keeper", "local replication su peer map=keeper"];
        assert_eq!(made(&user("repl", "md5")), [&first[..], &["local replication repl md5"]].concat());
        assert_eq!(made(&by_account), [&first[..], &["local replication su peer map=keeper"]].concat());
    }

    #[test]
    fn users_that_must_come_over_tls_have_no_line_for_anything_else() {
        let goal = HbaGoal {
            access: AccessMode::All,
            peers: vec!["10.0.0.2".into()],
            slot_readers: SlotReaders::Nobody,
            rewinder: None,
            operator_lines: Some(vec!["host app app all md5".into()]),
        };
        let over_tls = |name: &str, method: &str| User { transport: Transport::Tls, ..user(name, method) };
        let (superuser, replication) = (over_tls("su", "scram-sha-256"), over_tls("repl", "cert"));
        let replication = User { local_method: "reject".into(), ..replication };
        let made = |goal: &HbaGoal| -> Vec<String> {
            hba_lines(goal, &superuser, &replication, Admission::Everybody).iter().map(text).collect()
        };
        let local = [
            "local postgres su scram-sha-256",
            "local replication su scram-sha-256",
            "local replication repl reject",
        ];
        let everywhere = [
            "hostssl all su 0.0.0.0/0 scram-sha-256",
            "hostssl all su ::0/0 scram-sha-256",
            "hostssl replication repl 0.0.0.0/0 cert",
            "hostssl replication repl ::0/0 cert",
            "host app app all md5",
        ];
        assert_eq!(made(&goal), [&local[..], &everywhere].concat());
        let peers = [
            "hostssl all su 10.0.0.2/32 scram-sha-256",
            "hostssl replication repl 10.0.0.2/32 cert",
            "host app app all md5",
        ];
        let strict = HbaGoal { access: AccessMode::Strict, ..goal };
        assert_eq!(made(&strict), [&local[..], &peers].concat());
    }

    #[test]
    fn whoever_reads_files_for_rewinds_is_admitted_to_that_and_from_where_the_superuser_is() {
        let goal = HbaGoal {
            access: AccessMode::All,
            peers: vec!["10.0.0.9".into()],
            slot_readers: SlotReaders::Nobody,
            rewinder: Some(user("rewinder", "scram-sha-256")),
            operator_lines: Some(vec![]),
        };
        let made = |goal: &HbaGoal| -> Vec<String> {
            let lines = hba_lines(goal, &user("su", "md5"), &user("repl", "trust"), Admission::OnlyInternal);
            lines.iter().map(text).collect()
        };
        let everywhere =
            ["host postgres rewinder 0.0.0.0/0 scram-sha-256", "host postgres rewinder ::0/0 scram-sha-256"];
        assert_eq!(made(&goal), [&LOCAL[..], &OUTSIDE_STRICT_MODE, &everywhere].concat());
        let peer = [
            "host all su 10.0.0.9/32 md5",
            "host replication repl 10.0.0.9/32 trust",
            "host postgres rewinder 10.0.0.9/32 scram-sha-256",
        ];
        let strict = HbaGoal { access: AccessMode::Strict, ..goal };
        assert_eq!(made(&strict), [&LOCAL[..], &peer].concat());
    }

    #[test]
    fn strict_mode_admits_the_other_instances_each_by_its_kind_of_address() {
        let expected = [
            &LOCAL[..],
            &[
                "host all su 10.0.0.2/32 md5",
                "host replication repl 10.0.0.2/32 trust",
                "host all su db.example.org md5",
                "host replication repl db.example.org trust",
                "host all su fd00::1/128 md5",
                "host replication repl fd00::1/128 trust",
            ],
            &EVERYBODY,
        ]
        .concat();
        let peers = ["fd00::1%eth0", "10.0.0.2", "db.example.org", "", "bad name # x"];
        assert_eq!(lines(AccessMode::Strict, &peers, None, Admission::Everybody), expected);
        assert_eq!(lines(AccessMode::Strict, &[], None, Admission::OnlyInternal), LOCAL);
    }
}
