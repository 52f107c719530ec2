//! Leadership: who may decide. It saves work and is no guard: compare-and-put guards the documents.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stolon_model::Advise as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::{BootInstant, StoreError};

/// Pauses between attempts to take part in an election.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The shortest pause between renewals, however little of the lease is left.
const LEAST_PAUSE: Duration = Duration::from_millis(20);
/// How long a resignation is waited for; afterwards the lease runs out by itself.
const RESIGNATION: Duration = Duration::from_secs(5);

/// A contender for leadership: the part of an election that a backend implements.
#[async_trait]
pub trait Contender: Send + Sync {
    /// Returns when the election is won. Cancelling it withdraws.
    ///
    /// # Errors
    /// This attempt has ended; the next one starts from nothing.
    async fn contend(&self) -> Result<Box<dyn Tenure>, StoreError>;

    /// Returns when the store knows of every attempt that was cancelled so far.
    async fn withdrawn(&self) {}
}

/// An election that was won: what must be renewed, and given back in the end.
#[async_trait]
pub trait Tenure: Send {
    /// The moment until which nobody else can have won, with a margin.
    fn held_until(&self) -> BootInstant;

    /// When to renew next.
    fn renew_after(&self) -> Duration;

    /// Extend the lease.
    ///
    /// # Errors
    /// The store could not be asked; try again while time is left.
    async fn renew(&mut self) -> Result<Renewal, StoreError>;

    /// Give the leadership back, so that a successor can win at once.
    async fn release(&mut self);
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease was extended: [`Tenure::held_until`] is later now.
    Extended,
    /// The leadership is lost for good.
    Lost,
}

/// A running campaign. Dropping it withdraws.
pub struct Campaign {
    contender: Arc<dyn Contender>,
    attempt: Option<AbortOnDropHandle<Leadership>>,
}

impl Campaign {
    /// A campaign of this contender. It begins with the first call of [`Campaign::elected`].
    pub fn new(contender: Box<dyn Contender>) -> Self {
        Campaign { contender: contender.into(), attempt: None }
    }

    /// Returns when the election is won; call it again after the leadership has ended.
    ///
    /// Errors of the store are logged and retried with growing pauses. Cancel-safe: the campaign
    /// goes on in the background, and a leadership won meanwhile is handed out by the next call.
    pub async fn elected(&mut self) -> Leadership {
        loop {
            let contender = &self.contender;
            let attempt = self
                .attempt
                .get_or_insert_with(|| AbortOnDropHandle::new(tokio::spawn(win(Arc::clone(contender)))));
            let outcome = attempt.await;
            self.attempt = None;
            match outcome {
                Ok(leadership) if leadership.is_held() => return leadership,
                Ok(_) => tracing::info!("leadership was won and lost before it was used"),
                Err(error) => {
                    // The task panicked: nothing that a hint could help with.
                    tracing::error!(%error, "the campaign broke off, starting it again");
                    tokio::time::sleep(LONGEST_PAUSE).await;
                }
            }
        }
    }
}

impl Campaign {
    /// Withdraw, and wait (shortly) until the store knows, so that others need not wait for a lease
    /// to end. For the end of a program; a dropped campaign does the same in the background.
    pub async fn withdraw(mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.abort();
            if let Ok(leadership) = attempt.await {
                leadership.resign().await;
            }
        }
        if tokio::time::timeout(RESIGNATION, self.contender.withdrawn()).await.is_err() {
            tracing::warn!("the store was not told in time that this contender withdraws");
        }
    }
}

