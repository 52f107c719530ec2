//! Waiting for what other programs do.

use std::time::Duration;

use tokio::time::Instant;

/// What a look has shown.
pub enum Seen<T, E = anyhow::Error> {
    /// It is there.
    Done(T),
    /// Not yet; and what to say of it if the time is over.
    NotYet(E),
}

impl<T, E> Seen<T, E> {
    /// Not yet, and why.
    pub fn not_yet(why: impl Into<E>) -> Seen<T, E> {
        Seen::NotYet(why.into())
    }
}

/// Look again and again, with pauses, until it is there.
///
/// # Errors
/// A look fails, or the last one before the deadline has not shown it.
pub async fn until<T, E>(
    pause: Duration,
    deadline: Instant,
    mut look: impl AsyncFnMut() -> Result<Seen<T, E>, E>,
) -> Result<T, E> {
    loop {
        match look().await? {
            Seen::Done(found) => return Ok(found),
            Seen::NotYet(why) if Instant::now() >= deadline => return Err(why),
            Seen::NotYet(_) => tokio::time::sleep(pause).await,
        }
    }
}
