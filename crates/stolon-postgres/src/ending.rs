//! Ending a server, whatever state it is in: one ladder for our child and for what a killed keeper left.
//!
//! | Rung | What is sent | Next rung |
//! |---|---|---|
//! | fast | SIGINT to the postmaster, which sends its clients away first | at once when it does not hear; else after the caller's patience |
//! | immediate | SIGQUIT to the postmaster | after six seconds |
//! | kill | SIGKILL to the postmaster and all that descend from it | none |
//!
//! (PostgreSQL manual, "Shutting Down the Server".)

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::error::{PostgresError, Result};
use crate::files::fresh_private_directory;
use crate::limit::Limit;
use crate::local::{LocalPostgres, OrphanOutcome};
use crate::process_table::{Held, family_of, tools_of};
use crate::quote::sql_literal;
use crate::sample::unexpected;
use crate::server::ServerState;

/// How to ask a server to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// From the first rung on.
    Fast,
    /// From the second rung on.
    Immediate,
    /// The last rung alone.
    Kill,
}

/// A postmaster that is told to end says so in its lock file at once (PostgreSQL source, pidfile.h, since 10). One that does not is
/// stopped or hangs, and would hear no other signal either, while its sessions go on.
const HEARD_WITHIN: Duration = Duration::from_secs(3);
/// An immediate shutdown kills what does not end within five seconds by itself (PostgreSQL source, postmaster.c).
const IMMEDIATE_PATIENCE: Duration = Duration::from_secs(6);
/// What is kept of a limit for the last rung.
const FOR_THE_LAST_RUNG: Duration = Duration::from_secs(3);
/// SQLSTATE `cannot_connect_now`: it starts, or ends.
const CANNOT_CONNECT_NOW: &str = "57P03";
/// How long reading the lock file may take.
const PID_FILE_LIMIT: Duration = Duration::from_secs(1);
const EXIT_POLL: Duration = Duration::from_millis(10);

/// Whether a server heard what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    Ended,
    Unheard,
    TooSlow,
}

impl LocalPostgres {
    /// Ends our server and returns when it is gone, with all processes of its own. No server: nothing. With [`StopMode::Fast`] it
    /// may take `patience` for the checkpoint of an orderly shutdown, as long as it hears; one that hangs is ended in seconds.
    ///
    /// # Errors
    /// The limit ended. A process that even SIGKILL does not end waits for a disk.
    pub async fn stop(&self, mode: StopMode, patience: Duration, limit: &Limit) -> Result<()> {
        if !self.inner.state.borrow().is_running() {
            self.inner.state.send_if_modified(|state| {
                let died = matches!(state, ServerState::Died { .. });
                if died {
                    *state = ServerState::Stopped;
                }
                died
            });
            return Ok(());
        }
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.disconnect();
        if let Some(postmaster) = self.postmaster() {
            self.end(&postmaster, mode, patience, limit).await?;
        }
        // Its end is noticed the moment it comes.
        let mut state = self.server();
        let reaped = state.wait_for(|state| !state.is_running());
        let _ = limit.guard("stopping PostgreSQL", reaped).await?;
        self.inner.state.send_replace(ServerState::Stopped);
        Ok(())
    }

    async fn end(&self, postmaster: &Held, mode: StopMode, patience: Duration, limit: &Limit) -> Result<()> {
        if mode == StopMode::Kill {
            return kill_family(postmaster, limit).await;
        }
        if mode == StopMode::Fast {
            postmaster.signal(Signal::INT);
            match self.wait_for_end(postmaster, patience, limit).await? {
                Rung::Ended => return Ok(()),
                Rung::TooSlow => tracing::warn!(
                    "PostgreSQL did not stop within {patience:?} after a fast shutdown request"
                ),
                Rung::Unheard => {
                    tracing::warn!("the postmaster hangs: killing it and all its processes");
                    return kill_family(postmaster, limit).await;
                }
            }
        }
        postmaster.signal(Signal::QUIT);
        if self.wait_for_end(postmaster, IMMEDIATE_PATIENCE, limit).await? == Rung::Ended {
            return Ok(());
        }
        tracing::warn!(
            "PostgreSQL did not stop after an immediate shutdown request: killing it and all its processes"
        );
        kill_family(postmaster, limit).await
    }

    /// Waits for the end of a server that was told to.
    async fn wait_for_end(&self, postmaster: &Held, patience: Duration, limit: &Limit) -> Result<Rung> {
        let told = Instant::now();
        let mut heard = false;
        let left = limit.remaining().map(|left| left.saturating_sub(FOR_THE_LAST_RUNG));
        let patience = left.map_or(patience, |left| patience.min(left));
        loop {
            if postmaster.is_over() {
                return Ok(Rung::Ended);
            }
            if !heard && told.elapsed() >= HEARD_WITHIN {
                heard = self.heard(limit).await;
                if !heard {
                    return Ok(Rung::Unheard);
                }
            }
            if told.elapsed() >= patience {
                return Ok(Rung::TooSlow);
            }
            limit.pause("stopping PostgreSQL", EXIT_POLL).await?;
        }
    }

