//! The loop: events go to the machine, and its effects are carried out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use stolon_core::proxy::{
    Check, Claim, ClosedBecause, Effect, Event, Machine, Measurement, Notice, OnSilence, Policy,
};
use stolon_model::{Advise as _, Document as _, GoDuration, InfoUid, ProxyReport, ProxyUid, Voucher};
use stolon_runtime::{Asker, BootInstant, Readiness, Shutdown, new_uid8};
use stolon_store::{ClusterStore, DocumentRead, WatchScope};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::client_address::ClientAddress;
use crate::destination::{Destination, enforce_deadlines};
use crate::guests::Guests;
use crate::listener::{Listener, Reception};
use crate::metrics::Metrics;
use crate::resolve::resolve;
use crate::sentences::{self, Trouble};
use crate::socket::SocketOptions;

/// The options of the proxy, checked.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// Address or name to listen on.
    pub listen_address: String,
    /// Number or name of a service.
    pub port: String,
    /// What is done about the listening socket when everything is closed because the store was silent.
    pub on_silence: OnSilence,
    /// For the connections of clients.
    pub client_socket: SocketOptions,
    /// For the connections to the primary.
    pub server_socket: SocketOptions,
    /// Most connections of one client address.
    pub connections_per_client: Option<u32>,
    /// What the server is told of a client's address.
    pub client_address: ClientAddress,
    /// Asks keepers.
    pub asker: Asker,
    /// How long connecting to the primary may take.
    pub connect_timeout: Duration,
    /// How long open connections may go on after SIGTERM.
    pub drain_timeout: Duration,
}

/// File descriptors that connections never take: store, metrics, listener, name lookups.
const RESERVED_FILES: u64 = 64;

/// A running proxy.
pub struct Proxy {
    machine: Machine,
    uid: ProxyUid,
    store: Arc<dyn ClusterStore>,
    options: Arc<ProxyOptions>,
    /// Where new connections go.
    route: watch::Sender<Option<Arc<Destination>>>,
    /// Until when they wait if they go nowhere.
    hold: watch::Sender<Option<BootInstant>>,
    listener: Option<Listener>,
    lookup: Option<AbortOnDropHandle<()>>,
    room: Arc<Semaphore>,
    guests: Guests,
    answers: mpsc::UnboundedSender<Answer>,
    /// Why the failure that the event at hand tells of happened: completes the machine's notice about it.
    trouble: Option<Trouble>,
    wake_at: Option<BootInstant>,
    metrics: Metrics,
    readiness: Readiness,
}

/// The answer to an effect.
enum Answer {
    Event(Event),
    Trouble(Event, Trouble),
    Listening(Listener),
}

/// Whether the program goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    GoesOn,
    Ends,
}

impl Proxy {
    /// A proxy that forwards nothing yet. `open_files` is the limit of this process, `None` without one.
    pub fn new(
        uid: ProxyUid,
        store: Arc<dyn ClusterStore>,
        options: ProxyOptions,
        open_files: Option<u64>,
        metrics: Metrics,
        readiness: Readiness,
    ) -> Self {
        let policy = Policy { on_silence: options.on_silence, drain: options.drain_timeout };
        Proxy {
            machine: Machine::new(uid.clone(), policy),
            uid,
            store,
            guests: Guests::new(options.connections_per_client),
            options: Arc::new(options),
            route: watch::Sender::new(None),
            hold: watch::Sender::new(None),
            listener: None,
            lookup: None,
            room: Arc::new(Semaphore::new(room_for(open_files))),
            answers: mpsc::unbounded_channel().0,
            trouble: None,
            wake_at: None,
            metrics,
            readiness,
        }
    }

    /// Proxy until the shutdown is requested; then drain, close, and withdraw the report.
    pub async fn run(mut self, shutdown: &Shutdown) {
        let (sender, mut answers) = mpsc::unbounded_channel();
        self.answers = sender;
        let _deadlines = AbortOnDropHandle::new(tokio::spawn(enforce_deadlines(self.route.subscribe())));
        let mut changes = self.store.watch(WatchScope::ClusterData);
        let mut requests = StopRequests::new(shutdown);
        let mut event = Event::TimePassed;
        while self.handle(event) == Course::GoesOn {
            event = tokio::select! {
                biased;
                () = requests.next() => Event::StopRequested,
                answer = answers.recv() => match answer {
                    Some(answer) => self.take(answer),
                    None => return,
                },
                () = moment(self.wake_at) => Event::TimePassed,
                () = changes.changed() => Event::ClusterChanged,
            };
        }
        tracing::info!("proxy stopped");
    }

