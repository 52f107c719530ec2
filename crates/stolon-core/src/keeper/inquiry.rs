//! What a keeper answers to load balancers and orchestrators that ask about its PostgreSQL.
//!
//! The names and the codes are those that their configurations know (docs: "What can be asked"). Every yes is as young as what it is about: what was
//! seen too long ago, or is decided by cluster data that were read too long ago, is no yes.

use std::time::Duration;

use stolon_model::{InstanceUid, Lsn, Timeline, Timestamp, Voucher};

/// The look that a yes goes by is not older than so many sleep intervals: it is taken twice in each, and takes a while.
const LOOK_INTERVALS: u32 = 3;
/// A keeper whose loop has done nothing for so many fail intervals is stuck: it wakes several times in each.
const STUCK_INTERVALS: u32 = 3;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// Does it take writes, and are clients sent to it?
    Primary,
    /// Was it elected, be it to take writes or to lead a standby cluster?
    Leader,
    /// Does it lead a standby cluster?
    StandbyLeader,
    /// Is it a standby that others do not follow?
    Replica(Lag),
    /// The primary, or such a standby?
    ReadOnly(Lag),
    /// Do commits wait for it?
    Synchronous,
    /// The primary, or a standby that commits wait for?
    ReadOnlySynchronous,
    /// Is it a standby that no commit waits for?
    Asynchronous(Lag),
    /// Does PostgreSQL work?
    Health,
    /// Does the keeper work?
    Liveness,
    /// May clients come?
    Readiness(Lag),
    /// How is it? Always a yes.
    Status,
}

/// How far behind the primary a standby may be, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lag {
    /// As far as it likes.
    #[default]
    Any,
    /// So far.
    AtMost(u64),
}

impl Inquiry {
    /// The question of a path and its query; `None`: there is no such question. A limit that cannot be read is none that is kept:
    /// [`Lag::AtMost`] zero.
    pub fn parse(path: &str, query: &str) -> Option<Inquiry> {
        let lag = Lag::parse(query);
        Some(match path {
            "/" | "/primary" | "/master" | "/read-write" => Inquiry::Primary,
            "/leader" => Inquiry::Leader,
            "/standby-leader" | "/standby_leader" => Inquiry::StandbyLeader,
            "/replica" => Inquiry::Replica(lag),
            "/read-only" => Inquiry::ReadOnly(lag),
            "/synchronous" | "/sync" => Inquiry::Synchronous,
            "/read-only-sync" => Inquiry::ReadOnlySynchronous,
            "/asynchronous" | "/async" => Inquiry::Asynchronous(lag),
            "/health" => Inquiry::Health,
            "/liveness" => Inquiry::Liveness,
            "/readiness" => Inquiry::Readiness(lag),
            "/status" | "/patroni" => Inquiry::Status,
            _ => return None,
        })
    }
}

impl Lag {
    /// `lag=1048576`, `lag=1024kB`, `lag=16MB`, …
    fn parse(query: &str) -> Lag {
        let values = query.split('&').filter_map(|pair| pair.strip_prefix("lag="));
        values.last().map_or(Lag::Any, |value| Lag::AtMost(bytes(value).unwrap_or(0)))
    }
}

/// PostgreSQL's units of memory (manual, "Parameter Names and Values"); a number alone is bytes.
fn bytes(value: &str) -> Option<u64> {
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = value.split_at_checked(digits)?;
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1 << 10,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        "tb" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// What a keeper knows of itself at one moment. Times are of the machine's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// The last thing that the machine was told happened then.
    pub at: Duration,
    /// `sleepInterval`.
    pub sleep: Duration,
    /// `failInterval`.
    pub fail: Duration,
    /// What the last look found; `None` while PostgreSQL does not answer.
    pub server: Option<Server>,
    /// What the cluster data say of it; `None` before they could be read.
    pub orders: Option<Orders>,
    /// PostgreSQL must be restarted before all its parameters are in force.
    pub pending_restart: bool,
    /// Until when the instance cannot be replaced as the primary, whatever the store holds; `None`: that is not known.
    pub vouched: Option<Vouched>,
    /// Until when a primary serves ordinary clients by what is known, by the machine's clock; `None`: no lease limits that.
    pub lease_ends: Option<Duration>,
}

/// Nobody else can be promoted for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The instance.
    pub instance: InstanceUid,
    /// By the machine's clock.
    pub until: Duration,
}

