//! Steps with their times, and the commands that an operator would type.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use stolon_local::Layout;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Longest time for one command: some copy or read a whole database.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

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

/// Run `stolonctl`, and show what it prints as it comes.
///
/// # Errors
/// The command fails, or does not end.
pub async fn stolonctl(layout: &Layout, arguments: &[&str]) -> anyhow::Result<()> {
    let status = stolonctl_ends(layout, arguments).await?;
    if !status.success() {
        bail!("stolonctl {} failed", arguments.first().unwrap_or(&""));
    }
    Ok(())
}

/// The same for a command whose exit status is an answer.
///
/// # Errors
/// The command cannot be run, or does not end.
pub async fn stolonctl_ends(layout: &Layout, arguments: &[&str]) -> anyhow::Result<ExitStatus> {
    let mut command = layout.stolonctl();
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().context("stolonctl cannot be started")?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = async { tokio::join!(show(stdout), show(stderr), child.wait()).2 };
    let Ok(status) = tokio::time::timeout(LIMIT, ended).await else {
        bail!("stolonctl did not end within {} s", LIMIT.as_secs());
    };
    status.context("stolonctl cannot be waited for")
}

async fn show(output: Option<impl AsyncRead + Unpin>) {
    let Some(output) = output else { return };
    let mut lines = BufReader::new(output).lines();
    // A command that is killed ends in the middle.
    while let Ok(Some(line)) = lines.next_line().await {
        if !line.is_empty() {
            println!("    | {line}");
        }
    }
}
