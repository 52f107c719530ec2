//! What a keeper sees of the model, and what its steps do to it: the model's side of the contract between a keeper's machine and an
//! instance (`stolon_core::keeper`, "Looks and steps").

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::{
    AlterSystem, Answer, Config, ControlLook, Data, DataKind, DeathCause, DiskUse, FailureKind, Intake,
    Learned, Look, OldData, PasswordProtocol, Present, Probed, ReplicationRow, Room, ServerDeath, ServerLook,
    SlotChanges, SourceTrouble, Step, StepFailure, StepOutcome, Upstream, WalReceiver,
};
use stolon_core::postgres::Version;
use stolon_core::wal_file;
use stolon_model::{Lsn, STOLON_PREFIX};

use super::{Condition, DataDirectory, Disk, Phase, Position};
use crate::Time;
use crate::coverage::Point;
use crate::host::HostId;
use crate::invariants::Invariant;
use crate::keeper::KeeperEvent;
use crate::names::Names;
use crate::sabotage::Guard;
use crate::scenario::Program;
use crate::world::{Event, World};

const VERSION: Version = Version { major: 15, minor: 4 };
/// Between looks whether a step has ended.
const POLL: Duration = Duration::from_millis(20);
/// A server that does not stop in time is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);
const SLOT_PATIENCE: Duration = Duration::from_secs(10);

/// A step under way.
#[derive(Clone, Debug)]
pub(crate) struct UnderWay {
    number: u32,
    step: Step,
    since: Time,
    request_timeout: Duration,
}

impl UnderWay {
    /// The end of the server is what it is for.
    pub(crate) fn ends_the_server(&self) -> bool {
        matches!(self.step, Step::Stop | Step::HandOver | Step::Kill)
    }
}

/// Whether a step has ended.
enum Poll {
    Ended(StepOutcome),
    Again(Duration),
}

fn failed(kind: FailureKind, sentence: &str) -> Poll {
    Poll::Ended(StepOutcome::Failed(StepFailure { kind, sentence: sentence.to_owned(), hint: None }))
}

fn exited(sentence: &str) -> Poll {
    let death = ServerDeath {
        status: "exit status 1".to_owned(),
        explanation: sentence.to_owned(),
        cause: DeathCause::Other,
    };
    failed(FailureKind::ServerExited(death), sentence)
}

impl World {
    /// A look that finds a server, and gets no answer.
    pub(crate) fn is_silent(&self, keeper: u8) -> bool {
        let postgres = &self.postgres[usize::from(keeper)];
        let up = postgres.server.as_ref().is_some_and(|server| server.phase == Phase::Up);
        up && (postgres.troubles.postmaster_hangs || postgres.troubles.disk == Disk::Hung)
    }

    /// One look, as of now.
    pub(crate) fn look(&self, keeper: u8) -> Look {
        let postgres = &self.postgres[usize::from(keeper)];
        let data = match &postgres.data {
            None => Data::Absent,
            Some(data) => Data::Present(Present {
                version: VERSION,
                kind: data.kind,
                system_identifier: self.histories.system(data.written.branch).to_string(),
            }),
        };
        let server = match &postgres.server {
            None => ServerLook::Stopped,
            Some(server) if server.phase != Phase::Up => ServerLook::Starting,
            Some(_) if postgres.troubles.postmaster_hangs => {
                ServerLook::Silent("no answer in time".to_owned())
            }
            Some(_) => self.answer_of(keeper),
        };
        let slots = postgres.data.iter().flat_map(|data| data.slots.keys().cloned()).collect();
        Look {
            version: Ok(VERSION),
            data,
            server,
            control: ControlLook::NotRead,
            ended: postgres.data.as_ref().and_then(|data| data.ended).filter(|_| postgres.server.is_none()),
            checkpoint: None,
            slots_on_disk: slots,
            room: Room { probes: vec![(DiskUse::Data, self.probed(keeper))], ..Room::default() },
            alter_system: AlterSystem::Refused,
        }
    }

