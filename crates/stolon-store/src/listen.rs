//! Listening that outlives connections: a gap between two connections is a piece of news as well.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::News;
use crate::link::{Link, Links, Protocol};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why listening must begin again.
pub enum Ended {
    /// This connection does not work.
    Failed {
        /// What happened.
        cause: String,
        /// Whether it ever worked.
        heard: Heard,
    },
    /// The receiver was dropped.
    NobodyListens,
}

/// Whether the store had answered that it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It had.
    Something,
    /// It had not.
    Nothing,
}

/// Listen, over as many connections as it takes. `follow` listens over one; it is cancelled when that one is given up. Each end is
/// told at once.
pub async fn listen<P, F>(
    links: Arc<Links<P>>,
    news: &mpsc::Sender<News>,
    follow: impl Fn(P::Client) -> F + Send,
) where
    P: Protocol,
    F: Future<Output = Ended> + Send,
{
    let mut pause = FIRST_PAUSE;
    let mut silent = Silence::default();
    loop {
        match links.link(Instant::now() + links.timeout()).await {
            Ok(link) => {
                silent.broken();
                match follow_one(&links, &link, &follow).await {
                    None => continue,
                    Some(Ended::NobodyListens) => return,
                    Some(Ended::Failed { cause, heard }) => {
                        links.give_up(&link);
                        tracing::debug!(cause, "the watch of the store broke off, opening it again");
                        if heard == Heard::Something {
                            pause = FIRST_PAUSE;
                        }
                    }
                }
            }
            Err(cause) => silent.report(&cause, links.endpoint_count()),
        }
        if news.is_closed() {
            return;
        }
        tell_of_the_end(news);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Earlier news that wait are for a reader who finds out by reading, or who is told after the next attempt.
fn tell_of_the_end(news: &mpsc::Sender<News>) {
    if news.capacity() == news.max_capacity() {
        news.try_send(News::BrokenOff).ok();
    }
}

/// `None`: another connection is in use, or soon will be.
async fn follow_one<P, F>(
    links: &Links<P>,
    link: &Link<P::Client>,
    follow: impl Fn(P::Client) -> F,
) -> Option<Ended>
where
    P: Protocol,
    F: Future<Output = Ended>,
{
    tokio::select! {
        ended = follow(link.client.clone()) => Some(ended),
        () = links.left(link) => None,
    }
}

/// Says once that the store cannot be reached, after every endpoint had its turn; and again once a minute.
#[derive(Default)]
struct Silence {
    failures: usize,
    reported: Option<Instant>,
}

impl Silence {
    fn broken(&mut self) {
        if self.reported.is_some() {
            tracing::info!("the store is watched again");
        }
        *self = Silence::default();
    }

    fn report(&mut self, cause: &str, endpoints: usize) {
        self.failures += 1;
        let is_due = self.reported.is_none_or(|at| at.elapsed() > Duration::from_secs(60));
        if self.failures >= endpoints && is_due {
            self.reported = Some(Instant::now());
            tracing::warn!(cause, "the store cannot be watched, trying again");
        }
    }
}
