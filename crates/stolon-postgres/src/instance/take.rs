//! Steps, each as it is.

use std::time::Duration;

use stolon_core::keeper::{Learned, Step, Upstream};
use tokio_util::sync::CancellationToken;

use super::LocalInstance;
use crate::ending::StopMode;
use crate::error::{PostgresError, Result};
use crate::limit::Limit;
use crate::local::{BaseBackup, ProgressSender};

/// How long a new standby waits for its slot before it says so and tries again.
const SLOT_PATIENCE: Duration = Duration::from_secs(10);
/// A promotion that takes longer is tried again.
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);
/// How long a look at how far a recovery is may take.
const PROGRESS_LIMIT: Duration = Duration::from_secs(10);
/// A checkpoint writes all of `shared_buffers` at the most.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(300);
const START_LIMIT: Duration = Duration::from_secs(60);
const INITDB_LIMIT: Duration = Duration::from_secs(300);
/// How long a server may take for a fast stop before it is told to end at once.
pub const FAST_STOP_PATIENCE: Duration = Duration::from_secs(60);
/// The same where a successor waits: after so long the change is taken back (docs/design/007-hand-over.md).
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a stop may take in all.
pub const STOP_LIMIT: Duration = Duration::from_secs(90);

impl LocalInstance {
    pub(super) async fn run(
        &self,
        step: &Step,
        request_timeout: Duration,
        progress: &ProgressSender,
        cancel: &CancellationToken,
    ) -> Result<Learned> {
        let postgres = &self.postgres;
        let within = |duration| Limit::within(duration, cancel);
        let request = within(request_timeout);
        let unlimited = Limit::unlimited(cancel);
        let unless_none = |timeout: Option<Duration>| timeout.map_or_else(|| unlimited.clone(), within);
        match step {
            Step::Stop => {
                postgres.stop(StopMode::Fast, FAST_STOP_PATIENCE, &within(STOP_LIMIT)).await?;
            }
            Step::HandOver => {
                postgres.stop(StopMode::Fast, HAND_OVER_PATIENCE, &within(STOP_LIMIT)).await?;
            }
            Step::Kill => postgres.stop(StopMode::Kill, Duration::ZERO, &request).await?,
            Step::Wipe(_) => postgres.remove_data(&unlimited).await?,
            Step::SetAside { instance, .. } => {
                let kept = postgres.set_aside(instance.as_str(), &within(STOP_LIMIT)).await?;
                return Ok(Learned::KeptAt(kept.display().to_string()));
            }
            Step::InitDb(options) => postgres.initdb(options, &within(INITDB_LIMIT)).await?,
            Step::Restore(command) => postgres.restore(command, progress, &unlimited).await?,
            Step::ExamineSource { upstream, system_identifier, slot } => {
                self.examine(upstream, system_identifier.as_deref(), slot, &within(SLOT_PATIENCE)).await?;
            }
            Step::Archive => postgres.archive_what_is_left(&unlimited).await?,
            Step::BaseBackup { upstream, slot, old_data, .. } => {
                let (source, slot) = (upstream.clone(), Some(slot.clone()));
                let backup = BaseBackup { source, slot, old_data: *old_data };
                postgres.base_backup(&backup, progress, &unlimited).await?;
            }
            Step::Rewind { upstream, .. } => postgres.rewind(upstream, progress, &unlimited).await?,
            Step::CheckSettings { config, merge } => {
                return Ok(Learned::Rejected(postgres.check_settings(config, *merge, &request).await?));
            }
            Step::CommentOut(rejected) => postgres.comment_out(rejected, &request).await?,
            Step::Configure { config, merge } => {
                postgres.write_config(config, *merge, &request).await?;
            }
            Step::Start(merge) => postgres.start(*merge, &within(START_LIMIT)).await?,
            Step::WaitReady(patience) => self.wait_ready(*patience, &unlimited).await?,
            Step::WaitFollowing(patience) => tokio::select! {
                biased;
                lacking = postgres.until_it_lacks_wal() => return Err(lacking),
                ready = self.wait_ready(*patience, &unlimited) => ready?,
            },
            Step::WaitRecoveryEnd(timeout) => postgres.wait_recovery_end(&unless_none(*timeout)).await?,
            Step::CaptureParameters => {
                return Ok(Learned::Configured(postgres.configured_parameters(&request).await?));
            }
            Step::SetUpRoles => return Ok(Learned::Roles(postgres.set_up_roles(&request).await?)),
            Step::Reload => return Ok(Learned::NotInForce(postgres.reload(&request).await?)),
            Step::Promote => postgres.promote(&within(PROMOTE_LIMIT)).await?,
            Step::EnsureSlots(wanted) => {
                return Ok(Learned::Slots(postgres.refresh_slots(wanted, &request).await?));
            }
            Step::DropSlots(slots) => {
                return Ok(Learned::Slots(postgres.drop_slots(slots.keys(), &request).await?));
            }
            Step::AdvanceSlots(slots) => {
                return Ok(Learned::Slots(postgres.advance_slots(slots, &request).await?));
            }
            Step::DropStaleSlots(slots) => {
                return Ok(Learned::Slots(postgres.drop_slots(slots.iter(), &request).await?));
            }
            Step::Checkpoint(_) => postgres.checkpoint(&within(CHECKPOINT_LIMIT)).await?,
            Step::TerminateClients => {
                return Ok(Learned::SessionsEnded(postgres.terminate_clients(&request).await?));
            }
            Step::SetGate(_)
            | Step::MarkInitializing(_)
            | Step::Finish(_)
            | Step::Commit(_)
            | Step::TakeAsRewound
            | Step::Reobserve => {
                return Err(PostgresError::Invalid(format!("{step:?} is no step of an instance")));
            }
        }
        Ok(Learned::Nothing)
    }

    /// A server that recovers may take long, and is given up only when it has shown no progress for `patience`.
    async fn wait_ready(&self, patience: Option<Duration>, unlimited: &Limit) -> Result<()> {
        let Some(patience) = patience else { return self.postgres.wait_ready(unlimited).await };
        let look = || async { self.postgres.recovery_progress(&unlimited.at_most(PROGRESS_LIMIT)).await };
        let mut seen = look().await;
        loop {
            match self.postgres.wait_ready(&unlimited.at_most(patience)).await {
                Err(PostgresError::Timeout { what }) => {
                    let now = look().await;
                    if now == seen {
                        return Err(PostgresError::Timeout { what });
                    }
                    seen = now;
                }
                ended => return ended,
            }
        }
    }

    async fn examine(
        &self,
        upstream: &Upstream,
        system_identifier: Option<&str>,
        slot: &str,
        limit: &Limit,
    ) -> Result<()> {
        self.postgres.wait_for_source(upstream, system_identifier, Some(slot), limit).await?;
        Ok(())
    }
}
