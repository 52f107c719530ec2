//! A store that is killed, paused and restarted while it is used.

use std::time::{Duration, Instant};

use stolon_model::SentinelUid;
use stolon_store::{ClusterStore, Expected, KvClusterStore, KvStore, StoreError, WatchScope};

use super::away::learns_that_the_store_is_away;
use super::suite::{document, within};

/// A server that tests do these things to.
pub trait Server {
    /// Freeze it.
    fn pause(&self);
    /// Let it go on.
    fn resume(&self);
    /// Kill it.
    fn kill(&mut self);
    /// Start it again, until it answers.
    async fn restart(&mut self);
}

/// The document is read, within some time after the store came back.
async fn sees<S: KvStore>(store: &KvClusterStore<S>, uid: &str) {
    within(&format!("the document {uid}"), async {
        loop {
            match store.cluster_document().await {
                Ok(Some(read)) if read.value == document(uid) => return,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
}

/// What was written around a restart is seen by whoever watches.
pub async fn a_watch_does_not_sleep_through_a_restart<S: KvStore>(
    server: &mut impl Server,
    connect: impl Fn(Duration) -> KvClusterStore<S>,
) {
    let (store, writer) = (connect(Duration::from_secs(10)), connect(Duration::from_secs(10)));
    let mut watch = store.watch(WatchScope::ClusterData);
    let mut feed = store.follow_document();
    for round in 0..3 {
        let uid = format!("u{round}");
        within("a write", async { while writer.put_cluster_document(&document(&uid)).await.is_err() {} })
            .await;
        within(&format!("a wake after {uid}"), async {
            loop {
                watch.changed().await;
                if let Ok(Some(read)) = store.cluster_document().await
                    && read.value == document(&uid)
                {
                    return;
                }
            }
        })
        .await;
        within(&format!("the news of {uid}"), async {
            let told = |feed: &stolon_store::DocumentFeed| {
                feed.latest().and_then(Result::ok).and_then(|seen| seen.value)
            };
            while told(&feed).map(|read| read.value) != Some(document(&uid)) {
                feed.changed().await;
            }
        })
        .await;
        server.kill();
        learns_that_the_store_is_away(&mut feed).await;
        server.restart().await;
    }
}

/// Every call ends in its time, and says whether the write may have happened.
pub async fn every_call_ends_while_it_is_paused_or_dead<S: KvStore>(
    server: &mut impl Server,
    connect: impl Fn(Duration) -> KvClusterStore<S>,
) {
    let store = connect(Duration::from_secs(1));
    let elsewhere =
        |error: &StoreError| matches!(error, StoreError::Timeout { .. } | StoreError::Unreachable { .. });
    within("the first write", async { while store.put_cluster_document(&document("a")).await.is_err() {} })
        .await;
    let read = within("the first read", async {
        loop {
            if let Ok(Some(read)) = store.cluster_document().await {
                return read;
            }
        }
    })
    .await;
    server.pause();
    let begun = Instant::now();
    let expected = Expected::Revision(read.revision);
    let error = store.compare_and_put_cluster_document(&document("b"), expected).await.expect_err("paused");
    assert!(matches!(error, StoreError::Unknown { .. }), "the write was sent: {error:?}");
    let error = store.cluster_document().await.expect_err("paused");
    assert!(elsewhere(&error), "{error:?}");
    let error = store.put_cluster_document(&document("c")).await.expect_err("paused");
    assert!(elsewhere(&error), "over no connection nothing is sent: {error:?}");
    let error = store.leader().await.expect_err("paused");
    assert!(elsewhere(&error), "{error:?}");
    // Four calls of one second; the bound only says that none of them hangs.
    assert!(begun.elapsed() < Duration::from_secs(30));
    server.resume();
    within("an answer after the pause", async { while store.cluster_document().await.is_err() {} }).await;

    server.kill();
    let error = store.cluster_document().await.expect_err("dead");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(stolon_model::Advise::hint(&error).is_some(), "{error}");
    let error = store.put_cluster_document(&document("d")).await.expect_err("dead");
    assert!(matches!(error, StoreError::Unreachable { .. }), "nothing was sent: {error:?}");
    server.restart().await;
    within("a write after the restart", async {
        while store.put_cluster_document(&document("e")).await.is_err() {}
    })
    .await;
    sees(&store, "e").await;
}

/// A leader that cannot reach the store stops in time, and takes part again when the store is back, although its old lock may
/// still be there.
pub async fn a_leader_cut_off_knows_and_comes_back<S: KvStore>(
    server: &mut impl Server,
    lease: Duration,
    connect: impl Fn(Duration) -> KvClusterStore<S>,
) {
    let store = connect(Duration::from_secs(2));
    let mut campaign = store.campaign(SentinelUid::from("first"));
    let leadership = within("leadership", campaign.elected()).await;
    let paused = Instant::now();
    server.pause();
    within("the loss", leadership.lost()).await;
    let known_after = paused.elapsed();
    assert!(!leadership.is_held() && known_after < lease, "known after {known_after:?}");
    server.resume();
    drop(leadership);
    let leadership = within("leadership again", campaign.elected()).await;
    assert!(leadership.is_held());
    assert_eq!(store.leader().await.expect("leader"), Some("first".into()));
    server.kill();
    within("the loss", leadership.lost()).await;
    server.restart().await;
    let back = Instant::now();
    drop(leadership);
    let leadership = within("leadership after a restart", campaign.elected()).await;
    assert!(leadership.is_held());
    // As quickly as a campaign tries again, not as slowly as a lease ends.
    assert!(back.elapsed() < lease, "{:?}", back.elapsed());
}

/// A short outage takes no leadership away, and a lock that somebody removes does.
pub async fn leadership_survives_a_restart_and_ends_when_its_key_is_removed<S: KvStore>(
    server: &mut impl Server,
    cluster: &str,
    connect: impl Fn(Duration) -> KvClusterStore<S>,
) {
    let store = connect(Duration::from_secs(2));
    let mut campaign = store.campaign(SentinelUid::from("first"));
    let leadership = within("leadership", campaign.elected()).await;
    server.kill();
    server.restart().await;
    assert!(leadership.is_held());
    within("the same leader", async { while store.leader().await.ok().flatten() != Some("first".into()) {} })
        .await;
    let key = stolon_store::Key::new(cluster).child("sentinel-leader");
    within("the removal", async { while store.kv().delete(&key).await.is_err() {} }).await;
    within("the loss", leadership.lost()).await;
}
