//! The report: what it says, and when it goes out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stolon_model::{
    FileSystemReport, Hindrance, InfoUid, InstanceUid, KeeperActivity, KeeperReport, Lsn, PendingParameter,
    PostgresState, PostgresVersion, QuorumReport, Served, SlotReport, StandbyLagReport, Timestamp,
};

use crate::keeper::archiver::Archiver;
use crate::keeper::event::{Effect, Health, Measure, Position, Progress, StandbyLag, StateFile};
use crate::keeper::goal::{Goal, InstanceRole};
use crate::keeper::inquiry::Server;
use crate::keeper::look::{Answer, Look, ReplicationRow, ServerLook, WalReceiver};
use crate::keeper::observation::Data;
use crate::keeper::parameters::{instances_of, reported_parameters, with_what_was_left_out};
use crate::keeper::recovery::PasswordProtocol;
use crate::keeper::room::FileSystem;
use crate::keeper::say::Saying;
use crate::keeper::slots::{SlotKind, SlotRow, own_bound, slot_reports};
use crate::postgres::{Support, Version, is_recovery_parameter};

use super::ailments::Ailments;
use super::namesake::{Found, NamesakeWatch, Permission, Predecessor, Us};
use super::orders::UNKNOWN_UNTIL_ASKED;
use super::picture::server_of;
use super::publisher::{News, Publisher};
use super::served::Office;
use super::{Advertised, Machine};

/// A keeper that was killed is found out by its silence long before its report is gone, and one that stops takes its report along:
/// what the report hangs on need not be short, and each renewal of it costs the store a request.
const TTL_IN_INTERVALS: u32 = 6;
const LEAST_TTL: Duration = Duration::from_secs(60);

/// Forks in the past that a report tells.
const REPORTED_FORKS: usize = 2;

/// What the others are told.
#[derive(Debug)]
pub(super) struct Reporting {
    advertised: Advertised,
    version: Result<Version, String>,
    /// Of the last look; none before the first.
    state: Option<PostgresState>,
    /// Nothing runs, and nothing is left of the instance's data.
    data_is_gone: bool,
    ailments: Ailments,
    archiver: Option<Archiver>,
    /// By the last plan: a standby is wanted, and a primary's data are here.
    pub(super) holds_primary_data: bool,
    pub(super) pending_restart: bool,
    running: Option<Running>,
    /// Of the last look that our instance answered, until something is known to have happened to it.
    pub(super) seen: Option<Server>,
    file_systems: Vec<FileSystemReport>,
    pub(super) progress: Progress,
    /// Why the replication slots could not be looked after.
    pub(super) slots_failed: Option<String>,
    publisher: Publisher,
    namesake: NamesakeWatch,
    asking: bool,
}

/// A server that answers, for people.
#[derive(Debug)]
struct Running {
    started: Timestamp,
    /// What waits for a restart.
    pending: Vec<PendingParameter>,
    slots: Vec<SlotReport>,
    standby_lag: Vec<StandbyLagReport>,
    quorum: Option<QuorumReport>,
}

impl Running {
    fn of(answer: &Answer) -> Running {
        let wanted = |name: &String| {
            let mut configured = answer.configured_parameters.iter();
            configured.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        let counts = answer.pending_restart.iter().filter(|(name, _)| !is_recovery_parameter(name));
        let pending = counts.map(|(name, in_force)| PendingParameter {
            name: name.clone(),
            in_force: in_force.clone(),
            wanted: wanted(name),
        });
        Running {
            started: answer.started,
            pending: pending.collect(),
            slots: Vec::new(),
            standby_lag: Vec::new(),
            quorum: None,
        }
    }
}

impl Reporting {
    pub(super) fn new(advertised: Advertised, predecessor: Predecessor) -> Self {
        Reporting {
            advertised,
            version: Err("it was not looked at yet".to_owned()),
            state: None,
            data_is_gone: false,
            ailments: Ailments::default(),
            archiver: None,
            holds_primary_data: false,
            pending_restart: false,
            running: None,
            seen: None,
            file_systems: Vec::new(),
            progress: Progress::default(),
            slots_failed: None,
            publisher: Publisher::new(),
            namesake: NamesakeWatch::new(predecessor),
            asking: false,
        }
    }

