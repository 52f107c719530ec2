//! Evidence that the primary's keeper has failed, which is quicker than its silence (docs/design/008-evidence.md).
//!
//! Standbys that are refused at the primary's port are a reason to challenge its keeper. One that lives answers within milliseconds. One that
//! does not answer, while a standby is still refused and none is let in, counts as failed until it reports.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use stolon_model::{
    Access, Challenge, ChallengeUid, Finding, InfoUid, Instance, KeeperReport, KeeperUid, Phase,
    SwitchoverStage,
};

use super::followers::follows;
use super::joined::joined;
use super::memory::{Challenged, Life, Refused, Unproven};
use super::reasons::{List, Seconds};
use super::round::Round;
use super::wake::Wake;
use super::{Hold, UidSource};

/// How long a keeper has for its answer where the store takes no time.
const PATIENCE: Duration = Duration::from_secs(1);
/// The challenge, the notice of it, the answer, and the notice of that each wait for the store.
const HOPS: u32 = 4;
/// The round after a challenge was written sees it in the store.
const READ_BACK: Duration = Duration::from_millis(10);

/// What came of a challenge.
enum Outcome {
    /// It is not over yet.
    Open(Wake),
    /// The keeper lives, a standby is let in, or none is refused any more; or another sentinel took the challenge out of the document.
    Unproven,
    /// These keepers of standbys are refused, and there was no answer.
    Proven(Vec<KeeperUid>),
}

