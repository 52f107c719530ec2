//! SQLite blocks, the programs must not: one thread of its own runs every operation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::database::Database;
use super::location::Location;
use crate::StoreError;

/// How many operations may wait for the thread. More mean that the disk has stopped answering.
const QUEUE: usize = 256;
/// How long before its caller SQLite gives up waiting for a lock, so that the answer is a definite one.
const HEADROOM: Duration = Duration::from_millis(50);
/// SQLite keeps its own large buffers on the heap.
const STACK: usize = 512 * 1024;

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const WITHDRAWN: u8 = 2;

/// What a missing answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing can have changed.
    Reads,
    /// The change may have been made, or may yet be.
    Writes,
}

type Work = Box<dyn FnOnce(&mut Opener) + Send>;

/// The way to the thread. It ends when the last of these is dropped and its work is done.
#[derive(Clone)]
pub struct Worker {
    queue: mpsc::SyncSender<Work>,
    requests: Arc<AtomicU64>,
    timeout: Duration,
}

/// What becomes of a store whose file does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It is made.
    Made,
    /// It is an error: whoever only asks would hide a mistyped path by an empty store.
    Refused,
}

/// Opens the file when it is first needed, and again when it was replaced.
struct Opener {
    location: Location,
    absent: Absent,
    database: Option<Database>,
}

impl Opener {
    fn database(&mut self, deadline: Instant) -> Result<&mut Database, StoreError> {
        let wait = deadline.saturating_duration_since(Instant::now()).saturating_sub(HEADROOM);
        if self.database.as_ref().is_some_and(|database| !database.is_current()) {
            tracing::warn!(file = %self.location.file.display(), "the file of the store was removed or replaced, opening it anew");
            self.database = None;
        }
        let database = match self.database.take() {
            Some(database) => database,
            None if self.absent == Absent::Refused && !self.location.exists() => {
                return Err(StoreError::configuration(
                    format!("there is no store in {}: the file does not exist", self.location.file.display()),
                    "--store-endpoints names the file; stolonctl init makes it, and a cluster in it",
                ));
            }
            None => Database::open(&self.location, wait)?,
        };
        let database = self.database.insert(database);
        database.wait_at_most(wait)?;
        Ok(database)
    }
}

impl Worker {
    /// Start the thread. The file is opened by the first operation.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(location: Location, absent: Absent, timeout: Duration) -> Result<Self, StoreError> {
        let (queue, work) = mpsc::sync_channel::<Work>(QUEUE);
        let mut opener = Opener { location, absent, database: None };
        std::thread::Builder::new()
            .name("store".to_owned())
            .stack_size(STACK)
            .spawn(move || work.iter().for_each(|work| work(&mut opener)))
            .map_err(|error| {
                StoreError::configuration(
                    format!("cannot start a thread for the store: {error}"),
                    "raise the limit of processes (ulimit -u)",
                )
            })?;
        Ok(Worker { queue, requests: Arc::default(), timeout })
    }

    /// Operations asked for so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Run `work` on the thread, and wait for it no longer than the store timeout.
    pub async fn run<T: Send + 'static>(
        &self,
        operation: &str,
        effect: Effect,
        work: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let timed_out = |cause: &str| StoreError::Timeout {
            operation: operation.to_owned(),
            timeout: self.timeout,
            cause: cause.to_owned(),
        };
        let deadline = Instant::now() + self.timeout;
        let state = Arc::new(AtomicU8::new(WAITING));
        let (answer, answered) = oneshot::channel();
        let job: Work = {
            let state = Arc::clone(&state);
            Box::new(move |opener: &mut Opener| {
                if state.compare_exchange(WAITING, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    let _ = answer.send(opener.database(deadline).and_then(work));
                }
            })
        };
        self.queue
            .try_send(job)
            .map_err(|_| timed_out("its disk does not answer, too many operations wait"))?;
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(Err(StoreError::Timeout { cause, .. }))) => Err(timed_out(&cause)),
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::Unknown {
                operation: operation.to_owned(),
                cause: "the thread of the store has ended".to_owned(),
            }),
            Err(_) => {
                let withdrawn =
                    state.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire);
                match (withdrawn, effect) {
                    (Ok(_), _) => {
                        Err(timed_out("earlier operations have not ended, its disk may be hanging"))
                    }
                    (Err(_), Effect::Reads) => Err(timed_out("its disk may be hanging")),
                    (Err(_), Effect::Writes) => Err(StoreError::Unknown {
                        operation: operation.to_owned(),
                        cause: "it has not ended in time, the disk of the store may be hanging".to_owned(),
                    }),
                }
            }
        }
    }

    /// Run `work` on the thread at some time, without waiting. For tidying up.
    pub fn run_later(&self, work: impl FnOnce(&mut Database) -> Result<(), StoreError> + Send + 'static) {
        let deadline = Instant::now() + self.timeout;
        let job: Work = Box::new(move |opener: &mut Opener| {
            if let Err(error) = opener.database(deadline).and_then(work) {
                tracing::debug!(%error, "tidying up the store failed");
            }
        });
        if self.queue.try_send(job).is_err() {
            tracing::debug!("tidying up the store was skipped: too many operations wait");
        }
    }
}
