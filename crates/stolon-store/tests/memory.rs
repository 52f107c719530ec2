//! The store in memory keeps the contract.

mod suite;

use stolon_store::MemoryStore;

#[tokio::test]
async fn conformance() {
    let store = MemoryStore::new();
    suite::run(|| store.another_client()).await;
}
