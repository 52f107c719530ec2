//! Bringing an instance that is here to what it is asked to be.

use std::collections::BTreeSet;

use stolon_model::InstanceUid;

use super::configuration::{config, upstream, usable};
use super::goal::{Deposed, Follow, InstanceGoal, PrimaryGoal, RestartPolicy};
use super::hba::Admission;
use super::observation::{AlterSystem, Config, DataKind, Gate, Lease, Live, Observation, Patience, Server};

use super::recovery::{RecoveryMode, RecoverySettings};
use super::slot_sync::{SYNCHRONIZED_SLOTS, stale};
use super::slots::{to_advance, to_let_go, wanted};
use super::step::{AtFailure, ConfigMerge, NextLook, PendingRestart, Plan, Reason, Step, Trouble};
use crate::postgres::{RESTART_AFTER_CRASH, is_recovery_parameter, is_standby_limit};
use crate::settings::may_need_restart;
use crate::timeline::Mark;

/// The parameter that names the standbys that commits wait for.
const SYNCHRONOUS_NAMES: &str = "synchronous_standby_names";

/// Why no ordinary client may be on a primary, whatever else is asked of it: another one was elected, or may have been.
fn shut(wanted: &PrimaryGoal, seen: &Observation) -> Option<Reason> {
    match (&wanted.deposed, seen.lease) {
        (Some(Deposed::By(elected)), _) => Some(Reason::Deposed(elected.clone())),
        (Some(Deposed::Beforehand), _) => Some(Reason::Fenced),
        (None, Lease::Over) => Some(Reason::LeaseOver),
        (None, Lease::Unlimited | Lease::Read | Lease::Pledged) => None,
    }
}

/// A primary that is shut because its lease is over opens as one that was started: in synchronous mode it shows what nobody has acknowledged
/// only when its standbys follow.
fn close_gate(wanted: &PrimaryGoal, seen: &Observation) -> Option<Step> {
    let is_fenced = wanted.deposed.is_none() && seen.lease == Lease::Over;
    (is_fenced && seen.gate == Gate::Open).then_some(Step::SetGate(Gate::Closed))
}

/// Whether a primary that is started lets clients in at once. Pledges are looked at again when it works.
fn gate_at_start(wanted: &PrimaryGoal, seen: &Observation) -> Gate {
    match seen.lease {
        Lease::Pledged | Lease::Over => Gate::Closed,
        Lease::Unlimited | Lease::Read if wanted.synchronous.is_some() => Gate::Closed,
        Lease::Unlimited | Lease::Read => Gate::Open,
    }
}

/// The next steps of a primary.
pub(super) fn primary(goal: &InstanceGoal, wanted: &PrimaryGoal, seen: &Observation) -> Plan {
    let shut = shut(wanted, seen);
    if let Err(trouble) = usable(goal, seen) {
        // Its clients cannot be locked out of what cannot be configured.
        let stop = (shut.is_some() && seen.is_running()).then_some(Step::Stop);
        let (because, steps) = (shut.into_iter().collect(), stop.into_iter().collect());
        return Plan { because, steps, ..Plan::stuck(trouble) };
    }
    let admission = match (&shut, seen.gate) {
        (None, Gate::Open) => Admission::Everybody,
        _ => Admission::OnlyInternal,
    };
    let ready = Step::WaitReady(goal.ready_timeout);
    match &seen.server {
        Server::Stopped => {
            let gate = gate_at_start(wanted, seen);
            let admission = if gate == Gate::Closed { Admission::OnlyInternal } else { admission };
            let config = config(goal, seen, RecoverySettings::default(), admission);
            let mut steps = vec![Step::SetGate(gate)];
            steps.extend(start(&config));
            steps.extend([ready, Step::Reobserve]);
            Plan::of(Reason::NotRunning, steps).with_problems(&config)
        }
        // Whoever does not answer us may still answer the clients that it has.
        Server::Running(None) if shut.is_some() => {
            let config = config(goal, seen, RecoverySettings::default(), admission);
            let configure = Step::Configure { config: Box::new(config.clone()), merge: ConfigMerge::Replace };
            let close = close_gate(wanted, seen).into_iter();
            let steps = close.chain([configure, Step::TerminateClients, ready, Step::Reobserve]).collect();
            let (because, at_failure) = (shut.into_iter().collect(), AtFailure::Stop);
            Plan { because, steps, at_failure, ..Plan::default() }.with_problems(&config)
        }
        Server::Running(None) => Plan::of(Reason::NotReady, vec![ready, Step::Reobserve]),
        // Another one was elected before this one was promoted: one primary is enough.
        Server::Running(Some(live)) if live.in_recovery && wanted.deposed.is_some() => {
            Plan { because: shut.into_iter().collect(), ..Plan::default() }
        }
        Server::Running(Some(live)) if live.in_recovery => promote(goal, wanted, seen, live, admission),
        Server::Running(Some(live)) => {
            let config = config(goal, seen, RecoverySettings::default(), admission);
            serve(goal, wanted, seen, live, config)
        }
    }
}

