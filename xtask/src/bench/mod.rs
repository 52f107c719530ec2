//! Measurements of release builds.

mod failover;
mod idle;
mod migration;
mod new_cluster;
mod soak;
mod switchover;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::json;
use stolon_testkit::{Plan, StoreKind};

use crate::run_package;

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Bench {
    /// Time without writes after a kill, and time to a new cluster
    Failover(Options),
    /// Time without writes while another keeper gets the primary in good order
    Switchover(Options),
    /// How long a sentinel takes to decide, for clusters of several sizes; --help shows its options
    Decide {
        /// Options of the package xtask-bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What idle programs cost: requests to the store, memory, processor time
    Idle(Idle),
    /// Time without writes while a live database moves in and back, what its copy costs, how fast it is verified
    Migration(migration::Migration),
    /// Faults of all kinds for a long time: nothing that was promised to a client may be lost
    Soak(Soak),
}

/// How long, and with what.
#[derive(Clone, Debug, clap::Args)]
pub struct Soak {
    /// For how long
    #[arg(long, default_value_t = 10)]
    minutes: u64,

    /// On etcd instead of a file; only etcd can be made to stand still
    #[arg(long)]
    etcd: bool,

    /// Choose the same faults as a run that printed this number
    #[arg(long)]
    seed: Option<u64>,

    /// Run the programs in this directory instead of building them
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
}

/// How to measure it.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Runs of each kind
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    runs: usize,

    /// Measure on etcd instead of a file
    #[arg(long)]
    etcd: bool,

    /// With the timings that nobody chose instead of short ones
    #[arg(long)]
    default_timings: bool,

    /// Measure the programs in this directory instead of building them
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
}

/// How many programs are watched, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Idle {
    /// Clusters of so many keepers, one after the other
    #[arg(long, default_value = "2,12,50", value_delimiter = ',', value_name = "COUNTS")]
    keepers: Vec<usize>,

    /// On etcd alone; otherwise on etcd and on a file
    #[arg(long)]
    etcd: bool,

    /// For how long, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u64,

    /// Watch the programs in this directory instead of building them
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
}

impl Options {
    fn store(&self) -> StoreKind {
        if self.etcd { StoreKind::Etcd } else { StoreKind::Sqlite }
    }

    /// A cluster of so many keepers with the timings that are measured.
    fn plan(&self, keepers: usize) -> Plan {
        let plan = Plan::new(keepers).store(self.store());
        match self.default_timings {
            true => plan.uninitialised().spec(json!({ "initMode": "new" })),
            false => plan,
        }
    }
}

/// Measure, and print tables.
///
/// # Errors
/// The programs cannot be built, or a cluster does not work.
pub fn run(bench: &Bench) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = match bench {
        Bench::Failover(options) | Bench::Switchover(options) => options,
        Bench::Soak(options) => return runtime.block_on(soak::run(options)),
        Bench::Decide { arguments } => {
            return run_package(&["--release", "--package", "xtask-bench"], arguments);
        }
        Bench::Idle(options) => {
            return runtime.block_on(idle::measure(options, &programs(&options.programs)?));
        }
        Bench::Migration(options) => {
            return runtime.block_on(migration::measure(options, &programs(&options.programs)?));
        }
    };
    let programs = programs(&options.programs)?;
    runtime.block_on(async {
        let timings = match options.default_timings {
            true => "default timings",
            false => "sleepInterval 1s, failInterval 5s, proxyCheckInterval 1s, proxyTimeout 3s",
        };
        println!("{timings}; store: {:?}", options.store());
        if matches!(bench, Bench::Switchover(_)) {
            return switchover::measure(options, &programs).await;
        }
        new_cluster::measure(options, &programs).await?;
        failover::measure(options, &programs).await
    })
}

/// Where the programs are: the named ones, or those that are built now.
fn programs(named: &Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match named {
        Some(programs) => Ok(std::path::absolute(programs)?),
        None => build(),
    }
}

/// Build the programs as they are shipped; returns where they are.
fn build() -> anyhow::Result<PathBuf> {
    println!("building release programs");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages = ["stolonctl", "stolon-keeper", "stolon-sentinel", "stolon-proxy"];
    let arguments = packages.iter().flat_map(|package| ["-p", package]);
    let status = Command::new(&cargo)
        .args(["build", "--release", "--quiet"])
        .args(arguments)
        .current_dir(root)
        .status()
        .context("cargo cannot be run")?;
    ensure!(status.success(), "the programs could not be built");
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => PathBuf::from(root).join("target"),
    };
    Ok(std::path::absolute(target.join("release"))?)
}