    fn handle(&mut self, event: Event) -> Course {
        self.wake_at = None;
        let mut reading = None;
        for effect in self.machine.handle(BootInstant::now().since_boot(), event) {
            match effect {
                Effect::Exit => return Course::Ends,
                Effect::ReadDocument { limit } => reading = Some(limit),
                Effect::Publish { claim, ttl, limit } => self.publish(claim, ttl, limit, reading.take()),
                other => self.perform(other),
            }
        }
        if let Some(limit) = reading {
            self.read(limit);
        }
        self.trouble = None;
        Course::GoesOn
    }

    fn take(&mut self, answer: Answer) -> Event {
        match answer {
            Answer::Event(event) => event,
            Answer::Trouble(event, trouble) => {
                self.trouble = Some(trouble);
                event
            }
            Answer::Listening(listener) => {
                tracing::info!(address = %listener.address, "listening");
                self.listener = Some(listener);
                Event::Listening
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ReadDocument { .. } | Effect::Publish { .. } => {} // in `handle`: they go together
            Effect::Resolve { name, limit } => {
                let looking_up = async move {
                    match tokio::time::timeout(limit, resolve(&name.host, &name.port)).await {
                        Ok(Ok(addresses)) => Answer::Event(Event::Resolved(name, addresses)),
                        Ok(Err(cause)) => Answer::Trouble(Event::ResolveFailed(name), Trouble::Io(cause)),
                        Err(_) => Answer::Trouble(Event::ResolveFailed(name), Trouble::Silence(limit)),
                    }
                };
                self.lookup = Some(AbortOnDropHandle::new(self.spawn(looking_up)));
            }
            Effect::AskVoucher { address, limit } => {
                drop(self.spawn(ask_voucher(self.options.asker.clone(), address, limit)));
            }
            Effect::Listen => self.listen(),
            Effect::StopListening => self.stop_listening(),
            Effect::Open { destination, deadline } => {
                let opened = Destination::new(destination.address, BootInstant::from_boot(deadline));
                self.route.send_replace(Some(Arc::new(opened)));
                self.metrics.forwarding.set(1);
                self.readiness.set_ready();
            }
            Effect::MoveDeadline(deadline) => {
                if let Some(destination) = &*self.route.borrow() {
                    destination.set_deadline(BootInstant::from_boot(deadline));
                }
            }
            Effect::Close(why) => self.close(&why),
            Effect::Hold(until) => {
                self.hold.send_replace(Some(BootInstant::from_boot(until)));
            }
            Effect::Withdraw { limit } => self.withdraw(limit),
            Effect::WakeAt(at) => self.wake_at = Some(BootInstant::from_boot(at)),
            Effect::Say(notice) => self.say(&notice),
            Effect::Measure(Measurement::CheckSucceeded) => {
                if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
                    self.metrics.last_check_success.set(now.as_secs_f64());
                }
            }
            Effect::Exit => {}
        }
    }

    /// Run a task beside the loop, which sends its answer to the loop.
    fn spawn(&self, doing: impl Future<Output = Answer> + Send + 'static) -> tokio::task::JoinHandle<()> {
        let answers = self.answers.clone();
        tokio::spawn(async move {
            // The receiver is gone once the loop has ended.
            let _ = answers.send(doing.await);
        })
    }

    fn read(&self, limit: Duration) {
        let store = Arc::clone(&self.store);
        self.spawn(async move { read(&*store, limit).await });
    }

