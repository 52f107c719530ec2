//! What a run is made of: drawn from a seed, written down, and taken apart again to find the smallest that fails.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stolon_model::{ClusterSpec, GoDuration, InitMode};

use crate::random::Random;

/// Everything that decides how a run goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// Latencies and the like are drawn from it.
    pub seed: u64,
    /// How many keepers, each on a host of its own.
    pub keepers: u8,
    /// How many sentinels.
    pub sentinels: u8,
    /// How many proxies, each on a host of its own.
    pub proxies: u8,
    /// Where sentinels run.
    pub placement: Placement,
    /// Clients that come through the proxies.
    pub clients: u8,
    /// Clients that go to the servers directly, whoever is primary.
    pub direct_clients: u8,
    /// The cluster specification.
    pub spec: Spec,
    /// What goes wrong, in the order of its beginning.
    pub faults: Vec<Fault>,
    /// When the last fault has ended, in milliseconds.
    pub quiet_at: u64,
}

/// Where sentinels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// On hosts of their own.
    Apart,
    /// On the hosts of keepers, as far as there are any.
    WithKeepers,
}

/// The part of the cluster specification that is drawn; times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// `sleepInterval`.
    pub sleep: u64,
    /// `failInterval`.
    pub fail: u64,
    /// `proxyCheckInterval`.
    pub proxy_check: u64,
    /// `proxyTimeout`.
    pub proxy_timeout: u64,
    /// `convergenceTimeout`.
    pub convergence: u64,
    /// `minSynchronousStandbys` and `maxSynchronousStandbys`; none: asynchronous.
    pub synchronous: Option<(u16, u16)>,
    /// `synchronousQuorum`.
    #[serde(default)]
    pub quorum: Option<u16>,
    /// `usePgrewind`.
    pub rewind: Rewind,
    /// `maxStandbysPerSender`.
    pub standbys: u16,
    /// `fenceWithoutLease`.
    #[serde(default)]
    pub lease: Lease,
}

/// What a primary does whose lease is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lease {
    /// It locks its clients out.
    #[default]
    Kept,
    /// It goes on.
    Ignored,
}

/// Whether `pg_rewind` is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rewind {
    /// `pg_rewind` is tried before a copy.
    Used,
    /// Every standby is copied.
    Never,
}

/// Something that goes wrong, or that an operator does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When it begins, in milliseconds.
    pub at: u64,
    /// How long it lasts, in milliseconds; 0 for what happens in a moment.
    pub lasts: u64,
    /// What happens.
    pub what: What,
}

