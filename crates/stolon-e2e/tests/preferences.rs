//! Whom operators prefer: zones and priorities, on real servers.

use anyhow::{Context, ensure};
use serde_json::json;
use stolon_testkit::{Cluster, PATIENCE, Plan, on_cluster, wait_for};

/// Which keepers commits wait for, by number.
async fn waited_for(cluster: &Cluster) -> anyhow::Result<Vec<usize>> {
    let data = cluster.data().await?;
    let primary = data.primary().context("no primary")?;
    let known = primary.status.synchronous_standbys.iter().flatten();
    let keepers = known.filter_map(|uid| data.instances.get(uid)).map(|it| it.spec.keeper_uid.as_str());
    keepers.map(|uid| Ok(uid.trim_start_matches("keeper").parse()?)).collect()
}

/// Whichever standby commits wait for at first, they end up waiting for the one that stands elsewhere; and whoever is preferred gets the
/// primary when it is moved, by hand.
#[test]
fn commits_wait_for_another_zone_and_a_switchover_goes_to_who_is_preferred() {
    on_cluster(Plan::new(3).spec(json!({ "synchronousReplication": true })), async |cluster| {
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        let primary = cluster.primary().await?;
        let first = waited_for(cluster).await?.first().copied().context("nobody is in sync")?;
        let other = 6 - primary - first;
        for (keeper, zone) in [(first, "near"), (other, "far"), (primary, "near")] {
            let name = format!("keeper{keeper}");
            cluster.add_flag(&name, "--zone", zone)?;
            if keeper != primary {
                cluster.stop_service(&name).await?;
                cluster.start_service(&name)?;
                cluster.wait_streaming(2, PATIENCE).await?;
            }
        }
        // The primary's keeper is restarted alone: it would hand over otherwise.
        cluster.add_flag(&format!("keeper{primary}"), "--handover-timeout", "0s")?;
        cluster.stop_service(&format!("keeper{primary}")).await?;
        cluster.start_service(&format!("keeper{primary}"))?;
        cluster.wait_writable(PATIENCE).await?;
        let primary = cluster.primary().await?;
        let elsewhere: Vec<usize> =
            if primary == other { vec![first, 6 - other - first] } else { vec![other] };
        wait_for("a synchronous standby in another zone", PATIENCE, async || {
            let waited_for = waited_for(cluster).await?;
            ensure!(waited_for.iter().any(|it| elsewhere.contains(it)), "{waited_for:?}");
            Ok(Some(()))
        })
        .await?;
        let status = cluster.stolonctl_ok(&["status"], "").await?;
        ensure!(status.contains("ZONE") && status.contains("far") && status.contains("near"), "{status}");

        cluster.wait_streaming(2, PATIENCE).await?;
        let preferred = waited_for(cluster).await?.first().copied().context("nobody is in sync")?;
        let uid = format!("keeper{preferred}");
        cluster.stolonctl_ok(&["priority", &uid, "9"], "").await?;
        cluster.stolonctl_ok(&["switchover", "--timeout", "40s"], "").await?;
        ensure!(cluster.primary().await? == preferred);
        cluster.stolonctl_ok(&["priority", &format!("keeper{primary}"), "99"], "").await?;
        cluster.wait_writable(PATIENCE).await?;
        ensure!(cluster.primary().await? == preferred, "a priority alone moves nothing");
        Ok(())
    });
}