/// A PostgreSQL that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// When the look began that shows it.
    pub looked_at: Duration,
    /// Whether it is in recovery.
    pub in_recovery: bool,
    /// Whether clients are let in.
    pub admits_clients: bool,
    /// Its timeline.
    pub timeline: Timeline,
    /// Its position: flushed by a primary, received or replayed by a standby.
    pub lsn: Lsn,
    /// Whether it receives WAL; a primary needs none.
    pub receives_wal: bool,
    /// `pg_postmaster_start_time()`.
    pub started: Timestamp,
    /// Decimal.
    pub system_identifier: String,
    /// Standbys that stream from it.
    pub standbys: Vec<InstanceUid>,
}

/// What the cluster data say of the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// They hold everything that was acknowledged before.
    pub as_of: Duration,
    /// `proxyTimeout`: nobody is sent anywhere by older ones.
    pub good_for: Duration,
    /// What the instance is to be.
    pub office: Office,
    /// Where the primary was when it was last written down.
    pub primary_lsn: Lsn,
    /// An operator has paused the cluster.
    pub paused: bool,
}

/// What an instance is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Office {
    /// The primary.
    Primary,
    /// The primary, to which proxies send nobody: it is not ready, or is about to be replaced.
    ClosedPrimary,
    /// The head of a standby cluster.
    StandbyLeader,
    /// A standby that commits wait for.
    SynchronousStandby,
    /// Another standby.
    Standby,
    /// Nothing: it was deposed, or there is none.
    Nothing,
}

/// Why the answer is no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum No {
    /// It does not answer, or the last look that it answered is too old.
    #[error("PostgreSQL does not work, or was not seen to work lately")]
    NotWorking,
    /// The cluster data could not be read within `proxyTimeout`.
    #[error("the cluster data were not read lately: the store does not answer")]
    NotInformed,
    /// It is something else.
    #[error("it is not that")]
    OtherRole,
    /// It takes writes, and clients are not sent to it.
    #[error("clients are not sent to it now")]
    Closed,
    /// Nobody knows whether another one was elected.
    #[error(
        "clients are locked out: its lease is over, since the store could not be read and not all other keepers have pledged"
    )]
    LeaseOver,
    /// It is too far behind, or how far is not known.
    #[error("it is too far behind")]
    TooFarBehind,
    /// It receives nothing.
    #[error("it receives no WAL")]
    ReceivesNothing,
    /// The keeper is stuck.
    #[error("the keeper has done nothing for long")]
    Stuck,
}

impl Picture {
    /// The answer at `now`.
    ///
    /// # Errors
    /// It is no, for this reason.
    pub fn answer(&self, inquiry: Inquiry, now: Duration) -> Result<(), No> {
        match inquiry {
            Inquiry::Primary => self.is_primary(now),
            Inquiry::Leader => self.is_primary(now).or_else(|_| self.is_standby_leader(now)),
            Inquiry::StandbyLeader => self.is_standby_leader(now),
            Inquiry::Replica(lag) => self.is_standby(now, lag, Kind::Any),
            Inquiry::ReadOnly(lag) => self.or_primary(now, |it| it.is_standby(now, lag, Kind::Any)),
            Inquiry::Synchronous => self.is_standby(now, Lag::Any, Kind::Synchronous),
            Inquiry::ReadOnlySynchronous => {
                self.or_primary(now, |it| it.is_standby(now, Lag::Any, Kind::Synchronous))
            }
            Inquiry::Asynchronous(lag) => self.is_standby(now, lag, Kind::Asynchronous),
            Inquiry::Health => self.working(now).map(drop),
            Inquiry::Readiness(lag) => self.is_ready(now, lag),
            Inquiry::Liveness => {
                let limit = self.fail.max(self.sleep).saturating_mul(STUCK_INTERVALS);
                (now.saturating_sub(self.at) <= limit).then_some(()).ok_or(No::Stuck)
            }
            Inquiry::Status => Ok(()),
        }
    }

    /// Who cannot be replaced as the primary, and for how long from `now` on; none: nobody is known not to be.
    pub fn voucher(&self, now: Duration) -> Option<Voucher> {
        let Vouched { instance, until } = self.vouched.as_ref()?;
        let remaining = until.checked_sub(now).filter(|remaining| !remaining.is_zero())?;
        Some(Voucher { instance: instance.clone(), remaining: remaining.into() })
    }

