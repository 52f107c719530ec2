//! Changes of what the document remembers of former primaries.

use stolon_model::{
    FormerPrimary, Instance, InstanceInitMode, InstanceSpec, InstanceStatus, InstanceUid, KeeperUid, Lsn,
    Role,
};

use super::Draft;
use crate::sentinel::{Change, RemovalReason};

/// More former primaries than these are not remembered: each is another keeper's, and the oldest are of the least use.
const REMEMBERED: usize = 8;

/// Whether a former primary holds everything that any client was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sentinel) enum Holding {
    Everything,
    /// It was set back with its host.
    LessThanItHad,
}

impl Draft<'_> {
    /// Remember a primary in whose place `successor` is elected, and no longer the successor as a former one.
    pub fn remember_former(&mut self, old: &Instance, successor: &InstanceUid, holding: Holding) {
        let former = FormerPrimary {
            complete: holding == Holding::Everything,
            ..FormerPrimary::of(old, successor, self.wall)
        };
        let keeper = self.instances.get(successor).map(|instance| instance.spec.keeper_uid.clone());
        let formers = self.data.cluster.status.formers.get_or_insert_default();
        formers.retain(|it| it.keeper != former.keeper && Some(&it.keeper) != keeper.as_ref());
        formers.push(former);
        let surplus = formers.len().saturating_sub(REMEMBERED);
        formers.drain(..surplus);
    }

    /// From this document on somebody else may acknowledge commits: no former primary holds everything any more.
    pub fn void_formers(&mut self) {
        self.data.cluster.status.void_formers();
    }

    /// Forget the former primaries that are not worth remembering any more.
    pub fn retain_formers(&mut self, is_worth: impl Fn(&FormerPrimary) -> bool) {
        let status = &mut self.data.cluster.status;
        if let Some(formers) = &mut status.formers {
            formers.retain(is_worth);
            if formers.is_empty() {
                status.formers = None;
            }
        }
    }

    /// Put a former primary back that its keeper still holds, in the place of what the keeper was to make of it. Above `served` no
    /// generation of it was ever asked for.
    pub fn put_back(&mut self, former: &FormerPrimary, served: i64) {
        if self.instances.contains_key(&former.instance) {
            return;
        }
        let others = self.instances.values().filter(|it| it.spec.keeper_uid == former.keeper);
        let others: Vec<InstanceUid> = others.map(|it| it.uid.clone()).collect();
        for other in others {
            self.remove_instance(&other, RemovalReason::FormerDataKept);
        }
        let spec = InstanceSpec {
            keeper_uid: former.keeper.clone(),
            init_mode: Some(InstanceInitMode::None),
            role: Some(Role::Primary),
            followers: Some(Vec::new()),
            ..InstanceSpec::default()
        };
        let status = InstanceStatus {
            // As any other one it has `failInterval` to show that it works.
            healthy: true,
            system_identifier: former.system_identifier.clone(),
            timeline: former.timeline,
            lsn: former.lsn,
            ..InstanceStatus::default()
        };
        let uid = former.instance.clone();
        let generation = former.generation.max(served).saturating_add(1);
        self.data
            .instances
            .insert(uid.clone(), Instance { uid, generation, spec, status, ..Instance::default() });
    }

    /// Tell that the keeper of a former primary is back, with what an operator has given up: up to `to`. Once.
    pub fn name_given_up(&mut self, keeper: &KeeperUid, to: Lsn) {
        let mut formers = self.data.cluster.status.formers.iter_mut().flatten();
        let Some(former) = formers.find(|former| former.keeper == *keeper) else { return };
        let Some(from) = former.given_up_from.take() else { return };
        let (instance, timeline) = (former.instance.clone(), former.timeline);
        self.note(Change::GivenUp { instance, keeper: keeper.clone(), timeline, from, to });
    }
}
