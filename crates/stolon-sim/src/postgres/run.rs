//! The life of a server: start, promotion, crash, end, and flushing what was written.

use std::time::Duration;

use stolon_core::keeper::{DataKind, OrderlyEnd};
use stolon_model::Lsn;

use super::history::END_OF_RECOVERY;
use super::{Condition, Disk, Phase, Position, Server};
use crate::coverage::Point;
use crate::invariants::Invariant;
use crate::world::{Event, World};

/// Between looks at something that may have ended.
const POLL: Duration = Duration::from_millis(20);
/// How long a server that ends waits for standbys that get nothing.
const SENDER_PATIENCE: Duration = Duration::from_secs(5);
/// The size of the last record of a primary that is stopped in order.
const SHUTDOWN_CHECKPOINT: u64 = 120;

/// Something in the life of a server.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// It has recovered.
    Started,
    /// What was written up to here is on disk.
    Flushed(Lsn),
    /// It may be a primary now.
    Promoted,
    /// It may have ended; it was told to since the given moment.
    Ending(crate::Time),
    /// It dies.
    Dies,
    /// A standby looks for its primary.
    Connect,
    /// WAL arrives from the server of a keeper, of one incarnation.
    Received(u8, u32, Position),
    /// A standby has flushed what it got from there.
    StandbyFlushed(u8, u32, Position),
    /// A standby says how far it is.
    Heard(u8, u32, Lsn),
    /// A standby may have got nothing: send again.
    Resend(u8),
}

impl World {
    pub(crate) fn postgres_event(&mut self, keeper: u8, happening: Happening) {
        match happening {
            Happening::Started => self.server_started(keeper),
            Happening::Flushed(lsn) => self.flushed(keeper, lsn),
            Happening::Promoted => self.promoted(keeper),
            Happening::Ending(since) => self.server_ending(keeper, since),
            Happening::Dies => self.crash_server(keeper, "it died"),
            Happening::Connect => self.connect_standby(keeper),
            Happening::Received(from, incarnation, position) => {
                self.received(keeper, from, incarnation, position);
            }
            Happening::StandbyFlushed(from, incarnation, position) => {
                self.standby_flushed(keeper, from, incarnation, position);
            }
            Happening::Heard(from, incarnation, lsn) => self.heard(keeper, from, incarnation, lsn),
            Happening::Resend(to) => self.resend(keeper, to),
        }
    }

    pub(crate) fn postgres_soon(&mut self, keeper: u8, delay: Duration, happening: Happening) {
        let incarnation = self.postgres[usize::from(keeper)].incarnation;
        self.after(delay, Event::Postgres(keeper, incarnation, happening));
    }

    /// `postgres` is executed. False: it ends at once.
    pub(crate) fn start_server(&mut self, keeper: u8) -> bool {
        let now = self.true_wall();
        let postgres = &mut self.postgres[usize::from(keeper)];
        let works = matches!(postgres.troubles.disk, Disk::Works | Disk::Hung);
        let Some(data) = postgres.data.as_mut().filter(|_| works && postgres.server.is_none()) else {
            return false;
        };
        postgres.incarnation += 1;
        let server = Server::starting(data, now);
        data.ended = None;
        let locked = server.locked;
        postgres.server = Some(server);
        let dies_after = postgres.troubles.dies_after;
        if locked && !self.ledger.promises().is_empty() {
            self.coverage.reached(Point::GateClosed);
        }
        self.log.say(self.now, &format!("pg{keeper}"), || match locked {
            true => "starts, locked for clients".to_owned(),
            false => "starts".to_owned(),
        });
        let recovery = match self.random.below(10) {
            0 => self.random.millis(500, 4_000),
            _ => self.random.millis(60, 250),
        };
        self.postgres_soon(keeper, recovery, Happening::Started);
        if let Some(delay) = dies_after {
            self.postgres_soon(keeper, delay, Happening::Dies);
        }
        true
    }

