//! Steps with their times, and the commands that an operator would type.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use stolon_local::Layout;

/// Longest time for one command.
const LIMIT: Duration = Duration::from_secs(60);

/// Prints each step when it begins, and how long it took when it ends.
pub struct Steps {
    number: usize,
    began: Instant,
}

impl Steps {
    /// No step yet; programs write their logs to `logs`.
    pub fn new(logs: &Path) -> Steps {
        println!("logs in {}", logs.display());
        Steps { number: 0, began: Instant::now() }
    }

    /// A step begins.
    pub fn begin(&mut self, what: &str) {
        self.number += 1;
        self.began = Instant::now();
        println!("\n{:>2}. {what}", self.number);
    }

    /// Something happened within the step.
    pub fn say(&self, what: &str) {
        println!("    {:>6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// The step is done.
    pub fn end(&mut self, found: &str) {
        self.say(found);
    }
}

/// Run `stolonctl` with `typed` on its input, and show what it prints.
///
/// # Errors
/// The command fails, or does not end.
pub async fn stolonctl(layout: &Layout, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = layout.stolonctl();
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().context("stolonctl cannot be started")?;
    let Ok(output) = tokio::time::timeout(LIMIT, child.wait_with_output()).await else {
        bail!("stolonctl did not end within {} s", LIMIT.as_secs());
    };
    let output = output.context("stolonctl cannot be waited for")?;
    for text in [&output.stdout, &output.stderr] {
        for line in String::from_utf8_lossy(text).lines().filter(|line| !line.is_empty()) {
            println!("    | {line}");
        }
    }
    if !output.status.success() {
        bail!("stolonctl {} failed", arguments.first().unwrap_or(&""));
    }
    Ok(())
}
