//! `stolonctl playground`: a whole cluster on this machine, made of the real programs.
//!
//! It knows the programs by their command lines and logs, and the cluster by its store, as an operator does.

mod as_user;
mod choices;
mod directory;
mod live;
mod migration;
mod screen;
mod supervisor;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use stolon_runtime::{CommonArgs, Shutdown};

/// Options of `stolonctl playground`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Ctrl-C stops everything in order and leaves no process behind.")]
pub struct Args {
    /// Something else than running a cluster
    #[command(subcommand)]
    pub scenario: Option<Scenario>,

    /// PostgreSQL instances
    #[arg(long, default_value_t = 2, value_name = "COUNT", global = true,
          value_parser = clap::value_parser!(u16).range(1..=16))]
    pub keepers: u16,

    /// Sentinels, of which one leads
    #[arg(long, default_value_t = 1, value_name = "COUNT", global = true,
          value_parser = clap::value_parser!(u16).range(1..=8))]
    pub sentinels: u16,

    /// Proxies, each on a port of its own
    #[arg(long, default_value_t = 1, value_name = "COUNT", global = true,
          value_parser = clap::value_parser!(u16).range(1..=8))]
    pub proxies: u16,

    /// Commits wait for a standby
    #[arg(long, global = true)]
    pub synchronous_replication: bool,

    /// Ports of the proxies (default: free ones)
    #[arg(long, value_name = "LIST", value_delimiter = ',', global = true)]
    pub proxy_ports: Vec<u16>,

    /// Ports of the PostgreSQL instances (default: free ones)
    #[arg(long, value_name = "LIST", value_delimiter = ',', global = true)]
    pub keeper_ports: Vec<u16>,

    /// Keep everything in this directory, and resume what is there (default: a temporary one, removed at the end)
    #[arg(long, value_name = "DIRECTORY", global = true)]
    pub data_dir: Option<PathBuf>,

    /// Where PostgreSQL's programs are (default: in PATH, or where Debian puts major 15)
    #[arg(long, value_name = "DIRECTORY", global = true)]
    pub pg_bin_path: Option<PathBuf>,

    /// Set when the program has restarted itself as another user: a directory that this user may write to
    #[arg(long, value_name = "DIRECTORY", global = true, hide = true)]
    pub prepared_directory: Option<PathBuf>,
}

/// Other things to do with a playground.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Scenario {
    /// Migrate a legacy PostgreSQL with data into a new cluster, and back, while clients write; take its primary away, and check every step
    Migration(migration::Args),
}

/// Run the playground until it is told to stop, or the scenario until it ends.
///
/// # Errors
/// Bad input, or something on this machine that keeps a cluster from running.
pub async fn run(common: &CommonArgs, args: Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    if let Some(Scenario::Migration(_)) = &args.scenario {
        migration::check(args.keepers)?;
    }
    let home = directory::Home::prepare(&args).await?;
    let outcome = run_in(&home, common, args, shutdown).await;
    let ending = match &outcome {
        Err(_) | Ok(ExitCode::FAILURE) => directory::Ending::Failed,
        Ok(_) => directory::Ending::Orderly,
    };
    home.tidy_up(ending).await;
    outcome
}

async fn run_in(
    home: &directory::Home,
    common: &CommonArgs,
    args: Args,
    shutdown: &Shutdown,
) -> anyhow::Result<ExitCode> {
    let choices = choices::Choices::load_or_choose(common, &args, home)?;
    let playground = live::Playground::new(common, args, choices, home)?;
    match playground.args.scenario.clone() {
        None => playground.run(shutdown).await,
        Some(Scenario::Migration(scenario)) => migration::run(playground, &scenario, shutdown).await,
    }
}
