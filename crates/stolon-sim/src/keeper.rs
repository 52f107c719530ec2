//! A keeper's program: what stands around the machine of `stolon-core`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::{
    Advertised, Beginning, ClusterRead, DeathCause, Effect, Event as MachineEvent, Exit, Found, Identity,
    Knocked, LocalState, Machine, Measure, Picture, Predecessor, RewindCredentials, Saying, ServerDeath,
    StateFile, StepOutcome, StoreCommands, SyncAfterCrash, Transport, User,
};
use stolon_model::{
    BootUuid, ClusterData, ClusterDocument, InfoUid, InstanceState, InstanceUid, KeeperState, KeeperUid,
    Parameters, Pledge, Served, UsableCluster,
};

use crate::coverage::Point;
use crate::pledges::{Message, PORT, Questions};
use crate::postgres::{Disk, UnderWay};
use crate::random::Random;
use crate::restored::SetBack;
use crate::scenario::Program;
use crate::store::{Reply, Request};
use crate::taken_over::{Trust, Will};
use crate::world::{Answered, Event, World};

/// A supervisor starts a keeper that ended again after so long.
const SUPERVISOR: Duration = Duration::from_secs(2);
/// Of a hundred keepers that begin so many were given another port, or the like.
const OTHER_SETTINGS: u64 = 20;
/// Between looks whether what an earlier keeper left running has ended.
const POLL: Duration = Duration::from_millis(50);

/// Something that concerns a keeper.
#[derive(Clone, Debug)]
pub(crate) enum KeeperEvent {
    /// What an earlier keeper left running may have ended.
    Begins,
    /// The store answers.
    Reply(Answered),
    /// The document changed.
    ClusterChanged,
    /// A look ends where PostgreSQL answers, and at this moment at the latest.
    LookEnds { at_most: Duration },
    /// The step of this number may have ended.
    StepMayEnd(u32),
    /// The time has come that the machine asked for.
    TimePassed(crate::Time),
    /// A WAL receiver ended.
    ReceiverEnded(u32),
    /// What became of a connection to the primary.
    Knocked(Knocked),
    /// The server ended without being asked to.
    Died,
    /// A question or an answer of another program.
    Message(Message),
    /// A file may be written.
    Saved(Box<StateFile>),
    /// SIGTERM.
    ToldToEnd,
    /// SIGUSR1.
    ToldToDepart,
    /// It ends since then, by its own will.
    Ends { since: crate::Time },
}

const READ: u32 = 1;
const PUBLISH: u32 = 2;
const OWN_REPORT: u32 = 3;
const REPORTS: u32 = 4;

/// What a keeper keeps on its disk besides PGDATA.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateFiles {
    pub(crate) instance: InstanceState,
    keeper: KeeperState,
    proven: Option<Parameters>,
    served: Option<Served>,
    boot: Option<BootUuid>,
    pub(crate) pledged: Pledge,
}

/// A keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    uid: KeeperUid,
    random: Random,
    pub(crate) files: StateFiles,
    machine: Option<Machine>,
    pub(crate) step: Option<UnderWay>,
    pub(crate) steps: u32,
    /// Since when it knows that another instance than its own is the primary.
    pub(crate) deposed_since: Option<crate::Time>,
    pub(crate) questions: Questions,
    pub(crate) trust: Trust,
    pub(crate) will: Will,
    /// The highest epoch of a document that it has read.
    newest: u64,
    /// When a report of it was last taken by the store.
    pub(crate) reported_at: Option<crate::Time>,
    /// Its host was set back; none once it has again what it had.
    pub(crate) set_back: Option<SetBack>,
    /// When the machine wants to be told the time, and when it will be.
    wake_at: crate::Time,
    armed: Option<crate::Time>,
}

impl Keeper {
    pub(crate) fn new(index: u8, random: Random) -> Self {
        Keeper {
            uid: KeeperUid::from(format!("keeper{index}")),
            random,
            files: StateFiles::default(),
            machine: None,
            step: None,
            steps: 0,
            wake_at: crate::Time::ZERO,
            armed: None,
            deposed_since: None,
            questions: Questions::default(),
            trust: Trust::default(),
            will: Will::default(),
            newest: 0,
            reported_at: None,
            set_back: None,
        }
    }

