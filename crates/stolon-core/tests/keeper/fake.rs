//! A keeper's machine with a fake PostgreSQL, a fake store and a fake disk around it, in virtual time. The contract of the machine is
//! checked with every effect: nothing is asked for twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::*;
use stolon_core::postgres::Version;
use stolon_model::{ClusterData, KeeperReport, Lsn, Served, Timeline, UsableCluster};

use crate::given::*;

/// What a store is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Answers,
    Silent,
}

/// A model of one PostgreSQL with switches for its failures.
pub struct FakeInstance {
    pub version: Result<Version, String>,
    pub control: ControlLook,
    pub data: Data,
    pub running: bool,
    /// It runs and answers.
    pub answers: bool,
    pub in_recovery: bool,
    pub timeline: u64,
    pub lsn: u64,
    pub replication: Vec<ReplicationRow>,
    /// Written, and in force.
    pub config: Option<Config>,
    pub in_force: Option<Config>,
    /// In force, but for what a start alone takes.
    pub started_with: Option<Config>,
    /// Steps, in the words of [`words`], that fail, and how.
    pub failures: BTreeMap<String, FailureKind>,
    pub rejected: Vec<RejectedSetting>,
}

impl FakeInstance {
    fn new() -> Self {
        FakeInstance {
            version: Ok(V15),
            control: ControlLook::Demands(Demands::default()),
            data: Data::Absent,
            running: false,
            answers: true,
            in_recovery: false,
            timeline: 1,
            lsn: 1000,
            replication: Vec::new(),
            config: None,
            in_force: None,
            started_with: None,
            failures: BTreeMap::new(),
            rejected: Vec::new(),
        }
    }

    /// A standby that flushes everything at once.
    pub fn standby_streams(&mut self, uid: &str) {
        self.replication = vec![ReplicationRow {
            application_name: format!("stolon_{uid}"),
            sync_state: "sync".into(),
            flush_lsn: Some(Lsn(u64::MAX)),
        }];
    }

    pub fn dies(&mut self) -> ServerDeath {
        self.running = false;
        ServerDeath { status: "killed".into(), explanation: "somebody did".into(), cause: DeathCause::Other }
    }

    /// Whether clients are let in by the lines in force.
    pub fn admits_clients(&self) -> bool {
        let is_for_everybody = |line: &HbaLine| match line {
            HbaLine::Rule(rule) => rule.user == HbaUser::All,
            HbaLine::Verbatim(_) => true,
        };
        self.running && self.in_force.as_ref().is_some_and(|config| config.hba.iter().any(is_for_everybody))
    }

    fn look(&self) -> Look {
        let names = |config: &Config| config.parameters.get("synchronous_standby_names").cloned();
        let answer = || Answer {
            system_identifier: SYSTEM.into(),
            timeline: Timeline(self.timeline),
            lsn: Lsn(self.lsn),
            in_recovery: self.in_recovery,
            replication: self.replication.clone(),
            pending_restart: self.pending_restart(),
            synchronous_standby_names: self.in_force.as_ref().and_then(names).unwrap_or_default(),
            ..Answer::default()
        };
        Look {
            version: self.version.clone(),
            data: self.data.clone(),
            server: match (self.running, self.answers) {
                (false, _) => ServerLook::Stopped,
                (true, false) => ServerLook::Silent("no answer".into()),
                (true, true) => ServerLook::Answering(Box::new(answer())),
            },
            control: self.control.clone(),
            slots_on_disk: BTreeSet::new(),
            alter_system: AlterSystem::Refused,
        }
    }

    /// Of the parameters that only a start takes, those that the tests change.
    fn pending_restart(&self) -> BTreeMap<String, String> {
        let value = |config: &Option<Config>, name: &str| config.as_ref()?.parameters.get(name).cloned();
        let waits = |name: &&str| value(&self.started_with, *name) != value(&self.in_force, *name);
        let in_force = |name: &str| (name.to_owned(), value(&self.started_with, name).unwrap_or_default());
        [NEEDS_RESTART, "max_connections"].into_iter().filter(waits).map(in_force).collect()
    }

