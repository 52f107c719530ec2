//! How whoever uses a store learns that it is gone.

use std::time::Duration;

use stolon_store::DocumentFeed;

use super::suite::within;

/// The end of the watch is news, and from then on what is known is not good enough, however young it is.
pub async fn learns_that_the_store_is_away(feed: &mut DocumentFeed) {
    within("the news that the store is away", async {
        while feed.at_most(Duration::from_secs(600)).await.is_ok() {
            feed.changed().await;
        }
    })
    .await;
}
