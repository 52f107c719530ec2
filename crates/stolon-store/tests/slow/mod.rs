//! A store far away: what is asked of it costs one round trip each, and nothing that is known is asked again.

use std::time::Duration;

use stolon_model::{KeeperReport, KeeperUid, ProxyReport, SentinelUid};
use stolon_store::{BootInstant, ClusterStore, EtcdStore, Expected, KvClusterStore};
use stolon_testkit::SlowRoad;
use stolon_testkit::etcd::Etcd;

use super::suite::{document, within};

const TTL: Duration = Duration::from_secs(60);

fn cluster(endpoints: &str) -> KvClusterStore<EtcdStore> {
    super::cluster(endpoints, Duration::from_secs(5))
}

/// Requests that one more piece of work has cost.
struct Bill<'a> {
    store: &'a KvClusterStore<EtcdStore>,
    before: u64,
}

impl Bill<'_> {
    fn new(store: &KvClusterStore<EtcdStore>) -> Bill<'_> {
        Bill { store, before: store.requests() }
    }

    #[track_caller]
    fn is(&self, requests: u64, what: &str) {
        assert_eq!(self.store.requests() - self.before, requests, "{what}");
    }
}

#[tokio::test]
async fn everything_costs_one_round_trip() {
    let etcd = Etcd::single().await.expect("etcd");
    for milliseconds in [100, 200, 300, 500] {
        let road =
            SlowRoad::to(etcd.client_port(0), Duration::from_millis(milliseconds)).await.expect("a road");
        let (near, far) = (cluster(&etcd.endpoints()), cluster(&road.endpoint()));
        let uid = format!("u{milliseconds}");
        near.put_cluster_document(&document(&uid)).await.expect("put");
        let mut feed = far.follow_document();
        within("the connection and the first read", async {
            while feed.latest().is_none() {
                feed.changed().await;
            }
        })
        .await;
        let proxy = ProxyReport { uid: "p".into(), ..ProxyReport::default() };
        far.put_proxy_report(&proxy, TTL).await.expect("the report that asks for the lease");

        // A check of a proxy and a report of a keeper: both know afterwards what holds.
        let (bill, before) = (Bill::new(&far), BootInstant::now());
        let found = far.publish_proxy_report(&proxy, TTL).await.expect("a report").expect("a document");
        assert_eq!(found.expect("there").value, document(&uid));
        let seen = feed.at_most(Duration::from_secs(5)).await.expect("known");
        bill.is(1, "a check");
        assert!(seen.as_of >= before, "it is as of the report");
        assert_eq!(seen.value.expect("there").value, document(&uid));
        let bill = Bill::new(&far);
        let keeper = KeeperReport { uid: "k".into(), ..KeeperReport::default() };
        far.put_keeper_report(&keeper, TTL).await.expect("report");
        bill.is(1, "a report");

        // A change is told, and costs nothing; a decision on it is one question and one write.
        let bill = Bill::new(&far);
        near.put_cluster_document(&document("told")).await.expect("put");
        within("the change", async {
            while feed.latest().and_then(Result::ok).and_then(|seen| seen.value).map(|read| read.value)
                != Some(document("told"))
            {
                feed.changed().await;
            }
        })
        .await;
        bill.is(0, "a change");
        let seen = feed.at_most(Duration::ZERO).await.expect("a question").value.expect("there");
        bill.is(1, "a question");
        let expected = Expected::Revision(seen.revision);
        far.compare_and_put_cluster_document(&document("decided"), expected).await.expect("write");
        bill.is(2, "a decision");
        far.remove_keeper_report(&KeeperUid::from("k")).await.expect("remove");
        far.remove_proxy_report(&proxy.uid).await.expect("remove");
    }
}

/// Winning costs what it costs; holding costs one request a while, and a candidate that waits asks nothing at all.
#[tokio::test]
async fn leadership_is_kept_from_afar() {
    let etcd = Etcd::single().await.expect("etcd");
    let road = SlowRoad::to(etcd.client_port(0), Duration::from_millis(500)).await.expect("a road");
    let (first, second) = (cluster(&road.endpoint()), cluster(&road.endpoint()));
    let mut campaign = first.campaign(SentinelUid::from("first"));
    let leadership = within("leadership", campaign.elected()).await;
    let mut waiting = second.campaign(SentinelUid::from("second"));
    let refused = tokio::time::timeout(Duration::from_secs(5), waiting.elected()).await;
    assert!(refused.is_err() && leadership.is_held());
    let (held, waited) = (Bill::new(&first), Bill::new(&second));
    let longer_than_a_lease = Duration::from_secs(22);
    assert!(tokio::time::timeout(longer_than_a_lease, leadership.lost()).await.is_err(), "it is not lost");
    assert!(leadership.is_held());
    // Renewed every ten seconds, and the queue looked at once more since a candidate came.
    assert!(first.requests() - held.before <= 4, "{}", first.requests() - held.before);
    assert!(second.requests() - waited.before <= 2, "{}", second.requests() - waited.before);
    leadership.resign().await;
    within("the second after a resignation", waiting.elected()).await;
}
