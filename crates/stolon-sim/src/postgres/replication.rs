//! Streaming: how WAL gets from one server to another.

use std::time::Duration;

use stolon_model::Lsn;

use super::{Condition, Disk, Happening, Phase, Position, Sender};
use crate::host::HostId;
use crate::world::{Event, World};

/// Between attempts of a standby to reach its primary, where the configuration says nothing.
const RETRY: Duration = Duration::from_secs(5);
/// Before a packet that was lost is sent again.
const RESEND: Duration = Duration::from_millis(400);
/// A connection over which nothing gets through for so long is given up (`wal_sender_timeout`).
const SENDER_TIMEOUT: Duration = Duration::from_secs(30);

impl World {
    /// Where a standby is told to stream from, and the slot that it uses.
    fn upstream_of(&self, keeper: u8) -> Option<(u8, String, Option<String>)> {
        let server = self.postgres[usize::from(keeper)].server.as_ref()?;
        let recovery = &server.config.recovery;
        let upstream = recovery.upstream.as_ref()?;
        let slot = recovery.parameters.get("primary_slot_name").cloned();
        Some((self.keeper_at(&upstream.host)?, upstream.application_name.clone(), slot))
    }

    /// Whose PostgreSQL has this address.
    pub(crate) fn keeper_at(&self, host: &str) -> Option<u8> {
        let keeper: u8 = host.strip_prefix('k')?.parse().ok()?;
        (keeper < self.scenario.keepers).then_some(keeper)
    }

    /// A standby looks for its primary, and streams from it where it can.
    pub(crate) fn connect_standby(&mut self, keeper: u8) {
        let postgres = &self.postgres[usize::from(keeper)];
        let Some(server) = &postgres.server else { return };
        if server.upstream.is_some() || !server.in_recovery || server.phase != Phase::Up {
            return;
        }
        let Some((from, name, slot)) = self.upstream_of(keeper) else { return };
        if self.lookup(HostId(keeper)).is_none() || !self.may_stream(keeper, from, slot.as_deref()) {
            let retry = self.retry_interval(keeper);
            return self.postgres_soon(keeper, retry, Happening::Connect);
        }
        let (own, incarnation) =
            (self.postgres[usize::from(keeper)].incarnation, self.postgres[usize::from(from)].incarnation);
        if let Some(upstream) = &mut self.postgres[usize::from(from)].server {
            let sender = Sender { name, incarnation: own, flushed: None, busy: false, silent_since: None };
            upstream.senders.insert(keeper, sender);
        }
        if let Some(server) = &mut self.postgres[usize::from(keeper)].server {
            server.upstream = Some((from, incarnation));
        }
        self.postgres[usize::from(keeper)].receiver += 1;
        self.log.say(self.now, &format!("pg{keeper}"), || format!("streams from pg{from}"));
        self.send(from, keeper);
    }

    fn retry_interval(&self, keeper: u8) -> Duration {
        let server = self.postgres[usize::from(keeper)].server.as_ref();
        let value = server.and_then(|server| server.config.parameters.get("wal_retrieve_retry_interval"));
        value.and_then(|value| value.trim_end_matches("ms").parse().ok()).map_or(RETRY, Duration::from_millis)
    }

    /// What PostgreSQL asks before a standby may stream.
    fn may_stream(&self, keeper: u8, from: u8, slot: Option<&str>) -> bool {
        let (here, there) = (HostId(keeper), HostId(from));
        if keeper == from || !self.network.is_open(here, there) || !self.network.is_open(there, here) {
            return false;
        }
        let upstream = &self.postgres[usize::from(from)];
        let (Some(server), Some(theirs)) = (&upstream.server, &upstream.data) else { return false };
        let Some(ours) = &self.postgres[usize::from(keeper)].data else { return false };
        server.phase == Phase::Up
            && self.accepts_connections(from)
            && slot.is_none_or(|slot| theirs.slots.contains_key(slot))
            && ours.condition == Condition::Whole
            && self.histories.contains(theirs.durable(), ours.durable())
            && ours.flushed >= theirs.oldest_wal()
    }

    /// Somebody new gets in: the postmaster lives, and so does its host.
    pub(crate) fn accepts_connections(&self, keeper: u8) -> bool {
        let postgres = &self.postgres[usize::from(keeper)];
        !postgres.troubles.postmaster_hangs
            && self.hosts[usize::from(keeper)].frozen_until.is_none()
            && postgres.server.as_ref().is_some_and(|server| server.phase == Phase::Up)
    }

    /// The primary of a standby is gone, or it is told to follow another one.
    pub(crate) fn lose_upstream(&mut self, keeper: u8) {
        let Some(server) = &mut self.postgres[usize::from(keeper)].server else { return };
        if let Some((from, _)) = server.upstream.take() {
            if let Some(upstream) = &mut self.postgres[usize::from(from)].server {
                upstream.senders.remove(&keeper);
            }
            self.receiver_ended(keeper);
        }
        let retry = self.retry_interval(keeper).min(Duration::from_millis(500));
        let delay = self.random.span(Duration::from_millis(5), retry.max(Duration::from_millis(6)));
        self.postgres_soon(keeper, delay, Happening::Connect);
    }