    /// What becomes of a few bytes on the disk. One that hangs has done so for longer than anybody's patience: a keeper that waits only shows
    /// the same later.
    fn probed(&self, keeper: u8) -> Probed {
        match self.postgres[usize::from(keeper)].troubles.disk {
            Disk::Works => Probed::Written,
            Disk::Full => Probed::NoSpace,
            Disk::ReadOnly => Probed::Failed("read-only file system".to_owned()),
            Disk::Hung => Probed::UnderWay(Duration::from_secs(3600)),
        }
    }

    fn answer_of(&self, keeper: u8) -> ServerLook {
        let postgres = &self.postgres[usize::from(keeper)];
        let (Some(server), Some(data)) = (&postgres.server, &postgres.data) else {
            return ServerLook::Stopped;
        };
        let branch = data.written.branch;
        let parameter = |name: &str| server.config.parameters.get(name).cloned().unwrap_or_default();
        let replication = server.senders.values().filter(|sender| sender.flushed.is_some());
        let mut answer = Answer {
            system_identifier: self.histories.system(branch).to_string(),
            timeline: self.histories.timeline(branch),
            lsn: data.flushed,
            in_recovery: server.in_recovery,
            receiver: match server.in_recovery && server.upstream.is_none() {
                true => WalReceiver::Absent(None),
                false => WalReceiver::Streaming,
            },
            intake: match server.in_recovery
                && server.upstream.is_none()
                && server.config.recovery.upstream.is_none()
            {
                true => Intake::Shut,
                false => Intake::Open,
            },
            receiver_process: server.upstream.is_some().then_some(postgres.receiver),
            history: self.histories.forks(branch),
            configured_parameters: Arc::clone(&data.configured),
            passwords: PasswordProtocol::Scram,
            replication: replication
                .map(|sender| ReplicationRow {
                    application_name: sender.name.clone(),
                    sync_state: server.waits_for.state_of(&sender.name, &server.senders).to_owned(),
                    flush_lsn: sender.flushed,
                    replay_lag: None,
                })
                .collect(),
            slots: Vec::new(),
            synchronous_standby_names: parameter("synchronous_standby_names"),
            pending_restart: BTreeMap::new(),
            started: server.started,
            archiver: None,
            older_wal_file: wal_file::name(self.histories.timeline(branch), data.oldest_wal()),
        };
        self.as_keepers_see_it(&mut answer);
        ServerLook::Answering(Box::new(answer))
    }

    /// A step begins.
    pub(crate) fn begin_step(&mut self, keeper: u8, step: Step, request_timeout: Duration) {
        if let Some(under_way) = &self.keepers[usize::from(keeper)].step {
            let sentence = format!("k{keeper} begins {step:?} while {:?} is under way", under_way.step);
            return self.violate(Invariant::Contract, || sentence);
        }
        let delay = self.first_part(keeper, &step);
        let since = self.now;
        let it = self.keeper(keeper);
        it.steps += 1;
        let number = it.steps;
        it.step = Some(UnderWay { number, step, since, request_timeout });
        self.poll_step(keeper, number, delay);
    }

    fn poll_step(&mut self, keeper: u8, number: u32, delay: Duration) {
        if let Some(run) = self.run_of(Program::Keeper(keeper)) {
            self.after(delay, Event::Keeper(keeper, run, KeeperEvent::StepMayEnd(number)));
        }
    }

