//! Applying: each step of a plan, as it is.

use std::future::Future;
use std::time::Duration;

use stolon_core::keeper::{
    ConfigFile, ConfigMerge, Goal, Ground, Identity, LocalState, OldData, Progress, RoleChange, SlotChanges,
    Stage, Step, Upstream, captured_parameters,
};
use stolon_model::{GoDuration, UsableCluster};
use stolon_postgres::instance::{FAST_STOP_PATIENCE, STOP_LIMIT};
use stolon_postgres::{BaseBackup, Disk, Limit, PostgresError, ProgressSender, SourceProblem, StopMode};
use stolon_store::WatchScope;
use tokio::time::{Instant, MissedTickBehavior};

use crate::keeper::{Applied, Keeper, PassError};
use crate::metrics::Flag;
use crate::shared::Shared;

/// How long a new standby waits for its slot before it says so and tries again.
const SLOT_PATIENCE: Duration = Duration::from_secs(10);
/// A promotion that takes longer is tried again.
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);
const START_LIMIT: Duration = Duration::from_secs(60);
const INITDB_LIMIT: Duration = Duration::from_secs(300);
/// Between log lines about a step that takes long.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Steps that only their end, or somebody else, ends.
fn takes_long(step: &Step) -> bool {
    matches!(
        step,
        Step::Restore(_)
            | Step::BaseBackup { .. }
            | Step::Rewind { .. }
            | Step::WaitRecoveryEnd(_)
            | Step::WaitReady(None)
    )
}

/// Until what is being made for `goal` is of no use for what the cluster data asks for.
async fn until_given_up(shared: &Shared, identity: &Identity, goal: &Goal) {
    let mut watch = shared.store.watch(WatchScope::ClusterData);
    loop {
        if let Ok(Some(document)) = shared.store.cluster_document().await
            && let Ok(cluster) = UsableCluster::try_from(document.value)
            && goal.is_given_up_by(&Goal::of(&cluster, identity))
        {
            return;
        }
        // A change that was missed is seen later.
        let _ = tokio::time::timeout(shared.pace().sleep, watch.changed()).await;
    }
}

