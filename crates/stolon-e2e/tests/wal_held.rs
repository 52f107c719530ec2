//! A standby that is gone never fills the primary's disk.

use anyhow::ensure;
use serde_json::{Value, json};
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, wait_for};

/// What `status` tells of the slot for keeper `of` on the server of keeper `on`.
async fn slot(cluster: &Cluster, on: usize, of: usize) -> anyhow::Result<Option<Value>> {
    let status: Value = serde_json::from_str(&cluster.stolonctl_ok(&["status", "-f", "json"], "").await?)?;
    let keepers = status["keepers"].as_array().cloned().unwrap_or_default();
    let server = keepers.into_iter().find(|keeper| keeper["uid"] == format!("keeper{on}"));
    let slots = server.and_then(|server| server["slots"].as_array().cloned()).unwrap_or_default();
    Ok(slots.into_iter().find(|slot| slot["keeper"] == format!("keeper{of}")))
}

const OLDEST: &str = "select min(name) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'";

/// Writes until the primary does not have the WAL any more that the standby needs next. Returns the most that the slot held at a time.
async fn write_past(cluster: &Cluster, on: usize, of: usize) -> anyhow::Result<u64> {
    let session = cluster.session().await?;
    session.rows("create table filler (t text)", QUERY).await?;
    // The standby, which is dead by now, has no more than that, and needs this segment next at the latest.
    let segment = session.value("select pg_walfile_name(pg_current_wal_lsn())", QUERY).await?;
    let mut most = 0;
    wait_for("the WAL of the dead standby to go", PATIENCE, async || {
        session
            .rows("insert into filler select repeat('x', 900) from generate_series(1, 12000)", QUERY)
            .await?;
        session.value("select pg_switch_wal()", QUERY).await?;
        session.rows("checkpoint", QUERY).await?;
        let held = slot(cluster, on, of).await?.and_then(|slot| slot["held_bytes"].as_u64());
        most = most.max(held.unwrap_or(0));
        let oldest = session.value(OLDEST, QUERY).await?;
        Ok((oldest > segment).then_some(()))
    })
    .await?;
    Ok(most)
}

/// The promise on one version: the bound is in force and can be changed, what is held is shown, the disk does not fill, and the standby
/// comes back by itself as a copy, also where it would be rewound if it had diverged.
fn a_dead_standby(plan: Plan) {
    on_cluster(plan.spec(json!({ "maxSlotWalKeepSize": "64MB" })), async |cluster| {
        cluster.wait_streaming(1, PATIENCE).await?;
        let primary = cluster.primary().await?;
        let standby = 3 - primary;
        wait_for("status to show the slot of the standby", PATIENCE, async || {
            let slot = slot(cluster, primary, standby).await?;
            Ok(slot.filter(|slot| slot["active"] == true && slot["held_bytes"].is_u64()))
        })
        .await?;
        cluster.kill_keeper_and_postgres(standby).await?;
        let most = write_past(cluster, primary, standby).await?;
        ensure!(most > 32 << 20, "the slot held WAL for the standby while it could: {most} bytes at most");
        ensure!(most < 256 << 20, "the bound is not kept: {most} bytes");

        let log = format!("keeper{standby}");
        let before = cluster.log(&log).matches("base backup").count();
        cluster.start_service(&log)?;
        wait_for("the standby to be copied anew", PATIENCE, async || {
            Ok((cluster.log(&log).matches("base backup").count() > before).then_some(()))
        })
        .await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        ensure!(cluster.primary().await? == primary, "nothing happened to the primary");
        Ok(())
    });
}

#[test]
fn the_slot_of_a_dead_standby_is_bounded_and_the_standby_copied_anew() {
    a_dead_standby(Plan::new(2));
}

#[test]
fn so_it_is_where_postgresql_has_no_bound_of_its_own() {
    a_dead_standby(Plan::new(2).major(12));
}

#[test]
fn without_a_word_the_room_on_the_disk_is_the_bound_and_pg_parameters_win() {
    on_cluster(Plan::new(1), async |cluster| {
        let in_force = async |cluster: &Cluster| {
            cluster.session().await?.value("show max_slot_wal_keep_size", QUERY).await
        };
        let by_room = in_force(cluster).await?;
        ensure!(by_room != "-1", "there is no bound");
        let spec = cluster.data().await?.cluster.spec;
        let parameters = spec.pg_parameters.unwrap_or_default();
        ensure!(
            !parameters.contains_key("max_slot_wal_keep_size"),
            "it became the specification: {parameters:?}"
        );
        for (patch, expected) in [
            (json!({ "maxSlotWalKeepSize": "96MB" }), "96MB"),
            (json!({ "pgParameters": { "max_slot_wal_keep_size": "112MB" } }), "112MB"),
            (json!({ "maxSlotWalKeepSize": "unlimited", "pgParameters": null }), "-1"),
            (json!({ "maxSlotWalKeepSize": null }), by_room.as_str()),
        ] {
            cluster.patch(patch).await?;
            wait_for(&format!("the bound {expected}"), PATIENCE, async || {
                Ok((in_force(cluster).await? == expected).then_some(()))
            })
            .await?;
        }
        let output =
            cluster.stolonctl(&["update", "--patch", r#"{"maxSlotWalKeepSize":"much"}"#], "").await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("wrong maxSlotWalKeepSize"), "{said}");
        Ok(())
    });
}