    /// What is done at once, and how long the rest takes.
    fn first_part(&mut self, keeper: u8, step: &Step) -> Duration {
        match step {
            Step::Stop | Step::HandOver => {
                self.stop_server(keeper);
                POLL
            }
            // What waits for a disk ends before it could say anything.
            Step::Kill if self.lacks(Guard::DeposedOnHungDisk) => POLL,
            Step::Kill => {
                self.crash_server(keeper, "killed by its keeper");
                POLL
            }
            Step::InitDb(_) => self.random.millis(500, 2_000),
            Step::BaseBackup { old_data: OldData::DeleteFirst, .. } => {
                self.check_destruction(keeper);
                self.postgres[usize::from(keeper)].data = None;
                self.random.millis(500, 15_000)
            }
            Step::BaseBackup { .. } => self.random.millis(500, 15_000),
            Step::Rewind { upstream, .. } => self.begin_rewind(keeper, upstream),
            Step::Promote => {
                self.promote_server(keeper);
                POLL
            }
            Step::CheckSettings { .. } => self.random.millis(30, 120),
            _ => self.random.millis(1, 10),
        }
    }

    /// Rewinding changes data from its first moment; what cannot begin changes nothing.
    fn begin_rewind(&mut self, keeper: u8, upstream: &Upstream) -> Duration {
        if self.source(keeper, upstream).is_some() {
            self.check_destruction(keeper);
            if let Some(data) = &mut self.postgres[usize::from(keeper)].data {
                data.condition = Condition::HalfRewound;
            }
        }
        self.random.millis(300, 4_000)
    }

    pub(crate) fn step_may_end(&mut self, keeper: u8, number: u32) {
        let Some(under_way) = self.keeper(keeper).step.clone().filter(|it| it.number == number) else {
            return;
        };
        match self.second_part(keeper, &under_way) {
            Poll::Again(delay) => self.poll_step(keeper, number, delay),
            Poll::Ended(outcome) => self.step_ended(keeper, outcome),
        }
    }

    /// The step under way is of no use any more.
    pub(crate) fn call_off(&mut self, keeper: u8) {
        if self.keeper(keeper).step.is_none() {
            return;
        }
        let it = self.keeper(keeper);
        it.steps += 1;
        let number = it.steps;
        let Some(under_way) = &mut it.step else { return };
        under_way.number = number;
        // What is called off ends, soon, as a step that waits for nothing.
        under_way.step = Step::Reobserve;
        self.poll_step(keeper, number, POLL);
    }

    fn second_part(&mut self, keeper: u8, under_way: &UnderWay) -> Poll {
        let waited = self.now.saturating_sub(under_way.since);
        match &under_way.step {
            Step::Stop | Step::HandOver => self.stopping(keeper, waited),
            Step::SetAside { .. } => {
                self.postgres[usize::from(keeper)].data = None;
                Poll::Ended(StepOutcome::Done(Learned::KeptAt("aside".to_owned())))
            }
            Step::Wipe(_) => {
                self.check_destruction(keeper);
                self.postgres[usize::from(keeper)].data = None;
                Poll::Ended(StepOutcome::DONE)
            }
            Step::InitDb(_) => self.initdb(keeper),
            Step::Restore(_) | Step::WaitRecoveryEnd(_) => {
                failed(FailureKind::Other, "there are no backups here")
            }
            Step::ExamineSource { upstream, system_identifier, slot } => {
                self.examine(keeper, upstream, system_identifier.as_deref(), slot, waited)
            }
            Step::BaseBackup { upstream, slot, .. } => self.base_backup(keeper, upstream, slot),
            Step::Rewind { upstream, .. } => self.rewind(keeper, upstream),
            Step::CheckSettings { .. } => Poll::Ended(StepOutcome::Done(Learned::Rejected(Vec::new()))),
            Step::Configure { config, .. } => self.configure(keeper, config),
            Step::Start(_) => match self.start_server(keeper) {
                true => Poll::Ended(StepOutcome::DONE),
                false => exited("it ended at once"),
            },
            Step::WaitReady(limit) | Step::WaitFollowing(limit) => self.wait_ready(keeper, waited, *limit),
            Step::CaptureParameters => {
                let data = self.postgres[usize::from(keeper)].data.as_ref();
                let parameters = data.map(|data| data.config.parameters.clone()).unwrap_or_default();
                Poll::Ended(StepOutcome::Done(Learned::Configured(parameters)))
            }
            Step::SetUpRoles => Poll::Ended(StepOutcome::Done(Learned::Roles(Vec::new()))),
            Step::Reload => self.reload(keeper, waited, under_way.request_timeout),
            Step::Promote => self.promoting(keeper, waited),
            Step::EnsureSlots(wanted) => self.ensure_slots(keeper, wanted, waited, under_way.request_timeout),
            Step::TerminateClients => match self.accepts_connections(keeper) {
                true => {
                    // The rules of access are read again first, so that whoever is sent away does not come back.
                    self.take_configuration(keeper);
                    let ended = self.terminate_clients(keeper);
                    Poll::Ended(StepOutcome::Done(Learned::SessionsEnded(ended)))
                }
                false => unanswered(waited, under_way.request_timeout),
            },
            Step::Reobserve => failed(FailureKind::CalledOff, "called off"),
            _ => Poll::Ended(StepOutcome::DONE),
        }
    }

