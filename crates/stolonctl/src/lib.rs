//! The operator's tool, one file per subcommand.
//!
//! A command reads the cluster data, shows or changes them, and ends. Nothing about clusters is decided here: what a
//! specification may say is in `stolon-model`, what PostgreSQL accepts is in `stolon-core`.
//!
//! Exit status: 0 success (also when the operator answered no), 1 the store or the cluster prevented it,
//! 2 invalid input. A refused command changed nothing. `status --check` answers by its exit status.

mod advice;
mod cli;
mod commands;
mod confirm;
mod input;
mod operator;
mod output;
pub mod playground;
mod pretty;
mod stored_cluster;
mod table;
mod watch;

pub use cli::command;

use std::process::ExitCode;

use stolon_runtime::{Failure, Program, Shutdown};

/// Run the program.
pub fn main() -> ExitCode {
    stolon_runtime::run(Program::Ctl, async |shutdown| {
        let cli: cli::Cli = stolon_runtime::parse(Program::Ctl);
        stolon_runtime::init_bare_logging();
        match cli.command {
            Some(cli::Command::Playground(args)) => playground::run(&cli.common, args, &shutdown).await,
            Some(cli::Command::Status(args)) if args.is_watch() => {
                commands::status::watch(&cli.common, &args, &shutdown).await
            }
            Some(cli::Command::Register(args)) => {
                commands::register::run(&cli.common, &args, &shutdown).await
            }
            Some(cli::Command::Switchover(args)) => {
                commands::switchover::run(&cli.common, &args, &shutdown).await.map(|()| ExitCode::SUCCESS)
            }
            Some(cli::Command::Restart(args)) => {
                commands::restart::run(&cli.common, &args, &shutdown).await.map(|()| ExitCode::SUCCESS)
            }
            Some(cli::Command::Migrate(args)) => commands::migrate::run(&cli.common, &args, &shutdown).await,
            command => unless_interrupted(&shutdown, commands::run(&cli.common, command)).await,
        }
    })
}

/// A command, or a part of one, that a signal may cut short at any await point.
///
/// # Errors
/// Those of the command, or it was cut short.
pub(crate) async fn unless_interrupted<T>(
    shutdown: &Shutdown,
    command: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let stop = shutdown.token();
    tokio::select! {
        biased;
        outcome = command => outcome,
        () = stop.cancelled() => Err(Failure::new("interrupted")
            .hint("stolonctl status and stolonctl spec show what is in force")
            .into()),
    }
}