async fn win(contender: Arc<dyn Contender>) -> Leadership {
    let mut pause = FIRST_PAUSE;
    loop {
        match contender.contend().await {
            Ok(tenure) => return Leadership::begin(tenure),
            Err(error) => {
                tracing::warn!(
                    error = error.explained().on_one_line(),
                    ?pause,
                    "cannot take part in the election, trying again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The right to decide, until it is lost. Dropping it resigns if the store can be reached.
pub struct Leadership {
    held_until: watch::Receiver<BootInstant>,
    resigning: CancellationToken,
    keeping: Option<JoinHandle<()>>,
}

impl Leadership {
    /// Hold what was won, and keep renewing it in the background. Call inside a tokio runtime.
    fn begin(tenure: Box<dyn Tenure>) -> Self {
        let (sender, held_until) = watch::channel(tenure.held_until());
        let resigning = CancellationToken::new();
        let keeping = tokio::spawn(keep(tenure, sender, resigning.clone()));
        Leadership { held_until, resigning, keeping: Some(keeping) }
    }

    /// True while nobody else can lead. Asks the clock each time, so it is right also after the process
    /// was frozen.
    pub fn is_held(&self) -> bool {
        !self.held_until.borrow().is_past()
    }

    /// Returns when the leadership is lost. Cancel-safe.
    pub async fn lost(&self) {
        let mut held_until = self.held_until.clone();
        loop {
            let end = *held_until.borrow_and_update();
            if end.is_past() {
                return;
            }
            let ended = tokio::time::sleep(end.remaining().min(Duration::from_secs(3600)));
            tokio::select! {
                () = ended => {}
                changed = held_until.changed() => if changed.is_err() && *held_until.borrow() == end {
                    return; // it is not renewed any more
                },
            }
        }
    }

    /// Give the leadership back, and wait (shortly) until the store knows.
    pub async fn resign(mut self) {
        self.resigning.cancel();
        if let Some(keeping) = self.keeping.take()
            && tokio::time::timeout(RESIGNATION, keeping).await.is_err()
        {
            tracing::warn!(
                "the store was not told of the resignation in time; a successor must wait for the lease to end"
            );
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.resigning.cancel();
    }
}

/// Renew until told to stop or until it is lost, then give back.
async fn keep(
    mut tenure: Box<dyn Tenure>,
    held_until: watch::Sender<BootInstant>,
    resigning: CancellationToken,
) {
    let mut pause = tenure.renew_after();
    loop {
        // An election can be won with little of the lease left: there must be time for a renewal, and for another attempt at it. A pause
        // of half of what is left costs a leader with a whole lease no more renewals than its own pace.
        let left = tenure.held_until().remaining();
        let pause_now = pause.min(left / 2).max(LEAST_PAUSE).min(left);
        tokio::select! {
            () = resigning.cancelled() => break,
            () = tokio::time::sleep(pause_now) => {}
        }
        if tenure.held_until().is_past() {
            tracing::warn!("leadership is lost: it could not be renewed in time");
            break;
        }
        let renewal = tokio::select! {
            () = resigning.cancelled() => break,
            renewal = tenure.renew() => renewal,
        };
        match renewal {
            Ok(Renewal::Extended) => {
                pause = tenure.renew_after();
                held_until.send_replace(tenure.held_until());
            }
            Ok(Renewal::Lost) => {
                tracing::warn!("leadership is lost: the store no longer knows of it");
                break;
            }
            Err(error) => {
                pause = FIRST_PAUSE.max(tenure.renew_after() / 8);
                tracing::warn!(
                    error = error.explained().on_one_line(),
                    ?pause,
                    "leadership could not be renewed, trying again"
                );
            }
        }
    }
    held_until.send_replace(BootInstant::from_milliseconds(0));
    tenure.release().await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// Much shorter than what passes between two renewals usually.
    const LEASE: Duration = Duration::from_millis(900);

    /// A lease that was nearly over when the election was won. The first renewals fail.
    struct NearlyOver {
        until: BootInstant,
        failures: u32,
        renewed: mpsc::UnboundedSender<()>,
    }

    #[async_trait]
    impl Tenure for NearlyOver {
        fn held_until(&self) -> BootInstant {
            self.until
        }

        fn renew_after(&self) -> Duration {
            Duration::from_secs(5)
        }

        async fn renew(&mut self) -> Result<Renewal, StoreError> {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(StoreError::Conflict);
            }
            self.until = BootInstant::now() + LEASE;
            self.renewed.send(()).unwrap();
            Ok(Renewal::Extended)
        }

        async fn release(&mut self) {}
    }

    #[tokio::test]
    async fn a_lease_of_which_little_is_left_is_renewed_before_it_ends() {
        for failures in [0, 1, 2] {
            let (renewed, mut renewals) = mpsc::unbounded_channel();
            let until = BootInstant::now() + LEASE;
            let leadership = Leadership::begin(Box::new(NearlyOver { until, failures, renewed }));
            for renewal in 1..=3 {
                tokio::select! {
                    Some(()) = renewals.recv() => {}
                    () = leadership.lost() => panic!("lost before renewal {renewal}, after {failures} failures"),
                }
            }
            assert!(leadership.is_held());
            leadership.resign().await;
        }
    }
}
