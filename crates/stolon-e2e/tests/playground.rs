//! `stolonctl playground`, as an operator runs it.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use stolon_testkit::local::{Account, kill_tree, running_in};
use stolon_testkit::{PATIENCE, wait_for};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A playground that runs. What it leaves behind is killed with it.
struct Playground {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    said: Vec<String>,
    directory: PathBuf,
}

impl Playground {
    fn start(arguments: &[&str]) -> anyhow::Result<Playground> {
        let test = std::env::current_exe()?;
        let program = test.parent().and_then(Path::parent).context("nowhere")?.join("stolonctl");
        let mut child = Command::new(program)
            .arg("playground")
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Playground { child, output, said: Vec::new(), directory: PathBuf::new() })
    }

    /// Read on until a line holds `part`; returns the line.
    async fn says(&mut self, part: &str) -> anyhow::Result<String> {
        let reading = async {
            while let Some(line) = self.output.next_line().await? {
                if let Some(rest) = line.strip_prefix("playground in ") {
                    self.directory = rest.split(" (").next().unwrap_or_default().into();
                }
                self.said.push(line.clone());
                if line.contains(part) {
                    return Ok(line);
                }
            }
            anyhow::bail!("it ended without saying {part:?}")
        };
        let outcome = tokio::time::timeout(PATIENCE, reading).await;
        outcome
            .with_context(|| format!("it did not say {part:?} in time"))?
            .with_context(|| self.said.join("\n"))
    }

    /// Wait for the address, and write through it.
    async fn takes_writes(&mut self, statement: &str) -> anyhow::Result<String> {
        let uri = self.says("postgres://").await?.trim().to_owned();
        let (client, connection) = tokio_postgres::connect(&uri, tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        client.batch_execute(statement).await?;
        drop(client);
        connection.await??;
        Ok(uri)
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        self.child.id().and_then(|pid| Pid::from_raw(pid as i32)).context("it has ended")
    }

    async fn interrupt(&mut self) -> anyhow::Result<ExitStatus> {
        self.end_with(Signal::INT).await
    }

    async fn end_with(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        kill_process(self.pid()?, signal)?;
        Ok(tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it does not stop")??)
    }

    fn nothing_runs(&self) -> anyhow::Result<()> {
        let left = running_in(&self.directory);
        ensure!(left.is_empty(), "left running: {left:?}");
        Ok(())
    }
}

fn run(test: impl Future<Output = anyhow::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limit = Duration::from_secs(240);
    let outcome = runtime.block_on(async { tokio::time::timeout(limit, test).await });
    if let Err(error) = outcome.map_err(anyhow::Error::from).and_then(|outcome| outcome) {
        panic!("{error:?}");
    }
}

#[test]
fn two_run_beside_each_other_and_leave_nothing_behind() {
    run(async {
        let mut first = Playground::start(&[])?;
        let mut second = Playground::start(&["--keepers", "1", "--proxies", "2"])?;
        let one = first.takes_writes("create table t (id int)").await?;
        let other = second.takes_writes("create table t (id int)").await?;
        ensure!(one != other);
        for playground in [&mut first, &mut second] {
            ensure!(playground.interrupt().await?.success());
            playground.nothing_runs()?;
            ensure!(!playground.directory.exists(), "{} is left", playground.directory.display());
        }
        Ok(())
    });
}

#[test]
fn a_named_directory_is_kept_and_resumed() {
    run(async {
        let place = tempfile::tempdir()?;
        Account::for_postgresql()?.own(place.path())?;
        let directory = place.path().join("kept").display().to_string();
        let arguments = ["--data-dir", &directory, "--keepers", "1"];
        let mut first = Playground::start(&arguments)?;
        let before = first.takes_writes("create table kept (id int)").await?;

        let mut beside = Playground::start(&arguments)?;
        let refused = tokio::time::timeout(PATIENCE, beside.child.wait()).await??;
        ensure!(refused.code() == Some(2), "two playgrounds in one directory: {refused}");

        ensure!(first.interrupt().await?.success());
        first.nothing_runs()?;
        let mut again = Playground::start(&arguments)?;
        let after = again.takes_writes("insert into kept values (1)").await?;
        ensure!(before == after, "another address: {before}, then {after}");
        ensure!(again.interrupt().await?.success());
        Ok(())
    });
}

#[test]
fn a_program_that_dies_is_reported_and_restarted() {
    run(async {
        let mut playground = Playground::start(&["--keepers", "1"])?;
        playground.takes_writes("create table t (id int)").await?;
        let proxy = running_in(&playground.directory).into_iter().find(|pid| {
            std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()))
                .is_ok_and(|name| name.trim() == "stolon-proxy")
        });
        kill_process(proxy.context("no proxy runs")?, Signal::KILL)?;
        playground.says("proxy1 was killed by signal 9").await?;
        playground.says("proxy1 was started again").await?;
        ensure!(playground.interrupt().await?.success());
        playground.nothing_runs()
    });
}