    /// Publish; and read in the same request where that is wanted too. A document that is wanted within a time is still read
    /// when the report was refused.
    fn publish(&self, claim: Claim, ttl: Duration, limit: Duration, reading: Option<Duration>) {
        let (store, answers) = (Arc::clone(&self.store), self.answers.clone());
        let report = ProxyReport {
            info_uid: InfoUid::from(new_uid8()),
            uid: self.uid.clone(),
            generation: claim.generation,
            proxy_timeout: GoDuration::from(claim.timeout).0,
            unreachable: self.unreachable(),
        };
        tokio::spawn(async move {
            let publishing = async {
                match reading {
                    Some(_) => store.publish_proxy_report(&report, ttl).await.map(Some),
                    None => store.put_proxy_report(&report, ttl).await.map(|()| None),
                }
            };
            let refused = |trouble| (Answer::Trouble(Event::ReportRefused, trouble), None);
            let (published, found) = match tokio::time::timeout(limit, publishing).await {
                Ok(Ok(found)) => (Answer::Event(Event::ReportTaken), found),
                Ok(Err(cause)) => refused(Trouble::Store(cause)),
                Err(_) => refused(Trouble::Silence(limit)),
            };
            // The receiver is gone once the loop has ended.
            let _ = answers.send(published);
            let read = match (found, reading) {
                (Some(found), _) => document(found),
                (None, Some(limit)) => read(&*store, limit).await,
                (None, None) => return,
            };
            let _ = answers.send(read);
        });
    }

    /// Where clients are sent to whom no connection can be made; empty as long as it can.
    fn unreachable(&self) -> String {
        let route = self.route.borrow();
        let failing = route.as_ref().filter(|destination| destination.unreachable.load(Ordering::Relaxed));
        failing.map(|destination| destination.address.to_string()).unwrap_or_default()
    }

    fn withdraw(&self, limit: Duration) {
        let (store, uid) = (Arc::clone(&self.store), self.uid.clone());
        self.spawn(async move {
            let trouble = match tokio::time::timeout(limit, store.remove_proxy_report(&uid)).await {
                Ok(Ok(())) => return Answer::Event(Event::Withdrawn),
                Ok(Err(cause)) => Trouble::Store(cause),
                Err(_) => Trouble::Silence(limit),
            };
            tracing::warn!(
                error = trouble.explained().on_one_line(),
                "cannot withdraw the proxy's report, it will expire"
            );
            Answer::Event(Event::Withdrawn)
        });
    }

    fn listen(&mut self) {
        let reception = Reception {
            options: Arc::clone(&self.options),
            route: self.route.subscribe(),
            hold: self.hold.subscribe(),
            room: Arc::clone(&self.room),
            guests: self.guests.clone(),
            metrics: self.metrics.clone(),
        };
        let place = format!("{}:{}", self.options.listen_address, self.options.port);
        self.spawn(async move {
            match Listener::open(reception).await {
                Ok(listener) => Answer::Listening(listener),
                Err(cause) => Answer::Trouble(Event::ListenFailed, Trouble::Listen { place, cause }),
            }
        });
    }

    /// Accept no more clients. Open connections go on; the machine is told when the last one has ended.
    fn stop_listening(&mut self) {
        let (listener, open) = (self.listener.take(), self.route.borrow().clone());
        self.spawn(async move {
            if let Some(listener) = listener {
                tracing::info!(address = %listener.address, "stopped listening");
                listener.close().await;
            }
            if let Some(destination) = open {
                destination.connections.close();
                destination.connections.wait().await;
            }
            Answer::Event(Event::ConnectionsEnded)
        });
    }

    /// Let no connection through, and tell the machine when the last one has ended.
    fn close(&mut self, why: &ClosedBecause) {
        self.metrics.forwarding.set(0);
        let destination = self.route.send_replace(None);
        let grace = match why {
            ClosedBecause::HandingOver(handover) => handover.grace,
            _ => Duration::ZERO,
        };
        self.spawn(async move {
            if let Some(destination) = destination {
                destination.end(grace).await;
            }
            Answer::Event(Event::Closed)
        });
    }

