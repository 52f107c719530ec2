//! WAL that a server had yet to archive when it died: PostgreSQL marks it by a file `NAME.ready` in `pg_wal/archive_status`, and by
//! `NAME.done` once it is archived (PostgreSQL manual, "Continuous Archiving and Point-in-Time Recovery").
//!
//! Only whole files are marked, and those of a timeline that was left are archived under its own name: whatever the successor archives of
//! its first segment has another one (`NAME.partial`, or its own timeline's). So nothing is overwritten, whatever lies beyond the fork.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use stolon_core::keeper::Backlog;
use stolon_model::Timestamp;

use crate::environment::Environment;
use crate::error::{PostgresError, Result};
use crate::files::SecretFile;
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::process::Tool;
use crate::sample::wal_directory;

/// What one run of the command may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What all of it may take: a standby is missing meanwhile.
const PATIENCE_FOR_ALL: Duration = Duration::from_secs(600);
/// So many failures in a row are not those of single files.
const FAILURES: usize = 3;
/// How many names a line of the log holds.
const NAMED: usize = 10;

/// A backlog of more files than these is not counted to its end: each look counts it.
const COUNTED: usize = 10_000;

/// Where the marks are.
pub(crate) struct Marks {
    wal: PathBuf,
    status: PathBuf,
}

impl Marks {
    pub(crate) fn of(data: &Path) -> Self {
        let wal = wal_directory(data);
        Marks { status: wal.join("archive_status"), wal }
    }

    /// What is marked, in no order.
    fn marked(&self) -> impl Iterator<Item = String> + use<> {
        let entries = std::fs::read_dir(&self.status).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".ready").map(str::to_owned))
    }

    /// What has yet to be archived, in PostgreSQL's order.
    fn ready(&self) -> Vec<String> {
        let mut ready: Vec<String> = self.marked().filter(|name| self.wal.join(name).is_file()).collect();
        ready.sort_by_key(|name| turn(name));
        ready
    }

    /// What waits while the server runs, at `now`; none: nothing does.
    pub(crate) fn backlog(&self, now: SystemTime) -> Option<Backlog> {
        let marked: Vec<String> = self.marked().take(COUNTED).collect();
        let files = marked.len() as u64;
        let first = marked.into_iter().min_by_key(|name| turn(name))?;
        // Gone: it was archived just now, and the next look finds what comes after it.
        let ready = std::fs::metadata(self.status.join(format!("{first}.ready"))).ok()?.modified().ok()?;
        Some(Backlog {
            files,
            first,
            since: Timestamp::utc(jiff::Timestamp::try_from(ready).ok()?),
            age: now.duration_since(ready).unwrap_or_default(),
        })
    }

    fn archived(&self, name: &str) -> std::io::Result<()> {
        let mark = |suffix: &str| self.status.join(format!("{name}.{suffix}"));
        std::fs::rename(mark("ready"), mark("done"))
    }
}

/// PostgreSQL's order: histories first, then by name.
fn turn(name: &str) -> (bool, String) {
    (!name.ends_with(".history"), name.to_owned())
}

impl LocalPostgres {
    /// Runs `archive_command` for every file that the server, which must not run, had left to be archived. What cannot be archived is named
    /// in the log, and keeps nobody from going on: without it the archive has a gap, and a standby that waited for an archive would be missing as well.
    ///
    /// # Errors
    /// It was called off.
    pub async fn archive_what_is_left(&self, limit: &Limit) -> Result<()> {
        let directory = self.data_directory();
        let look = move || Ok(Marks::of(&directory).ready());
        let ready = match self.look_at_disk("looking for WAL that was not archived", limit, look).await {
            Ok(ready) => ready,
            Err(error) => return unless_called_off(error, "cannot look for WAL that was not archived"),
        };
        if ready.is_empty() {
            return Ok(());
        }
        let command = match self.command_at_start("archive_command", limit).await {
            Ok(command) if command.is_empty() => {
                missing(&ready, "archive_command is not set");
                return Ok(());
            }
            Ok(command) => command,
            Err(error) => {
                missing(&ready, &error.to_string());
                return unless_called_off(error, "cannot read archive_command");
            }
        };
        tracing::info!("archiving {} WAL files that the server had left", ready.len());
        self.archive_each(ready, &command, limit).await
    }

