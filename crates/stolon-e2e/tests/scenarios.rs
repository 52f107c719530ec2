//! What happens to the servers of a cluster in the course of time, as the users of Stolon know it: they lag, fork, move, vanish, and make
//! room for each other.

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::json;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, on_prepared, signal_all, wait_for};

/// Wait until a server of the cluster answers a query with `expected`.
async fn wait_answer(cluster: &Cluster, number: usize, query: &str, expected: &str) -> anyhow::Result<()> {
    let server = cluster.instance(number);
    wait_for(&format!("{expected} of keeper{number} to {query}"), PATIENCE, async || {
        let found = server.connect(QUERY).await?.value(query, QUERY).await?;
        ensure!(found == expected, "keeper{number} says {found}");
        Ok(Some(()))
    })
    .await
}

/// What a keeper writes when it copies the primary.
const COPY: &str = "running pg_basebackup";

/// The instances of the cluster data, by keeper.
async fn instances(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let data = cluster.data().await?;
    Ok(data.instances.values().map(|instance| instance.spec.keeper_uid.to_string()).collect())
}

async fn wait_instances(cluster: &Cluster, keepers: &[usize]) -> anyhow::Result<()> {
    let mut expected: Vec<String> = keepers.iter().map(|number| format!("keeper{number}")).collect();
    expected.sort();
    wait_for("the instances", PATIENCE, async || {
        let mut found = instances(cluster).await?;
        found.sort();
        ensure!(found == expected, "there are instances of {found:?}, not of {expected:?}");
        Ok(Some(()))
    })
    .await
}

/// Both proxies serve it; one that is stopped is not waited for any more.
#[test]
fn of_keepers_that_wait_for_a_cluster_one_makes_it_and_the_others_copy_it() {
    let plan = Plan { proxies: 2, ..Plan::new(3).uninitialised() };
    on_prepared(plan, async |cluster| {
        cluster.start_services()?;
        for number in 1..=3 {
            let state = cluster.layout.keeper_directory(number).join("keeperstate");
            wait_for("each keeper", PATIENCE, async || Ok(state.exists().then_some(()))).await?;
        }
        cluster.stolonctl_ok(&["init", "--yes", &stolon_testkit::short_timings().to_string()], "").await?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(2, PATIENCE).await?;
        let primary = cluster.primary().await?;
        for number in 1..=3 {
            let copied = cluster.log(&format!("keeper{number}")).contains(COPY);
            ensure!(
                copied == (number != primary),
                "keeper{primary} is the primary; keeper{number} copied: {copied}"
            );
        }
        wait_enabled_proxies(cluster, 2).await?;
        for (id, proxy) in cluster.proxies().iter().enumerate() {
            let statement = format!("create table t{id} (id int)");
            proxy.connect(QUERY).await?.rows(&statement, QUERY).await?;
        }
        cluster.stop_service("proxy2").await?;
        wait_enabled_proxies(cluster, 1).await
    });
}

async fn wait_enabled_proxies(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    wait_for("the proxies of the cluster data", PATIENCE, async || {
        let enabled = cluster.data().await?.proxy.spec.enabled_proxies.unwrap_or_default();
        ensure!(enabled.len() == count, "{enabled:?} are waited for");
        Ok(Some(()))
    })
    .await
}

/// Nobody is elected, and it is said why; the primary that comes back serves on.
#[test]
fn a_standby_that_lags_too_far_is_not_elected() {
    on_cluster(Plan::new(2).spec(json!({ "maxStandbyLag": 65536 })), async |cluster| {
        let primary = cluster.primary().await?;
        let standby = 3 - primary;
        signal_all(&cluster.backends(standby, "walreceiver")?, Signal::STOP)?;
        let session = cluster.session().await?;
        session
            .rows("create table t as select repeat('x', 1000) from generate_series(1, 4000)", QUERY)
            .await?;
        drop(session);
        wait_for("the lag in the cluster data", PATIENCE, async || {
            let data = cluster.data().await?;
            let elected = data.primary().context("no primary")?;
            let behind = data.instances.values().find(|it| it.uid != elected.uid).context("no standby")?;
            let lag = elected.status.lsn.0.saturating_sub(behind.status.lsn.0);
            ensure!(lag > 1_000_000, "{lag} bytes");
            Ok(Some(()))
        })
        .await?;
        cluster.kill_keeper_and_postgres(primary).await?;
        wait_for("the reason why nobody is elected", PATIENCE, async || {
            Ok(cluster.log("sentinel1").contains("more than maxStandbyLag (65536)").then_some(()))
        })
        .await?;
        cluster.start_service(&format!("keeper{primary}"))?;
        cluster.wait_writable(PATIENCE).await?;
        ensure!(cluster.primary().await? == primary, "the standby that lacks rows was elected");
        signal_all(&cluster.backends(standby, "walreceiver")?, Signal::CONT)?;
        wait_answer(cluster, standby, "select count(*) from t", "4000").await
    });
}

