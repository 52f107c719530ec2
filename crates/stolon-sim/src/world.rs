//! The loop: virtual time, the queue of what is going to happen, and who is told.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use stolon_core::keeper::ClusterRead;

use crate::client::{Client, Ticket};
use crate::coverage::{Coverage, Point};
use crate::feed::Copy;
use crate::host::{Host, HostId, Network};
use crate::invariants::{Ledger, Violation};
use crate::keeper::{Keeper, KeeperEvent};
use crate::postgres::{Happening, Histories, Postgres};
use crate::proxy::{Proxy, ProxyEvent};
use crate::random::Random;
use crate::restored::Snapshot;
use crate::scenario::{Placement, Program, Scenario, What};
use crate::sentinel::{Sentinel, SentinelEvent};
use crate::store::{Changed, Everything, Reply, Request, Store};
use crate::trace::{Log, Trace};
use crate::{Outcome, Time};

/// How long a program waits for the store.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between attempts of a watch to get through.
const WATCH_RETRY: Duration = Duration::from_secs(1);
/// A run that takes more events than this for each second is going round in circles.
const EVENTS_PER_SECOND: u64 = 20_000;

/// Something that is going to happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A request arrives at the store.
    Store(Box<Asked>),
    /// A lease in the store may end.
    LeaseEnds,
    /// Something for a keeper.
    Keeper(u8, u32, KeeperEvent),
    /// Something for a sentinel.
    Sentinel(u8, u32, SentinelEvent),
    /// Something for a proxy.
    Proxy(u8, u32, ProxyEvent),
    /// A watch tells a program what has changed; none: it was cut meanwhile.
    Watch(Program, u32, Option<Rc<Everything>>),
    /// A packet of a client reaches its proxy.
    Forward(u8, Ticket),
    /// A packet of a client reaches a server.
    Execute(u8, Ticket),
    /// The answer of a server reaches the proxy that it came through.
    Back(u8, Ticket, crate::client::Answer),
    /// Something for a client.
    Client(u8, crate::client::ClientEvent),
    /// Something for the PostgreSQL of a keeper, of one incarnation.
    Postgres(u8, u32, Happening),
    /// A fault begins.
    FaultBegins(usize),
    /// A fault ends.
    FaultEnds(usize),
    /// A program is started again.
    ProgramStarts(Program),
    /// A host is looked at: what it was frozen for may go on.
    Thaws(HostId),
    /// Is the cluster whole?
    Inspect,
    /// Is there something that only a person may decide?
    OperatorLooks,
}

/// A request on its way to the store.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    from: Program,
    run: u32,
    sent: Time,
    /// How long the program waits for the answer.
    limit: Duration,
    /// When it was sent by the clock of the program.
    asked: Duration,
    token: u32,
    request: Request,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    /// Which request.
    pub(crate) token: u32,
    /// When it was sent by the clock of the program.
    pub(crate) asked: Duration,
    pub(crate) reply: Reply,
}

/// Whether a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Running,
    /// It got `SIGSTOP`.
    Stopped,
    Dead,
}

/// A process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) host: HostId,
    pub(crate) life: Life,
    /// Counts its starts.
    pub(crate) run: u32,
    /// A watch is on its way.
    pub(crate) watch_pending: bool,
    /// More has changed since that was sent.
    more_to_tell: bool,
    /// What it knows of the store.
    pub(crate) copy: Copy,
}

/// What is wrong with the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreTroubles {
    pub(crate) down: u8,
    pub(crate) slow: Duration,
    pub(crate) lost_replies: u8,
    pub(crate) late_watches: Duration,
}

