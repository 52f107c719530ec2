//! `stolonctl dsn`

use stolon_model::{ClusterData, Instance};
use stolon_runtime::{CommonArgs, Failure};

use crate::output;
use crate::stored_cluster::StoredCluster;

/// Flags of `dsn`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For clients that only read: a standby where there is one (libpq 14 or later)
    #[arg(long)]
    reads: bool,

    /// For the JDBC driver instead of libpq
    #[arg(long)]
    jdbc: bool,
}

/// Print one line with the addresses of every PostgreSQL, the primary's first, and which of them is meant
/// (PostgreSQL manual, "Specifying Multiple Hosts"; documentation of the JDBC driver, "Connection Fail-over").
///
/// # Errors
/// There are no cluster data, no address is known yet, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    let cluster = StoredCluster::open(common)?.cluster_data().await?;
    let addresses = addresses(cluster.data());
    if addresses.is_empty() {
        return Err(Failure::new("no keeper has reported the address of its PostgreSQL yet")
            .hint("stolonctl status shows what the keepers are doing")
            .into());
    }
    let (scheme, wanted) = match (args.jdbc, args.reads) {
        (false, false) => ("postgresql", "target_session_attrs=read-write"),
        (false, true) => ("postgresql", "target_session_attrs=prefer-standby"),
        (true, false) => ("jdbc:postgresql", "targetServerType=primary"),
        (true, true) => ("jdbc:postgresql", "targetServerType=preferSecondary"),
    };
    Ok(output::result(&format!("{scheme}://{}/?{wanted}\n", addresses.join(",")))?)
}

fn addresses(data: &ClusterData) -> Vec<String> {
    let primary = data.primary();
    let others = data.instances.values().filter(|it| primary.is_none_or(|primary| primary.uid != it.uid));
    primary.into_iter().chain(others).filter_map(address).collect()
}

fn address(instance: &Instance) -> Option<String> {
    let (host, port) = (&instance.status.listen_address, &instance.status.port);
    match (host.is_empty(), host.contains(':')) {
        (true, _) => None,
        (false, true) => Some(format!("[{host}]:{port}")),
        (false, false) => Some(format!("{host}:{port}")),
    }
}
