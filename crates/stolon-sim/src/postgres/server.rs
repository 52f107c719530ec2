//! One PostgreSQL: its data directory, its server process, and when a commit is acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::{Config, DataKind, OrderlyEnd};
use stolon_model::{Lsn, Parameters, Timestamp};

use super::history::Position;
use crate::Time;
use crate::client::Ticket;

/// PostgreSQL on one keeper's host.
#[derive(Clone, Debug, Default)]
pub struct Postgres {
    /// PGDATA; none: there is nothing.
    pub data: Option<DataDirectory>,
    /// The server process.
    pub server: Option<Server>,
    /// Counts WAL receivers: the number of the present one, or of the last.
    pub receiver: u32,
    /// Counts server processes: what was begun by an earlier one concerns nobody.
    pub incarnation: u32,
    /// What is wrong with it.
    pub troubles: Troubles,
}

/// What is wrong with a PostgreSQL or its disk.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    /// The disk.
    pub disk: Disk,
    /// The postmaster stands still: sessions go on, nobody new gets in.
    pub postmaster_hangs: bool,
    /// Every server dies so long after its start.
    pub dies_after: Option<Duration>,
    /// `pg_rewind` fails half-way.
    pub rewind_fails: bool,
    /// `pg_basebackup` fails half-way.
    pub backup_fails: bool,
    /// Each flush takes so much longer.
    pub slow_flush: Duration,
    /// The last time that the disk hung.
    pub thaw: Option<Thaw>,
}

/// A disk that hung works again.
#[derive(Clone, Copy, Debug)]
pub struct Thaw {
    /// Since then nothing but that was wrong.
    pub undisturbed_since: Time,
    /// The disk is back since then.
    pub at: Time,
}

impl Troubles {
    /// Something is wrong now.
    pub fn is_any(&self) -> bool {
        self.disk != Disk::Works || self.postmaster_hangs || !self.slow_flush.is_zero()
    }
}

/// A disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disk {
    /// It works.
    #[default]
    Works,
    /// Nothing can be added.
    Full,
    /// Nothing can be changed.
    ReadOnly,
    /// Nothing comes back.
    Hung,
}

/// What stands at PGDATA.
#[derive(Clone, Debug)]
pub struct DataDirectory {
    /// How far WAL was written.
    pub written: Position,
    /// How far it survives a loss of power.
    pub flushed: Lsn,
    /// What it would start as.
    pub kind: DataKind,
    /// Whether it is whole.
    pub condition: Condition,
    /// The configuration files.
    pub config: Config,
    /// The parameters in them, for everybody who looks.
    pub configured: Arc<Parameters>,
    /// Replication slots, with the WAL that they hold back.
    pub slots: BTreeMap<String, Lsn>,
    /// Where it has ended as a primary, if it was stopped in order and has not run since.
    pub ended: Option<OrderlyEnd>,
    /// Where a commit begins whose wait was cancelled and that no standby may have; reads that show it promise nothing.
    pub doubtful: Option<Lsn>,
}

/// Whether a data directory is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Everything in it belongs together.
    Whole,
    /// A rewind ended half-way: it starts, and is a mixture.
    HalfRewound,
}

impl DataDirectory {
    /// A whole data directory without configuration.
    pub fn new(position: Position, kind: DataKind) -> Self {
        DataDirectory {
            written: position,
            flushed: position.lsn,
            kind,
            condition: Condition::Whole,
            config: Config::default(),
            configured: Arc::default(),
            slots: BTreeMap::new(),
            ended: None,
            doubtful: None,
        }
    }

    /// Configuration files are written.
    pub fn take(&mut self, config: Config) {
        self.configured = Arc::new(config.parameters.clone());
        self.config = config;
    }

    /// Whether the rules of access, as they are written, let clients in.
    pub fn admits_clients(&self) -> bool {
        self.config.hba.iter().any(admits_everybody)
    }

    /// What survives a loss of power.
    pub fn durable(&self) -> Position {
        Position { branch: self.written.branch, lsn: self.flushed }
    }

