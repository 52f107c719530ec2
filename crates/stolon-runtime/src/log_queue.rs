//! Lines of the log on their way to stderr. Where a program must never wait for whoever reads its log, they go through a bounded queue
//! and a thread of its own; what finds no room is dropped, counted, and said once there is room again.
//!
//! tracing-appender's queue does nearly that, but tells the number of dropped lines only to who asks, and brings a second calendar along.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// How many lines may wait: with PostgreSQL's longest ones 32 MiB.
const MOST_LINES: usize = 4096;
/// How long the end of a program waits for a reader.
const LAST_LINES: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Arc<LineQueue>> = OnceLock::new();

/// From now on and until this value is dropped, lines of the log never make the program wait. Its end waits for at most a second.
#[must_use = "dropping it ends the queue"]
pub struct QueuedLog(());

/// Starts a thread that writes the log. Where it cannot be started the lines are written as before.
pub fn queue_log() -> QueuedLog {
    if QUEUE.get().is_none() {
        let queue = Arc::new(LineQueue::default());
        let writer = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("log".to_owned());
        if thread.spawn(move || writer.write_to(&mut std::io::stderr())).is_ok() {
            let _ = QUEUE.set(queue);
        }
    }
    if let Some(queue) = QUEUE.get() {
        queue.lock().closed = false;
    }
    QueuedLog(())
}

impl Drop for QueuedLog {
    fn drop(&mut self) {
        if let Some(queue) = QUEUE.get() {
            queue.close(LAST_LINES);
        }
    }
}

/// Writes a line, given without its end, beside those of the program itself.
pub fn write_log_line(line: &str) {
    emit(format!("{line}\n"));
}

/// One write per line, so that lines of several processes do not mix. A closed stderr is no reason to fail.
pub(crate) fn emit(line: String) {
    let left = match QUEUE.get() {
        Some(queue) => queue.push(line),
        None => Some(line),
    };
    if let Some(line) = left {
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

#[derive(Default)]
struct LineQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    dropped: u64,
    writing: bool,
    closed: bool,
}

impl LineQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Gives the line back when the queue is closed and nothing is on its way any more. Never waits for the reader.
    fn push(&self, line: String) -> Option<String> {
        let mut state = self.lock();
        if state.closed {
            // Whoever has not taken the last one will not take this one either.
            return (!state.writing).then_some(line);
        }
        if state.lines.len() >= MOST_LINES {
            state.dropped += 1;
            return None;
        }
        if let Some(notice) = dropped_notice(&mut state.dropped) {
            state.lines.push_back(notice);
        }
        state.lines.push_back(line);
        self.changed.notify_all();
        None
    }

    /// Runs for as long as the program does.
    fn write_to(&self, out: &mut impl Write) {
        loop {
            let mut state = self.lock();
            state.writing = false;
            let line = loop {
                match state.lines.pop_front().or_else(|| dropped_notice(&mut state.dropped)) {
                    Some(line) => break line,
                    None => {
                        self.changed.notify_all();
                        self.changed.wait(&mut state);
                    }
                }
            };
            state.writing = true;
            drop(state);
            let _ = out.write_all(line.as_bytes());
        }
    }

    /// Lines are given back from now on; those that wait are written, if the reader takes them in time.
    fn close(&self, limit: Duration) {
        let mut state = self.lock();
        state.closed = true;
        let waits = |state: &mut State| state.writing || !state.lines.is_empty();
        self.changed.wait_while_for(&mut state, waits, limit);
    }
}

fn dropped_notice(dropped: &mut u64) -> Option<String> {
    match std::mem::take(dropped) {
        0 => None,
        lines => Some(format!("stolon: {lines} lines of the log were dropped: nobody took them in time\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_stops_makes_nobody_wait_and_is_told_what_it_missed() {
        use std::io::{BufRead, BufReader};
        let (reader, mut writer) = std::io::pipe().unwrap();
        let queue = Arc::new(LineQueue::default());
        let thread = Arc::clone(&queue);
        std::thread::spawn(move || thread.write_to(&mut writer));
        // Far more than the pipe and the queue hold, and nobody reads.
        let line = format!("{}\n", "x".repeat(1000));
        let all = MOST_LINES as u64 + 1000;
        for _ in 0..all {
            assert_eq!(queue.push(line.clone()), None);
        }
        queue.close(Duration::from_millis(1));
        assert_eq!(queue.push("late\n".to_owned()), None, "it could only be waited for");
        let (mut heard, mut missed) = (0, 0);
        for line in BufReader::new(reader).lines() {
            match line.unwrap().strip_prefix("stolon: ") {
                Some(notice) => missed += notice.split(' ').next().unwrap().parse::<u64>().unwrap(),
                None => heard += 1,
            }
            if heard + missed == all {
                break;
            }
        }
        assert!(missed > 0);
        queue.close(Duration::from_secs(60));
        assert_eq!(queue.push("last\n".to_owned()), Some("last\n".to_owned()));
    }
}
