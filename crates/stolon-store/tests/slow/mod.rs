//! A store far away: what is asked of it costs one round trip each, and nothing that is known is asked again.

use std::time::Duration;

use stolon_model::{KeeperReport, KeeperUid, ProxyReport, SentinelUid};
use stolon_store::{BootInstant, ClusterStore, Expected, KvClusterStore, KvStore};
use stolon_testkit::SlowRoad;

use super::suite::{document, within};

/// So long that nothing is renewed while requests are counted.
const TTL: Duration = Duration::from_secs(240);

/// What a store costs.
#[derive(Clone, Copy)]
pub struct Prices {
    /// A report that also reads the document.
    pub report: u64,
    /// To hear of each change: the next question, where the store answers one with one change.
    pub news: u64,
    /// While a leader holds its leadership for longer than a lease.
    pub holding: u64,
}

/// Requests that one more piece of work has cost.
struct Bill<'a, S> {
    store: &'a KvClusterStore<S>,
    before: u64,
}

impl<S: KvStore> Bill<'_, S> {
    fn new(store: &KvClusterStore<S>) -> Bill<'_, S> {
        Bill { store, before: store.requests() }
    }

    /// `news`: how many of them may be questions for news.
    #[track_caller]
    fn is(&self, requests: u64, news: u64, what: &str) {
        let spent = self.store.requests() - self.before;
        assert!((requests..=requests + news).contains(&spent), "{what}: {spent} requests");
    }
}

/// Each piece of work costs what the prices say.
pub async fn everything_costs_one_round_trip<S: KvStore>(
    port: u16,
    prices: Prices,
    cluster: impl Fn(&str) -> KvClusterStore<S>,
) {
    let endpoint = format!("http://127.0.0.1:{port}");
    for milliseconds in [100, 200, 300, 500] {
        let road = SlowRoad::to(port, Duration::from_millis(milliseconds)).await.expect("a road");
        let (near, far) = (cluster(&endpoint), cluster(&road.endpoint()));
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
        bill.is(prices.report, prices.news, "a check");
        assert!(seen.as_of >= before, "it is as of the report");
        assert_eq!(seen.value.expect("there").value, document(&uid));
        let bill = Bill::new(&far);
        let keeper = KeeperReport { uid: "k".into(), ..KeeperReport::default() };
        far.put_keeper_report(&keeper, TTL).await.expect("report");
        bill.is(prices.report, 0, "a report");

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
        bill.is(0, prices.news, "a change");
        let seen = feed.at_most(Duration::ZERO).await.expect("a question").value.expect("there");
        bill.is(1, prices.news, "a question");
        let expected = Expected::Revision(seen.revision);
        far.compare_and_put_cluster_document(&document("decided"), expected).await.expect("write");
        bill.is(2, 2 * prices.news, "a decision");
        far.remove_keeper_report(&KeeperUid::from("k")).await.expect("remove");
        far.remove_proxy_report(&proxy.uid).await.expect("remove");
    }
}

/// Winning costs what it costs; holding costs one request a while, and a candidate that waits asks nothing at all.
pub async fn leadership_is_kept_from_afar<S: KvStore>(
    port: u16,
    prices: Prices,
    cluster: impl Fn(&str) -> KvClusterStore<S>,
) {
    let road = SlowRoad::to(port, Duration::from_millis(500)).await.expect("a road");
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
    // Renewed now and then, and the lock looked at once more since a candidate came.
    held.is(0, prices.holding, "holding");
    waited.is(0, 2, "waiting");
    leadership.resign().await;
    within("the second after a resignation", waiting.elected()).await;
}