/// Whether only one direction of a link is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Both.
    Both,
    /// Nothing comes out.
    Out,
    /// Nothing comes in.
    In,
}

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Program {
    /// A keeper.
    Keeper(u8),
    /// A sentinel.
    Sentinel(u8),
    /// A proxy.
    Proxy(u8),
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// `kill -9`; it is started again when the fault ends.
    Killed(Program),
    /// `SIGSTOP`, then `SIGCONT`.
    Stopped(Program),
    /// `kill -9` of the postmaster.
    ServerKilled(u8),
    /// The postmaster stands still while its backends go on.
    PostmasterHangs(u8),
    /// Each server dies so many milliseconds after its start.
    CrashLoop(u8, u64),
    /// The host of a keeper, with everything on it, stands still.
    HostFrozen(u8),
    /// The host of a keeper has no power.
    PowerLoss(u8),
    /// No host of a keeper has power.
    PowerLossOfAll,
    /// The host of a keeper is cut from all others.
    Isolated(u8, Direction),
    /// The host of a keeper cannot reach the store.
    CutFromStore(u8, Direction),
    /// Two keepers' hosts cannot reach each other.
    CutApart(u8, u8, Direction),
    /// A proxy cannot reach the store.
    ProxyCutFromStore(u8, Direction),
    /// A proxy cannot reach a keeper's host.
    ProxyCutFromKeeper(u8, u8),
    /// A sentinel cannot reach the store.
    SentinelCutFromStore(u8, Direction),
    /// The host of a keeper is slow to reach, by so many milliseconds.
    Slow(u8, u64),
    /// Packets from and to the host of a keeper are lost, so many of a hundred.
    Lossy(u8, u8),
    /// The store answers nobody.
    StoreDown,
    /// The store is reached by sentinels, by the host of one keeper, and by the last of several proxies: by no other keeper or proxy.
    StoreSeenBy(u8),
    /// The store takes so many milliseconds longer to answer.
    StoreSlow(u64),
    /// So many of a hundred answers of the store are lost after it did what was asked.
    RepliesLost(u8),
    /// Watches tell late, twice or together, by up to so many milliseconds.
    WatchesLate(u64),
    /// The document is set back by so many milliseconds; an operator settles what to go on from when the fault ends.
    StoreRolledBack(u64, Settlement),
    /// The store is emptied; an operator writes the document back when the fault ends.
    StoreWiped,
    /// The disk of a keeper is full.
    DiskFull(u8),
    /// The disk of a keeper does not answer.
    DiskHangs(u8),
    /// The disk of a keeper can only be read.
    DiskReadOnly(u8),
    /// Flushes of a keeper's disk take so many milliseconds.
    DiskSlow(u8, u64),
    /// The host of a standby's keeper is restored, when the fault ends, from a snapshot that was taken when it began.
    HostRestored(u8),
    /// `rm -rf` of a keeper's PGDATA, and `kill -9` of its server.
    DataRemoved(u8),
    /// `pg_rewind` fails half-way.
    RewindFails(u8),
    /// `pg_basebackup` fails half-way.
    BackupFails(u8),
    /// Names do not resolve at a proxy.
    NamesFail(u8),
    /// Names do not resolve on the host of a keeper.
    NamesFailAtKeeper(u8),
    /// Names resolve nowhere.
    NamesFailForAll,
    /// Names resolve after so many milliseconds, everywhere.
    NamesLate(u64),
    /// A keeper is added: before this it was never started.
    Joins(u8),
    /// The monotonic clock of a keeper's host is so many parts in a thousand too fast.
    ClockRate(u8, i64),
    /// The wall clock of a keeper's host jumps by so many milliseconds.
    WallClockJumps(u8, i64),
    /// A client writes so many MiB at once.
    Load(u64),
    /// A client's wait for standbys is cancelled (`pg_cancel_backend`).
    WaitsCancelled(u8),
    /// SIGTERM to a keeper, which ends in good order, and is started again some time later.
    ToldToEnd(u8),
    /// SIGUSR1 to a keeper, which ends and leaves its server, and is started again some time later.
    ToldToDepart(u8),
    /// An operator does something.
    Operator(Command),
}

/// What an operator goes on from after the store went back in time (`stolonctl settle`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settlement {
    /// From the newest data.
    TakeNewest,
    /// From the document in the store: what keepers hold beyond it is given up.
    AcceptLoss,
}

/// What an operator does with `stolonctl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// `failkeeper`.
    FailKeeper(u8),
    /// `switchover`, perhaps to a certain keeper.
    Switchover(Option<u8>),
    /// `removekeeper`, after the keeper was stopped; it starts again, as a new one, when the fault ends.
    RemoveKeeper(u8),
    /// `removekeeper`, while the keeper runs.
    RemoveKeeperThatRuns(u8),
    /// `init`, on a cluster that there is already.
    Init,
    /// `restart`.
    Restart(u8),
    /// `reload`.
    Reload(u8),
    /// `priority` of a keeper; what its flag says again when the fault ends.
    Priority(u8, u32),
    /// `priority KEEPER default`.
    PriorityOfFlag(u8),
    /// `recover KEEPER --allow-data-loss`, as soon as that is taken from anybody, until the fault ends.
    Recover,
    /// `update --patch` of `usePgrewind`.
    Rewind(Rewind),
    /// `update --patch` of `maxStandbysPerSender`.
    Standbys(u16),
    /// `pause` for so many milliseconds.
    Pause(u64),
    /// `resume`.
    Resume,
    /// `reinit`.
    Reinit(u8),
    /// `update --patch` that switches synchronous replication.
    Synchronous(Option<(u16, u16)>),
    /// `update --patch` of `pgParameters` that needs a reload.
    Parameters(u8),
    /// `update --patch` of `proxyTimeout` and `proxyCheckInterval`, in milliseconds.
    ProxyTimings(u64, u64),
}

