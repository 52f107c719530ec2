//! A server that an earlier keeper left is taken over if it is certainly ours, healthy, and as we would have started it
//! (docs/design/011-keeper-upgrade.md). Whatever is in doubt about it is a reason to stop it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use procfs::process::Process;
use stolon_core::keeper::{ConfigMerge, DataKind, FoundServer, Gate};

use crate::error::PostgresError;
use crate::limit::Limit;
use crate::local::{LocalPostgres, OrphanOutcome};
use crate::lock_files::PidFile;
use crate::process_table::{Held, works_in};
use crate::quote::sql_literal;
use crate::server::ServerState;
use crate::server_log;

/// A server that has not shown by then what it is is not healthy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before this a standby follows another server only after a restart, and does not say so (`recovery.conf`).
const RECOVERY_IS_CONFIGURED_SINCE: u32 = 120_000;

/// What the keeper's own files say of the data in PGDATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundData {
    /// A complete instance.
    Complete,
    /// Nothing, or something that was being made.
    Other,
}

/// Why a server is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// What is half-made is begun again.
    #[error("its data are not those of a complete instance")]
    HalfMade,
    /// Another process, or none.
    #[error("postmaster.pid does not name it")]
    PidFile,
    /// It starts, or ends.
    #[error("it does not say that it accepts connections")]
    NotReady,
    /// Its programs were replaced, or others are asked for.
    #[error("it runs another program than {wanted}", wanted = .0.display())]
    Program(PathBuf),
    /// Another user, or another place.
    #[error("it does not run as our user in our data directory")]
    Place,
    /// It was started by another version, or for something else.
    #[error("it was started with another command line")]
    CommandLine,
    /// The keeper was given another one.
    #[error("it listens on port {found}, and port {wanted} is asked for")]
    Port {
        /// By `postmaster.pid`.
        found: String,
        /// By `--pg-port`.
        wanted: String,
    },
    /// The keeper was given other ones.
    #[error("it listens on {found:?}, and {wanted:?} is asked for")]
    Addresses {
        /// In force.
        found: String,
        /// By `--pg-listen-address`.
        wanted: String,
    },
    /// Its log ended with the keeper that started it.
    #[error("its log goes nowhere where it could be read")]
    Log,
    /// Another process reads its log: another keeper, perhaps.
    #[error("its log cannot be read: {0}")]
    LogReader(std::io::Error),
    /// Restarts it where it is to follow another server.
    #[error("it is a standby of a version that is configured by recovery.conf")]
    TooOld,
    /// It does not answer, or who answers is not it.
    #[error("it does not answer as it should: {0}")]
    Answer(PostgresError),
    /// The operating system does not show it.
    #[error("it cannot be looked at: {0}")]
    Unseen(std::io::Error),
    /// It ended while it was looked at.
    #[error("it ended")]
    Ended,
}

/// Where it writes its log, as its processes show it.
enum Log {
    /// Into our FIFO, from which we read now.
    Fifo(OwnedFd),
    /// Somewhere else: good if its own collector has it.
    Elsewhere,
}

impl LocalPostgres {
    /// Takes a server over that runs in PGDATA and that an earlier keeper left, or ends it. To be called first of all; it also kills the
    /// tools, removes the secrets and ends the exchange of data directories that a killed keeper left.
    ///
    /// # Errors
    /// What is not taken over could not be ended within the limit.
    pub async fn take_over(&self, data: FoundData, limit: &Limit) -> Result<OrphanOutcome, PostgresError> {
        let Some((pid, postmaster)) = self.orphan(limit).await? else { return Ok(OrphanOutcome::None) };
        let postmaster = Arc::new(postmaster);
        let found = match data {
            FoundData::Complete => self.examine(pid, &postmaster, &limit.at_most(PATIENCE)).await,
            FoundData::Other => Err(Doubt::HalfMade),
        };
        match found {
            Ok((found, log)) => {
                self.watch_over_adopted(postmaster, log);
                Ok(OrphanOutcome::TakenOver { pid, found })
            }
            Err(doubt) => {
                tracing::warn!(pid, %doubt, "stopping the postgres instance that the previous keeper left running, since it cannot be taken over");
                self.end_orphan(pid, &postmaster, limit).await
            }
        }
    }

    /// The server is ours afterwards, unless there is a doubt.
    async fn examine(
        &self,
        pid: u32,
        postmaster: &Arc<Held>,
        limit: &Limit,
    ) -> Result<(FoundServer, Option<tokio::net::unix::pipe::Receiver>), Doubt> {
        const WHAT: &str = "looking at the server that runs";
        let server = self.clone();
        let look = move || Ok((server.process_is_ours(pid), server.socket_directory()));
        let (process, sockets) = self.look_at_disk(WHAT, limit, look).await.map_err(Doubt::Answer)?;
        let log = process?;
        self.inner.sockets.lock().replace(sockets);
        self.takes_charge(pid, Some(Arc::clone(postmaster)));
        let answer = self.asks_what_it_is(&log, limit).await;
        let log = match log {
            Log::Fifo(end) => server_log::receiver(end).map(Some).map_err(Doubt::Answer),
            Log::Elsewhere => Ok(None),
        };
        let is_over = if postmaster.is_over() { Err(Doubt::Ended) } else { Ok(()) };
        let found = answer.and_then(|found| is_over.and(log).map(|log| (found, log)));
        if found.is_err() {
            self.disconnect();
            self.inner.postmaster.lock().take();
            self.inner.state.send_replace(ServerState::Stopped);
        }
        found
    }

