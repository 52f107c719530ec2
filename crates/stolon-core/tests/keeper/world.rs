//! A keeper's machine with a fake PostgreSQL, a fake store and a fake disk around it, in virtual time. The contract of the machine is
//! checked with every effect: nothing is asked for twice.

use std::cell::{Cell, Ref, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use stolon_core::keeper::*;
use stolon_fake::{FakeInstance, FakePostgres, word};
use stolon_model::{ClusterData, InstanceUid, KeeperReport, Served, UsableCluster};

use crate::given::*;

/// What a store is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Answers,
    Silent,
    /// It refuses connections: what was known a moment ago still counts where nothing newer is wanted.
    Refuses,
}

/// What is under way around the machine.
#[derive(Debug)]
enum Activity {
    Look(Work),
    Step(Work),
    /// As of then.
    ReadCluster(Duration),
    /// The store was not asked; what was known as of then will do.
    RecallCluster(Duration),
    ReadOwnReport,
    ReadReports,
    /// Asked for at that time, of a store that answers or does not.
    Publish(Box<KeeperReport>, Duration, Store),
    Save(StateFile),
    Knock,
    /// What the keeper of an instance is going to answer.
    Pledge(InstanceUid, Option<Duration>),
}

/// What the instance is at. It ends when it is polled at the time that the world gives it, unless the instance hangs.
struct Work {
    what: String,
    ends: Pin<Box<dyn Future<Output = Event>>>,
    called_off: Rc<Cell<bool>>,
}

impl Work {
    fn look(instance: FakeInstance, within: Duration) -> Self {
        let ends = Box::pin(async move { Event::Looked(Box::new(instance.look(within).await)) });
        Work { what: "look".into(), ends, called_off: Rc::default() }
    }

    fn step(instance: FakeInstance, step: Step, request_timeout: Duration) -> Self {
        let called_off = Rc::new(Cell::new(false));
        let what = word(&step).unwrap_or_default();
        let flag = Rc::clone(&called_off);
        let ends = Box::pin(async move {
            let called_off = poll_fn(|_| if flag.get() { Poll::Ready(()) } else { Poll::Pending });
            Event::StepEnded(instance.take(step, request_timeout, &|_| (), called_off).await)
        });
        Work { what, ends, called_off }
    }