    /// The oldest WAL that is kept: what slots hold back, and a little; whole files.
    pub fn oldest_wal(&self) -> Lsn {
        let usual = Lsn(self.written.lsn.0.saturating_sub(KEPT_WAL));
        let oldest = self.slots.values().copied().min().unwrap_or(usual).min(usual);
        Lsn(oldest.0 - oldest.0 % WAL_FILE)
    }
}

/// The size of a WAL file.
const WAL_FILE: u64 = 16 * 1024 * 1024;
/// What a server keeps of its WAL without being asked.
const KEPT_WAL: u64 = 128 * 1024 * 1024;

/// A server process.
#[derive(Clone, Debug)]
pub struct Server {
    /// How far its life is.
    pub phase: Phase,
    /// The configuration in force.
    pub config: Config,
    /// Who must acknowledge commits, by the configuration in force.
    pub waits_for: Quorum,
    /// It replays WAL.
    pub in_recovery: bool,
    /// It streams from this keeper's server, of this incarnation.
    pub upstream: Option<(u8, u32)>,
    /// Who streams from it, by keeper.
    pub senders: BTreeMap<u8, Sender>,
    /// Commits that wait for standbys, in order.
    pub waiting: VecDeque<Waiting>,
    /// A flush is under way.
    pub flushing: bool,
    /// It has been told to promote.
    pub promoting: bool,
    /// It was told to end, as a primary: there its last record begins.
    pub shutdown_checkpoint: Option<Lsn>,
    /// Everybody but internal users is locked out; as the configuration in force has it.
    pub locked: bool,
    /// When it was started, by a clock that nothing is wrong with.
    pub started: Timestamp,
}

/// How far the life of a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It does not accept connections yet.
    Starting,
    /// It accepts connections.
    Up,
    /// It was told to end.
    Stopping,
}

/// A standby that streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its `application_name`.
    pub name: String,
    /// Of its server.
    pub incarnation: u32,
    /// It says that it has flushed up to here; none: nothing was heard yet.
    pub flushed: Option<Lsn>,
    /// A message to it is under way.
    pub busy: bool,
    /// Nothing got through since.
    pub silent_since: Option<crate::Time>,
}

/// A commit that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Where its record begins: what readers see until it may be acknowledged.
    pub begins: Lsn,
    /// The end of its record.
    pub lsn: Lsn,
    /// Who waits for it.
    pub ticket: Ticket,
}

/// `synchronous_standby_names` (PostgreSQL manual, "Synchronous Replication").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    method: Method,
    count: usize,
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Method {
    /// The first so many of those that are connected.
    #[default]
    First,
    /// Any so many.
    Any,
}

impl Quorum {
    /// Reads a value of the parameter.
    pub fn parse(value: &str) -> Quorum {
        let (head, list) = match value.split_once('(') {
            Some((head, list)) => (head.trim(), list.trim_end().trim_end_matches(')')),
            None => ("1", value),
        };
        let names: Vec<String> = list
            .split(',')
            .map(|name| name.trim().trim_matches('"').to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        let method = if head.to_ascii_uppercase().starts_with("ANY") { Method::Any } else { Method::First };
        let count = head.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(1);
        Quorum { method, count, names }
    }

    /// Nobody is waited for.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Up to where commits may be acknowledged; none: nothing may be.
    pub fn acknowledged(&self, senders: &BTreeMap<u8, Sender>) -> Option<Lsn> {
        let mut flushed: Vec<Lsn> = self
            .names
            .iter()
            .filter_map(|name| senders.values().find(|sender| sender.name == *name))
            .filter_map(|sender| sender.flushed)
            .collect();
        if flushed.len() < self.count {
            return None;
        }
        match self.method {
            Method::First => flushed.into_iter().take(self.count).min(),
            Method::Any => {
                flushed.sort_unstable_by(|one, other| other.cmp(one));
                flushed.get(self.count - 1).copied()
            }
        }
    }

    /// How `pg_stat_replication` shows a standby: `sync`, `quorum`, `potential` or `async`.
    pub fn state_of(&self, name: &str, senders: &BTreeMap<u8, Sender>) -> &'static str {
        let connected =
            |name: &str| senders.values().any(|sender| sender.name == name && sender.flushed.is_some());
        if !self.names.iter().any(|listed| listed == name) || !connected(name) {
            return "async";
        }
        if self.method == Method::Any {
            return "quorum";
        }
        let before = self.names.iter().take_while(|listed| *listed != name);
        if before.filter(|listed| connected(listed)).count() < self.count { "sync" } else { "potential" }
    }
}

