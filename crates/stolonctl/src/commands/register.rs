//! `stolonctl register`

use stolon_runtime::UsageError;

/// Whatever an existing script gives.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    ignored: Vec<String>,
}

/// Say that this version does not have it.
///
/// # Errors
/// Always.
pub fn run(_: &Args) -> anyhow::Result<()> {
    Err(UsageError::new("the command register is not in this version")
        .hint("clients reach the primary through stolon-proxy; stolonctl status --format json lists the instances")
        .into())
}
