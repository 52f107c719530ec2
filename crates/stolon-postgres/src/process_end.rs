//! The end of a process, be it a child of ours or not.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process_table::Held;

/// Between looks at a process that cannot be held by a descriptor.
const POLL: Duration = Duration::from_millis(100);

/// Returns when the process with this number has ended, at once if there is none.
pub async fn end_of_process(process: u32) {
    if let Some(process) = Held::of(process) {
        process.ended().await;
    }
}

impl Held {
    /// Returns when it has ended, whether or not its parent has noticed.
    pub(crate) async fn ended(&self) {
        if let Some(descriptor) = self.descriptor()
            && is_over(descriptor).await
        {
            return;
        }
        self.poll_end().await;
    }

    /// The same where the kernel is older than 5.3, or a filter of system calls refuses a descriptor.
    async fn poll_end(&self) {
        while !self.is_over() {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Waits for the end of the process behind a pidfd; false where that cannot be waited for.
async fn is_over(descriptor: OwnedFd) -> bool {
    match when_readable(descriptor) {
        Ok(descriptor) => descriptor.readable().await.is_ok(),
        Err(_) => false,
    }
}

#[allow(
    deprecated,
    reason = "what takes its place is unsafe; a descriptor that is owned closes nobody else's"
)]
fn when_readable(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_end_of_a_process_is_told() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let held = Held::of(child.id()).unwrap();
        let mut ends = Box::pin(async { tokio::join!(end_of_process(child.id()), held.ended()) });
        let early = tokio::time::timeout(Duration::from_millis(50), &mut ends).await;
        assert!(early.is_err(), "it runs");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        tokio::time::timeout(LIMIT, ends).await.unwrap();
        tokio::time::timeout(LIMIT, held.ended()).await.expect("a zombie has ended, too");
        child.wait().unwrap();
        tokio::time::timeout(LIMIT, end_of_process(child.id())).await.expect("there is none");
        tokio::time::timeout(LIMIT, held.poll_end()).await.expect("it is seen without a descriptor, too");
    }
}