    async fn archive_each(&self, ready: Vec<String>, command: &str, limit: &Limit) -> Result<()> {
        let (all, of_all) = (limit.at_most(PATIENCE_FOR_ALL), ready.len());
        let (mut left, mut failures, mut why) = (Vec::new(), 0, String::new());
        for name in ready {
            if failures == FAILURES {
                left.push(name);
                continue;
            }
            match self.archive_one(&name, command, &all.at_most(PATIENCE)).await {
                Ok(()) => failures = 0,
                Err(called_off @ PostgresError::Cancelled { .. }) => return Err(called_off),
                Err(error) => {
                    failures += 1;
                    why = error.to_string();
                    left.push(name);
                }
            }
        }
        tracing::info!("archived {} of {of_all} WAL files that the server had left", of_all - left.len());
        if !left.is_empty() {
            missing(&left, &why);
        }
        Ok(())
    }

    /// As PostgreSQL runs it: by the shell, in the data directory.
    async fn archive_one(&self, name: &str, command: &str, limit: &Limit) -> Result<()> {
        let directory = self.data_directory();
        let marks = Marks::of(&directory);
        let wal = marks.wal.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let script = format!("cd \"$1\" || exit 255\n{}\n", expand(command, &format!("{wal}/{name}"), name));
        let secrets = self.secrets_directory();
        let write = move || SecretFile::new(&secrets, &script);
        let script = self.on_disk("writing archive_command", limit, write).await?;
        let shell = Tool::new("archive_command", "/bin/sh".into());
        let tool = self.marked(shell).environment(Environment::Operators).arg(script.path()).arg(directory);
        let run = tool.run(limit, |line| tracing::info!("archive_command: {line}"));
        run.await?.success("archive_command")?;
        let name = name.to_owned();
        let mark = move || {
            marks.archived(&name).map_err(PostgresError::io("mark as archived", &marks.status.join(&name)))
        };
        self.on_disk("marking WAL as archived", limit, mark).await
    }

    /// The command that a parameter names, as the server, which must not run, would start with it; empty: none.
    pub(crate) async fn command_at_start(&self, parameter: &str, limit: &Limit) -> Result<String> {
        let tool = self.tool("postgres").arg("-D").arg(self.data_directory()).args(["-C", parameter]);
        let told = tool.output(&limit.at_most(PATIENCE)).await?.success("postgres")?.stdout;
        let told = told.trim_end_matches('\n');
        // What PostgreSQL shows for a command while archiving is off.
        Ok(if told == "(disabled)" { String::new() } else { told.to_owned() })
    }
}

fn unless_called_off(error: PostgresError, what: &str) -> Result<()> {
    if let PostgresError::Cancelled { .. } = error {
        return Err(error);
    }
    tracing::warn!(%error, "{what}");
    Ok(())
}

fn missing(names: &[String], why: &str) {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    tracing::error!("the archive lacks {shown}{more}, which is about to be rewound or replaced here: {why}");
}

/// Replaces `%p`, `%f` and `%%`; everything else stays (PostgreSQL manual, `archive_command`).
fn expand(command: &str, path: &str, name: &str) -> String {
    let mut text = String::with_capacity(command.len());
    let mut rest = command.chars();
    while let Some(letter) = rest.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        match rest.next() {
            Some('p') => text.push_str(path),
            Some('f') => text.push_str(name),
            Some('%') => text.push('%'),
            other => text.extend(std::iter::once('%').chain(other)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_as_postgresql_does() {
        let expanded = expand("cp %p /a/%f 100%% %x %", "pg_wal/1", "1");
        assert_eq!(expanded, "cp pg_wal/1 /a/1 100% %x %");
    }

    #[test]
    fn what_is_ready_comes_in_order_and_only_what_is_there() {
        let data = tempfile::tempdir().unwrap();
        let marks =
            Marks { wal: data.path().join("pg_wal"), status: data.path().join("pg_wal/archive_status") };
        std::fs::create_dir_all(&marks.status).unwrap();
        for name in ["000000010000000000000002", "000000010000000000000001", "00000002.history"] {
            std::fs::write(marks.wal.join(name), "").unwrap();
            std::fs::write(marks.status.join(format!("{name}.ready")), "").unwrap();
        }
        std::fs::write(marks.status.join("000000010000000000000000.ready"), "").unwrap();
        std::fs::write(marks.status.join("000000010000000000000003.done"), "").unwrap();
        let marks = Marks::of(data.path());
        assert_eq!(
            marks.ready(),
            ["00000002.history", "000000010000000000000001", "000000010000000000000002"]
        );
        let backlog = marks.backlog(SystemTime::now()).unwrap();
        assert_eq!((backlog.files, backlog.first.as_str()), (4, "00000002.history"));
        assert!(backlog.age < Duration::from_secs(3600));
        assert_eq!(
            marks.backlog(SystemTime::UNIX_EPOCH).unwrap().age,
            Duration::ZERO,
            "a clock was set back"
        );
        marks.archived("00000002.history").unwrap();
        assert_eq!(marks.ready(), ["000000010000000000000001", "000000010000000000000002"]);
    }
}