struct Queued {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A cluster and everything around it.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: Time,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    pub(crate) random: Random,
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Network,
    pub(crate) processes: BTreeMap<Program, Process>,
    /// What happened to those that stand still, until they go on.
    held: BTreeMap<HostId, Vec<Event>>,
    held_by: BTreeMap<Program, Vec<Event>>,
    pub(crate) store: Store,
    pub(crate) store_troubles: StoreTroubles,
    lease_ends: Option<Time>,
    /// What keepers make of the document of this revision.
    pub(crate) understood: Option<(u64, ClusterRead)>,
    /// Of hosts that will be set back.
    pub(crate) snapshots: BTreeMap<u8, Snapshot>,
    pub(crate) histories: Histories,
    pub(crate) postgres: Vec<Postgres>,
    pub(crate) keepers: Vec<Keeper>,
    pub(crate) sentinels: Vec<Sentinel>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) clients: Vec<Client>,
    pub(crate) ledger: Ledger,
    pub(crate) coverage: Coverage,
    pub(crate) violation: Option<Violation>,
    pub(crate) log: Log,
    digest: u64,
    events: u64,
    pub(crate) sabotage: Option<crate::Guard>,
    /// The last challenge of a keeper.
    pub(crate) challenged: Option<crate::evidence::Challenged>,
    pub(crate) whole: Option<crate::convergence::Whole>,
    pub(crate) operator: crate::settle::Operator,
    pub(crate) over: bool,
}

impl World {
    /// The moment before everything is switched on.
    pub(crate) fn new(scenario: Scenario, trace: Trace) -> World {
        let mut random = Random::new(scenario.seed);
        let (keepers, sentinels, proxies) = (scenario.keepers, scenario.sentinels, scenario.proxies);
        // Keepers first, then sentinels, proxies, the store, the clients.
        let hosts = usize::from(keepers) + usize::from(sentinels) + usize::from(proxies) + 2;
        let mut processes = BTreeMap::new();
        let mut add = |program: Program, host: u8| {
            processes.insert(program, Process::on(HostId(host)));
        };
        (0..keepers).for_each(|keeper| add(Program::Keeper(keeper), keeper));
        for sentinel in 0..sentinels {
            let together = scenario.placement == Placement::WithKeepers && sentinel < keepers;
            add(Program::Sentinel(sentinel), if together { sentinel } else { keepers + sentinel });
        }
        (0..proxies).for_each(|proxy| add(Program::Proxy(proxy), keepers + sentinels + proxy));
        World {
            now: Time::ZERO,
            queue: BinaryHeap::new(),
            order: 0,
            hosts: (0..hosts).map(|_| Host::new(&mut random)).collect(),
            network: Network::new(hosts),
            processes,
            held: BTreeMap::new(),
            held_by: BTreeMap::new(),
            store: Store::default(),
            store_troubles: StoreTroubles::default(),
            lease_ends: None,
            understood: None,
            snapshots: BTreeMap::new(),
            histories: Histories::default(),
            postgres: vec![Postgres::default(); keepers.into()],
            keepers: (0..keepers).map(|keeper| Keeper::new(keeper, random.split())).collect(),
            sentinels: (0..sentinels).map(|it| Sentinel::new(it, &scenario, random.split())).collect(),
            proxies: (0..proxies).map(|it| Proxy::new(it, random.split())).collect(),
            clients: Client::all(&scenario, &mut random),
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            violation: None,
            log: Log::new(trace),
            digest: 0xcbf2_9ce4_8422_2325,
            events: 0,
            sabotage: None,
            challenged: None,
            whole: None,
            operator: crate::settle::Operator::default(),
            over: false,
            random,
            scenario,
        }
    }

    /// From the start to the first violation, or to the end.
    pub(crate) fn run(mut self) -> Outcome {
        self.begin();
        while let Some(Reverse(next)) = self.queue.pop() {
            self.now = next.at;
            self.events += 1;
            self.digest(next.at.as_micros() as u64);
            self.handle(next.event);
            if self.events > EVENTS_PER_SECOND * (next.at.as_secs() + 10) {
                self.violate(crate::Invariant::I18Quiescence, || {
                    "more events than any cluster needs".to_owned()
                });
            }
            if self.violation.is_some() || self.over {
                break;
            }
        }
        Outcome {
            violation: self.violation,
            coverage: self.coverage,
            digest: self.digest,
            events: self.events,
            lasted: self.now,
            trace: self.log.into_lines(),
        }
    }

    /// Fold something that happened into what stands for the whole run (FNV-1a).
    pub(crate) fn digest(&mut self, value: u64) {
        self.digest = (self.digest ^ value).wrapping_mul(0x0100_0000_01b3);
    }