/// A standby that becomes the primary.
///
/// Clients that are connected to a standby can write the moment it is promoted, before anybody configures it as a primary, and a keeper may
/// die just then. In synchronous mode the names that commits wait for are therefore in force before: a predecessor may be elected again
/// only because its successor has acknowledged nothing (docs: "No acknowledged commit is lost in synchronous mode").
///
/// A host that was set back meanwhile lacks what its standby was elected for: the sentinel chooses another one once it has read that.
fn promote(
    goal: &InstanceGoal,
    wanted: &PrimaryGoal,
    seen: &Observation,
    live: &Live,
    admission: Admission,
) -> Plan {
    let own = Mark { timeline: live.timeline, lsn: live.lsn };
    if wanted.was_at.is_missed_at(own) {
        let trouble =
            Trouble::WentBack { instance: goal.uid.clone(), own: own.lsn, before: wanted.was_at.lsn };
        return Plan { next_look: NextLook::Soon, ..Plan::stuck(trouble) };
    }
    let mut plan = Plan::of(Reason::Elected, Vec::new());
    if wanted.synchronous.is_some() {
        let config = until_promoted(goal, seen, admission);
        let changes = changes(seen, &config);
        if !changes.is_empty() {
            plan.because.extend(changes);
            plan.steps.extend(reload(&config));
        }
    }
    plan.steps.extend([Step::Promote, Step::Reobserve]);
    plan
}

/// What a standby works with, and the names of a primary. Where it is not known what the standby works with, it is a standby of nobody.
fn until_promoted(goal: &InstanceGoal, seen: &Observation, admission: Admission) -> Config {
    let of_primary = |recovery| config(goal, seen, recovery, admission);
    let Some(applied) = &seen.applied else {
        return of_primary(RecoverySettings::external_standby(None, None, seen.version));
    };
    let mut wanted = of_primary(RecoverySettings::default()).parameters;
    let mut config = applied.clone();
    // Consumers of logical slots may be connected the moment after, too, and a session may crash then.
    for name in [SYNCHRONOUS_NAMES, SYNCHRONIZED_SLOTS, RESTART_AFTER_CRASH.name] {
        match wanted.remove(name) {
            Some(names) => config.parameters.insert(name.to_owned(), names),
            None => config.parameters.remove(name),
        };
    }
    config
}

