//! Faults of all kinds, one or two at a time, for as long as asked: nothing that was promised to a client may be lost, and
//! writes must come back each time.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use stolon_testkit::local::tree;
use stolon_testkit::local::writes::{Ledger, Writes};
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, StoreKind, wait_for};

use super::failover::{Mode, settle};
use super::{Soak, programs};
use xtask_bench::statistics::{longest, median, seconds};

const KEEPERS: usize = 3;
const SENTINELS: usize = 2;
/// Longest time for writes to come back after all faults were undone.
const BACK: Duration = Duration::from_secs(90);

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// SIGKILL to the primary's postmaster.
    KillPostmaster,
    /// SIGKILL to the primary's keeper and PostgreSQL, as when a machine dies.
    KillPrimary,
    /// SIGKILL to the primary's keeper alone: its PostgreSQL goes on.
    KillPrimaryKeeper,
    /// SIGKILL to a standby's keeper and PostgreSQL.
    KillStandby,
    /// SIGSTOP to the primary's keeper; its PostgreSQL goes on.
    FreezePrimaryKeeper,
    /// SIGSTOP to the primary's keeper and PostgreSQL, as when a virtual machine is moved.
    FreezePrimary,
    /// SIGSTOP to a standby's keeper and PostgreSQL.
    FreezeStandby,
    /// SIGTERM to the primary's keeper.
    StopPrimary,
    /// SIGKILL to a sentinel.
    KillSentinel,
    /// SIGSTOP to a sentinel.
    FreezeSentinel,
    /// SIGKILL to the proxy.
    KillProxy,
    /// SIGSTOP to the proxy.
    FreezeProxy,
    /// The store does not answer.
    FreezeStore,
    /// `stolonctl failkeeper` of the primary.
    FailKeeper,
    /// `stolonctl update` of a parameter.
    ChangeParameter,
}

const FAULTS: [Fault; 15] = [
    Fault::KillPostmaster,
    Fault::KillPrimary,
    Fault::KillPrimaryKeeper,
    Fault::KillStandby,
    Fault::FreezePrimaryKeeper,
    Fault::FreezePrimary,
    Fault::FreezeStandby,
    Fault::StopPrimary,
    Fault::KillSentinel,
    Fault::FreezeSentinel,
    Fault::KillProxy,
    Fault::FreezeProxy,
    Fault::FreezeStore,
    Fault::FailKeeper,
    Fault::ChangeParameter,
];

/// How a fault is undone.
enum Cure {
    Nothing,
    Start(String),
    Resume(Vec<Pid>),
    ResumeStore,
}

/// Random numbers that a seed gives again (SplitMix64, Steele and others 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// Run until the time is over, and print each fault with what it cost.
pub async fn run(options: &Soak) -> anyhow::Result<()> {
    let plan =
        Plan { programs: Some(programs(&options.programs)?), sentinels: SENTINELS, ..Plan::new(KEEPERS) }
            .store(if options.etcd { StoreKind::Etcd } else { StoreKind::Sqlite })
            .spec(json!({ "synchronousReplication": true }));
    let seed = options.seed.unwrap_or_else(|| std::process::id().into());
    println!("seed {seed}; {KEEPERS} keepers, synchronous, {SENTINELS} sentinels, store {:?}", plan.store);
    let mut cluster = Cluster::start_and_wait(&plan).await?;
    let (mut dice, mut promised, mut gaps) = (Dice(seed), Ledger::default(), Vec::new());
    let began = Instant::now();
    let outcome = async {
        while began.elapsed() < Duration::from_secs(options.minutes * 60) {
            settle(&cluster, KEEPERS, Mode::Synchronous).await?;
            print!("{:>6} s  ", began.elapsed().as_secs());
            let gap = round(&mut cluster, &mut dice, &mut promised).await?;
            println!("{} s without writes", seconds(gap));
            gaps.push(gap);
        }
        settle(&cluster, KEEPERS, Mode::Synchronous).await?;
        compare_instances(&cluster, &promised).await
    }
    .await;
    if outcome.is_err() {
        cluster.dump_logs();
    }
    cluster.kill_everything().await;
    outcome?;
    println!(
        "{} rounds, {} rows promised, 0 lost; without writes: median {}, longest {}",
        gaps.len(),
        promised.acknowledged.len(),
        seconds(median(&gaps)),
        seconds(longest(&gaps))
    );
    Ok(())
}

/// One or two faults under writing clients, until writes are back.
async fn round(cluster: &mut Cluster, dice: &mut Dice, promised: &mut Ledger) -> anyhow::Result<Duration> {
    let target = cluster.proxy();
    let writes = Writes {
        doors: vec![target.clone()],
        clients: 4,
        pause: Duration::from_millis(2),
        limit: Duration::from_secs(60),
    };
    let writing = writes.start().await?;
    tokio::time::sleep(dice.milliseconds(500, 1500)).await;
    let began = Instant::now();
    let mut cures = Vec::new();
    for _ in 0..=dice.below(2) {
        let fault = FAULTS[dice.below(FAULTS.len() as u64) as usize];
        print!("{fault:?} ");
        cures.push(strike(cluster, dice, fault).await?);
        tokio::time::sleep(dice.milliseconds(0, 2000)).await;
    }
    tokio::time::sleep(dice.milliseconds(0, 12_000)).await;
    for cure in cures {
        heal(cluster, cure)?;
    }
    let healed = Instant::now();
    let back = wait_for("writes to come back", BACK, async || {
        Ok(writing.last_acknowledged().filter(|last| *last > healed + Duration::from_millis(500)))
    })
    .await;
    back.with_context(|| format!("the last failure: {}", writing.last_failure()))?;
    let ledger = writing.stop().await;
    let gap = ledger.longest_pause(began);
    promised.acknowledged.extend(&ledger.acknowledged);
    promised.unknown.extend(&ledger.unknown);
    let verdict = promised.check(&target).await?;
    ensure!(verdict.lost.is_empty(), "promised and lost: {:?}", verdict.lost);
    ensure!(verdict.unexpected.is_empty(), "nobody wrote {:?}", verdict.unexpected);
    Ok(gap)
}

