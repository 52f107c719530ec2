//! A state of the model: store, sentinels, keepers with their PostgreSQL, one proxy, and what clients were told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stolon_core::proxy::{Machine, OnSilence, Policy};
use stolon_core::sentinel::Memory;
use stolon_model::{
    BootUuid, ClusterData, ClusterSpec, Empty, FollowConfig, GoDuration, InitMode, Instance,
    InstanceInitMode, InstanceUid, Keeper, KeeperReport, KeeperUid, Phase, ProxyReport, ProxyUid, Role,
    Timestamp,
};

use crate::bound::{Bound, Replication};
use crate::hashed::Hashed;
use crate::postgres::{Commit, Kind, Postgres};

/// Keepers of the model.
pub(crate) const KEEPERS: usize = 3;
/// Sentinels of the model.
pub(crate) const SENTINELS: usize = 2;
pub(crate) const SYSTEM: &str = "7000000000000000001";
const PROXY: &str = "p1";

/// One state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The second.
    pub(crate) tick: u8,
    /// The second in which the steady state was reached.
    pub(crate) origin: u8,
    /// Who has had its turn in this second.
    pub(crate) acted: BTreeSet<Actor>,
    pub(crate) faults_left: u8,
    pub(crate) document: Hashed<ClusterData>,
    /// One more with each write of the document.
    pub(crate) revision: u16,
    pub(crate) keeper_reports: BTreeMap<KeeperUid, Hashed<KeeperReport>>,
    pub(crate) proxy_report: Option<Hashed<ProxyReport>>,
    pub(crate) sentinels: Vec<Sentinel>,
    pub(crate) keepers: Vec<Node>,
    pub(crate) proxy: Proxy,
    /// Commits of clients so far.
    pub(crate) commits: Commit,
    /// Commits that a client was told to be safe.
    pub(crate) acknowledged: BTreeSet<Commit>,
    /// Commits that wait for standbys, with the keeper where each was made.
    pub(crate) waiting: BTreeMap<Commit, usize>,
    /// A rule that the last step broke.
    pub(crate) broken: Option<&'static str>,
}

/// Who takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// A sentinel's round.
    Sentinel(usize),
    /// A keeper reads, acts and reports.
    Keeper(usize),
    /// The proxy's check.
    Proxy,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sentinel {
    pub memory: Hashed<Memory>,
    pub leads: bool,
    /// It has read, and was then paused.
    pub view: Option<View>,
}

/// What a paused sentinel has read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    pub document: Hashed<ClusterData>,
    pub revision: u16,
    pub keeper_reports: BTreeMap<KeeperUid, Hashed<KeeperReport>>,
    pub proxy_report: Option<Hashed<ProxyReport>>,
    /// The second in which it was read.
    pub tick: u8,
}

