//! What the keeper's HTTP endpoint answers, and HAProxy with the documented configuration in front of a cluster.

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use stolon_testkit::haproxy::{Backend, HaProxy};
use stolon_testkit::local::Target;
use stolon_testkit::{PATIENCE, Plan, QUERY, StoreKind, http, on_prepared, wait_for};

async fn code(port: u16, method: &str, path: &str) -> anyhow::Result<u16> {
    Ok(http(port, method, path, "").await?.0)
}

/// Wait until the answer to a question has this code.
async fn answers(port: u16, path: &str, wanted: u16) -> anyhow::Result<()> {
    wait_for(&format!("{wanted} for {path}"), PATIENCE, async || {
        let (code, body) = http(port, "GET", path, "").await?;
        ensure!(code == wanted, "{code}: {body}");
        Ok(Some(()))
    })
    .await
}

fn signal_all(processes: &[Pid], signal: Signal) {
    for pid in processes {
        let _ = rustix::process::kill_process(*pid, signal);
    }
}

#[test]
fn each_role_has_its_answers_and_what_is_too_old_is_no_yes() {
    let plan = Plan::new(2).spec(json!({ "synchronousReplication": true })).store(StoreKind::Etcd);
    on_prepared(plan, async |cluster| {
        let ports = cluster.start_answering(2).await?;
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        let primary = cluster.primary().await?;
        let (of_primary, of_standby) = (ports[primary - 1], ports[2 - primary]);
        for path in ["/", "/primary", "/master", "/leader", "/read-write", "/read-only", "/readiness"] {
            answers(of_primary, path, 200).await?;
        }
        for path in
            ["/replica", "/replica?lag=16MB", "/sync", "/read-only", "/readiness", "/health", "/liveness"]
        {
            answers(of_standby, path, 200).await?;
        }
        for (port, path) in [(of_primary, "/replica"), (of_standby, "/primary"), (of_standby, "/async")] {
            answers(port, path, 503).await?;
        }
        ensure!(
            http(of_primary, "HEAD", "/primary", "").await? == (200, String::new()),
            "no body is asked for"
        );
        ensure!(code(of_standby, "OPTIONS", "/primary").await? == 503);
        ensure!(code(of_primary, "POST", "/primary").await? == 405);
        ensure!(code(of_primary, "GET", "/config").await? == 404);
        let status: Value = serde_json::from_str(&http(of_primary, "GET", "/status", "").await?.1)?;
        ensure!(status["role"] == "primary" && status["state"] == "running", "{status}");
        ensure!(status["xlog"]["location"].as_u64() > Some(0) && status["timeline"] == 1, "{status}");

        // The standby's postmaster hangs: whoever asks is told, and the keeper is well.
        let family = stolon_testkit::local::tree(cluster.postmaster(3 - primary)?);
        signal_all(&family, Signal::STOP);
        answers(of_standby, "/replica", 503).await?;
        answers(of_standby, "/health", 503).await?;
        answers(of_standby, "/liveness", 200).await?;
        signal_all(&family, Signal::CONT);
        answers(of_standby, "/replica", 200).await?;

        // Without the store the primary is one for as long as the other keeper pledges that; how far a standby is behind is not known.
        cluster.server.kill()?;
        answers(of_standby, "/replica?lag=16MB", 503).await?;
        answers(of_standby, "/replica", 200).await?;
        ensure!(code(of_primary, "GET", "/primary").await? == 200);
        let other = cluster.process(&format!("keeper{}", 3 - primary))?.pid();
        signal_all(&[other], Signal::STOP);
        answers(of_primary, "/primary", 503).await?;
        answers(of_primary, "/health", 200).await?;
        signal_all(&[other], Signal::CONT);
        answers(of_primary, "/primary", 200).await?;
        cluster.server.restart().await?;
        answers(of_primary, "/primary", 200).await
    });
}

#[test]
fn haproxy_finds_the_primary_and_the_standbys_also_after_a_failover() {
    let plan = Plan::new(3).spec(json!({ "synchronousReplication": true }));
    on_prepared(plan, async |cluster| {
        let ports = cluster.start_answering(3).await?;
        let backend =
            |number: usize| Backend { postgres: cluster.instance(number).port, checks: ports[number - 1] };
        let haproxy = HaProxy::start([backend(1), backend(2), backend(3)])?;
        let to = |port: u16| Target { port, ..cluster.proxy() };
        let (primary, standbys) = (to(haproxy.primary), to(haproxy.standbys));
        let asks = async |target: &Target, sql: &str| -> anyhow::Result<String> {
            let session = target.connect(QUERY).await?;
            session.value(sql, QUERY).await
        };
        let is_in = async |target: &Target, recovery: &str| -> anyhow::Result<()> {
            wait_for("a session through HAProxy", PATIENCE, async || {
                Ok((asks(target, "select pg_is_in_recovery()").await? == recovery).then_some(()))
            })
            .await
        };
        is_in(&primary, "f").await?;
        is_in(&standbys, "t").await?;
        // Until its first checks are done HAProxy takes every server for one that works.
        wait_for("a table through HAProxy", PATIENCE, async || {
            let session = primary.connect(QUERY).await?;
            session.rows("create table if not exists through_haproxy (id int)", QUERY).await?;
            Ok(Some(()))
        })
        .await?;

        // Before nobody could take over.
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        let old = cluster.primary().await?;
        cluster.kill_keeper_and_postgres(old).await?;
        cluster.wait_other_primary(old, PATIENCE).await?;
        wait_for("writes through HAProxy to the next primary", PATIENCE, async || {
            let session = primary.connect(QUERY).await?;
            session.rows("insert into through_haproxy values (1)", QUERY).await?;
            Ok(Some(()))
        })
        .await?;
        is_in(&standbys, "t").await?;

        // Who was the primary comes back as a standby, and is sent readers, not writers.
        cluster.start_service(&format!("keeper{old}"))?;
        answers(ports[old - 1], "/replica", 200).await?;
        let port = cluster.instance(old).port.to_string();
        wait_for("a reader on the former primary", PATIENCE, async || {
            Ok((asks(&standbys, "show port").await? == port).then_some(()))
        })
        .await?;
        is_in(&primary, "f").await.context("writers")
    });
}
