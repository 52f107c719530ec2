//! Clients: they write, read, and remember what they were promised.

use std::time::Duration;

use crate::coverage::Point;
use crate::host::HostId;
use crate::postgres::{Disk, Phase, Position, Waiting};
use crate::random::Random;
use crate::scenario::{Program, Scenario};
use crate::world::{Event, Life, World};

/// A client waits so long for an answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// How a client comes to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through any proxy.
    Proxies,
    /// Straight to any server.
    Direct,
}

/// A connection to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// Tells it from the ones before.
    pub(crate) number: u32,
    pub(crate) keeper: u8,
    incarnation: u32,
    /// The proxy that it leads through, with its run and the opening that it came in by.
    pub(crate) proxy: Option<(u8, u32, u32)>,
}

/// What a client wants to know the outcome of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) client: u8,
    session: u32,
    pub(crate) operation: u32,
    what: Operation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// A transaction that writes so many bytes of WAL.
    Write(u64),
    Read,
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Committed, here.
    Committed(Position),
    /// A read that saw everything up to here.
    Seen(Position),
    /// Committed, perhaps only here: the wait for standbys was cancelled.
    Warned,
    /// Refused, for certain.
    Refused,
}

/// Something in the life of a client.
#[derive(Clone, Debug)]
pub(crate) enum ClientEvent {
    /// It does what comes next.
    Next,
    /// An answer arrives.
    Answered(Ticket, Answer),
    /// Its connection is gone.
    Cut(u32),
    /// It has waited long enough.
    GivesUp(u32),
}

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    way: Way,
    pause: Duration,
    pub(crate) session: Option<Session>,
    sessions: u32,
    operation: u32,
    waits: bool,
    /// What anybody was told through a proxy when the read that is under way began.
    read_began: Vec<Position>,
    random: Random,
}

impl Client {
    /// The clients of a scenario.
    pub(crate) fn all(scenario: &Scenario, random: &mut Random) -> Vec<Client> {
        let of = |way: Way, random: &mut Random| Client {
            way,
            pause: random.millis(30, 900),
            session: None,
            sessions: 0,
            operation: 0,
            waits: false,
            read_began: Vec::new(),
            random: random.split(),
        };
        let mut clients: Vec<Client> = (0..scenario.clients).map(|_| of(Way::Proxies, random)).collect();
        clients.extend((0..scenario.direct_clients).map(|_| of(Way::Direct, random)));
        clients
    }
}

impl World {
    fn client(&mut self, client: u8) -> &mut Client {
        &mut self.clients[usize::from(client)]
    }

    pub(crate) fn client_event(&mut self, client: u8, event: ClientEvent) {
        match event {
            ClientEvent::Next => self.client_goes_on(client),
            ClientEvent::Answered(ticket, answer) => self.client_hears(client, ticket, answer),
            ClientEvent::Cut(session) => {
                let it = self.client(client);
                if it.session.is_some_and(|open| open.number == session) {
                    it.session = None;
                    self.client_knows_nothing(client);
                }
            }
            ClientEvent::GivesUp(operation) => {
                let it = self.client(client);
                if it.waits && it.operation == operation {
                    it.session = None;
                    self.client_knows_nothing(client);
                }
            }
        }
    }

    /// The outcome of what was under way stays unknown; go on.
    fn client_knows_nothing(&mut self, client: u8) {
        let it = self.client(client);
        if std::mem::take(&mut it.waits) {
            it.operation += 1;
            let pause = it.random.millis(20, 200);
            self.coverage.reached(Point::UnknownOutcome);
            self.after(pause, Event::Client(client, ClientEvent::Next));
        }
    }