    fn say(&mut self, notice: &Notice) {
        let error =
            self.trouble.as_ref().map(|trouble| trouble.explained().on_one_line()).unwrap_or_default();
        match notice {
            Notice::Forwarding(destination) => {
                tracing::info!("forwarding to {} at {}", destination.to.name(), destination.address);
            }
            Notice::SentNowhere(why) => {
                let why = sentences::closed(why);
                tracing::info!("clients are sent nowhere: {why}");
                self.readiness.set_not_ready(&why);
            }
            Notice::VouchedFor => {
                tracing::warn!(
                    "the store is away: clients go on to the primary, since its keeper vouches for it"
                );
            }
            Notice::CheckFailed { check, retry_in } => {
                let why = match check {
                    Check::BadClusterData => "the cluster data cannot be worked with".to_owned(),
                    Check::TooSlow => "the store answers so late that its answers are out of date".to_owned(),
                    Check::Read => format!("cannot get cluster data: {error}"),
                    Check::Publish => format!("cannot publish proxy info: {error}"),
                    Check::Listen => error,
                };
                tracing::error!(error = why, retry_in = %GoDuration::from(*retry_in), "check failed");
            }
            Notice::LookupFailed { name, keeps, retry_in } => {
                let retry_in = GoDuration::from(*retry_in);
                match keeps {
                    Some(address) => tracing::warn!(%name, error, in_use = %address, %retry_in,
                        "cannot resolve the primary's address, the one in use goes on"),
                    None => tracing::error!(%name, error, %retry_in, "cannot resolve the primary's address"),
                }
            }
            Notice::OlderThanSeen { seen, found } => {
                tracing::error!("clients stay where they are: {}", sentences::older(seen, found));
            }
            Notice::Draining(limit) => {
                self.readiness.set_not_ready(&sentences::closed(&ClosedBecause::Stopping));
                let open = self.route.borrow().as_ref().map_or(0, |open| open.connections.len());
                tracing::info!(connections = open, limit = %GoDuration::from(*limit), "waiting for connections to end");
            }
        }
    }
}

/// The first request to stop, and the second.
struct StopRequests<'a> {
    shutdown: &'a Shutdown,
    heard: u8,
}

impl<'a> StopRequests<'a> {
    fn new(shutdown: &'a Shutdown) -> Self {
        StopRequests { shutdown, heard: 0 }
    }

    /// Cancel-safe.
    async fn next(&mut self) {
        match self.heard {
            0 => self.shutdown.token().cancelled().await,
            1 => self.shutdown.escalated().cancelled().await,
            _ => std::future::pending().await,
        }
        self.heard += 1;
    }
}

/// Returns when the moment has come, by a clock that goes on while the machine sleeps.
async fn moment(at: Option<BootInstant>) {
    let Some(at) = at else { return std::future::pending().await };
    while !at.is_past() {
        tokio::time::sleep(at.remaining()).await;
    }
}

/// How many connections the file descriptors suffice for: each takes two.
fn room_for(open_files: Option<u64>) -> usize {
    let Some(limit) = open_files else { return Semaphore::MAX_PERMITS };
    let reserved = RESERVED_FILES.min(limit / 2);
    usize::try_from((limit - reserved) / 2).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}

/// What the keeper of the primary says of how long that cannot be replaced; nothing where it says no, or does not answer.
async fn ask_voucher(asker: Asker, address: String, limit: Duration) -> Answer {
    let answer = asker.ask("GET", &address, "/voucher", "", limit).await;
    let voucher = answer.ok().filter(|it| it.status == 200).and_then(|it| Voucher::from_json(&it.body).ok());
    Answer::Event(Event::Vouched(voucher))
}

async fn read(store: &dyn ClusterStore, limit: Duration) -> Answer {
    match tokio::time::timeout(limit, store.cluster_document()).await {
        Ok(found) => document(found),
        Err(_) => Answer::Trouble(Event::DocumentUnreadable, Trouble::Silence(limit)),
    }
}

fn document(found: DocumentRead) -> Answer {
    match found {
        Ok(document) => Answer::Event(Event::DocumentRead(document.map(|document| Box::new(document.value)))),
        Err(cause) => Answer::Trouble(Event::DocumentUnreadable, Trouble::Store(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_are_never_taken_by_connections() {
        assert_eq!(room_for(None), Semaphore::MAX_PERMITS);
        assert_eq!(room_for(Some(1024)), 480);
        assert_eq!(room_for(Some(64)), 16);
        assert_eq!(room_for(Some(0)), 1);
    }
}
