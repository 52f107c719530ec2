//! A standby that is told to receive nothing, on the real PostgreSQL.

#![allow(clippy::unwrap_used)]

mod support;

use stolon_core::keeper::{Config, ConfigMerge, Intake};
use stolon_model::Lsn;
use support::*;

/// Told to stream from nobody.
fn stopped(of: &Instance, upstream: &Instance) -> Config {
    let mut files = of.standby_files(upstream, &[]);
    files.recovery.upstream = None;
    files.recovery.parameters.remove("primary_slot_name");
    files
}

async fn reload(instance: &Instance, files: &Config) {
    instance.postgres.write_config(files, ConfigMerge::Replace, &limit()).await.unwrap();
    assert_eq!(instance.postgres.reload(&limit()).await.unwrap(), []);
}

async fn position(instance: &Instance) -> Lsn {
    instance.postgres.sample(&limit()).await.unwrap().lsn
}

/// Where the standby ends, once it says that nothing can come any more.
async fn end(instance: &Instance) -> Lsn {
    eventually("nothing coming any more", || async {
        instance.postgres.sample(&limit()).await.is_ok_and(|look| look.intake == Intake::Shut)
    })
    .await;
    position(instance).await
}

instance_test!(a_standby_that_is_told_to_receive_nothing_says_where_it_ends_also_after_a_start, || async {
    let a = Instance::new("a", &Passwords::default());
    let b = Instance::new("b", &Passwords::default());
    a.create(&[]).await;
    a.run("CREATE TABLE t AS SELECT 1 AS x").await;
    a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    b.follow(&a, &[]).await;
    let caught_up = || async { position(&b).await >= position(&a).await };
    eventually("the standby catching up", caught_up).await;
    let look = b.postgres.sample(&limit()).await.unwrap();
    assert_eq!(look.intake, Intake::Open, "it streams");
    assert_eq!(a.postgres.sample(&limit()).await.unwrap().intake, Intake::Open, "a primary");

    let before = position(&a).await;
    reload(&b, &stopped(&b, &a)).await;
    let there = end(&b).await;
    assert!(there >= before, "{there} has {before}");
    a.run("INSERT INTO t SELECT generate_series(1, 1000)").await;
    assert!(position(&a).await > there);
    assert_eq!(end(&b).await, there, "nothing came");

    // A server that was started tells what it holds once it has read all of it.
    b.stop().await;
    b.start(&stopped(&b, &a)).await;
    assert_eq!(end(&b).await, there);
    b.crash().await;
    b.start(&stopped(&b, &a)).await;
    assert_eq!(end(&b).await, there);

    reload(&b, &b.standby_files(&a, &[])).await;
    eventually("the standby following again", caught_up).await;
    assert_eq!(b.postgres.sample(&limit()).await.unwrap().intake, Intake::Open);
    a.stop().await;
    b.stop().await;
});
