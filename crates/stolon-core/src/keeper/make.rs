//! Making an instance that is not here yet, or not complete.

use stolon_model::{InstanceUid, PitrConfig};

use crate::timeline::{Branch, is_different_branch};
use crate::wal_file;

use super::configuration::{config, upstream, usable};
use super::goal::{Follow, InstanceGoal, InstanceRole, Make, Peer, Reuse};
use super::hba::Admission;
use super::observation::{Config, Data, Gate, Observation, REWIND_ATTEMPTS, Server, Stage};

use super::parameters::WalLevel;
use super::recovery::{RecoveryMode, RecoverySettings, exclusive_targets};
use super::step::{ConfigMerge, Plan, Reason, Step, Trouble};
use super::warrant::{DestroyWarrant, Ground, assigned_anew, half_made, to_set_aside};

/// What a recovery without an archive runs to fetch WAL: there is none.
const NO_ARCHIVE: &str = "false";

/// The next steps of making the wanted instance.
pub(super) fn plan(goal: &InstanceGoal, seen: &Observation) -> Plan {
    let warrant = half_made(goal, seen).or_else(|| assigned_anew(goal, seen));
    match (&goal.make, warrant) {
        (Make::New(options), Some(warrant)) => {
            let mut steps = begin(goal, seen, warrant.clone());
            steps.push(Step::InitDb(options.clone()));
            let config = config(goal, seen, RecoverySettings::default(), Admission::OnlyInternal);
            steps.extend(first_start(goal, config));
            steps.extend(capture(goal));
            steps.push(Step::SetUpRoles);
            steps.extend(finish(goal));
            Plan { steps, because: vec![ground(&warrant), Reason::New], ..Plan::default() }
        }
        (Make::Restore(pitr), Some(warrant)) => restore(goal, seen, pitr, warrant),
        (Make::Resync { source, rewind_against, reuse }, Some(warrant)) => match source {
            Some(source) if source.status.listen_address.is_empty() => {
                stopped(Trouble::NoAddress(source.uid.clone()))
            }
            Some(source) if *reuse == Reuse::Allowed && follows_as_it_is(seen, source) => {
                follow_as_it_is(goal, seen, source, &warrant)
            }
            Some(source) => resync(goal, seen, source, rewind_against.as_deref(), warrant),
            None => stopped(Trouble::SourceMissing),
        },
        (Make::Adopt, _) => adopt(goal, seen),
        (Make::Unknown(why), _) => Plan::stuck(Trouble::CannotBeMade(why.clone())),
        (Make::NotAllowed(refused), _) => Plan::stuck(Trouble::NotAllowed(*refused)),
        _ if seen.local.initializing => stopped(Trouble::DataLost(goal.uid.clone())),
        _ => Plan::stuck(Trouble::DataLost(goal.uid.clone())),
    }
}

fn ground(warrant: &DestroyWarrant) -> Reason {
    match warrant.ground() {
        Ground::AssignedAnew => Reason::AssignedAnew,
        Ground::HalfMade => Reason::HalfMade,
    }
}

/// What runs here is not what is wanted, even if what is wanted cannot be made yet.
fn stopped(trouble: Trouble) -> Plan {
    Plan { steps: vec![Step::Stop], ..Plan::stuck(trouble) }
}

/// From here on the old data is lost, so this comes after everything that only looks.
fn begin(goal: &InstanceGoal, seen: &Observation, warrant: DestroyWarrant) -> Vec<Step> {
    let mut steps = vec![Step::Stop, Step::SetGate(Gate::Open)];
    steps.extend(set_aside(goal, seen, &warrant));
    steps.extend([Step::MarkInitializing(goal.uid.clone()), Step::Wipe(warrant)]);
    steps
}

/// Before anything is written down about the new instance: a keeper that dies in between finds the old one, or none.
fn set_aside(goal: &InstanceGoal, seen: &Observation, warrant: &DestroyWarrant) -> Option<Step> {
    to_set_aside(goal, seen).map(|instance| Step::SetAside { instance, warrant: warrant.clone() })
}

