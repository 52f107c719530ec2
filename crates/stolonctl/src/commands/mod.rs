//! One file per subcommand.

pub mod clusterdata;
pub mod completion;
pub mod dsn;
pub mod edit_spec;
pub mod failkeeper;
pub mod history;
pub mod init;
pub mod migrate;
pub mod pause;
pub mod priority;
pub mod promote;
pub mod recover;
pub mod register;
pub mod reinit;
pub mod reload;
pub mod removekeeper;
mod request;
pub mod restart;
pub mod settle;
pub mod spec;
pub mod status;
pub mod switchover;
pub mod update;
pub mod version;

use std::process::ExitCode;

use stolon_runtime::{CommonArgs, Program, UsageError};

use crate::cli::{self, Cli, Command};
use crate::output;

/// Run one command to its end.
///
/// # Errors
/// [`UsageError`] for bad input, anything else for what the store or the cluster did not let happen.
pub async fn run(common: &CommonArgs, command: Option<Command>) -> anyhow::Result<ExitCode> {
    match command {
        None => print_help(None),
        Some(Command::Init(args)) => init::run(common, args).await,
        Some(Command::Update(args)) => update::run(common, args).await,
        Some(Command::Spec(args)) => spec::run(common, &args).await,
        Some(Command::EditSpec(args)) => edit_spec::run(common, &args).await,
        // The judgement of `--check` is an exit status.
        Some(Command::Status(args)) => return status::run(common, &args).await,
        Some(Command::History(args)) => history::run(common, &args).await,
        Some(Command::Dsn(args)) => dsn::run(common, &args).await,
        Some(Command::Promote(args)) => promote::run(common, &args).await,
        Some(Command::Priority(args)) => priority::run(common, &args).await,
        Some(Command::Failkeeper(args)) => failkeeper::run(common, &args).await,
        Some(Command::Removekeeper(args)) => removekeeper::run(common, &args).await,
        Some(Command::Pause(args)) => pause::run(common, args).await,
        Some(Command::Resume(args)) => pause::resume(common, &args).await,
        Some(Command::Reinit(args)) => reinit::run(common, &args).await,
        Some(Command::Recover(args)) => recover::run(common, &args).await,
        Some(Command::Reload(args)) => reload::run(common, &args).await,
        Some(Command::Settle(args)) => settle::run(common, &args).await,
        Some(Command::Clusterdata(args)) => clusterdata::run(common, args).await,
        Some(Command::Version(args)) => version::run(&args),
        Some(Command::Completion(args)) => completion::run(&args),
        // Long-running, or with something to take back, with a shutdown of their own: `main` runs them.
        Some(
            Command::Playground(_)
            | Command::Register(_)
            | Command::Switchover(_)
            | Command::Restart(_)
            | Command::Migrate(_),
        ) => Ok(()),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// The help of a subcommand (`None`: of the program), as `--help` shows it.
fn print_help(subcommand: Option<&str>) -> anyhow::Result<()> {
    let mut command = cli::command();
    command.build();
    let help = match subcommand.and_then(|name| command.find_subcommand_mut(name)) {
        Some(subcommand) => subcommand.render_help().to_string(),
        None => stolon_runtime::help_text::<Cli>(Program::Ctl),
    };
    Ok(output::result(&help)?)
}

/// Refuse more than `most` arguments.
fn refuse_surplus(arguments: &[String], most: usize, usage: &str) -> Result<(), UsageError> {
    if arguments.len() <= most {
        return Ok(());
    }
    let usage = format!("usage: {} {usage}", Program::Ctl.name());
    Err(UsageError::new("too many arguments").hint(
        match arguments.iter().any(|argument| argument.contains('{')) {
            true => {
                format!("{usage}; put the JSON in single quotes, so that the shell passes it as one argument")
            }
            false => usage,
        },
    ))
}