/// The primary is lost while the standby that is ahead is away, and the one that is behind is elected. Rows of the other two do not count
/// any more: they give them up, and follow.
#[test]
fn a_standby_that_is_ahead_of_where_the_timelines_fork_gives_that_up_and_follows() {
    on_cluster(Plan::new(3), async |cluster| {
        let primary = cluster.primary().await?;
        let [behind, ahead] = [primary % 3 + 1, (primary + 1) % 3 + 1];
        let session = cluster.session().await?;
        session.rows("create table t (id int); insert into t values (1)", QUERY).await?;
        wait_answer(cluster, behind, "select count(*) from t", "1").await?;
        cluster.kill_keeper_and_postgres(behind).await?;
        session.rows("insert into t values (2)", QUERY).await?;
        wait_answer(cluster, ahead, "select count(*) from t", "2").await?;
        drop(session);
        cluster.kill_keeper_and_postgres(ahead).await?;
        cluster.kill_keeper_and_postgres(primary).await?;

        cluster.start_service(&format!("keeper{behind}"))?;
        cluster.wait_writable(PATIENCE).await?;
        ensure!(cluster.primary().await? == behind, "somebody else is the primary, who does not run");
        for number in [ahead, primary] {
            cluster.start_service(&format!("keeper{number}"))?;
        }
        cluster.wait_streaming(2, PATIENCE).await?;
        let session = cluster.session().await?;
        session.rows("insert into t values (3)", QUERY).await?;
        for number in [ahead, primary, behind] {
            wait_answer(cluster, number, "select string_agg(id::text, ' ' order by id) from t", "1 3")
                .await?;
        }
        Ok(())
    });
}

/// With one standby wanted and three keepers, the third one has nothing to do until that standby is lost. Whoever comes back later finds its
/// place taken; two are kept where two are wanted, and one goes where one is.
#[test]
fn a_lost_standby_has_a_substitute_and_there_are_as_many_as_are_wanted() {
    on_prepared(Plan::new(3).spec(json!({ "maxStandbysPerSender": 1 })), async |cluster| {
        cluster.start_services()?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        let primary = cluster.primary().await?;
        let others = [primary % 3 + 1, (primary + 1) % 3 + 1];
        let used = instances(cluster).await?;
        let [standby, idle] = match used.contains(&format!("keeper{}", others[0])) {
            true => others,
            false => [others[1], others[0]],
        };
        wait_instances(cluster, &[primary, standby]).await?;

        cluster.kill_keeper_and_postgres(standby).await?;
        wait_instances(cluster, &[primary, idle]).await?;
        wait_answer(cluster, idle, "select pg_is_in_recovery()", "t").await?;
        cluster.start_service(&format!("keeper{standby}"))?;
        cluster.patch(json!({ "maxStandbysPerSender": 2 })).await?;
        cluster.wait_streaming(2, PATIENCE).await?;
        wait_instances(cluster, &[primary, standby, idle]).await?;
        cluster.patch(json!({ "maxStandbysPerSender": 1 })).await?;
        wait_for("the end of one standby", PATIENCE, async || {
            let left = instances(cluster).await?;
            ensure!(left.len() == 2 && left.contains(&format!("keeper{primary}")), "{left:?} are left");
            Ok(Some(()))
        })
        .await?;
        cluster.wait_writable(PATIENCE).await
    });
}

