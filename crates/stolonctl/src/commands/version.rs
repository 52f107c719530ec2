//! `stolonctl version`

use stolon_runtime::{Program, version};

use crate::output;

/// Flags of `version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(hide = true)]
    ignored: Vec<String>,
}

/// Print the version. Needs no other flags.
///
/// # Errors
/// None.
pub fn run(_: &Args) -> anyhow::Result<()> {
    Ok(output::result(&format!("{} version {}\n", Program::Ctl.name(), version()))?)
}