    fn poll(&mut self) -> Option<Event> {
        match self.ends.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(event) => Some(event),
            Poll::Pending => None,
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// A keeper and its surroundings.
pub struct World {
    machine: Machine,
    pub now: Duration,
    instance: FakeInstance,
    pub cluster: ClusterData,
    pub store: Store,
    /// Whose report stands under our uid; none: what we published last.
    pub namesake: Option<KeeperReport>,
    /// What keepers and sentinels report, or why that cannot be read.
    pub others: Result<Reports, &'static str>,
    /// A file cannot be written, for this reason.
    pub disk_fails: Option<(StateFileKind, &'static str)>,
    /// What fails fails after the file was replaced: a flush that came too late to take it back.
    pub failed_writes_arrive: bool,
    /// The writes of such files do not end.
    pub disk_hangs: Option<StateFileKind>,
    /// How long a look takes, and how long a base backup.
    pub look_takes: Duration,
    /// How long a stop takes, and how long a server takes until it lets somebody in.
    pub stop_takes: Duration,
    pub ready_takes: Duration,
    /// How long a question to the store takes.
    pub reading_takes: Duration,
    under_way: Vec<(Duration, Activity)>,
    wake: Option<Duration>,
    /// So many looks were asked for.
    pub looks: usize,
    /// What becomes of connections to the primary, and how many were begun.
    pub knocked: Knocked,
    pub knocks: usize,
    /// Processes of receivers that are watched.
    pub watched: Vec<u32>,
    /// What the keepers of other instances pledge; those that are not here do not answer.
    pub pledges: BTreeMap<&'static str, Duration>,
    pub pledge_takes: Duration,
    /// The instances whose keepers were asked, each with the time.
    pub asked: Vec<(String, Duration)>,
    /// What this keeper pledged when it was asked.
    pub answered: Vec<Option<Duration>>,
    /// The cluster data are known as of then: the last publication that was taken read them, too.
    confirmed: Option<Duration>,
    /// So many readings of the cluster data found nothing young enough, and asked the store.
    pub questions: usize,
    /// The time to live of the last report.
    pub ttl: Duration,
    /// Everything that was done, in words, each with its time in milliseconds.
    pub log: Vec<(u128, String)>,
    pub reports: Vec<KeeperReport>,
    pub files: Vec<StateFile>,
    pub sayings: Vec<Saying>,
    pub exit: Option<Exit>,
    /// The machine has nothing to wait for any more.
    pub ended: bool,
}

const MOMENT: Duration = Duration::from_millis(2);
const FOR_EVER: Duration = Duration::from_secs(1 << 30);
const BASE_BACKUP: Duration = Duration::from_secs(60);

impl World {
    /// A keeper that has just begun, with `dbstate` and data as given.
    pub fn new(cluster: ClusterData, local: LocalState, data: Data) -> Self {
        Self::after(cluster, local, data, None)
    }

    /// The same, where an earlier keeper served.
    pub fn after(cluster: ClusterData, local: LocalState, data: Data, served: Option<Served>) -> Self {
        World::begun(Beginning { served, ..beginning(local) }, cluster, data)
    }

    /// The same, whatever it begins with.
    pub fn begun(beginning: Beginning, cluster: ClusterData, data: Data) -> Self {
        World::found(beginning, cluster, FakeInstance::with(data), Found::Nothing)
    }

    /// The keeper is killed, and the next one takes its server over. No sentinel has seen that one.
    pub fn taken_over(self) -> Self {
        let mut beginning = beginning(self.dbstate());
        beginning.identity.boot = "anew".into();
        let postgres = self.postgres();
        let found = Found::Server(FoundServer {
            role: if postgres.in_recovery { DataKind::Standby } else { DataKind::Primary },
            gate: if postgres.admits_clients() { Gate::Open } else { Gate::Closed },
        });
        World::found(beginning, self.cluster.clone(), self.instance.clone(), found)
    }

    /// A sentinel sees the keeper that was begun by [`World::taken_over`].
    pub fn acknowledge(&mut self) {
        self.change(|cluster| {
            cluster.keepers.get_mut(&"k1".into()).expect("our keeper").status.boot_uuid = "anew".into();
        });
    }

    fn found(beginning: Beginning, cluster: ClusterData, instance: FakeInstance, found: Found) -> Self {
        let mut world = World {
            machine: Machine::new(beginning),
            now: Duration::ZERO,
            instance,
            cluster,
            store: Store::Answers,
            namesake: None,
            others: Ok(Reports::default()),
            disk_fails: None,
            failed_writes_arrive: false,
            disk_hangs: None,
            look_takes: MOMENT,
            stop_takes: MOMENT,
            ready_takes: MOMENT,
            reading_takes: MOMENT,
            under_way: Vec::new(),
            wake: None,
            looks: 0,
            knocked: Knocked::Accepted,
            knocks: 0,
            watched: Vec::new(),
            pledges: BTreeMap::new(),
            pledge_takes: MOMENT,
            asked: Vec::new(),
            answered: Vec::new(),
            confirmed: None,
            questions: 0,
            ttl: Duration::ZERO,
            log: Vec::new(),
            reports: Vec::new(),
            files: Vec::new(),
            sayings: Vec::new(),
            exit: None,
            ended: false,
        };
        world.tell(Event::Started(found));
        world
    }

    /// A keeper whose instance `us` is complete and stopped.
    pub fn with(cluster: ClusterData, kind: DataKind) -> Self {
        World::new(cluster, complete("us"), present(kind))
    }

    /// PostgreSQL, to be looked at.
    pub fn postgres(&self) -> Ref<'_, FakePostgres> {
        self.instance.postgres()
    }

    /// PostgreSQL, to be changed.
    pub fn postgres_mut(&self) -> RefMut<'_, FakePostgres> {
        self.instance.change()
    }

    /// The machine is told of something, now.
    pub fn tell(&mut self, event: Event) {
        for effect in self.machine.handle(self.now, event) {
            self.begin(effect);
        }
    }

    /// For how long nobody can take our place.
    pub fn vouched(&self) -> Duration {
        let voucher = self.machine.picture().voucher(self.now);
        voucher.map(|voucher| voucher.remaining.to_std()).unwrap_or_default()
    }

    /// What is answered when somebody asks whether it is the primary.
    pub fn is_primary(&self) -> Result<(), No> {
        self.machine.picture().answer(Inquiry::Primary, self.now)
    }

    /// The server ends by itself.
    pub fn server_dies(&mut self) {
        let death = self.postgres_mut().dies();
        self.tell(Event::ServerDied(death));
    }

    /// The store's watch tells of a change.
    pub fn change(&mut self, change: impl FnOnce(&mut ClusterData)) {
        change(&mut self.cluster);
        self.tell(Event::ClusterChanged);
    }

    /// Time passes, and what is due happens.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next_time().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let next = self.under_way.iter().position(|(due, _)| *due <= self.now);
            match next {
                Some(next) => {
                    let (_, activity) = self.under_way.remove(next);
                    self.end(activity);
                }
                None => {
                    self.wake = None;
                    self.tell(Event::TimePassed);
                }
            }
        }
        self.now = end;
    }

    /// The disk works again: what was being written is, too.
    pub fn disk_works(&mut self) {
        self.disk_hangs = None;
        for (due, activity) in &mut self.under_way {
            if matches!(activity, Activity::Save(_)) {
                *due = (*due).min(self.now + MOMENT);
            }
        }
    }

    /// What a keeper that came now would read of its instance.
    pub fn dbstate(&self) -> LocalState {
        let state = self.files.iter().rev().find_map(|file| match file {
            StateFile::Instance(state) => Some(state.clone()),
            _ => None,
        });
        state.map_or_else(LocalState::default, |state| LocalState {
            uid: state.uid,
            generation: state.generation,
            initializing: state.initializing,
            captured: state.init_pg_parameters,
        })
    }

    /// What hung goes on.
    pub fn let_go(&mut self) {
        self.instance.let_go();
        for (due, activity) in &mut self.under_way {
            if matches!(activity, Activity::Look(_) | Activity::Step(_)) {
                *due = (*due).min(self.now + MOMENT);
            }
        }
    }

    /// Time passes while the process is frozen: nothing is told, nothing ends.
    pub fn freeze(&mut self, time: Duration) {
        self.now += time;
    }

    /// Steps that were taken since `mark`, in words.
    pub fn steps_since(&self, mark: usize) -> String {
        let words: Vec<&str> = self.log[mark..].iter().map(|(_, word)| word.as_str()).collect();
        words.join(" ")
    }

    pub fn mark(&self) -> usize {
        self.log.len()
    }

    pub fn report(&self) -> &KeeperReport {
        self.reports.last().expect("a report")
    }

    pub fn problem(&self) -> String {
        self.report().activity.as_ref().map(|activity| activity.problem.clone()).unwrap_or_default()
    }

    /// Healthy, and the generation reached.
    pub fn reported(&self) -> (bool, i64) {
        let state = self.report().postgres_state.as_ref();
        state.map_or((false, 0), |state| (state.healthy, state.generation))
    }

    fn next_time(&self) -> Option<Duration> {
        self.under_way.iter().map(|(due, _)| *due).chain(self.wake).min()
    }

    fn begin(&mut self, effect: Effect) {
        let (takes, activity) = match effect {
            Effect::Look { within } => {
                self.looks += 1;
                (self.look_takes, Activity::Look(Work::look(self.instance.clone(), within)))
            }
            Effect::Take { step, request_timeout } => {
                assert!(!step.is_taken_by_machine(), "{step:?} is the machine's own");
                self.note(words(&Plan { steps: vec![(*step).clone()], ..Plan::default() }));
                let takes = match *step {
                    Step::BaseBackup { .. } => BASE_BACKUP,
                    Step::Stop => self.stop_takes,
                    Step::WaitReady(_) | Step::WaitFollowing(_) => self.ready_takes,
                    _ => MOMENT,
                };
                (takes, Activity::Step(Work::step(self.instance.clone(), *step, request_timeout)))
            }
            Effect::CallOff => {
                self.note("called-off".into());
                let step = self.under_way.iter_mut().find_map(|(due, activity)| match activity {
                    Activity::Step(work) => Some((due, work)),
                    _ => None,
                });
                let (due, work) = step.expect("a step is under way");
                work.called_off.set(true);
                *due = self.now + MOMENT;
                return;
            }
            Effect::ReadCluster { at_most } => {
                self.note("read".into());
                let young = self.confirmed.filter(|as_of| !at_most.is_zero() && *as_of + at_most >= self.now);
                self.questions += usize::from(young.is_none());
                match young.filter(|_| self.store == Store::Refuses) {
                    Some(as_of) => (MOMENT, Activity::RecallCluster(as_of)),
                    None => (self.reading_takes, Activity::ReadCluster(self.now)),
                }
            }
            Effect::ReadOwnReport => (MOMENT, Activity::ReadOwnReport),
            Effect::ReadReports => (MOMENT, Activity::ReadReports),
            Effect::WatchReceiver { process } => return self.watched.push(process),
            Effect::Knock { .. } => {
                self.knocks += 1;
                (MOMENT, Activity::Knock)
            }
            Effect::AskForPledge { request, within, .. } => {
                let instance = request.instance.to_string();
                self.asked.push((instance.clone(), self.now));
                let term = self.pledges.get(instance.as_str()).copied();
                let takes = if term.is_some() { self.pledge_takes } else { within };
                (takes, Activity::Pledge(request.instance, term))
            }
            Effect::AnswerPledge { term, .. } => return self.answered.push(term),
            Effect::Publish { report, ttl, limit } => {
                self.ttl = ttl;
                let takes = match self.store {
                    Store::Answers | Store::Refuses => MOMENT,
                    Store::Silent => limit,
                };
                (takes, Activity::Publish(report, self.now, self.store))
            }
            Effect::Save(file) if self.disk_hangs == Some(file.kind()) => (FOR_EVER, Activity::Save(*file)),
            Effect::Save(file) => (MOMENT, Activity::Save(*file)),
            Effect::WakeAt(at) => {
                self.wake = Some(at);
                return;
            }
            Effect::Say(saying) => return self.sayings.push(*saying),
            Effect::Measure(_) => return,
            Effect::End => {
                self.ended = true;
                return;
            }
            Effect::Exit(exit) => {
                self.exit = Some(exit);
                return;
            }
        };
        let twice = self.under_way.iter().any(|(_, other)| is_same_kind(other, &activity));
        assert!(!twice, "{activity:?} is asked for while another one is under way: {:?}", self.under_way);
        self.under_way.push((self.now + takes, activity));
    }

    fn note(&mut self, word: String) {
        self.log.push((self.now.as_millis(), word));
    }

    /// What was under way comes to its end, unless the instance hangs.
    fn end(&mut self, mut activity: Activity) {
        let ended = match &mut activity {
            Activity::Look(work) | Activity::Step(work) => work.poll(),
            _ => None,
        };
        match (ended, activity) {
            (Some(event), _) => self.tell(event),
            (None, hangs @ (Activity::Look(_) | Activity::Step(_))) => self.under_way.push((FOR_EVER, hangs)),
            (None, activity) => {
                let event = self.outcome(activity);
                self.tell(event);
            }
        }
    }

    fn outcome(&mut self, activity: Activity) -> Event {
        match activity {
            Activity::Look(_) | Activity::Step(_) => unreachable!("ends by itself"),
            Activity::ReadCluster(as_of) if self.store != Store::Answers => {
                Event::ClusterRead { read: ClusterRead::Unanswered("no answer".into()), as_of }
            }
            Activity::ReadCluster(as_of) | Activity::RecallCluster(as_of) => {
                let usable = UsableCluster::try_from(self.cluster.clone()).expect("usable cluster data");
                Event::ClusterRead { read: ClusterRead::Usable(Arc::new(usable)), as_of }
            }
            Activity::Knock => Event::Knocked(self.knocked),
            Activity::Pledge(instance, term) => Event::PledgeAnswered { instance, term },
            Activity::ReadOwnReport => Event::OwnReportRead(match self.store {
                Store::Silent | Store::Refuses => Err("no answer".into()),
                Store::Answers => {
                    Ok(self.namesake.clone().or_else(|| self.reports.last().cloned()).map(Box::new))
                }
            }),
            Activity::ReadReports => Event::ReportsRead(match (self.store, &self.others) {
                (Store::Answers, Ok(reports)) => Ok(Box::new(reports.clone())),
                (Store::Answers, Err(why)) => Err((*why).to_owned()),
                (Store::Silent | Store::Refuses, _) => Err("no answer".into()),
            }),
            Activity::Publish(_, _, Store::Silent | Store::Refuses) => {
                Event::ReportRefused("no answer".into())
            }
            Activity::Publish(report, asked, Store::Answers) => {
                self.confirmed = Some(asked);
                self.reports.push(*report);
                Event::ReportTaken
            }
            Activity::Save(file) => {
                let kind = file.kind();
                match self.disk_fails {
                    Some((failing, why)) if failing == kind => {
                        if self.failed_writes_arrive {
                            self.files.push(file);
                        }
                        Event::Saved(kind, Err(why.to_owned()))
                    }
                    _ => {
                        self.files.push(file);
                        Event::Saved(kind, Ok(()))
                    }
                }
            }
        }
    }
}

fn is_same_kind(one: &Activity, other: &Activity) -> bool {
    match (one, other) {
        (Activity::Save(one), Activity::Save(other)) => one.kind() == other.kind(),
        (Activity::Pledge(one, _), Activity::Pledge(other, _)) => one == other,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

/// A primary that serves.
pub fn serving(cluster: ClusterData) -> World {
    let mut world = World::with(cluster, DataKind::Primary);
    world.postgres_mut().standby_streams("bb");
    world.run(seconds(30));
    assert_eq!(world.reported(), (true, 3), "{:?}", world.log);
    assert!(world.postgres().admits_clients(), "{:?}", world.log);
    world
}

pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