/// First to another port, where it stays the primary, and then without its data, which makes it a standby.
#[test]
fn a_primary_is_found_at_its_new_port_and_replaced_when_its_data_have_vanished() {
    on_cluster(Plan::new(2), async |cluster| {
        let primary = cluster.primary().await?;
        let keeper = format!("keeper{primary}");
        let session = cluster.session().await?;
        session.rows("create table t (id int); insert into t values (1)", QUERY).await?;
        drop(session);
        cluster.stolonctl_ok(&["pause", "--for", "1h"], "").await?;
        cluster.kill_keeper_and_postgres(primary).await?;
        cluster.move_postgres(primary)?;
        cluster.start_service(&keeper)?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        ensure!(cluster.primary().await? == primary, "the primary is replaced while the cluster is paused");
        ensure!(
            !cluster.log(&format!("keeper{}", 3 - primary)).contains("running pg_rewind"),
            "the standby was made anew"
        );
        cluster.stolonctl_ok(&["resume"], "").await?;

        cluster.session().await?.rows("insert into t values (2)", QUERY).await?;
        wait_answer(cluster, 3 - primary, "select count(*) from t", "2").await?;
        cluster.kill_keeper_and_postgres(primary).await?;
        std::fs::remove_dir_all(cluster.data_directory(primary))?;
        cluster.start_service(&keeper)?;
        cluster.wait_other_primary(primary, PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        ensure!(cluster.log(&keeper).contains(COPY), "the data came from somewhere else");
        wait_answer(cluster, primary, "select count(*) from t", "2").await
    });
}

/// Standbys pause their replay, or do not start, with a lower limit than their primary has.
#[test]
fn restarts_for_a_limit_go_in_the_order_that_standbys_need() {
    let spec = json!({ "automaticPgRestart": true, "pgParameters": { "wal_level": "minimal", "max_connections": "90" } });
    on_cluster(Plan::new(3).spec(spec), async |cluster| {
        let primary = cluster.primary().await?;
        let standbys = [primary % 3 + 1, (primary + 1) % 3 + 1];
        wait_answer(cluster, primary, "show wal_level", "replica").await?;

        let raised = json!({ "wal_level": "logical", "max_connections": "120", "wal_keep_segments": "20" });
        cluster.patch(json!({ "pgParameters": raised })).await?;
        let started = starts_with(cluster, "120").await?;
        ensure!(standbys.iter().all(|it| started[it - 1] < started[primary - 1]), "{primary} of {started:?}");
        for number in 1..=3 {
            wait_answer(cluster, number, "show wal_level", "logical").await?;
            wait_answer(cluster, number, "show wal_keep_size", "320MB").await?;
        }
        cluster
            .patch(json!({ "pgParameters": { "wal_level": "logical", "max_connections": "100" } }))
            .await?;
        let started = starts_with(cluster, "100").await?;
        ensure!(standbys.iter().all(|it| started[it - 1] > started[primary - 1]), "{primary} of {started:?}");
        ensure!(cluster.primary().await? == primary, "a restart became a failover");
        cluster.wait_streaming(2, PATIENCE).await
    });
}

/// When each server was started, once all of them have this `max_connections`: in microseconds.
async fn starts_with(cluster: &Cluster, max_connections: &str) -> anyhow::Result<Vec<i64>> {
    let mut started = Vec::new();
    for number in 1..=3 {
        wait_answer(cluster, number, "show max_connections", max_connections).await?;
        let server = cluster.instance(number).connect(QUERY).await?;
        let query = "select (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint";
        started.push(server.value(query, QUERY).await?.parse()?);
    }
    Ok(started)
}

/// Whoever trusts the keepers' addresses needs no passwords, and one user can be both; a keeper that must not be waited for is not.
#[test]
fn one_user_without_a_password_is_enough_where_keepers_trust_each_other() {
    let spec = json!({ "synchronousReplication": true, "maxSynchronousStandbys": 2, "defaultSUReplAccessMode": "strict" });
    on_prepared(Plan::new(3).spec(spec), async |cluster| {
        for number in 1..=3 {
            let keeper = format!("keeper{number}");
            for flag in ["--pg-su-auth-method", "--pg-repl-auth-method"] {
                cluster.add_flag(&keeper, flag, "trust")?;
            }
            for flag in ["--pg-su-passwordfile", "--pg-repl-passwordfile"] {
                cluster.add_flag(&keeper, flag, "")?;
            }
            let user = cluster.layout.credentials.superuser.clone();
            cluster.add_flag(&keeper, "--pg-repl-username", &user)?;
        }
        cluster.add_flag("keeper3", "--can-be-synchronous-replica", "false")?;
        cluster.start_services()?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(2, PATIENCE).await?;
        let waited_for = cluster.wait_synchronous_set(PATIENCE, |set| !set.is_empty()).await?;
        let primary = cluster.primary().await?;
        ensure!(!waited_for.contains(&3), "commits wait for {waited_for:?}");
        let session = cluster.session().await?;
        let roles =
            "select string_agg(rolname || coalesce(rolpassword, ''), ' ') from pg_authid where rolcanlogin";
        ensure!(session.value(roles, QUERY).await? == cluster.layout.credentials.superuser);
        session.rows("create table t (id int); insert into t values (1)", QUERY).await?;
        drop(session);
        // Commits wait for it, since the third keeper does not count.
        cluster.kill_keeper_and_postgres(primary).await?;
        let new = cluster.wait_other_primary(primary, PATIENCE).await?;
        cluster.start_service(&format!("keeper{primary}"))?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(2, PATIENCE).await?;
        ensure!(
            waited_for.contains(&new),
            "keeper{new} came after keeper{primary}, and commits waited for {waited_for:?}"
        );
        ensure!(cluster.session().await?.value("select count(*) from t", QUERY).await? == "1");
        Ok(())
    });
}
