//! Where proxies send clients.

use std::time::Duration;

use stolon_model::{Instance, ProxyUid};

use super::memory::{Closed, ProxySighting};
use super::round::{Progress, Round};
use super::{Change, Hold};

/// Stands in for `convergenceTimeout` where that is without limit.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

impl Round<'_> {
    /// Notice which proxies may be forwarding: those whose report changes, and those whose last report is not older than twice the
    /// time after which a proxy closes by itself. A proxy whose report is gone has closed.
    pub fn see_proxies(&mut self) {
        let now = self.now.monotonic;
        let view = self.view;
        self.memory.proxies.retain(|uid, _| view.proxies.contains_key(uid));
        for (uid, report) in view.proxies {
            let known = self.memory.proxies.get(uid);
            if known.is_none_or(|known| known.report.info_uid != report.info_uid) {
                self.memory.proxies.insert(uid.clone(), ProxySighting { report: report.clone(), since: now });
            }
        }
        let sightings: Vec<(ProxyUid, ProxySighting)> =
            self.memory.proxies.iter().map(|(uid, sighting)| (uid.clone(), sighting.clone())).collect();
        for (uid, sighting) in sightings {
            let timeout = Duration::from_nanos(u64::try_from(sighting.report.proxy_timeout).unwrap_or(0));
            if sighting.since == now || !self.is_over(sighting.since, timeout.saturating_mul(2)) {
                self.active_proxies.push(uid);
            }
        }
    }

    /// Active proxies that have not said yet that they did what the proxy section asks for.
    pub fn unacknowledged(&self) -> Vec<ProxyUid> {
        let generation = self.data.proxy.generation;
        let acknowledged = |uid: &&ProxyUid| {
            self.memory.proxies.get(*uid).is_some_and(|sighting| sighting.report.generation == generation)
        };
        self.active_proxies.iter().filter(|uid| !acknowledged(uid)).cloned().collect()
    }

    /// Remember since when proxies are told to send clients nowhere.
    pub fn note_closed(&mut self) {
        let (generation, since) = (self.data.proxy.generation, self.now.monotonic);
        if self.memory.closed.is_none_or(|closed| closed.generation != generation) {
            self.memory.closed = Some(Closed { generation, since });
        }
    }

    /// The primary stays: send clients to it, once nobody can be sent to another one any more and once it is ready.
    pub fn guide_proxies(&mut self, primary: &Instance) {
        let mut enabled: Vec<ProxyUid> = self.active_proxies.clone();
        enabled.sort();
        match &self.data.proxy.spec.primary {
            Some(current) if *current == primary.uid => {
                self.memory.closed = None;
                if self.data.proxy.spec.enabled_proxies.clone().unwrap_or_default() != enabled {
                    self.data.proxy.generation += 1;
                    self.enable(enabled.clone());
                    let generation = self.data.proxy.generation;
                    self.change(Change::EnabledProxiesChanged { enabled, generation });
                }
            }
            Some(_) => {
                // Somebody edited the document. From one primary to another only by way of none.
                self.data.proxy.spec.primary = None;
                self.data.proxy.generation += 1;
                self.note_closed();
            }
            None => self.open_proxies(primary, enabled),
        }
    }

    fn open_proxies(&mut self, primary: &Instance, enabled: Vec<ProxyUid>) {
        self.note_closed();
        if self.memory.handover.is_some() {
            return;
        }
        let proxies = self.unacknowledged();
        if !proxies.is_empty() {
            let generation = self.data.proxy.generation;
            return self.hold(Hold::AwaitingProxies { proxies, generation });
        }
        let ready = primary.status.healthy
            && self.progress(primary, self.spec.convergence_timeout) == Progress::Converged;
        let grace = match self.spec.convergence_timeout {
            Duration::ZERO => DEFAULT_GRACE,
            limit => limit,
        };
        let since = self.memory.closed.map_or(self.now.monotonic, |closed| closed.since);
        if !ready && !self.is_over(since, grace) {
            return self.hold(Hold::NotOpened { primary: primary.uid.clone() });
        }
        self.memory.closed = None;
        self.data.proxy.spec.primary = Some(primary.uid.clone());
        self.data.proxy.generation += 1;
        self.enable(enabled);
        let generation = self.data.proxy.generation;
        self.change(Change::ProxiesOpened { to: primary.uid.clone(), generation });
    }

    /// No proxies, said as it was said before: null and `[]` mean the same here.
    fn enable(&mut self, enabled: Vec<ProxyUid>) {
        let current = &mut self.data.proxy.spec.enabled_proxies;
        if !(enabled.is_empty() && current.as_ref().is_none_or(Vec::is_empty)) {
            *current = Some(enabled);
        }
    }
}