    /// Send every standby what it does not have yet.
    pub(crate) fn ship(&mut self, keeper: u8) {
        let Some(server) = &self.postgres[usize::from(keeper)].server else { return };
        let Some(data) = &self.postgres[usize::from(keeper)].data else { return };
        let lsn = data.flushed;
        let due: Vec<u8> = server
            .senders
            .iter()
            .filter(|(_, sender)| !sender.busy && sender.flushed != Some(lsn))
            .map(|(standby, _)| *standby)
            .collect();
        for standby in due {
            self.send(keeper, standby);
        }
    }

    fn send(&mut self, keeper: u8, standby: u8) {
        let now = self.now;
        let incarnation = self.postgres[usize::from(keeper)].incarnation;
        let Some(position) = self.postgres[usize::from(keeper)].data.as_ref().map(|data| data.durable())
        else {
            return;
        };
        let latency = self.network.latency(HostId(keeper), HostId(standby), &mut self.random);
        let Some(server) = &mut self.postgres[usize::from(keeper)].server else { return };
        let Some(sender) = server.senders.get_mut(&standby) else { return };
        sender.busy = true;
        let of_standby = sender.incarnation;
        match latency {
            Some(latency) => {
                let behind = position.lsn.0.saturating_sub(sender.flushed.unwrap_or(position.lsn).0);
                // 100 MiB a second.
                let transfer = Duration::from_micros(behind / 100);
                let event = Happening::Received(keeper, incarnation, position);
                self.after(latency + transfer, Event::Postgres(standby, of_standby, event));
            }
            None => {
                sender.silent_since.get_or_insert(now);
                self.postgres_soon(keeper, RESEND, Happening::Resend(standby));
            }
        }
    }

    /// Try again, or give the connection up.
    pub(super) fn resend(&mut self, keeper: u8, standby: u8) {
        let now = self.now;
        let Some(server) = &mut self.postgres[usize::from(keeper)].server else { return };
        let Some(sender) = server.senders.get_mut(&standby) else { return };
        sender.busy = false;
        let silent_since = *sender.silent_since.get_or_insert(now);
        if now - silent_since > SENDER_TIMEOUT {
            server.senders.remove(&standby);
            self.lose_upstream(standby);
            return;
        }
        self.send(keeper, standby);
    }

    pub(super) fn received(&mut self, keeper: u8, from: u8, incarnation: u32, position: Position) {
        let flush = self.random.span(Duration::from_micros(300), Duration::from_millis(3));
        let slow = self.postgres[usize::from(keeper)].troubles.slow_flush;
        self.postgres_soon(keeper, flush + slow, Happening::StandbyFlushed(from, incarnation, position));
    }

    pub(super) fn standby_flushed(&mut self, keeper: u8, from: u8, incarnation: u32, position: Position) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        match postgres.troubles.disk {
            Disk::Works => {}
            Disk::Hung => {
                let again = Happening::StandbyFlushed(from, incarnation, position);
                return self.postgres_soon(keeper, Duration::from_millis(500), again);
            }
            Disk::Full | Disk::ReadOnly => return self.crash_server(keeper, "PANIC: cannot write WAL"),
        }
        let (Some(server), Some(data)) = (&postgres.server, &mut postgres.data) else { return };
        if server.upstream != Some((from, incarnation)) || server.phase != Phase::Up {
            return;
        }
        if !self.histories.contains(position, data.durable()) {
            return self.lose_upstream(keeper);
        }
        data.written = position;
        data.flushed = position.lsn;
        let own = postgres.incarnation;
        match self.network.latency(HostId(keeper), HostId(from), &mut self.random) {
            Some(latency) => {
                let event = Happening::Heard(keeper, own, position.lsn);
                self.after(latency, Event::Postgres(from, incarnation, event));
            }
            None => self.after(RESEND, Event::Postgres(from, incarnation, Happening::Resend(keeper))),
        }
        if self.postgres[usize::from(keeper)].server.as_ref().is_some_and(|it| !it.senders.is_empty()) {
            self.ship(keeper);
        }
    }

    pub(super) fn heard(&mut self, keeper: u8, standby: u8, incarnation: u32, lsn: Lsn) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        let Some(sender) = server.senders.get_mut(&standby) else { return };
        if sender.incarnation != incarnation {
            return;
        }
        sender.flushed = Some(lsn);
        sender.busy = false;
        sender.silent_since = None;
        if let Some(held) = data.slots.get_mut(&sender.name) {
            *held = (*held).max(lsn);
        }
        let behind = data.flushed > lsn;
        self.release(keeper);
        if behind {
            self.send(keeper, standby);
        }
    }
}
