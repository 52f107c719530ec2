//! The loop of a keeper: the machine decides, this does what it asks for and tells it what became of it.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use stolon_core::keeper::{
    Beginning, ClusterRead, Effect, Event, Exit, FailureKind, Found, Instance, Look, Machine, Measure,
    Picture, Progress, Reports, ServerDeath, ServerLook, StateFile, Step, StepFailure, StepOutcome,
};
use stolon_model::{
    Advise as _, ClusterDocument, GoDuration, InfoUid, KeeperReport, KeeperUid, UsableCluster,
};
use stolon_postgres::{ServerState, end_of_process};
use stolon_runtime::{Asker, Readiness, UsageError, new_uid8, redact};
use stolon_store::{BootInstant, ClusterStore, DocumentFeed, Seen, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::pledges::{self, Asked, Question};
use crate::state_files::KeeperDirectory;
use crate::voice;
use crate::witness::knock;

/// Between looks at how far a long step is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Between log lines about it.
const PROGRESS_LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What the loop works with.
pub(crate) struct Hands<I> {
    pub(crate) instance: I,
    /// The server process, as its parent sees it.
    pub(crate) server: watch::Receiver<ServerState>,
    pub(crate) store: Arc<dyn ClusterStore>,
    pub(crate) directory: KeeperDirectory,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    /// What the health checks go by.
    pub(crate) pictures: watch::Sender<Picture>,
    /// Asks other keepers.
    pub(crate) asker: Asker,
}

/// What is under way ends with an event; a reading gives the feed back that it borrowed.
struct Ended {
    event: Event,
    feed: Option<DocumentFeed>,
}

impl From<Event> for Ended {
    fn from(event: Event) -> Self {
        Ended { event, feed: None }
    }
}

type Activity<'a> = Pin<Box<dyn Future<Output = Ended> + 'a>>;

/// How the keeper is told to end.
pub(crate) struct Summons {
    /// In good order: the primary is handed over before.
    pub(crate) end: CancellationToken,
    /// No longer than this is waited for that.
    pub(crate) patience: Duration,
    /// Nothing is waited for any more.
    pub(crate) at_once: CancellationToken,
    /// PostgreSQL is left to the next keeper.
    pub(crate) depart: CancellationToken,
}

/// How the keeper came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// There was nothing more to wait for.
    InOrder,
    /// The second summons came while it waited for somebody to take over.
    CutShort,
    /// It leaves PostgreSQL to the next keeper.
    Departure,
}

/// Runs until it is told to end, or until the machine ends by itself. The step under way has ended then.
///
/// # Errors
/// The reason for which the machine ends by itself.
pub(crate) async fn run<I: Instance>(
    hands: &Hands<I>,
    beginning: Beginning,
    found: Found,
    questions: mpsc::Receiver<Question>,
    summons: &Summons,
) -> anyhow::Result<Ending> {
    let mut keeper = Loop {
        hands,
        uid: beginning.identity.keeper.clone(),
        activities: FuturesUnordered::new(),
        feed: Some(hands.store.follow_document()),
        server: hands.server.clone(),
        questions,
        asked: Asked::default(),
        wake: None,
        step: None,
        stage: Stage::AtWork,
        ended: Ok(Ending::InOrder),
    };
    let mut machine = Machine::new(beginning);
    let mut event = Event::Started(found);
    loop {
        for effect in machine.handle(now(), event) {
            keeper.begin(effect);
        }
        hands.pictures.send_replace(machine.picture());
        if keeper.stage == Stage::Stopping && keeper.step.is_none() {
            // Neither a store that does not answer nor a disk that hangs keeps PostgreSQL from being stopped. Files are replaced
            // whole, or not at all.
            return keeper.ended;
        }
        event = keeper.next(summons).await;
    }
}

/// The machine's clock goes on while the computer sleeps: what was learned before a lid was closed is old afterwards.
pub(crate) fn now() -> Duration {
    time_of(BootInstant::now())
}

