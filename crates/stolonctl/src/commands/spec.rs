//! `stolonctl spec`

use stolon_runtime::CommonArgs;

use crate::output;
use crate::stored_cluster::StoredCluster;

/// Flags of `spec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fill the defaults in and show every field
    #[arg(long)]
    defaults: bool,

    #[arg(hide = true)]
    ignored: Vec<String>,
}

/// Print the specification as JSON.
///
/// # Errors
/// There are no cluster data, they are invalid, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    let spec = StoredCluster::open(common)?.cluster_data().await?.into_data().cluster.spec;
    let json = if args.defaults { spec.to_json_with_defaults() } else { spec.to_json_set_only() };
    Ok(output::result(&format!("{json}\n"))?)
}
