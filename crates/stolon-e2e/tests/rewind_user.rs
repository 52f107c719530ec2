//! A lost primary whose data are rewound by a user that may read files and nothing else.

use anyhow::{Context, ensure};
use serde_json::json;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_prepared};

/// PostgreSQL names whoever comes in, in the log of its keeper.
fn plan() -> Plan {
    Plan::new(2)
        .spec(json!({ "pgParameters": { "log_connections": "on" }, "defaultSUReplAccessMode": "strict" }))
}

/// From their next start on.
fn give_to_keepers(cluster: &mut Cluster) -> anyhow::Result<()> {
    let file = cluster.layout.directory.join("rewind-password");
    cluster.layout.account.write_private(&file, "rewindpassword")?;
    let file = file.to_str().context("a path in UTF-8")?;
    for keeper in ["keeper1", "keeper2"] {
        cluster.add_flag(keeper, "--pg-rewind-username", "rewinder")?;
        cluster.add_flag(keeper, "--pg-rewind-passwordfile", file)?;
    }
    Ok(())
}

async fn is_up(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.wait_writable(PATIENCE).await?;
    cluster.wait_streaming(1, PATIENCE).await
}

/// The old primary comes back by a rewind, for which nobody logged in as the superuser over the network.
async fn is_rewound_by_the_user(cluster: &mut Cluster) -> anyhow::Result<()> {
    let old = cluster.primary().await?;
    let copies =
        |cluster: &Cluster| cluster.log(&format!("keeper{old}")).matches("running pg_basebackup").count();
    let before = copies(cluster);
    let new = cluster.replace_primary(1, PATIENCE).await?;
    let is_rewound = cluster.log(&format!("keeper{old}")).contains("running pg_rewind");
    ensure!(is_rewound && copies(cluster) == before, "it was not rewound");
    let log = cluster.log(&format!("keeper{new}"));
    let came = |user: &str| log.contains(&format!("connection authorized: user={user} database=postgres"));
    ensure!(came("rewinder"), "the rewind was somebody else's");
    let session = cluster.session().await?;
    let rights = "select rolsuper or rolreplication or rolcreaterole or rolcreatedb or rolbypassrls from pg_roles where rolname = 'rewinder'";
    ensure!(session.value(rights, QUERY).await? == "f", "it has other rights");
    let seen = session.rows("set role rewinder; select * from pg_authid", QUERY).await;
    ensure!(seen.is_err(), "it reads passwords by SQL");
    Ok(())
}

/// The oldest PostgreSQL with `pg_rewind` that tests run.
#[test]
fn a_new_cluster_has_a_user_for_rewinds() {
    on_prepared(plan().major(13), async |cluster| {
        give_to_keepers(cluster)?;
        cluster.start_services()?;
        is_up(cluster).await?;
        is_rewound_by_the_user(cluster).await
    });
}

/// By the commands of docs/security.md.
#[test]
fn a_cluster_that_exists_is_given_a_user_for_rewinds() {
    on_prepared(plan(), async |cluster| {
        cluster.start_services()?;
        is_up(cluster).await?;
        let page = include_str!("../../../docs/security.md");
        let (_, commands) = page.split_once("```sql\n").context("the commands of the page")?;
        let (commands, _) = commands.split_once("```").context("their end")?;
        cluster.session().await?.rows(commands, QUERY).await?;
        give_to_keepers(cluster)?;
        for keeper in ["keeper1", "keeper2"] {
            cluster.stop_service(keeper).await?;
            cluster.start_service(keeper)?;
            is_up(cluster).await?;
        }
        is_rewound_by_the_user(cluster).await
    });
}