    /// Of the binaries: the last one that could be found out.
    pub(super) fn version(&self) -> Result<Version, &str> {
        self.version.as_ref().copied().map_err(String::as_str)
    }

    /// Whatever was seen of the server holds no more.
    pub(super) fn server_is_gone(&mut self) {
        self.running = None;
        self.seen = None;
        if let Some(state) = &mut self.state {
            state.healthy = false;
        }
    }

    /// Returns what is news about the archiver. What it was holds on while the server does not answer.
    fn note_archiver(&mut self, server: &ServerLook) -> Option<Saying> {
        let found = match server {
            ServerLook::Answering(answer) => answer.archiver.clone(),
            ServerLook::Stopped => None,
            ServerLook::Starting | ServerLook::Silent(_) | ServerLook::Stranger(_) => return None,
        };
        let before = std::mem::replace(&mut self.archiver, found);
        let fault = |archiver: &Option<Archiver>| archiver.as_ref().and_then(Archiver::fault);
        let is_news = fault(&before) != fault(&self.archiver);
        let archiver = self.archiver.as_ref().filter(|_| is_news)?;
        Some(match archiver.fault() {
            Some(_) => Saying::ArchiverTrouble(archiver.report()),
            None => Saying::ArchiverWorksAgain,
        })
    }

    /// Returns what is wrong with the version, if that is news.
    fn note_version(&mut self, version: &Result<Version, String>) -> Option<Saying> {
        match (version, &self.version) {
            (Ok(version), before) => {
                let is_news = before.as_ref() != Ok(version);
                self.version = Ok(*version);
                (is_news && version.support() == Support::Newer).then_some(Saying::VersionNewer(*version))
            }
            // The binaries that were there a moment ago are being replaced, perhaps.
            (Err(_), Ok(_)) => None,
            (Err(why), Err(before)) => {
                let is_news = why != before;
                self.version = Err(why.clone());
                is_news.then(|| Saying::VersionUnknown(why.clone()))
            }
        }
    }
}

impl Machine {
    /// What a look found, for the report.
    pub(super) fn note_for_report(&mut self, look: &Look) {
        let said = self.reporting.note_version(&look.version);
        self.say_all(said.into_iter().collect());
        self.reporting.data_is_gone = look.data == Data::Absent && !look.server.is_running();
        if self.pursuit.step_under_way().is_none() {
            self.fence.looked(self.looks.last_began(), &look.server);
        }
        let upstream = self.orders.goal().upstream_in_words();
        let patience = self.orders.pace().sleep * 2;
        let said = self.reporting.note_archiver(&look.server);
        self.say_all(said.into_iter().collect());
        let said = self.reporting.ailments.looked(self.now, &look.server, upstream.as_deref(), patience);
        self.say_all(said);
        let answer = look.instance_answer();
        let state = answer.map_or_else(PostgresState::default, |answer| self.state_of(answer));
        self.measure_look(look);
        self.reporting.file_systems = look.room.file_systems.iter().map(FileSystem::report).collect();
        self.reporting.running = answer.map(|answer| {
            let (slots, standby_lag) = (self.slots_of(answer), self.standby_lag_of(answer));
            Running { slots, standby_lag, quorum: self.server.sync.quorum(answer), ..Running::of(answer) }
        });
        self.reporting.seen = answer.map(|answer| server_of(self.looks.last_began(), answer));
        self.reporting.state = Some(state);
        if let (Some(answer), true) = (look.server.answer(), self.is_converged()) {
            self.note_served(answer);
        }
    }

    fn measure_look(&mut self, look: &Look) {
        let health = match &look.server {
            ServerLook::Answering(_)
                if look.instance_answer().is_some() && self.server.disks.take_nothing() =>
            {
                Health::Disk
            }
            ServerLook::Answering(_) if look.instance_answer().is_some() => Health::Healthy,
            ServerLook::Answering(_) => Health::NoInstance,
            ServerLook::Stopped => Health::Stopped,
            ServerLook::Starting => Health::Starting,
            ServerLook::Silent(_) => Health::Silent,
            ServerLook::Stranger(_) => Health::Stranger,
        };
        self.measure(Measure::Health(health));
        self.measure(Measure::Room(look.room.clone()));
        self.measure(Measure::Disk(self.server.disks.fault()));
        self.measure(Measure::Archiver(self.reporting.archiver.clone()));
        if let Some(answer) = look.server.answer() {
            self.measure(Measure::Position(Box::new(position_of(answer))));
            self.measure(Measure::Slots(self.slots_of(answer)));
        }
    }

