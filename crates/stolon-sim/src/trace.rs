//! What happened, for people.

use crate::Time;

/// Whether what happens is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// It is: for one run that somebody reads.
    Written,
    /// It is not: for many runs.
    Off,
}

/// The lines so far.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    trace: Trace,
    lines: Vec<String>,
}

impl Log {
    pub(crate) fn new(trace: Trace) -> Self {
        Log { trace, lines: Vec::new() }
    }

    /// One line; the sentence is only made when somebody reads it.
    pub(crate) fn say(&mut self, now: Time, who: &str, sentence: impl FnOnce() -> String) {
        if self.trace == Trace::Written {
            self.lines.push(format!("{:>10.4} {who:<4} {}", now.as_secs_f64(), sentence()));
        }
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines
    }
}