/// The first start of new or foreign data, whose own `postgresql.conf` counts.
fn first_start(goal: &InstanceGoal, config: Config) -> Vec<Step> {
    let mode = config.recovery.mode;
    let timeout = match mode {
        RecoveryMode::None => goal.ready_timeout,
        RecoveryMode::Standby | RecoveryMode::Recovery => goal.sync_timeout,
    };
    let merge = ConfigMerge::WithExisting;
    let mut steps = vec![Step::Configure { config: Box::new(config), merge }, Step::Start(merge)];
    if mode == RecoveryMode::Recovery {
        steps.push(Step::WaitRecoveryEnd(timeout));
    }
    steps.push(Step::WaitReady(timeout));
    steps
}

/// The configuration of data that come from elsewhere. What was written with `wal_level = logical` keeps it, unless the operator asks for
/// something else: publications would stop without a word, and a server with logical slots does not start with less (PostgreSQL
/// manual, "Logical Decoding Concepts").
fn of_foreign_data(goal: &InstanceGoal, seen: &Observation, recovery: RecoverySettings) -> Config {
    let mut config = config(goal, seen, recovery, Admission::OnlyInternal);
    let is_asked_for = goal.parameters.user.keys().any(|name| name.eq_ignore_ascii_case("wal_level"));
    if seen.wal_level == WalLevel::Logical && !is_asked_for {
        config.parameters.insert("wal_level".to_owned(), "logical".to_owned());
    }
    config
}

/// Parameters of the first instance that are to be taken over into the specification.
fn capture(goal: &InstanceGoal) -> Option<Step> {
    goal.parameters.include_captured.then_some(Step::CaptureParameters)
}

fn finish(goal: &InstanceGoal) -> [Step; 3] {
    [Step::Stop, Step::Finish(goal.uid.clone()), Step::Reobserve]
}

/// Adoption is written down only when it has succeeded, so that a failure in the middle is tried again.
fn adopt(goal: &InstanceGoal, seen: &Observation) -> Plan {
    if seen.local.initializing {
        return stopped(Trouble::NothingToAdopt("what is there is half-made".to_owned()));
    }
    if let Err(trouble) = usable(goal, seen) {
        return stopped(match trouble {
            Trouble::DataGone { missing, .. } => Trouble::NothingToAdopt(missing),
            other => other,
        });
    }
    let mut steps = vec![Step::Stop, Step::SetGate(Gate::Open)];
    steps.extend(first_start(goal, of_foreign_data(goal, seen, RecoverySettings::default())));
    steps.extend(capture(goal));
    steps.extend(finish(goal));
    Plan::of(Reason::Adopt, steps)
}

fn restore(goal: &InstanceGoal, seen: &Observation, pitr: &PitrConfig, warrant: DestroyWarrant) -> Plan {
    let recovery = match restore_settings(goal, seen, pitr) {
        Ok(settings) => settings,
        Err(trouble) => return stopped(trouble),
    };
    let stage = seen.attempt.stage;
    if warrant.ground() == Ground::AssignedAnew || !matches!(stage, Stage::Restored | Stage::Recovered) {
        let reasons = vec![ground(&warrant), Reason::Restore];
        let mut steps = begin(goal, seen, warrant);
        steps.extend([Step::Restore(pitr.data_restore_command.clone()), Step::Reobserve]);
        return Plan { steps, because: reasons, ..Plan::default() };
    }
    if let Err(trouble) = usable(goal, seen) {
        // Fetched again after a pause: the operator may have mended the backup.
        let mut steps = begin(goal, seen, warrant);
        steps.push(Step::Restore(pitr.data_restore_command.clone()));
        return Plan { because: vec![Reason::Restore], ..Plan { steps, ..Plan::stuck(trouble) } };
    }
    let recovery = if stage == Stage::Recovered { RecoverySettings::default() } else { recovery };
    let mut steps = vec![Step::Stop, Step::SetGate(Gate::Open)];
    steps.extend(first_start(goal, of_foreign_data(goal, seen, recovery)));
    steps.extend(capture(goal));
    steps.extend(finish(goal));
    Plan::of(Reason::Recover, steps)
}

