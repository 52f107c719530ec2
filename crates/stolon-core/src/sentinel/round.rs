//! One round at work: what it saw, the document it is making, and the reasons it collects.

use std::collections::BTreeSet;
use std::time::Duration;

use stolon_model::{ClusterData, EffectiveSpec, Instance, InstanceUid, KeeperUid};

use super::heartbeat::{Sightings, look};
use super::memory::Memory;
use super::reasons::{Change, Hold};
use super::{Decision, Now, UidSource, Urgency, View, convergence, proxy, stamp};

/// One round at work.
pub(super) struct Round<'a> {
    /// The document as it was read.
    pub before: &'a ClusterData,
    /// What was remembered before this round.
    remembered: &'a Memory,
    /// The document as it will be.
    pub next: ClusterData,
    /// Its specification with defaults filled in.
    pub spec: EffectiveSpec,
    /// What is remembered after this round.
    pub memory: Memory,
    /// What this round sees.
    pub sightings: Sightings,
    /// Keepers that the operator asked to fail.
    pub forced: BTreeSet<KeeperUid>,
    /// The time.
    pub now: Now,
    /// Where new identities and dice come from.
    pub uids: &'a mut dyn UidSource,
    /// What changed.
    pub changes: Vec<Change>,
    /// What did not, and why.
    pub holds: Vec<Hold>,
    wake_at: Option<Duration>,
}

/// Deadlines are passed strictly, and clocks are coarse.
const JUST_AFTER: Duration = Duration::from_millis(1);

impl<'a> Round<'a> {
    pub fn begin(view: &View<'a>, remembered: &'a Memory, now: Now, uids: &'a mut dyn UidSource) -> Self {
        let (memory, sightings) = look(view, remembered, now);
        Round {
            before: view.cluster,
            remembered,
            next: view.cluster.clone(),
            spec: view.cluster.cluster.spec.effective(),
            memory,
            sightings,
            forced: BTreeSet::new(),
            now,
            uids,
            changes: Vec::new(),
            holds: Vec::new(),
            wake_at: None,
        }
    }

    /// The verdict may change just after `deadline`, without anything new being seen.
    pub fn wake_at(&mut self, deadline: Duration) {
        let deadline = deadline + JUST_AFTER;
        if deadline > self.now.monotonic {
            self.wake_at = Some(self.wake_at.map_or(deadline, |earlier| earlier.min(deadline)));
        }
    }

    pub fn hold(&mut self, hold: Hold) {
        self.holds.push(hold);
    }

    /// The elected primary of the document in the making.
    pub fn primary(&self) -> Option<&Instance> {
        self.next.primary()
    }

    /// What the primary's keeper just reported to be in sync; empty unless that report is fresh and healthy.
    pub fn reported_in_sync(&self, primary: &Instance) -> BTreeSet<InstanceUid> {
        self.sightings
            .healthy_state_of(&primary.spec.keeper_uid, &primary.uid)
            .and_then(|state| state.synchronous_standbys.clone())
            .unwrap_or_default()
            .into_iter()
            .collect()
    }

    /// Take an instance out of the document.
    pub fn remove_instance(&mut self, uid: &InstanceUid, because: super::reasons::RemovalReason) {
        if let Some(instance) = self.next.instances.remove(uid) {
            let keeper = instance.spec.keeper_uid;
            self.changes.push(Change::InstanceRemoved { instance: uid.clone(), keeper, because });
        }
    }

    /// The decision of a round that must not touch the document.
    pub fn leave_untouched(mut self, hold: Hold) -> Decision {
        self.hold(hold);
        self.changes.clear();
        self.next = self.before.clone();
        self.decide(Urgency::Nothing)
    }

    /// Stamp the document and hand over.
    pub fn finish(mut self) -> Decision {
        let urgency = stamp::urgency(self.before, &self.next);
        convergence::track(&self.next, &mut self.memory, self.now);
        proxy::remember_closing(&self.next, &mut self.memory, self.now);
        self.wake_for_convergence();
        stamp::change_times(self.before, &mut self.next, self.now.wall);
        self.decide(urgency)
    }

    fn wake_for_convergence(&mut self) {
        let deadlines: Vec<_> = self
            .next
            .instances
            .iter()
            .filter_map(|(uid, instance)| {
                let since = self.memory.convergence.get(uid)?.since;
                let initial = self.next.cluster.status.phase == Some(stolon_model::Phase::Initializing);
                let timeout = if initial {
                    self.spec.init_timeout
                } else {
                    convergence::timeout_of(instance, &self.spec)
                };
                (!timeout.is_zero()).then_some(since + timeout)
            })
            .collect();
        for deadline in deadlines {
            self.wake_at(deadline);
        }
    }

    fn decide(self, urgency: Urgency) -> Decision {
        let mut memory = self.memory;
        memory.led = true;
        Decision {
            memory_if_refused: memory.clone().of_refused_write(self.remembered),
            next: self.next,
            memory,
            changes: self.changes,
            holds: self.holds,
            wake_at: self.wake_at,
            urgency,
        }
    }
}
