//! Watches: wake after a change, coalesced.

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::Changes;

/// Wakes its owner after changes. Dropping it ends the watching.
pub struct Watch {
    changes: watch::Receiver<u64>,
    _watching: Option<AbortOnDropHandle<()>>,
}

/// The other end of a [`Watch`].
#[derive(Clone)]
pub struct Waker {
    changes: watch::Sender<u64>,
}

impl Waker {
    /// Wake the owner of the watch, now or when it next looks.
    pub fn wake(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// True once the watch was dropped.
    pub fn is_abandoned(&self) -> bool {
        self.changes.is_closed()
    }
}

impl Watch {
    /// A watch, and what wakes it.
    pub fn new() -> (Waker, Watch) {
        let (changes, receiver) = watch::channel(0);
        (Waker { changes }, Watch { changes: receiver, _watching: None })
    }

    /// A watch that is woken by a task, which ends with it. Call inside a tokio runtime.
    pub fn by_task<F, W>(watching: W) -> Watch
    where
        W: FnOnce(Waker) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let (waker, mut watch) = Watch::new();
        watch._watching = Some(AbortOnDropHandle::new(tokio::spawn(watching(waker))));
        watch
    }

    /// A watch that is woken by any of these. Call inside a tokio runtime.
    pub fn of_any(sources: Vec<Changes>) -> Watch {
        Watch::by_task(|waker| async move {
            let mut listening = JoinSet::new();
            for mut changes in sources {
                let waker = waker.clone();
                listening.spawn(async move {
                    loop {
                        changes.next().await;
                        waker.wake();
                    }
                });
            }
            while listening.join_next().await.is_some() {}
        })
    }

    /// Whether something happened since the last return; does not wait.
    pub fn take(&mut self) -> bool {
        let changed = self.changes.has_changed().unwrap_or(false);
        self.changes.mark_unchanged();
        changed
    }

    /// Returns after a change that happened since the last return (or since the watch was made).
    ///
    /// Several changes may give one return, and a return may come without a change, as at the moment when the
    /// connection breaks. While the store cannot be reached nothing wakes, so the caller needs a timer of its own. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
