//! What a keeper learns of its primary by its port, and I9: nobody is found failed on evidence that is none.

use std::time::Duration;

use stolon_core::keeper::{Event as MachineEvent, Knocked};
use stolon_model::{Challenge, ChallengeUid, ClusterData, KeeperUid};

use crate::Time;
use crate::coverage::Point;
use crate::host::{HostId, Power};
use crate::invariants::Invariant;
use crate::keeper::KeeperEvent;
use crate::sabotage::Guard;
use crate::scenario::Program;
use crate::world::{Event, World};

/// Between the end of a receiver and the moment at which its keeper knows.
const NOTICE: Duration = Duration::from_millis(1);

/// The last challenge, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Challenged {
    uid: ChallengeUid,
    keeper: u8,
    /// When the store first took a report of the challenged keeper after that.
    answered: Option<Time>,
    /// Somebody was really refused after that.
    refused: bool,
}

impl World {
    /// A keeper asks to be told of the end of a receiver.
    pub(crate) fn watch_receiver(&mut self, keeper: u8, receiver: u32) {
        let postgres = &self.postgres[usize::from(keeper)];
        let server = postgres.server.as_ref();
        let lives = server.is_some_and(|it| it.upstream.is_some()) && postgres.receiver == receiver;
        if !lives {
            self.tell_receiver_ended(keeper, receiver);
        }
    }

    /// A standby does not stream any more from whom it did.
    pub(crate) fn receiver_ended(&mut self, keeper: u8) {
        let receiver = self.postgres[usize::from(keeper)].receiver;
        self.tell_receiver_ended(keeper, receiver);
    }

    fn tell_receiver_ended(&mut self, keeper: u8, receiver: u32) {
        if let Some(run) = self.run_of(Program::Keeper(keeper)) {
            self.after(NOTICE, Event::Keeper(keeper, run, KeeperEvent::ReceiverEnded(receiver)));
        }
    }

    /// A keeper opens a connection to a port. A process that hangs has a kernel that answers for it; a host that is frozen, off, or cut
    /// off has none.
    pub(crate) fn knock(&mut self, keeper: u8, address: &str, within: Duration) {
        let Some(run) = self.run_of(Program::Keeper(keeper)) else { return };
        let within = self.host(Program::Keeper(keeper)).span(within);
        let lookup = self.lookup(HostId(keeper));
        let there = self.keeper_at(address).filter(|_| lookup.is_some());
        let trip = there.and_then(|there| {
            let (here, there) = (HostId(keeper), HostId(there));
            let out = self.network.latency(here, there, &mut self.random)?;
            Some(lookup? + out + self.network.latency(there, here, &mut self.random)?)
        });
        let has_kernel = |there: u8| {
            let host = &self.hosts[usize::from(there)];
            host.power == Power::On && host.frozen_until.is_none()
        };
        let (found, delay) = match (there, trip) {
            (Some(there), Some(trip)) if has_kernel(there) && trip < within => {
                match self.postgres[usize::from(there)].server {
                    Some(_) => (Knocked::Accepted, trip),
                    None => (Knocked::Refused, trip),
                }
            }
            _ => (self.as_an_unanswered_knock_is_taken(), within),
        };
        if let (Knocked::Refused, Some(there), Some(challenged)) = (found, there, &mut self.challenged)
            && trip.is_some()
        {
            challenged.refused |= challenged.keeper == there;
        }
        self.after(delay, Event::Keeper(keeper, run, KeeperEvent::Knocked(found)));
    }

    fn as_an_unanswered_knock_is_taken(&self) -> Knocked {
        if self.lacks(Guard::OnlyRefusals) { Knocked::Refused } else { Knocked::Unanswered }
    }

    pub(crate) fn tell_of_receiver(&mut self, keeper: u8, process: u32) {
        self.tell_keeper(keeper, MachineEvent::ReceiverEnded { process });
    }

    /// The document was replaced: perhaps somebody is challenged.
    pub(crate) fn note_challenge(&mut self, data: &ClusterData) {
        let Some(Challenge { uid, instance }) = &data.cluster.status.challenge else { return };
        if self.challenged.as_ref().is_some_and(|known| known.uid == *uid) {
            return;
        }
        self.coverage.reached(Point::Challenged);
        let keeper = data.instances.get(instance).and_then(|it| self.keeper_index(&it.spec.keeper_uid));
        self.challenged =
            keeper.map(|keeper| Challenged { uid: uid.clone(), keeper, answered: None, refused: false });
    }

    /// The store takes the report of a keeper.
    pub(crate) fn note_answer(&mut self, uid: &KeeperUid) {
        let (now, keeper) = (self.now, self.keeper_index(uid));
        if let Some(challenged) = self.challenged.as_mut().filter(|it| Some(it.keeper) == keeper) {
            challenged.answered.get_or_insert(now);
        }
    }

    /// I9: a sentinel has found a keeper failed on evidence, by what it began to read then.
    pub(crate) fn check_evidence(&mut self, uid: &KeeperUid, read: Time) {
        self.coverage.reached(Point::FailedOnEvidence);
        let keeper = self.keeper_index(uid);
        let Some(challenged) = self.challenged.clone().filter(|it| Some(it.keeper) == keeper) else {
            return self.violate(Invariant::I9NoFalseFailover, || {
                format!("keeper {uid} is found failed without a challenge")
            });
        };
        if challenged.answered.is_some_and(|at| at < read) {
            self.violate(Invariant::I9NoFalseFailover, || {
                format!("keeper {uid} is found failed although it has answered challenge {}", challenged.uid)
            });
        }
        if !challenged.refused {
            self.violate(Invariant::I9NoFalseFailover, || {
                format!(
                    "keeper {uid} is found failed although nobody was refused since challenge {}",
                    challenged.uid
                )
            });
        }
    }
}
