//! Turns of sentinels, keepers and the proxy. Every decision is the production code's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::{
    Goal, Identity, RewindCredentials, StoreCommands, SyncAfterCrash, Transport, User, plan,
};
use stolon_core::proxy::{ClosedBecause, Effect, Event};
use stolon_core::sentinel::{Now, Standing, Told, UidSource, View as SeenView, reconcile};
use stolon_model::{
    ClusterData, ClusterDocument, GoDuration, InstanceUid, KeeperReport, Lsn, PostgresState, PostgresVersion,
    ProxyReport, Timeline, Timestamp, UsableCluster, replication_name,
};

use crate::bound::{Bound, Guard};
use crate::hashed::Hashed;
use crate::postgres::{After, Kind, Source, keeper_at};
use crate::world::{KEEPERS, NodeState, SYSTEM, View, World, at, boot_of, keeper_uid, port_of, proxy_uid};

/// How a write ends for the one who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is done, and confirmed.
    Taken,
    /// It is done, and nobody knows.
    Unconfirmed,
    /// It is not done, and nobody knows.
    Lost,
}

struct Uids(u32);

impl UidSource for Uids {
    fn instance_uid(&mut self) -> InstanceUid {
        self.0 += 1;
        format!("db{}", self.0).into()
    }
}

impl World {
    /// What a sentinel reads now.
    pub(crate) fn view(&self) -> View {
        View {
            document: self.document.clone(),
            revision: self.revision,
            keeper_reports: self.keeper_reports.clone(),
            proxy_report: self.proxy_report.clone(),
            tick: self.tick,
        }
    }

    /// A sentinel decides on what it has read, and writes.
    pub(crate) fn decide(&mut self, bound: &Bound, number: usize, view: &View, outcome: Outcome) {
        let standing = match self.sentinels[number].leads {
            true => Standing::Leader,
            false => Standing::Follower,
        };
        let reports = view.keeper_reports.iter();
        let keepers = reports.map(|(uid, report)| (uid.clone(), Arc::new((**report).clone()))).collect();
        let mut proxies: BTreeMap<_, ProxyReport> =
            view.proxy_report.iter().map(|report| (report.uid.clone(), (**report).clone())).collect();
        let mut data = (*view.document).clone();
        if bound.without == Some(Guard::Acknowledgement) {
            for report in proxies.values_mut() {
                report.generation = data.proxy.generation;
                report.info_uid = format!("forged-{}", view.revision).into();
            }
        }
        if bound.without == Some(Guard::SynchronousSet) {
            count_everybody_as_synchronous(&mut data);
        }
        let Ok(cluster) = UsableCluster::try_from(data) else { return };
        let seen = SeenView {
            cluster: &cluster,
            keepers: &keepers,
            proxies: &proxies,
            unreadable_proxies: &BTreeSet::new(),
            standing,
            read_at: at(view.tick),
            usual_delay: Duration::ZERO,
            told: &Told::default(),
        };
        let now = Now { monotonic: at(self.tick), wall: Timestamp::ZERO };
        let before = self.sentinels[number].memory.clone();
        let decision = reconcile(&seen, &before, now, &mut Uids(10 * u32::from(view.revision)));
        if standing == Standing::Follower {
            self.sentinels[number].memory = Hashed::new(decision.memory);
            return;
        }
        let is_unchanged = view.revision == self.revision || bound.without == Some(Guard::CompareAndPut);
        let mut next = decision.next.clone();
        if bound.without == Some(Guard::SynchronousSet) {
            forget_what_was_counted(&mut next, &view.document);
        }
        let memory = match outcome {
            Outcome::Taken if is_unchanged => decision.memory,
            _ => decision.memory_of_refused_write(&before),
        };
        self.sentinels[number].memory = Hashed::new(memory);
        if is_unchanged && outcome != Outcome::Lost {
            self.write(next);
        }
    }

    fn write(&mut self, next: ClusterData) {
        let before = (self.document.cluster.status.primary.clone(), next.cluster.status.primary.clone());
        if let (Some(old), Some(elected)) = &before
            && old != elected
        {
            self.judge_election(old, elected);
        }
        self.document = Hashed::new(next);
        self.revision += 1;
    }