impl Scenario {
    /// What a seed says, for a run in which things go wrong for `active`.
    pub fn draw(seed: u64, active: Duration) -> Scenario {
        let mut random = Random::new(seed ^ 0x5EED_0000);
        let keepers = *random.pick(&[1, 2, 2, 3, 3, 3, 3, 4, 5]).unwrap_or(&3);
        let sentinels = random.between(1, 3) as u8;
        let proxies = random.between(1, 3) as u8;
        let placement = if random.chance(50) { Placement::Apart } else { Placement::WithKeepers };
        let mut scenario = Scenario {
            seed,
            keepers,
            sentinels,
            proxies,
            placement,
            clients: random.between(1, 3) as u8,
            direct_clients: if random.chance(40) { 1 } else { 0 },
            spec: Spec::draw(&mut random, keepers),
            faults: Vec::new(),
            quiet_at: active.as_millis() as u64,
        };
        scenario.draw_faults(&mut random);
        scenario.spec.quorum = scenario.spec.synchronous.and_then(|(_, maximum)| quorum_of(seed, maximum));
        scenario
    }

    /// Few kinds of faults, often: a seed that mixes everything reaches nothing deep.
    fn draw_faults(&mut self, random: &mut Random) {
        let mut kinds: Vec<u64> = (0..Self::KINDS).collect();
        let wanted = if random.chance(5) { 0 } else { random.between(1, 7) };
        let mut chosen = BTreeSet::new();
        for _ in 0..wanted {
            let index = random.index(kinds.len());
            chosen.insert(kinds.swap_remove(index));
        }
        let chosen: Vec<u64> = chosen.into_iter().collect();
        self.draw_faults_of(&chosen, random);
    }

    /// Other faults: only of these kinds.
    pub(crate) fn redraw_faults(&mut self, kinds: &[u64]) {
        self.faults.clear();
        self.draw_faults_of(kinds, &mut Random::new(self.seed ^ 0x7EE7_4000));
    }

    fn draw_faults_of(&mut self, chosen: &[u64], random: &mut Random) {
        let pause = *random.pick(&[5_000, 15_000, 40_000]).unwrap_or(&15_000);
        // The cluster comes to be in peace.
        let mut at = 40_000 + random.below(10_000);
        while at + 10_000 < self.quiet_at {
            let Some(kind) = random.pick(chosen) else { break };
            let what = self.draw_fault(*kind, random);
            let lasts = self.length(&what, random).min(self.quiet_at - at);
            self.faults.push(Fault { at, lasts, what });
            at += if random.chance(20) { random.below(500) } else { random.between(pause / 4, pause * 2) };
        }
    }

    const KINDS: u64 = 53;

    fn draw_fault(&self, kind: u64, random: &mut Random) -> What {
        let keeper = random.below(self.keepers.into()) as u8;
        let sentinel = random.below(self.sentinels.into()) as u8;
        let proxy = random.below(self.proxies.into()) as u8;
        let other = random.below(self.keepers.into()) as u8;
        let direction = *random
            .pick(&[Direction::Both, Direction::Both, Direction::Out, Direction::In])
            .unwrap_or(&Direction::Both);
        match kind {
            0 => What::Killed(Program::Keeper(keeper)),
            1 => What::Killed(Program::Sentinel(sentinel)),
            2 => What::Killed(Program::Proxy(proxy)),
            3 => What::Stopped(Program::Keeper(keeper)),
            4 => What::Stopped(Program::Sentinel(sentinel)),
            5 => What::Stopped(Program::Proxy(proxy)),
            6 | 7 => What::ServerKilled(keeper),
            8 => What::PostmasterHangs(keeper),
            9 => What::CrashLoop(keeper, random.between(200, 8_000)),
            10 => What::HostFrozen(keeper),
            11 | 12 => What::PowerLoss(keeper),
            13 => What::PowerLossOfAll,
            14 | 15 => What::Isolated(keeper, direction),
            16 => What::CutFromStore(keeper, direction),
            17 | 41 => What::CutApart(keeper, other, direction),
            18 => What::ProxyCutFromStore(proxy, direction),
            19 => What::ProxyCutFromKeeper(proxy, keeper),
            20 => What::SentinelCutFromStore(sentinel, direction),
            21 => What::Slow(keeper, random.between(5, 800)),
            22 => What::Lossy(keeper, random.between(1, 20) as u8),
            23 => What::StoreDown,
            24 => What::StoreSlow(random.between(50, 1_000)),
            25 => What::RepliesLost(random.between(1, 40) as u8),
            26 => What::WatchesLate(random.between(100, 6_000)),
            27 => What::DiskFull(keeper),
            28 => What::DiskHangs(keeper),
            29 => What::DiskSlow(keeper, random.between(50, 900)),
            30 => What::DataRemoved(keeper),
            31 => What::RewindFails(keeper),
            32 => What::BackupFails(keeper),
            33 => What::ClockRate(keeper, random.between(0, 100) as i64 - 50),
            34 => What::WaitsCancelled(keeper),
            35 => What::Load(random.between(1, 400)),
            36 => What::DiskReadOnly(keeper),
            37 => What::NamesFail(proxy),
            38 => What::WallClockJumps(keeper, random.between(0, 7_200_000) as i64 - 3_600_000),
            39 => What::StoreWiped,
            40 => What::StoreRolledBack(random.between(1_000, 90_000), Settlement::draw(random)),
            42 => What::HostRestored(keeper),
            43 => What::Operator(self.draw_command(random)),
            44 => What::Operator(Command::Switchover(random.chance(30).then_some(keeper))),
            45 => What::ToldToEnd(keeper),
            46 => What::ToldToDepart(keeper),
            47 => What::StoreSeenBy(keeper),
            48 => match random.below(4) {
                0 => What::NamesFailForAll,
                1 => What::NamesFailAtKeeper(keeper),
                2 => What::NamesFail(proxy),
                _ => What::NamesLate(random.between(200, 12_000)),
            },
            49 => What::Joins(keeper),
            50 => What::Operator(self.draw_rare_command(random)),
            51 => What::Operator(Command::Recover),
            _ => What::Operator(Command::Init),
        }
    }

