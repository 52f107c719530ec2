//! Which method is possible, and whether the legacy lets itself be copied and followed.

use std::collections::BTreeSet;

use super::super::finding::{Finding, Subject, counted};
use super::super::inventory::{Destination, Inventory, Method};

/// The oldest major that is migrated: `pg_hba_file_rules`, logical replication and what else is asked are there since 10.
const OLDEST: u16 = 10;
/// A base backup that streams its WAL takes two senders (PostgreSQL manual, pg_basebackup, `--wal-method=stream`).
const SENDERS_OF_A_COPY: u64 = 2;
/// Sessions that the copy, the comparison and stolonctl itself take at the same time.
const SESSIONS: u64 = 8;

/// The method that was asked for, or that the majors leave, and whether it is possible.
pub fn method(
    legacy: &Inventory,
    destination: &Destination,
    asked: Option<Method>,
) -> (Method, Vec<Finding>) {
    let majors: BTreeSet<u16> = destination.keepers.iter().map(|keeper| keeper.version.major).collect();
    let ours = legacy.major();
    let is_newer = majors.iter().any(|major| *major > ours);
    let method = asked.unwrap_or(if is_newer { Method::Logical } else { Method::Physical });
    let versions: Vec<String> = majors.iter().map(u16::to_string).collect();
    let versions = versions.join(", ");
    let finding = match majors.first() {
        _ if ours < OLDEST => Finding::blocks(
            Subject::Method,
            format!(
                "the legacy runs PostgreSQL {ours}: {OLDEST} and later can be migrated while they are written"
            ),
        )
        .hint("pg_upgrade it first, or dump and restore"),
        None => Finding::warning(
            Subject::Method,
            format!(
                "PostgreSQL {ours} here; no keeper reports, so the version that it is to move to is not known"
            ),
        )
        .hint("start the keepers first: they wait until the cluster is initialised"),
        Some(_) if majors.len() > 1 => {
            Finding::blocks(Subject::Method, format!("the keepers run different majors: {versions}"))
                .hint("give them all the same")
        }
        Some(theirs) if *theirs < ours => Finding::blocks(
            Subject::Method,
            format!(
                "the legacy runs PostgreSQL {ours}, the keepers the older {theirs}: no method goes backwards"
            ),
        )
        .hint(format!("give the keepers PostgreSQL {ours} or later")),
        Some(theirs) if method == Method::Physical && *theirs != ours => Finding::blocks(
            Subject::Method,
            format!("a physical copy of PostgreSQL {ours} does not run on the keepers' {theirs}"),
        )
        .hint(format!("--method logical, or give the keepers PostgreSQL {ours}")),
        Some(theirs) => {
            Finding::ok(Subject::Method, format!("{}, from PostgreSQL {ours} to {theirs}", method.as_str()))
        }
    };
    (method, vec![finding])
}

/// Privileges, address, WAL, and the room among what is limited.
pub fn findings(legacy: &Inventory, method: Method) -> Vec<Finding> {
    let limits = [senders(legacy, method), slots(legacy, method), connections(legacy)];
    let first = [privileges(legacy), alter_system(legacy), reachability(legacy), wal_level(legacy, method)];
    first.into_iter().chain(limits).collect()
}

fn privileges(legacy: &Inventory) -> Finding {
    let name = &legacy.user.name;
    match legacy.user.is_superuser {
        true => Finding::ok(Subject::Privileges, format!("{name} is a superuser")),
        false => Finding::blocks(
            Subject::Privileges,
            format!("{name} is no superuser: what is copied, and how writes are stopped for the switch, takes one"),
        )
        .hint(format!("name a superuser in --source, or ALTER ROLE {name} SUPERUSER; much of this report could not be read")),
    }
}

/// PostgreSQL manual, `allow_alter_system`, from 17 on.
fn alter_system(legacy: &Inventory) -> Finding {
    match legacy.setting("allow_alter_system") {
        "off" => Finding::blocks(
            Subject::AlterSystem,
            "allow_alter_system is off: the switch could not close the legacy, and would be refused",
        )
        .hint("set allow_alter_system = on in postgresql.conf there until the migration is finished, and reload"),
        _ => Finding::ok(Subject::AlterSystem, "it is allowed, as the switch needs it to close the legacy"),
    }
}