async fn strike(cluster: &mut Cluster, dice: &mut Dice, fault: Fault) -> anyhow::Result<Cure> {
    // A second fault may find that the first has left no primary, or no such process: then there is nothing to do.
    let primary = cluster.primary().await.unwrap_or(1);
    let standby = 1 + (primary + dice.below(KEEPERS as u64 - 1) as usize) % KEEPERS;
    let (primary, standby) = (format!("keeper{primary}"), format!("keeper{standby}"));
    let sentinel = format!("sentinel{}", 1 + dice.below(SENTINELS as u64));
    Ok(match fault {
        Fault::KillPostmaster => {
            if let Ok(number) = number(&primary) {
                let _ = cluster.kill_postmaster(number);
            }
            Cure::Nothing
        }
        Fault::KillPrimary => kill_tree(cluster, primary).await,
        Fault::KillStandby => kill_tree(cluster, standby).await,
        Fault::KillPrimaryKeeper => kill(cluster, primary).await,
        Fault::KillSentinel => kill(cluster, sentinel).await,
        Fault::KillProxy => kill(cluster, "proxy1".to_owned()).await,
        Fault::StopPrimary => match cluster.process(&primary) {
            Ok(process) if process.exit().is_none() => {
                // A stopped process would not handle the signal.
                heal(cluster, Cure::Resume(tree(process.pid())))?;
                cluster.stop_service(&primary).await?;
                Cure::Start(primary)
            }
            _ => Cure::Nothing,
        },
        Fault::FreezePrimaryKeeper => freeze(cluster, &primary, |pid| vec![pid]),
        Fault::FreezePrimary => freeze(cluster, &primary, tree),
        Fault::FreezeStandby => freeze(cluster, &standby, tree),
        Fault::FreezeSentinel => freeze(cluster, &sentinel, |pid| vec![pid]),
        Fault::FreezeProxy => freeze(cluster, "proxy1", |pid| vec![pid]),
        Fault::FreezeStore => match &cluster.server.etcd {
            Some(etcd) => {
                etcd.pause(0)?;
                Cure::ResumeStore
            }
            None => Cure::Nothing,
        },
        // Refused where there is no such keeper now, or where the store stands still.
        Fault::FailKeeper => {
            let _ = cluster.stolonctl(&["failkeeper", &primary], "").await?;
            Cure::Nothing
        }
        Fault::ChangeParameter => {
            let patch = json!({ "pgParameters": { "work_mem": format!("{}MB", 1 + dice.below(64)) } });
            let _ = cluster.stolonctl(&["update", "--patch", &patch.to_string()], "").await?;
            Cure::Nothing
        }
    })
}

fn number(keeper: &str) -> anyhow::Result<usize> {
    keeper.trim_start_matches("keeper").parse().context("a keeper's number")
}

async fn kill_tree(cluster: &mut Cluster, keeper: String) -> Cure {
    match number(&keeper) {
        Ok(number) if cluster.kill_keeper_and_postgres(number).await.is_ok() => Cure::Start(keeper),
        _ => Cure::Nothing,
    }
}

async fn kill(cluster: &mut Cluster, service: String) -> Cure {
    match cluster.kill_service(&service).await {
        Ok(()) => Cure::Start(service),
        Err(_) => Cure::Nothing,
    }
}

fn freeze(cluster: &Cluster, service: &str, whom: impl Fn(Pid) -> Vec<Pid>) -> Cure {
    let Ok(process) = cluster.process(service) else { return Cure::Nothing };
    let pids = whom(process.pid());
    for pid in &pids {
        let _ = kill_process(*pid, Signal::STOP);
    }
    Cure::Resume(pids)
}

fn heal(cluster: &mut Cluster, cure: Cure) -> anyhow::Result<()> {
    match cure {
        Cure::Nothing => Ok(()),
        Cure::Start(service) => cluster.start_service(&service),
        Cure::Resume(pids) => {
            for pid in pids {
                let _ = kill_process(pid, Signal::CONT);
            }
            Ok(())
        }
        Cure::ResumeStore => cluster.server.etcd.as_ref().context("there is no etcd")?.resume(0),
    }
}

/// At the end every instance holds what the primary holds.
async fn compare_instances(cluster: &Cluster, promised: &Ledger) -> anyhow::Result<()> {
    let written = cluster.session().await?.value("select pg_current_wal_lsn()", QUERY).await?;
    for number in 1..=KEEPERS {
        let target = cluster.instance(number);
        let query = format!("select not pg_is_in_recovery() or pg_last_wal_replay_lsn() >= '{written}'");
        wait_for("a standby to replay everything", PATIENCE, async || {
            let answer = target.connect(QUERY).await?.value(&query, QUERY).await?;
            Ok((answer == "t").then_some(()))
        })
        .await?;
        let verdict = promised.check(&target).await?;
        ensure!(verdict.lost.is_empty(), "keeper{number} lacks {:?}", verdict.lost);
        ensure!(verdict.unexpected.is_empty(), "nobody wrote {:?} of keeper{number}", verdict.unexpected);
    }
    Ok(())
}
