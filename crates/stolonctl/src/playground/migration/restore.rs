//! The way by `initMode` `pitr`: a copy of a server that does not write, restored into a cluster of its own from the beginning.

use serde_json::json;

use super::checks::{Checks, Fingerprint};
use super::legacy::Legacy;
use super::progress::Progress;
use super::steps::{self, Steps};
use super::{
    Args, LIMIT, check_settings, clients, failover, legacy, start_legacy, start_programs,
    timings_and_parameters, until_streaming, within,
};
use crate::playground::live::{Playground, until_writable};

/// Copy, check, and lose the primary.
///
/// # Errors
/// A step could not be done at all.
pub async fn migrate(
    playground: &mut Playground,
    args: &Args,
    checks: &mut Checks,
    running: &mut Option<Legacy>,
) -> anyhow::Result<()> {
    let mut steps = Steps::new(&playground.layout.logs());
    let (legacy, before) = start_legacy(playground, args, &mut steps, running).await?;
    start_programs(playground, &mut steps).await?;
    initialise(playground, args, legacy, &mut steps).await?;

    steps.begin("copying");
    let target = playground.proxy_target();
    let mut progress = Progress::new();
    let copied = progress.follow(&playground.store, until_writable(&target));
    within(LIMIT, "the database to take writes", copied).await?;
    steps.end("the database takes writes through the proxy");

    steps.begin("comparing row counts and checksums through the proxy");
    let application = target.database(legacy::DATABASE);
    before.compare(&Fingerprint::take(&application).await?, "after the copy", checks);
    check_settings(&application, args, checks).await?;
    steps.end("done");
    let standbys = usize::from(playground.args.keepers) - 1;
    steps.begin("second keeper");
    let streaming = progress.follow(&playground.store, until_streaming(&target, standbys));
    let streaming = within(LIMIT, "the standbys to stream", streaming).await;
    checks.await_end("second keeper", "streams from the primary", streaming)?;
    steps.end(&format!("{standbys} streaming"));

    failover::make_synchronous(playground, &mut steps).await?;
    let writing = clients(vec![target]).start().await?;
    let old = failover::lose_primary(playground, writing, checks, &mut steps).await?;
    failover::compare_once_more(playground, &before, old, checks, &mut steps).await
}

/// `stolonctl init` and `stolonctl update --patch`, as the documentation gives them.
async fn initialise(
    playground: &mut Playground,
    args: &Args,
    legacy: &Legacy,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    let port = legacy.server.port.to_string();
    let spec = json!({
        "initMode": "pitr",
        "pitrConfig": {
            "dataRestoreCommand": format!(
                "PGPASSWORD={} {} -D %d -P -h 127.0.0.1 -p {port} -U stolon -X stream --checkpoint=fast",
                playground.layout.credentials.superuser_password,
                playground.layout.pg_bin.join("pg_basebackup").display(),
            ),
            "archiveRecoverySettings": { "restoreCommand": "echo 1" },
        },
    });
    steps.begin("stolonctl init --yes '{\"initMode\":\"pitr\",\"pitrConfig\":{\"dataRestoreCommand\":\"… pg_basebackup …\"}}'");
    steps::stolonctl(&playground.layout, &["init", "--yes", &spec.to_string()]).await?;
    steps.end("done");

    let mut patch = timings_and_parameters(args);
    patch["usePgrewind"] = json!(true);
    steps.begin(&format!("stolonctl update --patch '{patch}'"));
    steps::stolonctl(&playground.layout, &["update", "--patch", &patch.to_string()]).await?;
    steps.end("done");
    Ok(())
}