fn time_of(instant: BootInstant) -> Duration {
    Duration::from_millis(instant.milliseconds())
}

struct Loop<'a, I> {
    hands: &'a Hands<I>,
    uid: KeeperUid,
    activities: FuturesUnordered<Activity<'a>>,
    /// The cluster data; none while a reading is under way.
    feed: Option<DocumentFeed>,
    server: watch::Receiver<ServerState>,
    /// Of keepers that want a pledge.
    questions: mpsc::Receiver<Question>,
    asked: Asked,
    wake: Option<Instant>,
    step: Option<StepUnderWay>,
    stage: Stage,
    ended: anyhow::Result<Ending>,
}

/// How far the keeper's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    AtWork,
    /// It goes on until the machine has nothing more to wait for.
    Leaving,
    /// Only the end of the step under way is waited for.
    Stopping,
}

/// The step under way, as far as others see it.
struct StepUnderWay {
    name: Option<&'static str>,
    progress: watch::Receiver<Progress>,
    called_off: CancellationToken,
    begun: Instant,
    ticks: Interval,
    next_line: Instant,
}

impl<'a, I: Instance> Loop<'a, I> {
    /// What happens next. The death of the server comes before the end of the step that fails for it.
    async fn next(&mut self, summons: &Summons) -> Event {
        let is_stopping = self.stage == Stage::Stopping;
        tokio::select! {
            biased;
            () = summons.end.cancelled(), if self.stage == Stage::AtWork => {
                self.hands.metrics.shutdown_now();
                self.stage = Stage::Leaving;
                Event::EndRequested { patience: summons.patience }
            }
            () = summons.depart.cancelled(), if self.stage == Stage::AtWork => {
                self.hands.metrics.shutdown_now();
                self.ended = Ok(Ending::Departure);
                Event::DepartureRequested
            }
            () = summons.at_once.cancelled(), if self.stage == Stage::Leaving => {
                self.stage = Stage::Stopping;
                self.ended = Ok(Ending::CutShort);
                Event::StopRequested
            }
            death = next_death(&mut self.server) => Event::ServerDied(death),
            Some(Ended { event, feed }) = self.activities.next() => {
                self.feed = self.feed.take().or(feed);
                if matches!(event, Event::StepEnded(_)) {
                    self.step = None;
                }
                event
            }
            () = next_change(&mut self.feed), if !is_stopping => Event::ClusterChanged,
            Some(question) = self.questions.recv(), if !is_stopping => self.asked.take(question),
            progress = next_progress(&mut self.step) => Event::StepProgressed(progress),
            () = sleep_until(self.wake), if !is_stopping => {
                self.wake = None;
                Event::TimePassed
            }
        }
    }

    fn begin(&mut self, effect: Effect) {
        let hands = self.hands;
        match effect {
            Effect::Look { within } => self.begin_look(within),
            Effect::Take { step, request_timeout } => self.begin_step(*step, request_timeout),
            Effect::CallOff => {
                if let Some(step) = &self.step {
                    step.called_off.cancel();
                }
            }
            Effect::ReadCluster { at_most } => {
                let Some(feed) = self.feed.take() else { return };
                self.activities.push(Box::pin(read_cluster(feed, at_most)));
            }
            Effect::ReadOwnReport => self.read_own_report(),
            Effect::ReadReports => self.activities.push(Box::pin(async move {
                let reports = read_reports(hands.store.as_ref()).await;
                Event::ReportsRead(reports.map_err(|error| in_full(&error))).into()
            })),
            Effect::WatchReceiver { process } => self.activities.push(Box::pin(async move {
                end_of_process(process).await;
                Event::ReceiverEnded { process }.into()
            })),
            Effect::Knock { address, port, within } => self
                .activities
                .push(Box::pin(async move { Event::Knocked(knock(address, port, within).await).into() })),
            Effect::AskForPledge { address, request, within } => self.activities.push(Box::pin(async move {
                pledges::ask_for(&hands.asker, &address, request, within).await.into()
            })),
            Effect::AnswerPledge { number, term } => self.asked.answer(number, term),
            Effect::Publish { report, ttl, limit } => {
                let report = KeeperReport { info_uid: InfoUid::from(new_uid8()), ..*report };
                self.activities
                    .push(Box::pin(async move { publish(hands, &report, ttl, limit).await.into() }));
            }
            Effect::Save(file) => self.activities.push(Box::pin(save(hands, *file))),
            Effect::WakeAt(at) => self.wake = Some(Instant::now() + at.saturating_sub(now())),
            Effect::Say(saying) => voice::say(&saying, &hands.readiness),
            Effect::Measure(Measure::Ready) => hands.readiness.set_ready(),
            Effect::Measure(measure) => hands.metrics.measure(measure),
            Effect::End => self.stage = Stage::Stopping,
            Effect::Exit(exit) => {
                self.stage = Stage::Stopping;
                self.ended = Err(refusal(&self.uid, exit));
            }
        }
    }