    fn stopping(&mut self, keeper: u8, waited: Duration) -> Poll {
        let postgres = &self.postgres[usize::from(keeper)];
        if postgres.server.is_none() {
            return Poll::Ended(StepOutcome::DONE);
        }
        if waited > STOP_PATIENCE {
            self.end_what_does_not_end(keeper);
        }
        match waited > STOP_PATIENCE * 3 {
            true => failed(FailureKind::TimedOut, "PostgreSQL does not stop"),
            false => Poll::Again(POLL),
        }
    }

    /// `SIGKILL` of the whole group; nothing ends while its disk does not answer.
    pub(crate) fn end_what_does_not_end(&mut self, keeper: u8) {
        let postgres = &self.postgres[usize::from(keeper)];
        let hung = postgres.troubles.postmaster_hangs;
        if (hung || postgres.server.is_some()) && postgres.troubles.disk != Disk::Hung {
            self.crash_server(keeper, "killed by its keeper");
        }
    }

    fn initdb(&mut self, keeper: u8) -> Poll {
        let postgres = &self.postgres[usize::from(keeper)];
        match postgres.troubles.disk {
            Disk::Works => {}
            Disk::Hung => return Poll::Again(Duration::from_millis(500)),
            Disk::Full | Disk::ReadOnly => return failed(FailureKind::DiskFullHere, "no space"),
        }
        let system = 7_000_000_000_000_000_000 + self.random.below(1_000_000_000);
        let branch = self.histories.initdb(system);
        let lsn = Lsn(0x0100_0000);
        self.postgres[usize::from(keeper)].data =
            Some(DataDirectory::new(Position { branch, lsn }, DataKind::Primary));
        Poll::Ended(StepOutcome::DONE)
    }

    /// The keeper behind an address, if its server lets us in.
    fn source(&self, keeper: u8, upstream: &Upstream) -> Option<u8> {
        let from = self
            .keeper_at(&upstream.host)
            .filter(|_| self.hosts[usize::from(keeper)].names != Names::Fail)?;
        let (here, there) = (HostId(keeper), HostId(from));
        let reaches = self.network.is_open(here, there) && self.network.is_open(there, here);
        (from != keeper && reaches && self.accepts_connections(from)).then_some(from)
    }

    fn examine(
        &self,
        keeper: u8,
        upstream: &Upstream,
        system: Option<&str>,
        slot: &str,
        waited: Duration,
    ) -> Poll {
        let trouble = match self.source(keeper, upstream) {
            None => SourceTrouble::Unreachable,
            Some(from) => {
                let Some(theirs) = &self.postgres[usize::from(from)].data else {
                    return failed(FailureKind::Source(SourceTrouble::Other), "nothing there");
                };
                let other = self.histories.system(theirs.written.branch).to_string();
                match system.is_none_or(|system| *system == other) {
                    false => SourceTrouble::OtherCluster,
                    true if theirs.slots.contains_key(slot) => return Poll::Ended(StepOutcome::DONE),
                    true => SourceTrouble::NoSlot,
                }
            }
        };
        match waited < SLOT_PATIENCE && trouble == SourceTrouble::NoSlot {
            true => Poll::Again(POLL * 5),
            false => failed(FailureKind::Source(trouble), "the source cannot be copied from"),
        }
    }

