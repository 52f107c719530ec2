//! What a round sees. Nothing of it changes while the round decides.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_model::{
    ClusterData, EffectiveSpec, InfoUid, InstanceUid, KeeperReport, KeeperUid, ProxyUid, StandbyPace,
};

use super::memory::Memory;
use super::pause::Standstill;
use super::wake::{Limit, Wake};
use super::{Now, Standing, View};

/// A fresh report of a working instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Working<'a> {
    pub info_uid: &'a InfoUid,
    /// Standbys that PostgreSQL shows in sync.
    pub in_sync: &'a [InstanceUid],
    /// How its standbys keep up with it; none if its keeper does not tell.
    pub standby_pace: Option<&'a BTreeMap<InstanceUid, StandbyPace>>,
}

/// Whether the store was heard of all the time since the round before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    Constant,
    Interrupted,
}

/// What a round sees: the view, and what reports prove at this moment.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub view: &'a View<'a>,
    pub spec: &'a EffectiveSpec,
    /// The moment that is judged: the view shows everything that was written before it.
    pub now: Now,
    /// When the view had been read: what it shows may be as new as this.
    pub arrived: Duration,
    /// Whether nothing was seen before: keepers whose reports are there may have died long ago.
    pub is_first: bool,
    /// Whether the moments at which the store told of reports can be gone by.
    pub hearing: Hearing,
    /// Fresh reports by keeper.
    pub fresh: BTreeMap<&'a KeeperUid, &'a KeeperReport>,
    /// Fresh reports by the instance that their keeper is in charge of.
    pub in_charge: BTreeMap<&'a InstanceUid, &'a KeeperReport>,
    /// Instances whose keeper has freshly reported that they work.
    pub working: BTreeMap<&'a InstanceUid, Working<'a>>,
    /// Proxies that may be forwarding, sorted.
    pub active_proxies: Vec<ProxyUid>,
    /// Whether an operator's pause holds.
    pub standstill: Standstill,
    /// When the first of these reports ceases to be fresh, or to prove that a proxy may be forwarding.
    pub wake: Wake,
}

impl<'a> Seen<'a> {
    /// Look at `view`. Returns also the memory of everything seen until now.
    pub fn of(view: &'a View<'a>, before: &Memory, now: Now) -> (Self, Memory) {
        let spec = view.cluster.spec();
        let arrived = now.monotonic.max(view.read_at);
        let now = Now { monotonic: view.read_at, ..now };
        let mut memory = remembered(before, view);
        let is_first = memory.last_read.is_none();
        memory.cluster_uid = Some(view.cluster.data().cluster.uid.clone());
        let gap = memory.gap(view.heard(), view.usual_delay, spec);
        if let Some(gap) = gap {
            memory.leave_out_gap(gap, now.monotonic, spec);
        }
        let hearing = if is_first || gap.is_some() { Hearing::Interrupted } else { Hearing::Constant };
        memory.last_read = memory.last_read.max(Some(view.heard()));
        let pause = view.cluster.data().cluster.pause.as_ref();
        // Not when the view was read: what is told may be newer than what was last asked for.
        let standstill = memory.see_pause(pause, arrived, now.wall);
        let mut seen = Seen {
            view,
            spec,
            now,
            arrived,
            is_first,
            hearing,
            fresh: BTreeMap::new(),
            in_charge: BTreeMap::new(),
            working: BTreeMap::new(),
            active_proxies: Vec::new(),
            standstill,
            wake: Wake::NEVER,
        };
        seen.see_keepers(&mut memory);
        seen.see_proxies(&mut memory);
        (seen, memory)
    }

    /// The document as it was read.
    pub fn document(&self) -> &'a ClusterData {
        self.view.cluster.data()
    }

    /// The instances whose keeper has freshly reported, and these reports.
    pub fn in_charge(&self) -> impl Iterator<Item = (&'a InstanceUid, &'a KeeperReport)> {
        self.in_charge.iter().map(|(uid, report)| (*uid, *report))
    }

    /// The limit `span` of what began at `since`.
    pub fn limit(&self, since: Duration, span: Duration) -> Limit {
        Limit::of(since, span, self.now.monotonic)
    }

    pub fn elapsed(&self, since: Duration) -> Duration {
        self.now.monotonic.saturating_sub(since)
    }
}

/// What still counts of a memory: nothing in another cluster, and little for a new leader that could not read for long.
fn remembered(before: &Memory, view: &View<'_>) -> Memory {
    let is_same_cluster = before.cluster_uid.as_ref() == Some(&view.cluster.data().cluster.uid);
    let takes_over = view.standing == Standing::Leader && !before.led;
    let blindly = takes_over && before.gap(view.heard(), view.usual_delay, view.cluster.spec()).is_some();
    match (is_same_cluster, blindly) {
        (true, false) => before.clone(),
        (true, true) => before.after_blindness(),
        (false, _) => Memory::default(),
    }
}