    fn slots_of(&self, answer: &Answer) -> Vec<SlotReport> {
        let (Goal::Reach(goal), Ok(version)) = (self.orders.goal(), self.reporting.version()) else {
            return slot_reports(&answer.slots, answer.lsn, |_| None);
        };
        let room = self.server.room.megabytes();
        slot_reports(&answer.slots, answer.lsn, |slot| own_bound(goal, version, room, slot))
    }

    fn standby_lag_of(&self, answer: &Answer) -> Vec<StandbyLagReport> {
        if answer.in_recovery {
            return Vec::new();
        }
        let lag = |lag: StandbyLag| StandbyLagReport {
            behind_seconds: self.server.stragglers.behind(self.now, &lag.instance).as_secs_f64().ceil()
                as u64,
            unflushed_bytes: lag.unflushed,
            instance: lag.instance,
        };
        position_of(answer).standbys.into_iter().map(lag).collect()
    }

    /// A server that can write nothing works as little as one that does not answer, whatever it says.
    fn state_of(&self, answer: &Answer) -> PostgresState {
        if self.server.disks.take_nothing() {
            return PostgresState::default();
        }
        let specified = self.orders.specified();
        let is_specified = |name: &str| specified.keys().any(|key| key.eq_ignore_ascii_case(name));
        let reported = reported_parameters(&answer.configured_parameters, is_specified);
        let first = answer.history.len().saturating_sub(REPORTED_FORKS);
        let history = answer.history[first..].to_vec();
        PostgresState {
            healthy: true,
            system_identifier: answer.system_identifier.clone(),
            timeline: answer.timeline,
            lsn: answer.lsn,
            timelines_history: (!history.is_empty()).then_some(history),
            pg_parameters: Some(Arc::new(with_what_was_left_out(reported, specified))),
            synchronous_standbys: Some(self.server.sync.in_sync(answer).into_iter().collect()),
            older_wal_file: answer.older_wal_file.clone(),
            stores_md5: answer.passwords == PasswordProtocol::ScramOrMd5,
            slot_positions: self.slot_positions(answer),
            ..PostgresState::default()
        }
    }

    /// What standbys go by with their slots of the same names. Only the head of a cluster is asked for slots of consumers; the copies of its standbys say
    /// nothing about them.
    fn slot_positions(&self, answer: &Answer) -> Option<BTreeMap<String, Lsn>> {
        let Goal::Reach(goal) = self.orders.goal() else { return None };
        let is_for_consumer = |slot: &&SlotRow| {
            slot.kind == SlotKind::Physical
                && goal.slots.contains(&slot.name)
                && !goal.member_slots.contains(&slot.name)
        };
        let slots = answer.slots.iter().filter(is_for_consumer);
        let positions: BTreeMap<String, Lsn> =
            slots.filter_map(|slot| Some((slot.name.clone(), slot.restart_lsn?))).collect();
        (!positions.is_empty()).then_some(positions)
    }

    /// Our PostgreSQL works in the charge of the present cluster data.
    fn note_served(&mut self, answer: &Answer) {
        let Goal::Reach(goal) = self.orders.goal() else { return };
        if self.orders.doubt().is_some() {
            return;
        }
        let served = Served {
            cluster_uid: self.orders.cluster().clone(),
            epoch: self.orders.epoch().unwrap_or_default(),
            instance: goal.uid.clone(),
            generation: goal.generation,
            ..Served::default()
        };
        let office = match &goal.role {
            InstanceRole::Primary(primary) if primary.deposed.is_none() => Office::Elected,
            InstanceRole::Primary(_) | InstanceRole::Standby(_) => Office::None,
        };
        self.disk.served.serves(served, office, answer);
        if let Some(served) = self.disk.served.to_write(self.now).cloned() {
            self.disk.served.writing(self.now, served.clone());
            self.save(StateFile::Served(served));
        }
    }