    /// Everything that can be seen without asking it.
    fn process_is_ours(&self, pid: u32) -> Result<Log, Doubt> {
        let directory = self.data_directory();
        let file = self.pid_file().map_err(Doubt::Answer)?.filter(|file| file.pid == pid);
        let PidFile { port, ready, .. } = file.ok_or(Doubt::PidFile)?;
        if !ready {
            return Err(Doubt::NotReady);
        }
        let process = Process::new(pid.cast_signed()).map_err(|_| Doubt::Ended)?;
        let is_our_user = process.uid().is_ok_and(|uid| uid == rustix::process::geteuid().as_raw());
        if !is_our_user || !works_in(pid, &directory) {
            return Err(Doubt::Place);
        }
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let program = self.program("postgres");
        if !is_same_file(&proc.join("exe"), &program).map_err(Doubt::Unseen)? {
            return Err(Doubt::Program(program));
        }
        let words = words_of(&std::fs::read(proc.join("cmdline")).map_err(Doubt::Unseen)?);
        if !self.command_lines().iter().any(|ours| words.get(1..) == Some(ours)) {
            return Err(Doubt::CommandLine);
        }
        if port != self.inner.options.port {
            return Err(Doubt::Port { found: port, wanted: self.inner.options.port.clone() });
        }
        let fifo = self.log_fifo();
        match is_same_file(&proc.join("fd/2"), &fifo) {
            Ok(true) => server_log::open_reader(&fifo).map(Log::Fifo).map_err(Doubt::LogReader),
            Ok(false) | Err(_) => Ok(Log::Elsewhere),
        }
    }

    /// How we would have started it: whether it has a socket in the public directory was decided by who was there before.
    fn command_lines(&self) -> [Vec<OsString>; 2] {
        let (own, public) = (self.socket_directory(), self.inner.options.public_socket_directory.clone());
        [vec![own.clone(), public], vec![own]].map(|sockets| self.arguments(ConfigMerge::Replace, &sockets))
    }

    /// Everything that it says itself, over a new connection to it and nobody else.
    async fn asks_what_it_is(&self, log: &Log, limit: &Limit) -> Result<FoundServer, Doubt> {
        let options = &self.inner.options;
        // Whom the rules admit, as the file has them.
        let sql = format!(
            "SELECT current_setting('listen_addresses'), current_setting('logging_collector'), \
             current_setting('server_version_num'), pg_is_in_recovery(), \
             EXISTS (SELECT FROM pg_hba_file_rules WHERE error IS NULL AND NOT user_name <@ ARRAY[{}, {}]::text[])",
            sql_literal(&options.superuser.username),
            sql_literal(&options.replication.username)
        );
        let answers = self.query_anew("ask it what it is", &sql, limit).await.map_err(Doubt::Answer)?;
        let row = answers.first().and_then(|rows| rows.first());
        let text = |column| row.and_then(|row| row.get(column)).unwrap_or_default();
        let (found, wanted) = (text(0), options.listen_addresses.as_str());
        if found != wanted {
            return Err(Doubt::Addresses { found: found.to_owned(), wanted: wanted.to_owned() });
        }
        if matches!(log, Log::Elsewhere) && text(1) != "on" {
            return Err(Doubt::Log);
        }
        let is_standby = text(3) == "t";
        if is_standby && text(2).parse().unwrap_or(0) < RECOVERY_IS_CONFIGURED_SINCE {
            return Err(Doubt::TooOld);
        }
        Ok(FoundServer {
            role: if is_standby { DataKind::Standby } else { DataKind::Primary },
            gate: if text(4) == "t" { Gate::Open } else { Gate::Closed },
        })
    }
}

/// Whether both lead to one file. The first is a link of the kernel's, which leads to the file itself, also when its name is another's by now.
fn is_same_file(link: &Path, path: &Path) -> std::io::Result<bool> {
    let (one, other) = (std::fs::metadata(link)?, std::fs::metadata(path)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// The words of a command line in `/proc`, each of which ends in a null byte.
fn words_of(line: &[u8]) -> Vec<OsString> {
    let line = line.strip_suffix(b"\0").unwrap_or(line);
    line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_read_word_by_word() {
        assert_eq!(words_of(b"postgres\0-D\0/a b\0\0"), ["postgres", "-D", "/a b", ""]);
        assert_eq!(words_of(b"postgres\0"), ["postgres"]);
    }

    #[test]
    fn a_file_that_was_replaced_is_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let (path, next) = (directory.path().join("program"), directory.path().join("next"));
        std::fs::write(&path, "one").unwrap();
        let open = std::fs::File::open(&path).unwrap();
        let link = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open)));
        assert!(is_same_file(&link, &path).unwrap());
        std::fs::write(&next, "one").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert!(!is_same_file(&link, &path).unwrap());
    }
}
