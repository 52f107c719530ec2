//! Orphans: when a keeper is killed, its PostgreSQL becomes somebody else's child. In a container that is often a
//! first process that never waits for its children; a dead postmaster then stays a zombie, which PostgreSQL takes
//! for a running server, and refuses to start. So this process adopts orphans and waits for them.

use std::collections::BTreeSet;
use std::process::{Output, Stdio};

use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Children that somebody waits for already.
static OURS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Adopt what programs below us leave behind, for as long as this runtime runs. Call inside a tokio runtime.
pub fn adopt_orphans() {
    // If the kernel refuses, orphans are adopted by the first process, as before.
    let (Ok(()), Ok(mut ended)) = (set_child_subreaper(Some(getpid())), signal(SignalKind::child())) else {
        return;
    };
    tokio::spawn(async move {
        while ended.recv().await.is_some() {
            reap();
        }
    });
}

/// Note a child that somebody waits for.
pub(crate) fn is_ours(pid: Pid) {
    OURS.lock().insert(pid.as_raw_nonzero().get());
}

/// Forget a child that was waited for: its process id may be used again.
pub(crate) fn is_no_more(pid: Pid) {
    OURS.lock().remove(&pid.as_raw_nonzero().get());
}

/// Run a program to its end that is PostgreSQL, or becomes it, and that nobody but us waits for.
///
/// # Errors
/// It cannot be run.
pub(crate) async fn output(mut command: Command) -> std::io::Result<Output> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    pid.into_iter().for_each(is_ours);
    let output = child.wait_with_output().await;
    pid.into_iter().for_each(is_no_more);
    output
}

/// Only PostgreSQL is left behind, and what we start ourselves is either registered or no PostgreSQL.
fn reap() {
    for pid in crate::tree::zombies("postgres") {
        let raw = pid.as_raw_nonzero().get();
        if !OURS.lock().contains(&raw) {
            // Somebody else may have waited for it first.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}
