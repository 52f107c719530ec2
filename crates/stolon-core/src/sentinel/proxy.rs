//! Where proxies send clients.

use std::time::Duration;

use stolon_model::{Instance, ProxyReport, ProxyUid};

use super::memory::{Closed, ProxySighting};
use super::round::{Progress, Round};
use super::{Change, Hold};
use crate::proxy::NOTHING;

/// Used in place of a `convergenceTimeout` without limit.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// The generation of a report that cannot be read: it acknowledges nothing.
const UNKNOWN: i64 = -1;
/// Clocks of different hosts do not run at the same rate.
const CLOCK_TOLERANCE: f64 = 1.1;

/// Proxies that must close first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Awaited {
    pub proxies: Vec<ProxyUid>,
    /// When the last of these proxies has certainly closed by itself.
    pub until: Option<Duration>,
}

impl Round<'_> {
    /// The time after which a proxy closes by itself, as it has published it.
    fn timeout_of(&self, report: &ProxyReport) -> Duration {
        match u64::try_from(report.proxy_timeout) {
            Ok(nanoseconds) if nanoseconds > 0 => Duration::from_nanos(nanoseconds),
            _ => self.spec.proxy_timeout,
        }
    }

    /// Notice which proxies may be forwarding: those whose report changes, and those whose last report is not older than twice the
    /// time after which a proxy closes by itself. A proxy whose report is gone has closed.
    pub fn see_proxies(&mut self) {
        let now = self.arrived;
        let view = self.view;
        let is_there =
            |uid: &ProxyUid| view.proxies.contains_key(uid) || view.unreadable_proxies.contains(uid);
        self.memory.proxies.retain(|uid, _| is_there(uid));
        for (uid, report) in view.proxies {
            let known = self.memory.proxies.get(uid);
            if known.is_none_or(|known| known.report.info_uid != report.info_uid) {
                self.memory.proxies.insert(uid.clone(), ProxySighting { report: report.clone(), since: now });
            }
        }
        for uid in view.unreadable_proxies.iter().filter(|uid| !view.proxies.contains_key(uid)) {
            let known = self.memory.proxies.get(uid).map_or(0, |known| known.report.proxy_timeout);
            let timeout = i64::try_from(self.spec.proxy_timeout.as_nanos()).unwrap_or(i64::MAX).max(known);
            let report = ProxyReport {
                uid: uid.clone(),
                generation: UNKNOWN,
                proxy_timeout: timeout,
                ..ProxyReport::default()
            };
            self.memory.proxies.insert(uid.clone(), ProxySighting { report, since: now });
        }
        let sightings: Vec<(ProxyUid, ProxySighting)> =
            self.memory.proxies.iter().map(|(uid, sighting)| (uid.clone(), sighting.clone())).collect();
        for (uid, sighting) in sightings {
            let timeout = self.timeout_of(&sighting.report);
            if sighting.since == now || !self.is_over(sighting.since, timeout.saturating_mul(2)) {
                self.active_proxies.push(uid);
            }
        }
    }

    /// Active proxies that may still be forwarding although the document says nowhere: they have not said that they did what it asks
    /// for, and the time after which they close by themselves is not over. A proxy that read the document before it said so
    /// closes `proxyTimeout` later, as it has published it, whatever else happens to it.
    ///
    /// Not so one that says that it acknowledges nothing: only a proxy that forwards and was shown an older document says that, and it
    /// goes on for as long as it can read. It is waited for as long as its report lives. A new proxy never says it.
    pub fn open_proxies_left(&self) -> Awaited {
        let generation = self.data.proxy.generation;
        let closed_since = self.memory.closed.map_or(self.arrived, |closed| closed.since);
        let mut awaited = Awaited::default();
        for uid in &self.active_proxies {
            let Some(sighting) = self.memory.proxies.get(uid) else { continue };
            let timeout = self.timeout_of(&sighting.report);
            let closes_by = match self.goes_on(uid, &sighting.report) {
                true => sighting.since.saturating_add(timeout.saturating_mul(2)),
                false => closed_since.saturating_add(timeout.mul_f64(CLOCK_TOLERANCE)),
            };
            if sighting.report.generation != generation && self.now.monotonic <= closes_by {
                awaited.proxies.push(uid.clone());
                awaited.until = awaited.until.max(Some(closes_by + Duration::from_millis(1)));
            }
        }
        awaited
    }

    /// Whether a proxy has said that it stays where it is. A report that cannot be read says nothing.
    fn goes_on(&self, uid: &ProxyUid, report: &ProxyReport) -> bool {
        self.view.proxies.contains_key(uid) && report.generation == NOTHING
    }

    /// Remember since when proxies are told to send clients nowhere.
    pub fn note_closed(&mut self) {
        let (generation, since) = (self.data.proxy.generation, self.arrived);
        let in_store =
            self.before().proxy.generation == generation && self.before().proxy.spec.primary.is_none();
        match &mut self.memory.closed {
            Some(closed) if closed.generation == generation => {
                if in_store && !closed.in_store {
                    *closed = Closed { generation, since, in_store };
                }
            }
            _ => self.memory.closed = Some(Closed { generation, since, in_store }),
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
                // Somebody edited the document. Clients go from one primary to another only after they were sent nowhere.
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
        let Awaited { proxies, until } = self.open_proxies_left();
        if !proxies.is_empty() {
            self.deadlines.extend(until);
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

    /// No proxies, in the form that was there before: null and `[]` mean the same here.
    fn enable(&mut self, enabled: Vec<ProxyUid>) {
        let current = &mut self.data.proxy.spec.enabled_proxies;
        if !(enabled.is_empty() && current.as_ref().is_none_or(Vec::is_empty)) {
            *current = Some(enabled);
        }
    }
}
