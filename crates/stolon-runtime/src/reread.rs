//! What is made from files that somebody replaces while the program runs.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::UsageError;

/// A file that takes longer lies on a disk that hangs.
const PATIENCE: Duration = Duration::from_millis(500);

/// Read anew each time that it is needed. Files that make no sense, as in the middle of their replacement, leave it as it was, and so does a disk that
/// hangs: one reading is under way at a time, and nobody waits for long.
pub(crate) struct Reread<T> {
    what: &'static str,
    read: Arc<dyn Fn() -> Result<T, UsageError> + Send + Sync>,
    state: Arc<Mutex<State<T>>>,
}

struct State<T> {
    last: Arc<T>,
    reading: Reading,
    /// Said already.
    trouble: Option<UsageError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Idle,
    UnderWay,
}

impl<T> Clone for Reread<T> {
    fn clone(&self) -> Self {
        Reread { what: self.what, read: Arc::clone(&self.read), state: Arc::clone(&self.state) }
    }
}

impl<T: Send + Sync + 'static> Reread<T> {
    /// Read for the first time. `what` begins a sentence of the log.
    ///
    /// # Errors
    /// What makes no sense.
    pub(crate) fn new(
        what: &'static str,
        read: impl Fn() -> Result<T, UsageError> + Send + Sync + 'static,
    ) -> Result<Self, UsageError> {
        let state = State { last: Arc::new(read()?), reading: Reading::Idle, trouble: None };
        Ok(Reread { what, read: Arc::new(read), state: Arc::new(Mutex::new(state)) })
    }

    pub(crate) async fn get(&self) -> Arc<T> {
        let is_free = std::mem::replace(&mut self.state.lock().reading, Reading::UnderWay) == Reading::Idle;
        if is_free {
            let this = self.clone();
            let reading = tokio::task::spawn_blocking(move || this.read());
            // Whatever became of it stands in the state.
            let _ = tokio::time::timeout(PATIENCE, reading).await;
        }
        Arc::clone(&self.state.lock().last)
    }

    fn read(&self) {
        let read = (self.read)();
        let mut state = self.state.lock();
        state.reading = Reading::Idle;
        match read {
            Ok(value) => {
                state.last = Arc::new(value);
                state.trouble = None;
            }
            Err(why) if state.trouble.as_ref() != Some(&why) => {
                tracing::warn!("{}: {}; what was read last counts", self.what, why.message);
                state.trouble = Some(why);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_makes_no_sense_leaves_it_as_it_was() {
        let next = Arc::new(Mutex::new(Ok(1)));
        let source = Arc::clone(&next);
        let reread = Reread::new("numbers", move || source.lock().clone()).unwrap();
        *next.lock() = Err(UsageError::new("half a number"));
        assert_eq!(*reread.get().await, 1);
        *next.lock() = Ok(2);
        assert_eq!(*reread.get().await, 2);
        assert!(Reread::<u8>::new("numbers", || Err(UsageError::new("none"))).is_err());
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_not_waited_for_twice() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (released, calls) = (Mutex::new(released), Arc::new(Mutex::new(0)));
        let counted = Arc::clone(&calls);
        let reread = Reread::new("numbers", move || {
            let call = {
                let mut calls = counted.lock();
                *calls += 1;
                *calls
            };
            if call == 2 {
                let _ = released.lock().recv();
            }
            Ok(call)
        })
        .unwrap();
        for _ in 0..4 {
            assert_eq!(*reread.get().await, 1);
        }
        assert_eq!(*calls.lock(), 2, "the reading that hangs is the only one");
        release.send(()).unwrap();
        let read = async {
            while *reread.get().await < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), read).await.unwrap();
    }
}
