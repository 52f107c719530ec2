//! Keeps the programs of a playground running.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use stolon_local::{Process, Service, describe_exit, tail};
use tokio::sync::mpsc;

/// A program that has run for this long counts as started.
const SETTLED: Duration = Duration::from_secs(30);
/// Pause before a program is started again: the first one, doubled with each failure, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The programs, in the order in which they were started. All copies mean the same ones.
#[derive(Clone)]
pub struct Supervisor {
    services: Arc<Mutex<Vec<Supervised>>>,
    tell: mpsc::UnboundedSender<String>,
}

struct Supervised {
    service: Service,
    state: State,
    failures: u32,
    /// Counts the starts, so that the end of an earlier run is not taken for the end of this one.
    start: u64,
}

enum State {
    Running {
        process: Process,
        since: Instant,
    },
    Pausing,
    /// Not to be started again when it ends.
    Held,
}

/// How programs are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// SIGTERM, and each program finishes.
    Graceful,
    /// SIGKILL.
    AtOnce,
}

impl Supervisor {
    /// Without programs yet. What the operator should know is sent to `news`.
    pub fn new() -> (Supervisor, mpsc::UnboundedReceiver<String>) {
        let (tell, events) = mpsc::unbounded_channel();
        (Supervisor { services: Arc::default(), tell }, events)
    }

    /// Start a program and keep it running. Call inside a tokio runtime.
    ///
    /// # Errors
    /// The program cannot be started at all.
    pub fn add(&self, service: Service) -> anyhow::Result<()> {
        let index = {
            let mut services = self.lock();
            services.push(Supervised { service, state: State::Held, failures: 0, start: 0 });
            services.len() - 1
        };
        self.launch(index)
    }

    /// The process id of a running program.
    pub fn pid(&self, name: &str) -> Option<Pid> {
        let services = self.lock();
        let supervised = services.iter().find(|supervised| supervised.service.name == name)?;
        match &supervised.state {
            State::Running { process, .. } if process.exit().is_none() => Some(process.pid()),
            _ => None,
        }
    }

    /// From now on, leave a program alone when it ends.
    pub fn hold(&self, name: &str) {
        for supervised in self.lock().iter_mut().filter(|supervised| supervised.service.name == name) {
            supervised.state = State::Held;
            supervised.start += 1;
        }
    }

    /// Start a program that was held.
    ///
    /// # Errors
    /// The program cannot be started at all.
    pub fn release(&self, name: &str) -> anyhow::Result<()> {
        let index = self.lock().iter().position(|supervised| supervised.service.name == name);
        index.map_or(Ok(()), |index| self.launch(index))
    }

    /// Stop everything: proxies, so that no client sees the rest; sentinels, so that nobody fails over; then all
    /// keepers together, so that standbys see the end of the primary's log.
    pub async fn stop(&self, order: Order) {
        for (prefix, limit) in [("proxy", 10), ("sentinel", 10), ("keeper", 60)] {
            let stopping = self.take_running(prefix);
            let signal = if order == Order::AtOnce { Signal::KILL } else { Signal::TERM };
            for process in &stopping {
                process.signal(signal);
            }
            for process in stopping {
                // One signal each: a second one would make a keeper stop PostgreSQL at once.
                if tokio::time::timeout(Duration::from_secs(limit), process.exited()).await.is_err() {
                    eprintln!("{} did not stop within {limit} s and is killed", process.name());
                    process.signal(Signal::KILL);
                    process.exited().await;
                }
            }
        }
    }

    fn take_running(&self, prefix: &str) -> Vec<Process> {
        let mut running = Vec::new();
        for supervised in
            self.lock().iter_mut().filter(|supervised| supervised.service.name.starts_with(prefix))
        {
            if let State::Running { process, .. } = &supervised.state {
                running.push(process.clone());
            }
            supervised.state = State::Held;
            supervised.start += 1;
        }
        running
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Supervised>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launch(&self, index: usize) -> anyhow::Result<()> {
        let (process, start) = {
            let supervised = &mut self.lock()[index];
            let process = supervised.service.start()?;
            supervised.start += 1;
            supervised.state = State::Running { process: process.clone(), since: Instant::now() };
            (process, supervised.start)
        };
        let this = self.clone();
        tokio::spawn(async move {
            process.exited().await;
            if let Some(pause) = this.ended(index, start) {
                tokio::time::sleep(pause).await;
                this.start_again(index, start);
            }
        });
        Ok(())
    }

    /// Handle the end of a program: if it was not wanted, say so, and return how long to wait before the next start.
    fn ended(&self, index: usize, start: u64) -> Option<Duration> {
        let supervised = &mut self.lock()[index];
        let State::Running { process, since } = &supervised.state else { return None };
        if supervised.start != start {
            return None;
        }
        supervised.failures = if since.elapsed() > SETTLED { 1 } else { supervised.failures + 1 };
        let pause = (PAUSES.0 * 2u32.pow(supervised.failures.min(6) - 1)).min(PAUSES.1);
        let log = supervised.service.log();
        self.say(format!(
            "{} {}; it is started again in {:.1} s. The end of {}:\n  {}",
            supervised.service.name,
            process.exit().map_or_else(|| "ended".to_owned(), describe_exit),
            pause.as_secs_f64(),
            log.display(),
            tail(log, 5).join("\n  "),
        ));
        supervised.state = State::Pausing;
        Some(pause)
    }

    fn start_again(&self, index: usize, start: u64) {
        let name = {
            let supervised = &self.lock()[index];
            if supervised.start != start {
                return;
            }
            supervised.service.name.clone()
        };
        match self.launch(index) {
            Ok(()) => self.say(format!("{name} was started again")),
            Err(error) => self.say(format!("{name} cannot be started again: {error:#}")),
        }
    }

    fn say(&self, event: String) {
        // The receiver is gone once the playground stops.
        let _ = self.tell.send(event);
    }
}