    /// Its uid.
    pub(crate) fn uid(&self) -> &KeeperUid {
        &self.uid
    }

    /// What it shows of itself; none while it does not run.
    pub(crate) fn picture(&self) -> Option<Picture> {
        self.machine.as_ref().map(Machine::picture)
    }
}

impl World {
    pub(crate) fn keeper(&mut self, index: u8) -> &mut Keeper {
        &mut self.keepers[usize::from(index)]
    }

    /// Which keeper has this uid.
    pub(crate) fn keeper_index(&self, uid: &KeeperUid) -> Option<u8> {
        self.keepers.iter().position(|keeper| keeper.uid == *uid).map(|index| index as u8)
    }

    /// The instance whose data a keeper has by its own account.
    pub(crate) fn local_instance(&self, index: u8) -> Option<InstanceUid> {
        let instance = &self.keepers[usize::from(index)].files.instance;
        (!instance.uid.is_empty() && !instance.initializing).then(|| instance.uid.clone())
    }

    pub(crate) fn start_keeper(&mut self, index: u8, run: u32) {
        self.log.say(self.now, &format!("k{index}"), || "starts".to_owned());
        let it = self.keeper(index);
        it.step = None;
        it.machine = None;
        it.deposed_since = None;
        it.questions = Questions::default();
        it.trust = if it.random.chance(OTHER_SETTINGS) { Trust::Nothing } else { Trust::Healthy };
        it.will = Will::Stops;
        it.armed = None;
        self.after(Duration::from_millis(20), Event::Keeper(index, run, KeeperEvent::Begins));
    }

    fn identity(&mut self, index: u8) -> Identity {
        let it = self.keeper(index);
        let user = |name: &str| User {
            name: name.to_owned(),
            method: "md5".to_owned(),
            local_method: "peer".to_owned(),
            transport: Transport::Any,
        };
        Identity {
            keeper: it.uid.clone(),
            boot: BootUuid::from(format!("{}-{}", it.random.uid8(), it.random.uid8())),
            listen_address: format!("k{index}"),
            port: "5432".to_owned(),
            superuser: user("postgres"),
            rewind_credentials: RewindCredentials::Present,
            rewinder: None,
            replication: user("repl"),
            commands: StoreCommands::All,
            sync_after_crash: SyncAfterCrash::EachFile,
        }
    }

    fn begin_keeper(&mut self, index: u8) {
        let run = self.run_of(Program::Keeper(index)).unwrap_or_default();
        let found = self.found(index);
        if found == Found::Nothing && self.postgres[usize::from(index)].server.is_some() {
            self.end_what_was_left(index);
            return self.after(POLL, Event::Keeper(index, run, KeeperEvent::Begins));
        }
        self.keeper_finds_data(index);
        let identity = self.identity(index);
        let pledged =
            self.as_keepers_find_pledges(self.keepers[usize::from(index)].files.pledged.term.to_std());
        let it = self.keeper(index);
        let files = it.files.clone();
        let state = files.instance;
        let local = LocalState {
            uid: state.uid,
            generation: state.generation,
            initializing: state.initializing,
            captured: state.init_pg_parameters,
        };
        it.machine = Some(Machine::new(Beginning {
            identity,
            advertised: Advertised {
                address: format!("k{index}"),
                port: "5432".to_owned(),
                http_address: format!("k{index}:{PORT}"),
                can_be_primary: true,
                can_be_synchronous_replica: true,
                failover_priority: 1,
                zone: String::new(),
            },
            cluster: files.keeper.cluster_uid,
            local,
            proven: files.proven,
            served: files.served,
            predecessor: files.boot.map_or(Predecessor::None, Predecessor::Boot),
            pledged,
        }));
        self.tell_keeper(index, MachineEvent::Started(found));
    }