    fn client_goes_on(&mut self, client: u8) {
        if self.client(client).waits {
            return;
        }
        if self.client(client).session.is_none() && !self.connect_client(client) {
            let pause = self.client(client).random.millis(100, 600);
            return self.after(pause, Event::Client(client, ClientEvent::Next));
        }
        let began = self.ledger.told_through_proxies();
        let it = self.client(client);
        let Some(session) = it.session else { return };
        it.operation += 1;
        it.waits = true;
        let what = match it.random.below(100) {
            0..=24 => {
                it.read_began = began;
                Operation::Read
            }
            25 => Operation::Write(it.random.between(1, 4) << 20),
            _ => Operation::Write(it.random.between(100, 3_000)),
        };
        let ticket = Ticket { client, session: session.number, operation: it.operation, what };
        let gives_up = ClientEvent::GivesUp(ticket.operation);
        self.after(PATIENCE, Event::Client(client, gives_up));
        self.send_to_server(session, ticket);
    }

    /// A load of its own, beside what the client does otherwise.
    pub(crate) fn client_writes(&mut self, client: u8, bytes: u64) {
        let it = self.client(client);
        let Some(session) = it.session else { return };
        let ticket =
            Ticket { client, session: session.number, operation: u32::MAX, what: Operation::Write(bytes) };
        self.send_to_server(session, ticket);
    }

    fn send_to_server(&mut self, session: Session, ticket: Ticket) {
        let from = self.client_host();
        let (to, event) = match session.proxy {
            Some((proxy, ..)) => (self.host_of(Program::Proxy(proxy)), Event::Forward(proxy, ticket)),
            None => (HostId(session.keeper), Event::Execute(session.keeper, ticket)),
        };
        if let Some(latency) = self.network.latency(from, to, &mut self.random) {
            self.after(latency, event);
        }
    }

    /// False when nobody lets the client in now.
    fn connect_client(&mut self, client: u8) -> bool {
        let it = &mut self.clients[usize::from(client)];
        let (keeper, proxy) = match it.way {
            Way::Direct => (it.random.below(self.scenario.keepers.into()) as u8, None),
            Way::Proxies => {
                let proxy = it.random.below(self.scenario.proxies.into()) as u8;
                let Some((keeper, opening)) = self.way_through(proxy) else { return false };
                let Some(run) = self.run_of(Program::Proxy(proxy)) else { return false };
                (keeper, Some((proxy, run, opening)))
            }
        };
        let locked = |world: &World| {
            let server = world.postgres[usize::from(keeper)].server.as_ref();
            server.is_none_or(|server| server.locked)
        };
        let from = match proxy {
            Some((proxy, ..)) => self.host_of(Program::Proxy(proxy)),
            None => self.client_host(),
        };
        let reaches =
            self.network.is_open(from, HostId(keeper)) && self.network.is_open(HostId(keeper), from);
        if !reaches || !self.accepts_connections(keeper) || locked(self) {
            return false;
        }
        let incarnation = self.postgres[usize::from(keeper)].incarnation;
        let it = self.client(client);
        it.sessions += 1;
        it.session = Some(Session { number: it.sessions, keeper, incarnation, proxy });
        true
    }

    /// Where a proxy lets somebody in to, and by which opening.
    fn way_through(&self, proxy: u8) -> Option<(u8, u32)> {
        let process = self.processes.get(&Program::Proxy(proxy))?;
        let (here, clients) = (process.host, self.client_host());
        let frozen = self.hosts[usize::from(here.0)].frozen_until.is_some();
        let reaches = self.network.is_open(clients, here) && self.network.is_open(here, clients);
        if process.life != Life::Running || frozen || !reaches {
            return None;
        }
        self.proxy_destination(proxy)
    }

    /// The session that a packet belongs to, if it is still open.
    fn session_of(&self, ticket: Ticket) -> Option<Session> {
        self.clients[usize::from(ticket.client)].session.filter(|session| session.number == ticket.session)
    }

    pub(crate) fn forward(&mut self, proxy: u8, ticket: Ticket) {
        let Some(session) = self.session_of(ticket) else { return };
        if !self.proxy_forwards(proxy, session) {
            return;
        }
        let from = self.host_of(Program::Proxy(proxy));
        if let Some(latency) = self.network.latency(from, HostId(session.keeper), &mut self.random) {
            self.after(latency, Event::Execute(session.keeper, ticket));
        }
    }