    fn base_backup(&mut self, keeper: u8, upstream: &Upstream, slot: &str) -> Poll {
        let troubles = &self.postgres[usize::from(keeper)].troubles;
        let (fails, disk) = (troubles.backup_fails, troubles.disk);
        match disk {
            Disk::Works => {}
            Disk::Hung => return Poll::Again(Duration::from_millis(500)),
            Disk::Full | Disk::ReadOnly => {
                self.coverage.reached(Point::CopyFailed);
                return failed(FailureKind::DiskFullHere, "no space");
            }
        }
        let source = self.source(keeper, upstream).filter(|_| !fails);
        let Some(theirs) = source.and_then(|from| self.postgres[usize::from(from)].data.clone()) else {
            self.coverage.reached(Point::CopyFailed);
            return failed(FailureKind::Other, "pg_basebackup failed");
        };
        if !theirs.slots.contains_key(slot) {
            return failed(FailureKind::Source(SourceTrouble::NoSlot), "no such slot");
        }
        self.check_destruction(keeper);
        let mut copy = DataDirectory::new(theirs.durable(), DataKind::Standby);
        copy.condition = theirs.condition;
        copy.take(theirs.config);
        self.postgres[usize::from(keeper)].data = Some(copy);
        self.coverage.reached(Point::Copy);
        Poll::Ended(StepOutcome::DONE)
    }

    fn rewind(&mut self, keeper: u8, upstream: &Upstream) -> Poll {
        let fails = self.postgres[usize::from(keeper)].troubles.rewind_fails;
        let disk = self.postgres[usize::from(keeper)].troubles.disk;
        let source = self.source(keeper, upstream).filter(|_| !fails && disk == Disk::Works);
        let theirs = source.and_then(|from| {
            let postgres = &self.postgres[usize::from(from)];
            let primary = postgres.server.as_ref().is_some_and(|server| !server.in_recovery);
            postgres.data.clone().filter(|_| primary)
        });
        let Some(theirs) = theirs else {
            self.coverage.reached(Point::RewindFailed);
            return failed(FailureKind::Other, "pg_rewind failed");
        };
        let Some(data) = &mut self.postgres[usize::from(keeper)].data else {
            return failed(FailureKind::Other, "nothing to rewind");
        };
        if self.histories.common(data.written, theirs.durable()).is_none() {
            return failed(FailureKind::Other, "source and target are from different systems");
        }
        data.written = theirs.durable();
        data.flushed = theirs.flushed;
        data.kind = DataKind::Standby;
        data.condition = Condition::Whole;
        data.slots = BTreeMap::new();
        data.doubtful = None;
        self.coverage.reached(Point::Rewind);
        Poll::Ended(StepOutcome::DONE)
    }

    fn configure(&mut self, keeper: u8, config: &Config) -> Poll {
        let mut config = config.clone();
        self.as_keepers_write_it(&mut config.hba);
        let postgres = &mut self.postgres[usize::from(keeper)];
        match postgres.troubles.disk {
            Disk::Works => {}
            Disk::Hung => return Poll::Again(Duration::from_millis(500)),
            Disk::Full | Disk::ReadOnly => return failed(FailureKind::DiskFullHere, "no space"),
        }
        let Some(data) = &mut postgres.data else { return failed(FailureKind::Other, "no data directory") };
        data.take(config.clone());
        // `standby.signal` is made by the keeper, and removed by nobody but a promotion.
        if config.recovery.mode == stolon_core::keeper::RecoveryMode::Standby {
            data.kind = DataKind::Standby;
        }
        Poll::Ended(StepOutcome::DONE)
    }

