//! The manifests at work: on a real API server, in pods that have what the manifests state and nothing else. `cargo xtask kubernetes` builds
//! the API server and runs this.

mod pods;

use anyhow::ensure;
use pods::{CONTENT, PATIENCE, SUPERUSER, legacy, on_a_node, psql};
use stolon_testkit::kubernetes::Api as _;
use stolon_testkit::wait_for;

#[test]
#[ignore = "needs a real API server, and root: cargo xtask kubernetes"]
fn the_manifests_make_a_cluster_that_fails_over() {
    on_a_node(async |world| {
        for file in ["keeper.yaml", "sentinel.yaml", "proxy.yaml", "disruption.yaml", "new-cluster.yaml"] {
            world.apply(file, &[])?;
        }
        world.start_all()?;
        // Alive, and of no use yet.
        let keeper = world.pod("stolon-keeper-0")?;
        keeper.wait_probe("livenessProbe", 200, PATIENCE).await?;
        ensure!(keeper.probe("readinessProbe").await? == 503);
        world.run_job("stolon-new-cluster").await?;
        world.wait_well("stolon-").await?;
        let first = world.wait_primary(None).await?;
        ensure!(world.asked(first, "/replica").await? == 503 && world.asked(first, "/health").await? == 200);
        ensure!(world.asked((first + 1) % 3, "/replica").await? == 200);
        world.wait_through_proxy("create table kept (id int)").await?;
        world.through_proxy("insert into kept values (1)")?;
        let status = ["stolonctl", "status", "--cluster-name=production", "--store-backend=kubernetes"];
        let status = [&status[..], &["--kube-resource-kind=configmap"]].concat();
        let said = world.pod("stolon-sentinel-0")?.exec(&status, PATIENCE).await?;
        ensure!(said.contains(&format!("keeper{first}")), "{said}");

        // The primary's node is lost.
        world.wait_synchronous().await?;
        let lost = world.pod(&format!("stolon-keeper-{first}"))?;
        lost.kill().await?;
        ensure!(lost.probe("livenessProbe").await.is_err());
        let second = world.wait_primary(Some(first)).await?;
        world.wait_through_proxy("insert into kept values (2)").await?;
        world.wait_well("stolon-proxy").await?;

        // Its volume turns up on another one.
        world.replace_keeper(first)?;
        world.wait_well("stolon-keeper").await?;
        ensure!(world.asked(first, "/replica").await? == 200);

        // A drained node: the primary is handed over before its pod has ended, in the time that the manifest grants.
        world.wait_synchronous().await?;
        world.pod(&format!("stolon-keeper-{second}"))?.stop().await?;
        let third = world.wait_primary(Some(second)).await?;
        ensure!(third != second);
        world.wait_through_proxy("insert into kept values (3)").await?;
        ensure!(world.through_proxy("select string_agg(id::text, ' ' order by id) from kept")? == "1 2 3");
        world.nothing_was_forbidden()
    });
}

#[test]
#[ignore = "needs a real API server, and root: cargo xtask kubernetes"]
fn the_migration_job_makes_a_cluster_of_the_legacy_data() {
    on_a_node(async |world| {
        let old = legacy(world).await?;
        for file in ["keeper.yaml", "sentinel.yaml", "proxy.yaml", "migration.yaml"] {
            world.apply(file, &[])?;
        }
        world.start_all()?;
        let before = psql(old, SUPERUSER, CONTENT)?;
        world.run_job("stolon-migration").await?;
        ensure!(world.wait_through_proxy(CONTENT).await? == before);
        world.wait_well("stolon-").await?;
        wait_for("the parameters", PATIENCE, async || {
            Ok((world.through_proxy("show max_prepared_transactions")? == "100").then_some(()))
        })
        .await?;
        world.nothing_was_forbidden()
    });
}

