//! Passwords that are stored for MD5 although the cluster would store new ones for SCRAM, as after `pg_upgrade` from a major before
//! 14; and `ALTER SYSTEM`.

use anyhow::ensure;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, wait_for};

/// libpq has `require_auth` since 16: what it forbids cuts standbys off.
#[test]
fn md5_goes_on_with_libpq_16() {
    on_cluster(Plan::new(2).major(16), goes_on_with_md5);
}

#[test]
fn md5_goes_on_with_libpq_17() {
    on_cluster(Plan::new(2).major(17), async |cluster| {
        alter_system_is_off(cluster).await?;
        goes_on_with_md5(cluster).await
    });
}

#[test]
fn md5_goes_on_with_libpq_18() {
    on_cluster(Plan::new(2).major(18), async |cluster| {
        alter_system_is_off(cluster).await?;
        goes_on_with_md5(cluster).await
    });
}

/// By the setting that 17 brought, on the primary and on the standby.
async fn alter_system_is_off(cluster: &Cluster) -> anyhow::Result<()> {
    for number in [1, 2] {
        let session = cluster.instance(number).connect(QUERY).await?;
        let allowed = session.value("show allow_alter_system", QUERY).await?;
        ensure!(allowed == "off", "keeper{number}: {allowed}");
    }
    Ok(())
}

/// A standby comes back after its connection was cut, and a lost primary returns.
async fn goes_on_with_md5(cluster: &mut Cluster) -> anyhow::Result<()> {
    let session = cluster.session().await?;
    let users = cluster.layout.credentials.clone();
    for (user, password) in [
        (&users.superuser, &users.superuser_password),
        (&users.replication_user, &users.replication_password),
    ] {
        let quoted = password.replace('\'', "''");
        let sql = format!(
            "set password_encryption = 'md5'; set standard_conforming_strings = on; alter role {user} password '{quoted}'"
        );
        session.rows(&sql, QUERY).await?;
    }
    let stored = "select count(*) from pg_authid where rolpassword like 'md5%'";
    ensure!(session.value(stored, QUERY).await? == "2", "the test needs MD5");
    said_by_the_cluster(cluster).await?;
    session.rows("select pg_terminate_backend(pid) from pg_stat_replication", QUERY).await?;
    drop(session);
    cluster.wait_streaming(1, PATIENCE).await?;

    cluster.replace_primary(1, PATIENCE).await.map(drop)
}

/// The keepers have found out, and everybody can know.
async fn said_by_the_cluster(cluster: &Cluster) -> anyhow::Result<()> {
    wait_for("the keepers' word on MD5", PATIENCE, async || {
        let data = cluster.data().await?;
        Ok(data.primary().is_some_and(|primary| primary.status.stores_md5).then_some(()))
    })
    .await
}
