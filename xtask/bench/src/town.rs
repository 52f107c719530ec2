//! A cluster on paper: a sentinel's machine, the document that it writes, and keepers that do at once what they are asked to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::time::{ClockId, clock_gettime};
use stolon_core::sentinel::{
    Effect, Event, Machine, Now, Reading, Setup, Standing, Told, UidSource, WriteOutcome,
};
use stolon_model::{
    BootUuid, ClusterData, ClusterDocument, ClusterSpec, InfoUid, InitMode, Instance, InstanceUid,
    KeeperActivity, KeeperReport, KeeperUid, Lsn, PostgresState, PostgresVersion, ProxyReport, ProxyUid,
    Role, Served, Timeline, Timestamp,
};

/// Parameters of PostgreSQL that operators set; every instance carries them twice.
const PARAMETERS: usize = 20;
const CLUSTER: &str = "cluster1";
const PROXIES: usize = 3;
/// Rounds in which a cluster of any size is made, or has replaced its primary.
const PATIENCE: usize = 20;
/// Keepers report, and the sentinel looks, once in so long: `sleepInterval` at its default.
const SLEEP_INTERVAL: Duration = Duration::from_secs(5);

pub struct Town {
    machine: Machine,
    document: ClusterDocument,
    keepers: BTreeMap<KeeperUid, KeeperReport>,
    proxies: BTreeMap<ProxyUid, ProxyReport>,
    now: Duration,
    rounds: u64,
    dead: Option<KeeperUid>,
    uids: Numbered,
}

/// What a round is decided on, any number of times.
pub struct Moment {
    machine: Machine,
    reading: Reading,
    now: Duration,
    uids: Numbered,
}

/// What became of a round.
struct Round {
    machine: Machine,
    uids: Numbered,
    /// The document that was written, if one was.
    written: Option<Arc<ClusterDocument>>,
    took: Duration,
}

#[derive(Clone, Copy)]
struct Numbered(u32);

impl UidSource for Numbered {
    fn instance_uid(&mut self) -> InstanceUid {
        self.0 += 1;
        format!("{:08x}", self.0).into()
    }
}

impl Town {
    /// A synchronous cluster in which nothing is left to do: one primary, everybody else its standby.
    pub fn settled(keepers: usize) -> anyhow::Result<Self> {
        let standbys = u16::try_from(keepers)?;
        let parameters = (0..PARAMETERS).map(|number| (format!("a_parameter_{number}"), number.to_string()));
        let spec = ClusterSpec {
            init_mode: Some(InitMode::New),
            synchronous_replication: Some(true),
            max_standbys: Some(standbys.max(20)),
            max_standbys_per_sender: Some(standbys),
            pg_parameters: Some(parameters.collect()),
            pg_hba: Some(vec!["host all all 10.0.0.0/8 scram-sha-256".to_owned(); 5]),
            ..ClusterSpec::default()
        };
        let data = ClusterData::initial(CLUSTER.into(), spec, Timestamp::ZERO);
        let keepers = (0..keepers).map(|number| KeeperUid::from(format!("keeper{number}")));
        let mut town = Town {
            machine: Machine::new(Setup { uid: "sentinel1".into(), initial_spec: None }),
            document: data.into(),
            keepers: keepers.map(|uid| (uid, KeeperReport::default())).collect(),
            proxies: (0..PROXIES)
                .map(|number| (ProxyUid::from(format!("proxy{number}")), ProxyReport::default()))
                .collect(),
            now: SLEEP_INTERVAL,
            rounds: 0,
            dead: None,
            uids: Numbered(0),
        };
        town.tell(Event::Started);
        town.tell(Event::StandingChanged(Standing::Leader));
        for _ in 0..PATIENCE {
            town.round();
            if town.is_complete() {
                return Ok(town);
            }
        }
        bail!("{} keepers have not settled in {PATIENCE} rounds", town.keepers.len())
    }

    /// One round on new reports; returns how long the machine took.
    pub fn round(&mut self) -> Duration {
        let round = self.next_moment().decide();
        self.take(round)
    }

    /// The primary's keeper reports no more; returns the moment at which another primary is elected.
    pub fn kill_primary(mut self) -> anyhow::Result<Moment> {
        let primary = self.primary().context("there is no primary")?;
        self.dead = self.data()?.instances.get(&primary).map(|instance| instance.spec.keeper_uid.clone());
        for _ in 0..PATIENCE {
            let moment = self.next_moment();
            self.take(moment.decide());
            if self.primary().is_some_and(|elected| elected != primary) {
                return Ok(moment);
            }
        }
        bail!("nobody was elected in {PATIENCE} rounds")
    }

    fn next_moment(&mut self) -> Moment {
        self.rounds += 1;
        self.now += SLEEP_INTERVAL;
        self.report();
        self.tell(Event::StoreChanged);
        let reading = Reading {
            as_of: self.now,
            document: Some(self.document.clone()),
            keepers: self.keepers.iter().map(|(uid, it)| (uid.clone(), Arc::new(it.clone()))).collect(),
            proxies: self.proxies.clone(),
            unreadable_proxies: BTreeSet::new(),
            told: Told::default(),
        };
        Moment { machine: self.machine.clone(), reading, now: self.now, uids: self.uids }
    }