#[test]
#[ignore = "needs a real API server, and root: cargo xtask kubernetes"]
fn the_jobs_of_a_live_migration_move_a_database_that_is_written_to() {
    on_a_node(async |world| {
        let old = legacy(world).await?;
        for file in ["keeper.yaml", "sentinel.yaml", "proxy.yaml", "live-migration.yaml"] {
            world.apply(file, &[])?;
        }
        world.start_all()?;
        world.run_job("stolon-migration-start").await?;
        // Through the proxies, to the legacy server.
        world.wait_through_proxy("insert into shop values (0, 'during')").await?;
        ensure!(psql(old, SUPERUSER, "select v from shop where id = 0")? == "during");
        for step in ["verify", "switch", "finish"] {
            world.apply("live-migration-step.yaml", &[("switch", step)])?;
            world.run_job(&format!("stolon-migration-{step}")).await?;
            if step == "switch" {
                world.wait_through_proxy("insert into shop values (-1, 'after')").await?;
            }
        }
        ensure!(world.through_proxy("select count(*) from shop")? == "5002");
        let closed = psql(old, SUPERUSER, "select 1");
        ensure!(closed.is_err(), "the legacy server is open");
        world.wait_well("stolon-").await?;
        world.nothing_was_forbidden()
    });
}

/// As guides for Stolon have it, with its ConfigMap and Secrets: the store is etcd there, and the Job has the account of its namespace.
const GUIDE: &str = include_str!("pods/guide.yaml");

#[test]
#[ignore = "needs a real API server, and root: cargo xtask kubernetes"]
fn the_job_of_the_guide_makes_a_cluster_of_the_legacy_data() {
    on_a_node(async |world| {
        let old = legacy(world).await?;
        let etcd = world.node.api.etcd_endpoints();
        world.node.api.apply(&GUIDE.replace("http://etcd.example:2379", &etcd))?;
        let on_etcd = |program: &str| {
            (
                format!("{program}_STORE_BACKEND, value: kubernetes }}"),
                format!(
                    "{program}_STORE_BACKEND, value: etcdv3 }}\n        - {{ name: {program}_STORE_ENDPOINTS, value: \"{etcd}\" }}"
                ),
            )
        };
        for (file, program) in
            [("keeper.yaml", "STKEEPER"), ("sentinel.yaml", "STSENTINEL"), ("proxy.yaml", "STPROXY")]
        {
            let (from, to) = on_etcd(program);
            let mut changes = vec![(from.as_str(), to.as_str())];
            if program == "STKEEPER" {
                // Where the guide's command puts the copy.
                changes.push((
                    "STKEEPER_DATA_DIR, value: /stolon-data/keeper }",
                    "STKEEPER_DATA_DIR, value: /stolon-data }",
                ));
            }
            world.apply(file, &changes)?;
        }
        world.start_all()?;
        let before = psql(old, SUPERUSER, CONTENT)?;
        // The option is that of PostgreSQL 9: both sides say so.
        let said = world.run_job("my-db-replicateinit").await?;
        ensure!(said.contains("write -X stream"), "{said}");
        let ctl = ["stolonctl", "--cluster-name=production", "--store-backend=etcdv3"];
        let endpoints = format!("--store-endpoints={etcd}");
        let status = [&ctl[..], &[&endpoints, "status"]].concat();
        wait_for("the keeper's word", PATIENCE, async || {
            let status = world.pod("stolon-sentinel-0")?.exec(&status, PATIENCE).await?;
            ensure!(status.contains("invalid option -- 'x'"), "{status}");
            Ok(Some(()))
        })
        .await?;
        world.node.api.remove_pod("my-db-replicateinit-0")?;
        let text =
            GUIDE.replace("http://etcd.example:2379", &etcd).replace("-U stolon -x", "-U stolon -X stream");
        world.node.api.delete("apis/batch/v1", "jobs/my-db-replicateinit")?;
        world.node.api.apply(&text)?;
        world.run_job("my-db-replicateinit").await?;
        ensure!(world.wait_through_proxy(CONTENT).await? == before);
        world.wait_well("stolon-").await
    });
}
