//! `stolonctl migrate`: a database moves into the cluster while it is being written, and can move back
//! (docs: design/010-migration.md).
//!
//! The record of it lies in the cluster data, so any `stolonctl` on any host goes on where another one died.

mod abort;
mod check;
mod closing;
mod downtime;
mod facts;
mod fence;
mod finish;
mod flow;
mod follower;
mod front;
mod head;
mod identities;
mod legacy;
mod logical;
mod record;
mod rollback;
mod start;
mod status;
mod switch;
mod underway;
mod verify;
mod wait;
mod way_back;
mod worker;

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::Serialize;
use stolon_runtime::{CommonArgs, Shutdown, UsageError};

use crate::output::{self, Format};
use crate::pretty::to_tabbed_json;

/// Flags of `migrate`.
#[derive(Debug, clap::Args)]
#[command(disable_help_subcommand = true, subcommand_value_name = "STEP")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what stands in the way, what it will take, and what to do; changes nothing
    ///
    /// Exit status: 0 nothing, 1 there are warnings, 2 something blocks or the command line is wrong, 3 it cannot be told.
    Check(check::Args),
    /// Begin to copy a live database into the cluster, and follow it
    Start(start::Args),
    /// Show how far the migration is, what is next, and how to undo it
    Status(status::Args),
    /// Compare both sides, also while one follows the other: rows, sequences, roles, grants, definitions
    Verify(verify::Args),
    /// Close the legacy server and have the cluster take over; or take everything back by itself
    Switch(switch::Args),
    /// Have the legacy server serve again: after a switch that is half-way, or that is through
    Rollback(rollback::Args),
    /// Remove what was made on the legacy server, once the cluster has taken over
    Finish(finish::Args),
    /// Give the migration up, and leave the legacy server as it was
    Abort(abort::Args),
}

/// How the answer is laid out.
#[derive(Debug, clap::Args)]
struct OutputArgs {
    /// text or json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    output: String,
}

impl OutputArgs {
    fn format(&self) -> Result<Format, UsageError> {
        Format::parse(&self.output)
    }
}

/// What a step did, what is next, and how to undo it.
#[derive(Debug, Serialize)]
struct Outcome {
    did: Vec<String>,
    figures: BTreeMap<&'static str, f64>,
    next: String,
    undo: String,
}

impl Outcome {
    fn new(next: &str, undo: &str) -> Outcome {
        Outcome { did: Vec::new(), figures: BTreeMap::new(), next: next.to_owned(), undo: undo.to_owned() }
    }

    fn did(&mut self, what: impl Into<String>) {
        self.did.push(what.into());
    }

    /// Something measured, for programs.
    fn figure(&mut self, name: &'static str, value: f64) {
        self.figures.insert(name, value);
    }

    fn show(&self, format: Format) -> anyhow::Result<()> {
        let text = match format {
            Format::Json => format!("{}\n", to_tabbed_json(self)),
            Format::Text => {
                let did: String = self.did.iter().map(|line| format!("{line}\n")).collect();
                format!("{did}next: {}\nundo: {}\n", self.next, self.undo)
            }
        };
        Ok(output::result(&text)?)
    }
}

/// Run one step of a migration.
///
/// # Errors
/// The command line is wrong, the store or the legacy server does not answer, or the step cannot be done.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Verify(args) => return verify::run(common, args, shutdown).await,
        Command::Check(args) => return check::run(common, args, shutdown).await,
        Command::Start(args) => start::run(common, args, shutdown).await,
        Command::Switch(args) => switch::run(common, args, shutdown).await,
        Command::Rollback(args) => rollback::run(common, args, shutdown).await,
        Command::Finish(args) => finish::run(common, args, shutdown).await,
        Command::Abort(args) => abort::run(common, args, shutdown).await,
        Command::Status(args) => status::run(common, args, shutdown).await,
    }
    .map(|()| ExitCode::SUCCESS)
}