    /// Who is elected in synchronous mode must have been waited for, and hold what clients were told to be safe.
    fn judge_election(&mut self, old: &InstanceUid, elected: &InstanceUid) {
        let Some(old) = self.document.instances.get(old) else { return };
        if !old.spec.synchronous_replication {
            return;
        }
        let waited_for = old.spec.synchronous_standbys.iter().flatten().any(|uid| uid == elected);
        if !waited_for {
            self.broken = Some("an instance was elected that commits had not waited for");
        }
        let holds = self.keeper_of(elected).is_some_and(|keeper| {
            self.acknowledged.iter().all(|commit| self.keepers[keeper].postgres.wal.contains(commit))
        });
        if !holds {
            self.broken = Some("an instance was elected that lacks acknowledged commits");
        }
    }

    fn identity(&self, keeper: usize) -> Identity {
        let user = |name: &str| User {
            name: name.into(),
            method: "md5".into(),
            local_method: "md5".into(),
            transport: Transport::Any,
        };
        Identity {
            keeper: keeper_uid(keeper),
            boot: boot_of(keeper, self.keepers[keeper].boots),
            listen_address: "127.0.0.1".to_owned(),
            port: port_of(keeper),
            superuser: user("su"),
            rewind_credentials: RewindCredentials::Absent,
            replication: user("repl"),
            rewinder: None,
            commands: StoreCommands::All,
            sync_after_crash: SyncAfterCrash::EachFile,
        }
    }

    /// A keeper reads the cluster data, does what its plan says, and returns what it has to report.
    pub(crate) fn keeper_turn(&mut self, keeper: usize) -> Option<Hashed<KeeperReport>> {
        let cluster = UsableCluster::try_from((*self.document).clone()).ok()?;
        let goal = Goal::of(&cluster, &self.identity(keeper));
        for _ in 0..8 {
            let seen = self.keepers[keeper].postgres.observe(self.in_sync(keeper));
            let plan = plan(&goal, &seen);
            let mut after = After::Next;
            for step in &plan.steps {
                let mut postgres = self.keepers[keeper].postgres.clone();
                after = postgres.take(step, |port| self.source(port));
                self.keepers[keeper].postgres = postgres;
                if after != After::Next {
                    break;
                }
            }
            if after != After::LookAgain {
                break;
            }
        }
        Some(self.report(keeper))
    }

    /// Who answers on this port, if it can be copied from.
    fn source(&self, port: &str) -> Option<Source> {
        let node = &self.keepers[keeper_at(port)?];
        let answers = node.state != NodeState::Down && node.postgres.is_primary();
        answers.then(|| node.postgres.as_source())
    }

    fn report(&self, keeper: usize) -> Hashed<KeeperReport> {
        let postgres = &self.keepers[keeper].postgres;
        let in_sync: Vec<InstanceUid> = self.in_sync(keeper).into_iter().collect();
        let state = PostgresState {
            uid: postgres.local.uid.clone(),
            generation: postgres.local.generation,
            listen_address: "127.0.0.1".to_owned(),
            port: port_of(keeper),
            healthy: postgres.running,
            system_identifier: SYSTEM.to_owned(),
            timeline: Timeline(postgres.timeline),
            lsn: Lsn(postgres.lsn()),
            timelines_history: Some(postgres.reported_history()),
            synchronous_standbys: postgres.is_primary().then_some(in_sync),
            ..PostgresState::default()
        };
        Hashed::new(KeeperReport {
            info_uid: format!("{keeper}-{}", self.tick).into(),
            uid: keeper_uid(keeper),
            cluster_uid: "c1".into(),
            boot_uuid: boot_of(keeper, self.keepers[keeper].boots),
            postgres_binary_version: PostgresVersion { major: 15, minor: 4 },
            postgres_state: Some(state),
            ..KeeperReport::default()
        })
    }

    /// Standbys that the primary of `keeper` waits for and that hold everything it has.
    fn in_sync(&self, keeper: usize) -> BTreeSet<InstanceUid> {
        let postgres = &self.keepers[keeper].postgres;
        if !postgres.is_primary() {
            return BTreeSet::new();
        }
        let waits_for = postgres.waits_for();
        let holders = (0..KEEPERS).filter(|other| {
            let standby = &self.keepers[*other].postgres;
            self.streams_from(*other, keeper)
                && waits_for.contains(&replication_name(&standby.local.uid))
                && standby.wal == postgres.wal
        });
        holders.map(|other| self.keepers[other].postgres.local.uid.clone()).collect()
    }

    fn streams_from(&self, standby: usize, primary: usize) -> bool {
        let (node, source) = (&self.keepers[standby], &self.keepers[primary]);
        let flows = |state| matches!(state, NodeState::Up | NodeState::CutOff);
        flows(node.state)
            && source.state != NodeState::Down
            && node.postgres.running
            && node.postgres.kind == Kind::Standby
            && source.postgres.running
            && node.postgres.upstream_port() == Some(port_of(primary).as_str())
            && node.postgres.can_follow(&source.postgres.as_source())
    }

