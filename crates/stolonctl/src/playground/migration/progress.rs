//! The progress of copies, as keepers publish it: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use stolon_store::ClusterStore;

/// Pause between two looks at the reports.
const PAUSE: Duration = Duration::from_millis(150);

/// Shows copies while something is waited for.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// What was last said, where there is no terminal.
    said: String,
    problem: String,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new() -> Progress {
        Progress { bar: None, said: String::new(), problem: String::new() }
    }

    /// Wait for something, and show copies meanwhile.
    pub async fn follow(&mut self, store: &Arc<dyn ClusterStore>, done: impl Future<Output = ()>) {
        let mut done = std::pin::pin!(done);
        loop {
            tokio::select! {
                biased;
                () = &mut done => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
            // A failed look is repeated after the pause.
            for (keeper, report) in store.keeper_reports().await.unwrap_or_default() {
                let Some(activity) = report.activity else { continue };
                if activity.bytes_total > 0 {
                    let name = format!("{keeper}: {}", activity.step);
                    self.show(&name, activity.bytes_done.min(activity.bytes_total), activity.bytes_total);
                }
                if !activity.problem.is_empty() && activity.problem != self.problem {
                    println!("    {keeper}: {}", activity.problem.replace('\n', "\n    "));
                    self.problem = activity.problem;
                }
            }
        }
        if let Some(bar) = self.bar.take() {
            bar.finish();
            // The next output begins on a line of its own.
            eprintln!();
        }
    }

    fn show(&mut self, name: &str, bytes: u64, total: u64) {
        if std::io::stderr().is_terminal() {
            let is_new = self.bar.is_none();
            let bar = self.bar.get_or_insert_with(new_bar);
            bar.set_length(total);
            bar.set_position(bytes);
            if is_new {
                // The speed is measured from the first look on.
                bar.reset_eta();
            }
            bar.set_message(name.to_owned());
            return;
        }
        let tenths = bytes * 10 / total;
        let line = format!("{name} {} % of {} MB", tenths * 10, total / 1_000_000);
        if line != self.said {
            println!("    {line}");
            self.said = line;
        }
    }
}

fn new_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("    {msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(0);
    // The template is a constant: a mistake in it would show in the first run.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
