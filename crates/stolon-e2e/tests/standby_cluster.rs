//! Clusters that follow a primary outside, and become clusters of their own when they are promoted.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use stolon_testkit::local::Target;
use stolon_testkit::{Cluster, Foreign, PATIENCE, Plan, QUERY, on_prepared, short_timings, wait_for};

const FEEDER_PASSWORD: &str = "feeder's secret";

/// The foreign primary, with a user and a slot for those who follow it, and a table.
async fn foreign_primary(cluster: &mut Cluster, settings: &str) -> anyhow::Result<Foreign> {
    let mut foreign = Foreign::create(cluster, "foreign", settings).await?;
    foreign.start().await?;
    foreign.create_user("replication", "feeder", FEEDER_PASSWORD).await?;
    foreign
        .run(
            "select pg_create_physical_replication_slot('east'); \
             create table t (id int primary key); insert into t values (1)",
        )
        .await?;
    Ok(foreign)
}

fn conninfo(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=feeder password='feeder\\'s secret'")
}

/// The specification of a cluster that follows: copied by a command, fed as `standby` says.
fn following(restore_command: &str, standby: &Value) -> Value {
    let mut spec = short_timings();
    spec["initMode"] = json!("pitr");
    spec["role"] = json!("standby");
    spec["pitrConfig"] = json!({ "dataRestoreCommand": restore_command });
    if let Some(archive) = standby.get("archiveRecoverySettings") {
        spec["pitrConfig"]["archiveRecoverySettings"] = archive.clone();
    }
    spec["standbyConfig"] = standby.clone();
    spec
}

async fn initialise(cluster: &mut Cluster, spec: &Value) -> anyhow::Result<()> {
    cluster.start_services()?;
    cluster.stolonctl_ok(&["init", "--yes", &spec.to_string()], "").await.map(drop)
}

/// Wait until a server that is in recovery has exactly these rows.
async fn holds(target: &Target, rows: &str) -> anyhow::Result<()> {
    wait_for(&format!("the rows {rows} on a standby at {}", target.port), PATIENCE, async || {
        let session = target.connect(QUERY).await?;
        ensure!(session.value("select pg_is_in_recovery()", QUERY).await? == "t", "it is a primary");
        let found = session.value("select string_agg(id::text, ' ' order by id) from t", QUERY).await?;
        ensure!(found == rows, "the rows are {found}");
        Ok(Some(()))
    })
    .await
}

/// The cluster answers through its proxy, and all its keepers hold these rows as standbys.
async fn cluster_holds(cluster: &Cluster, keepers: &[usize], rows: &str) -> anyhow::Result<()> {
    holds(&cluster.proxy(), rows).await?;
    for number in keepers {
        holds(&cluster.instance(*number), rows).await?;
    }
    Ok(())
}

/// The password of the connection string stands nowhere but in the specification and in files that only the owner reads.
async fn password_is_hidden(cluster: &Cluster) -> anyhow::Result<()> {
    let mut places: Vec<(String, String)> =
        cluster.services().into_iter().map(|name| (name.clone(), cluster.log(&name))).collect();
    for arguments in [&["status"][..], &["status", "--format", "json"]] {
        let said = cluster.stolonctl_ok(arguments, "").await?;
        places.push((arguments.join(" "), said));
    }
    for pid in cluster.processes() {
        let file = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
        places.push((file.clone(), std::fs::read_to_string(file).unwrap_or_default()));
    }
    let session = cluster.instance(cluster.primary().await?).connect(QUERY).await?;
    let shown = "select string_agg(setting, ' ') from pg_settings";
    places.push(("pg_settings".to_owned(), session.value(shown, QUERY).await?));
    for (place, text) in places {
        ensure!(!text.contains("secret"), "the password stands in {place}");
    }
    Ok(())
}

async fn promoted(cluster: &Cluster, standbys: usize) -> anyhow::Result<()> {
    cluster.stolonctl_ok(&["promote", "--yes"], "").await?;
    cluster.wait_writable(PATIENCE).await?;
    cluster.wait_streaming(standbys, PATIENCE).await
}

