//! `stolonctl register`

use stolon_runtime::UsageError;

/// Options of existing scripts, which are ignored.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    ignored: Vec<String>,
}

/// Refuse: this version does not have the command.
///
/// # Errors
/// Always.
pub fn run(_: &Args) -> anyhow::Result<()> {
    Err(UsageError::new("the command register is not in this version")
        .hint("clients reach the primary through stolon-proxy; stolonctl status --format json lists the instances")
        .into())
}
