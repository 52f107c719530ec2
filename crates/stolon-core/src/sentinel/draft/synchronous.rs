//! Changes of whom commits wait for.

use std::collections::BTreeSet;

use stolon_model::InstanceUid;

use super::Draft;
use super::instances::fake_standby;
use crate::sentinel::Change;

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

    /// Have commits on `primary` wait for no standby.
    pub fn leave_synchronous_mode(&mut self, primary: &InstanceUid) {
        let Some(instance) = self.data.instances.get_mut(primary) else { return };
        let was_synchronous = std::mem::take(&mut instance.spec.synchronous_replication);
        instance.spec.synchronous_standbys = None;
        instance.spec.external_synchronous_standbys = None;
        instance.status.synchronous_standbys = None;
        if was_synchronous {
            self.note(Change::SynchronousReplicationOff { primary: primary.clone() });
        }
    }
}
