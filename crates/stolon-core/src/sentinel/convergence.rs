//! Whether an instance has reached the generation that is wanted of it.

use std::time::Duration;

use stolon_model::{ClusterData, EffectiveSpec, Instance, InstanceInitMode};

use super::Now;
use super::memory::{Convergence, Memory};

/// How far an instance is on its way to its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Converged,
    Converging,
    Failed,
}

/// Restart the clock of every instance whose generation is new, forget those that have arrived.
pub(super) fn track(cluster: &ClusterData, memory: &mut Memory, now: Now) {
    memory.convergence.retain(|uid, _| cluster.instances.contains_key(uid));
    for (uid, instance) in &cluster.instances {
        if is_converged(instance) {
            memory.convergence.remove(uid);
            continue;
        }
        let fresh = Convergence { generation: instance.generation, since: now.monotonic };
        let entry = memory.convergence.entry(uid.clone()).or_insert(fresh);
        if entry.generation != instance.generation {
            *entry = fresh;
        }
    }
}

pub(super) fn is_converged(instance: &Instance) -> bool {
    instance.status.current_generation == instance.generation
}

/// How far `instance` is. A `timeout` of zero never fails; an instance without a clock has just begun.
pub(super) fn progress(instance: &Instance, timeout: Duration, memory: &Memory, now: Now) -> Progress {
    if is_converged(instance) {
        return Progress::Converged;
    }
    match memory.convergence.get(&instance.uid) {
        Some(convergence) if is_over(convergence.since, timeout, now) && !timeout.is_zero() => {
            Progress::Failed
        }
        _ => Progress::Converging,
    }
}

/// True when more than `limit` has passed since then.
pub(super) fn is_over(since: Duration, limit: Duration, now: Now) -> bool {
    now.monotonic.saturating_sub(since) > limit
}

/// The limit for an instance of a running cluster: a first copy has a limit of its own.
pub(super) fn timeout_of(instance: &Instance, spec: &EffectiveSpec) -> Duration {
    if instance.status.current_generation == 0 && instance.spec.init_mode == Some(InstanceInitMode::Resync) {
        spec.sync_timeout
    } else {
        spec.convergence_timeout
    }
}
