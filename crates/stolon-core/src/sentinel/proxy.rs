//! Where clients go: from one primary to nowhere to the next, never directly.

use std::time::Duration;

use stolon_model::{ClusterData, Instance, ProxyUid};

use super::Now;
use super::convergence::{is_converged, is_over};
use super::memory::{Closed, Memory};
use super::reasons::{Change, ClosingReason, Hold, PrimaryFault};
use super::round::Round;

/// How long a primary that is not ready is kept from its clients when nothing else bounds it.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// Send clients to `primary` once every proxy has cut its connections and the primary is ready; while it is
/// open, keep the list of proxies that may forward.
pub(super) fn manage(round: &mut Round<'_>, primary: &Instance) {
    match round.next.proxy.spec.primary.clone() {
        None => open_when_ready(round, primary),
        Some(destination) if destination == primary.uid => {
            let enabled = active(round);
            if round.next.proxy.spec.enabled_proxies.as_deref().unwrap_or_default() != enabled {
                let generation = enable(round, enabled.clone());
                round.changes.push(Change::EnabledProxiesChanged { enabled, generation });
            }
        }
        Some(other) => close_because(round, ClosingReason::NotThePrimary(other)),
    }
    let expiries: Vec<_> =
        round.sightings.proxies.values().map(|active| active.since + active.timeout() * 2).collect();
    for expiry in expiries {
        round.wake_at(expiry);
    }
}

fn open_when_ready(round: &mut Round<'_>, primary: &Instance) {
    let generation = round.next.proxy.generation;
    let waiting: Vec<_> = round
        .sightings
        .proxies
        .iter()
        .filter(|(_, active)| active.report.generation != generation)
        .map(|(uid, _)| uid.clone())
        .collect();
    if !waiting.is_empty() {
        return round.hold(Hold::AwaitingProxies { proxies: waiting, generation });
    }
    let ready = primary.status.healthy && is_converged(primary);
    if !ready && !waited_long_enough(round) {
        return round.hold(Hold::NotOpened { primary: primary.uid.clone() });
    }
    round.next.proxy.spec.primary = Some(primary.uid.clone());
    let enabled = active(round);
    let generation = enable(round, enabled);
    round.changes.push(Change::ProxiesOpened { to: primary.uid.clone(), generation });
}

/// After that, an unready primary is better than none: it may only be its keeper that is slow.
fn waited_long_enough(round: &mut Round<'_>) -> bool {
    let Some(closed) = round.memory.closed else { return false };
    let timeout = round.spec.convergence_timeout;
    let grace = if timeout.is_zero() { DEFAULT_GRACE } else { timeout };
    round.wake_at(closed.since + grace);
    is_over(closed.since, grace, round.now)
}

fn active(round: &Round<'_>) -> Vec<ProxyUid> {
    round.sightings.proxies.keys().cloned().collect()
}

/// An empty list and none are the same: both are absent on the wire.
fn enable(round: &mut Round<'_>, enabled: Vec<ProxyUid>) -> i64 {
    let proxy = &mut round.next.proxy;
    proxy.spec.enabled_proxies = Some(enabled);
    proxy.generation += 1;
    proxy.generation
}

/// Send clients nowhere, if that is not so already.
pub(super) fn close(round: &mut Round<'_>, because: &PrimaryFault) {
    close_because(round, ClosingReason::Fault(because.clone()));
}

fn close_because(round: &mut Round<'_>, because: ClosingReason) {
    if round.next.proxy.spec.primary.take().is_some() {
        round.next.proxy.generation += 1;
        let generation = round.next.proxy.generation;
        round.changes.push(Change::ProxiesClosed { generation, because });
    }
}

/// Remember since when clients are sent nowhere.
pub(super) fn remember_closing(cluster: &ClusterData, memory: &mut Memory, now: Now) {
    let generation = cluster.proxy.generation;
    if cluster.proxy.spec.primary.is_some() {
        memory.closed = None;
    } else if memory.closed.is_none_or(|closed| closed.generation != generation) {
        memory.closed = Some(Closed { generation, since: now.monotonic });
    }
}
