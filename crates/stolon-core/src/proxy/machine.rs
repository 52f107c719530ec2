//! The proxy as a machine: events in, effects out.

mod vouched;

use std::time::Duration;

use stolon_model::{ClusterDocument, ProxyUid};

use crate::latency::Patience;

use super::names::{Names, Target};
use super::pauses::pause_after;
use super::promise::{Cover, Promise, Sent};
use super::{
    Check, Claim, ClosedBecause, Destination, Effect, Event, Measurement, NOTHING, Notice, OnSilence, Policy,
    Route, Timings, Verdict, Version, route,
};

use vouched::Vouchers;

/// How long withdrawing the report may take at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The store keeps a report for a third of its time to live after it was last put, whatever becomes of the proxy. A proxy may
/// forward for twice its timeout after that.
const TTL_IN_TIMEOUTS: u32 = 6;

/// Everything that a proxy remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    own: ProxyUid,
    policy: Policy,
    stage: Stage,
    passage: Passage,
    listener: Listener,
    /// The last reading of the cluster data that counts.
    reading: Option<Reading>,
    /// The newest cluster data that were ever acted on.
    newest: Option<Version>,
    asked: Option<Asked>,
    after_answer: AfterAnswer,
    promise: Promise,
    vouchers: Vouchers,
    /// Whether to publish again what was published already, as a sign of life.
    sign_of_life: SignOfLife,
    patience: Patience,
    names: Names,
    timings: Timings,
    failures: u32,
    /// When the next check begins; none while one is under way.
    next_check: Option<Duration>,
    /// If no cluster data are read until then, the store counts as silent; `None` once it does.
    silent_at: Option<Duration>,
    /// Where clients go, as it was last logged.
    said: Option<Notice>,
    /// Until when new clients wait, while the primary is relieved.
    holds_until: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Serving,
    /// No client is accepted; connections may go on until then.
    Draining {
        until: Duration,
    },
    /// Everything is closed. A publication under way is awaited until then: it could arrive after the withdrawal.
    Leaving {
        until: Duration,
    },
    Withdrawing,
    Over,
}

/// Whether clients are let through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Passage {
    Shut,
    Open {
        destination: Destination,
        deadline: Duration,
    },
    /// Connections were told to end, and may not all have ended.
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Listener {
    Closed,
    Opening,
    Open,
}

/// A reading of the cluster data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reading {
    /// When it began.
    at: Duration,
    cover: Option<Cover>,
    verdict: Verdict,
    age: Age,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Age {
    /// As new as anything that was seen.
    Newest,
    /// The store has gone back in time; the verdict is the last one before that.
    Kept,
}