    /// What the others are told now.
    fn report(&self) -> KeeperReport {
        let Reporting { advertised, state, .. } = &self.reporting;
        let local = &self.disk.local;
        // An instance that was complete and is gone is for the sentinel to replace; one that is being made is not here yet.
        let is_lost = self.reporting.data_is_gone && local.generation != 0;
        let instance = if is_lost { InstanceUid::default() } else { local.uid.clone() };
        KeeperReport {
            info_uid: InfoUid::default(),
            uid: self.identity.keeper.clone(),
            cluster_uid: self.orders.cluster().clone(),
            boot_uuid: self.identity.boot.clone(),
            postgres_binary_version: self.reporting.version().map(PostgresVersion::from).unwrap_or_default(),
            postgres_state: state.clone().map(|state| PostgresState {
                uid: instance,
                generation: local.generation,
                listen_address: advertised.address.clone(),
                port: advertised.port.clone(),
                ..state
            }),
            // Sentinels of Stolon know no priorities.
            can_be_primary: Some(advertised.can_be_primary && advertised.failover_priority != 0),
            can_be_synchronous_replica: Some(advertised.can_be_synchronous_replica),
            activity: Some(self.activity()),
        }
    }

    fn activity(&self) -> KeeperActivity {
        let problems = self.voice.announced.known_parameter_problems();
        let running = self.reporting.running.as_ref();
        let pending = running.map(|running| running.pending.clone());
        let step = self.pursuit.step_under_way().and_then(|step| step.name());
        KeeperActivity {
            step: step.unwrap_or_default().to_owned(),
            bytes_done: self.reporting.progress.bytes_done,
            bytes_total: self.reporting.progress.bytes_total,
            problem: self.problem(),
            replication_problem: self.reporting.ailments.replication_problem().to_owned(),
            parameter_problems: (!problems.is_empty()).then(|| problems.iter().cloned().collect()),
            pending_restart: self.reporting.pending_restart,
            pending_parameters: pending.filter(|it| self.reporting.pending_restart && !it.is_empty()),
            started: running.map(|running| running.started).filter(|started| !started.is_never()),
            restarts: self.server.deaths.within_a_minute(self.now),
            looks: self.looks.completed(),
            hindrance: self.hindrance(),
            holds_primary_data: self.reporting.holds_primary_data,
            slots: running.map(|running| running.slots.clone()).filter(|slots| !slots.is_empty()),
            disk: self.server.disks.report(self.now, self.orders.pace().fail),
            archiver: self.reporting.archiver.as_ref().map(Archiver::report),
            file_systems: Some(self.reporting.file_systems.clone()).filter(|it| !it.is_empty()),
            served: self.disk.served.highest().cloned(),
            witness: Some(self.witness.report()),
            standby_pace: self.server.stragglers.report(),
            http_address: self.reporting.advertised.http_address.clone(),
            standby_lag: running.map(|running| running.standby_lag.clone()).filter(|lag| !lag.is_empty()),
            hands_over: true,
            leaving: self.leaving.is_some(),
            switchover: self.handing.report(),
            reloaded: self.server.reloaded.clone().unwrap_or_default(),
            zone: self.reporting.advertised.zone.clone(),
            failover_priority: Some(self.reporting.advertised.failover_priority),
            fenced: Some(self.fenced()),
            quorum: running.and_then(|running| running.quorum.clone()),
            stopped: self.stopped(),
            locked_out: self.lockout(),
        }
    }

    /// What is no reason to replace a primary that works.
    fn hindrance(&self) -> Option<Hindrance> {
        if self.reporting.slots_failed.is_some() {
            return Some(Hindrance::Slot);
        }
        self.disk.files.problems().next().map(|_| Hindrance::StateFile)
    }