#[test]
fn killed_it_leaves_no_process() {
    run(async {
        let mut playground = Playground::start(&["--keepers", "1"])?;
        playground.takes_writes("create table t (id int)").await?;
        ensure!(!running_in(&playground.directory).is_empty());
        kill_process(playground.pid()?, Signal::KILL)?;
        playground.child.wait().await?;
        let ended = wait_for("everything to end by itself", PATIENCE, async || {
            Ok(running_in(&playground.directory).is_empty().then_some(()))
        })
        .await;
        kill_tree(None, &playground.directory).await;
        std::fs::remove_dir_all(&playground.directory)?;
        ended
    });
}

#[test]
fn the_end_of_its_terminal_is_its_end() {
    run(async {
        let mut playground = Playground::start(&["--keepers", "1"])?;
        playground.takes_writes("create table t (id int)").await?;
        ensure!(playground.end_with(Signal::HUP).await?.success());
        playground.nothing_runs()?;
        ensure!(!playground.directory.exists(), "{} is left", playground.directory.display());
        Ok(())
    });
}

#[test]
fn stopped_before_it_takes_writes_it_has_failed_and_leaves_its_logs() {
    run(async {
        let mut playground = Playground::start(&["--keepers", "1"])?;
        playground.says("playground in").await?;
        ensure!(playground.interrupt().await?.code() == Some(1));
        playground.nothing_runs()?;
        let left: Vec<_> = std::fs::read_dir(&playground.directory)?.collect::<Result<_, _>>()?;
        let logs = playground.directory.join("log").join("keeper1.log").exists();
        std::fs::remove_dir_all(&playground.directory)?;
        ensure!(left.len() == 1 && logs, "left: {left:?}");
        Ok(())
    });
}

#[test]
fn a_failover_stays_on_the_screen() {
    run(async {
        let mut playground = Playground::start(&[])?;
        playground.takes_writes("create table t (id int)").await?;
        let line = playground.says("to see a failover").await?;
        let command = line.split_once(": ").context("no command")?.1.to_owned();
        let (old, new) = match command.contains("failkeeper keeper1 ") {
            true => ("keeper1", "keeper2"),
            false => ("keeper2", "keeper1"),
        };
        while !playground.says(&format!("{new} standby")).await?.ends_with("healthy") {}
        // A standby that is not in the document yet cannot take over, and the operator tries again.
        wait_for("the failover to be accepted", PATIENCE, async || {
            let status = Command::new("sh").args(["-c", &command]).status().await?;
            ensure!(status.success(), "{command}: {status}");
            let news = format!("clients are sent to {new}; before it was {old}");
            let said = playground.says(&news);
            Ok(tokio::time::timeout(Duration::from_secs(10), said).await.ok())
        })
        .await??;
        ensure!(playground.interrupt().await?.success());
        playground.nothing_runs()
    });
}

#[test]
fn an_interrupted_migration_is_no_failed_one() {
    run(async {
        let mut playground = Playground::start(&["migration", "--scale", "1"])?;
        let logs = playground.says("logs in ").await?;
        playground.directory = Path::new(logs.trim_start_matches("logs in ")).parent().context("no")?.into();
        playground.says("stolonctl migrate start").await?;
        ensure!(playground.interrupt().await?.code() == Some(130));
        while let Some(line) = playground.output.next_line().await? {
            ensure!(!line.contains("did NOT succeed"), "{line}");
        }
        playground.nothing_runs()?;
        ensure!(!playground.directory.exists(), "{} is left", playground.directory.display());
        Ok(())
    });
}

#[test]
fn what_cannot_be_met_is_refused() {
    run(async {
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = taken.local_addr()?.port().to_string();
        for arguments in [
            &["--proxy-ports", &port][..],
            &["--keepers", "0"],
            &["--pg-bin-path", "/nowhere"],
            &["migration", "--keepers", "1"],
        ] {
            let mut playground = Playground::start(arguments)?;
            let status = tokio::time::timeout(PATIENCE, playground.child.wait()).await??;
            ensure!(status.code() == Some(2), "{arguments:?}: {status}");
        }
        Ok(())
    });
}

#[test]
fn a_migration_there_and_back_runs_without_a_question_and_holds() {
    run(async {
        let (there, here) = ("checksums through the proxy", "checksums on the legacy server");
        let (follows, copied, verify) = ("follows the legacy", "second keeper", "stolonctl migrate verify");
        let move_in = [follows, copied, verify, there, verify];
        let landmarks = [&move_in[..], &[here], &move_in[..], &["minSynchronous", "comes back"]].concat();
        migration_holds(&["migration", "--scale", "1"], &landmarks).await
    });
}

#[test]
fn a_migration_by_restore_runs_without_a_question_and_holds() {
    run(async {
        let arguments = ["migration", "--scale", "1", "--method", "restore"];
        migration_holds(&arguments, &["stolonctl init", "kill -9"]).await
    });
}

/// It goes through these steps, and everything that it checks holds.
async fn migration_holds(arguments: &[&str], landmarks: &[&str]) -> anyhow::Result<()> {
    let mut playground = Playground::start(arguments)?;
    for landmark in landmarks {
        playground.says(landmark).await?;
    }
    playground.says("What was checked").await?;
    let status = tokio::time::timeout(PATIENCE, playground.child.wait()).await??;
    ensure!(status.success(), "{}", playground.said.join("\n"));
    Ok(())
}
