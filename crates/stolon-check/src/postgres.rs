//! PostgreSQL as far as promotion and synchronous replication go.

use std::collections::BTreeSet;

use stolon_core::keeper::{
    AlterSystem, Attempt, Config, Data, DataKind, Gate, HbaLine, HbaUser, Lease, Live, LocalState,
    Observation, Patience, Present, RecoveryMode, Refusals, Server, Stage, Step, WalLevel,
};
use stolon_core::postgres::Version;
use stolon_model::{InstanceUid, Lsn, Timeline, TimelineHistoryEntry};

use crate::hashed::Hashed;
use crate::world::{SYSTEM, port_of};

pub(crate) const VERSION: Version = Version { major: 15, minor: 4 };

/// One commit of a client.
pub(crate) type Commit = u8;

/// A keeper's instance with its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Postgres {
    pub running: bool,
    pub kind: Kind,
    pub timeline: u64,
    /// Where earlier timelines ended.
    pub history: Vec<(u64, u64)>,
    /// Every commit record, in order.
    pub wal: Vec<Commit>,
    /// What the running server was given, or would be.
    pub config: Option<Hashed<Config>>,
    pub gate: Openness,
    pub local: Hashed<LocalState>,
    pub attempt: Hashed<Attempt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Primary,
    Standby,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Openness {
    Open,
    Closed,
}

/// What another instance gives to one that copies or rewinds.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub timeline: u64,
    pub history: Vec<(u64, u64)>,
    pub wal: Vec<Commit>,
}

/// Whether the plan goes on after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Next,
    LookAgain,
    /// The step failed: the plan ends.
    Ended,
}

impl Postgres {
    /// An instance in order, with no commit of a client yet.
    pub fn new(uid: &InstanceUid, kind: Kind) -> Self {
        let local = LocalState { uid: uid.clone(), generation: 1, ..LocalState::default() };
        Postgres {
            running: true,
            kind,
            timeline: 1,
            history: Vec::new(),
            wal: Vec::new(),
            config: None,
            gate: Openness::Open,
            local: Hashed::new(local),
            attempt: Hashed::new(Attempt::default()),
        }
    }

    pub fn lsn(&self) -> u64 {
        1000 + 100 * self.wal.len() as u64
    }

    /// True where clients can write.
    pub fn is_primary(&self) -> bool {
        self.running && self.kind == Kind::Primary
    }

    /// True where everybody is let in.
    pub fn admits_clients(&self) -> bool {
        let everybody = |line: &HbaLine| match line {
            HbaLine::Rule(rule) => rule.user == HbaUser::All,
            HbaLine::Verbatim(_) => false,
        };
        self.config.as_ref().is_some_and(|config| config.hba.iter().any(everybody))
    }

    /// The names that commits wait for; none without synchronous replication.
    pub fn waits_for(&self) -> BTreeSet<String> {
        let names = self
            .config
            .as_ref()
            .and_then(|config| config.parameters.get("synchronous_standby_names").cloned())
            .unwrap_or_default();
        names
            .split(|symbol: char| !(symbol.is_ascii_alphanumeric() || symbol == '_'))
            .filter(|word| word.contains(|symbol: char| symbol.is_ascii_alphabetic()))
            .map(str::to_owned)
            .collect()
    }

    /// The instance that this standby was told to follow, by its port.
    pub fn upstream_port(&self) -> Option<&str> {
        let config = self.config.as_ref().filter(|config| config.recovery.mode == RecoveryMode::Standby)?;
        config.recovery.upstream.as_ref().map(|upstream| upstream.port.as_str())
    }

    pub fn as_source(&self) -> Source {
        Source { timeline: self.timeline, history: self.history.clone(), wal: self.wal.clone() }
    }

    /// True if a standby with these data can go on with what `source` has.
    pub fn can_follow(&self, source: &Source) -> bool {
        let known = source.timeline == self.timeline
            || source.history.iter().any(|(timeline, end)| *timeline == self.timeline && self.lsn() <= *end);
        known && source.wal.starts_with(&self.wal)
    }

    /// Take in all that the source has.
    pub fn receive(&mut self, source: &Source) {
        self.timeline = source.timeline;
        self.history.clone_from(&source.history);
        self.wal.clone_from(&source.wal);
    }

