//! A proxy's program: what stands around the machine of `stolon-core`.

use std::rc::Rc;
use std::time::Duration;

use stolon_core::proxy::{
    Claim, Destination, Effect, Event as MachineEvent, Machine, Notice, OnSilence, Policy,
};
use stolon_model::{GoDuration, InfoUid, ProxyReport, ProxyUid, Voucher};

use crate::Time;
use crate::coverage::Point;
use crate::pledges::Questions;
use crate::random::Random;
use crate::scenario::Program;
use crate::store::{Reply, Request};
use crate::world::{Answered, Event, World};

/// Something that concerns a proxy.
#[derive(Clone, Debug)]
pub(crate) enum ProxyEvent {
    /// The store answers.
    Reply(Answered),
    /// The document changed.
    Woken,
    /// The time has come that the machine asked for.
    TimePassed(Time),
    /// The answer to a question for a voucher, or its time is over.
    Vouched(u64, Option<Voucher>),
    /// Something that the machine asked for is done.
    Tell(Box<MachineEvent>),
}

const READ: u32 = 0;
const PUBLISH: u32 = 1;

/// A proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    uid: ProxyUid,
    random: Random,
    machine: Option<Machine>,
    /// Where clients go.
    open: Option<Opening>,
    openings: u32,
    /// The generation that was published last.
    acknowledged: i64,
    wake_at: Time,
    armed: Option<Time>,
    pub(crate) questions: Questions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opening {
    number: u32,
    keeper: u8,
    /// On the local clock; a task of its own enforces it.
    deadline: Duration,
}

impl Proxy {
    pub(crate) fn new(index: u8, random: Random) -> Self {
        Proxy {
            uid: ProxyUid::from(format!("proxy{index}")),
            random,
            machine: None,
            open: None,
            openings: 0,
            acknowledged: 0,
            wake_at: Time::ZERO,
            armed: None,
            questions: Questions::default(),
        }
    }

    pub(crate) fn uid(&self) -> &ProxyUid {
        &self.uid
    }
}

impl World {
    fn proxy(&mut self, index: u8) -> &mut Proxy {
        &mut self.proxies[usize::from(index)]
    }

    pub(crate) fn start_proxy(&mut self, index: u8) {
        let it = self.proxy(index);
        it.uid = ProxyUid::from(it.random.uid8());
        let policy = Policy { on_silence: OnSilence::StopListening, drain: Duration::ZERO };
        it.machine = Some(Machine::new(it.uid.clone(), policy));
        it.open = None;
        it.questions = Questions::default();
        it.armed = None;
        self.log.say(self.now, &format!("p{index}"), || "starts".to_owned());
        self.tell_proxy(index, MachineEvent::TimePassed);
    }

    /// Where a proxy lets clients through to now, by its own clock, and which opening that is.
    pub(crate) fn proxy_destination(&self, index: u8) -> Option<(u8, u32)> {
        let opening = self.proxies[usize::from(index)].open?;
        let local = self.local(Program::Proxy(index));
        (local < opening.deadline).then_some((opening.keeper, opening.number))
    }

    /// The keeper that a proxy serves, with the generation that it published last.
    pub(crate) fn open_route(&self, index: u8) -> Option<(u8, i64)> {
        let (keeper, _) = self.proxy_destination(index)?;
        Some((keeper, self.proxies[usize::from(index)].acknowledged))
    }

    pub(crate) fn proxy_event(&mut self, index: u8, event: ProxyEvent) {
        match event {
            ProxyEvent::Woken => self.tell_proxy(index, MachineEvent::ClusterChanged),
            ProxyEvent::Vouched(question, voucher) => self.vouched(index, question, voucher),
            ProxyEvent::Tell(event) => self.tell_proxy(index, *event),
            ProxyEvent::TimePassed(at) => {
                let now = self.now;
                let it = self.proxy(index);
                if it.armed != Some(at) {
                    return;
                }
                it.armed = None;
                match it.wake_at <= now {
                    true => self.tell_proxy(index, MachineEvent::TimePassed),
                    false => self.arm_proxy(index),
                }
            }
            ProxyEvent::Reply(answered) => self.answered(index, answered.token, &answered.reply),
        }
    }

