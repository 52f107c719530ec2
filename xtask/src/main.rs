//! Chores of this repository.

use clap::Parser;

mod bench;
mod fixtures;
mod fuzz;
mod kubernetes;
mod sbom;
mod settings;
mod sim;

/// Simulated clusters copy many small documents: a fifth of their time is saved.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Fetch what the tests run against and Debian's own suite does not hold, into target/fixtures.
    Fixtures {
        /// Fetch this one only: consul; haproxy; or kubernetes, which takes ten minutes of processor time
        #[arg(long, value_name = "NAME")]
        only: Option<fixtures::One>,
    },
    /// Build a real API server of Kubernetes, once, and test the store and a whole cluster on it.
    Kubernetes,
    /// Feed every parser that reads what others wrote with what nobody would write
    Fuzz(fuzz::Options),
    /// Make the table of PostgreSQL's parameters anew, from pg_settings of every major.
    Settings,
    /// Make the parts of docs/ anew that come from tables in the code; --check only says which are stale
    Docs {
        /// Options of the package xtask-docs
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check every order of turns and every placement of faults within a bound; --help shows its options
    Model {
        /// Options of the package stolon-check
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure release builds: whole clusters, and decisions
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Print what a release is made of: a bill of materials in CycloneDX's JSON, from Cargo.lock
    Sbom(sbom::Options),
    /// Play simulated clusters with faults, and check what must hold after every event.
    Sim(sim::Sim),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Fixtures { only: None } => fixtures::all(),
        Chore::Fixtures { only: Some(fixtures::One::Consul) } => fixtures::consul(),
        Chore::Fixtures { only: Some(fixtures::One::Haproxy) } => fixtures::haproxy(),
        Chore::Fixtures { only: Some(fixtures::One::Kubernetes) } => fixtures::kubernetes(),
        Chore::Fuzz(options) => fuzz::run(&options),
        Chore::Kubernetes => kubernetes::run(),
        Chore::Sbom(options) => sbom::run(&options),
        Chore::Settings => settings::run(),
        Chore::Docs { arguments } => run_package(&["--package", "xtask-docs"], &arguments),
        Chore::Model { arguments } => run_package(&["--release", "--package", "stolon-check"], &arguments),
        Chore::Bench(bench) => bench::run(&bench),
        Chore::Sim(sim) => sim.run(),
    }
}

/// Some chores are packages of their own, so that the others need not build what those need.
fn run_package(how: &[&str], arguments: &[String]) -> anyhow::Result<()> {
    let mut command = std::process::Command::new(env!("CARGO"));
    command.args(["run", "--quiet"]).args(how).arg("--").args(arguments);
    let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
    anyhow::ensure!(status.success(), "{} has failed", how.last().copied().unwrap_or_default());
    Ok(())
}