    /// The last entries of the history, as a keeper reports them.
    pub fn reported_history(&self) -> Vec<TimelineHistoryEntry> {
        let entry = |(timeline, end): &(u64, u64)| TimelineHistoryEntry {
            timeline: Timeline(*timeline),
            switch_point: Lsn(*end),
            ..TimelineHistoryEntry::default()
        };
        self.history.iter().map(entry).collect()
    }

    /// What a keeper sees; `in_sync` are the standbys that hold everything.
    pub fn observe(&self, in_sync: BTreeSet<InstanceUid>) -> Observation {
        let live = Live {
            in_recovery: self.kind == Kind::Standby,
            timeline: Timeline(self.timeline),
            lsn: Lsn(self.lsn()),
            history: self.reported_history(),
            in_sync,
            ..Live::default()
        };
        let kind = match self.kind {
            Kind::Primary => DataKind::Primary,
            Kind::Standby => DataKind::Standby,
        };
        Observation {
            version: VERSION,
            local: (*self.local).clone(),
            data: Data::Present(Present { version: VERSION, kind, system_identifier: SYSTEM.to_owned() }),
            demands: None,
            wal_level: WalLevel::default(),
            ended: None,
            checkpoint_tried: None,
            reloaded: None,
            server: if self.running { Server::Running(Some(live)) } else { Server::Stopped },
            applied: self.config.as_deref().cloned(),
            gate: match self.gate {
                Openness::Open => Gate::Open,
                Openness::Closed => Gate::Closed,
            },
            lease: Lease::Unlimited,
            refusals: Refusals::new(),
            refused_hba: Default::default(),
            slots_on_disk: BTreeSet::new(),
            room_for_slots: None,
            position: None,
            alter_system: AlterSystem::Refused,
            attempt: (*self.attempt).clone(),
            restart_patience: Patience::Left,
        }
    }

    fn note(&mut self, change: impl FnOnce(&mut LocalState)) {
        let mut local = (*self.local).clone();
        change(&mut local);
        self.local = Hashed::new(local);
    }

    fn reached(&mut self, stage: Stage) {
        let mut attempt = (*self.attempt).clone().at(&self.local.uid);
        attempt.reached(stage);
        self.attempt = Hashed::new(attempt);
    }

    fn copy(&mut self, source: Option<&Source>, stage: Stage) -> After {
        let Some(source) = source else { return After::Ended };
        self.receive(source);
        self.kind = Kind::Standby;
        self.reached(stage);
        After::Next
    }

    /// Do what a keeper's plan says; `source` finds the instance that listens on a port.
    pub fn take(&mut self, step: &Step, source: impl Fn(&str) -> Option<Source>) -> After {
        match step {
            Step::Stop | Step::HandOver | Step::Kill => self.running = false,
            Step::SetGate(gate) => {
                self.gate = match gate {
                    Gate::Open => Openness::Open,
                    Gate::Closed => Openness::Closed,
                }
            }
            Step::MarkInitializing(uid) => self.note(|local| {
                *local = LocalState { uid: uid.clone(), initializing: true, ..LocalState::default() };
            }),
            Step::BaseBackup { upstream, .. } => {
                return self.copy(source(&upstream.port).as_ref(), Stage::Copied);
            }
            Step::Rewind { upstream, .. } => {
                return self.copy(source(&upstream.port).as_ref(), Stage::Rewound);
            }
            Step::ExamineSource { upstream, .. } if source(&upstream.port).is_none() => return After::Ended,
            Step::Configure { config, .. } => self.config = Some(Hashed::new((**config).clone())),
            Step::Start(_) => {
                self.running = true;
                let mode = self.config.as_ref().map(|config| config.recovery.mode);
                self.kind = if mode == Some(RecoveryMode::None) { Kind::Primary } else { Kind::Standby };
            }
            Step::Finish(uid) => self.note(|local| {
                local.uid = uid.clone();
                local.initializing = false;
            }),
            Step::Promote => {
                self.history.push((self.timeline, self.lsn()));
                self.timeline += 1;
                self.kind = Kind::Primary;
            }
            Step::Commit(generation) => self.note(|local| local.generation = *generation),
            Step::Reobserve => return After::LookAgain,
            _ => {}
        }
        After::Next
    }
}

/// The keeper whose instance listens on this port.
pub(crate) fn keeper_at(port: &str) -> Option<usize> {
    (0..crate::world::KEEPERS).find(|keeper| port_of(*keeper) == port)
}