    /// A parameter as the server was started with it.
    pub fn started_with(&self, name: &str) -> Option<&str> {
        self.started_with.as_ref()?.parameters.get(name).map(String::as_str)
    }

    fn take(&mut self, step: &Step) -> StepOutcome {
        let word = words(&Plan { steps: vec![step.clone()], ..Plan::default() });
        let kind = word.split(':').next().and_then(|word| self.failures.get(word)).cloned();
        if let Some(kind) = kind {
            return StepOutcome::Failed(StepFailure { kind, sentence: format!("{word} failed"), hint: None });
        }
        match step {
            Step::Stop => self.running = false,
            Step::Wipe(_) => self.data = Data::Absent,
            Step::InitDb(_) => self.data = present(DataKind::Primary),
            Step::BaseBackup { .. } => self.data = present(DataKind::Standby),
            Step::CheckSettings { .. } => {
                return StepOutcome::Done(Learned::Rejected(std::mem::take(&mut self.rejected)));
            }
            Step::Configure { config, .. } => self.config = Some((**config).clone()),
            Step::Start(_) => {
                self.running = true;
                self.in_recovery = self.data == present(DataKind::Standby);
                (self.in_force, self.started_with) = (self.config.clone(), self.config.clone());
            }
            // Who ends sessions has the access rules read first.
            Step::TerminateClients => self.in_force = self.config.clone(),
            Step::Reload => {
                self.in_force = self.config.clone();
                return StepOutcome::Done(Learned::NotInForce(Vec::new()));
            }
            Step::Promote => {
                (self.in_recovery, self.data) = (false, present(DataKind::Primary));
                self.timeline += 1;
            }
            Step::EnsureSlots(_) => return StepOutcome::Done(Learned::Slots(SlotChanges::default())),
            _ => {}
        }
        StepOutcome::DONE
    }
}

/// What is under way around the machine.
#[derive(Debug)]
enum Activity {
    Look,
    Step(Step),
    /// Asked for at that time.
    ReadCluster(Duration),
    ReadOwnReport,
    ReadReports,
    /// Asked for at that time, of a store that answers or does not.
    Publish(Box<KeeperReport>, Duration, Store),
    Save(StateFile),
    Told(Event),
}

/// A keeper and its surroundings.
pub struct World {
    machine: Machine,
    pub now: Duration,
    pub postgres: FakeInstance,
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
    under_way: Vec<(Duration, Activity)>,
    wake: Option<Duration>,
    /// So many looks were asked for.
    pub looks: usize,
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
}