    pub(crate) fn keeper_event(&mut self, index: u8, event: KeeperEvent) {
        match event {
            KeeperEvent::Begins => self.begin_keeper(index),
            KeeperEvent::Reply(answered) => self.keeper_hears(index, answered),
            KeeperEvent::ClusterChanged => self.tell_keeper(index, MachineEvent::ClusterChanged),
            KeeperEvent::LookEnds { at_most } if self.is_silent(index) && self.now < at_most => {
                let (Some(run), pause) = (self.run_of(Program::Keeper(index)), POLL.min(at_most - self.now))
                else {
                    return;
                };
                self.after(pause, Event::Keeper(index, run, KeeperEvent::LookEnds { at_most }));
            }
            KeeperEvent::LookEnds { .. } => {
                let look = self.look(index);
                self.tell_keeper(index, MachineEvent::Looked(Box::new(look)));
            }
            KeeperEvent::StepMayEnd(number) => self.step_may_end(index, number),
            KeeperEvent::TimePassed(at) => {
                let now = self.now;
                let it = self.keeper(index);
                if it.armed != Some(at) {
                    return;
                }
                it.armed = None;
                match it.wake_at <= now {
                    true => self.tell_keeper(index, MachineEvent::TimePassed),
                    false => self.arm(index),
                }
            }
            KeeperEvent::Died => {
                let death = ServerDeath {
                    status: "signal 9".to_owned(),
                    explanation: "it was killed".to_owned(),
                    cause: DeathCause::Other,
                };
                self.tell_keeper(index, MachineEvent::ServerDied(death));
            }
            KeeperEvent::ReceiverEnded(receiver) => self.tell_of_receiver(index, receiver),
            KeeperEvent::Knocked(found) => self.tell_keeper(index, MachineEvent::Knocked(found)),
            KeeperEvent::Message(message) => self.message(index, message),
            KeeperEvent::Saved(file) => self.save(index, *file),
            KeeperEvent::ToldToEnd => self.keeper_is_told_to_end(index),
            KeeperEvent::ToldToDepart => self.keeper_is_told_to_depart(index),
            KeeperEvent::Ends { since } => self.keeper_ends(index, since),
        }
    }

    fn keeper_hears(&mut self, index: u8, answered: Answered) {
        let silence = || "the store does not answer".to_owned();
        let event = match answered.token {
            READ => self.read_cluster(index, &answered),
            PUBLISH => {
                self.confirmed(Program::Keeper(index), &answered);
                match answered.reply {
                    Reply::Everything(_) => MachineEvent::ReportTaken,
                    _ => MachineEvent::ReportRefused(silence()),
                }
            }
            REPORTS => MachineEvent::ReportsRead(match answered.reply {
                Reply::Everything(read) => Ok(Box::new(self.reports_as_keepers_see_them(&read))),
                _ => Err(silence()),
            }),
            _ => MachineEvent::OwnReportRead(match answered.reply {
                Reply::OwnReport(report) => Ok(report.map(|report| Box::new((*report).clone()))),
                _ => Err(silence()),
            }),
        };
        self.tell_keeper(index, event);
    }

    /// The machine is told what happened, and has its way.
    pub(crate) fn tell_keeper(&mut self, index: u8, event: MachineEvent) {
        let now = self.local(Program::Keeper(index));
        let Some(machine) = &mut self.keeper(index).machine else { return };
        let effects = machine.handle(now, event);
        for effect in effects {
            self.keeper_effect(index, effect);
        }
    }

