//! Acknowledged writes: clients that write all the time and know what was acknowledged.
//!
//! Each client inserts single rows with numbers that nobody used before. A client knows one of three things of a row:
//! the commit was acknowledged, it certainly failed, or the outcome is unknown (the connection ended before the
//! answer, or PostgreSQL acknowledged with the warning that it stopped waiting for its standbys). Every
//! acknowledged row must be there for ever; rows of unknown outcome may be there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Session, Target};

/// How a workload writes.
#[derive(Clone, Debug)]
pub struct Writes {
    /// Addresses of the database. A client that one of them lets down goes on with the next one, as with a connection string that
    /// names several hosts.
    pub doors: Vec<Target>,
    /// Connections at once.
    pub clients: usize,
    /// Pause between two rows of a client.
    pub pause: Duration,
    /// How long one row may take before its outcome counts as unknown.
    pub limit: Duration,
}

/// What is known of the rows so far.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Rows whose commit was acknowledged.
    pub acknowledged: BTreeSet<i64>,
    /// When each acknowledgement came, in order of time.
    pub times: Vec<Instant>,
    /// Rows of unknown outcome.
    pub unknown: BTreeSet<i64>,
    /// Attempts that certainly left nothing behind.
    pub failed: u64,
    /// The last error of a client.
    pub last_failure: String,
}

/// A workload that runs.
pub struct Writing {
    ledger: Arc<Mutex<Ledger>>,
    stop: watch::Sender<bool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

/// What a database holds of what was promised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that were promised.
    pub acknowledged: usize,
    /// Promised rows that are not there.
    pub lost: Vec<i64>,
    /// Rows of unknown outcome that are there.
    pub unknown_present: usize,
    /// Rows that nobody wrote.
    pub unexpected: Vec<i64>,
    /// Rows that are there more than once; a key in the table would not let them in.
    pub doubled: Vec<i64>,
}

const TABLE: &str = "create table if not exists acknowledged_writes (id bigint primary key)";

impl Writes {
    /// Make the table through the first door, unless it is there, and start the clients. Call inside a tokio runtime.
    ///
    /// # Errors
    /// The table cannot be made.
    pub async fn start(self) -> anyhow::Result<Writing> {
        self.go_on(Ledger::default()).await
    }

    /// [`Writes::start`] for an application that has written before, perhaps to other addresses, and remembers what it was told.
    ///
    /// # Errors
    /// The same.
    pub async fn go_on(self, ledger: Ledger) -> anyhow::Result<Writing> {
        let first = self.doors.first().context("there is no address to write to")?;
        let session = first.connect(self.limit).await?;
        session.rows(TABLE, self.limit).await.context("the table of the checker cannot be made")?;
        let highest = "select coalesce(max(id), 0) from acknowledged_writes";
        let highest: i64 = session.value(highest, self.limit).await?.parse().context("no number")?;
        let (stop, stopping) = watch::channel(false);
        let ledger = Arc::new(Mutex::new(ledger));
        let writes = Arc::new(self);
        let clients = (0..writes.clients)
            .map(|client| {
                let client = Client {
                    writes: writes.clone(),
                    ledger: ledger.clone(),
                    next: highest + 1 + client as i64,
                    step: writes.clients as i64,
                    door: 0,
                };
                tokio::spawn(client.run(stopping.clone()))
            })
            .collect();
        Ok(Writing { ledger, stop, clients })
    }
}

struct Client {
    writes: Arc<Writes>,
    ledger: Arc<Mutex<Ledger>>,
    next: i64,
    step: i64,
    /// Which of the doors is tried, or written through.
    door: usize,
}

