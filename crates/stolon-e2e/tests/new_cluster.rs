//! A new cluster comes up, serves, and goes down without a trace.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, StoreKind, on_cluster, on_prepared, wait_for};

/// What every store must carry: two instances, a proxy, an operator's look, and an end in good order.
async fn comes_up_serves_and_ends(cluster: &mut Cluster) -> anyhow::Result<()> {
    let session = cluster.session().await?;
    session.rows("create table t (id int primary key); insert into t values (1)", QUERY).await?;
    let primary = cluster.primary().await?;
    let standby = 3 - primary;
    let copy = cluster.instance(standby);
    wait_for("the row on the standby", PATIENCE, async || {
        let session = copy.connect(QUERY).await?;
        let found = session.value("select id from t", QUERY).await?;
        ensure!(session.value("select pg_is_in_recovery()", QUERY).await? == "t");
        Ok((found == "1").then_some(()))
    })
    .await?;

    let status = cluster.stolonctl_ok(&["status"], "").await?;
    ensure!(status.contains(&format!("Master Keeper: keeper{primary}")), "{status}");
    ensure!(status.contains(&format!("keeper{primary} (master)\n└─keeper{standby}")), "{status}");

    for name in ["proxy1", "sentinel1", "keeper1", "keeper2"] {
        cluster.stop_service(name).await?;
    }
    ensure!(cluster.processes().is_empty(), "left running: {:?}", cluster.processes());
    Ok(())
}

#[test]
fn on_a_file() {
    on_cluster(Plan::new(2), comes_up_serves_and_ends);
}

#[test]
fn on_etcd() {
    on_cluster(Plan::new(2).store(StoreKind::Etcd), comes_up_serves_and_ends);
}

#[test]
fn a_cluster_is_resumed_where_it_was_stopped() {
    on_cluster(Plan::new(2), async |cluster| {
        let session = cluster.session().await?;
        session.rows("create table t (id int primary key); insert into t values (1)", QUERY).await?;
        drop(session);
        let names = ["proxy1", "sentinel1", "keeper1", "keeper2"];
        for name in names {
            cluster.stop_service(name).await?;
        }
        for name in names {
            cluster.start_service(name)?;
        }
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        let session = cluster.session().await?;
        ensure!(session.value("select count(*) from t", QUERY).await? == "1");
        Ok(())
    });
}

#[test]
fn clients_get_nowhere_before_there_is_a_primary() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        for name in ["sentinel1", "keeper1", "proxy1"] {
            cluster.start_service(name)?;
        }
        let data = cluster.layout.keeper_directory(1).join("keeperstate");
        wait_for("the keeper", PATIENCE, async || Ok(data.exists().then_some(()))).await?;
        let early = cluster.proxy().connect(Duration::from_secs(2)).await;
        ensure!(early.is_err(), "the proxy let somebody through to nowhere");

        let spec = stolon_testkit::short_timings().to_string();
        let output = cluster.stolonctl(&["init", &spec], "no\n").await?;
        ensure!(output.status.success() && cluster.data().await.is_err(), "`no` initialised the cluster");
        cluster.stolonctl_ok(&["init", &spec], "yes\n").await?;
        cluster.wait_writable(PATIENCE).await
    });
}

/// As `init` makes it where nobody says otherwise: with the line that it writes into the specification, a cluster lives as before.
#[test]
fn a_cluster_of_init_admits_its_own_users_from_keepers_only() {
    on_prepared(Plan::new(3).uninitialised(), async |cluster| {
        cluster.start_services()?;
        cluster.stolonctl_ok(&["init", "--yes", &stolon_testkit::short_timings().to_string()], "").await?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(2, PATIENCE).await?;
        let lines = "select string_agg(distinct address, ',') from pg_hba_file_rules \
                     where user_name && array['stolon', 'repluser'] and type <> 'local'";
        let session = cluster.session().await?;
        ensure!(session.value(lines, QUERY).await? == "127.0.0.1");
        drop(session);
        // The standbys of the new primary are admitted by it, and so is the old one, whose data are rewound.
        cluster.replace_primary(2, PATIENCE).await?;
        let session = cluster.session().await?;
        ensure!(session.value(lines, QUERY).await? == "127.0.0.1");
        cluster.patch(json!({ "defaultSUReplAccessMode": "all" })).await?;
        wait_for("the lines of before", PATIENCE, async || {
            Ok((session.value(lines, QUERY).await? == "0.0.0.0,::").then_some(()))
        })
        .await
    });
}

#[test]
fn synchronous_replication_reaches_the_standbys_that_it_names() {
    on_cluster(Plan::new(2).spec(json!({ "synchronousReplication": true })), async |cluster| {
        let primary = cluster.primary().await?;
        cluster.wait_synchronous(&[3 - primary], PATIENCE).await?;
        let session = cluster.session().await?;
        let query =
            "select count(*) from pg_stat_replication where sync_state = 'sync' or sync_state = 'quorum'";
        ensure!(session.value(query, QUERY).await? == "1");
        Ok(())
    });
}
