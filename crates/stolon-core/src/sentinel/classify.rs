//! What each instance is in relation to the primary: its kind, whether its data fits, and how it does.

use stolon_model::{FollowType, Instance, InstanceUid, Role};

use super::convergence::{Progress, progress, timeout_of};
use super::reasons::Rejection;
use super::round::Round;
use crate::timeline::is_different_branch;

/// What an instance is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A primary, or the instance of a standby cluster that follows the outside.
    Primary,
    /// It follows an instance of this cluster.
    Standby,
    /// Only in a document that somebody wrote by hand.
    Neither,
}

/// Whether an instance's data is the primary's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    /// It was never reported.
    Unknown,
    Valid,
    Invalid(Rejection),
}

/// How an instance does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Good,
    Converging,
    Failed,
}

pub(super) fn kind(instance: &Instance) -> Kind {
    let follow = instance.spec.follow_config.as_ref().and_then(|follow| follow.follow_type.as_ref());
    match (&instance.spec.role, follow) {
        (Some(Role::Primary), _) | (Some(Role::Standby), Some(FollowType::External)) => Kind::Primary,
        (Some(Role::Standby), Some(FollowType::Internal)) => Kind::Standby,
        _ => Kind::Neither,
    }
}

pub(super) fn validity(instance: &Instance, primary: &Instance) -> Validity {
    let (own, reference) = (&instance.status, &primary.status);
    if own.current_generation == 0 {
        Validity::Unknown
    } else if !own.system_identifier.is_empty() && own.system_identifier != reference.system_identifier {
        Validity::Invalid(Rejection::OtherSystem)
    } else if is_different_branch(reference.into(), own.into()) {
        Validity::Invalid(Rejection::OtherBranch)
    } else {
        Validity::Valid
    }
}

pub(super) fn state(round: &Round<'_>, instance: &Instance) -> State {
    let keeper_works =
        round.next.keepers.get(&instance.spec.keeper_uid).is_some_and(|keeper| keeper.status.healthy);
    if !keeper_works {
        return State::Failed;
    }
    match progress(instance, timeout_of(instance, &round.spec), &round.memory, round.now) {
        Progress::Failed => State::Failed,
        Progress::Converging => State::Converging,
        Progress::Converged if !instance.status.healthy => State::Failed,
        Progress::Converged => State::Good,
    }
}

/// The standbys whose data fits, by how they do; each list in the order of uids.
#[derive(Clone, Debug, Default)]
pub(super) struct Standbys {
    pub good: Vec<InstanceUid>,
    pub converging: Vec<InstanceUid>,
    /// Never reported yet, but their keeper works and they are within their time: being copied.
    pub in_progress: Vec<InstanceUid>,
}

pub(super) fn standbys(round: &Round<'_>, primary: &Instance) -> Standbys {
    let mut sets = Standbys::default();
    for (uid, instance) in &round.next.instances {
        if uid == &primary.uid || kind(instance) != Kind::Standby {
            continue;
        }
        let set = match (validity(instance, primary), state(round, instance)) {
            (Validity::Valid, State::Good) => &mut sets.good,
            (Validity::Valid, State::Converging) => &mut sets.converging,
            (Validity::Unknown, State::Converging) => &mut sets.in_progress,
            _ => continue,
        };
        set.push(uid.clone());
    }
    sets
}