    fn wait_ready(&mut self, keeper: u8, waited: Duration, limit: Option<Duration>) -> Poll {
        match &self.postgres[usize::from(keeper)].server {
            None => exited("it ended"),
            Some(_) if self.accepts_connections(keeper) => Poll::Ended(StepOutcome::DONE),
            Some(_) if limit.is_some_and(|limit| waited > limit) => {
                failed(FailureKind::TimedOut, "it does not accept connections")
            }
            Some(_) => Poll::Again(POLL),
        }
    }

    fn reload(&mut self, keeper: u8, waited: Duration, limit: Duration) -> Poll {
        if !self.accepts_connections(keeper) {
            return unanswered(waited, limit);
        }
        if self.postgres[usize::from(keeper)].data.is_none() {
            return failed(FailureKind::Other, "it does not run");
        }
        self.take_configuration(keeper);
        self.release(keeper);
        Poll::Ended(StepOutcome::Done(Learned::NotInForce(Vec::new())))
    }

    /// The server reads its configuration again.
    fn take_configuration(&mut self, keeper: u8) {
        let postgres = &mut self.postgres[usize::from(keeper)];
        let (Some(server), Some(data)) = (&mut postgres.server, &postgres.data) else { return };
        let was_locked = server.locked && !server.in_recovery;
        let moved = server.config.recovery != data.config.recovery;
        server.take(data.config.clone());
        let moved = moved && server.in_recovery;
        let opens = was_locked && !server.locked;
        if moved {
            self.lose_upstream(keeper);
        }
        if opens {
            self.coverage.reached(Point::GateOpened);
        }
    }

    fn promoting(&mut self, keeper: u8, waited: Duration) -> Poll {
        match &self.postgres[usize::from(keeper)].server {
            None => exited("it ended"),
            Some(server) if !server.in_recovery => Poll::Ended(StepOutcome::DONE),
            Some(_) if waited > PROMOTE_LIMIT => failed(FailureKind::TimedOut, "it is still in recovery"),
            Some(_) => {
                // Told again, as often as it takes: a server that was starting did not hear it.
                self.promote_server(keeper);
                Poll::Again(POLL)
            }
        }
    }

    fn ensure_slots(
        &mut self,
        keeper: u8,
        wanted: &BTreeSet<String>,
        waited: Duration,
        limit: Duration,
    ) -> Poll {
        if !self.accepts_connections(keeper) {
            return unanswered(waited, limit);
        }
        let postgres = &mut self.postgres[usize::from(keeper)];
        let (Some(server), Some(data)) = (&postgres.server, &mut postgres.data) else {
            return failed(FailureKind::Other, "it does not run");
        };
        let mut changes = SlotChanges::default();
        let active: Vec<&str> = server.senders.values().map(|sender| sender.name.as_str()).collect();
        let unwanted =
            data.slots.keys().filter(|name| name.starts_with(STOLON_PREFIX) && !wanted.contains(*name));
        for name in unwanted.cloned().collect::<Vec<_>>() {
            match active.contains(&name.as_str()) {
                true => changes.kept.push((name, "it is in use".to_owned())),
                false => {
                    data.slots.remove(&name);
                    changes.dropped.push(name);
                }
            }
        }
        for name in wanted {
            if !data.slots.contains_key(name) {
                data.slots.insert(name.clone(), data.flushed);
                changes.created.push(name.clone());
            }
        }
        Poll::Ended(StepOutcome::Done(Learned::Slots(changes)))
    }
}

/// A question that nobody answers takes until its limit.
fn unanswered(waited: Duration, limit: Duration) -> Poll {
    match waited > limit {
        true => failed(FailureKind::TimedOut, "no answer in time"),
        false => Poll::Again(POLL * 5),
    }
}