    /// True while this opening of the proxy counts.
    fn proxy_forwards(&mut self, proxy: u8, session: Session) -> bool {
        let Some((_, run, opening)) = session.proxy else { return false };
        self.run_of(Program::Proxy(proxy)) == Some(run)
            && self.proxy_destination(proxy) == Some((session.keeper, opening))
    }

    /// A server gets a statement.
    pub(crate) fn execute(&mut self, keeper: u8, ticket: Ticket) {
        let Some(session) = self.session_of(ticket).filter(|session| session.keeper == keeper) else {
            return;
        };
        let postgres = &mut self.postgres[usize::from(keeper)];
        if postgres.incarnation != session.incarnation {
            return;
        }
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        if server.phase != Phase::Up {
            return;
        }
        match ticket.what {
            Operation::Read => {
                let waiting = server.waiting.front().map(|waiting| waiting.begins);
                let visible = waiting.unwrap_or(data.flushed);
                let certain = data.doubtful.map_or(visible, |lsn| visible.min(lsn));
                let seen = Position { branch: data.written.branch, lsn: certain };
                let seen = self.histories.without_end_of_recovery(seen);
                if server.in_recovery {
                    // A standby shows what its primary has not acknowledged yet: that promises nothing.
                    return self.answer(keeper, ticket, Answer::Warned);
                }
                if session.proxy.is_some() {
                    let began = self.clients[usize::from(ticket.client)].read_began.clone();
                    self.check_read(keeper, &began);
                }
                self.answer(keeper, ticket, Answer::Seen(seen));
            }
            Operation::Write(_) if server.in_recovery => {
                self.answer(keeper, ticket, Answer::Refused);
            }
            Operation::Write(bytes) => {
                if matches!(postgres.troubles.disk, Disk::Full | Disk::ReadOnly) {
                    return self.crash_server(keeper, "PANIC: cannot write WAL");
                }
                let begins = data.written.lsn;
                data.written.lsn.0 += bytes;
                let lsn = data.written.lsn;
                server.waiting.push_back(Waiting { begins, lsn, ticket });
                self.flush(keeper);
            }
        }
    }

    /// A commit may be acknowledged: say so.
    pub(crate) fn acknowledge(&mut self, keeper: u8, waiting: Waiting) {
        let Some(branch) = self.postgres[usize::from(keeper)].data.as_ref().map(|data| data.written.branch)
        else {
            return;
        };
        let position = Position { branch, lsn: waiting.lsn };
        if self.session_of(waiting.ticket).is_some() {
            self.acknowledged_by(keeper, position);
        }
        self.answer(keeper, waiting.ticket, Answer::Committed(position));
    }