/// A keeper's host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub postgres: Postgres,
    pub state: NodeState,
    /// How often the keeper was started.
    pub boots: u8,
    /// A report that is on its way to the store.
    pub delayed: Option<Hashed<KeeperReport>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NodeState {
    Up,
    /// Keeper and PostgreSQL are gone.
    Down,
    /// The keeper reaches no store; its PostgreSQL goes on, and so do those who talk to it.
    CutOff,
    /// Its PostgreSQL receives no WAL.
    Lagging,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Proxy {
    pub machine: Machine,
    /// The keeper that clients are sent to.
    pub target: Option<usize>,
    /// When it closes, unless it is told otherwise before.
    pub deadline: Option<Duration>,
    pub reaches_store: bool,
    pub publications: u16,
}

pub(crate) fn keeper_uid(keeper: usize) -> KeeperUid {
    format!("k{}", keeper + 1).into()
}

pub(crate) fn boot_of(keeper: usize, boots: u8) -> BootUuid {
    format!("boot{}-{boots}", keeper + 1).into()
}

pub(crate) fn port_of(keeper: usize) -> String {
    format!("{}", 5401 + keeper)
}

pub(crate) fn proxy_uid() -> ProxyUid {
    PROXY.into()
}

fn instance_uid(keeper: usize) -> InstanceUid {
    format!("db{}", keeper + 1).into()
}

/// The moment of a second, on every clock of the model.
pub(crate) fn at(tick: u8) -> Duration {
    Duration::from_secs(10_000 + u64::from(tick))
}

impl World {
    /// The keeper where this instance is.
    pub(crate) fn keeper_of(&self, uid: &InstanceUid) -> Option<usize> {
        let keeper = &self.document.instances.get(uid)?.spec.keeper_uid;
        (0..KEEPERS).find(|number| keeper_uid(*number) == *keeper)
    }

    /// A formed cluster: db1 is the primary, in synchronous mode with db2, while db3 follows; nobody has had a turn yet.
    pub(crate) fn formed(bound: &Bound) -> World {
        let policy = Policy { on_silence: OnSilence::KeepListening, drain: Duration::ZERO };
        let node = |keeper: usize| Node {
            postgres: Postgres::new(
                &instance_uid(keeper),
                if keeper == 0 { Kind::Primary } else { Kind::Standby },
            ),
            state: NodeState::Up,
            boots: 0,
            delayed: None,
        };
        let sentinel =
            |number| Sentinel { memory: Hashed::new(Memory::default()), leads: number == 0, view: None };
        World {
            tick: 0,
            origin: 0,
            acted: BTreeSet::new(),
            faults_left: bound.faults,
            document: Hashed::new(document(bound)),
            revision: 1,
            keeper_reports: BTreeMap::new(),
            proxy_report: None,
            sentinels: (0..SENTINELS).map(sentinel).collect(),
            keepers: (0..KEEPERS).map(node).collect(),
            proxy: Proxy {
                machine: Machine::new(proxy_uid(), policy),
                target: None,
                deadline: None,
                reaches_store: true,
                publications: 0,
            },
            commits: 0,
            acknowledged: BTreeSet::new(),
            waiting: BTreeMap::new(),
            broken: None,
        }
    }
}

/// sleepInterval and proxyCheckInterval are one second, failInterval and proxyTimeout two.
fn document(bound: &Bound) -> ClusterData {
    let seconds = |seconds| Some(GoDuration::from_seconds(seconds));
    let synchronous = bound.replication == Replication::Synchronous;
    let spec = ClusterSpec {
        init_mode: Some(InitMode::New),
        sleep_interval: seconds(1),
        fail_interval: seconds(2),
        proxy_check_interval: seconds(1),
        proxy_timeout: seconds(2),
        synchronous_replication: Some(synchronous),
        max_synchronous_standbys: Some(1),
        min_synchronous_standbys: Some(1),
        ..ClusterSpec::default()
    };
    let mut data = ClusterData::initial("c1".into(), spec, Timestamp::ZERO);
    data.cluster.status.phase = Some(Phase::Normal);
    data.cluster.status.primary = Some(instance_uid(0));
    data.proxy.generation = 1;
    for number in 0..KEEPERS {
        let mut keeper = Keeper { uid: keeper_uid(number), generation: 1, ..Keeper::default() };
        keeper.spec = Some(Empty {});
        keeper.status.healthy = true;
        keeper.status.boot_uuid = boot_of(number, 0);
        data.keepers.insert(keeper_uid(number), keeper);
        data.instances.insert(instance_uid(number), instance(number, synchronous));
    }
    data
}

fn instance(number: usize, synchronous: bool) -> Instance {
    let mut instance = Instance { uid: instance_uid(number), generation: 1, ..Instance::default() };
    let spec = &mut instance.spec;
    spec.keeper_uid = keeper_uid(number);
    spec.request_timeout = GoDuration::from_seconds(10);
    (spec.max_standbys, spec.additional_wal_senders) = (20, 5);
    spec.init_mode = Some(InstanceInitMode::None);
    spec.synchronous_replication = synchronous && number == 0;
    if number == 0 {
        spec.role = Some(Role::Primary);
        spec.followers = Some(vec![instance_uid(1), instance_uid(2)]);
        spec.synchronous_standbys = synchronous.then(|| vec![instance_uid(1)]);
        spec.external_synchronous_standbys = synchronous.then(Vec::new);
        instance.status.synchronous_standbys = synchronous.then(|| vec![instance_uid(1)]);
    } else {
        spec.role = Some(Role::Standby);
        spec.followers = Some(Vec::new());
        spec.follow_config = Some(FollowConfig::internal(instance_uid(0)));
    }
    let status = &mut instance.status;
    status.healthy = true;
    status.current_generation = 1;
    status.listen_address = "127.0.0.1".to_owned();
    status.port = port_of(number);
    status.system_identifier = SYSTEM.to_owned();
    status.timeline = stolon_model::Timeline(1);
    instance
}
