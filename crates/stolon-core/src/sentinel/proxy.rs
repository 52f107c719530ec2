//! Where proxies send clients.

use std::time::Duration;

use stolon_model::{Instance, ProxyReport, ProxyUid};

use super::Hold;
use super::memory::{Closed, Memory, ProxySighting};
use super::round::{Kind, Progress, Round};
use super::seen::Seen;
use super::wake::{Limit, Wake};
use crate::proxy::NOTHING;

/// Used in place of a `convergenceTimeout` without limit.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// The generation of a report that cannot be read: it acknowledges nothing.
const UNKNOWN: i64 = -1;
/// Clocks of different hosts do not run at the same rate.
pub(super) const CLOCK_TOLERANCE: f64 = 1.1;

/// Proxies that must close first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Awaited {
    pub proxies: Vec<ProxyUid>,
    /// Those of them that say that they stay where they are.
    pub stays: Vec<ProxyUid>,
    /// When the last of these proxies has certainly closed by itself.
    pub wake: Wake,
}

impl Seen<'_> {
    /// The time after which a proxy closes by itself, as it has published it.
    fn timeout_of(&self, report: &ProxyReport) -> Duration {
        match u64::try_from(report.proxy_timeout) {
            Ok(nanoseconds) if nanoseconds > 0 => Duration::from_nanos(nanoseconds),
            _ => self.spec.proxy_timeout,
        }
    }

    /// Notice which proxies may be forwarding: those whose report changes, and those whose last report is not older than twice the
    /// time after which a proxy closes by itself. A proxy whose report is gone has closed.
    pub fn see_proxies(&mut self, memory: &mut Memory) {
        let now = self.arrived;
        let view = self.view;
        let is_there =
            |uid: &ProxyUid| view.proxies.contains_key(uid) || view.unreadable_proxies.contains(uid);
        memory.proxies.retain(|uid, _| is_there(uid));
        for (uid, report) in view.proxies {
            let known = memory.proxies.get(uid);
            if known.is_none_or(|known| known.report.info_uid != report.info_uid) {
                memory.proxies.insert(uid.clone(), ProxySighting { report: report.clone(), since: now });
            }
        }
        for uid in view.unreadable_proxies.iter().filter(|uid| !view.proxies.contains_key(uid)) {
            let known = memory.proxies.get(uid).map_or(0, |known| known.report.proxy_timeout);
            let timeout = i64::try_from(self.spec.proxy_timeout.as_nanos()).unwrap_or(i64::MAX).max(known);
            let report = ProxyReport {
                uid: uid.clone(),
                generation: UNKNOWN,
                proxy_timeout: timeout,
                ..ProxyReport::default()
            };
            memory.proxies.insert(uid.clone(), ProxySighting { report, since: now });
        }
        for (uid, sighting) in &memory.proxies {
            let life = self.limit(sighting.since, self.timeout_of(&sighting.report).saturating_mul(2));
            if sighting.since == now || !life.is_over() {
                self.active_proxies.push(uid.clone());
                self.wake = self.wake.or(life.wake());
            }
        }
    }

    /// Whether a proxy has said that it stays where it is. A report that cannot be read says nothing.
    fn goes_on(&self, uid: &ProxyUid, report: &ProxyReport) -> bool {
        self.view.proxies.contains_key(uid) && report.generation == NOTHING
    }
}

