//! Observing: facts, nothing else.

use std::collections::BTreeSet;

use stolon_core::keeper::{AlterSystem, Data, DataKind, Goal, Live, Observation, Server, Stage};
use stolon_postgres::Limit;

use crate::keeper::{Keeper, PassError};

impl Keeper<'_> {
    /// What a limit of `requestTimeout` from now gives.
    pub(crate) fn request_limit(&self) -> Limit {
        Limit::within(self.shared.pace().request, &self.stop)
    }

    /// Looks at everything that a plan depends on.
    pub(crate) async fn observe(&mut self) -> Result<Observation, PassError> {
        let limit = self.request_limit();
        let postgres = &self.shared.postgres;
        let version = postgres.version(&limit).await?;
        let data = postgres.facts().unwrap_or_else(|error| Data::Unreadable(error.to_string()));
        let kind = match &data {
            Data::Present(present) => Some(present.kind),
            _ => None,
        };
        self.show_roles(kind);
        let running = postgres.server().borrow().is_running();
        let server = match running {
            true => Server::Running(self.look(&limit).await),
            false => {
                self.memory.applied = None;
                Server::Stopped
            }
        };
        if let Server::Running(Some(live)) = &server {
            self.remember_proven(live);
        }
        if let Goal::Reach(goal) = self.goal() {
            let uid = goal.uid.clone();
            self.memory.attempt = std::mem::take(&mut self.memory.attempt).at(&uid);
            match &server {
                Server::Stopped => self.read_demands(kind, &limit).await?,
                // Recovery is over: what is asked for counts from the next restart on.
                Server::Running(Some(live)) if !live.in_recovery && !self.local.initializing => {
                    self.memory.demands = None;
                }
                Server::Running(_) => {}
            }
        }
        Ok(Observation {
            version,
            local: self.local.clone(),
            data,
            demands: self.memory.demands,
            server,
            applied: self.memory.applied.clone(),
            gate: self.memory.gate,
            refusals: self.memory.refusals.clone(),
            refused_hba: self.memory.refused_hba.clone(),
            slots_on_disk: self.slots_on_disk(),
            alter_system: match running && !postgres.is_alter_system_disabled() {
                true => AlterSystem::Possible,
                false => AlterSystem::Refused,
            },
            attempt: self.memory.attempt.clone(),
            restart_patience: self.restart_patience(),
        })
    }

    /// What a running server says; none when it does not answer.
    async fn look(&self, limit: &Limit) -> Option<Live> {
        if self.shared.postgres.says_starting() {
            return None;
        }
        let sample = match self.shared.postgres.sample(limit).await {
            Ok(sample) => sample,
            Err(error) => {
                tracing::debug!(%error, "postgres does not answer");
                return None;
            }
        };
        let in_sync = match sample.in_recovery {
            true => Vec::new(),
            false => self.shared.in_sync(&sample.synchronous_standby_names, &sample.replication, sample.lsn),
        };
        Some(Live {
            in_recovery: sample.in_recovery,
            timeline: sample.timeline,
            lsn: sample.lsn,
            history: sample.history,
            in_sync: in_sync.into_iter().collect(),
            pending_restart: sample.pending_restart,
        })
    }

    /// Data that replays WAL of another server has to be run with at least that server's limits.
    async fn read_demands(&mut self, kind: Option<DataKind>, limit: &Limit) -> Result<(), PassError> {
        let half_made = self.local.initializing && self.memory.attempt.stage != Stage::Nothing;
        self.memory.demands = match kind {
            Some(kind) if kind == DataKind::Standby || half_made => {
                Some(self.shared.postgres.control_data(limit).await?.demands)
            }
            _ => None,
        };
        Ok(())
    }

    /// PostgreSQL does not start with `max_replication_slots` below this.
    fn slots_on_disk(&self) -> BTreeSet<String> {
        let directory = self.shared.postgres.data_directory().join("pg_replslot");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}