    /// Whether the postmaster says that it was told to end. One whose disk does not even show that hangs, too.
    async fn heard(&self, limit: &Limit) -> bool {
        let file = self.read_pid_file(&limit.at_most(PID_FILE_LIMIT)).await;
        file.is_ok_and(|file| file.is_some_and(|file| file.stopping))
    }

    /// Ends the sessions of all clients but the superuser and the replication user, after the server was told to read its access
    /// rules again, so that they do not come back. A server that cannot be asked for that within seconds, for whatever reason, is ended
    /// with all sessions. Returns how many were ended otherwise.
    ///
    /// # Errors
    /// It was called off, or the server could not be ended either.
    pub async fn terminate_clients(&self, limit: &Limit) -> Result<u64> {
        self.signal_server(Signal::HUP)?;
        match self.ask_to_end_clients(&limit.at_most(HEARD_WITHIN)).await {
            Ok(count) => Ok(count),
            // Nobody is in yet, or everybody is being sent away.
            Err(PostgresError::Sql { code: Some(code), .. }) if code == CANNOT_CONNECT_NOW => Ok(0),
            Err(called_off @ PostgresError::Cancelled { .. }) => Err(called_off),
            Err(error) => {
                tracing::warn!(%error, "the sessions of clients go on, and the server cannot be asked to end them: ending it with all of them");
                let patience = HEARD_WITHIN + FOR_THE_LAST_RUNG;
                let limit = limit.renewed(patience + IMMEDIATE_PATIENCE + FOR_THE_LAST_RUNG);
                self.stop(StopMode::Fast, patience, &limit).await?;
                Ok(0)
            }
        }
    }

    async fn ask_to_end_clients(&self, limit: &Limit) -> Result<u64> {
        let options = self.options();
        let sql = format!(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND usename NOT IN ({}, {})",
            sql_literal(&options.superuser.username),
            sql_literal(&options.replication.username)
        );
        let answers = self.query_anew("end the clients' sessions", &sql, limit).await?;
        let count = answers.first().and_then(|rows| rows.first()).and_then(|row| row.get(0));
        count.and_then(|count| count.parse().ok()).ok_or_else(|| unexpected("how many sessions it ended"))
    }

    /// Ends a server that runs in PGDATA and is not our child (left by a killed keeper). To be called first of all; it also kills the
    /// tools, removes the secrets and ends the exchange of data directories that a killed keeper left.
    pub async fn stop_orphan(&self, limit: &Limit) -> Result<OrphanOutcome> {
        match self.orphan(limit).await? {
            Some((pid, postmaster)) => self.end_orphan(pid, &postmaster, limit).await,
            None => Ok(OrphanOutcome::None),
        }
    }

    /// The postmaster that runs in PGDATA and is not ours, after everything else that a killed keeper left was tidied up.
    pub(crate) async fn orphan(&self, limit: &Limit) -> Result<Option<(u32, Held)>> {
        if self.inner.state.borrow().is_running() {
            return Ok(None);
        }
        self.kill_leftover_tools(limit).await?;
        let server = self.clone();
        let tidy_up = move || {
            fresh_private_directory(&server.secrets_directory())?;
            server.finish_exchange()?;
            server.live_orphan()
        };
        let orphan = self.on_disk("tidying up after the previous keeper", limit, tidy_up).await?;
        Ok(orphan.and_then(|pid| Some((pid, Held::of(pid)?))))
    }

    pub(crate) async fn end_orphan(
        &self,
        pid: u32,
        postmaster: &Held,
        limit: &Limit,
    ) -> Result<OrphanOutcome> {
        let patience = limit.remaining().map_or(ORPHAN_PATIENCE, |all| all / 3);
        self.end(postmaster, StopMode::Fast, patience, limit).await?;
        Ok(OrphanOutcome::Stopped { pid })
    }

    /// A base backup or restore command that outlived its keeper would go on writing where the next one works.
    async fn kill_leftover_tools(&self, limit: &Limit) -> Result<()> {
        let directory = &self.inner.options.keeper_directory;
        loop {
            let tools = tools_of(directory);
            if tools.is_empty() {
                return Ok(());
            }
            tools.iter().for_each(|tool| tool.signal(Signal::KILL));
            limit.pause("the end of what the previous keeper left running", EXIT_POLL).await?;
        }
    }
}

const ORPHAN_PATIENCE: Duration = Duration::from_secs(60);

/// The last rung. Sessions are in process groups of their own and outlive a postmaster that is stopped, so each is killed by its
/// number; it cannot have become another's, since the process is held.
async fn kill_family(postmaster: &Held, limit: &Limit) -> Result<()> {
    // So that nobody is born who was not seen.
    postmaster.signal(Signal::STOP);
    let family = family_of(postmaster);
    postmaster.signal(Signal::KILL);
    family.iter().for_each(|member| member.signal(Signal::KILL));
    // Said when it is true: whoever reads it may rely on no process of this server coming back from a disk that hangs.
    tracing::warn!(processes = family.len() + 1, "SIGKILL sent to the postmaster and all its processes");
    while !postmaster.is_over() || !family.iter().all(Held::is_over) {
        limit.pause("ending the processes of PostgreSQL", EXIT_POLL).await?;
    }
    Ok(())
}