impl Round<'_> {
    /// Active proxies that may still be forwarding although the document says nowhere: they have not said that they did what it asks
    /// for, and the time after which they close by themselves is not over. A proxy that read the document before it said so
    /// closes `proxyTimeout` later, as it has published it, whatever else happens to it.
    ///
    /// A proxy that reports that it acknowledges nothing is different: it forwards, was shown an older document, and goes on for as
    /// long as it can read. It is waited for as long as its report lives. A new proxy never reports that.
    pub fn open_proxies_left(&self) -> Awaited {
        let seen = self.seen;
        let generation = self.draft.proxy.generation;
        let closed_since = self.memory.closed.map_or(seen.arrived, |closed| closed.since);
        let (mut proxies, mut stays) = (Vec::new(), Vec::new());
        let mut last = None;
        for uid in &seen.active_proxies {
            let Some(sighting) = self.memory.proxies.get(uid) else { continue };
            let timeout = seen.timeout_of(&sighting.report);
            let goes_on = seen.goes_on(uid, &sighting.report);
            let (since, span) = match goes_on {
                true => (sighting.since, timeout.saturating_mul(2)),
                false => (closed_since, timeout.mul_f64(CLOCK_TOLERANCE)),
            };
            if let Limit::Until(moment) = seen.limit(since, span)
                && sighting.report.generation != generation
            {
                proxies.push(uid.clone());
                stays.extend(goes_on.then(|| uid.clone()));
                last = last.max(Some(moment));
            }
        }
        Awaited { proxies, stays, wake: last.map_or(Wake::NEVER, Wake::at) }
    }

    /// Since when proxies are told to send clients nowhere.
    pub fn closed_since(&self) -> Duration {
        self.memory.closed.map_or(self.seen.now.monotonic, |closed| closed.since)
    }

    /// Remember since when proxies are told to send clients nowhere.
    pub fn note_closed(&mut self) {
        let (generation, since) = (self.draft.proxy.generation, self.seen.arrived);
        let stored = &self.seen.document().proxy;
        let in_store = stored.generation == generation && stored.spec.primary.is_none();
        match &mut self.memory.closed {
            Some(closed) if closed.generation == generation => {
                if in_store && !closed.in_store {
                    *closed = Closed { generation, since, in_store };
                }
            }
            _ => self.memory.closed = Some(Closed { generation, since, in_store }),
        }
    }

    /// The primary stays: send clients to it, once no client can be sent to another one any more and once it is ready.
    pub fn guide_proxies(&mut self, primary: &Instance) -> Wake {
        if self.legacy_comes_first() {
            return Wake::NEVER;
        }
        match &self.draft.proxy.spec.primary {
            Some(current) if *current == primary.uid => {
                self.memory.closed = None;
                self.draft.enable_proxies(self.seen.active_proxies.clone());
                Wake::NEVER
            }
            Some(_) => {
                self.draft.send_nowhere();
                self.note_closed();
                Wake::NEVER
            }
            None => self.open_proxies(primary),
        }
    }

    /// Whether a former primary could be elected again as if `primary` had never taken over: nobody has seen a timeline of `primary`
    /// that is later than the other one's. What clients write to `primary` meanwhile would then be lost without a trace.
    fn another_may_return(&self, primary: &Instance) -> bool {
        self.draft.instances.values().any(|other| {
            other.uid != primary.uid
                && Kind::of(other) == Kind::Head
                && other.status.timeline >= primary.status.timeline
        })
    }

    /// Nobody is sent anywhere else while proxies may still be forwarding to where they were: when to look again, or none.
    pub fn wait_for_open_proxies(&mut self) -> Option<Wake> {
        let Awaited { proxies, stays, wake } = self.open_proxies_left();
        if proxies.is_empty() {
            return None;
        }
        let generation = self.draft.proxy.generation;
        self.hold(Hold::AwaitingProxies { proxies, stays, generation });
        Some(wake)
    }

    fn open_proxies(&mut self, primary: &Instance) -> Wake {
        self.note_closed();
        let is_fenced = self.draft.instances.get(&primary.uid).is_some_and(|it| it.spec.fenced);
        if self.memory.handover.is_some() || is_fenced {
            return Wake::NEVER;
        }
        if let Some(wake) = self.wait_for_open_proxies() {
            return wake;
        }
        if let Some(wake) = self.migration_keeps_closed() {
            return wake;
        }
        let progress = self.progress(primary, self.seen.spec.convergence_timeout);
        let ready = primary.status.healthy && progress == Progress::Converged;
        let grace = match self.seen.spec.convergence_timeout {
            Duration::ZERO => DEFAULT_GRACE,
            limit => limit,
        };
        let patience = self.seen.limit(self.closed_since(), grace);
        if !ready && (!patience.is_over() || self.another_may_return(primary)) {
            self.hold(Hold::NotOpened { primary: primary.uid.clone() });
            return patience.wake();
        }
        self.memory.closed = None;
        self.draft.open_proxies(&primary.uid, self.seen.active_proxies.clone());
        Wake::NEVER
    }
}
