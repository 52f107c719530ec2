//! The first instance of a cluster: which keeper makes it, and whether it is done.

use stolon_model::{
    FollowConfig, FollowType, InitMode, Instance, InstanceInitMode, InstanceSpec, InstanceUid, KeeperUid,
    Phase, Role,
};

use super::convergence::{Progress, progress};
use super::reasons::{BrokenDocument, Change, Hold};
use super::round::Round;

/// One step of phase "initializing".
pub(super) fn advance(round: &mut Round<'_>) {
    match round.next.cluster.status.primary.clone() {
        None => choose(round),
        Some(primary) => wait_for(round, &primary),
    }
}

fn choose(round: &mut Round<'_>) {
    let (init_mode, keeper) = match &round.spec.init_mode {
        InitMode::New => (InstanceInitMode::New, any_keeper(round)),
        InitMode::PointInTimeRecovery => (InstanceInitMode::PointInTimeRecovery, any_keeper(round)),
        InitMode::Existing => (InstanceInitMode::Existing, named_keeper(round)),
        InitMode::Unknown(word) => {
            let what = BrokenDocument::InitMode { init_mode: word.clone() };
            return round.hold(Hold::BrokenDocument { what });
        }
    };
    let keeper = match keeper {
        Ok(keeper) => keeper,
        Err(hold) => return round.hold(hold),
    };
    let uid = round.uids.instance_uid();
    let instance = first_instance(round, uid.clone(), keeper.clone(), init_mode.clone());
    round.next.instances.insert(uid.clone(), instance);
    round.next.cluster.status.primary = Some(uid.clone());
    round.changes.push(Change::InitialInstanceChosen { instance: uid, keeper, init_mode });
}

/// Any keeper; of those that there are, preferably one that works and may become a primary.
fn any_keeper(round: &mut Round<'_>) -> Result<KeeperUid, Hold> {
    let rank =
        |keeper: &stolon_model::Keeper| (keeper.status.healthy, keeper.status.can_be_primary != Some(false));
    let best = round.next.keepers.values().map(rank).max().ok_or(Hold::NoKeepers)?;
    let candidates: Vec<_> = round
        .next
        .keepers
        .values()
        .filter(|keeper| rank(keeper) == best)
        .map(|keeper| keeper.uid.clone())
        .collect();
    let chosen = round.uids.choose(candidates.len());
    candidates.get(chosen).or(candidates.first()).cloned().ok_or(Hold::NoKeepers)
}

fn named_keeper(round: &mut Round<'_>) -> Result<KeeperUid, Hold> {
    let keeper =
        round.spec.existing_config.as_ref().map(|config| config.keeper_uid.clone()).unwrap_or_default();
    if round.next.keepers.contains_key(&keeper) {
        Ok(keeper)
    } else {
        Err(Hold::KeeperNotAvailable { keeper })
    }
}

/// The first instance. Adopted data starts as a primary even in a standby cluster, which is Stolon's rule.
fn first_instance(
    round: &Round<'_>,
    uid: InstanceUid,
    keeper_uid: KeeperUid,
    init_mode: InstanceInitMode,
) -> Instance {
    let follows = round.spec.role == Role::Standby && init_mode == InstanceInitMode::PointInTimeRecovery;
    Instance {
        uid,
        generation: 1,
        spec: InstanceSpec {
            keeper_uid,
            new_config: round.spec.new_config.clone().filter(|_| init_mode == InstanceInitMode::New),
            pitr_config: round
                .spec
                .pitr_config
                .clone()
                .filter(|_| init_mode == InstanceInitMode::PointInTimeRecovery),
            init_mode: Some(init_mode),
            role: Some(if follows { Role::Standby } else { Role::Primary }),
            follow_config: follows.then(|| outside(round)),
            followers: Some(Vec::new()),
            include_previous_config: round.spec.merge_pg_parameters,
            ..InstanceSpec::default()
        },
        ..Instance::default()
    }
}

/// Follow the primary outside, as the specification of a standby cluster says.
pub(super) fn outside(round: &Round<'_>) -> FollowConfig {
    let config = round.spec.standby_config.clone().unwrap_or_default();
    FollowConfig {
        follow_type: Some(FollowType::External),
        standby_settings: config.standby_settings,
        archive_recovery_settings: config.archive_recovery_settings,
        ..FollowConfig::default()
    }
}

fn wait_for(round: &mut Round<'_>, uid: &InstanceUid) {
    let Some(instance) = round.next.instances.get(uid) else {
        let what = BrokenDocument::PrimaryMissing { primary: Some(uid.clone()) };
        return round.hold(Hold::BrokenDocument { what });
    };
    let keeper = instance.spec.keeper_uid.clone();
    let healthy = instance.status.healthy;
    let limit = match round.spec.init_mode {
        InitMode::New => round.spec.init_timeout,
        _ => std::time::Duration::ZERO,
    };
    match progress(instance, limit, &round.memory, round.now) {
        Progress::Converged if healthy => finish(round, uid),
        Progress::Failed => {
            round.next.instances.clear();
            round.next.cluster.status.primary = None;
            let instance = uid.clone();
            round.changes.push(Change::InitializationGivenUp { instance, keeper, after: limit });
        }
        _ => round.hold(Hold::AwaitingInitialization { instance: uid.clone(), keeper }),
    }
}

fn finish(round: &mut Round<'_>, uid: &InstanceUid) {
    let Some(instance) = round.next.instances.get_mut(uid) else { return };
    instance.spec.init_mode = Some(InstanceInitMode::None);
    instance.spec.include_previous_config = false;
    let keeper = instance.spec.keeper_uid.clone();
    if round.spec.merge_pg_parameters {
        let reported = instance.status.pg_parameters.clone().filter(|parameters| !parameters.is_empty());
        round.next.cluster.spec.pg_parameters = reported.clone();
        round.spec.pg_parameters = reported;
    }
    round.next.cluster.status.phase = Some(Phase::Normal);
    round.changes.push(Change::ClusterInitialized { instance: uid.clone(), keeper });
}