    /// The store answers, or has had its time.
    fn answered(&mut self, index: u8, token: u32, reply: &Reply) {
        let event = match (token, reply) {
            (READ, Reply::Everything(seen)) => MachineEvent::DocumentRead(
                seen.document.as_ref().map(|(document, _)| Box::new((**document).clone())),
            ),
            (READ, _) => MachineEvent::DocumentUnreadable,
            (_, Reply::Everything(_)) => MachineEvent::ReportTaken,
            _ => MachineEvent::ReportRefused,
        };
        self.tell_proxy(index, event);
    }

    pub(crate) fn tell_proxy(&mut self, index: u8, event: MachineEvent) {
        let now = self.local(Program::Proxy(index));
        let Some(machine) = &mut self.proxy(index).machine else { return };
        for effect in machine.handle(now, event) {
            self.proxy_effect(index, effect);
        }
    }

    pub(crate) fn tell_proxy_after(&mut self, index: u8, delay: Duration, event: MachineEvent) {
        if let Some(run) = self.run_of(Program::Proxy(index)) {
            self.after(delay, Event::Proxy(index, run, ProxyEvent::Tell(Box::new(event))));
        }
    }

    fn proxy_effect(&mut self, index: u8, effect: Effect) {
        match effect {
            Effect::ReadDocument { limit } => {
                self.ask_within(Program::Proxy(index), READ, limit, Request::Read);
            }
            Effect::Publish { claim, ttl, limit } => self.publish(index, claim, ttl, limit),
            Effect::Resolve { name, limit } => self.resolve(index, name, limit),
            Effect::AskVoucher { address, limit } => self.ask_voucher(index, &address, limit),
            Effect::Listen => {
                self.tell_proxy_after(index, Duration::from_micros(50), MachineEvent::Listening)
            }
            Effect::Open { destination, deadline } => self.open_proxy(index, &destination, deadline),
            Effect::MoveDeadline(deadline) => {
                if let Some(opening) = &mut self.proxy(index).open {
                    opening.deadline = deadline;
                }
            }
            Effect::Close(why) => {
                let expired = self.proxy(index).open.is_some() && self.proxy_destination(index).is_none();
                if expired {
                    self.coverage.reached(Point::ProxyExpired);
                }
                self.check_close(index, &why);
                self.proxy(index).open = None;
                self.end_sessions_of_proxy(index);
                self.log.say(self.now, &format!("p{index}"), || format!("closes: {why:?}"));
                self.tell_proxy_after(index, Duration::from_micros(200), MachineEvent::Closed);
            }
            Effect::Withdraw { .. } => {
                self.tell_proxy_after(index, Duration::from_millis(1), MachineEvent::Withdrawn);
            }
            Effect::WakeAt(local) => {
                self.proxy(index).wake_at = self.host(Program::Proxy(index)).when(local, self.now);
                self.arm_proxy(index);
            }
            Effect::Say(notice) => self.proxy_says(index, &notice),
            Effect::Hold(_) | Effect::StopListening | Effect::Measure(_) | Effect::Exit => {}
        }
    }

    fn proxy_says(&mut self, index: u8, notice: &Notice) {
        if !matches!(notice, Notice::SentNowhere(_)) {
            self.log.say(self.now, &format!("p{index}"), || format!("{notice:?}"));
        }
    }

    fn arm_proxy(&mut self, index: u8) {
        let Some(run) = self.run_of(Program::Proxy(index)) else { return };
        let it = self.proxy(index);
        let at = it.wake_at;
        if it.armed.is_none_or(|armed| armed > at) {
            it.armed = Some(at);
            self.at(at, Event::Proxy(index, run, ProxyEvent::TimePassed(at)));
        }
    }

    fn publish(&mut self, index: u8, claim: Claim, ttl: Duration, limit: Duration) {
        let it = self.proxy(index);
        it.acknowledged = claim.generation;
        let report = ProxyReport {
            info_uid: InfoUid::from(it.random.uid8()),
            uid: it.uid.clone(),
            generation: claim.generation,
            proxy_timeout: GoDuration::from(claim.timeout).0,
            ..ProxyReport::default()
        };
        let request = Request::PutProxyReport(Rc::new(report), ttl);
        self.ask_within(Program::Proxy(index), PUBLISH, limit, request);
    }

    fn open_proxy(&mut self, index: u8, destination: &Destination, deadline: Duration) {
        let Some(keeper) = self.keeper_at(&destination.name.host) else { return };
        let it = self.proxy(index);
        it.openings += 1;
        it.open = Some(Opening { number: it.openings, keeper, deadline });
    }
}