/// A reading under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    at: Duration,
    cover: Option<Cover>,
    limit: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AfterAnswer {
    Rest,
    /// The cluster data changed while they were being read.
    ReadAgain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SignOfLife {
    Given,
    Due,
}

impl Machine {
    /// A proxy that forwards nothing yet. Send it [`Event::TimePassed`] to begin.
    pub fn new(own: ProxyUid, policy: Policy) -> Self {
        Machine {
            own,
            policy,
            stage: Stage::Serving,
            passage: Passage::Shut,
            listener: Listener::Closed,
            reading: None,
            newest: None,
            asked: None,
            after_answer: AfterAnswer::Rest,
            promise: Promise::new(),
            vouchers: Vouchers::default(),
            sign_of_life: SignOfLife::Given,
            patience: Patience::default(),
            names: Names::default(),
            timings: Timings::INITIAL,
            failures: 0,
            next_check: Some(Duration::ZERO),
            silent_at: None,
            said: None,
            holds_until: None,
        }
    }

    /// Handle an event. `now` never goes back, and goes on while the process is frozen or the machine sleeps.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.stage == Stage::Over {
            return out;
        }
        self.expire(now, &mut out);
        match event {
            Event::TimePassed => {}
            Event::ClusterChanged => match self.asked {
                Some(_) => self.after_answer = AfterAnswer::ReadAgain,
                None => self.ask(now, &mut out),
            },
            Event::DocumentRead(document) => self.document_read(now, document.as_deref(), &mut out),
            Event::DocumentUnreadable => self.document_unreadable(now, &mut out),
            Event::ReportTaken => {
                if let Some(Sent { took, .. }) = self.promise.taken(now) {
                    self.patience.answered(took);
                }
            }
            Event::ReportRefused => {
                if let Some(Sent { took, limit }) = self.promise.refused(now) {
                    self.patience.failed(took, limit);
                    self.fail(now, Check::Publish, &mut out);
                }
            }
            Event::Resolved(name, addresses) => {
                let longest = self.timings.check_interval;
                out.extend(self.names.resolved(now, &name, &addresses, longest).map(Effect::Say));
            }
            Event::ResolveFailed(name) => {
                out.extend(self.names.failed(now, &name, self.timings.check_interval).map(Effect::Say));
            }
            Event::Vouched(voucher) => self.vouched(now, voucher, &mut out),
            Event::Listening if self.listener == Listener::Opening => self.listener = Listener::Open,
            Event::Listening => out.push(Effect::StopListening),
            Event::ListenFailed => {
                self.listener = Listener::Closed;
                self.fail(now, Check::Listen, &mut out);
            }
            Event::Closed => self.passage = Passage::Shut,
            Event::StopRequested => self.stop(now, &mut out),
            Event::ConnectionsEnded => self.drained(now, &mut out),
            Event::Withdrawn => {
                self.stage = Stage::Over;
                out.push(Effect::Exit);
                return out;
            }
        }
        self.settle(now, &mut out);
        out.extend(self.wake_at().map(Effect::WakeAt));
        out
    }

    /// Deadlines come first, whatever has happened.
    fn expire(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if let Passage::Open { deadline, .. } = self.passage
            && now >= deadline
        {
            self.reading = None;
            self.close(ClosedBecause::Expired, out);
            self.next_check = self.next_check.map(|_| now);
        }
        let stays = matches!(self.stage, Stage::Serving | Stage::Draining { .. });
        if let Some(until) = self.vouched_until() {
            // What was read counts for as long as somebody vouches for it.
            self.silent_at = self.silent_at.map(|silent_at| silent_at.max(until));
        }
        if stays && self.silent_at.is_some_and(|silent_at| now >= silent_at) {
            self.silent_at = None;
            self.reading = None;
            self.announce(Notice::SentNowhere(ClosedBecause::Expired), out);
            if self.policy.on_silence == OnSilence::StopListening {
                self.stop_listening(out);
            }
        }
        match self.stage {
            Stage::Draining { until } if now >= until => self.leave(now, out),
            _ => {}
        }
    }

    /// Do what is due now.
    fn settle(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if matches!(self.stage, Stage::Draining { .. }) && self.passage == Passage::Shut {
            self.leave(now, out);
        }
        if let Stage::Leaving { until } = self.stage {
            if self.passage == Passage::Shut && (!self.promise.is_sending() || now >= until) {
                self.stage = Stage::Withdrawing;
                out.push(Effect::Withdraw { limit: FAREWELL });
            }
            return;
        }
        if matches!(self.stage, Stage::Withdrawing | Stage::Over) {
            return;
        }
        if self.next_check.is_some_and(|next_check| now >= next_check) {
            self.begin_check(now, out);
        }
        out.extend(self.names.ask(now));
        self.leave_moved_address(out);
        self.publish(now, out);
        self.read_again(now, out);
        self.ask_voucher(now, out);
        self.open(now, out);
        self.move_deadline(now, out);
        self.conclude(now, out);
    }

    /// Read and publish together: neither depends on the other while nothing changes.
    fn begin_check(&mut self, now: Duration, out: &mut Vec<Effect>) {
        self.next_check = None;
        self.sign_of_life = SignOfLife::Due;
        if self.asked.is_none() {
            self.ask(now, out);
        }
    }

    fn ask(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if matches!(self.stage, Stage::Leaving { .. } | Stage::Withdrawing) {
            return;
        }
        let limit = self.patience.limit(self.timings.timeout / 3);
        self.after_answer = AfterAnswer::Rest;
        self.asked = Some(Asked { at: now, cover: self.promise.cover(now), limit });
        out.push(Effect::ReadDocument { limit });
    }

    fn document_read(&mut self, now: Duration, document: Option<&ClusterDocument>, out: &mut Vec<Effect>) {
        let Some(asked) = self.asked.take() else { return };
        self.patience.answered(now.saturating_sub(asked.at));
        self.listen(out);
        let verdict = route(document, &self.own);
        match self.older(&verdict) {
            Some((seen, found)) => self.keep(asked, &verdict, seen, found, out),
            None => self.obey(now, asked, verdict, out),
        }
        let timeout = self.timings.timeout.max(self.promise.timeout());
        self.silent_at = Some(asked.at.saturating_add(timeout)).filter(|silent_at| now < *silent_at);
        if self.after_answer == AfterAnswer::ReadAgain {
            self.ask(now, out);
        }
    }

    fn document_unreadable(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let Some(asked) = self.asked.take() else { return };
        self.patience.failed(now.saturating_sub(asked.at), asked.limit);
        self.fail(now, Check::Read, out);
    }

    /// The newest version that was seen and that of the verdict, if that is older.
    fn older(&self, verdict: &Verdict) -> Option<(Version, Version)> {
        let (seen, found) = (self.newest.as_ref()?, verdict.version.as_ref()?);
        found.is_older_than(seen).then(|| (seen.clone(), found.clone()))
    }

    /// The store has gone back in time. Clients stay where they are, and nothing that the old data say of them is acknowledged;
    /// a passage that is shut stays shut, and that can be acknowledged.
    fn keep(
        &mut self,
        asked: Asked,
        verdict: &Verdict,
        seen: Version,
        found: Version,
        out: &mut Vec<Effect>,
    ) {
        if let (Passage::Open { .. }, Some(reading)) = (&self.passage, &mut self.reading) {
            (reading.at, reading.cover) = (asked.at, asked.cover);
            if reading.age == Age::Newest {
                reading.age = Age::Kept;
                out.push(Effect::Say(Notice::OlderThanSeen { seen, found }));
            }
            return;
        }
        let generation = match verdict.route {
            Route::Open { generation, .. } => Some(generation),
            Route::Closed { generation, .. } => generation,
        };
        let why = ClosedBecause::OlderThanSeen { seen, found };
        self.announce(Notice::SentNowhere(why.clone()), out);
        let route = Route::Closed { why, generation };
        let verdict = Verdict { route, timings: None, version: None };
        self.reading = Some(Reading { at: asked.at, cover: asked.cover, verdict, age: Age::Newest });
    }

    fn obey(&mut self, now: Duration, asked: Asked, verdict: Verdict, out: &mut Vec<Effect>) {
        let before = self.reading.as_ref().map(|reading| (&reading.verdict, reading.age));
        if before != Some((&verdict, Age::Newest)) {
            // A change is a check of its own: it ends when everything that it asks for is done.
            self.next_check = None;
        }
        if let Some(version) = &verdict.version {
            self.newest = Some(version.clone());
        }
        if let Some(timings) = verdict.timings {
            self.timings = timings;
        }
        let target = match &verdict.route {
            Route::Open { to, address, .. } => {
                if self.destination().is_some_and(|open| open.to != *to || open.name != *address) {
                    self.close(ClosedBecause::Moved, out);
                }
                Some(Target { to: to.clone(), name: address.clone() })
            }
            // Who goes on by a voucher is taken for dead after a while, and admitted again.
            Route::Closed { why: ClosedBecause::NotEnabled { to, address }, .. }
                if self.goes_on_to(now, to, address) =>
            {
                Some(Target { to: to.clone(), name: address.clone() })
            }
            Route::Closed { why, .. } => {
                self.close(why.clone(), out);
                None
            }
        };
        self.hold(now, &verdict.route, out);
        self.names.want(now, target);
        self.reading = Some(Reading { at: asked.at, cover: asked.cover, verdict, age: Age::Newest });
    }

    /// While the primary is relieved new clients wait, once for a while. Where it is not known any more that they are about to be let
    /// through they are turned away as ever.
    fn hold(&mut self, now: Duration, route: &Route, out: &mut Vec<Effect>) {
        match (route, self.holds_until) {
            (Route::Closed { why: ClosedBecause::HandingOver(handover), .. }, None) => {
                let until = now.saturating_add(handover.hold);
                self.holds_until = Some(until);
                out.push(Effect::Hold(until));
            }
            (Route::Closed { why: ClosedBecause::HandingOver(_), .. }, Some(_))
            | (Route::Closed { .. }, None) => {}
            (Route::Closed { .. }, Some(_)) => {
                self.holds_until = None;
                out.push(Effect::Hold(now));
            }
            (Route::Open { .. }, _) => self.holds_until = None,
        }
    }

    fn destination(&self) -> Option<&Destination> {
        match &self.passage {
            Passage::Open { destination, .. } => Some(destination),
            Passage::Shut | Passage::Closing => None,
        }
    }

    /// The name in use has other addresses now.
    fn leave_moved_address(&mut self, out: &mut Vec<Effect>) {
        let moved = match (self.destination(), self.names.address()) {
            (Some(destination), Some(address)) => destination.address != address,
            _ => false,
        };
        if moved {
            self.close(ClosedBecause::Moved, out);
        }
    }

    /// What can be published truthfully; `None` while connections are ending, and without usable cluster data.
    fn claim(&self) -> Option<Claim> {
        let reading = self.reading.as_ref().filter(|_| self.passage != Passage::Closing)?;
        let generation = match (&reading.verdict.route, reading.age) {
            (_, Age::Kept) => NOTHING,
            (Route::Open { generation, .. }, Age::Newest) => *generation,
            (Route::Closed { generation, .. }, Age::Newest) => (*generation)?,
        };
        Some(Claim { generation, timeout: self.timings.timeout })
    }

    /// Publish a change at once, and the same again with each check as a sign of life.
    fn publish(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let Some(claim) = self.claim().filter(|_| !self.promise.is_sending()) else { return };
        if self.promise.was_attempted(claim) && self.sign_of_life == SignOfLife::Given {
            return;
        }
        self.sign_of_life = SignOfLife::Given;
        let limit = self.patience.limit(claim.timeout / 3);
        self.promise.begin(now, claim, limit);
        self.shorten_deadline(out);
        out.push(Effect::Publish { claim, ttl: claim.timeout.saturating_mul(TTL_IN_TIMEOUTS), limit });
    }

    /// A lower timeout holds before it is published.
    fn shorten_deadline(&mut self, out: &mut Vec<Effect>) {
        let allowed = self.open_until();
        if let (Passage::Open { deadline, .. }, Some(allowed)) = (&mut self.passage, allowed)
            && allowed < *deadline
        {
            *deadline = allowed;
            out.push(Effect::MoveDeadline(allowed));
        }
    }

    /// Until when clients may be forwarded by the last reading.
    fn allowed_until(&self) -> Option<Duration> {
        let reading = self.reading.as_ref()?;
        if let Route::Closed { .. } = reading.verdict.route {
            return None;
        }
        self.promise.deadline(reading.at, reading.cover)
    }

    fn wants_to_open(&self) -> bool {
        self.stage == Stage::Serving
            && self.passage == Passage::Shut
            && self
                .reading
                .as_ref()
                .is_some_and(|reading| matches!(reading.verdict.route, Route::Open { .. }))
    }

    /// What was read before the sentinel certainly knew of this proxy is read again before it opens anything.
    fn read_again(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let usable = self.allowed_until().is_some_and(|until| now < until);
        let busy = self.next_check.is_some() || self.asked.is_some() || self.promise.is_sending();
        if usable || busy || !(self.wants_to_open() || self.goes_on_by_voucher(now)) {
            return;
        }
        let was_covered = self.reading.as_ref().is_some_and(|reading| reading.cover.is_some());
        match self.promise.is_in_force(now) && !was_covered {
            true => self.ask(now, out),
            false => self.fail(now, Check::TooSlow, out),
        }
    }

    fn open(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if !self.wants_to_open() {
            return;
        }
        let deadline = self.allowed_until().filter(|until| now < *until);
        let (Some(deadline), Some(address), Some(reading)) = (deadline, self.names.address(), &self.reading)
        else {
            return;
        };
        let Route::Open { to, address: name, .. } = &reading.verdict.route else { return };
        let destination = Destination { to: to.clone(), name: name.clone(), address };
        self.passage = Passage::Open { destination: destination.clone(), deadline };
        out.push(Effect::Open { destination: destination.clone(), deadline });
        self.announce(Notice::Forwarding(destination), out);
    }

    fn move_deadline(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let allowed = self.open_until().filter(|until| now < *until);
        if let (Passage::Open { deadline, .. }, Some(allowed)) = (&mut self.passage, allowed)
            && allowed > *deadline
        {
            *deadline = allowed;
            out.push(Effect::MoveDeadline(allowed));
        }
        if self.allowed_until().is_some_and(|until| now < until) {
            self.vouched_no_more(out);
        }
    }

    /// A check is over when nothing that it asked for is under way.
    fn conclude(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let busy = self.asked.is_some() || self.promise.is_sending() || self.passage == Passage::Closing;
        if self.next_check.is_some() || busy {
            return;
        }
        match self.reading.as_ref().map(|reading| &reading.verdict.route) {
            // The reading was too old by the time that everything was done.
            None => return self.fail(now, Check::TooSlow, out),
            Some(Route::Closed { why: ClosedBecause::BadClusterData(_), .. }) => {
                return self.fail(now, Check::BadClusterData, out);
            }
            Some(_) => {}
        }
        self.failures = 0;
        self.names.refresh(now);
        out.push(Effect::Measure(Measurement::CheckSucceeded));
        let usual = now.saturating_add(self.timings.check_interval);
        // Where the store is slow the next check begins early enough to end before the deadline.
        let latest = match (&self.passage, self.allowed_until().filter(|until| now < *until)) {
            (Passage::Open { .. }, Some(until)) => {
                until.saturating_sub(self.patience.limit(self.timings.timeout / 3)).max(now)
            }
            _ => usual,
        };
        self.next_check = Some(usual.min(latest));
    }

    /// The first failure of a check decides when the next one begins.
    fn fail(&mut self, now: Duration, check: Check, out: &mut Vec<Effect>) {
        if self.next_check.is_none() {
            self.failures = self.failures.saturating_add(1);
        }
        let retry_in = pause_after(self.failures.max(1), self.timings.check_interval);
        let next = now.saturating_add(retry_in);
        self.next_check = Some(self.next_check.map_or(next, |planned| planned.min(next)));
        out.push(Effect::Say(Notice::CheckFailed { check, retry_in }));
    }

    fn listen(&mut self, out: &mut Vec<Effect>) {
        if self.listener == Listener::Closed && self.stage == Stage::Serving {
            self.listener = Listener::Opening;
            out.push(Effect::Listen);
        }
    }

    fn stop_listening(&mut self, out: &mut Vec<Effect>) {
        if self.listener != Listener::Closed {
            self.listener = Listener::Closed;
            out.push(Effect::StopListening);
        }
    }

    fn close(&mut self, why: ClosedBecause, out: &mut Vec<Effect>) {
        if self.destination().is_some() {
            self.passage = Passage::Closing;
            out.push(Effect::Close(why.clone()));
        }
        self.announce(Notice::SentNowhere(why), out);
    }

    /// Log where clients go, when that changes.
    fn announce(&mut self, notice: Notice, out: &mut Vec<Effect>) {
        if self.said.as_ref() != Some(&notice) {
            self.said = Some(notice.clone());
            out.push(Effect::Say(notice));
        }
    }

    fn stop(&mut self, now: Duration, out: &mut Vec<Effect>) {
        match self.stage {
            Stage::Serving => {
                self.stop_listening(out);
                match self.passage {
                    Passage::Open { .. } => {
                        let limit = self.policy.drain;
                        self.stage = Stage::Draining { until: now.saturating_add(limit) };
                        out.push(Effect::Say(Notice::Draining(limit)));
                    }
                    Passage::Shut | Passage::Closing => self.leave(now, out),
                }
            }
            Stage::Draining { .. } => self.leave(now, out),
            Stage::Leaving { .. } | Stage::Withdrawing | Stage::Over => {}
        }
    }

    fn drained(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if let Stage::Draining { .. } = self.stage {
            self.leave(now, out);
        }
    }

    /// Close everything, and only then let the sentinel forget this proxy.
    fn leave(&mut self, now: Duration, out: &mut Vec<Effect>) {
        self.stage = Stage::Leaving { until: now.saturating_add(FAREWELL) };
        self.close(ClosedBecause::Stopping, out);
    }

    /// The next moment at which something is to be done without an event.
    fn wake_at(&self) -> Option<Duration> {
        let deadline = match self.passage {
            Passage::Open { deadline, .. } => Some(deadline),
            Passage::Shut | Passage::Closing => None,
        };
        match self.stage {
            Stage::Leaving { until } => Some(until).filter(|_| self.passage == Passage::Shut),
            Stage::Withdrawing | Stage::Over => None,
            Stage::Serving | Stage::Draining { .. } => {
                let drained = match self.stage {
                    Stage::Draining { until } => Some(until),
                    _ => None,
                };
                [
                    deadline,
                    self.silent_at,
                    self.next_check,
                    self.names.wake_at(),
                    self.voucher_wake(),
                    drained,
                ]
                .into_iter()
                .flatten()
                .min()
            }
        }
    }
}
