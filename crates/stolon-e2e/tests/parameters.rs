//! A wrong parameter never takes the database down.

use anyhow::ensure;
use serde_json::json;
use stolon_testkit::{PATIENCE, Plan, QUERY, on_cluster, wait_for};

#[test]
fn what_postgresql_would_not_accept_is_left_out_and_said() {
    on_cluster(Plan::new(1), async |cluster| {
        let postmaster = cluster.postmaster(1)?;
        let patch = json!({
            "automaticPgRestart": true,
            "pgParameters": {
                "max_conections": "1000",
                "work_mem": "a lot",
                "max_connections": "lots",
                "log_min_duration_statement": "1234ms",
            },
        });
        let output = cluster.stolonctl(&["update", "--patch", &patch.to_string()], "").await?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "existing scripts rely on this going on: {said}");
        ensure!(said.contains("max_conections") && said.contains("max_connections"), "no warning: {said}");

        let target = cluster.proxy();
        wait_for("the good parameter", PATIENCE, async || {
            let session = target.connect(QUERY).await?;
            Ok((session.value("show log_min_duration_statement", QUERY).await? == "1234ms").then_some(()))
        })
        .await?;
        let status = wait_for("the status to say what was left out", PATIENCE, async || {
            let status = cluster.stolonctl_ok(&["status"], "").await?;
            let all = ["max_conections", "did you mean max_connections?", "work_mem"];
            Ok(all.iter().all(|part| status.contains(part)).then_some(status))
        })
        .await?;
        ensure!(
            cluster.log("keeper1").contains("did you mean max_connections?"),
            "the keeper's log is silent: {status}"
        );
        // Scripts of Stolon's users wait for these.
        let line = |text: &str| cluster.log("keeper1").rfind(text);
        wait_for("the log to say that nothing changes any more", PATIENCE, async || {
            let changed = line("postgres parameters changed, reloading postgres instance");
            Ok(changed
                .is_some_and(|changed| line("postgres parameters not changed") > Some(changed))
                .then_some(()))
        })
        .await?;
        let session = cluster.session().await?;
        ensure!(session.value("show work_mem", QUERY).await? == "4MB");
        ensure!(cluster.postmaster(1)? == postmaster, "PostgreSQL was restarted for nothing");
        Ok(())
    });
}

/// The first primary's parameters become the specification's. What it was asked for and could not take is still asked for.
#[test]
fn what_is_wrong_from_the_beginning_is_not_forgotten() {
    let plan = Plan::new(1).spec(json!({ "pgParameters": { "max_conections": "300", "work_mem": "5MB" } }));
    on_cluster(plan, async |cluster| {
        cluster.wait_writable(PATIENCE).await?;
        let parameters = wait_for("the parameters to be taken over", PATIENCE, async || {
            let parameters = cluster.data().await?.cluster.spec.pg_parameters.unwrap_or_default();
            Ok(parameters.contains_key("max_connections").then_some(parameters))
        })
        .await?;
        anyhow::ensure!(
            parameters.get("max_conections").is_some_and(|value| value == "300"),
            "{parameters:?}"
        );
        wait_for("stolonctl status to say so", PATIENCE, async || {
            let status = cluster.stolonctl_ok(&["status"], "").await?;
            Ok(status.contains("did you mean max_connections?").then_some(()))
        })
        .await
    });
}

#[test]
fn strict_refuses_and_changes_nothing() {
    on_cluster(Plan::new(1), async |cluster| {
        let before = cluster.stolonctl_ok(&["spec"], "").await?;
        let patch = r#"{"pgParameters":{"max_conections":"1000"}}"#;
        let output = cluster.stolonctl(&["update", "--strict", "--patch", patch], "").await?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        ensure!(cluster.stolonctl_ok(&["spec"], "").await? == before);
        Ok(())
    });
}

#[test]
fn a_restart_that_postgresql_would_not_survive_does_not_happen() {
    on_cluster(Plan::new(1), async |cluster| {
        let patch = json!({
            "automaticPgRestart": true,
            "pgParameters": { "shared_preload_libraries": "no_such_library_anywhere", "max_connections": "123" },
        });
        cluster.patch(patch).await?;
        wait_for("the status to name the library", PATIENCE, async || {
            let status = cluster.stolonctl_ok(&["status"], "").await?;
            Ok(status.contains("no_such_library_anywhere").then_some(()))
        })
        .await?;
        cluster.wait_writable(PATIENCE).await?;
        cluster
            .patch(json!({ "pgParameters": { "shared_preload_libraries": "pg_stat_statements" } }))
            .await?;
        let target = cluster.proxy();
        wait_for("the library that exists", PATIENCE, async || {
            let session = target.connect(QUERY).await?;
            ensure!(session.value("show max_connections", QUERY).await? == "123");
            Ok((session.value("show shared_preload_libraries", QUERY).await? == "pg_stat_statements")
                .then_some(()))
        })
        .await
    });
}
