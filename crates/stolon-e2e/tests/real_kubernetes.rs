//! A whole cluster on a real API server: `cargo xtask kubernetes` builds one and runs this.

use anyhow::ensure;
use stolon_testkit::kubernetes::real::MEMBER_CONTEXT;
use stolon_testkit::{Cluster, PATIENCE, Plan, StoreKind, on_prepared};

/// Each program has the Role of its kind, and no more.
#[test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
fn a_cluster_works_and_fails_over_on_a_real_api_server() {
    on_prepared(Plan::new(3).store(StoreKind::RealKubernetes), fails_over);
}

async fn fails_over(cluster: &mut Cluster) -> anyhow::Result<()> {
    for name in cluster.services() {
        if !name.starts_with("sentinel") {
            cluster.add_flag(&name, "--kube-context", MEMBER_CONTEXT)?;
        }
        cluster.start_service(&name)?;
    }
    cluster.wait_writable(PATIENCE).await?;
    cluster.wait_streaming(2, PATIENCE).await?;
    let next = cluster.replace_primary(2, PATIENCE).await?;
    for name in cluster.services() {
        let log = cluster.log(&name);
        ensure!(
            !log.contains("forbidden") && !log.contains("may not watch"),
            "{name} is refused something:\n{log}"
        );
    }

    // And the store may go away.
    cluster.server.kill()?;
    cluster.server.restart().await?;
    cluster.kill_keeper_and_postgres(next).await?;
    cluster.wait_other_primary(next, PATIENCE).await?;
    cluster.wait_writable(PATIENCE).await
}
