//! A server that an earlier keeper left, and that this one has taken over: what becomes of it until the sentinel has seen this keeper
//! (docs/design/011-keeper-upgrade.md).
//!
//! It was not restarted, so it goes on as it is, if the cluster data want it as it is. Otherwise it is stopped first, as every server
//! that is found: what is asked then is done as after any start of a keeper.

use std::time::Duration;

use stolon_model::{BootUuid, InstanceUid, UsableCluster};

use super::Machine;
use super::orders::Change;
use crate::keeper::event::Found;
use crate::keeper::goal::{Goal, Identity, InstanceGoal, InstanceRole, LeaveAlone, StopReason};
use crate::keeper::look::{Look, ServerLook};
use crate::keeper::observation::DataKind;

/// The server.
#[derive(Debug)]
pub(super) struct Survivor {
    instance: InstanceUid,
    role: DataKind,
    since: Duration,
    fate: Fate,
}

/// What is decided about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing.
    Open,
    /// It is stopped, whatever is asked by then.
    Condemned(StopReason),
}

impl Survivor {
    fn new(instance: InstanceUid, role: DataKind, since: Duration) -> Self {
        Survivor { instance, role, since, fate: Fate::Open }
    }

    /// What is asked of us beside it, and what is still to be decided about it.
    pub(super) fn judged(mut self, cluster: &UsableCluster, us: &Identity) -> (Goal, Option<Survivor>) {
        if let Some(why) = self.condemned() {
            return (Goal::Stop(why), Some(self));
        }
        let keeper = cluster.data().keepers.get(&us.keeper);
        let boot = keeper.map_or_else(BootUuid::default, |keeper| keeper.status.boot_uuid.clone());
        let is_acknowledged = boot == us.boot;
        match Goal::of(cluster, &Identity { boot, ..us.clone() }) {
            Goal::Reach(goal) if self.is_wanted(&goal) && is_acknowledged => (Goal::Reach(goal), None),
            Goal::Reach(goal) if self.is_wanted(&goal) => {
                (Goal::LeaveAlone(LeaveAlone::BootNotAcknowledged), Some(self))
            }
            Goal::Reach(_) => {
                self.fate = Fate::Condemned(StopReason::BootNotAcknowledged);
                (Goal::Stop(StopReason::BootNotAcknowledged), Some(self))
            }
            other => (other, Some(self)),
        }
    }

    /// Whether it is what the goal asks for, or becomes that without having served as something else.
    fn is_wanted(&self, goal: &InstanceGoal) -> bool {
        goal.uid == self.instance
            && match &goal.role {
                InstanceRole::Primary(primary) => primary.deposed.is_none(),
                InstanceRole::Standby(_) => self.role == DataKind::Standby,
            }
    }

    /// Why it is stopped, if that is decided.
    pub(super) fn condemned(&self) -> Option<StopReason> {
        match self.fate {
            Fate::Open => None,
            Fate::Condemned(why) => Some(why),
        }
    }

    /// A primary is not left to itself for longer than its keeper may be silent: somebody else may have been elected meanwhile.
    pub(super) fn is_forlorn_at(&self, fail: Duration) -> Option<Duration> {
        (self.fate == Fate::Open && self.role == DataKind::Primary).then(|| self.since + fail)
    }

    /// Nobody could be asked.
    pub(super) fn condemn(&mut self) -> StopReason {
        self.fate = Fate::Condemned(StopReason::NothingKnown);
        StopReason::NothingKnown
    }

    /// It takes writes. True if that is news.
    pub(super) fn is_primary(&mut self) -> bool {
        std::mem::replace(&mut self.role, DataKind::Primary) == DataKind::Standby
    }
}

impl Machine {
    /// This is what ran when we began.
    pub(super) fn found(&mut self, found: Found) {
        let Found::Server(server) = found else { return };
        self.server.gate = server.gate;
        let local = &self.disk.local;
        if !local.uid.is_empty() && !local.initializing {
            self.orders.takes_over(Survivor::new(local.uid.clone(), server.role, self.now));
        }
    }

    /// What a look shows of it: its end may have come before anybody listened, and a promotion may have ended that an earlier keeper began.
    pub(super) fn survivor_looked(&mut self, look: &Look) {
        match &look.server {
            ServerLook::Stopped => self.survivor_ended(),
            ServerLook::Answering(answer) if !answer.in_recovery => {
                if self.orders.survivor_is_primary() {
                    self.read_cluster(self.orders.pace().oldest_reading());
                }
            }
            _ => {}
        }
    }

    /// It is no more: what is asked counts as after any start of a keeper.
    pub(super) fn survivor_ended(&mut self) {
        if self.orders.survivor_ended() == Change::Goal {
            self.pursuit.plan_anew();
            self.read_cluster(self.orders.pace().oldest_reading());
        }
    }

    /// Nobody could be asked what is to become of it for too long.
    pub(super) fn give_up_survivor_when_due(&mut self) {
        if self.orders.survivor_may_be_forlorn(self.now) == Change::Goal {
            self.pursuit.plan_anew();
        }
    }
}
