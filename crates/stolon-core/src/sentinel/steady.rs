//! The cluster has a primary: keep it, or replace it.

use stolon_model::{Instance, Role};

use super::election::Replacement;
use super::health::Verdict;
use super::round::Round;
use super::switchover::Handing;
use super::wake::Wake;
use super::{BrokenDocument, Hold, UidSource};

impl Round<'_> {
    /// The order counts: later steps see what earlier ones did.
    pub fn keep_steady(&mut self, uids: &mut dyn UidSource) -> Wake {
        if !self.is_paused() {
            self.forget_dead_keepers();
        }
        let Some(primary) = self.draft.primary().cloned() else {
            let named = self.draft.cluster.status.primary.clone();
            self.hold(Hold::BrokenDocument { what: BrokenDocument::PrimaryMissing { primary: named } });
            return Wake::NEVER;
        };
        self.forget_handover_of_others(&primary);
        self.forget_request_of_others(&primary);
        let handing = self.hand_over(&primary);
        let under_way = match handing {
            Handing::Elected(successor) => {
                self.list_followers(&primary.uid, &successor);
                return Wake::NEVER;
            }
            Handing::ClientsWait(wake) => {
                self.list_followers(&primary.uid, &primary.uid);
                return wake;
            }
            Handing::ClientsServed(wake) => wake,
            Handing::Nothing => Wake::NEVER,
        };
        let verdict = self.judge_primary(&primary);
        if self.is_paused() || !matches!(verdict, Verdict::Goes(_)) {
            self.lift_fence(&primary);
            self.draft.let_receive(&primary.uid);
        }
        let wake = match verdict {
            Verdict::Goes(because) if self.is_paused() => {
                self.hold(Hold::NotReplaced { primary: primary.uid.clone(), because });
                Wake::NEVER
            }
            Verdict::Goes(because) => {
                self.take_switchover_back(&primary);
                match self.replace(&primary, because) {
                    Replacement::Elected(successor) => {
                        self.list_followers(&primary.uid, &successor);
                        return Wake::NEVER;
                    }
                    Replacement::Awaited(wake) => wake,
                }
            }
            Verdict::Spared(hold, wake) => {
                self.hold(hold);
                wake
            }
            Verdict::Stays(wake) => wake,
        };
        if self.draft.has_stopped(&primary.uid) {
            // What is asked of a primary that is about to be replaced may change who has to be compared.
            self.list_followers(&primary.uid, &primary.uid);
            return wake.or(under_way).or(self.guide_proxies(&primary));
        }
        let wake = wake.or(under_way).or(self.keep_primary(&primary, uids));
        self.list_followers(&primary.uid, &primary.uid);
        wake
    }

    /// The primary stays: send clients and standbys to it.
    fn keep_primary(&mut self, primary: &Instance, uids: &mut dyn UidSource) -> Wake {
        let wake = self.guide_proxies(primary);
        if self.seen.spec.role == Role::Primary {
            // `stolonctl promote`: the head of a standby cluster becomes a primary, whether it is healthy or not.
            self.draft.promote_standby_cluster(&primary.uid);
        }
        let has_converged = primary.status.current_generation == primary.generation;
        let is_healthy = primary.status.healthy && self.keeper_is_healthy(primary);
        // Before `failInterval` is over a primary in trouble counts as healthy. What is asked of it meanwhile may never reach it, and who held
        // everything until then would not be a candidate any more.
        if is_healthy && has_converged && self.is_known_to_work(primary) {
            return wake.or(self.tend_standbys(primary, uids));
        }
        self.hold(Hold::AwaitingPrimary {
            primary: primary.uid.clone(),
            keeper: primary.spec.keeper_uid.clone(),
            generation: primary.generation,
            current: primary.status.current_generation,
        });
        wake
    }

    /// Look after the standbys of a primary that works and has reached its generation.
    fn tend_standbys(&mut self, primary: &Instance, uids: &mut dyn UidSource) -> Wake {
        let wake = if self.is_paused() { Wake::NEVER } else { self.remove_unusable(primary) };
        let asked = self.asked_anew();
        if !asked.is_empty() {
            let good = self.count_standbys(primary).good;
            self.make_anew(&primary.uid, asked, &good, uids);
        }
        let census = self.count_standbys(primary);
        self.draft.mark_ready(&census.good);
        if self.wants_synchronous() {
            self.choose_synchronous_standbys(primary, &census.good);
        } else {
            self.leave_synchronous_mode(&primary.uid);
        }
        self.adjust_standbys(&primary.uid, &census, uids);
        self.draft.point_standbys_at(&primary.uid);
        wake.or(census.wake)
    }
}
