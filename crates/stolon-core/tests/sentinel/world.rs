//! A cluster on paper: a document, the reports that go with it, and a sentinel's memory.
//!
//! `given` changes the document; reports are made from it, so that what the document says of health, positions and
//! generations is also what keepers report. Situations that a report cannot show are set by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stolon_core::sentinel::{
    Convergence, Decision, Hold, KeeperSighting, Life, Memory, Now, Standing, Told, UidSource, View,
    reconcile,
};
use stolon_model::*;

pub const LONG_AGO: Duration = Duration::ZERO;
pub const START: Duration = Duration::from_secs(3_600_000);

pub struct World {
    pub data: ClusterData,
    pub memory: Memory,
    pub now: Duration,
    pub wall_seconds: i64,
    /// Keepers that do not report.
    pub silent: BTreeSet<KeeperUid>,
    /// Instances whose keeper reports that they do not work, since long ago.
    pub down: BTreeSet<InstanceUid>,
    /// What PostgreSQL shows in sync, by primary.
    pub in_sync: BTreeMap<InstanceUid, Vec<InstanceUid>>,
    /// How standbys keep up, by primary.
    pub standby_pace: BTreeMap<InstanceUid, BTreeMap<InstanceUid, StandbyPace>>,
    /// Keepers that know quorums, and stop their standbys when they are told to.
    pub knows_quorums: BTreeSet<KeeperUid>,
    /// The quorum that has acknowledged everything, by primary.
    pub quorum: BTreeMap<InstanceUid, QuorumReport>,
    pub proxies: BTreeMap<ProxyUid, ProxyReport>,
    pub unreadable_proxies: BTreeSet<ProxyUid>,
    /// How slow the store is.
    pub usual_delay: Duration,
    pub told: Told,
    pub standing: Standing,
    publication: u64,
    last_uid: u32,
}

struct Numbered<'a>(&'a mut u32);

impl UidSource for Numbered<'_> {
    fn instance_uid(&mut self) -> InstanceUid {
        *self.0 += 1;
        format!("db{}", self.0).into()
    }
}

pub fn uid(number: usize) -> InstanceUid {
    format!("db{number}").into()
}

pub fn uids(numbers: &[usize]) -> Option<Vec<InstanceUid>> {
    Some(numbers.iter().map(|number| uid(*number)).collect())
}

pub fn keeper_uid(number: usize) -> KeeperUid {
    format!("keeper{number}").into()
}

pub fn wall(seconds: i64) -> Timestamp {
    format!("2026-11-22T{:02}:{:02}:{:02}Z", 8 + seconds / 3600, seconds / 60 % 60, seconds % 60)
        .parse()
        .unwrap()
}

fn instance_spec(number: usize) -> InstanceSpec {
    InstanceSpec {
        keeper_uid: keeper_uid(number),
        request_timeout: GoDuration::from_seconds(10),
        max_standbys: 20,
        additional_wal_senders: 5,
        followers: Some(Vec::new()),
        ..InstanceSpec::default()
    }
}

/// A converged and healthy instance in generation 1, all positions zero.
fn instance(number: usize, spec: InstanceSpec) -> Instance {
    let status = InstanceStatus { healthy: true, current_generation: 1, ..InstanceStatus::default() };
    Instance { uid: uid(number), generation: 1, spec, status, ..Instance::default() }
}

