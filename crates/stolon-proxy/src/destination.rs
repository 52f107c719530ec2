//! The destination of connections, and the deadline of forwarding.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use stolon_runtime::BootInstant;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A primary that clients are sent to, with everything that goes there.
#[derive(Debug)]
pub(crate) struct Destination {
    /// The address of the primary.
    pub address: SocketAddr,
    /// Cancelled: every connection ends as soon as it is idle.
    pub ending: CancellationToken,
    /// Cancelled: every connection is reset at once.
    pub closed: CancellationToken,
    /// The tasks of the connections.
    pub connections: TaskTracker,
    /// True while connecting fails, so that only the first failure is a line in the log.
    pub unreachable: AtomicBool,
    /// Milliseconds since boot.
    deadline: AtomicU64,
    moved: Notify,
}

impl Destination {
    pub fn new(address: SocketAddr, deadline: BootInstant) -> Self {
        Destination {
            address,
            ending: CancellationToken::new(),
            closed: CancellationToken::new(),
            connections: TaskTracker::new(),
            unreachable: AtomicBool::new(false),
            deadline: AtomicU64::new(deadline.milliseconds()),
            moved: Notify::new(),
        }
    }

    /// True once nothing may be forwarded any more. Cheap enough to be asked before each write.
    pub fn is_over(&self) -> bool {
        BootInstant::now().milliseconds() >= self.deadline.load(Ordering::Relaxed)
    }

    /// Set the moment at which forwarding ends.
    pub fn set_deadline(&self, deadline: BootInstant) {
        self.deadline.store(deadline.milliseconds(), Ordering::Relaxed);
        self.moved.notify_one();
    }

    /// End every connection: where it is idle within `grace`, never beyond the deadline, the others then. Returns when all have ended.
    pub async fn end(&self, grace: Duration) {
        self.connections.close();
        self.ending.cancel();
        if !grace.is_zero() {
            tokio::select! {
                () = self.connections.wait() => {}
                () = self.over() => {}
                () = tokio::time::sleep(grace) => {}
            }
        }
        self.closed.cancel();
        self.connections.wait().await;
    }

    /// Returns when the deadline has come.
    async fn over(&self) {
        while !self.is_over() {
            let deadline = BootInstant::from_milliseconds(self.deadline.load(Ordering::Relaxed));
            tokio::select! {
                () = tokio::time::sleep(deadline.remaining()) => {}
                () = self.moved.notified() => {}
            }
        }
    }
}

/// Closes a destination when its deadline comes, independently of the loop that moves the deadline.
pub(crate) async fn enforce_deadlines(mut route: watch::Receiver<Option<Arc<Destination>>>) {
    loop {
        let open = route.borrow_and_update().clone();
        let over = async {
            match open {
                Some(destination) if !destination.closed.is_cancelled() => {
                    destination.over().await;
                    destination.closed.cancel();
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {
                if route.changed().await.is_err() {
                    return;
                }
            }
            changed = route.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}
