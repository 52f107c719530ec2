//! What this keeper can say of its primary, and to whom it must show that it lives (docs/design/008-evidence.md).
//!
//! A standby's WAL receiver is a connection to the primary that is there anyway. When it ends, the keeper knocks at the primary's port,
//! again and again for a moment and then now and then, until WAL streams again. What it finds is evidence for the sentinel.

use std::time::Duration;

use stolon_model::{Access, Challenge, ChallengeUid, ClusterData, Finding, InstanceUid, WitnessReport};

use super::Machine;
use crate::keeper::event::{Effect, Knocked};
use crate::keeper::goal::{Follow, Goal, InstanceRole};
use crate::keeper::look::{Look, WalReceiver};
use crate::keeper::say::Saying;

/// Between knocks while somebody waits for what is found.
const SOON: Duration = Duration::from_millis(100);
/// How long that is after the receiver ended.
const SOON_LASTS: Duration = Duration::from_secs(2);
/// A port that has not answered within this tells nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the primary by its port.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Whom our instance follows.
    upstream: Option<Upstream>,
    /// The process of the receiver whose end will be told.
    watched: Option<u32>,
    /// The receiver has ended, and none was seen since.
    lost: Option<Lost>,
    /// A knock is under way, since this challenge was known.
    knocking: Option<Knock>,
    /// When the next one is due.
    due: Duration,
    /// What the last one found, unless that says nothing.
    finding: Option<Finding>,
    /// The challenge of the primary's keeper, by the last cluster data.
    challenge: ChallengeUid,
    /// The last challenge of ourselves.
    answers: ChallengeUid,
}

/// An instance of this cluster that ours follows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Upstream {
    instance: InstanceUid,
    address: String,
    port: String,
}

#[derive(Clone, Debug)]
struct Knock {
    at: Upstream,
    challenge: ChallengeUid,
}

#[derive(Clone, Copy, Debug)]
struct Lost {
    since: Duration,
    position: EndPosition,
}

/// Whether the position that is reported is the one at which the receiver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndPosition {
    Unknown,
    /// A look that began after the end has shown it.
    Looked,
}

impl Witness {
    /// Whom we follow, and which challenges there are, by cluster data that were just read. A new challenge has our own position looked at
    /// again: WAL may have come since the last look.
    fn read(&mut self, now: Duration, upstream: Option<Upstream>, challenges: Challenges) {
        if upstream != self.upstream {
            self.upstream = upstream;
            (self.finding, self.due) = (None, now);
        }
        if challenges.of_upstream != self.challenge {
            self.challenge = challenges.of_upstream;
            self.due = now;
            if let Some(lost) = &mut self.lost {
                lost.position = EndPosition::Unknown;
            }
        }
        if !challenges.of_us.is_empty() {
            self.answers = challenges.of_us;
        }
    }

    /// The receiver has ended, as far as that was not known.
    fn lost(&mut self, now: Duration) {
        if self.lost.is_none() {
            self.lost = Some(Lost { since: now, position: EndPosition::Unknown });
            self.due = now;
        }
    }

    fn streams(&mut self) {
        self.lost = None;
        if self.challenge.is_empty() {
            self.finding = None;
        }
    }

    /// When the next knock is due; none while one is under way, or where there is no reason for one.
    fn wake(&self) -> Option<Duration> {
        let has_reason = self.lost.is_some() || !self.challenge.is_empty();
        (has_reason && self.upstream.is_some() && self.knocking.is_none()).then_some(self.due)
    }

    /// Returns true when it is news that the primary refuses connections.
    fn knocked(&mut self, now: Duration, found: Knocked, usual: Duration) -> bool {
        let Some(knock) = self.knocking.take() else { return false };
        if self.upstream.as_ref() != Some(&knock.at) {
            return false;
        }
        let is_outdated = knock.challenge != self.challenge;
        let is_urgent = !self.challenge.is_empty()
            || self.lost.is_some_and(|lost| now.saturating_sub(lost.since) < SOON_LASTS);
        self.due = match (is_outdated, is_urgent) {
            (true, _) => now,
            (false, true) => now + SOON,
            (false, false) => now + usual,
        };
        let access = match found {
            Knocked::Refused => Some(Access::Refused),
            Knocked::Accepted => Some(Access::Accepted),
            Knocked::Unanswered => None,
        };
        let before = self.finding.take().and_then(|finding| finding.access);
        let Upstream { instance, address, port } = knock.at;
        let challenge = knock.challenge;
        self.finding = access.map(|access| Finding {
            instance,
            listen_address: address,
            port,
            challenge,
            access: Some(access),
        });
        found == Knocked::Refused && before != Some(Access::Refused)
    }

