//! `stolonctl migrate`: a database moves into the cluster while it is being written, and can move back
//! (docs: design/010-migration.md).
//!
//! The record of it lies in the cluster data, so any `stolonctl` on any host goes on where another one died.

mod check;
mod legacy;
mod record;
mod status;
mod verify;

use std::process::ExitCode;

use stolon_runtime::{CommonArgs, Shutdown, UsageError};

use crate::output::Format;

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
    /// Show how far the migration is, what is next, and how to undo it
    Status(status::Args),
    /// Compare both sides, also while one follows the other: rows, sequences, roles, grants, definitions
    Verify(verify::Args),
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

/// Run one step of a migration.
///
/// # Errors
/// The command line is wrong, the store or the legacy server does not answer, or the step cannot be done.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Verify(args) => return verify::run(common, args, shutdown).await,
        Command::Check(args) => return check::run(common, args, shutdown).await,
        Command::Status(args) => status::run(common, args, shutdown).await,
    }
    .map(|()| ExitCode::SUCCESS)
}