    fn keeper_effect(&mut self, index: u8, effect: Effect) {
        let program = Program::Keeper(index);
        let Some(run) = self.run_of(program) else { return };
        match effect {
            Effect::Look { within } => {
                let delay = self.random.millis(2, 15).min(within);
                let at_most = self.now + within;
                self.after(delay, Event::Keeper(index, run, KeeperEvent::LookEnds { at_most }));
            }
            Effect::Take { step, request_timeout } => self.begin_step(index, *step, request_timeout),
            Effect::CallOff => {
                self.coverage.reached(Point::CalledOff);
                self.call_off(index);
            }
            Effect::ReadCluster { at_most } => self.look_up(program, READ, at_most),
            Effect::ReadOwnReport => {
                let uid = self.keeper(index).uid.clone();
                self.ask(program, OWN_REPORT, Request::ReadKeeperReport(uid));
            }
            Effect::ReadReports => self.ask(program, REPORTS, Request::Read),
            Effect::WatchReceiver { process } => self.watch_receiver(index, process),
            Effect::Knock { address, within, .. } => self.knock(index, &address, within),
            Effect::AskForPledge { address, request, within } => {
                self.ask_for_pledge(index, &address, request, within);
            }
            Effect::AnswerPledge { number, term } => self.answer_pledge(index, number, term),
            Effect::Publish { mut report, ttl, limit } => {
                report.info_uid = InfoUid::from(self.keeper(index).random.uid8());
                self.ask_within(program, PUBLISH, limit, Request::PutKeeperReport(Rc::new(*report), ttl));
            }
            Effect::Save(file) => {
                let delay = self.random.millis(1, 6);
                self.after(delay, Event::Keeper(index, run, KeeperEvent::Saved(file)));
            }
            Effect::WakeAt(local) => {
                self.keeper(index).wake_at = self.host(program).when(local, self.now);
                self.arm(index);
            }
            Effect::Say(saying) => self.keeper_says(index, &saying),
            Effect::End => {
                self.after(Duration::ZERO, Event::Keeper(index, run, KeeperEvent::Ends { since: self.now }))
            }
            Effect::Measure(Measure::LeaseOver(is_over)) => self.note_lease(is_over),
            Effect::Measure(_) => {}
            Effect::Exit(why) => self.keeper_exits(index, &why),
        }
    }

    /// Have the machine told the time when it wants to be. A wake that is put off again and again costs one event, not many.
    fn arm(&mut self, index: u8) {
        let Some(run) = self.run_of(Program::Keeper(index)) else { return };
        let it = self.keeper(index);
        let at = it.wake_at;
        if it.armed.is_none_or(|armed| armed > at) {
            it.armed = Some(at);
            self.at(at, Event::Keeper(index, run, KeeperEvent::TimePassed(at)));
        }
    }

    fn keeper_says(&mut self, index: u8, saying: &Saying) {
        if let Saying::AwaitsPledge { .. } = saying {
            self.coverage.reached(Point::PledgeAwaited);
        }
        if let Saying::AwaitsHeir(_) = saying {
            self.coverage.reached(Point::HeirAwaited);
        }
        if let Saying::Parts(parting) = saying {
            self.keeper_parts(parting);
        }
        if let Saying::Begins(step) = saying {
            if let Some(name) = step.name() {
                self.log.say(self.now, &format!("k{index}"), || format!("begins {name}"));
            }
            return;
        }
        self.log.say(self.now, &format!("k{index}"), || format!("{saying:?}"));
    }

    fn keeper_exits(&mut self, index: u8, why: &Exit) {
        self.log.say(self.now, &format!("k{index}"), || format!("exits: {why:?}"));
        self.kill_program(Program::Keeper(index));
        self.after(SUPERVISOR, Event::ProgramStarts(Program::Keeper(index)));
    }

    fn save(&mut self, index: u8, file: StateFile) {
        let run = self.run_of(Program::Keeper(index)).unwrap_or_default();
        let kind = file.kind();
        let saved = match self.postgres[usize::from(index)].troubles.disk {
            Disk::Hung => {
                let again = Event::Keeper(index, run, KeeperEvent::Saved(Box::new(file)));
                return self.after(Duration::from_millis(500), again);
            }
            Disk::Full | Disk::ReadOnly => Err("the disk is full, or can only be read".to_owned()),
            Disk::Works => Ok(()),
        };
        if saved.is_ok() {
            let files = &mut self.keeper(index).files;
            match file {
                StateFile::Instance(state) => files.instance = state,
                StateFile::Keeper(state) => files.keeper = state,
                StateFile::Proven(parameters) => files.proven = Some(parameters),
                StateFile::Served(served) => files.served = Some(served),
                StateFile::Boot(boot) => files.boot = Some(boot),
                StateFile::Pledged(pledge) => files.pledged = pledge,
            }
        }
        self.tell_keeper(index, MachineEvent::Saved(kind, saved));
    }