    fn begin(&mut self) {
        let joins = |program: &Program| {
            let mut faults = self.scenario.faults.iter();
            faults.any(|fault| matches!(fault.what, What::Joins(it) if Program::Keeper(it) == *program))
        };
        let programs: Vec<Program> =
            self.processes.keys().filter(|program| !joins(program)).copied().collect();
        for program in programs {
            let delay = self.random.millis(0, 2_000);
            self.after(delay, Event::ProgramStarts(program));
        }
        for client in 0..self.clients.len() as u8 {
            let delay = self.random.millis(2_000, 6_000);
            self.after(delay, Event::Client(client, crate::client::ClientEvent::Next));
        }
        for index in 0..self.scenario.faults.len() {
            let at = Duration::from_millis(self.scenario.faults[index].at);
            self.after(at, Event::FaultBegins(index));
        }
        let quiet = Duration::from_millis(self.scenario.quiet_at);
        self.after(quiet, Event::Inspect);
    }

    /// Let something happen later.
    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Let something happen at a moment.
    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at, order: self.order, event }));
    }

    fn handle(&mut self, event: Event) {
        let Some(event) = self.unless_held(event) else { return };
        match event {
            Event::Store(asked) => self.at_store(*asked),
            Event::LeaseEnds => self.end_leases(),
            Event::Keeper(keeper, run, event) => {
                if self.is_run(Program::Keeper(keeper), run) {
                    self.keeper_event(keeper, event);
                }
            }
            Event::Sentinel(sentinel, run, event) => {
                if self.is_run(Program::Sentinel(sentinel), run) {
                    self.sentinel_event(sentinel, event);
                }
            }
            Event::Proxy(proxy, run, event) => {
                if self.is_run(Program::Proxy(proxy), run) {
                    self.proxy_event(proxy, event);
                }
            }
            Event::Watch(program, run, news) => self.watch_arrives(program, run, news),
            Event::Forward(proxy, ticket) => self.forward(proxy, ticket),
            Event::Execute(keeper, ticket) => self.execute(keeper, ticket),
            Event::Back(proxy, ticket, answer) => self.pass_back(proxy, ticket, answer),
            Event::Client(client, event) => self.client_event(client, event),
            Event::Postgres(keeper, incarnation, happening) => {
                if self.postgres[usize::from(keeper)].incarnation == incarnation {
                    self.postgres_event(keeper, happening);
                }
            }
            Event::FaultBegins(index) => self.fault_begins(index),
            Event::FaultEnds(index) => self.fault_ends(index),
            Event::ProgramStarts(program) => self.start_program(program),
            Event::Thaws(host) => self.thaw(host),
            Event::Inspect => self.inspect(),
            Event::OperatorLooks => self.operator_looks(),
        }
    }

    /// What concerns somebody who stands still happens when he goes on.
    fn unless_held(&mut self, event: Event) -> Option<Event> {
        let (host, program) = match &event {
            Event::Keeper(it, ..) => (None, Some(Program::Keeper(*it))),
            Event::Sentinel(it, ..) => (None, Some(Program::Sentinel(*it))),
            Event::Proxy(it, ..) | Event::Forward(it, ..) | Event::Back(it, ..) => {
                (None, Some(Program::Proxy(*it)))
            }
            Event::Watch(program, ..) | Event::ProgramStarts(program) => (None, Some(*program)),
            Event::Postgres(keeper, ..) | Event::Execute(keeper, _) => (Some(HostId(*keeper)), None),
            _ => (None, None),
        };
        let host = host.or_else(|| Some(self.processes.get(&program?)?.host));
        if let Some(host) = host
            && self.hosts[usize::from(host.0)].frozen_until.is_some()
        {
            self.held.entry(host).or_default().push(event);
            return None;
        }
        if let Some(program) = program
            && self.processes.get(&program).is_some_and(|process| process.life == Life::Stopped)
        {
            self.held_by.entry(program).or_default().push(event);
            return None;
        }
        Some(event)
    }

    /// A program goes on after `SIGCONT`.
    pub(crate) fn release_program(&mut self, program: Program) {
        for event in self.held_by.remove(&program).unwrap_or_default() {
            self.after(Duration::ZERO, event);
        }
    }

    fn thaw(&mut self, host: HostId) {
        let frozen = &mut self.hosts[usize::from(host.0)].frozen_until;
        if frozen.is_none_or(|until| until > self.now) {
            return;
        }
        *frozen = None;
        for event in self.held.remove(&host).unwrap_or_default() {
            self.after(Duration::ZERO, event);
        }
    }

    /// True while this run of a program lives.
    pub(crate) fn is_run(&self, program: Program, run: u32) -> bool {
        self.processes.get(&program).is_some_and(|process| process.run == run && process.life != Life::Dead)
    }

    /// The current run of a program that lives.
    pub(crate) fn run_of(&self, program: Program) -> Option<u32> {
        let process = self.processes.get(&program)?;
        (process.life != Life::Dead).then_some(process.run)
    }

    /// Where a program runs.
    pub(crate) fn host_of(&self, program: Program) -> HostId {
        self.processes.get(&program).map_or(HostId(0), |process| process.host)
    }

    pub(crate) fn host(&self, program: Program) -> &Host {
        &self.hosts[usize::from(self.host_of(program).0)]
    }

    /// Where the store runs.
    pub(crate) fn store_host(&self) -> HostId {
        HostId(self.network.hosts() as u8 - 2)
    }

    /// What the store's own clock shows: its leases and its past go by it.
    pub(crate) fn store_time(&self) -> Time {
        self.hosts[usize::from(self.store_host().0)].local(self.now)
    }

    /// Where clients run.
    pub(crate) fn client_host(&self) -> HostId {
        HostId(self.network.hosts() as u8 - 1)
    }

    /// What the monotonic clock of a program shows.
    pub(crate) fn local(&self, program: Program) -> Duration {
        self.host(program).local(self.now)
    }

    /// A program begins.
    fn start_program(&mut self, program: Program) {
        let host = self.host_of(program);
        let is_on = self.hosts[usize::from(host.0)].power == crate::host::Power::On;
        let Some(process) = self.processes.get_mut(&program) else { return };
        if process.life != Life::Dead || !is_on {
            return;
        }
        process.life = Life::Running;
        process.run += 1;
        (process.watch_pending, process.more_to_tell) = (false, false);
        process.copy = Copy::default();
        let run = process.run;
        match program {
            Program::Keeper(it) => self.start_keeper(it, run),
            Program::Sentinel(it) => self.start_sentinel(it, run),
            Program::Proxy(it) => self.start_proxy(it),
        }
    }

    /// A program ends without a word.
    pub(crate) fn kill_program(&mut self, program: Program) {
        self.held_by.remove(&program);
        let Some(process) = self.processes.get_mut(&program) else { return };
        if process.life == Life::Dead {
            return;
        }
        process.life = Life::Dead;
        if let Program::Proxy(proxy) = program {
            self.end_sessions_of_proxy(proxy);
        }
    }

    /// Ask the store. Exactly one answer comes back, if the program lives to hear it.
    pub(crate) fn ask(&mut self, from: Program, token: u32, request: Request) {
        self.ask_within(from, token, STORE_TIMEOUT, request);
    }

    /// The same, where the program waits no longer than `limit`, by its own clock.
    pub(crate) fn ask_within(&mut self, from: Program, token: u32, limit: Duration, request: Request) {
        let Some(run) = self.run_of(from) else { return };
        let limit = self.host(from).span(limit).min(STORE_TIMEOUT);
        let (host, store) = (self.host_of(from), self.store_host());
        let latency = self.network.latency(host, store, &mut self.random);
        let (sent, asked) = (self.now, self.local(from));
        let asked = Asked { from, run, sent, limit, asked, token, request };
        match latency {
            Some(latency) => self.after(latency, Event::Store(Box::new(asked))),
            None => self.no_answer(&asked),
        }
    }

    fn no_answer(&mut self, asked: &Asked) {
        let at = (asked.sent + asked.limit).max(self.now);
        self.at(at, asked.answer(Reply::NoAnswer));
    }

    pub(crate) fn reply_event(from: Program, run: u32, answered: Answered) -> Event {
        match from {
            Program::Keeper(it) => Event::Keeper(it, run, KeeperEvent::Reply(answered)),
            Program::Sentinel(it) => Event::Sentinel(it, run, SentinelEvent::Reply(answered)),
            Program::Proxy(it) => Event::Proxy(it, run, ProxyEvent::Reply(answered)),
        }
    }

    fn at_store(&mut self, mut asked: Asked) {
        if self.store_troubles.down > 0 {
            return self.no_answer(&asked);
        }
        self.end_leases();
        let from = asked.from;
        let request = std::mem::replace(&mut asked.request, Request::Read);
        let is_write = matches!(request, Request::CompareAndPut { .. });
        self.before_write(&request);
        let (reply, changed) = self.store.apply(self.store_time(), request);
        self.after_write(from, &reply, changed);
        self.notify(changed);
        self.arm_leases();
        let lost = self.store_troubles.lost_replies;
        let lost = lost > 0 && self.random.chance(lost.into());
        let back = self.network.latency(self.store_host(), self.host_of(from), &mut self.random);
        match back.filter(|_| !lost) {
            Some(latency) => {
                let work = self.random.span(Duration::from_micros(300), Duration::from_millis(3))
                    + self.store_troubles.slow;
                let at = self.now + latency + work;
                match at < asked.sent + asked.limit {
                    true => self.at(at, asked.answer(reply)),
                    false => self.no_answer(&asked),
                }
            }
            None => {
                if is_write && matches!(reply, Reply::Written) {
                    self.coverage.reached(Point::UnknownWrite);
                }
                self.no_answer(&asked);
            }
        }
    }

    fn end_leases(&mut self) {
        let changed = self.store.end_leases(self.store_time());
        self.notify(changed);
        self.arm_leases();
    }

    /// Look at the leases again when the first of them ends. One that is renewed costs no event.
    fn arm_leases(&mut self) {
        let Some(first) = self.store.first_lease_ends() else { return };
        if self.lease_ends.is_none_or(|armed| armed <= self.now) {
            let at = self.hosts[usize::from(self.store_host().0)].when(first, self.now);
            self.lease_ends = Some(at);
            self.at(at, Event::LeaseEnds);
        }
    }

    /// Everybody who watches is told, sooner or later, at least once.
    pub(crate) fn notify(&mut self, changed: Changed) {
        if matches!(changed, Changed::Nothing | Changed::Positions) {
            return;
        }
        let store = self.store_host();
        let late = self.store_troubles.late_watches;
        let mut due = Vec::new();
        for (program, process) in &mut self.processes {
            let watches = changed == Changed::Document || matches!(program, Program::Sentinel(_));
            if process.life == Life::Dead || !watches {
                continue;
            }
            if process.watch_pending {
                process.more_to_tell = true;
                continue;
            }
            let latency = self.network.latency(store, process.host, &mut self.random).unwrap_or(WATCH_RETRY);
            let work = self.random.span(Duration::from_micros(200), Duration::from_millis(2))
                + self.random.span(Duration::ZERO, late);
            due.push((latency + work, *program));
        }
        for (delay, program) in due {
            self.watch_tells(program, delay);
        }
    }

    fn watch_arrives(&mut self, program: Program, run: u32, news: Option<Rc<Everything>>) {
        if !self.is_run(program, run) {
            return;
        }
        let reaches = self.network.is_open(self.store_host(), self.host_of(program))
            && self.network.is_open(self.host_of(program), self.store_host())
            && self.store_troubles.down == 0;
        if !reaches {
            return self.after(WATCH_RETRY, Event::Watch(program, run, None));
        }
        self.watch_told(program, news.as_ref());
        let Some(process) = self.processes.get_mut(&program) else { return };
        process.watch_pending = false;
        if std::mem::take(&mut process.more_to_tell) && news.is_some() {
            let delay = self.random.millis(1, 3);
            self.watch_tells(program, delay);
        }
        if !self.store_troubles.late_watches.is_zero() && self.random.chance(10) {
            let delay = self.random.millis(1, 300);
            self.after(delay, Event::Watch(program, run, news));
        }
        match program {
            Program::Keeper(it) => self.keeper_event(it, KeeperEvent::ClusterChanged),
            Program::Sentinel(it) => self.sentinel_event(it, SentinelEvent::Woken),
            Program::Proxy(it) => self.proxy_event(it, ProxyEvent::Woken),
        }
    }
}

impl Process {
    fn on(host: HostId) -> Process {
        let copy = Copy::default();
        Process { host, life: Life::Dead, run: 0, watch_pending: false, more_to_tell: false, copy }
    }
}

impl Asked {
    fn answer(&self, reply: Reply) -> Event {
        World::reply_event(self.from, self.run, Answered { token: self.token, asked: self.asked, reply })
    }
}
