//! Which keepers and instances are removed from the document.

use std::collections::BTreeSet;

use stolon_model::{Instance, InstanceInitMode, InstanceUid, Keeper, KeeperUid};

use super::RemovalReason;
use super::joined::joined;
use super::round::{Kind, Round, Validity, validity};
use super::wake::{Limit, Wake};
use crate::wal_file;

/// A standby that reports the same position for longer than so many sleep intervals does not move.
const STALLED_INTERVALS: u32 = 10;

impl Round<'_> {
    /// A keeper without instance that was not seen for `deadKeeperRemovalInterval` is forgotten. One with an instance never is.
    /// The only rule that uses the wall clock.
    pub fn forget_dead_keepers(&mut self) {
        let limit = jiff_span(self.seen.spec.dead_keeper_removal_interval);
        let wall = self.seen.now.wall.instant();
        let not_seen_for = |keeper: &Keeper| wall.duration_since(keeper.status.last_healthy_time.instant());
        let free = self.keepers_without_instance().into_iter();
        let dead: Vec<KeeperUid> =
            free.filter(|keeper| not_seen_for(keeper) > limit).map(|keeper| keeper.uid.clone()).collect();
        for keeper in dead {
            self.draft.forget_keeper(keeper);
        }
    }

    /// Registered keepers that are in charge of no instance, by uid.
    pub fn keepers_without_instance(&self) -> Vec<&Keeper> {
        let instances = self.draft.instances.values();
        let in_charge: BTreeSet<&KeeperUid> = instances.map(|instance| &instance.spec.keeper_uid).collect();
        let in_charge = in_charge.into_iter().map(|uid| (uid, ()));
        let keepers = joined(&self.draft.keepers, in_charge);
        keepers.filter(|(_, _, instance)| instance.is_none()).map(|(_, keeper, _)| keeper).collect()
    }

    /// Beside a primary that works: former primaries, other databases, other branches, and standbys that lack WAL or
    /// whose data are gone.
    pub fn remove_unusable(&mut self, primary: &Instance) -> Wake {
        let others = self.draft.instances.values().filter(|instance| instance.uid != primary.uid);
        let wake = others.clone().fold(Wake::NEVER, |wake, instance| {
            wake.or(self.misses_wal(primary, instance).map_or(Wake::NEVER, Limit::wake))
        });
        let doomed: Vec<(InstanceUid, RemovalReason)> = others
            .filter_map(|instance| Some((instance.uid.clone(), self.unusable(primary, instance)?)))
            .collect();
        for (uid, because) in doomed {
            self.draft.remove_instance(&uid, because);
        }
        wake
    }

    fn unusable(&self, primary: &Instance, instance: &Instance) -> Option<RemovalReason> {
        if Kind::of(instance) == Kind::Head || self.holds_primary_data(instance) {
            return Some(RemovalReason::FormerPrimary);
        }
        if self.is_lost(instance) {
            return Some(RemovalReason::DataLost);
        }
        match validity(primary, instance) {
            Validity::OtherSystem => Some(RemovalReason::OtherSystem),
            Validity::OtherBranch => Some(RemovalReason::OtherBranch),
            Validity::Unknown | Validity::Valid => {
                let misses = self.misses_wal(primary, instance);
                misses.is_some_and(Limit::is_over).then_some(RemovalReason::MissingWal)
            }
        }
    }

    /// A standby that was promoted under cluster data that the store has lost: nobody else may know, and its keeper cannot make a standby
    /// of it.
    fn holds_primary_data(&self, instance: &Instance) -> bool {
        let report = self.seen.fresh.get(&instance.spec.keeper_uid);
        report.is_some_and(|report| {
            let is_instance = report.postgres_state.as_ref().is_some_and(|state| state.uid == instance.uid);
            is_instance && report.activity.as_ref().is_some_and(|activity| activity.holds_primary_data)
        })
    }

    /// A standby that was complete once, does not work, and whose keeper says that it holds something else, or nothing. The keeper's own
    /// word counts where the data went before a report told that they were complete; a keeper that was only just assigned the
    /// instance still reports its former one, and has served that.
    fn is_lost(&self, instance: &Instance) -> bool {
        if Kind::of(instance) != Kind::Standby || instance.status.healthy {
            return false;
        }
        let Some(report) = self.seen.fresh.get(&instance.spec.keeper_uid) else { return false };
        let Some(state) = &report.postgres_state else { return false };
        // It was begun again on older cluster data, in which it was not complete yet: by these ones its keeper cannot make it.
        if state.uid == instance.uid && instance.spec.init_mode == Some(InstanceInitMode::None) {
            return state.generation == 0;
        }
        let served = report.activity.as_ref().and_then(|activity| activity.served.as_ref());
        let was_complete = instance.status.current_generation != 0
            || served.is_some_and(|served| served.instance == instance.uid);
        state.uid != instance.uid && was_complete
    }

    /// Until when a standby may yet move whose next WAL the primary no longer has; none for any other one. How often it reports, and how often
    /// anybody looks, does not matter: both are rare where nothing happens.
    fn misses_wal(&self, primary: &Instance, instance: &Instance) -> Option<Limit> {
        let stall = self.memory.stalls.get(&instance.uid)?;
        let is_missing = Kind::of(instance) == Kind::Standby
            && instance.generation != 1
            && instance.status.healthy
            && instance.status.lsn != primary.status.lsn
            && wal_file::is_before(instance.status.lsn, &primary.status.older_wal_file);
        is_missing.then(|| self.seen.limit(stall.since, self.seen.spec.sleep_interval * STALLED_INTERVALS))
    }
}

/// A span of the standard library in the terms of the calendar library; centuries at the most.
fn jiff_span(span: std::time::Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(span).unwrap_or(jiff::SignedDuration::MAX)
}