    /// What the others are told. That connections are refused is told together with the position at which the receiver ended, and
    /// that they are accepted only where somebody asks.
    pub(super) fn report(&self) -> WitnessReport {
        let is_final = self.lost.is_some_and(|lost| lost.position == EndPosition::Looked);
        let is_told = |finding: &&Finding| match finding.access {
            Some(Access::Refused) => is_final,
            _ => !self.challenge.is_empty() && finding.challenge == self.challenge,
        };
        WitnessReport {
            answers: self.answers.clone(),
            finding: self.finding.as_ref().filter(is_told).cloned(),
        }
    }
}

/// The challenge in cluster data, by whom it concerns; empty where it does not.
#[derive(Debug, Default)]
struct Challenges {
    of_upstream: ChallengeUid,
    of_us: ChallengeUid,
}

impl Machine {
    /// Cluster data were read.
    pub(super) fn note_challenges(&mut self) {
        let upstream = upstream(self.orders.goal());
        let challenges = self.orders.data().map_or_else(Challenges::default, |data| {
            let of = |is_it: &dyn Fn(&Challenge) -> bool| {
                let challenge = data.cluster.status.challenge.as_ref();
                challenge.filter(|it| is_it(it)).map(|it| it.uid.clone()).unwrap_or_default()
            };
            Challenges {
                of_upstream: of(&|it| upstream.as_ref().is_some_and(|up| up.instance == it.instance)),
                of_us: of(&|it| self.is_ours(data, &it.instance)),
            }
        });
        let is_new = challenges.of_upstream != self.witness.challenge;
        self.witness.read(self.now, upstream, challenges);
        if is_new && self.witness.lost.is_some() {
            self.looks.again(self.now);
        }
    }

    fn is_ours(&self, data: &ClusterData, instance: &InstanceUid) -> bool {
        data.instances.get(instance).is_some_and(|it| it.spec.keeper_uid == self.identity.keeper)
    }

    /// What a look shows of the receiver.
    pub(super) fn note_receiver(&mut self, look: &Look) {
        let Some(answer) = look.instance_answer().filter(|_| self.witness.upstream.is_some()) else {
            self.witness.lost = None;
            return;
        };
        match (&answer.receiver, &mut self.witness.lost) {
            _ if !answer.in_recovery => self.witness.lost = None,
            (WalReceiver::Streaming, _) => self.receiver_streams(answer.receiver_process),
            (WalReceiver::Absent(_), Some(lost)) => lost.position = EndPosition::Looked,
            (WalReceiver::Absent(_), None) => self.receiver_is_gone(),
        }
    }

    fn receiver_streams(&mut self, process: Option<u32>) {
        self.witness.streams();
        if let Some(process) = process.filter(|process| self.witness.watched != Some(*process)) {
            self.witness.watched = Some(process);
            self.ask_for(Effect::WatchReceiver { process });
        }
    }

    /// The process of a receiver has ended.
    pub(super) fn receiver_ended(&mut self, process: u32) {
        if self.witness.watched == Some(process) {
            self.witness.watched = None;
            self.receiver_is_gone();
        }
    }

    /// Where the receiver ended is shown by a look that begins now, not by one that is under way.
    fn receiver_is_gone(&mut self) {
        self.witness.lost(self.now);
        self.looks.again(self.now);
    }

    /// Knocks at the primary's port when it is time.
    pub(super) fn knock_when_due(&mut self) {
        let is_due = self.witness.wake().is_some_and(|due| self.now >= due);
        let Some(at) = self.witness.upstream.clone().filter(|_| is_due) else { return };
        let Upstream { address, port, .. } = at.clone();
        self.witness.knocking = Some(Knock { at, challenge: self.witness.challenge.clone() });
        self.ask_for(Effect::Knock { address, port, within: PATIENCE });
    }

    /// What became of a knock.
    pub(super) fn knocked(&mut self, found: Knocked) {
        let usual = self.orders.pace().sleep;
        if self.witness.knocked(self.now, found, usual) {
            let upstream = self.orders.goal().upstream_in_words().unwrap_or_default();
            self.say(Saying::UpstreamRefuses(upstream));
        }
    }

    pub(super) fn knock_wake(&self) -> Option<Duration> {
        self.witness.wake()
    }
}

fn upstream(goal: &Goal) -> Option<Upstream> {
    let Goal::Reach(goal) = goal else { return None };
    let InstanceRole::Standby(Follow::Internal(peer)) = &goal.role else { return None };
    let (address, port) = (peer.status.listen_address.clone(), peer.status.port.clone());
    (!address.is_empty() && !port.is_empty()).then(|| Upstream { instance: peer.uid.clone(), address, port })
}