impl Round<'_> {
    /// Challenge the primary's keeper where there is reason, and judge what came of it.
    pub fn weigh_evidence(&mut self, uids: &mut dyn UidSource) -> Wake {
        self.lift_verdicts();
        let primary = self.draft.primary().filter(|_| self.is_normal()).cloned();
        let Some(primary) = primary else {
            self.memory.challenge = None;
            self.draft.challenge(None);
            return Wake::NEVER;
        };
        match self.outcome(&primary) {
            Some(Outcome::Open(wake)) => return wake,
            Some(Outcome::Proven(witnesses)) => self.find_failed(&primary, witnesses),
            Some(Outcome::Unproven) => {
                let (keeper, at) = (primary.spec.keeper_uid.clone(), self.seen.now.monotonic);
                self.memory.unproven = Some(Unproven { keeper, at });
            }
            None => return self.challenge(&primary, uids),
        }
        self.memory.challenge = None;
        self.draft.challenge(None);
        Wake::NEVER
    }

    fn is_normal(&self) -> bool {
        self.draft.cluster.status.phase == Some(Phase::Normal)
    }

    /// A keeper that reports again is alive, whatever was found before.
    fn lift_verdicts(&mut self) {
        let sightings = &self.memory.keepers;
        self.memory.refused.retain(|keeper, verdict| {
            let sighting = sightings.get(keeper);
            sighting.is_some_and(|sighting| {
                sighting.report.as_ref().map(|report| &report.info_uid) == verdict.last.as_ref()
            })
        });
    }

    /// The last report of a keeper.
    pub fn last_report(&self, keeper: &KeeperUid) -> Option<&KeeperReport> {
        self.memory.keepers.get(keeper)?.report.as_deref()
    }

    fn last_info_uid(&self, keeper: &KeeperUid) -> Option<InfoUid> {
        self.last_report(keeper).map(|report| report.info_uid.clone())
    }

    /// What came of the challenge of the primary's keeper; none if there is none.
    fn outcome(&mut self, primary: &Instance) -> Option<Outcome> {
        let stored = &self.seen.document().cluster.status.challenge;
        let arrived = self.seen.arrived;
        let challenged = self.memory.challenge.as_mut()?;
        if challenged.challenge.instance != primary.uid {
            return None;
        }
        if stored.as_ref() != Some(&challenged.challenge) {
            return Some(Outcome::Unproven);
        }
        let since = *challenged.in_store.get_or_insert(arrived);
        let Challenged { challenge, last, .. } = challenged.clone();
        if self.last_info_uid(&primary.spec.keeper_uid) != last {
            return Some(Outcome::Unproven);
        }
        let (mut refused, mut is_let_in) = (Vec::new(), false);
        for (keeper, finding) in self.findings(primary, &challenge.uid) {
            match finding.access {
                Some(Access::Refused) => refused.push(keeper.clone()),
                Some(Access::Accepted) => is_let_in = true,
                Some(Access::Unknown(_)) | None => {}
            }
        }
        if is_let_in {
            return Some(Outcome::Unproven);
        }
        let limit = self.seen.limit(since, self.patience());
        Some(match (limit.is_over(), refused.is_empty()) {
            (false, _) => {
                let (keeper, refused) = (primary.spec.keeper_uid.clone(), refused);
                self.hold(Hold::Challenged { keeper, refused });
                Outcome::Open(limit.wake())
            }
            (true, true) => Outcome::Unproven,
            (true, false) => Outcome::Proven(refused),
        })
    }

    /// How long a keeper has for its answer.
    fn patience(&self) -> Duration {
        PATIENCE + self.seen.view.usual_delay * HOPS
    }

    /// What the keepers of standbys have found for this challenge. Each came here after the challenge had been made.
    fn findings(
        &self,
        primary: &Instance,
        challenge: &ChallengeUid,
    ) -> impl Iterator<Item = (&KeeperUid, &Finding)> {
        let standbys = self.draft.instances.values().filter(|instance| follows(instance, &primary.uid));
        standbys.filter_map(move |standby| {
            let keeper = &standby.spec.keeper_uid;
            let finding = finding(self.last_report(keeper)?, standby, primary)?;
            (finding.challenge == *challenge).then_some((keeper, finding))
        })
    }

    /// Challenge the primary's keeper if a standby is refused. Not again before that keeper has missed a report: a server that is down
    /// for long under a keeper that lives is no news.
    fn challenge(&mut self, primary: &Instance, uids: &mut dyn UidSource) -> Wake {
        self.memory.challenge = None;
        let keeper = &primary.spec.keeper_uid;
        let refused = self.refused(primary);
        if refused.is_empty() {
            self.memory.unproven = None;
        }
        if refused.is_empty() || self.is_stopped_for_another(primary) || !self.may_be_challenged(keeper) {
            self.draft.challenge(None);
            return Wake::NEVER;
        }
        let uid = ChallengeUid::from(uids.instance_uid().as_str());
        let challenge = Challenge { uid, instance: primary.uid.clone() };
        let (keeper, last) = (keeper.clone(), self.last_info_uid(keeper));
        self.draft.challenge(Some(challenge.clone()));
        self.memory.challenge = Some(Challenged { challenge, last, in_store: None });
        self.hold(Hold::Challenged { keeper, refused });
        Wake::at(self.seen.arrived + READ_BACK)
    }

    /// The keepers of standbys that are refused at the primary's port, by fresh reports.
    fn refused(&self, primary: &Instance) -> Vec<KeeperUid> {
        let reports = joined(&self.draft.instances, self.seen.in_charge());
        let refused = reports.filter_map(|(_, standby, report)| {
            let finding = finding(report?, standby, primary)?;
            let is_refused = finding.access == Some(Access::Refused) && follows(standby, &primary.uid);
            is_refused.then(|| standby.spec.keeper_uid.clone())
        });
        refused.collect()
    }

    /// Whether the primary was stopped in a planned change, so that standbys are refused, and its keeper was heard of just now.
    fn is_stopped_for_another(&self, primary: &Instance) -> bool {
        let record = self.draft.cluster.status.switchover.as_ref().filter(|record| record.is_open());
        record.is_some_and(|record| {
            record.stage == Some(SwitchoverStage::Stopping) && record.from.as_ref() == Some(&primary.uid)
        }) && self.seen.fresh.contains_key(&primary.spec.keeper_uid)
    }

    /// Whether a keeper knows of challenges, counts as alive, and was not found alive just now.
    fn may_be_challenged(&self, keeper: &KeeperUid) -> bool {
        let answers = self
            .last_report(keeper)
            .and_then(|report| report.activity.as_ref())
            .is_some_and(|activity| activity.witness.is_some());
        let is_healthy = self.draft.keepers.get(keeper).is_some_and(|keeper| keeper.status.healthy);
        let was_unproven = self.memory.unproven.as_ref().filter(|unproven| unproven.keeper == *keeper);
        let pause = self.seen.spec.sleep_interval;
        answers
            && is_healthy
            && was_unproven.is_none_or(|unproven| {
                !self.seen.fresh.contains_key(keeper) && self.seen.limit(unproven.at, pause).is_over()
            })
    }

    fn find_failed(&mut self, primary: &Instance, witnesses: Vec<KeeperUid>) {
        let keeper = primary.spec.keeper_uid.clone();
        let (last, within) = (self.last_info_uid(&keeper), self.patience());
        self.memory.refused.insert(keeper, Refused { last, witnesses, within });
    }

    /// How long the last word of a keeper was ago.
    pub fn quiet_for(&self, keeper: &KeeperUid) -> Duration {
        let sighting = self.memory.keepers.get(keeper).filter(|sighting| sighting.life == Life::Proven);
        sighting.map(|sighting| self.seen.elapsed(sighting.since)).unwrap_or_default()
    }
}

/// Why a keeper counts as failed on evidence, in words.
pub(super) struct Unanswered<'a> {
    pub witnesses: &'a [KeeperUid],
    pub within: Duration,
}

impl Display for Unanswered<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (within, witnesses) = (Seconds(self.within), List(self.witnesses));
        write!(
            f,
            "no answer to a challenge within {within}, and its PostgreSQL refuses connections of {witnesses}"
        )
    }
}

/// What the keeper of a standby has found at the primary's port.
fn finding<'r>(report: &'r KeeperReport, standby: &Instance, primary: &Instance) -> Option<&'r Finding> {
    let finding = report.activity.as_ref()?.witness.as_ref()?.finding.as_ref()?;
    let is_in_charge = report.postgres_state.as_ref().is_some_and(|state| state.uid == standby.uid);
    let status = &primary.status;
    let is_there = (&finding.instance, &finding.listen_address, &finding.port)
        == (&primary.uid, &status.listen_address, &status.port);
    (is_in_charge && is_there).then_some(finding)
}