/// A primary that runs.
fn serve(goal: &InstanceGoal, wanted: &PrimaryGoal, seen: &Observation, live: &Live, config: Config) -> Plan {
    let mut plan = Plan::default().with_problems(&config);
    let shut = shut(wanted, seen);
    if let Some(why) = shut.clone() {
        plan.trouble = (why == Reason::LeaseOver).then_some(Trouble::LeaseOver);
        plan.because.push(why);
        plan.at_failure = AtFailure::Stop;
    }
    // Slots first: standbys wait for them, and lists of synchronous standbys name who needs them. But nothing may
    // keep clients from being locked out.
    match &shut {
        None => plan.steps.extend(slots(goal, seen, live)),
        Some(_) => plan.steps.extend(close_gate(wanted, seen)),
    }
    let changes = changes(seen, &config);
    // Whom it followed means nothing to a primary: one that was just promoted is ready without it. Clients wait for that, and for what is asked
    // of it next, with which it is written.
    let is_awaited = shut.is_none() && seen.local.generation != goal.generation;
    let can_wait = is_awaited && changes.iter().all(|why| matches!(why, Reason::FollowChanged(_)));
    if !changes.is_empty() && !can_wait {
        plan.because.extend(changes);
        plan.steps.extend(reload(&config));
    }
    if shut.is_some() {
        // Whether the server has taken its files is waited for only once its clients are out.
        let reload = plan.steps.pop_if(|step| matches!(step, Step::Reload));
        plan.steps.push(Step::TerminateClients);
        plan.steps.extend(reload);
        plan.steps.extend(slots(goal, seen, live));
    }
    if plan.because.is_empty() && seen.gate == Gate::Closed {
        match &wanted.synchronous {
            // A restarted server shows what it had flushed, also what nobody has acknowledged.
            Some(standbys) if !hold_everything(wanted, standbys, live) || !wanted.may_return.is_empty() => {
                plan.because.push(Reason::Gated);
                plan.next_look = NextLook::Soon;
            }
            synchronous => {
                plan.because.push(match synchronous {
                    Some(_) => Reason::GateOpens,
                    None => Reason::LetIn,
                });
                plan.steps.push(Step::SetGate(Gate::Open));
                plan.steps.extend(reload(&for_everybody(goal, seen)));
                plan.steps.push(Step::Reobserve);
                return plan;
            }
        }
    }
    if seen.gate == Gate::Closed && shut.is_none() {
        plan.next_look = NextLook::Soon;
    }
    let mut plan = restart_or_commit(goal, seen, live, config, plan, wanted.synchronous.is_some());
    if let (Some(change), Some(Step::Commit(_))) = (&wanted.checkpoint_for, plan.steps.last())
        && seen.checkpoint_tried.as_ref() != Some(change)
    {
        plan.steps.push(Step::Checkpoint(change.clone()));
    }
    plan
}

/// Whether everything that a primary shows is on as many standbys as commits wait for.
fn hold_everything(wanted: &PrimaryGoal, standbys: &BTreeSet<InstanceUid>, live: &Live) -> bool {
    match &wanted.quorum {
        Some(quorum) => live.quorum.as_ref() == Some(quorum),
        None => live.in_sync == *standbys,
    }
}

fn for_everybody(goal: &InstanceGoal, seen: &Observation) -> Config {
    config(goal, seen, RecoverySettings::default(), Admission::Everybody)
}

