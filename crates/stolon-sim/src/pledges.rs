//! Keepers that ask each other for pledges, and proxies that ask keepers for vouchers.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_core::keeper::Event as MachineEvent;
use stolon_core::proxy::Event as ProxyMachineEvent;
use stolon_model::{InstanceUid, PledgeRequest, Voucher};

use crate::coverage::Point;
use crate::host::HostId;
use crate::keeper::KeeperEvent;
use crate::proxy::ProxyEvent;
use crate::sabotage::Guard;
use crate::scenario::Program;
use crate::world::{Event, World};

/// The port does not matter.
pub(crate) const PORT: &str = "8008";

/// Questions of one program run, by their numbers: the first answer to each counts, or its time.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    last: u64,
    open: BTreeMap<u64, InstanceUid>,
    /// Questions of others that the machine has not answered.
    asked: BTreeMap<u64, Asker>,
}

impl Questions {
    fn open(&mut self, instance: InstanceUid) -> u64 {
        self.last += 1;
        self.open.insert(self.last, instance);
        self.last
    }
}

/// A keeper that wants a pledge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    keeper: u8,
    run: u32,
    question: u64,
}

/// A question, or an answer, between programs.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Asked(Asker, PledgeRequest),
    /// None: no, or nothing.
    Answered(u64, Option<Duration>),
    VoucherAsked {
        proxy: u8,
        run: u32,
        question: u64,
    },
}

impl World {
    /// A keeper asks another one.
    pub(crate) fn ask_for_pledge(
        &mut self,
        keeper: u8,
        address: &str,
        request: PledgeRequest,
        within: Duration,
    ) {
        let Some(run) = self.run_of(Program::Keeper(keeper)) else { return };
        let question = self.keeper(keeper).questions.open(request.instance.clone());
        let silence = Message::Answered(question, self.as_silence_is_taken());
        let within = self.host(Program::Keeper(keeper)).span(within);
        self.after(within, Event::Keeper(keeper, run, KeeperEvent::Message(silence)));
        let lookup = self.lookup(HostId(keeper));
        let Some((there, lookup)) = self.keeper_asked_at(address).zip(lookup) else { return };
        let message = Message::Asked(Asker { keeper, run, question }, request);
        self.send_message(HostId(keeper), lookup, there, message);
    }

    fn keeper_asked_at(&self, address: &str) -> Option<u8> {
        self.keeper_at(address.strip_suffix(PORT)?.strip_suffix(':')?)
    }

    fn send_message(&mut self, from: HostId, lookup: Duration, there: u8, message: Message) {
        let latency = self.network.latency(from, HostId(there), &mut self.random);
        if let (Some(latency), Some(run)) = (latency, self.run_of(Program::Keeper(there))) {
            self.after(lookup + latency, Event::Keeper(there, run, KeeperEvent::Message(message)));
        }
    }

    pub(crate) fn message(&mut self, keeper: u8, message: Message) {
        match message {
            Message::Asked(asker, request) => {
                let questions = &mut self.keeper(keeper).questions;
                questions.last += 1;
                let number = questions.last;
                questions.asked.insert(number, asker);
                self.tell_keeper(keeper, MachineEvent::PledgeAsked { number, request });
            }
            Message::Answered(question, term) => {
                if let Some(instance) = self.keeper(keeper).questions.open.remove(&question) {
                    self.tell_keeper(keeper, MachineEvent::PledgeAnswered { instance, term });
                }
            }
            Message::VoucherAsked { proxy, run, question } => self.vouch(keeper, proxy, run, question),
        }
    }

    /// The machine has answered another keeper's question.
    pub(crate) fn answer_pledge(&mut self, keeper: u8, number: u64, term: Option<Duration>) {
        let Some(asker) = self.keeper(keeper).questions.asked.remove(&number) else { return };
        if term.is_some() {
            self.coverage.reached(Point::Pledged);
        }
        let term = term.or(self.as_silence_is_taken());
        let latency = self.network.latency(HostId(keeper), HostId(asker.keeper), &mut self.random);
        if let Some(latency) = latency {
            let answer = KeeperEvent::Message(Message::Answered(asker.question, term));
            self.after(latency, Event::Keeper(asker.keeper, asker.run, answer));
        }
    }

    /// Without the guard whatever is no pledge passes for one.
    fn as_silence_is_taken(&self) -> Option<Duration> {
        let spec = self.scenario.spec.cluster_spec().effective();
        spec.pledge_term().filter(|_| self.lacks(Guard::Pledge))
    }

    /// A proxy asks a keeper.
    pub(crate) fn ask_voucher(&mut self, proxy: u8, address: &str, limit: Duration) {
        let Some(run) = self.run_of(Program::Proxy(proxy)) else { return };
        let question = self.proxies[usize::from(proxy)].questions.open(InstanceUid::default());
        let limit = self.host(Program::Proxy(proxy)).span(limit);
        self.after(limit, Event::Proxy(proxy, run, ProxyEvent::Vouched(question, None)));
        let from = self.host_of(Program::Proxy(proxy));
        let lookup = self.lookup(from);
        if let Some((there, lookup)) = self.keeper_asked_at(address).zip(lookup) {
            self.send_message(from, lookup, there, Message::VoucherAsked { proxy, run, question });
        }
    }

    fn vouch(&mut self, keeper: u8, proxy: u8, run: u32, question: u64) {
        let now = self.local(Program::Keeper(keeper));
        let voucher = self.keeper(keeper).picture().and_then(|picture| picture.voucher(now));
        let voucher = voucher.map(|voucher| match self.lacks(Guard::VoucherEnds) {
            // As if it had been asked for much later.
            true => Voucher { remaining: Duration::from_secs(30).into(), ..voucher },
            false => voucher,
        });
        let to = self.host_of(Program::Proxy(proxy));
        if let Some(latency) = self.network.latency(HostId(keeper), to, &mut self.random) {
            self.after(latency, Event::Proxy(proxy, run, ProxyEvent::Vouched(question, voucher)));
        }
    }

    /// A proxy hears of a voucher, or has waited long enough.
    pub(crate) fn vouched(&mut self, proxy: u8, question: u64, voucher: Option<Voucher>) {
        if self.proxies[usize::from(proxy)].questions.open.remove(&question).is_some() {
            if voucher.is_some() {
                self.coverage.reached(Point::Vouched);
            }
            self.tell_proxy(proxy, ProxyMachineEvent::Vouched(voucher));
        }
    }
}
