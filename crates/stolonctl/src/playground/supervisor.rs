//! Keeps the programs of a playground running.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use stolon_local::{Process, Service, Stopped, describe_exit, tail};
use tokio::sync::mpsc;

/// After this long a program counts as having come up well.
const SETTLED: Duration = Duration::from_secs(30);
/// Longest pause before a program is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The programs, in the order in which they were started.
pub struct Supervisor {
    services: Vec<Supervised>,
    news: mpsc::UnboundedReceiver<News>,
    tell: mpsc::UnboundedSender<News>,
}

struct Supervised {
    service: Service,
    state: State,
    failures: u32,
    /// Tells news of this start from those of an earlier one.
    start: u64,
}

enum State {
    Running { process: Process, since: Instant },
    Pausing,
    Held,
}

enum News {
    Ended { index: usize, start: u64 },
    Due { index: usize, start: u64 },
}

/// How far a stop goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each program ends its work.
    Graceful,
    /// SIGKILL, to whole trees.
    AtOnce,
}

impl Supervisor {
    /// No programs yet.
    pub fn new() -> Supervisor {
        let (tell, news) = mpsc::unbounded_channel();
        Supervisor { services: Vec::new(), news, tell }
    }

    /// Start a program and keep it running.
    ///
    /// # Errors
    /// It cannot be started at all.
    pub fn add(&mut self, service: Service) -> anyhow::Result<()> {
        self.services.push(Supervised { service, state: State::Held, failures: 0, start: 0 });
        self.launch(self.services.len() - 1)
    }

    /// The number of a running program.
    pub fn pid(&self, name: &str) -> Option<Pid> {
        let supervised = self.services.iter().find(|supervised| supervised.service.name == name)?;
        match &supervised.state {
            State::Running { process, .. } if process.exit().is_none() => Some(process.pid()),
            _ => None,
        }
    }

    /// From now on, leave a program alone when it ends.
    pub fn hold(&mut self, name: &str) {
        if let Some(supervised) = self.find(name) {
            supervised.state = State::Held;
            supervised.start += 1;
        }
    }

    /// Start a program that was held.
    ///
    /// # Errors
    /// It cannot be started at all.
    pub fn release(&mut self, name: &str) -> anyhow::Result<()> {
        match self.services.iter().position(|supervised| supervised.service.name == name) {
            Some(index) => self.launch(index),
            None => Ok(()),
        }
    }

    /// Wait until a program ended or was started again; returns what to tell the operator. Cancel-safe.
    pub async fn next_event(&mut self) -> String {
        loop {
            match self.news.recv().await {
                Some(News::Ended { index, start }) if self.services[index].start == start => {
                    if let Some(event) = self.ended(index) {
                        return event;
                    }
                }
                Some(News::Due { index, start }) if self.services[index].start == start => {
                    let name = self.services[index].service.name.clone();
                    return match self.launch(index) {
                        Ok(()) => format!("{name} was started again"),
                        Err(error) => format!("{name} cannot be started again: {error:#}"),
                    };
                }
                Some(_) => {}
                // We hold a sender ourselves.
                None => std::future::pending().await,
            }
        }
    }

    /// Stop everything: what was started last stops first, but all keepers stop together, so that standbys see
    /// the end of the primary's log.
    pub async fn stop(&mut self, order: Order) {
        if order == Order::AtOnce {
            for process in self.running(|_| true) {
                process.signal(Signal::KILL);
            }
            return;
        }
        for (prefix, limit) in [("proxy", 10), ("sentinel", 10), ("keeper", 60)] {
            let stopping: Vec<&Process> = self.running(|name| name.starts_with(prefix)).collect();
            for process in &stopping {
                process.signal(Signal::TERM);
            }
            for process in stopping {
                if process.stop(Duration::from_secs(limit)).await == Stopped::Not {
                    eprintln!("{} did not stop within {limit} s and is killed", process.name());
                    process.signal(Signal::KILL);
                    process.exited().await;
                }
            }
        }
    }

    fn running<'a>(&'a self, wanted: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = &'a Process> {
        self.services.iter().filter_map(move |supervised| match &supervised.state {
            State::Running { process, .. } if wanted(process.name()) => Some(process),
            _ => None,
        })
    }

    fn find(&mut self, name: &str) -> Option<&mut Supervised> {
        self.services.iter_mut().find(|supervised| supervised.service.name == name)
    }

    fn launch(&mut self, index: usize) -> anyhow::Result<()> {
        let supervised = &mut self.services[index];
        supervised.start += 1;
        let process = supervised.service.start()?;
        let (tell, start, exit) = (self.tell.clone(), supervised.start, process.exit_watch());
        supervised.state = State::Running { process, since: Instant::now() };
        tokio::spawn(async move {
            let mut exit = exit;
            // Either it was sent, or nobody waits any more.
            let _ = exit.wait_for(Option::is_some).await;
            let _ = tell.send(News::Ended { index, start });
        });
        Ok(())
    }

    /// A program ended by itself: plan its next start and say so.
    fn ended(&mut self, index: usize) -> Option<String> {
        let supervised = &mut self.services[index];
        let State::Running { process, since } = &supervised.state else { return None };
        let status = process.exit()?;
        supervised.failures = if since.elapsed() > SETTLED { 1 } else { supervised.failures + 1 };
        let pause =
            (Duration::from_millis(500) * 2u32.pow(supervised.failures.min(6) - 1)).min(LONGEST_PAUSE);
        let log = supervised.service.log();
        let event = format!(
            "{} {}; it is started again in {:.1} s. The end of {}:\n  {}",
            supervised.service.name,
            describe_exit(status),
            pause.as_secs_f64(),
            log.display(),
            tail(log, 5).join("\n  "),
        );
        supervised.state = State::Pausing;
        let (tell, start) = (self.tell.clone(), supervised.start);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = tell.send(News::Due { index, start });
        });
        Some(event)
    }
}