    /// The server of a keeper is gone: its parent notices at once, unless it had it stopped.
    pub(crate) fn tell_of_death(&mut self, index: u8) {
        let Some(run) = self.run_of(Program::Keeper(index)) else { return };
        let expected = self.keeper(index).step.as_ref().is_some_and(UnderWay::ends_the_server);
        if !expected {
            let delay = self.random.millis(1, 8);
            self.after(delay, Event::Keeper(index, run, KeeperEvent::Died));
        }
    }

    fn read_cluster(&mut self, index: u8, answered: &Answered) -> MachineEvent {
        let Some(copy) = self.known_by(Program::Keeper(index), answered) else {
            let read = ClusterRead::Unanswered("the store does not answer".to_owned());
            return MachineEvent::ClusterRead { read, as_of: answered.asked };
        };
        let (as_of, document) = (copy.as_of(), copy.seen.document.clone());
        self.note_deposed(index, document.as_ref().map(|(document, _)| &**document));
        let read = match document {
            None => ClusterRead::Absent,
            Some((document, revision)) => self.as_cluster(index, &document, revision),
        };
        MachineEvent::ClusterRead { read, as_of }
    }

    /// A keeper learns who the primary is. An older document than the one that counts tells it nothing, nor does one that is older
    /// than what it has read before: it may still hold a copy of that when the store has another one.
    fn note_deposed(&mut self, index: u8, document: Option<&ClusterDocument>) {
        let epoch = document.and_then(|document| document.cluster.as_ref()?.epoch).unwrap_or(0);
        let newest = &mut self.keeper(index).newest;
        *newest = epoch.max(*newest);
        let is_old = epoch < *newest || self.is_set_back();
        // What is served of a cluster that was made anew belongs to nobody, and is left alone until its keeper is registered.
        let uid = &self.keepers[usize::from(index)].uid;
        let knows_it = |document: &&ClusterDocument| {
            document.keepers.as_ref().is_some_and(|keepers| keepers.contains_key(uid))
        };
        let other = document.filter(|_| !is_old).filter(knows_it).and_then(|document| {
            let primary = document.cluster.as_ref()?.status.primary.as_ref()?;
            let instance = document.instances.as_ref()?.get(primary)?;
            Some(instance.spec.keeper_uid != *self.keepers[usize::from(index)].uid())
        });
        let now = self.now;
        let since = &mut self.keeper(index).deposed_since;
        match other {
            Some(true) => drop(since.get_or_insert(now)),
            Some(false) | None => *since = None,
        }
    }

    /// Keepers read the same documents: each is only understood once.
    fn as_cluster(&mut self, index: u8, document: &Rc<ClusterDocument>, revision: u64) -> ClusterRead {
        if let Some((understood, read)) = &self.understood
            && *understood == revision
        {
            return read.clone();
        }
        let usable = ClusterData::try_from((**document).clone()).and_then(|mut data| {
            self.as_keepers_read_it(index, &mut data);
            UsableCluster::try_from(data)
        });
        let read = match usable {
            Err(bad) => ClusterRead::Invalid(bad.to_string()),
            Ok(cluster) => ClusterRead::Usable(Arc::new(cluster)),
        };
        // Without a guard each may read something else.
        self.understood = self.sabotage.is_none().then(|| (revision, read.clone()));
        read
    }

    /// A step has ended.
    pub(crate) fn step_ended(&mut self, index: u8, outcome: StepOutcome) {
        if let StepOutcome::Failed(failure) = &outcome {
            self.log.say(self.now, &format!("k{index}"), || {
                format!("step failed: {:?}: {}", failure.kind, failure.sentence)
            });
        }
        self.keeper(index).step = None;
        self.tell_keeper(index, MachineEvent::StepEnded(outcome));
    }
}
