//! Changes of whom commits wait for.

use std::collections::BTreeSet;

use stolon_model::{InstanceUid, Quorum};

use super::Draft;
use super::instances::fake_standby;
use crate::sentinel::Change;
use crate::sentinel::followers::follows;

/// Whether commits must wait for a standby that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sentinel) enum Commits {
    /// As it was before.
    Unchanged,
    /// Yes: there are fewer standbys than this minimum.
    Blocked { minimum: u16 },
    /// No.
    Free,
}

impl Draft<'_> {
    /// Note that a standby holds every acknowledged commit.
    pub fn note_in_sync(&mut self, standby: &InstanceUid) {
        self.note(Change::StandbyInSync { instance: standby.clone() });
    }

    /// Have commits on `primary` wait for `listed`, of which `known` hold every acknowledged commit.
    pub fn set_synchronous_standbys(
        &mut self,
        primary: &InstanceUid,
        listed: &BTreeSet<InstanceUid>,
        known: &BTreeSet<InstanceUid>,
        commits: Commits,
    ) {
        let Some(instance) = self.data.instances.get_mut(primary) else { return };
        let spec = &mut instance.spec;
        let from = spec.synchronous_standbys.clone().unwrap_or_default();
        let to: Vec<InstanceUid> = listed.iter().cloned().collect();
        let was_blocked = spec.external_synchronous_standbys.as_ref().is_some_and(|names| !names.is_empty());
        spec.synchronous_standbys = Some(to.clone());
        instance.status.synchronous_standbys = Some(known.iter().cloned().collect());
        if commits != Commits::Unchanged {
            spec.synchronous_replication = true;
            let blocks = matches!(commits, Commits::Blocked { .. });
            spec.external_synchronous_standbys = Some(fake_standby(blocks));
        }
        match commits {
            Commits::Blocked { minimum } if !was_blocked => {
                self.note(Change::CommitsBlocked { primary: primary.clone(), minimum });
            }
            Commits::Free if was_blocked => self.note(Change::CommitsUnblocked { primary: primary.clone() }),
            _ => {}
        }
        if from != to {
            self.note(Change::SynchronousSetChanged { primary: primary.clone(), from, to });
        }
    }

    /// Have commits on `primary` wait for a quorum. By each of `rules` one may have been acknowledged; empty: nobody knows by which.
    pub fn set_quorum(
        &mut self,
        primary: &InstanceUid,
        quorum: &Quorum,
        rules: Vec<Quorum>,
        commits: Commits,
    ) {
        let Some(instance) = self.data.instances.get_mut(primary) else { return };
        let before = std::mem::replace(&mut instance.spec.synchronous_quorum, quorum.required);
        let listed: BTreeSet<InstanceUid> = quorum.members().iter().cloned().collect();
        let from = instance.spec.synchronous_standbys.clone().unwrap_or_default();
        let was_known = instance.status.quorums.as_deref() == Some(std::slice::from_ref(quorum));
        let is_known = rules == [quorum.clone()];
        instance.status.quorums = (!rules.is_empty()).then_some(rules);
        if before != quorum.required || from != quorum.members() {
            // Said here, with the number.
            instance.spec.synchronous_standbys = quorum.standbys.clone();
            self.note(Change::QuorumChanged { primary: primary.clone(), quorum: quorum.clone() });
        }
        if is_known && !was_known {
            self.note(Change::QuorumInForce { primary: primary.clone(), quorum: quorum.clone() });
        }
        // No member alone is known to hold everything: a sentinel of Stolon's elects none of them.
        self.set_synchronous_standbys(primary, &listed, &BTreeSet::new(), commits);
    }

    /// Have commits on `primary` wait for all of the standbys on its list, of which none is known to hold everything after a quorum.
    pub fn leave_quorum(&mut self, primary: &InstanceUid) {
        let Some(instance) = self.data.instances.get_mut(primary) else { return };
        instance.spec.synchronous_quorum = 0;
        instance.status.quorums = None;
        instance.status.synchronous_standbys = Some(Vec::new());
    }

    /// Have these standbys of a primary receive nothing, so that they can be compared.
    pub fn stop_receiving(&mut self, primary: &InstanceUid, standbys: &BTreeSet<InstanceUid>) {
        let mut stopped = Vec::new();
        for uid in standbys {
            let instance = self.data.instances.get_mut(uid).filter(|instance| follows(instance, primary));
            if instance.is_some_and(|it| !std::mem::replace(&mut it.spec.stops_receiving, true)) {
                stopped.push(uid.clone());
            }
        }
        if !stopped.is_empty() {
            self.note(Change::ReceivingStopped { primary: primary.clone(), standbys: stopped });
        }
    }

    /// The standbys of a primary that stays receive from it again. Those of another one wait until they are given one that works.
    pub fn let_receive(&mut self, primary: &InstanceUid) {
        let mut resumed = Vec::new();
        for (uid, instance) in &mut self.data.instances {
            if instance.spec.stops_receiving && follows(instance, primary) {
                instance.spec.stops_receiving = false;
                resumed.push(uid.clone());
            }
        }
        if !resumed.is_empty() {
            self.note(Change::ReceivingResumed { primary: primary.clone(), standbys: resumed });
        }
    }

    /// Whether a standby of this primary is told to receive nothing.
    pub fn has_stopped(&self, primary: &InstanceUid) -> bool {
        self.data.instances.values().any(|it| it.spec.stops_receiving && follows(it, primary))
    }

    /// Have commits on `primary` wait for no standby.
    pub fn leave_synchronous_mode(&mut self, primary: &InstanceUid) {
        let Some(instance) = self.data.instances.get_mut(primary) else { return };
        let was_synchronous = std::mem::take(&mut instance.spec.synchronous_replication);
        instance.spec.synchronous_standbys = None;
        instance.spec.external_synchronous_standbys = None;
        instance.status.synchronous_standbys = None;
        instance.spec.synchronous_quorum = 0;
        instance.status.quorums = None;
        if was_synchronous {
            self.note(Change::SynchronousReplicationOff { primary: primary.clone() });
        }
    }
}