impl Server {
    /// A server that begins to start with what its configuration files say.
    pub fn starting(data: &DataDirectory, started: Timestamp) -> Server {
        let mut server = Server {
            phase: Phase::Starting,
            config: Config::default(),
            waits_for: Quorum::default(),
            in_recovery: data.kind == DataKind::Standby,
            upstream: None,
            senders: BTreeMap::new(),
            waiting: VecDeque::new(),
            flushing: false,
            promoting: false,
            shutdown_checkpoint: None,
            locked: false,
            started,
        };
        server.take(data.config.clone());
        server
    }

    /// The configuration comes into force.
    pub fn take(&mut self, config: Config) {
        let names = config.parameters.get("synchronous_standby_names");
        self.waits_for = Quorum::parse(names.map_or("", String::as_str));
        self.locked = !config.hba.iter().any(admits_everybody);
        self.config = config;
    }

    /// The commits that may be acknowledged now; they leave the queue.
    pub fn release(&mut self, flushed: Lsn) -> Vec<Waiting> {
        let limit = match self.waits_for.is_empty() {
            true => Some(flushed),
            false => self.waits_for.acknowledged(&self.senders).map(|lsn| lsn.min(flushed)),
        };
        let Some(limit) = limit else { return Vec::new() };
        let released = self.waiting.iter().take_while(|waiting| waiting.lsn <= limit).count();
        self.waiting.drain(..released).collect()
    }
}

fn admits_everybody(line: &stolon_core::keeper::HbaLine) -> bool {
    use stolon_core::keeper::{HbaDatabase, HbaLine, HbaUser};
    match line {
        HbaLine::Verbatim(_) => true,
        HbaLine::Rule(rule) => rule.database == HbaDatabase::All && rule.user == HbaUser::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn senders(of: &[(u8, &str, Option<u64>)]) -> BTreeMap<u8, Sender> {
        of.iter()
            .map(|&(keeper, name, flushed)| {
                let flushed = flushed.map(Lsn);
                let name = name.to_owned();
                (keeper, Sender { name, incarnation: 1, flushed, busy: false, silent_since: None })
            })
            .collect()
    }

    #[test]
    fn commits_wait_for_the_first_or_for_any_of_those_that_are_listed() {
        let all = senders(&[(0, "a", Some(10)), (1, "b", Some(30)), (2, "c", Some(20))]);
        let some = senders(&[(1, "b", Some(30)), (2, "c", None)]);
        for (value, of_all, of_some) in [
            ("a", Some(10), None),
            ("b,a", Some(30), Some(30)),
            ("2 (a,b)", Some(10), None),
            ("2 (b,c,a)", Some(20), None),
            ("FIRST 1 (c,b)", Some(20), Some(30)),
            ("ANY 1 (a,b,c)", Some(30), Some(30)),
            ("ANY 2 (a,b,c)", Some(20), None),
            ("1 (\"stolonfakestandby\")", None, None),
        ] {
            let quorum = Quorum::parse(value);
            assert_eq!(quorum.acknowledged(&all), of_all.map(Lsn), "{value}");
            assert_eq!(quorum.acknowledged(&some), of_some.map(Lsn), "{value}, some");
        }
    }

    #[test]
    fn a_standby_is_shown_as_postgresql_shows_it() {
        let all = senders(&[(0, "a", Some(10)), (1, "b", Some(30)), (2, "c", None)]);
        let quorum = Quorum::parse("1 (a,b,c)");
        assert_eq!(quorum.state_of("a", &all), "sync");
        assert_eq!(quorum.state_of("b", &all), "potential");
        assert_eq!(quorum.state_of("c", &all), "async", "it has said nothing yet");
        assert_eq!(quorum.state_of("d", &all), "async");
    }
}