/// The next steps of a standby.
pub(super) fn standby(goal: &InstanceGoal, follow: &Follow, seen: &Observation) -> Plan {
    let present = match usable(goal, seen) {
        Ok(present) => present,
        Err(trouble) => return Plan::stuck(trouble),
    };
    let recovery = match follow {
        Follow::Missing(uid) => return Plan::stuck(Trouble::FollowedMissing(uid.clone())),
        Follow::Internal(peer) if peer.status.listen_address.is_empty() => {
            return Plan::stuck(Trouble::NoAddress(peer.uid.clone()));
        }
        Follow::Internal(peer) => {
            RecoverySettings::internal_standby(upstream(goal, seen, peer), seen.version)
        }
        Follow::Stopped(_) => RecoverySettings::external_standby(None, None, seen.version),
        Follow::External { standby, archive } => {
            RecoverySettings::external_standby(standby.as_ref(), archive.as_ref(), seen.version)
        }
    };
    if present.kind == DataKind::Primary {
        return Plan::stuck(Trouble::CannotDemote);
    }
    let config = config(goal, seen, recovery, Admission::Everybody);
    let Server::Running(live) = &seen.server else {
        let mut steps = vec![Step::SetGate(Gate::Open)];
        steps.extend(start(&config));
        steps.extend(commit_unless_first(goal, seen));
        steps.push(Step::Reobserve);
        return Plan::of(Reason::NotRunning, steps).with_problems(&config);
    };
    let mut plan = Plan::default().with_problems(&config);
    if seen.gate == Gate::Closed {
        // It was to be a primary for a moment. A later promotion in place must not find the gate closed.
        plan.steps.push(Step::SetGate(Gate::Open));
    }
    let needing_start = restart_only_differences(seen, live.as_ref(), &config);
    if !needing_start.is_empty() {
        plan.because.push(Reason::FollowChangedRestart(needing_start.join(", ")));
        plan.steps.push(Step::Stop);
        plan.steps.extend(start(&config));
        plan.steps.extend(commit_unless_first(goal, seen));
        plan.steps.push(Step::Reobserve);
        return plan;
    }
    let changes = changes(seen, &config);
    if !changes.is_empty() {
        plan.because.extend(changes);
        plan.steps.extend(reload(&config));
    }
    let Some(live) = live else {
        plan.steps.extend(commit_unless_first(goal, seen));
        plan.next_look = NextLook::Soon;
        return plan;
    };
    plan.steps.extend(slots(goal, seen, live));
    restart_or_commit(goal, seen, live, config, plan, false)
}

/// A standby that has been complete before reaches its generation when it is started. One that was just copied has
/// to answer first: until then the sentinel counts it neither as good nor as failed.
fn commit_unless_first(goal: &InstanceGoal, seen: &Observation) -> Option<Step> {
    (seen.local.generation != 0).then_some(Step::Commit(goal.generation))
}

fn start(config: &Config) -> [Step; 2] {
    let merge = ConfigMerge::Replace;
    [Step::Configure { config: Box::new(config.clone()), merge }, Step::Start(merge)]
}

fn reload(config: &Config) -> [Step; 2] {
    [Step::Configure { config: Box::new(config.clone()), merge: ConfigMerge::Replace }, Step::Reload]
}

/// Slots of the dead that hold too much are let go before all are made that must be.
fn slots(goal: &InstanceGoal, seen: &Observation, live: &Live) -> Vec<Step> {
    let let_go = to_let_go(goal, seen, live);
    let drop = (!let_go.is_empty()).then_some(Step::DropSlots(let_go));
    let stale = stale(&goal.parameters.slot_sync, live);
    let drop_stale = (!stale.is_empty()).then_some(Step::DropStaleSlots(stale));
    let ensure = Step::EnsureSlots(wanted(goal, seen, live));
    let behind = to_advance(goal, seen, live);
    let advance = (!behind.is_empty()).then_some(Step::AdvanceSlots(behind));
    drop.into_iter().chain(drop_stale).chain([ensure]).chain(advance).collect()
}

/// What differs between the configuration in force and the wanted one.
fn changes(seen: &Observation, config: &Config) -> Vec<Reason> {
    let applied = match &seen.applied {
        None => return vec![Reason::ParametersChanged],
        Some(applied) => applied,
    };
    let mut changes = Vec::new();
    if applied.parameters != config.parameters {
        changes.push(Reason::ParametersChanged);
        let names = |config: &Config| config.parameters.get(SYNCHRONOUS_NAMES).cloned();
        let (from, to) = (names(applied).unwrap_or_default(), names(config).unwrap_or_default());
        if from != to {
            changes.push(Reason::SynchronousNamesChanged { from, to });
        }
    }
    if seen.alter_system == AlterSystem::Possible {
        changes.push(Reason::AlteredSystem);
    }
    if applied.hba != config.hba {
        changes.push(Reason::HbaChanged);
    }
    if applied.recovery != config.recovery {
        changes.push(Reason::FollowChanged(config.recovery.differences(&applied.recovery).join(", ")));
    }
    changes
}