impl World {
    /// A cluster that is being initialised, with `keepers` healthy keepers and no instance.
    pub fn initializing(keepers: usize) -> World {
        let spec = ClusterSpec {
            convergence_timeout: Some(GoDuration::from_seconds(30)),
            init_timeout: Some(GoDuration::from_seconds(300)),
            init_mode: Some(InitMode::New),
            ..ClusterSpec::default()
        };
        let mut data = ClusterData::initial("cluster1".into(), spec, wall(0));
        data.cluster.epoch = None;
        for number in 1..=keepers {
            let mut keeper = Keeper { uid: keeper_uid(number), generation: 1, ..Keeper::default() };
            keeper.spec = Some(Empty {});
            keeper.status.healthy = true;
            keeper.status.last_healthy_time = wall(0);
            data.keepers.insert(keeper_uid(number), keeper);
        }
        World {
            data,
            memory: Memory {
                cluster_uid: Some("cluster1".into()),
                last_read: Some(START - Duration::from_millis(500)),
                ..Memory::default()
            },
            now: START,
            wall_seconds: 0,
            silent: BTreeSet::new(),
            down: BTreeSet::new(),
            in_sync: BTreeMap::new(),
            standby_pace: BTreeMap::new(),
            knows_quorums: BTreeSet::new(),
            quorum: BTreeMap::new(),
            proxies: BTreeMap::new(),
            unreadable_proxies: BTreeSet::new(),
            usual_delay: Duration::ZERO,
            told: Told::default(),
            standing: Standing::Leader,
            publication: 0,
            last_uid: 0,
        }
    }

    /// A working cluster: db1 on keeper1 is the primary, db2… are standbys on the keepers of the same number.
    pub fn normal(keepers: usize, instances: usize) -> World {
        let mut world = World::initializing(keepers);
        world.data.cluster.status.phase = Some(Phase::Normal);
        world.data.cluster.status.primary = Some(uid(1));
        world.data.proxy.generation = 1;
        world.data.proxy.spec.primary = Some(uid(1));
        world.data.proxy.spec.enabled_proxies = Some(Vec::new());
        for number in 1..=instances {
            let mut spec = instance_spec(number);
            spec.init_mode = Some(InstanceInitMode::None);
            if number == 1 {
                spec.role = Some(Role::Primary);
                spec.followers = Some((2..=instances).map(uid).collect());
            } else {
                spec.role = Some(Role::Standby);
                spec.follow_config = Some(FollowConfig::internal(uid(1)));
            }
            world.data.instances.insert(uid(number), instance(number, spec));
        }
        world.last_uid = instances as u32;
        world
    }

    /// The same in synchronous mode, where db1 waits for `listed` and knows `known` to be in sync.
    pub fn synchronous(instances: usize, listed: &[usize], known: &[usize]) -> World {
        let mut world = World::normal(instances, instances);
        world.data.cluster.spec.synchronous_replication = Some(true);
        let primary = world.db(1);
        primary.spec.synchronous_replication = true;
        primary.spec.synchronous_standbys = uids(listed);
        primary.spec.external_synchronous_standbys = Some(Vec::new());
        primary.status.synchronous_standbys = uids(known);
        world
    }

    pub fn given(mut self, change: impl FnOnce(&mut World)) -> World {
        change(&mut self);
        self
    }

    pub fn db(&mut self, number: usize) -> &mut Instance {
        self.data.instances.get_mut(&uid(number)).unwrap()
    }

    pub fn keeper(&mut self, number: usize) -> &mut Keeper {
        self.data.keepers.get_mut(&keeper_uid(number)).unwrap()
    }

    /// PostgreSQL of this instance has not worked for long.
    pub fn break_db(&mut self, number: usize) {
        self.db(number).status.healthy = false;
        self.down.insert(uid(number));
        self.memory.trouble.insert(uid(number), LONG_AGO);
    }

    /// This keeper has been silent for long.
    pub fn silence_keeper(&mut self, number: usize) {
        self.silent.insert(keeper_uid(number));
        self.keeper(number).status.healthy = false;
        let silence = KeeperSighting { report: None, life: Life::Proven, since: LONG_AGO };
        self.memory.keepers.insert(keeper_uid(number), silence);
        self.memory.trouble.insert(uid(number), LONG_AGO);
    }

    /// A proxy that has acknowledged `generation`.
    pub fn proxy(&mut self, name: &str, generation: i64) {
        self.publication += 1;
        let report = ProxyReport {
            info_uid: format!("proxy-info-{}", self.publication).into(),
            uid: name.into(),
            generation,
            proxy_timeout: 15_000_000_000,
            ..ProxyReport::default()
        };
        self.proxies.insert(name.into(), report);
    }