impl Client {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut session = None;
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(self.writes.pause) => {}
            }
            // Not interrupted: an outcome that could be known should be.
            if session.is_none() {
                match self.writes.doors[self.door].connect(Duration::from_secs(1)).await {
                    Ok(fresh) => session = Some(fresh),
                    Err(failure) => {
                        self.next_door();
                        let mut ledger = self.ledger.lock();
                        ledger.failed += 1;
                        ledger.last_failure = format!("{failure:#}");
                        continue;
                    }
                }
            }
            if let Some(open) = &session
                && !self.write(open).await
            {
                session = None;
                self.next_door();
            }
        }
    }

    fn next_door(&mut self) {
        self.door = (self.door + 1) % self.writes.doors.len();
    }

    /// Write one row; true when the session can go on.
    async fn write(&mut self, session: &Session) -> bool {
        let id = self.next;
        self.next += self.step;
        let sql = format!("insert into acknowledged_writes values ({id})");
        let answer = tokio::time::timeout(self.writes.limit, session.client.simple_query(&sql)).await;
        let now = Instant::now();
        let mut ledger = self.ledger.lock();
        match answer {
            Ok(Ok(_)) if !session.take_wait_canceled() => {
                ledger.acknowledged.insert(id);
                ledger.times.push(now);
                return true;
            }
            Ok(Ok(_)) => {
                ledger.unknown.insert(id);
                "the commit was acknowledged without its standbys".clone_into(&mut ledger.last_failure);
            }
            Ok(Err(error)) if certainly_failed(&error) => {
                ledger.failed += 1;
                ledger.last_failure = error.to_string();
            }
            Ok(Err(error)) => {
                ledger.unknown.insert(id);
                ledger.last_failure = error.to_string();
            }
            Err(_) => {
                ledger.unknown.insert(id);
                ledger.last_failure = format!("no answer within {:?}", self.writes.limit);
            }
        }
        false
    }
}

/// True when PostgreSQL said that the statement failed; what ends the session may come after the commit.
fn certainly_failed(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|said| !said.code().code().starts_with("57P"))
}

impl Writing {
    /// What is known so far.
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().clone()
    }

    /// Rows promised so far.
    pub fn acknowledged(&self) -> usize {
        self.ledger.lock().acknowledged.len()
    }

    /// When the last promise came.
    pub fn last_acknowledged(&self) -> Option<Instant> {
        self.ledger.lock().times.last().copied()
    }

    /// The last error of a client.
    pub fn last_failure(&self) -> String {
        self.ledger.lock().last_failure.clone()
    }

    /// Stop writing, waiting for the answers that are due.
    pub async fn stop(self) -> Ledger {
        self.stop.send_replace(true);
        for client in self.clients {
            // The test runner has already shown the panic of a client.
            let _ = client.await;
        }
        self.ledger.lock().clone()
    }
}

impl Ledger {
    /// Compare with what a database holds.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn check(&self, target: &Target) -> anyhow::Result<Verdict> {
        let limit = Duration::from_secs(30);
        let session = target.connect(limit).await?;
        let mut present = Vec::new();
        for row in session.rows("select id from acknowledged_writes", limit).await? {
            present.push(row.get(0).context("a row without number")?.parse::<i64>()?);
        }
        Ok(self.compare(present))
    }

    fn compare(&self, rows: Vec<i64>) -> Verdict {
        let (mut present, mut doubled) = (BTreeSet::new(), Vec::new());
        for id in rows {
            if !present.insert(id) {
                doubled.push(id);
            }
        }
        Verdict {
            doubled,
            acknowledged: self.acknowledged.len(),
            lost: self.acknowledged.difference(&present).copied().collect(),
            unknown_present: self.unknown.intersection(&present).count(),
            unexpected: present
                .iter()
                .filter(|id| !self.acknowledged.contains(id) && !self.unknown.contains(id))
                .copied()
                .collect(),
        }
    }

    /// The longest time without a promise that ended after `since`, as the promises before and after it.
    pub fn longest_gap(&self, since: Instant) -> Option<(Instant, Instant)> {
        let mut times = self.times.clone();
        times.sort();
        let gaps = times.windows(2).map(|pair| (pair[0], pair[1])).filter(|(_, after)| *after > since);
        gaps.max_by_key(|(before, after)| *after - *before)
    }

    /// How long that was; zero where there was none.
    pub fn longest_pause(&self, since: Instant) -> Duration {
        self.longest_gap(since).map_or(Duration::ZERO, |(before, after)| after - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_promise_a_doubled_one_and_a_row_from_nowhere_are_found() {
        let ledger = Ledger { acknowledged: [1, 2, 3].into(), unknown: [4, 5].into(), ..Ledger::default() };
        let verdict = ledger.compare(vec![1, 3, 5, 9, 3]);
        assert_eq!(
            verdict,
            Verdict {
                acknowledged: 3,
                lost: vec![2],
                unknown_present: 1,
                unexpected: vec![9],
                doubled: vec![3]
            }
        );
    }
}