/// Standby settings that differ and that only a start brings into force: by their kind, because the server does not come up with those that
/// it has, or because the server says so. It says so of what an earlier keeper gave it.
fn restart_only_differences<'a>(
    seen: &'a Observation,
    live: Option<&'a Live>,
    config: &'a Config,
) -> Vec<&'a str> {
    let pending = live.iter().flat_map(|live| &live.pending_restart).map(String::as_str);
    let mut names: Vec<&str> = pending.filter(|name| is_recovery_parameter(name)).collect();
    let Some(applied) = &seen.applied else { return names };
    if applied.recovery.mode != RecoveryMode::Standby {
        return vec!["standby mode"];
    }
    let differences = config.recovery.differences(&applied.recovery).into_iter();
    names.extend(differences.filter(|name| live.is_none() || !seen.version.reloads_recovery_parameter(name)));
    names
}

/// The end of a pass: restart where a parameter waits for it and the operator wants it, otherwise the
/// generation is reached.
fn restart_or_commit(
    goal: &InstanceGoal,
    seen: &Observation,
    live: &Live,
    mut config: Config,
    mut plan: Plan,
    synchronous: bool,
) -> Plan {
    if goal.restart != RestartPolicy::Manual && restart_may_follow(seen, &config) {
        // What a reload leaves waiting for a restart shows only afterwards, and until then nothing is reached: the primary would
        // believe that its standbys have the limits that it is about to raise.
        plan.steps.push(Step::Reobserve);
        return plan;
    }
    let pending: Vec<&str> =
        live.pending_restart.iter().map(String::as_str).filter(|name| !is_recovery_parameter(name)).collect();
    if !pending.is_empty() {
        plan.restart = PendingRestart::Yes;
    }
    let asked = goal.restart_asked == Some(live.started);
    let now = match goal.restart {
        _ if asked => true,
        RestartPolicy::Manual => false,
        RestartPolicy::Now => true,
        // Standbys stop replaying at a limit that is higher than theirs. A lowered one they have reached without a restart: they run
        // with what the WAL demands.
        RestartPolicy::AfterStandbys if pending.iter().any(|name| is_standby_limit(name)) => false,
        RestartPolicy::AfterStandbys => seen.restart_patience == Patience::Spent,
    };
    if pending.is_empty() && !asked || !now || plan.next_look == NextLook::Soon {
        let is_asked = goal.reload_asked.is_some() && goal.reload_asked != seen.reloaded;
        if is_asked && !plan.steps.contains(&Step::Reload) {
            plan.because.push(Reason::ReloadAsked);
            plan.steps.push(Step::Reload);
        }
        plan.steps.push(Step::Commit(goal.generation));
        return plan;
    }
    plan.because.push(match asked {
        true => Reason::RestartAsked,
        false => Reason::RestartFor(pending.join(", ")),
    });
    plan.steps.push(Step::Stop);
    if synchronous {
        plan.steps.push(Step::SetGate(Gate::Closed));
        config.hba =
            super::hba::hba_lines(&goal.hba, &goal.superuser, &goal.replication, Admission::OnlyInternal);
    }
    plan.steps.extend(start(&config));
    plan.steps.extend([Step::WaitReady(goal.ready_timeout), Step::Reobserve]);
    plan
}

/// Whether the reload that is to come changes a parameter that only a start takes.
fn restart_may_follow(seen: &Observation, config: &Config) -> bool {
    let Some(applied) = &seen.applied else { return true };
    let names = applied.parameters.keys().chain(config.parameters.keys());
    names
        .filter(|name| applied.parameters.get(*name) != config.parameters.get(*name))
        .any(|name| may_need_restart(seen.version.major, name))
}
