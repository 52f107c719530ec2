//! `stolonctl completion`

use clap_complete::Shell;
use stolon_runtime::{Program, UsageError};

use crate::cli;
use crate::output;

/// Flags of `completion`.
#[derive(Debug, clap::Args)]
#[command(after_help = "For example: source <(stolonctl completion bash)")]
pub struct Args {
    /// bash, elvish, fish, powershell or zsh
    shell: String,

    #[arg(hide = true)]
    ignored: Vec<String>,
}

/// Print the script.
///
/// # Errors
/// There is no such shell.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let shell: Shell = args.shell.parse().map_err(|_| {
        UsageError::new(format!("no completion for {:?}", args.shell))
            .hint("there are scripts for bash, elvish, fish, powershell and zsh")
    })?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), Program::Ctl.name(), &mut script);
    Ok(output::result(&String::from_utf8_lossy(&script))?)
}