impl Keeper<'_> {
    /// Takes one step, which everybody can see.
    pub(crate) async fn take(&mut self, step: &Step) -> Result<Applied, PassError> {
        let name = step.name();
        if let Some(name) = name {
            self.shared.tell(|news| news.activity.step = name.to_owned());
        }
        let outcome = match takes_long(step) {
            true => self.apply_while_wanted(step).await,
            false => self.apply(step).await,
        };
        if name.is_some() {
            self.shared.tell(|news| {
                news.activity.step.clear();
                news.activity.bytes_done = 0;
                news.activity.bytes_total = 0;
            });
            self.shared.look.notify_one();
        }
        match outcome {
            Err(error) => self.explain_failure(step, error),
            done => done,
        }
    }

    /// Takes a step, and calls it off when the cluster data asks for something that it is of no use for.
    async fn apply_while_wanted(&mut self, step: &Step) -> Result<Applied, PassError> {
        let shared = self.shared;
        let stop = self.stop.clone();
        let this_step = stop.child_token();
        let (identity, goal) = (self.identity().clone(), self.goal().clone());
        let call_off = async {
            until_given_up(shared, &identity, &goal).await;
            tracing::info!("the cluster data asks for something else, calling off what is under way");
            this_step.cancel();
            std::future::pending().await
        };
        self.stop = this_step.clone();
        let outcome = tokio::select! {
            biased;
            outcome = self.apply(step) => outcome,
            never = call_off => never,
        };
        self.stop = stop;
        match outcome {
            Err(PassError::Postgres(error)) if error.is_cancelled() && !self.stop.is_cancelled() => {
                self.read_goal().await;
                Ok(Applied::Replan)
            }
            done => done,
        }
    }

    async fn apply(&mut self, step: &Step) -> Result<Applied, PassError> {
        let postgres = self.shared.postgres.clone();
        let request = self.request_limit();
        match step {
            Step::Stop => self.stop_server().await?,
            Step::SetGate(gate) => self.memory.gate = *gate,
            Step::MarkInitializing(uid) => {
                let local = LocalState { uid: uid.clone(), initializing: true, ..LocalState::default() };
                self.write_local(local)?;
            }
            Step::Wipe(warrant) => {
                let (db, interrupted) = (warrant.instance(), warrant.ground() == Ground::HalfMade);
                tracing::info!(%db, interrupted, "removing the data directory");
                postgres.remove_data(&Limit::unlimited(&self.stop)).await?;
                self.memory.attempt.reached(Stage::Nothing);
            }
            Step::SetAside { instance, .. } => {
                let kept = postgres.set_aside(instance.as_str()).await?;
                tracing::warn!(
                    kept = %kept.display(),
                    "the data of db {instance} of another cluster were set aside: this cluster was made without stolonctl init, so nobody \
                     agreed to overwrite them; delete them when you are sure that nobody needs them"
                );
            }
            Step::InitDb(options) => {
                let limit = Limit::within(INITDB_LIMIT, &self.stop);
                postgres.initdb(options, &limit).await?;
            }
            Step::Restore(command) => self.restore(command).await?,
            Step::ExamineSource { upstream, system_identifier, slot } => {
                self.examine(upstream, system_identifier.as_deref(), slot).await?;
            }
            Step::BaseBackup { upstream, slot, warrant, .. } => {
                tracing::info!(db = %warrant.instance(), source = %upstream.host, "running pg_basebackup");
                self.base_backup(upstream, slot).await?;
            }
            Step::Rewind { upstream, warrant } => {
                tracing::info!(db = %warrant.instance(), source = %upstream.host, "running pg_rewind");
                self.rewind(upstream).await?;
            }
            Step::Configure { config, merge } => return self.configure(config, *merge).await,
            Step::Start(merge) => self.start(*merge).await?,
            Step::WaitReady(timeout) => postgres.wait_ready(&self.limit(*timeout)).await?,
            Step::WaitRecoveryEnd(timeout) => {
                let limit = self.limit(*timeout);
                self.narrated("recovering", postgres.wait_recovery_end(&limit)).await?;
                self.memory.attempt.reached(Stage::Recovered);
            }
            Step::CaptureParameters => {
                self.memory.captured =
                    Some(captured_parameters(&postgres.configured_parameters(&request).await?));
            }
            Step::SetUpRoles => {
                for line in postgres.set_up_roles(&request).await? {
                    let role = self.shared.settings.replication.username.as_str();
                    match line {
                        RoleChange::ReplicationRoleCreated => {
                            tracing::info!(role, "replication role created")
                        }
                        RoleChange::SuperuserPasswordSet => tracing::info!("superuser password set"),
                        RoleChange::ReplicationAddedToSuperuser => {
                            tracing::info!("replication role added to superuser");
                        }
                    }
                }
            }
            Step::Finish(uid) => self.finish(uid)?,
            Step::Reload => return self.reload(&request).await,
            Step::Promote => {
                let limit = Limit::within(PROMOTE_LIMIT, &self.stop);
                postgres.promote(&limit).await?;
                self.shared.reset_sync_gate();
                tracing::info!("postgres is promoted");
            }
            Step::EnsureSlots(wanted) => match postgres.refresh_slots(wanted, &request).await {
                Ok(done) => self.note_slots(done),
                // Nobody needs a standby's slots yet, and it must not be kept from its generation.
                Err(error) if self.follows() && !error.is_cancelled() => {
                    tracing::warn!(%error, "the replication slots of this standby are left as they are");
                }
                Err(error) => return Err(error.into()),
            },
            Step::TerminateClients => {
                let ended = postgres.terminate_clients(&request).await?;
                if ended > 0 {
                    tracing::warn!(sessions = ended, "ended the sessions of clients");
                }
            }
            Step::Commit(generation) => self.commit(*generation)?,
            // Not planned yet.
            Step::CheckSettings { .. } | Step::CommentOut(_) | Step::Reobserve => {}
        }
        Ok(Applied::Done)
    }

    /// What became of the slots; what stays as it is only when it is news.
    fn note_slots(&mut self, done: SlotChanges) {
        done.created.iter().for_each(|slot| tracing::info!(slot, "replication slot created"));
        done.dropped.iter().for_each(|slot| tracing::info!(slot, "replication slot dropped"));
        for (slot, why) in done.kept.iter().filter(|kept| !self.memory.kept_slots.contains(kept)) {
            tracing::warn!(slot, why, "replication slot not changed, trying again");
        }
        self.memory.kept_slots = done.kept;
    }

    fn limit(&self, timeout: Option<Duration>) -> Limit {
        match timeout {
            Some(timeout) => Limit::within(timeout, &self.stop),
            None => Limit::unlimited(&self.stop),
        }
    }

    async fn stop_server(&mut self) -> Result<(), PassError> {
        if !self.shared.postgres.server().borrow().is_running() {
            return Ok(());
        }
        tracing::info!("stopping database");
        let limit = Limit::within(STOP_LIMIT, &self.stop);
        self.shared.postgres.stop(StopMode::Fast, FAST_STOP_PATIENCE, &limit).await?;
        self.memory.applied = None;
        Ok(())
    }

    async fn start(&mut self, merge: ConfigMerge) -> Result<(), PassError> {
        self.shared.reset_sync_gate();
        let limit = Limit::within(START_LIMIT, &self.stop);
        self.shared.postgres.start(merge, &limit).await?;
        self.memory.started = Some(Instant::now());
        self.memory.applied = self.memory.configured.clone();
        self.memory.line_problems.clear();
        // It has read everything, also what an earlier reload did not take.
        self.shared.metrics.set_needs_reload(Flag::Clear);
        Ok(())
    }

    async fn reload(&mut self, limit: &Limit) -> Result<Applied, PassError> {
        self.shared.metrics.set_needs_reload(Flag::Set);
        let problems = self.shared.postgres.reload(limit).await?;
        self.shared.metrics.set_needs_reload(Flag::Clear);
        self.memory.line_problems = problems
            .iter()
            .map(|problem| match problem.name.as_str() {
                "" => format!("pg_hba.conf line {} is not in force: {}", problem.line, problem.error),
                name => format!("{name} is not in force: {}", problem.error),
            })
            .collect();
        self.memory.applied = self.memory.configured.clone();
        let refused = problems.into_iter().filter(|problem| problem.file == ConfigFile::Hba);
        let lines = refused.filter_map(|problem| Some((problem.line, problem.error)));
        Ok(if self.refuse_hba_lines(lines) { Applied::Replan } else { Applied::Done })
    }

    fn finish(&mut self, uid: &stolon_model::InstanceUid) -> Result<(), PassError> {
        let captured = self.memory.captured.take();
        self.write_local(LocalState { uid: uid.clone(), captured, ..LocalState::default() })?;
        self.memory.attempt.reached(Stage::Nothing);
        Ok(())
    }

    fn commit(&mut self, generation: i64) -> Result<(), PassError> {
        if self.local.generation == generation {
            return Ok(());
        }
        tracing::info!(db = %self.local.uid, generation, "generation reached");
        let local = LocalState { generation, initializing: false, ..self.local.clone() };
        self.write_local(local)?;
        self.shared.look.notify_one();
        Ok(())
    }

    async fn restore(&mut self, command: &str) -> Result<(), PassError> {
        let limit = Limit::unlimited(&self.stop);
        let postgres = self.shared.postgres.clone();
        let progress = ProgressSender::default();
        self.with_progress("restoring the backup", &progress, postgres.restore(command, &progress, &limit))
            .await?;
        self.memory.attempt.reached(Stage::Restored);
        Ok(())
    }

    async fn examine(&self, upstream: &Upstream, system: Option<&str>, slot: &str) -> Result<(), PassError> {
        let limit = Limit::within(SLOT_PATIENCE, &self.stop);
        match self.shared.postgres.wait_for_source(upstream, system, Some(slot), &limit).await {
            Ok(_) => Ok(()),
            Err(PostgresError::Source(problem @ SourceProblem::NeedsTls { .. })) => {
                tracing::info!("{problem}");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn base_backup(&mut self, upstream: &Upstream, slot: &str) -> Result<(), PassError> {
        let old_data = match self.memory.old_data_in_the_way {
            true => OldData::DeleteFirst,
            false => OldData::KeepUntilCopied,
        };
        let backup = BaseBackup { source: upstream.clone(), slot: Some(slot.to_owned()), old_data };
        let limit = Limit::unlimited(&self.stop);
        let postgres = self.shared.postgres.clone();
        let progress = ProgressSender::default();
        let copied = self
            .with_progress("base backup", &progress, postgres.base_backup(&backup, &progress, &limit))
            .await;
        self.memory.old_data_in_the_way =
            matches!(copied, Err(PostgresError::DiskFull { disk: Disk::Ours, .. }));
        copied?;
        self.memory.attempt.reached(Stage::Copied);
        Ok(())
    }

    async fn rewind(&mut self, upstream: &Upstream) -> Result<(), PassError> {
        let limit = Limit::unlimited(&self.stop);
        let postgres = self.shared.postgres.clone();
        let progress = ProgressSender::default();
        let rewound =
            self.with_progress("rewinding", &progress, postgres.rewind(upstream, &progress, &limit)).await;
        if let Err(error) = rewound {
            match error.is_cancelled() {
                true => self.memory.attempt.rewind_is_useless(),
                false => self.memory.attempt.rewind_failures += 1,
            }
            return Err(error.into());
        }
        self.memory.attempt.reached(Stage::Rewound);
        Ok(())
    }

    /// Waits with a log line now and then.
    async fn narrated<T>(&self, name: &str, work: impl Future<Output = T>) -> T {
        self.with_progress(name, &ProgressSender::default(), work).await
    }

    /// Shows how far a long step is, to the cluster and in the log.
    async fn with_progress<T>(
        &self,
        name: &str,
        progress: &ProgressSender,
        work: impl Future<Output = T>,
    ) -> T {
        let begun = Instant::now();
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut shown = tokio::time::interval(Duration::from_millis(250));
        shown.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = shown.tick() => {
                    let Progress { bytes_done, bytes_total } = *progress.borrow();
                    self.shared.tell(|news| {
                        news.activity.bytes_done = bytes_done;
                        news.activity.bytes_total = bytes_total;
                    });
                }
                _ = ticks.tick() => {
                    let Progress { bytes_done, bytes_total } = *progress.borrow();
                    let elapsed = GoDuration::from_seconds(begun.elapsed().as_secs().try_into().unwrap_or(i64::MAX));
                    tracing::info!(bytes_done, bytes_total, %elapsed, "{name} under way");
                }
            }
        }
    }
}
