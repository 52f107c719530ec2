//! A subscriber of the cluster through a failover and a switchover: every row reaches it once (PostgreSQL 17 and newer).

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use stolon_testkit::{Cluster, Foreign, PATIENCE, Plan, QUERY, on_cluster, wait_for};

const MAJOR: u16 = 17;

fn plan(synchronous: &str) -> Plan {
    Plan::new(3).major(MAJOR).spec(json!({
        "syncLogicalSlots": true,
        "synchronousReplication": synchronous == "synchronous",
        "usePgrewind": true,
        "pgParameters": { "wal_level": "logical" },
    }))
}

/// Rows are written until `end` says so; returns the last id that was acknowledged.
async fn write(cluster: &Cluster, first: i64, count: i64) -> anyhow::Result<i64> {
    let mut next = first;
    wait_for("the rows to be written", PATIENCE, async || {
        let session = cluster.session().await?;
        while next < first + count {
            // An insert whose outcome is not known may have come through.
            let insert = format!("insert into t values ({next}) on conflict do nothing");
            session.rows(&insert, QUERY).await?;
            next += 1;
        }
        Ok(Some(()))
    })
    .await?;
    Ok(next - 1)
}

async fn subscribe(cluster: &mut Cluster) -> anyhow::Result<Foreign> {
    let session = cluster.session().await?;
    session.rows("create table t (id bigint primary key)", QUERY).await?;
    session.rows("create publication p for table t", QUERY).await?;
    drop(session);
    let mut subscriber = Foreign::of_major(cluster, MAJOR, "subscriber", "").await?;
    subscriber.start().await?;
    let (port, who) = (cluster.proxy().port, cluster.layout.credentials.clone());
    // No primary key: a row that came twice would be there twice.
    let sql = "create table t (id bigint)";
    subscriber.run(sql).await?;
    let password = who.superuser_password.replace('\\', r"\\").replace('\'', r"\'");
    let connection = format!(
        "host=127.0.0.1 port={port} dbname=postgres user={} password='{password}' connect_timeout=2",
        who.superuser
    );
    let connection = connection.replace('\'', "''");
    let sql = format!("create subscription s connection '{connection}' publication p with (failover = true)");
    subscriber.run(&sql).await?;
    Ok(subscriber)
}

async fn copied(cluster: &Cluster, standbys: usize) -> anyhow::Result<()> {
    let primary = cluster.primary().await?;
    wait_for("the copies of the slot", PATIENCE, async || {
        let mut copies = 0;
        for number in (1..=3).filter(|number| *number != primary) {
            let Ok(session) = cluster.instance(number).connect(QUERY).await else { continue };
            let sql = "select count(*) from pg_replication_slots where slot_name = 's' and synced and not temporary";
            copies += session.value(sql, QUERY).await?.parse::<usize>()?;
        }
        ensure!(copies >= standbys, "{copies} copies");
        Ok(Some(()))
    })
    .await
}

async fn has_each_once(subscriber: &Foreign, last: i64) -> anyhow::Result<()> {
    wait_for("every row once", PATIENCE, async || {
        let session = subscriber.server.target().connect(QUERY).await?;
        let sql = "select count(*) || ' ' || count(distinct id) || ' ' || max(id) from t";
        let found = session.value(sql, QUERY).await?;
        ensure!(found == format!("{last} {last} {last}"), "rows, different ones, the last one: {found}");
        Ok(Some(()))
    })
    .await
}

fn a_subscriber(synchronous: &str) {
    on_cluster(plan(synchronous), async |cluster| {
        if synchronous == "synchronous" {
            cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        }
        let subscriber = subscribe(cluster).await?;
        let mut last = write(cluster, 1, 50).await?;
        copied(cluster, 2).await?;
        has_each_once(&subscriber, last).await?;

        let old = cluster.primary().await?;
        cluster.kill_keeper_and_postgres(old).await?;
        last = write(cluster, last + 1, 50).await?;
        has_each_once(&subscriber, last).await?;
        cluster.start_service(&format!("keeper{old}"))?;
        cluster.wait_streaming(2, PATIENCE).await?;
        copied(cluster, 2).await?;

        let before = cluster.primary().await?;
        let switched = cluster.stolonctl_ok_within(&["switchover"], Duration::from_secs(60)).await?;
        ensure!(cluster.wait_other_primary(before, PATIENCE).await? != before, "{switched}");
        last = write(cluster, last + 1, 50).await?;
        has_each_once(&subscriber, last).await?;
        // What the former primary has of its own slot is not in the way.
        cluster.wait_streaming(2, PATIENCE).await?;
        copied(cluster, 2).await
    });
}

#[test]
fn a_subscriber_of_a_synchronous_cluster_gets_each_row_once_through_failover_and_switchover() {
    a_subscriber("synchronous");
}

#[test]
fn a_subscriber_of_an_asynchronous_cluster_gets_each_row_once_when_nothing_is_lost() {
    a_subscriber("asynchronous");
}

#[test]
fn before_version_17_it_is_refused_with_the_reason() {
    on_cluster(Plan::new(1), async |cluster| {
        let output = cluster.stolonctl(&["update", "--patch", r#"{"syncLogicalSlots":true}"#], "").await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && said.contains("needs PostgreSQL 17 or newer"), "{said}");
        ensure!(cluster.data().await?.cluster.spec.sync_logical_slots.is_none(), "it was written");
        Ok(())
    });
}