    /// PostgreSQL, if it answered lately.
    pub fn working(&self, now: Duration) -> Result<&Server, No> {
        let limit = self.sleep.saturating_mul(LOOK_INTERVALS);
        let is_fresh = |server: &&Server| now.saturating_sub(server.looked_at) <= limit;
        self.server.as_ref().filter(is_fresh).ok_or(No::NotWorking)
    }

    /// The cluster data, if they were read lately.
    pub fn informed(&self, now: Duration) -> Result<&Orders, No> {
        let is_fresh = |orders: &&Orders| now.saturating_sub(orders.as_of) <= orders.good_for;
        self.orders.as_ref().filter(is_fresh).ok_or(No::NotInformed)
    }

    fn is_primary(&self, now: Duration) -> Result<(), No> {
        let server = self.working(now)?;
        if server.in_recovery {
            return Err(No::OtherRole);
        }
        if self.lease_ends.is_some_and(|end| now >= end) {
            return Err(No::LeaseOver);
        }
        let office = match self.voucher(now) {
            // Nobody can take its place, whatever the store holds.
            Some(_) => Office::Primary,
            None => self.informed(now)?.office,
        };
        match office {
            Office::Primary if server.admits_clients => Ok(()),
            Office::Primary | Office::ClosedPrimary => Err(No::Closed),
            _ => Err(No::OtherRole),
        }
    }

    fn is_standby_leader(&self, now: Duration) -> Result<(), No> {
        self.working(now)?;
        (self.informed(now)?.office == Office::StandbyLeader).then_some(()).ok_or(No::OtherRole)
    }

    /// Whether a standby is still one needs no store: it becomes a primary only by its keeper, which shows. What commits wait for, and how
    /// far it is behind, is known from the cluster data.
    fn is_standby(&self, now: Duration, lag: Lag, kind: Kind) -> Result<(), No> {
        let server = self.working(now)?;
        let office = self.orders.as_ref().map_or(Office::Nothing, |orders| orders.office);
        let is_standby = matches!(office, Office::Standby | Office::SynchronousStandby);
        if !server.in_recovery || !is_standby {
            return Err(No::OtherRole);
        }
        if kind != Kind::Any {
            let is_synchronous = self.informed(now)?.office == Office::SynchronousStandby;
            if is_synchronous != (kind == Kind::Synchronous) {
                return Err(No::OtherRole);
            }
        }
        self.keeps_up(now, server, lag)
    }

    fn keeps_up(&self, now: Duration, server: &Server, lag: Lag) -> Result<(), No> {
        let Lag::AtMost(limit) = lag else { return Ok(()) };
        let behind = self.informed(now)?.primary_lsn.0.saturating_sub(server.lsn.0);
        (behind <= limit).then_some(()).ok_or(No::TooFarBehind)
    }

    fn or_primary(&self, now: Duration, other: impl FnOnce(&Picture) -> Result<(), No>) -> Result<(), No> {
        self.is_primary(now).or_else(|_| other(self))
    }