/// A parameter that only a start takes, and no limit of a standby.
pub const NEEDS_RESTART: &str = "shared_buffers";
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
        let beginning = Beginning {
            identity: identity(),
            advertised: Advertised {
                address: "10.0.0.1".into(),
                port: "5432".into(),
                can_be_primary: true,
                can_be_synchronous_replica: true,
            },
            cluster: "".into(),
            local,
            proven: None,
            served,
            predecessor: Predecessor::Unknown,
        };
        let mut world = World {
            machine: Machine::new(beginning),
            now: Duration::ZERO,
            postgres: FakeInstance { data, ..FakeInstance::new() },
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
            under_way: Vec::new(),
            wake: None,
            looks: 0,
            confirmed: None,
            questions: 0,
            ttl: Duration::ZERO,
            log: Vec::new(),
            reports: Vec::new(),
            files: Vec::new(),
            sayings: Vec::new(),
            exit: None,
        };
        world.tell(Event::Started);
        world
    }

    /// A keeper whose instance `us` is complete and stopped.
    pub fn with(cluster: ClusterData, kind: DataKind) -> Self {
        let local = LocalState { uid: "us".into(), generation: 2, ..LocalState::default() };
        World::new(cluster, local, present(kind))
    }

    /// The machine is told of something, now.
    pub fn tell(&mut self, event: Event) {
        for effect in self.machine.handle(self.now, event) {
            self.begin(effect);
        }
    }

    /// The server ends by itself.
    pub fn server_dies(&mut self) {
        let death = self.postgres.dies();
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
                    let event = self.end(activity);
                    self.tell(event);
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
            Effect::Look { .. } => {
                self.looks += 1;
                (self.look_takes, Activity::Look)
            }
            Effect::Take { step, .. } => {
                assert!(!step.is_taken_by_machine(), "{step:?} is the machine's own");
                self.note(words(&Plan { steps: vec![(*step).clone()], ..Plan::default() }));
                let takes = match *step {
                    Step::BaseBackup { .. } => BASE_BACKUP,
                    Step::Stop => self.stop_takes,
                    Step::WaitReady(_) => self.ready_takes,
                    _ => MOMENT,
                };
                (takes, Activity::Step(*step))
            }
            Effect::CallOff => {
                self.note("called-off".into());
                let kind = FailureKind::CalledOff;
                let failure = StepFailure { kind, sentence: "called off".into(), hint: None };
                let is_step = |(_, activity): &(Duration, Activity)| matches!(activity, Activity::Step(_));
                assert!(self.under_way.iter().any(is_step), "no step is under way");
                self.under_way.retain(|under_way| !is_step(under_way));
                (MOMENT, Activity::Told(Event::StepEnded(StepOutcome::Failed(failure))))
            }
            Effect::ReadCluster { at_most } => {
                self.note("read".into());
                let is_young = self.confirmed.is_some_and(|as_of| as_of + at_most >= self.now);
                self.questions += usize::from(!is_young);
                (MOMENT, Activity::ReadCluster(self.now))
            }
            Effect::ReadOwnReport => (MOMENT, Activity::ReadOwnReport),
            Effect::ReadReports => (MOMENT, Activity::ReadReports),
            Effect::Publish { report, ttl, limit } => {
                self.ttl = ttl;
                let takes = match self.store {
                    Store::Answers => MOMENT,
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

    fn end(&mut self, activity: Activity) -> Event {
        match activity {
            Activity::Look => Event::Looked(Box::new(self.postgres.look())),
            Activity::Step(step) => Event::StepEnded(self.postgres.take(&step)),
            Activity::ReadCluster(as_of) => {
                let usable = UsableCluster::try_from(self.cluster.clone()).expect("usable cluster data");
                let read = match self.store {
                    Store::Silent => ClusterRead::Unanswered("no answer".into()),
                    Store::Answers => ClusterRead::Usable(Arc::new(usable)),
                };
                Event::ClusterRead { read, as_of }
            }
            Activity::ReadOwnReport => Event::OwnReportRead(match self.store {
                Store::Silent => Err("no answer".into()),
                Store::Answers => {
                    Ok(self.namesake.clone().or_else(|| self.reports.last().cloned()).map(Box::new))
                }
            }),
            Activity::ReadReports => Event::ReportsRead(match (self.store, &self.others) {
                (Store::Answers, Ok(reports)) => Ok(Box::new(reports.clone())),
                (Store::Answers, Err(why)) => Err((*why).to_owned()),
                (Store::Silent, _) => Err("no answer".into()),
            }),
            Activity::Publish(_, _, Store::Silent) => Event::ReportRefused("no answer".into()),
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
            Activity::Told(event) => event,
        }
    }
}

fn is_same_kind(one: &Activity, other: &Activity) -> bool {
    match (one, other) {
        (Activity::Save(one), Activity::Save(other)) => one.kind() == other.kind(),
        (Activity::Step(_) | Activity::Told(_), Activity::Step(_) | Activity::Told(_)) => true,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}