/// A standby cluster's whole life: rows arrive, the apply delay counts, the foreign primary restarts, the head is lost, and the cluster is
/// promoted while the foreign primary still writes.
fn a_life(plan: Plan) {
    on_prepared(plan.uninitialised(), async |cluster| {
        let mut foreign = foreign_primary(cluster, "").await?;
        let settings = json!({
            "primaryConninfo": conninfo(foreign.server.port), "primarySlotName": "east",
        });
        let spec = following(&foreign.restore_command(), &json!({ "standbySettings": settings }));
        initialise(cluster, &spec).await?;
        cluster_holds(cluster, &[1, 2], "1").await?;
        foreign.run("insert into t values (2)").await?;
        cluster_holds(cluster, &[1, 2], "1 2").await?;
        password_is_hidden(cluster).await?;

        foreign.stop().await?;
        foreign.start_again().await?;
        foreign.run("insert into t values (3)").await?;
        cluster_holds(cluster, &[1, 2], "1 2 3").await?;
        delayed(cluster, &foreign, &settings).await?;

        let old = cluster.primary().await?;
        cluster.kill_keeper_and_postgres(old).await?;
        let new = cluster.wait_other_primary(old, PATIENCE).await?;
        foreign.run("insert into t values (5)").await?;
        cluster_holds(cluster, &[new], "1 2 3 4 5").await?;
        cluster.start_service(&format!("keeper{old}"))?;
        cluster_holds(cluster, &[1, 2], "1 2 3 4 5").await?;
        ensure!(cluster.primary().await? == new, "the head changed again");

        promoted(cluster, 1).await?;
        foreign.run("insert into t values (6)").await?;
        cluster.session().await?.rows("insert into t values (7)", QUERY).await?;
        holds(&cluster.instance(old), "1 2 3 4 5 7").await?;
        let again = cluster.stolonctl(&["promote", "--yes"], "").await?;
        ensure!(again.status.success(), "a second promotion does no harm");
        ensure!(String::from_utf8_lossy(&again.stderr).contains("already"), "and says so");
        cluster.patch(json!({ "synchronousReplication": true })).await?;
        cluster.wait_synchronous(&[old], PATIENCE).await?;
        cluster.session().await?.rows("insert into t values (8)", QUERY).await?;
        password_is_hidden(cluster).await
    });
}

/// Wait until the head works as the cluster data ask.
async fn reached_generation(cluster: &Cluster) -> anyhow::Result<()> {
    wait_for("the settings of the head", PATIENCE, async || {
        let data = cluster.data().await?;
        let head = data.primary().context("no head")?;
        let delay = head.spec.follow_config.as_ref().and_then(|follow| follow.standby_settings.as_ref());
        ensure!(
            delay.is_some_and(|settings| settings.recovery_min_apply_delay == "1h"),
            "it is not asked for"
        );
        Ok((head.status.current_generation == head.generation).then_some(()))
    })
    .await
}

/// With a delay WAL is received and not applied; without it, applied at once.
async fn delayed(cluster: &Cluster, foreign: &Foreign, settings: &Value) -> anyhow::Result<()> {
    let mut slow = settings.clone();
    slow["recoveryMinApplyDelay"] = json!("1h");
    cluster.patch(json!({ "standbyConfig": { "standbySettings": slow } })).await?;
    let head = cluster.instance(cluster.primary().await?);
    reached_generation(cluster).await?;
    foreign.run("insert into t values (4)").await?;
    let written = foreign.server.target().connect(QUERY).await?;
    let written = written.value("select pg_current_wal_lsn()", QUERY).await?;
    wait_for("WAL that waits", PATIENCE, async || {
        let session = head.connect(QUERY).await?;
        let received = format!("select pg_last_wal_receive_lsn() >= '{written}'");
        Ok((session.value(&received, QUERY).await? == "t").then_some(()))
    })
    .await?;
    // Its own standbys have no delay: they apply what they are sent.
    holds(&head, "1 2 3").await?;
    let at_once = json!({ "standbySettings": { "recoveryMinApplyDelay": null } });
    cluster.patch(json!({ "standbyConfig": at_once })).await?;
    cluster_holds(cluster, &[1, 2], "1 2 3 4").await
}

#[test]
fn a_foreign_primary_is_followed_until_the_promotion() {
    a_life(Plan::new(2));
}

#[test]
fn the_same_with_recovery_conf() {
    a_life(Plan::new(2).major(11));
}

/// No connection: what the foreign primary archives is all that arrives.
#[test]
fn an_archive_is_followed_without_a_connection() {
    on_prepared(Plan::new(2).uninitialised(), async |cluster| {
        let archive = cluster.layout.directory.join("archive");
        cluster.layout.account.make_directory(&archive)?;
        let archived = archive.display();
        let settings = format!("archive_mode = on\narchive_command = 'cp %p {archived}/%f'\n");
        let foreign = foreign_primary(cluster, &settings).await?;
        let fetch = json!({ "restoreCommand": format!("cp {archived}/%f %p") });
        let spec = following(&foreign.restore_command(), &json!({ "archiveRecoverySettings": fetch }));
        initialise(cluster, &spec).await?;
        cluster_holds(cluster, &[1, 2], "1").await?;
        foreign.run("insert into t values (2)").await?;
        foreign.run("select pg_switch_wal()").await?;
        cluster_holds(cluster, &[1, 2], "1 2").await?;
        cluster.wait_nothing_said().await?;
        promoted(cluster, 1).await?;
        cluster.session().await?.rows("insert into t values (3)", QUERY).await?;
        holds(&cluster.instance(3 - cluster.primary().await?), "1 2 3").await
    });
}

