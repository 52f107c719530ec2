//! Where connections go, and until when they may.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use stolon_core::proxy::PrimaryAddress;
use stolon_runtime::BootInstant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A primary that clients are sent to, with everything that goes there.
#[derive(Debug)]
pub(crate) struct Destination {
    /// As the cluster data has it.
    pub name: PrimaryAddress,
    /// What it was resolved to.
    pub address: SocketAddr,
    /// Cancelled: every connection is reset at once.
    pub closed: CancellationToken,
    /// The tasks of its connections.
    pub connections: TaskTracker,
    /// True while connecting fails, so that only the first failure is a line in the log.
    pub unreachable: AtomicBool,
    /// Milliseconds since boot.
    deadline: AtomicU64,
}

impl Destination {
    pub fn new(name: PrimaryAddress, address: SocketAddr, deadline: BootInstant) -> Self {
        Destination {
            name,
            address,
            closed: CancellationToken::new(),
            connections: TaskTracker::new(),
            unreachable: AtomicBool::new(false),
            deadline: AtomicU64::new(deadline.milliseconds()),
        }
    }

    /// True once nothing may be forwarded any more. Cheap: asked before each write.
    pub fn is_over(&self) -> bool {
        BootInstant::now().milliseconds() >= self.deadline.load(Ordering::Relaxed)
    }

    /// A good check: forwarding may go on until then.
    pub fn set_deadline(&self, deadline: BootInstant) {
        self.deadline.store(deadline.milliseconds(), Ordering::Relaxed);
    }
}