    fn draw_rare_command(&self, random: &mut Random) -> Command {
        let keeper = random.below(self.keepers.into()) as u8;
        match random.below(8) {
            0 | 1 => Command::Restart(keeper),
            2 => Command::Reload(keeper),
            3 | 4 => Command::RemoveKeeperThatRuns(keeper),
            5 => Command::Priority(keeper, random.below(3) as u32),
            6 => Command::Rewind(if random.chance(50) { Rewind::Used } else { Rewind::Never }),
            _ => Command::Standbys(self.spec.standbys.max(random.between(1, 4) as u16)),
        }
    }

    fn draw_command(&self, random: &mut Random) -> Command {
        let keeper = random.below(self.keepers.into()) as u8;
        match random.below(11) {
            0 | 1 => Command::FailKeeper(keeper),
            2 => Command::RemoveKeeper(keeper),
            3 => {
                let most = self.keepers.min(self.spec.standbys as u8 + 1);
                Command::Synchronous(Spec::draw_synchronous(random, most))
            }
            4 => Command::Parameters(random.below(200) as u8),
            5 | 6 => Command::Pause(random.between(5_000, 90_000)),
            7 => Command::Resume,
            8 | 9 => Command::Reinit(keeper),
            _ => {
                let timeout = random.between(3_000, 20_000);
                Command::ProxyTimings(timeout, timeout / random.between(3, 6))
            }
        }
    }

    fn length(&self, what: &What, random: &mut Random) -> u64 {
        let spec = &self.spec;
        let around = |random: &mut Random, middle: u64| random.between(middle / 3, middle * 2);
        match what {
            What::ServerKilled(_)
            | What::DataRemoved(_)
            | What::WallClockJumps(..)
            | What::Load(_)
            | What::Joins(_)
            | What::WaitsCancelled(_) => 0,
            What::Operator(Command::RemoveKeeper(_)) => random.between(2_000, 60_000),
            What::Operator(Command::Recover) => random.between(60_000, 200_000),
            What::Operator(Command::Priority(..)) => random.between(20_000, 120_000),
            // As long as it may take until the keeper is back.
            What::ToldToEnd(_) | What::ToldToDepart(_) => 50_000,
            What::Operator(_) => 0,
            What::RewindFails(_) | What::BackupFails(_) | What::ClockRate(..) | What::WatchesLate(_) => {
                random.between(30_000, 200_000)
            }
            What::Killed(_) if random.chance(50) => random.between(50, 2_000),
            What::Stopped(_) | What::HostFrozen(_) if random.chance(40) => random.between(100, 3_000),
            What::Stopped(Program::Proxy(_)) | What::ProxyCutFromStore(..) => {
                around(random, spec.proxy_timeout)
            }
            _ => around(random, spec.fail * 2),
        }
    }