/// Which addresses mean this machine, whoever says them.
fn is_local(host: &str) -> bool {
    host.is_empty()
        || host.starts_with(['/', '@'])
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn reachability(legacy: &Inventory) -> Finding {
    let local: Vec<&str> = legacy.hosts.iter().map(String::as_str).filter(|host| is_local(host)).collect();
    match local.is_empty() && !legacy.hosts.is_empty() {
        true => Finding::ok(
            Subject::Reachability,
            "it answers from here; the keepers' machines have not tried: their own attempts show in `stolonctl status` after the start",
        ),
        false => Finding::warning(
            Subject::Reachability,
            "it was asked at an address of this machine, where keepers on other machines do not find it",
        )
        .hint("give --source an address that every keeper reaches, unless all keepers run here")
        .names(local.into_iter().map(str::to_owned).filter(|host| !host.is_empty())),
    }
}

fn wal_level(legacy: &Inventory, method: Method) -> Finding {
    let level = legacy.setting("wal_level");
    let (is_enough, wanted) = match method {
        Method::Physical => (matches!(level, "replica" | "logical"), "replica"),
        Method::Logical => (level == "logical", "logical"),
    };
    match is_enough {
        true => Finding::ok(Subject::WalLevel, level),
        false => Finding::blocks(
            Subject::WalLevel,
            format!("{level}, and a {} migration takes {wanted}", method.as_str()),
        )
        .hint(format!("ALTER SYSTEM SET wal_level = {wanted}; then restart the legacy")),
    }
}

/// Databases that a subscription each is made for.
fn databases(legacy: &Inventory) -> u64 {
    legacy.databases.len() as u64
}

fn senders(legacy: &Inventory, method: Method) -> Finding {
    let needed = match method {
        Method::Physical => SENDERS_OF_A_COPY,
        // One to follow and one to copy a table.
        Method::Logical => 2 * databases(legacy),
    };
    free_of(legacy, Subject::WalSenders, "max_wal_senders", legacy.taken.senders, needed)
}

fn slots(legacy: &Inventory, method: Method) -> Finding {
    let needed = match method {
        Method::Physical => 1,
        Method::Logical => 2 * databases(legacy),
    };
    free_of(legacy, Subject::ReplicationSlots, "max_replication_slots", legacy.taken.slots, needed)
}

fn free_of(legacy: &Inventory, subject: Subject, setting: &str, taken: u64, needed: u64) -> Finding {
    let limit = legacy.number(setting);
    let free = limit.saturating_sub(taken);
    let sentence = format!("{free} of {limit} free, {needed} needed");
    match free >= needed {
        true => Finding::ok(subject, sentence),
        false => Finding::blocks(subject, sentence).hint(format!(
            "ALTER SYSTEM SET {setting} = {}; then restart the legacy",
            taken.saturating_add(needed)
        )),
    }
}

fn connections(legacy: &Inventory) -> Finding {
    let limit = legacy.number("max_connections");
    let reserved = legacy.number("superuser_reserved_connections") + legacy.number("reserved_connections");
    let free = limit.saturating_sub(legacy.taken.connections);
    let for_all = free.saturating_sub(reserved);
    let sentence = format!("{} taken of {limit}", counted(legacy.taken.connections, "session", "sessions"));
    match (for_all >= SESSIONS, free >= SESSIONS) {
        (true, _) => Finding::ok(Subject::Connections, sentence),
        (false, true) => Finding::warning(
            Subject::Connections,
            format!("{sentence}: what is left, {reserved} of it reserved, is just enough for {SESSIONS} sessions of a superuser"),
        )
        .hint("end sessions that idle, or raise max_connections with a restart"),
        (false, false) => Finding::blocks(
            Subject::Connections,
            format!("{sentence}: the migration takes up to {SESSIONS} sessions of its own"),
        )
        .hint("end sessions that idle, or raise max_connections with a restart"),
    }
}