/// Whatever is wrong with the way to the foreign primary is said in one sentence, and mended by a patch.
#[test]
fn what_is_wrong_with_the_connection_is_said() {
    on_prepared(Plan::new(1).uninitialised(), async |cluster| {
        let foreign = foreign_primary(cluster, "").await?;
        let mut other = Foreign::create(cluster, "other", "").await?;
        other.start().await?;
        other.create_user("replication", "feeder", FEEDER_PASSWORD).await?;
        let (port, nobody) = (foreign.server.port, cluster.ports.take()?);
        let right = json!({ "primaryConninfo": conninfo(port), "primarySlotName": "east" });
        let with = |name: &str, value: String| {
            let mut settings = right.clone();
            settings[name] = json!(value);
            json!({ "standbySettings": settings })
        };
        let wrong = with("primaryConninfo", format!("host=127.0.0.1 port={port} user=feeder password=wrong"));
        initialise(cluster, &following(&foreign.restore_command(), &wrong)).await?;
        cluster.wait_said(&["keeper1", "password authentication failed for user \"feeder\""]).await?;
        for (settings, parts) in [
            (
                with("primarySlotName", "west".into()),
                ["replication slot \"west\" does not exist", "receives no WAL"],
            ),
            (
                with("primaryConninfo", conninfo(nobody)),
                [&format!("port {nobody} failed"), "Connection refused"],
            ),
            (with("primaryConninfo", conninfo(other.server.port)), ["system identifier", "differs"]),
        ] {
            cluster.patch(json!({ "standbyConfig": settings })).await?;
            cluster.wait_said(&parts).await?;
        }
        password_is_hidden(cluster).await?;
        cluster.patch(json!({ "standbyConfig": { "standbySettings": right } })).await?;
        foreign.run("insert into t values (2)").await?;
        cluster_holds(cluster, &[1], "1 2").await?;
        cluster.wait_nothing_said().await
    });
}

/// A second cluster follows the first one through its proxy and a slot that every head of it keeps.
#[test]
fn a_standby_cluster_follows_a_standby_cluster() {
    on_prepared(Plan::new(2).uninitialised(), async |east| {
        let foreign = foreign_primary(east, "").await?;
        let settings = json!({ "primaryConninfo": conninfo(foreign.server.port), "primarySlotName": "east" });
        let mut spec = following(&foreign.restore_command(), &json!({ "standbySettings": settings }));
        spec["additionalMasterReplicationSlots"] = json!(["west"]);
        initialise(east, &spec).await?;
        cluster_holds(east, &[1, 2], "1").await?;

        let mut west = Cluster::prepare(&Plan::new(1).uninitialised()).await?;
        let outcome = follows_through_a_proxy(east, &mut west, &foreign).await;
        if outcome.is_err() {
            west.dump_logs();
        }
        west.kill_everything().await;
        outcome
    });
}

async fn follows_through_a_proxy(
    east: &mut Cluster,
    west: &mut Cluster,
    foreign: &Foreign,
) -> anyhow::Result<()> {
    let proxy = east.proxy().port;
    let conninfo = format!("host=127.0.0.1 port={proxy} user=repluser password='replicator\\\\ password'");
    let settings = json!({ "primaryConninfo": conninfo, "primarySlotName": "stolon_west" });
    let passwords = west.layout.directory.join("pgpass");
    west.layout.account.write_private(&passwords, "*:*:*:repluser:replicator\\\\ password\n")?;
    let restore = format!(
        "PGPASSFILE={} {} -D %d -h 127.0.0.1 -p {proxy} -U repluser -X stream --checkpoint=fast",
        passwords.display(),
        west.layout.pg_bin.join("pg_basebackup").display(),
    );
    let spec = following(&restore, &json!({ "standbySettings": settings }));
    initialise(west, &spec).await?;
    cluster_holds(west, &[1], "1").await?;
    foreign.run("insert into t values (2)").await?;
    cluster_holds(west, &[1], "1 2").await?;

    let old = east.primary().await?;
    east.kill_keeper_and_postgres(old).await?;
    east.wait_other_primary(old, PATIENCE).await?;
    foreign.run("insert into t values (3)").await?;
    cluster_holds(west, &[1], "1 2 3").await?;
    // The first cluster becomes one of its own; the second one goes with it.
    promoted(east, 0).await?;
    east.session().await?.rows("insert into t values (4)", QUERY).await?;
    cluster_holds(west, &[1], "1 2 3 4").await?;
    promoted(west, 0).await?;
    west.session().await?.rows("insert into t values (5)", QUERY).await.map(drop)
}