/// PostgreSQL 12 and newer refuse recovery without a restore command: where nothing must be fetched beyond the
/// backup itself, a command that finds nothing stands for the archive that is not there.
fn restore_settings(
    goal: &InstanceGoal,
    seen: &Observation,
    pitr: &PitrConfig,
) -> Result<RecoverySettings, Trouble> {
    let archive = pitr.archive_recovery_settings.as_ref();
    if let InstanceRole::Standby(Follow::External { standby, .. }) = &goal.role {
        return Ok(RecoverySettings::external_standby(standby.as_ref(), archive, seen.version));
    }
    let target = pitr.recovery_target_settings.as_ref();
    let mut settings = RecoverySettings::to_target(archive, target, seen.version);
    let exclusive = exclusive_targets(&settings.parameters);
    if exclusive.len() > 1 {
        return Err(Trouble::SeveralTargets(exclusive.join(", ")));
    }
    if settings.parameters.get("restore_command").is_none_or(|command| command.trim().is_empty()) {
        if !exclusive.is_empty() {
            return Err(Trouble::NoRestoreCommand);
        }
        settings.parameters.insert("restore_command".to_owned(), NO_ARCHIVE.to_owned());
    }
    Ok(settings)
}

fn resync(
    goal: &InstanceGoal,
    seen: &Observation,
    source: &Peer,
    primary: Option<&Peer>,
    warrant: DestroyWarrant,
) -> Plan {
    let stage = match warrant.ground() {
        Ground::HalfMade => seen.attempt.stage,
        Ground::AssignedAnew => Stage::Nothing,
    };
    match (stage, &seen.server) {
        (Stage::Rewound, Server::Running(Some(live))) => {
            let here = Branch { timeline: live.timeline, lsn: live.lsn, history: &live.history };
            if is_different_branch(Branch::from(&source.status), here) {
                return copy(goal, seen, source, warrant, Reason::OtherBranch);
            }
            Plan::of(Reason::Copy(source.uid.clone()), vec![Step::Finish(goal.uid.clone()), Step::Reobserve])
        }
        (Stage::Rewound | Stage::Copied, _) if usable(goal, seen).is_ok() => {
            start_copy(goal, seen, source, stage)
        }
        _ => match primary.filter(|_| can_rewind(seen, source)) {
            Some(primary) => rewind(goal, seen, source, primary, warrant),
            None => {
                let other = usable(goal, seen).err().filter(|_| stage == Stage::Copied);
                copy(goal, seen, source, warrant, Reason::Copy(source.uid.clone())).troubled(other)
            }
        },
    }
}

/// Whether what is here is a primary that was stopped in order, and that its source has left beyond the end: it has nothing that the
/// source has not (PostgreSQL manual, `pg_rewind`: no rewind is needed then).
fn follows_as_it_is(seen: &Observation, source: &Peer) -> bool {
    let (Some(end), Server::Stopped) = (seen.ended, &seen.server) else { return false };
    let status = &source.status;
    let mut forks = status.timelines_history.iter().flatten();
    let is_beyond = forks.any(|fork| fork.timeline == end.timeline && fork.switch_point > end.checkpoint);
    let same_system = matches!(&seen.data, Data::Present(present)
        if present.system_identifier == status.system_identifier && seen.version.runs_data_of(present.version));
    !seen.local.initializing && same_system && status.timeline > end.timeline && is_beyond
}

fn follow_as_it_is(goal: &InstanceGoal, seen: &Observation, source: &Peer, warrant: &DestroyWarrant) -> Plan {
    let steps = vec![
        Step::SetGate(Gate::Open),
        examine(goal, seen, source),
        Step::MarkInitializing(goal.uid.clone()),
        Step::TakeAsRewound,
        Step::Reobserve,
    ];
    let because = vec![ground(warrant), Reason::FollowAsItIs(source.uid.clone())];
    Plan { steps, because, ..Plan::default() }
}