    fn take(&mut self, round: Round) -> Duration {
        self.machine = round.machine;
        self.uids = round.uids;
        if let Some(written) = round.written {
            self.document = Arc::unwrap_or_clone(written);
        }
        round.took
    }

    fn tell(&mut self, event: Event) {
        drop(self.machine.handle(at(self.now), event, &mut self.uids));
    }

    fn primary(&self) -> Option<InstanceUid> {
        self.document.cluster.as_ref()?.status.primary.clone()
    }

    fn data(&self) -> anyhow::Result<ClusterData> {
        Ok(ClusterData::try_from(self.document.clone())?)
    }

    /// Whether everybody has an instance, and the primary waits for those that it knows to be in sync.
    fn is_complete(&self) -> bool {
        let instances = || self.document.instances.iter().flatten().map(|(_, instance)| instance);
        let primary = instances().find(|instance| instance.spec.role == Some(Role::Primary));
        let in_sync = primary.is_some_and(|primary| {
            let listed = &primary.spec.synchronous_standbys;
            listed.as_ref().is_some_and(|listed| !listed.is_empty())
                && *listed == primary.status.synchronous_standbys
        });
        in_sync
            && instances().count() == self.keepers.len()
            && instances().all(|instance| instance.generation == instance.status.current_generation)
    }

    /// Everybody who lives reports anew.
    fn report(&mut self) {
        let instances = self.document.instances.iter().flatten();
        let by_keeper: BTreeMap<&KeeperUid, &Instance> =
            instances.map(|(_, instance)| (&instance.spec.keeper_uid, instance)).collect();
        for (uid, report) in self.keepers.iter_mut().filter(|(uid, _)| self.dead.as_ref() != Some(uid)) {
            let state = by_keeper.get(uid).map(|instance| state(instance, self.rounds));
            let served = state.as_ref().map(served);
            *report = KeeperReport {
                info_uid: InfoUid::from(format!("{uid}-{}", self.rounds)),
                uid: uid.clone(),
                cluster_uid: CLUSTER.into(),
                boot_uuid: BootUuid::from(format!("boot-of-{uid}")),
                postgres_binary_version: PostgresVersion { major: 15, minor: 4 },
                postgres_state: state,
                can_be_primary: Some(true),
                can_be_synchronous_replica: Some(true),
                activity: Some(KeeperActivity { looks: self.rounds, served, ..KeeperActivity::default() }),
            };
        }
        let generation = self.document.proxy.as_ref().map_or(0, |proxy| proxy.generation);
        for (uid, report) in &mut self.proxies {
            *report = ProxyReport {
                info_uid: InfoUid::from(format!("{uid}-{}", self.rounds)),
                uid: uid.clone(),
                generation,
                proxy_timeout: 15_000_000_000,
                ..ProxyReport::default()
            };
        }
    }
}

impl Moment {
    /// Decide once more; returns how long the machine took.
    pub fn decide_again(&self) -> Duration {
        self.decide().took
    }

    /// From the answer to the reading to the answer to the write. What the programs do around it (JSON, the store) does not count,
    /// nor do the copies that are made here.
    fn decide(&self) -> Round {
        let (mut machine, mut uids, now) = (self.machine.clone(), self.uids, at(self.now));
        let event = Event::ViewRead(Box::new(self.reading.clone()));
        let begun = processor_time();
        let effects = machine.handle(now, event, &mut uids);
        let mut took = processor_time().saturating_sub(begun);
        let mut written = None;
        for effect in effects {
            if let Effect::CompareAndPut { document, .. } = effect {
                written = Some(document);
                let begun = processor_time();
                let effects = machine.handle(now, Event::WriteEnded(WriteOutcome::Written), &mut uids);
                took += processor_time().saturating_sub(begun);
                drop(effects);
            }
        }
        Round { machine, uids, written, took }
    }
}

/// The keeper has done what it was asked to, and standbys have everything that the primary has.
fn state(instance: &Instance, rounds: u64) -> PostgresState {
    PostgresState {
        uid: instance.uid.clone(),
        generation: instance.generation,
        listen_address: "10.0.0.1".to_owned(),
        port: "5432".to_owned(),
        healthy: true,
        system_identifier: "7300000000000000001".to_owned(),
        timeline: Timeline(1),
        lsn: Lsn(rounds * 1_000_000),
        timelines_history: None,
        // Equal parameters are one in memory, as a sentinel decodes them.
        pg_parameters: instance.spec.pg_parameters.clone(),
        synchronous_standbys: instance.spec.synchronous_standbys.clone(),
        stores_md5: false,
        slot_positions: None,
        older_wal_file: "000000010000000000000001".to_owned(),
    }
}

fn served(state: &PostgresState) -> Served {
    Served {
        cluster_uid: CLUSTER.into(),
        epoch: 0,
        instance: state.uid.clone(),
        primary_epoch: None,
        generation: state.generation,
        timeline: state.timeline,
        lsn: state.lsn,
    }
}

/// What this thread has used: other programs on the machine make no figure worse.
fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

fn at(monotonic: Duration) -> Now {
    Now { monotonic, wall: Timestamp::ZERO }
}