    /// Reports that say what the document says.
    fn reports(&mut self) -> BTreeMap<KeeperUid, KeeperReport> {
        self.publication += 1;
        let keepers = self.data.keepers.values().filter(|keeper| !self.silent.contains(&keeper.uid));
        keepers
            .map(|keeper| {
                let status = &keeper.status;
                let report = KeeperReport {
                    info_uid: format!("info-{}", self.publication).into(),
                    uid: keeper.uid.clone(),
                    cluster_uid: self.data.cluster.uid.clone(),
                    boot_uuid: status.boot_uuid.clone(),
                    postgres_binary_version: status.postgres_binary_version.clone(),
                    postgres_state: self.data.instance_of(&keeper.uid).map(|instance| self.state(instance)),
                    can_be_primary: status.can_be_primary,
                    can_be_synchronous_replica: status.can_be_synchronous_replica,
                    // A keeper looks more often than it reports.
                    activity: Some(KeeperActivity {
                        looks: self.publication * 2,
                        zone: status.zone.clone(),
                        failover_priority: status.failover_priority,
                        stopped: self.stopped(&keeper.uid),
                        quorum: self
                            .data
                            .instance_of(&keeper.uid)
                            .and_then(|instance| self.quorum.get(&instance.uid).cloned()),
                        standby_pace: self
                            .data
                            .instance_of(&keeper.uid)
                            .and_then(|instance| self.standby_pace.get(&instance.uid).cloned()),
                        ..KeeperActivity::default()
                    }),
                };
                (keeper.uid.clone(), report)
            })
            .collect()
    }

    fn stopped(&self, keeper: &KeeperUid) -> Option<i64> {
        let knows = self.knows_quorums.contains(keeper);
        let instance = self.data.instance_of(keeper);
        let stopped =
            instance.filter(|it| it.spec.stops_receiving && it.status.current_generation == it.generation);
        knows.then(|| stopped.map_or(0, |instance| instance.generation))
    }

    fn state(&self, instance: &Instance) -> PostgresState {
        let status = &instance.status;
        PostgresState {
            uid: instance.uid.clone(),
            generation: status.current_generation,
            listen_address: status.listen_address.clone(),
            port: status.port.clone(),
            healthy: !self.down.contains(&instance.uid) && status.current_generation != 0,
            system_identifier: status.system_identifier.clone(),
            timeline: status.timeline,
            lsn: status.lsn,
            timelines_history: status.timelines_history.clone(),
            pg_parameters: status.pg_parameters.clone(),
            synchronous_standbys: self.in_sync.get(&instance.uid).cloned(),
            older_wal_file: status.older_wal_file.clone(),
            stores_md5: status.stores_md5,
            slot_positions: status.slot_positions.clone(),
        }
    }

    /// Every instance that lags behind its generation has done so for long.
    pub fn with_old_timers(mut self) -> World {
        for instance in self.data.instances.values() {
            let entry = Convergence { generation: instance.generation, since: LONG_AGO };
            self.memory.convergence.insert(instance.uid.clone(), entry);
        }
        self
    }

    /// One round on new reports; the world becomes what was decided.
    pub fn round(&mut self) -> Decision {
        let keepers = self.reports();
        self.round_on(&keepers)
    }

    /// One round on these reports.
    pub fn round_on(&mut self, keepers: &BTreeMap<KeeperUid, KeeperReport>) -> Decision {
        let before = self.data.clone();
        let cluster = before.clone().try_into().unwrap();
        let keepers = shared(keepers.clone());
        let view = View {
            cluster: &cluster,
            keepers: &keepers,
            proxies: &self.proxies,
            unreadable_proxies: &self.unreadable_proxies,
            standing: self.standing,
            read_at: self.now,
            usual_delay: self.usual_delay,
            told: &self.told,
        };
        let now = Now { monotonic: self.now, wall: wall(self.wall_seconds) };
        let decision = reconcile(&view, &self.memory, now, &mut Numbered(&mut self.last_uid));
        if self.standing == Standing::Leader {
            assert_generations(&before, &decision.next);
        }
        self.data = decision.next.clone();
        self.memory = decision.memory.clone();
        decision
    }