    fn is_ready(&self, now: Duration, lag: Lag) -> Result<(), No> {
        let server = self.working(now)?;
        match self.orders.as_ref().map(|orders| orders.office) {
            Some(Office::Primary | Office::ClosedPrimary) => self.is_primary(now),
            Some(Office::StandbyLeader) => self.is_standby_leader(now),
            Some(Office::Standby | Office::SynchronousStandby) if !server.receives_wal => {
                Err(No::ReceivesNothing)
            }
            Some(Office::Standby | Office::SynchronousStandby) => self.is_standby(now, lag, Kind::Any),
            Some(Office::Nothing) | None => Err(No::OtherRole),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Synchronous,
    Asynchronous,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    fn ago(seconds: u64) -> Duration {
        NOW - Duration::from_secs(seconds)
    }

    fn picture(office: Office, in_recovery: bool) -> Picture {
        Picture {
            at: ago(1),
            sleep: Duration::from_secs(5),
            fail: Duration::from_secs(20),
            server: Some(Server {
                looked_at: ago(2),
                in_recovery,
                admits_clients: true,
                timeline: Timeline(1),
                lsn: Lsn(1_000),
                receives_wal: true,
                started: Timestamp::ZERO,
                system_identifier: "7".to_owned(),
                standbys: Vec::new(),
            }),
            orders: Some(Orders {
                as_of: ago(3),
                good_for: Duration::from_secs(15),
                office,
                primary_lsn: Lsn(1_500),
                paused: false,
            }),
            pending_restart: false,
            vouched: None,
            lease_ends: None,
        }
    }

    /// The questions that are answered with yes, in a fixed order.
    fn yes(picture: &Picture) -> String {
        let paths = [
            "/primary",
            "/leader",
            "/standby-leader",
            "/replica",
            "/replica?lag=500",
            "/replica?lag=499",
            "/read-only",
            "/sync",
            "/read-only-sync",
            "/async",
            "/health",
            "/readiness",
            "/liveness",
        ];
        let asked = |path: &&str| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            picture.answer(Inquiry::parse(path, query).unwrap(), NOW).is_ok()
        };
        paths.iter().filter(|path| asked(path)).map(|path| &path[1..]).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_office_has_its_answers() {
        let primary = Office::Primary;
        for (name, office, in_recovery, expected) in [
            ("primary", primary, false, "primary leader read-only read-only-sync health readiness liveness"),
            ("not promoted yet", primary, true, "health liveness"),
            ("being replaced", Office::ClosedPrimary, false, "health liveness"),
            ("deposed", Office::Nothing, false, "health liveness"),
            (
                "head of a standby cluster",
                Office::StandbyLeader,
                true,
                "leader standby-leader health readiness liveness",
            ),
            (
                "standby",
                Office::Standby,
                true,
                "replica replica?lag=500 read-only async health readiness liveness",
            ),
            (
                "synchronous standby",
                Office::SynchronousStandby,
                true,
                "replica replica?lag=500 read-only sync read-only-sync health readiness liveness",
            ),
            ("a standby that holds a primary's data", Office::Standby, false, "health liveness"),
        ] {
            assert_eq!(yes(&picture(office, in_recovery)), expected, "{name}");
        }
    }

    #[test]
    fn what_is_too_old_is_no_yes() {
        let mut blind = picture(Office::Primary, false);
        blind.orders.as_mut().unwrap().as_of = ago(15);
        assert!(yes(&blind).starts_with("primary"));
        blind.orders.as_mut().unwrap().as_of = ago(16);
        assert_eq!(yes(&blind), "health liveness", "the store was not read within proxyTimeout");
        assert_eq!(blind.answer(Inquiry::Primary, NOW), Err(No::NotInformed));

        let mut frozen = picture(Office::Primary, false);
        frozen.server.as_mut().unwrap().looked_at = ago(16);
        assert_eq!(yes(&frozen), "liveness", "PostgreSQL was not looked at for three sleep intervals");
        frozen.server = None;
        assert_eq!(yes(&frozen), "liveness");
        frozen.at = ago(61);
        assert_eq!(yes(&frozen), "", "the keeper itself does nothing any more");

        let mut standby = picture(Office::Standby, true);
        standby.orders.as_mut().unwrap().as_of = ago(16);
        assert_eq!(
            yes(&standby),
            "replica read-only health readiness liveness",
            "reads go on without the store"
        );
        standby.orders = None;
        assert_eq!(yes(&standby), "health liveness");
    }

    #[test]
    fn nobody_is_sent_to_a_primary_behind_its_gate_or_to_a_standby_that_receives_nothing() {
        let mut gated = picture(Office::Primary, false);
        gated.server.as_mut().unwrap().admits_clients = false;
        assert_eq!(gated.answer(Inquiry::Primary, NOW), Err(No::Closed));
        let mut cut_off = picture(Office::Standby, true);
        cut_off.server.as_mut().unwrap().receives_wal = false;
        assert_eq!(cut_off.answer(Inquiry::Readiness(Lag::Any), NOW), Err(No::ReceivesNothing));
        assert_eq!(cut_off.answer(Inquiry::Replica(Lag::Any), NOW), Ok(()));
    }

    #[test]
    fn limits_are_read_in_postgresqls_units() {
        for (query, expected) in [
            ("", Lag::Any),
            ("replication_state=streaming", Lag::Any),
            ("lag=1048576", Lag::AtMost(1 << 20)),
            ("mode=apply&lag=16kB", Lag::AtMost(16 << 10)),
            ("lag=64MB", Lag::AtMost(64 << 20)),
            ("lag=1GB", Lag::AtMost(1 << 30)),
            ("lag=much", Lag::AtMost(0)),
            ("lag=", Lag::AtMost(0)),
            ("lag=99999999999999999999", Lag::AtMost(0)),
        ] {
            assert_eq!(Lag::parse(query), expected, "{query}");
        }
        assert_eq!(Inquiry::parse("/config", ""), None);
    }
}
