//! What a contender for leadership does not need any more, and the store may still have: a key, or a session that holds a lock.

use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use stolon_model::Advise as _;
use tokio_util::task::TaskTracker;

use crate::StoreError;

type Ending = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// Those of one contender. They may outlive an outage of the store, and until they are ended they keep everybody out, this contender too.
#[derive(Clone)]
pub struct Leaving {
    end: Arc<dyn Fn(String) -> Ending + Send + Sync>,
    /// Those that the store may still have.
    left: Arc<Mutex<Vec<String>>>,
    tasks: TaskTracker,
}

impl Leaving {
    /// `end` ends one of them in the store.
    pub fn new<F>(end: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let end = move |one| -> Ending { Box::pin(end(one)) };
        Leaving { end: Arc::new(end), left: Arc::default(), tasks: TaskTracker::new() }
    }

    /// End all that are left.
    pub async fn end_all(&self) -> Result<(), StoreError> {
        let left = self.left.lock().clone();
        for one in left {
            (self.end)(one.clone()).await?;
            self.left.lock().retain(|other| *other != one);
        }
        Ok(())
    }

    /// A leadership is given back: `one` ends now, or before the next attempt.
    pub async fn release(&self, one: &str) {
        self.left.lock().push(one.to_owned());
        if let Err(error) = self.end_all().await {
            let error = error.explained().on_one_line();
            tracing::warn!(error, "the leadership is given back when the store can be reached again");
        }
    }

    /// A campaign is over, and nobody waits for `one` to end.
    pub fn withdraw(&self, one: &str) {
        self.left.lock().push(one.to_owned());
        let leaving = self.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let ending = async move {
                if let Err(error) = leaving.end_all().await {
                    tracing::debug!(%error, "a campaign is withdrawn when the store can be reached again");
                }
            };
            self.tasks.spawn_on(ending, &runtime);
        }
    }

    /// Until what was withdrawn has ended, or could not be.
    pub async fn withdrawn(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