    /// The reports that go with the document now, to be changed or repeated by the test.
    pub fn current_reports(&mut self) -> BTreeMap<KeeperUid, KeeperReport> {
        self.reports()
    }

    pub fn later(&mut self, milliseconds: u64) -> &mut World {
        self.now += Duration::from_millis(milliseconds);
        self
    }

    /// Keepers do what is asked of them.
    pub fn converge(&mut self) {
        for instance in self.data.instances.values_mut() {
            instance.status.current_generation = instance.generation;
            instance.status.healthy = true;
        }
    }

    /// One round must give the document that `expected` makes of the one before, times apart.
    #[track_caller]
    pub fn expect(mut self, name: &str, expected: impl FnOnce(&mut World)) {
        let before = self.data.clone();
        let decision = self.round();
        self.data = before;
        expected(&mut self);
        let (found, wanted) = (without_times(&decision.next), without_times(&self.data));
        assert_eq!(
            ClusterDocument::from(found).to_json_indented(),
            ClusterDocument::from(wanted).to_json_indented(),
            "{name}: changes {:?}, holds {:?}",
            texts(&decision.changes),
            texts(&decision.holds)
        );
    }

    #[track_caller]
    pub fn expect_unchanged(self, name: &str) {
        self.expect(name, |_| {});
    }
}

/// Reports as a sentinel reads them.
pub fn shared(reports: BTreeMap<KeeperUid, KeeperReport>) -> BTreeMap<KeeperUid, Arc<KeeperReport>> {
    reports.into_iter().map(|(uid, report)| (uid, Arc::new(report))).collect()
}

pub fn texts<T: std::fmt::Display>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

pub fn has_hold(decision: &Decision, is: impl Fn(&Hold) -> bool) -> bool {
    decision.holds.iter().any(is)
}

/// A generation grows by one if, and only if, the specification changed.
#[track_caller]
fn assert_generations(before: &ClusterData, next: &ClusterData) {
    for (uid, instance) in &next.instances {
        let Some(old) = before.instances.get(uid) else {
            let mut formers = before.cluster.status.formers.iter().flatten();
            let is_back = formers.any(|former| former.instance == *uid);
            assert!(is_back || instance.generation == 1, "new db {uid}");
            continue;
        };
        let mut spec = old.spec.clone();
        if spec.followers.is_none() {
            spec.followers = Some(Vec::new());
        }
        let grown = instance.generation - old.generation;
        assert_eq!(grown, i64::from(spec != instance.spec), "generation of db {uid}");
    }
}

pub fn without_times(data: &ClusterData) -> ClusterData {
    let mut data = data.clone();
    data.change_time = Timestamp::ZERO;
    data.cluster.epoch = None;
    // Tests of their own look at them.
    data.cluster.status.formers = None;
    data.cluster.change_time = Timestamp::ZERO;
    data.proxy.change_time = Timestamp::ZERO;
    data.keepers.values_mut().for_each(|keeper| {
        keeper.change_time = Timestamp::ZERO;
        keeper.status.last_healthy_time = Timestamp::ZERO;
    });
    data.instances.values_mut().for_each(|instance| instance.change_time = Timestamp::ZERO);
    data
}

/// What an election of `to` in place of `from` changes for everybody, synchronous fields apart.
pub fn elected(world: &mut World, from: usize, to: usize) {
    world.data.cluster.status.primary = Some(uid(to));
    world.db(from).spec.followers = Some(Vec::new());
    world.db(from).generation += 1;
    let new = world.db(to);
    new.spec.role = Some(Role::Primary);
    new.spec.follow_config = None;
    new.generation += 1;
    if world.data.proxy.spec.primary.take().is_some() {
        world.data.proxy.generation += 1;
    }
}