    fn begin_look(&mut self, within: Duration) {
        let hands = self.hands;
        self.activities.push(Box::pin(async move {
            let look = hands.instance.look(within).await;
            Event::Looked(Box::new(without_secrets_in_look(look))).into()
        }));
    }

    fn begin_step(&mut self, step: Step, request_timeout: Duration) {
        let hands = self.hands;
        let (progress, called_off) = (watch::Sender::default(), CancellationToken::new());
        let now = Instant::now();
        let mut ticks = tokio::time::interval_at(now + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.step = Some(StepUnderWay {
            name: step.name().filter(|_| step.takes_long()),
            progress: progress.subscribe(),
            called_off: called_off.clone(),
            begun: now,
            ticks,
            next_line: now + PROGRESS_LINE_INTERVAL,
        });
        self.activities.push(Box::pin(async move {
            let resync = hands.metrics.resync_begins(&step);
            let told = |seen| {
                progress.send_replace(seen);
                resync.iter().for_each(|resync| resync.progressed(seen));
            };
            let outcome = hands.instance.take(step, request_timeout, &told, called_off.cancelled()).await;
            resync.into_iter().for_each(|resync| resync.ended(&outcome));
            Event::StepEnded(without_secrets(outcome)).into()
        }));
    }

    fn read_own_report(&mut self) {
        let (hands, uid) = (self.hands, self.uid.clone());
        self.activities.push(Box::pin(async move {
            let reports = hands.store.keeper_reports().await;
            let own = reports.map(|mut reports| reports.remove(&uid).map(Box::new));
            Event::OwnReportRead(own.map_err(|error| in_full(&error))).into()
        }));
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => pending().await,
    }
}

/// The next end of the server that nobody asked for.
async fn next_death(server: &mut watch::Receiver<ServerState>) -> ServerDeath {
    loop {
        // The channel lives as long as the instance.
        if server.changed().await.is_err() {
            pending::<()>().await;
        }
        let death = server.borrow_and_update().death();
        if let Some(death) = death {
            return death_without_secrets(death);
        }
    }
}

/// How far the step under way is, now and then; and a line in the log for those who wait for it.
async fn next_progress(step: &mut Option<StepUnderWay>) -> Progress {
    let Some(StepUnderWay { name: Some(name), progress, begun, ticks, next_line, .. }) = step else {
        return pending().await;
    };
    ticks.tick().await;
    let Progress { bytes_done, bytes_total } = *progress.borrow();
    if Instant::now() >= *next_line {
        *next_line = Instant::now() + PROGRESS_LINE_INTERVAL;
        let elapsed = GoDuration::from_seconds(begun.elapsed().as_secs().try_into().unwrap_or(i64::MAX));
        tracing::info!(bytes_done, bytes_total, %elapsed, "{name} under way");
    }
    Progress { bytes_done, bytes_total }
}

async fn next_change(feed: &mut Option<DocumentFeed>) {
    match feed {
        Some(feed) => feed.changed().await,
        None => pending().await,
    }
}

/// For a line of the log: what is wrong with the store, and what to do about it.
fn in_full(error: &StoreError) -> String {
    error.explained().on_one_line()
}

async fn read_cluster(feed: DocumentFeed, at_most: Duration) -> Ended {
    let asked = now();
    let (read, as_of) = match feed.at_most(at_most).await {
        Err(error @ StoreError::Decode { .. }) => (ClusterRead::Invalid(in_full(&error)), now()),
        Err(error) => (ClusterRead::Unanswered(in_full(&error)), asked),
        Ok(Seen { value: None, as_of, .. }) => (ClusterRead::Absent, time_of(as_of)),
        Ok(Seen { value: Some(document), as_of, .. }) => (usable(document.value), time_of(as_of)),
    };
    Ended { event: Event::ClusterRead { read, as_of }, feed: Some(feed) }
}

fn usable(document: ClusterDocument) -> ClusterRead {
    match UsableCluster::try_from(document) {
        Ok(cluster) => ClusterRead::Usable(Arc::new(cluster)),
        Err(error) => ClusterRead::Invalid(error.to_string()),
    }
}

async fn publish<I>(hands: &Hands<I>, report: &KeeperReport, ttl: Duration, limit: Duration) -> Event {
    match tokio::time::timeout(limit, hands.store.put_keeper_report(report, ttl)).await {
        Ok(Ok(())) => Event::ReportTaken,
        Ok(Err(error)) => Event::ReportRefused(in_full(&error)),
        Err(_) => {
            Event::ReportRefused(format!("the store did not take it within {}", GoDuration::from(limit)))
        }
    }
}

async fn read_reports(store: &dyn ClusterStore) -> Result<Box<Reports>, StoreError> {
    let (keepers, sentinels) = tokio::try_join!(store.keeper_reports(), store.sentinel_reports())?;
    Ok(Box::new(Reports { keepers, sentinels }))
}

/// On a thread of its own: a disk that hangs must not silence the keeper.
async fn save<I>(hands: &Hands<I>, file: StateFile) -> Ended {
    let (kind, directory) = (file.kind(), hands.directory.clone());
    let saved = tokio::task::spawn_blocking(move || directory.save(&file)).await;
    let outcome = match saved {
        Ok(saved) => saved.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Event::Saved(kind, outcome).into()
}

/// PostgreSQL's own words may hold a password; nothing below this line does.
fn without_secrets(outcome: StepOutcome) -> StepOutcome {
    match outcome {
        StepOutcome::Failed(failure) => StepOutcome::Failed(StepFailure {
            sentence: redact(&failure.sentence).into_owned(),
            kind: match failure.kind {
                FailureKind::ServerExited(death) => FailureKind::ServerExited(death_without_secrets(death)),
                kind => kind,
            },
            hint: failure.hint,
        }),
        done @ StepOutcome::Done(_) => done,
    }
}

fn death_without_secrets(death: ServerDeath) -> ServerDeath {
    ServerDeath { explanation: redact(&death.explanation).into_owned(), ..death }
}

fn without_secrets_in_look(mut look: Look) -> Look {
    if let ServerLook::Silent(why) | ServerLook::Stranger(why) = &mut look.server {
        *why = redact(why).into_owned();
    }
    look
}

fn refusal(uid: &KeeperUid, exit: Exit) -> anyhow::Error {
    match exit {
        Exit::Namesake { address } => {
            let place = address.map(|address| format!(" (its PostgreSQL: {address})")).unwrap_or_default();
            UsageError::new(format!("another keeper with the uid \"{uid}\" is running{place}"))
                .hint("give every keeper a --uid of its own; stop the other one first if this is to take its place")
                .into()
        }
        Exit::NoNote(why) => anyhow::Error::msg(why),
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