    /// The waits of a server are cancelled: its clients are told of success, with a warning.
    pub(crate) fn cancel_waits(&mut self, keeper: u8) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        if server.waits_for.is_empty() {
            return;
        }
        let flushed = data.flushed;
        let cancelled: Vec<Waiting> =
            server.waiting.iter().copied().filter(|waiting| waiting.lsn <= flushed).collect();
        server.waiting.retain(|waiting| waiting.lsn > flushed);
        let Some(first) = cancelled.first() else { return };
        data.doubtful = Some(data.doubtful.map_or(first.begins, |doubtful| doubtful.min(first.begins)));
        self.coverage.reached(Point::WaitCancelled);
        for waiting in cancelled {
            self.answer(keeper, waiting.ticket, Answer::Warned);
        }
    }

    fn answer(&mut self, keeper: u8, ticket: Ticket, answer: Answer) {
        let Some(session) = self.session_of(ticket) else { return };
        let (to, event) = match session.proxy {
            Some((proxy, ..)) => (self.host_of(Program::Proxy(proxy)), Event::Back(proxy, ticket, answer)),
            None => (self.client_host(), Event::Client(ticket.client, ClientEvent::Answered(ticket, answer))),
        };
        if let Some(latency) = self.network.latency(HostId(keeper), to, &mut self.random) {
            self.after(latency, event);
        }
    }

    pub(crate) fn pass_back(&mut self, proxy: u8, ticket: Ticket, answer: Answer) {
        let Some(session) = self.session_of(ticket) else { return };
        if !self.proxy_forwards(proxy, session) {
            return;
        }
        if let Answer::Committed(position) = answer {
            self.passed_through(proxy, position);
        }
        let (from, to) = (self.host_of(Program::Proxy(proxy)), self.client_host());
        if let Some(latency) = self.network.latency(from, to, &mut self.random) {
            self.after(latency, Event::Client(ticket.client, ClientEvent::Answered(ticket, answer)));
        }
    }

    fn client_hears(&mut self, client: u8, ticket: Ticket, answer: Answer) {
        let Some(session) = self.session_of(ticket) else { return };
        if let (Some(_), Answer::Committed(position) | Answer::Seen(position)) = (session.proxy, answer) {
            self.ledger.tell_through_proxy(position);
        }
        match answer {
            Answer::Committed(position) => self.promised(position),
            Answer::Seen(position) => self.seen(position),
            Answer::Warned | Answer::Refused => {}
        }
        if ticket.operation == u32::MAX {
            return;
        }
        let it = self.client(client);
        if ticket.operation != it.operation || !std::mem::take(&mut it.waits) {
            return;
        }
        // A standby serves nobody who wants to write, and people come and go.
        if answer == Answer::Refused || it.random.chance(3) {
            it.session = None;
        }
        let pause = it.pause / 2 + it.random.span(Duration::ZERO, it.pause);
        self.after(pause, Event::Client(client, ClientEvent::Next));
    }

    /// Every session with a server ends; its clients notice.
    pub(crate) fn end_sessions_of_server(&mut self, keeper: u8) {
        self.end_sessions(|session| session.keeper == keeper);
    }

    /// Every session through a proxy ends.
    pub(crate) fn end_sessions_of_proxy(&mut self, proxy: u8) {
        self.end_sessions(|session| session.proxy.is_some_and(|(through, ..)| through == proxy));
    }

    fn end_sessions(&mut self, concerned: impl Fn(Session) -> bool) {
        let from = self.client_host();
        for client in 0..self.clients.len() as u8 {
            let Some(session) = self.client(client).session.filter(|session| concerned(*session)) else {
                continue;
            };
            // A host that cannot say goodbye is noticed late: the client's own patience ends it.
            if let Some(latency) = self.network.latency(HostId(session.keeper), from, &mut self.random) {
                self.after(latency, Event::Client(client, ClientEvent::Cut(session.number)));
            }
        }
    }

    /// Statements of clients are not taken any more: sessions end, what waits stays unknown.
    pub(crate) fn terminate_clients(&mut self, keeper: u8) -> u64 {
        let open = self
            .clients
            .iter()
            .filter(|client| client.session.is_some_and(|session| session.keeper == keeper))
            .count();
        let Some(server) = &mut self.postgres[usize::from(keeper)].server else { return 0 };
        if let Some(first) = server.waiting.front().map(|waiting| waiting.begins)
            && let Some(data) = &mut self.postgres[usize::from(keeper)].data
        {
            data.doubtful = Some(data.doubtful.map_or(first, |doubtful| doubtful.min(first)));
        }
        if let Some(server) = &mut self.postgres[usize::from(keeper)].server {
            server.waiting.clear();
        }
        for client in 0..self.clients.len() as u8 {
            let it = self.client(client);
            if it.session.is_some_and(|session| session.keeper == keeper) {
                it.session = None;
                self.client_knows_nothing(client);
            }
        }
        open as u64
    }
}
