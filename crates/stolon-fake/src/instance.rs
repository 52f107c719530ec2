use std::cell::{Ref, RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use stolon_core::keeper::{Data, FailureKind, Instance, Look, Progress, Step, StepOutcome};

use crate::postgres::{FakePostgres, failed};
use crate::word;

/// The word of a look in [`FakePostgres::hanging`]. One that hangs breaks the promise of [`Instance::look`] to end in time, as a
/// kernel does that answers nothing.
pub const LOOK: &str = "look";

/// The model of one PostgreSQL, as a keeper has it in its hands. All clones are the same.
///
/// Nothing takes time: what does not hang ends when it is first polled, so that whoever polls it decides when.
#[derive(Clone, Debug)]
pub struct FakeInstance {
    postgres: Rc<RefCell<FakePostgres>>,
    waiting: Rc<RefCell<Vec<Waker>>>,
}

impl FakeInstance {
    /// A server that does not run, beside these data.
    pub fn with(data: Data) -> Self {
        FakeInstance { postgres: Rc::new(RefCell::new(FakePostgres::with(data))), waiting: Rc::default() }
    }

    /// The model, to be read.
    pub fn postgres(&self) -> Ref<'_, FakePostgres> {
        self.postgres.borrow()
    }

    /// The model, to be changed. What hung and does not any more goes on with [`FakeInstance::let_go`].
    pub fn change(&self) -> RefMut<'_, FakePostgres> {
        self.postgres.borrow_mut()
    }

    /// Nothing hangs any more.
    pub fn let_go(&self) {
        self.change().hanging.clear();
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    fn poll_hanging(&self, what: &str, waker: &Waker) -> Poll<()> {
        if !self.postgres().hangs(what) {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().push(waker.clone());
        Poll::Pending
    }
}

impl Instance for FakeInstance {
    async fn look(&self, _within: Duration) -> Look {
        poll_fn(|context| self.poll_hanging(LOOK, context.waker())).await;
        self.postgres().look()
    }

    async fn take(
        &self,
        step: Step,
        _request_timeout: Duration,
        progress: &dyn Fn(Progress),
        called_off: impl Future<Output = ()>,
    ) -> StepOutcome {
        let word = word(&step).unwrap_or_default();
        self.change().begun.push(word.clone());
        progress(Progress { bytes_done: 1, bytes_total: 2 });
        let mut called_off = pin!(called_off);
        poll_fn(|context| {
            if called_off.as_mut().poll(context).is_ready() {
                return Poll::Ready(failed(FailureKind::CalledOff, format!("{word} called off")));
            }
            self.poll_hanging(&word, context.waker()).map(|()| self.change().take(&step))
        })
        .await
    }
}