    fn server_started(&mut self, keeper: u8) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        if postgres.troubles.disk == Disk::Hung {
            return self.postgres_soon(keeper, Duration::from_millis(300), Happening::Started);
        }
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        if server.phase != Phase::Starting {
            return;
        }
        server.phase = Phase::Up;
        if server.in_recovery {
            return self.connect_standby(keeper);
        }
        // The checkpoint at the end of recovery.
        data.written.lsn.0 += END_OF_RECOVERY;
        data.flushed = data.written.lsn;
        self.log.say(self.now, &format!("pg{keeper}"), || "runs as a primary".to_owned());
    }

    /// `pg_promote`.
    pub(crate) fn promote_server(&mut self, keeper: u8) {
        let Some(server) = &mut self.postgres[usize::from(keeper)].server else { return };
        if std::mem::replace(&mut server.promoting, true) || !server.in_recovery {
            return;
        }
        let delay = match self.random.below(10) {
            0..=5 => self.random.millis(15, 100),
            6 | 7 => self.random.millis(4_950, 5_100),
            _ => self.random.millis(100, 6_000),
        };
        if delay > Duration::from_secs(4) {
            self.coverage.reached(Point::SlowPromotion);
        }
        self.postgres_soon(keeper, delay, Happening::Promoted);
    }

    fn promoted(&mut self, keeper: u8) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        if postgres.troubles.disk != Disk::Works {
            return self.postgres_soon(keeper, Duration::from_millis(500), Happening::Promoted);
        }
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        if !server.in_recovery || server.phase != Phase::Up {
            return;
        }
        let whole = data.condition == Condition::Whole;
        let from = data.durable();
        let branch = self.histories.promote(from);
        data.written = Position { branch, lsn: Lsn(from.lsn.0 + END_OF_RECOVERY) };
        data.flushed = data.written.lsn;
        data.kind = DataKind::Primary;
        server.in_recovery = false;
        server.promoting = false;
        let upstream = server.upstream.take();
        if let Some((from, _)) = upstream
            && let Some(server) = &mut self.postgres[usize::from(from)].server
        {
            server.senders.remove(&keeper);
        }
        if upstream.is_some() {
            self.receiver_ended(keeper);
        }
        let timeline = self.histories.timeline(branch);
        self.log.say(self.now, &format!("pg{keeper}"), || {
            format!("is promoted to timeline {timeline} at {}", from.lsn)
        });
        if !whole {
            self.violate(Invariant::I8PromotedHoldsEverything, || {
                format!("keeper k{keeper} promoted data that are a mixture")
            });
        }
        self.after_promotion(keeper, from);
        self.ship(keeper);
    }

    /// `pg_ctl stop -m fast`: sessions end, standbys get everything, then the server ends.
    pub(crate) fn stop_server(&mut self, keeper: u8) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        let troubles = postgres.troubles.disk;
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        if server.phase == Phase::Stopping {
            return;
        }
        if server.phase == Phase::Up && !server.in_recovery && troubles == Disk::Works {
            server.shutdown_checkpoint = Some(data.written.lsn);
            data.written.lsn.0 += SHUTDOWN_CHECKPOINT;
        }
        server.phase = Phase::Stopping;
        // A session that is told to end finishes its commit first.
        if troubles != Disk::Hung {
            server.waiting.clear();
            self.end_sessions_of_server(keeper);
        }
        let delay = self.random.millis(10, 80);
        self.postgres_soon(keeper, delay, Happening::Ending(self.now));
    }

    fn server_ending(&mut self, keeper: u8, since: crate::Time) {
        let patience = self.now.saturating_sub(since) < SENDER_PATIENCE;
        let postgres = &mut self.postgres[usize::from(keeper)];
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        if postgres.troubles.disk == Disk::Hung {
            return self.postgres_soon(keeper, Duration::from_millis(500), Happening::Ending(since));
        }
        if data.flushed < data.written.lsn {
            data.flushed = data.written.lsn;
        }
        let flushed = data.flushed;
        let behind = !server.in_recovery
            && server.senders.values().any(|sender| sender.flushed.is_some_and(|lsn| lsn < flushed));
        if behind && patience {
            self.ship(keeper);
            return self.postgres_soon(keeper, POLL, Happening::Ending(since));
        }
        let timeline = self.histories.timeline(data.written.branch);
        data.ended = server.shutdown_checkpoint.map(|checkpoint| OrderlyEnd { timeline, checkpoint });
        self.log.say(self.now, &format!("pg{keeper}"), || "has stopped".to_owned());
        self.server_gone(keeper);
    }

    /// The process is gone: nobody streams from it, and it streams from nobody.
    fn server_gone(&mut self, keeper: u8) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        postgres.incarnation += 1;
        let Some(server) = postgres.server.take() else { return };
        if let Some((from, _)) = server.upstream {
            if let Some(upstream) = &mut self.postgres[usize::from(from)].server {
                upstream.senders.remove(&keeper);
            }
            self.receiver_ended(keeper);
        }
        for standby in server.senders.into_keys() {
            self.lose_upstream(standby);
        }
        self.end_sessions_of_server(keeper);
    }

    /// `kill -9`, a panic, or worse: what was not written, perhaps what was not flushed, is lost.
    pub(crate) fn crash_server(&mut self, keeper: u8, why: &str) {
        let keeps = self.random.chance(50);
        let postgres = &mut self.postgres[usize::from(keeper)];
        if postgres.server.is_none() {
            return;
        }
        if let Some(data) = &mut postgres.data {
            if keeps && postgres.troubles.disk == Disk::Works {
                // The operating system still has it.
                data.flushed = data.written.lsn;
            }
            data.written.lsn = data.flushed;
        }
        self.log.say(self.now, &format!("pg{keeper}"), || format!("ends unexpectedly: {why}"));
        self.server_gone(keeper);
        self.tell_of_death(keeper);
    }

    /// The power of the host goes: only what was flushed is left.
    pub(crate) fn lose_power(&mut self, keeper: u8) {
        if let Some(data) = &mut self.postgres[usize::from(keeper)].data {
            data.written.lsn = data.flushed;
        }
        self.server_gone(keeper);
    }

    /// Something was written: have it flushed.
    pub(crate) fn flush(&mut self, keeper: u8) {
        let usual = self.random.span(Duration::from_micros(300), Duration::from_millis(3));
        let postgres = &mut self.postgres[usize::from(keeper)];
        let (Some(server), Some(data)) = (&mut postgres.server, &postgres.data) else { return };
        if std::mem::replace(&mut server.flushing, true) {
            return;
        }
        let (lsn, slow) = (data.written.lsn, postgres.troubles.slow_flush);
        self.postgres_soon(keeper, usual + slow, Happening::Flushed(lsn));
    }

    fn flushed(&mut self, keeper: u8, lsn: Lsn) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        match postgres.troubles.disk {
            Disk::Works => {}
            Disk::Hung => {
                return self.postgres_soon(keeper, Duration::from_millis(500), Happening::Flushed(lsn));
            }
            Disk::Full | Disk::ReadOnly => return self.crash_server(keeper, "PANIC: cannot write WAL"),
        }
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        data.flushed = data.flushed.max(lsn);
        server.flushing = false;
        if data.flushed < data.written.lsn {
            self.flush(keeper);
        }
        self.ship(keeper);
        self.release(keeper);
    }

    /// Tell clients of commits that need not wait any more.
    pub(crate) fn release(&mut self, keeper: u8) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        let released = server.release(data.flushed);
        if let (Some(last), Some(doubtful)) = (released.last(), data.doubtful)
            && last.lsn > doubtful
        {
            data.doubtful = None;
        }
        for waiting in released {
            self.acknowledge(keeper, waiting);
        }
    }
}