    /// The same with only some of its faults.
    pub fn with_faults(&self, keep: &[usize]) -> Scenario {
        let faults = self.faults.iter().enumerate().filter(|(index, _)| keep.contains(index));
        Scenario { faults: faults.map(|(_, fault)| fault.clone()).collect(), ..self.clone() }
    }
}

/// Every third seed has one, from 1 to as many standbys as there may be.
fn quorum_of(seed: u64, maximum: u16) -> Option<u16> {
    let required = 1 + (seed / 3 % u64::from(maximum.max(1))) as u16;
    seed.is_multiple_of(3).then_some(required)
}

impl Settlement {
    fn draw(random: &mut Random) -> Settlement {
        if random.chance(65) { Settlement::TakeNewest } else { Settlement::AcceptLoss }
    }
}

impl Spec {
    fn draw(random: &mut Random, keepers: u8) -> Spec {
        let (sleep, fail, proxy_check, proxy_timeout) = *random
            .pick(&[
                (1_000, 4_000, 1_000, 3_000),
                (1_000, 4_000, 1_000, 3_000),
                (1_000, 6_000, 1_000, 6_000),
                (2_000, 8_000, 2_000, 6_000),
                (5_000, 20_000, 5_000, 15_000),
            ])
            .unwrap_or(&(1_000, 4_000, 1_000, 3_000));
        let synchronous = Self::draw_synchronous(random, keepers);
        let standbys = *random.pick(&[1, 2, 3, 3]).unwrap_or(&3);
        Spec {
            sleep,
            fail,
            proxy_check,
            proxy_timeout,
            convergence: *random.pick(&[10_000, 30_000]).unwrap_or(&30_000),
            synchronous,
            quorum: None,
            rewind: if random.chance(60) { Rewind::Used } else { Rewind::Never },
            // With fewer standbys than commits must wait for, they wait for ever.
            standbys: synchronous.map_or(standbys, |(_, maximum)| standbys.max(maximum)),
            lease: Lease::Kept,
        }
    }

    fn draw_synchronous(random: &mut Random, keepers: u8) -> Option<(u16, u16)> {
        if keepers < 2 || random.chance(40) {
            return None;
        }
        let maximum = random.between(1, u64::from(keepers - 1)) as u16;
        let minimum = *random.pick(&[0, 1, 1, maximum]).unwrap_or(&1);
        Some((minimum, maximum))
    }

    /// As an operator writes it.
    pub fn cluster_spec(&self) -> ClusterSpec {
        let span = |millis: u64| Some(GoDuration::from_milliseconds(millis as i64));
        ClusterSpec {
            sleep_interval: span(self.sleep),
            fail_interval: span(self.fail),
            proxy_check_interval: span(self.proxy_check),
            proxy_timeout: span(self.proxy_timeout),
            convergence_timeout: span(self.convergence),
            request_timeout: span(5_000),
            synchronous_replication: Some(self.synchronous.is_some()),
            min_synchronous_standbys: self.synchronous.map(|(minimum, _)| minimum),
            max_synchronous_standbys: self.synchronous.map(|(_, maximum)| maximum.max(1)),
            synchronous_quorum: self.quorum,
            max_standbys_per_sender: Some(self.standbys),
            use_pg_rewind: Some(self.rewind == Rewind::Used),
            fence_without_lease: Some(self.lease == Lease::Kept),
            init_mode: Some(InitMode::New),
            merge_pg_parameters: Some(false),
            ..ClusterSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_the_same_each_time_and_every_specification_is_valid() {
        for seed in 0..500 {
            let scenario = Scenario::draw(seed, Duration::from_secs(600));
            assert_eq!(scenario, Scenario::draw(seed, Duration::from_secs(600)));
            let spec = scenario.spec.cluster_spec();
            assert!(spec.validate().is_ok(), "seed {seed}: {:?}", spec.validate());
            let text = serde_json::to_string(&scenario).expect("a scenario is JSON");
            assert_eq!(serde_json::from_str::<Scenario>(&text).expect("it is read back"), scenario);
        }
    }

    #[test]
    fn every_kind_of_fault_is_drawn() {
        let mut kinds = BTreeSet::new();
        for seed in 0..2000 {
            let faults = Scenario::draw(seed, Duration::from_secs(600)).faults;
            kinds.extend(faults.iter().map(|fault| {
                let text = format!("{:?}", fault.what);
                text.split('(').next().unwrap_or_default().to_owned()
            }));
        }
        assert!(kinds.len() >= 30, "{kinds:?}");
    }
}