/// What was left half-made, be it for another instance, may be the middle, or the unfinished end, of a rewind: another one would take
/// it for a server that crashed, recover it on the source's timeline, and find nothing to do.
///
/// A standby that is only behind has nothing to be rewound, and lacks the same WAL afterwards (PostgreSQL manual, "pg_rewind").
fn can_rewind(seen: &Observation, source: &Peer) -> bool {
    if seen.position.is_some_and(|position| wal_file::is_before(position, &source.status.older_wal_file)) {
        return false;
    }
    if seen.local.initializing && seen.attempt.rewind_failures == 0 {
        return false;
    }
    let same_system = matches!(&seen.data, Data::Present(present)
        if present.system_identifier == source.status.system_identifier
            && seen.version.runs_data_of(present.version));
    same_system && seen.attempt.rewind_failures < REWIND_ATTEMPTS
}

fn examine(goal: &InstanceGoal, seen: &Observation, peer: &Peer) -> Step {
    let upstream = upstream(goal, seen, peer);
    let system = &peer.status.system_identifier;
    Step::ExamineSource {
        slot: upstream.application_name.clone(),
        system_identifier: (!system.is_empty()).then(|| system.clone()),
        upstream,
    }
}

/// WAL that the old server did not archive in its life is nowhere else, once its data are rewound or replaced. What was left half-made may
/// hold what its source has yet to archive, and will; data of another cluster have an archive of their own.
fn archive(seen: &Observation, source: &Peer, warrant: &DestroyWarrant) -> Option<Step> {
    let was_ours = !seen.local.initializing && seen.local.uid != InstanceUid::default();
    let same_system = matches!(&seen.data, Data::Present(present)
        if present.system_identifier == source.status.system_identifier);
    (warrant.ground() == Ground::AssignedAnew && was_ours && same_system).then_some(Step::Archive)
}

fn rewind(
    goal: &InstanceGoal,
    seen: &Observation,
    source: &Peer,
    primary: &Peer,
    warrant: DestroyWarrant,
) -> Plan {
    let mut steps = vec![Step::Stop, Step::SetGate(Gate::Open), examine(goal, seen, source)];
    steps.extend(archive(seen, source, &warrant));
    steps.extend([
        Step::MarkInitializing(goal.uid.clone()),
        Step::Rewind { upstream: upstream(goal, seen, primary), warrant: warrant.clone() },
        Step::Reobserve,
    ]);
    Plan { steps, because: vec![ground(&warrant), Reason::Rewind(primary.uid.clone())], ..Plan::default() }
}

fn copy(
    goal: &InstanceGoal,
    seen: &Observation,
    source: &Peer,
    warrant: DestroyWarrant,
    why: Reason,
) -> Plan {
    let reasons = vec![ground(&warrant), why];
    let upstream = upstream(goal, seen, source);
    let mut steps = vec![Step::Stop, Step::SetGate(Gate::Open), examine(goal, seen, source)];
    steps.extend(archive(seen, source, &warrant));
    steps.extend(set_aside(goal, seen, &warrant));
    steps.extend([
        Step::MarkInitializing(goal.uid.clone()),
        Step::BaseBackup {
            slot: upstream.application_name.clone(),
            upstream,
            old_data: seen.attempt.old_data,
            warrant,
        },
        Step::Reobserve,
    ]);
    Plan { steps, because: reasons, ..Plan::default() }
}

/// What was copied has to start before it counts; what was rewound has to come up, too.
fn start_copy(goal: &InstanceGoal, seen: &Observation, source: &Peer, stage: Stage) -> Plan {
    let settings = RecoverySettings::internal_standby(upstream(goal, seen, source), seen.version);
    let config = config(goal, seen, settings, Admission::Everybody);
    let merge = ConfigMerge::Replace;
    let mut steps = Vec::new();
    if !seen.is_running() {
        steps.extend([Step::Configure { config: Box::new(config), merge }, Step::Start(merge)]);
    }
    match stage {
        Stage::Rewound => steps.push(Step::WaitFollowing(goal.ready_timeout)),
        _ => steps.push(Step::Finish(goal.uid.clone())),
    }
    steps.push(Step::Reobserve);
    Plan::of(Reason::Copy(source.uid.clone()), steps)
}
