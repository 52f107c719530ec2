//! The loop of a sentinel: events go to the machine, and its effects are begun.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stolon_core::sentinel::{
    Attention, Effect, Event, Expected, Machine, Measure, Now, Reading, Saying, Setup, Standing, Told,
    UidSource, WriteOutcome,
};
use stolon_model::{
    Advise, ClusterDocument, ClusterSpec, InstanceUid, SentinelReport, SentinelUid, Timestamp,
};
use stolon_runtime::new_uid8;
use stolon_store::{
    BootInstant, ClusterStore, Everything, EverythingFeed, Revision, Seen, StoreError, Tolerance,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::contest::Contest;
use crate::metrics::Metrics;
use crate::words;

/// How long giving up the leadership and withdrawing the report may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// One sentinel process.
pub struct Sentinel {
    store: Arc<dyn ClusterStore>,
    uid: SentinelUid,
    metrics: Metrics,
    machine: Machine,
    standing: Standing,
    /// The zero of the machine's clock.
    started: Instant,
    wake_at: Instant,
    /// Requests to the store that were not answered yet; none takes longer than the store's timeout.
    requests: JoinSet<Answer>,
    feed: Arc<EverythingFeed>,
    /// Revision of the document in the last reading.
    revision: Option<Revision>,
}

/// The answer of the store to a request.
enum Answer {
    Read(Result<Box<Seen<Everything>>, StoreError>),
    Other(Event),
}

impl Sentinel {
    /// A sentinel that has seen nothing yet.
    pub fn new(
        store: Arc<dyn ClusterStore>,
        uid: SentinelUid,
        initial_spec: Option<ClusterSpec>,
        metrics: Metrics,
    ) -> Self {
        let feed = store.follow_everything();
        Sentinel {
            store,
            feed: Arc::new(feed),
            machine: Machine::new(Setup { uid: uid.clone(), initial_spec }),
            uid,
            metrics,
            standing: Standing::Follower,
            started: Instant::now(),
            wake_at: Instant::now(),
            requests: JoinSet::new(),
            revision: None,
        }
    }

    /// Look after the cluster until told to stop; then hand the leadership over.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut news = self.feed.news();
        let mut contest = Contest::enter(self.store.as_ref(), self.uid.clone());
        let mut event = Event::Started;
        loop {
            self.note_standing(&contest);
            self.handle(event);
            event = tokio::select! {
                () = stop.cancelled() => break,
                Some(answer) = self.requests.join_next() => match answer {
                    Ok(answer) => self.event_of(answer),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = contest.changed() => Event::StoreChanged,
                () = news.changed() => Event::StoreChanged,
                () = sleep_until(self.wake_at) => Event::TimePassed,
            };
        }
        self.requests.shutdown().await;
        self.say_farewell(contest).await;
    }

    fn handle(&mut self, event: Event) {
        let now = Now { monotonic: self.started.elapsed(), wall: Timestamp::utc(jiff::Timestamp::now()) };
        // Until the machine names another moment, which it does whenever it waits only for time to pass.
        self.wake_at = Instant::now() + Duration::from_secs(3600);
        for effect in self.machine.handle(now, event, &mut RandomUids) {
            self.begin(effect);
        }
    }

    fn begin(&mut self, effect: Effect) {
        let store = Arc::clone(&self.store);
        match effect {
            Effect::ReadView { at_most, silence } => {
                let (feed, tolerance) = (Arc::clone(&self.feed), Tolerance { age: at_most, silence });
                self.requests.spawn(async move { Answer::Read(feed.within(tolerance).await.map(Box::new)) });
            }
            Effect::Attend(attention) => self.feed.attend(match attention {
                Attention::Matters => stolon_store::Attention::Matters,
                Attention::Positions => stolon_store::Attention::Everything,
            }),
            Effect::CompareAndPut { document, expected } => {
                let expected = match (expected, self.revision) {
                    (Expected::AsRead, Some(revision)) => stolon_store::Expected::Revision(revision),
                    _ => stolon_store::Expected::Absent,
                };
                self.requests.spawn(async move { Answer::Other(write(&*store, &document, expected).await) });
            }
            Effect::PublishReport { report, ttl } => {
                self.requests.spawn(async move { Answer::Other(publish(&*store, &report, ttl).await) });
            }
            Effect::WakeAt(at) => self.wake_at = self.started + at,
            Effect::Say(saying) => {
                if let Saying::Changed(change) = &saying {
                    self.metrics.changed(change);
                }
                words::log(&saying);
            }
            Effect::Measure(Measure::RoundCompleted) => {
                self.metrics.last_success.set(unix_seconds());
            }
            Effect::Measure(Measure::Holds(count)) => {
                self.metrics.holds.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            Effect::Measure(Measure::Paused(paused)) => _ = self.metrics.paused.set(paused.into()),
            Effect::Measure(Measure::LossAtFailover(loss)) => self.metrics.loss_at_failover(loss),
            Effect::Measure(Measure::FormerPrimaries(count)) => {
                self.metrics.former_primaries.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    fn event_of(&mut self, answer: Answer) -> Event {
        let read = match answer {
            Answer::Other(event) => return event,
            Answer::Read(read) => read,
        };
        match read {
            Err(error) => Event::ViewUnreadable(error.explained()),
            Ok(seen) => {
                let Seen { value, as_of, told } = *seen;
                let Everything { document, keepers, arrivals, proxies, unreadable_proxies } = value;
                let own_time = |moment: BootInstant| self.started.elapsed().saturating_sub(moment.elapsed());
                self.revision = document.as_ref().map(|document| document.revision);
                Event::ViewRead(Box::new(Reading {
                    as_of: own_time(as_of),
                    document: document.map(|document| document.value),
                    keepers,
                    proxies,
                    unreadable_proxies,
                    told: Told {
                        last: told.map_or(Duration::ZERO, own_time),
                        keepers: arrivals.into_iter().map(|(uid, at)| (uid, own_time(at))).collect(),
                    },
                }))
            }
        }
    }

    /// The machine learns of a leadership, and of its loss, before anything else.
    fn note_standing(&mut self, contest: &Contest) {
        let standing = if contest.leads() { Standing::Leader } else { Standing::Follower };
        if standing == self.standing {
            return;
        }
        self.standing = standing;
        self.metrics.is_leader.set(i64::from(standing == Standing::Leader));
        if standing == Standing::Leader {
            self.metrics.leader_count.inc();
        }
        self.handle(Event::StandingChanged(standing));
    }

    async fn say_farewell(self, contest: Contest) {
        let farewell = async {
            contest.resign().await;
            if let Err(error) = self.store.remove_sentinel_report(&self.uid).await {
                let error = error.explained().on_one_line();
                tracing::warn!(error, "cannot withdraw this sentinel's report; it will expire");
            }
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::warn!("the leadership was not given up in time; a successor waits for the lease to end");
        }
    }
}

async fn write(
    store: &dyn ClusterStore,
    document: &ClusterDocument,
    expected: stolon_store::Expected,
) -> Event {
    Event::WriteEnded(match store.compare_and_put_cluster_document(document, expected).await {
        Ok(_) => WriteOutcome::Written,
        Err(StoreError::Conflict) => WriteOutcome::Conflict,
        Err(error @ StoreError::Unknown { .. }) => WriteOutcome::Unknown(error.explained()),
        Err(error) => WriteOutcome::Failed(error.explained()),
    })
}

async fn publish(store: &dyn ClusterStore, report: &SentinelReport, ttl: Duration) -> Event {
    Event::ReportEnded(store.put_sentinel_report(report, ttl).await.map_err(|error| error.explained()))
}

struct RandomUids;

impl UidSource for RandomUids {
    fn instance_uid(&mut self) -> InstanceUid {
        new_uid8().into()
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