    /// WAL flows, once a second.
    pub(crate) fn replicate(&mut self) {
        for standby in 0..KEEPERS {
            if let Some(primary) = (0..KEEPERS).find(|primary| self.streams_from(standby, *primary)) {
                let source = self.keepers[primary].postgres.as_source();
                self.keepers[standby].postgres.receive(&source);
            }
        }
    }

    /// Tell clients of the commits that everybody holds whom their primary waits for.
    pub(crate) fn acknowledge(&mut self) {
        for (commit, keeper) in self.waiting.clone() {
            let node = &self.keepers[keeper];
            if node.state == NodeState::Down || !node.postgres.is_primary() {
                self.waiting.remove(&commit);
                continue;
            }
            let holds = |name: &String| {
                (0..KEEPERS).any(|other| {
                    let standby = &self.keepers[other].postgres;
                    replication_name(&standby.local.uid) == *name
                        && self.streams_from(other, keeper)
                        && standby.wal.contains(&commit)
                })
            };
            if node.postgres.waits_for().iter().all(holds) {
                self.waiting.remove(&commit);
                self.acknowledged.insert(commit);
            }
        }
    }

    /// Tell the proxy what happened, and do what it wants until it wants nothing more at this moment.
    pub(crate) fn proxy_turn(&mut self, bound: &Bound, first: Event, outcome: Outcome) {
        let mut events = VecDeque::from([first]);
        while let Some(event) = events.pop_front() {
            let effects = self.proxy.machine.handle(at(self.tick), event);
            for effect in effects {
                match effect {
                    Effect::ReadDocument { .. } => events.push_back(match self.proxy.reaches_store {
                        true => {
                            let document = ClusterDocument::from((*self.document).clone());
                            Event::DocumentRead(Some(Box::new(document)))
                        }
                        false => Event::DocumentUnreadable,
                    }),
                    Effect::Publish { claim, .. } => {
                        let outcome = if self.proxy.reaches_store { outcome } else { Outcome::Lost };
                        if outcome != Outcome::Lost {
                            self.proxy.publications += 1;
                            self.proxy_report = Some(Hashed::new(ProxyReport {
                                info_uid: format!("{}", self.proxy.publications).into(),
                                uid: proxy_uid(),
                                generation: claim.generation,
                                proxy_timeout: GoDuration::from(claim.timeout).0,
                                ..ProxyReport::default()
                            }));
                        }
                        events.push_back(match outcome {
                            Outcome::Taken => Event::ReportTaken,
                            Outcome::Unconfirmed | Outcome::Lost => Event::ReportRefused,
                        });
                    }
                    Effect::Open { destination, deadline } => {
                        self.proxy.target = keeper_at(&destination.name.port);
                        self.proxy.deadline = Some(deadline);
                    }
                    Effect::MoveDeadline(deadline) => self.proxy.deadline = Some(deadline),
                    Effect::Close(why) => {
                        if why != ClosedBecause::Expired || bound.without != Some(Guard::Deadline) {
                            self.proxy.target = None;
                        }
                        self.proxy.deadline = None;
                        events.push_back(Event::Closed);
                    }
                    Effect::Listen => events.push_back(Event::Listening),
                    _ => {}
                }
            }
        }
    }
}

/// The standbys that commits wait for stay those that they were.
fn forget_what_was_counted(next: &mut ClusterData, read: &ClusterData) {
    for (uid, instance) in &mut next.instances {
        if let Some(before) = read.instances.get(uid) {
            instance.spec.synchronous_standbys.clone_from(&before.spec.synchronous_standbys);
            instance.status.synchronous_standbys.clone_from(&before.status.synchronous_standbys);
        }
    }
}

/// As if everybody were waited for, and held everything.
fn count_everybody_as_synchronous(data: &mut ClusterData) {
    let everybody: Vec<InstanceUid> = data.instances.keys().cloned().collect();
    if let Some(primary) = data.cluster.status.primary.clone()
        && let Some(instance) = data.instances.get_mut(&primary)
        && instance.spec.synchronous_replication
    {
        let others: Vec<InstanceUid> = everybody.into_iter().filter(|uid| *uid != primary).collect();
        instance.spec.synchronous_standbys = Some(others.clone());
        instance.status.synchronous_standbys = Some(others);
    }
}