    /// What keeps us from the goal, and what is wrong beside that.
    fn problem(&self) -> String {
        let slots = self.reporting.slots_failed.clone();
        let troubles = self.voice.troubles.present().map(str::to_owned).into_iter();
        let files = self.disk.files.problems();
        let all: Vec<String> = troubles.chain(slots).chain(files).collect();
        all.join("; ")
    }

    /// Publishes when it is time, after making sure that we are alone.
    pub(super) fn publish_when_due(&mut self, news: News) {
        if self.orders.cluster().is_empty() || !self.orders.has_answered() || self.reporting.asking {
            return;
        }
        let granted = self.reporting.namesake.permission(self.now) == Permission::Granted;
        if granted && !self.reporting.publisher.may_want(self.now, news) {
            return;
        }
        let report = self.report();
        if !self.reporting.publisher.wants(self.now, &report) {
            return;
        }
        match self.reporting.namesake.permission(self.now) {
            Permission::Granted => {
                let pace = self.orders.pace();
                let limit = self.reporting.publisher.begins(self.now, &report, pace);
                let ttl = (pace.sleep * TTL_IN_INTERVALS).max(LEAST_TTL);
                self.ask_for(Effect::Publish { report: Box::new(report), ttl, limit });
            }
            Permission::ReadFirst => {
                self.reporting.asking = true;
                self.ask_for(Effect::ReadOwnReport);
            }
            Permission::NoteFirst => {
                self.reporting.asking = true;
                self.save(StateFile::Boot(self.identity.boot.clone()));
            }
            Permission::Wait(_) => {}
        }
    }

    pub(super) fn publication_wake(&self) -> Option<Duration> {
        if self.orders.cluster().is_empty() || !self.orders.has_answered() || self.reporting.asking {
            return None;
        }
        match self.reporting.namesake.permission(self.now) {
            Permission::Wait(until) => until,
            _ => self.reporting.publisher.due(),
        }
    }

    /// What stands in the store under our uid.
    pub(super) fn own_report_read(&mut self, read: Result<Option<Box<KeeperReport>>, String>) {
        self.reporting.asking = false;
        let silence = self.orders.pace().sleep * 2 + Duration::from_secs(1);
        let us = Us { boot: &self.identity.boot, has_instance: !self.disk.local.uid.is_empty() };
        match self.reporting.namesake.read(self.now, read, us, silence) {
            Found::Nothing => {}
            Found::Say(saying) => self.say(saying),
            Found::Yield(exit) => {
                self.ask_for(Effect::Exit(exit));
                self.stop();
            }
        }
    }

    /// The note for the next keeper is written, or cannot be: then nobody could tell it from a namesake.
    pub(super) fn note_left(&mut self, outcome: Result<(), String>) {
        self.reporting.asking = false;
        match outcome {
            Ok(()) => self.reporting.namesake.noted(),
            Err(why) => {
                self.ask_for(Effect::Exit(crate::keeper::event::Exit::NoNote(why)));
                self.stop();
            }
        }
    }

    pub(super) fn report_taken(&mut self) {
        self.reporting.namesake.reported();
        self.reporting.publisher.taken(self.now, self.orders.pace().sleep);
    }

    pub(super) fn report_refused(&mut self, why: String) {
        self.say(Saying::ReportRefused(why));
        self.reporting.publisher.refused(self.now);
        if self.orders.doubt().is_none() {
            // Whether the store is away is to be known before proxies close (docs/design/012-lease.md).
            self.read_cluster(UNKNOWN_UNTIL_ASKED);
        }
    }
}

/// Standbys of ours by their instances; what others call themselves is nobody's name here.
fn position_of(answer: &Answer) -> Position {
    let lag = |row: &ReplicationRow| {
        let instance = instances_of(std::slice::from_ref(&row.application_name)).pop()?;
        let flushed = row.flush_lsn.unwrap_or_default();
        let unflushed = answer.lsn.0.saturating_sub(flushed.0);
        Some(StandbyLag { instance, unflushed, replay: row.replay_lag.unwrap_or_default() })
    };
    Position {
        timeline: answer.timeline,
        lsn: answer.lsn,
        receives_wal: !answer.in_recovery || answer.receiver == WalReceiver::Streaming,
        standbys: answer.replication.iter().filter_map(lag).collect(),
    }
}
