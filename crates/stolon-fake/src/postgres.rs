use std::collections::{BTreeMap, BTreeSet};

use stolon_core::keeper::{
    AlterSystem, Answer, Archiver, Config, ControlLook, Data, DataKind, DeathCause, Demands, FailureKind,
    HbaLine, HbaUser, Learned, Look, OrderlyEnd, RejectedSetting, ReplicationRow, Room, ServerDeath,
    ServerLook, SlotChanges, SlotRow, Step, StepFailure, StepOutcome, WalReceiver,
};
use stolon_core::postgres::Version;
use stolon_model::{Lsn, Timeline};

use crate::given::{SYSTEM, V15, present};
use crate::word;

/// A parameter that only a start takes, and no limit of a standby.
pub const NEEDS_RESTART: &str = "shared_buffers";

/// One PostgreSQL: its data, its process, its configuration, and what fails about them. All switches may be turned at any time.
#[derive(Debug)]
pub struct FakePostgres {
    /// Of the binaries, or why it is not known.
    pub version: Result<Version, String>,
    /// What `pg_controldata` tells.
    pub control: ControlLook,
    /// Where a primary ends that is stopped in order.
    pub ended: Option<OrderlyEnd>,
    /// Where its last checkpoint lies.
    pub checkpoint: Option<Lsn>,
    /// What stands at PGDATA.
    pub data: Data,
    /// Its process is there.
    pub running: bool,
    /// It runs and answers.
    pub answers: bool,
    /// It replays WAL.
    pub in_recovery: bool,
    /// It counts up with each promotion.
    pub timeline: u64,
    /// Its position.
    pub lsn: u64,
    /// Whether a standby receives WAL.
    pub receiver: WalReceiver,
    /// Its process.
    pub receiver_process: Option<u32>,
    /// `pg_stat_replication`.
    pub replication: Vec<ReplicationRow>,
    /// `pg_replication_slots`.
    pub slots: Vec<SlotRow>,
    /// How the archiving of WAL goes.
    pub archiver: Option<Archiver>,
    /// Room on the file systems.
    pub room: Room,
    /// Written.
    pub(crate) config: Option<Config>,
    /// In force.
    pub(crate) in_force: Option<Config>,
    /// In force, but for what a start alone takes.
    pub(crate) started_with: Option<Config>,
    /// Steps, by the part of their [`word`] before a colon, that fail, and how.
    pub failures: BTreeMap<String, FailureKind>,
    /// The same words, and [`crate::LOOK`]: what does not end by itself.
    pub hanging: BTreeSet<String>,
    /// What the next check of settings finds.
    pub rejected: Vec<RejectedSetting>,
    /// Every step that was begun, in words.
    pub begun: Vec<String>,
}

impl FakePostgres {
    /// A server that does not run, beside these data.
    pub(crate) fn with(data: Data) -> Self {
        FakePostgres {
            version: Ok(V15),
            control: ControlLook::Demands(Demands::default()),
            ended: None,
            checkpoint: None,
            data,
            running: false,
            answers: true,
            in_recovery: false,
            timeline: 1,
            lsn: 1000,
            receiver: WalReceiver::Streaming,
            receiver_process: None,
            replication: Vec::new(),
            slots: Vec::new(),
            archiver: None,
            room: Room::default(),
            config: None,
            in_force: None,
            started_with: None,
            failures: BTreeMap::new(),
            hanging: BTreeSet::new(),
            rejected: Vec::new(),
            begun: Vec::new(),
        }
    }

    /// A standby that flushes everything at once.
    pub fn standby_streams(&mut self, uid: &str) {
        self.replication = vec![ReplicationRow {
            application_name: format!("stolon_{uid}"),
            sync_state: "sync".into(),
            flush_lsn: Some(Lsn(u64::MAX)),
            replay_lag: None,
        }];
    }

    /// The process ends by itself.
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

    /// A parameter as the server was started with it.
    pub fn started_with(&self, name: &str) -> Option<&str> {
        self.started_with.as_ref()?.parameters.get(name).map(String::as_str)
    }

    /// A parameter that is in force, as far as no restart is needed for it.
    pub fn in_force(&self, name: &str) -> Option<&str> {
        self.in_force.as_ref()?.parameters.get(name).map(String::as_str)
    }

    /// The steps that were begun, in words, one space apart.
    pub fn steps(&self) -> String {
        self.begun.join(" ")
    }

    pub(crate) fn hangs(&self, what: &str) -> bool {
        self.hanging.contains(kind_of(what))
    }

    pub(crate) fn look(&self) -> Look {
        let names = |config: &Config| config.parameters.get("synchronous_standby_names").cloned();
        let answer = || Answer {
            system_identifier: SYSTEM.into(),
            timeline: Timeline(self.timeline),
            lsn: Lsn(self.lsn),
            in_recovery: self.in_recovery,
            receiver: self.receiver.clone(),
            receiver_process: self.receiver_process,
            replication: self.replication.clone(),
            slots: self.slots.clone(),
            archiver: self.archiver.clone(),
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
            ended: self.ended.filter(|_| !self.running),
            checkpoint: self.checkpoint.filter(|_| !self.running),
            slots_on_disk: BTreeSet::new(),
            room: self.room.clone(),
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

    /// What becomes of a step that has come to its end.
    pub(crate) fn take(&mut self, step: &Step) -> StepOutcome {
        let word = word(step).unwrap_or_default();
        if let Some(kind) = self.failures.get(kind_of(&word)).cloned() {
            return failed(kind, format!("{word} failed"));
        }
        match step {
            Step::Stop | Step::HandOver | Step::Kill => self.running = false,
            Step::Wipe(_) => self.data = Data::Absent,
            Step::InitDb(_) | Step::Restore(_) => self.data = present(DataKind::Primary),
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
            Step::WaitReady(_) | Step::WaitFollowing(_) | Step::WaitRecoveryEnd(_) if !self.running => {
                return failed(
                    FailureKind::ServerExited(self.dies()),
                    format!("{word}: the server has ended"),
                );
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
            Step::DropSlots(slots) => {
                self.slots.retain(|slot| !slots.contains_key(&slot.name));
                let dropped = slots.keys().cloned().collect();
                return StepOutcome::Done(Learned::Slots(SlotChanges { dropped, ..SlotChanges::default() }));
            }
            Step::DropStaleSlots(slots) => {
                self.slots.retain(|slot| !slots.contains(&slot.name));
                let dropped = slots.iter().cloned().collect();
                return StepOutcome::Done(Learned::Slots(SlotChanges { dropped, ..SlotChanges::default() }));
            }
            Step::AdvanceSlots(to) => {
                for slot in &mut self.slots {
                    slot.restart_lsn = slot.restart_lsn.max(to.get(&slot.name).copied());
                }
                return StepOutcome::Done(Learned::Slots(SlotChanges::default()));
            }
            Step::EnsureSlots(_) => return StepOutcome::Done(Learned::Slots(SlotChanges::default())),
            _ => {}
        }
        StepOutcome::DONE
    }
}

/// What failures and hanging steps are named by.
fn kind_of(word: &str) -> &str {
    word.split(':').next().unwrap_or(word)
}

pub(crate) fn failed(kind: FailureKind, sentence: String) -> StepOutcome {
    StepOutcome::Failed(StepFailure { kind, sentence, hint: None })
}
