//! Signs of life: which reports count, and what they say about instances.
//!
//! Only a change of `infoUID` proves life. A report counts as fresh for one sleep interval after it was first seen.

use std::cmp::Ordering;
use std::time::Duration;

use stolon_model::{
    EffectiveSpec, InfoUid, Instance, InstanceUid, Keeper, KeeperReport, KeeperUid, PostgresState,
};

use super::memory::{KeeperSighting, Life, Mark, Memory, Stall};
use super::round::{Round, Working};
use super::{Change, Rejection};

/// In bytes: 33 blocks of 8 KiB, all as whole pages, and twice that for good measure (PostgreSQL, `XLR_MAX_BLOCK_ID`).
const LARGEST_RECORD: u64 = 512 * 1024;

impl Memory {
    /// The time since the last read, if nothing could be read in it. A store that is always slow leaves no gaps: a round is a
    /// reading and a write, and each may take as long as requests usually do. Where nothing happens only every second reading
    /// asks the store.
    pub(super) fn gap(&self, now: Duration, usual_delay: Duration, spec: &EffectiveSpec) -> Option<Duration> {
        let gap = now.saturating_sub(self.last_read?);
        let limit = (spec.sleep_interval * 3).max(Duration::from_secs(1)) + usual_delay * 2;
        (gap > limit).then_some(gap)
    }

    /// Time during which nothing could be read is nobody's silence: move every running clock by it, and leave everybody
    /// two sleep intervals to show life again.
    pub(super) fn leave_out_gap(&mut self, now: Duration, usual_delay: Duration, spec: &EffectiveSpec) {
        let Some(gap) = self.gap(now, usual_delay, spec) else { return };
        let latest_verdict = spec.fail_interval.saturating_sub(spec.sleep_interval * 2);
        let shift = |since: &mut Duration| {
            *since = (*since + gap).max(now.saturating_sub(latest_verdict)).min(now);
        };
        for sighting in self.keepers.values_mut() {
            // A sighting counts as silence one sleep interval after it.
            let mut silent_since = sighting.since + spec.sleep_interval;
            shift(&mut silent_since);
            sighting.since = silent_since.saturating_sub(spec.sleep_interval);
        }
        self.trouble.values_mut().for_each(shift);
        self.convergence.values_mut().for_each(|entry| entry.since = (entry.since + gap).min(now));
        self.proxies.values_mut().for_each(|sighting| sighting.since = (sighting.since + gap).min(now));
        if let Some(closed) = &mut self.closed {
            closed.since = (closed.since + gap).min(now);
        }
    }
}

impl<'a> Round<'a> {
    /// Notice which keepers have reported anew.
    pub fn see_keepers(&mut self) {
        let now = self.arrived;
        let life = if self.is_first { Life::Unproven } else { Life::Proven };
        let view = self.view;
        self.dismiss_reports();
        let of_this_cluster = |report: &&KeeperReport| report.cluster_uid == view.cluster.data().cluster.uid;
        for (uid, report) in view.keepers {
            if !of_this_cluster(&report) {
                continue;
            }
            let known = self.memory.keepers.get(uid).and_then(|sighting| sighting.report.as_ref());
            if known.is_none_or(|known| known.info_uid != report.info_uid) {
                let sighting = KeeperSighting { report: Some(report.clone()), life, since: now };
                self.memory.keepers.insert(uid.clone(), sighting);
            }
        }
        for uid in view.cluster.data().keepers.keys() {
            let missed = KeeperSighting { report: None, life: Life::Unproven, since: now };
            self.memory.keepers.entry(uid.clone()).or_insert(missed);
        }
        let (sleep_interval, fail_interval) = (self.spec.sleep_interval, self.spec.fail_interval);
        let sightings: Vec<(KeeperUid, KeeperSighting)> =
            self.memory.keepers.iter().map(|(uid, sighting)| (uid.clone(), sighting.clone())).collect();
        for (uid, sighting) in sightings {
            // The end of freshness is no verdict, only the beginning of a silence: nobody need wake for it.
            if sighting.life == Life::Proven
                && self.elapsed(sighting.since) <= sleep_interval
                && let Some(report) = view.keepers.get(&uid).filter(of_this_cluster)
                && !self.memory.dismissed.contains_key(&uid)
            {
                self.deadlines
                    .push(sighting.since + sleep_interval + fail_interval + Duration::from_millis(1));
                self.fresh.insert(uid, report);
            }
        }
    }

    /// The last report of a keeper that was removed or forgotten stays in the store for a while. It was known already, so that it proves
    /// no life: only another one brings the keeper back.
    fn dismiss_reports(&mut self) {
        let (view, registered) = (self.view, &self.before().keepers);
        for uid in self.memory.registered.iter().filter(|uid| !registered.contains_key(uid)) {
            if let Some(report) = view.keepers.get(uid) {
                self.memory.dismissed.insert(uid.clone(), report.info_uid.clone());
            }
        }
        let is_last = |uid: &KeeperUid, last: &InfoUid| {
            view.keepers.get(uid).is_some_and(|report| report.info_uid == *last)
        };
        self.memory.dismissed.retain(|uid, last| is_last(uid, last));
        self.memory.registered = registered.keys().cloned().collect();
        self.memory.keepers.retain(|uid, _| view.keepers.contains_key(uid) || registered.contains_key(uid));
    }

    /// Since when a keeper is silent: one sleep interval after its last sign of life.
    pub fn silent_since(&self, keeper: &KeeperUid) -> Option<Duration> {
        if self.fresh.contains_key(keeper) {
            return None;
        }
        match self.memory.keepers.get(keeper) {
            Some(sighting) if sighting.life == Life::Proven => {
                Some(sighting.since + self.spec.sleep_interval)
            }
            Some(sighting) => Some(sighting.since),
            None => Some(self.now.monotonic),
        }
    }

    /// Take keepers that report for the first time into the document, and what known ones say about themselves.
    pub fn register_keepers(&mut self) {
        let reports: Vec<&KeeperReport> = self.fresh.values().copied().collect();
        for report in reports {
            let (uid, wall) = (report.uid.clone(), self.now.wall);
            if !self.data.keepers.contains_key(&uid) {
                let mut keeper = Keeper { uid: uid.clone(), generation: 1, ..Keeper::default() };
                keeper.spec = Some(stolon_model::Empty {});
                keeper.status.healthy = true;
                keeper.status.last_healthy_time = wall;
                keeper.status.boot_uuid = report.boot_uuid.clone();
                self.data.keepers.insert(uid.clone(), keeper);
                self.change(Change::KeeperRegistered { keeper: uid.clone() });
            }
            let Some(keeper) = self.data.keepers.get_mut(&uid) else { continue };
            let status = &mut keeper.status;
            let restarted = status.boot_uuid != report.boot_uuid;
            status.can_be_primary = report.can_be_primary;
            status.can_be_synchronous_replica = report.can_be_synchronous_replica;
            status.boot_uuid = report.boot_uuid.clone();
            status.postgres_binary_version = report.postgres_binary_version.clone();
            if restarted {
                self.change(Change::KeeperRestarted { keeper: uid });
            }
        }
    }

    /// Take what fresh reports say about instances; start the clock of those that are not reported to work.
    pub fn see_instances(&mut self) {
        self.mark_positions();
        self.take_reports();
        self.mark_positions();
    }

    /// Remember how far each instance ever was.
    fn mark_positions(&mut self) {
        for (uid, instance) in &self.data.instances {
            let mark = Mark { timeline: instance.status.timeline, lsn: instance.status.lsn };
            match self.memory.marks.get_mut(uid) {
                Some(known) => *known = mark.max(*known),
                None => drop(self.memory.marks.insert(uid.clone(), mark)),
            }
        }
    }

    /// An instance that holds less than it did was set back with its host. What was received in the middle of a record does not count:
    /// it is not shown any more after a restart.
    pub fn went_back(&self, instance: &Instance) -> Option<Rejection> {
        let (own, before) = (&instance.status, self.memory.marks.get(&instance.uid)?);
        let is_back = match own.timeline.cmp(&before.timeline) {
            Ordering::Less => true,
            Ordering::Equal => before.lsn.0.saturating_sub(own.lsn.0) > LARGEST_RECORD,
            Ordering::Greater => false,
        };
        is_back.then_some(Rejection::WentBack { own: own.lsn, before: before.lsn })
    }

    fn take_reports(&mut self) {
        let now = self.now.monotonic;
        let instances: Vec<_> = self
            .data
            .instances
            .iter()
            .map(|(uid, instance)| (uid.clone(), instance.spec.keeper_uid.clone()))
            .collect();
        for (uid, keeper) in instances {
            let Some(report) = self.fresh.get(&keeper).copied() else {
                let since = self.silent_since(&keeper).unwrap_or(now);
                self.take_last_words(&uid, &keeper);
                self.memory.trouble.entry(uid).or_insert(since);
                continue;
            };
            let state = report.postgres_state.as_ref().filter(|state| state.uid == uid);
            let Some(state) = state else {
                self.memory.trouble.entry(uid).or_insert(now);
                continue;
            };
            self.count_stall(state);
            let Some(instance) = self.data.instances.get_mut(&uid) else { continue };
            copy_state(instance, state);
            if !state.healthy {
                self.memory.trouble.entry(uid).or_insert(now);
                continue;
            }
            self.memory.trouble.remove(&uid);
            let in_sync = state.synchronous_standbys.clone().unwrap_or_default();
            self.working.insert(uid, Working { info_uid: report.info_uid.clone(), in_sync });
        }
    }

    /// What a silent keeper said last still tells where its instance is. The document may not say so, since positions are only
    /// written now and then, and elections go by them.
    fn take_last_words(&mut self, uid: &InstanceUid, keeper: &KeeperUid) {
        let Some(sighting) = self.memory.keepers.get(keeper).filter(|sighting| sighting.life == Life::Proven)
        else {
            return;
        };
        let state = sighting.report.as_ref().and_then(|report| report.postgres_state.as_ref());
        if let Some(state) = state.filter(|state| state.uid == *uid)
            && let Some(instance) = self.data.instances.get_mut(uid)
        {
            copy_state(instance, state);
        }
    }

    /// Count reports that show the same position as the one before, at most one for each sleep interval.
    fn count_stall(&mut self, state: &PostgresState) {
        let now = self.now.monotonic;
        let sleep_interval = self.spec.sleep_interval;
        let first = Stall { lsn: state.lsn, count: 0, counted_at: now };
        let stall = self.memory.stalls.entry(state.uid.clone()).or_insert(first);
        if stall.lsn != state.lsn {
            *stall = first;
        } else if now.saturating_sub(stall.counted_at) >= sleep_interval {
            stall.count += 1;
            stall.counted_at = now;
        }
    }
}

/// Address and generation hold even while an instance does not work; the rest is what was seen when it did.
fn copy_state(instance: &mut Instance, state: &PostgresState) {
    let status = &mut instance.status;
    status.listen_address.clone_from(&state.listen_address);
    status.port.clone_from(&state.port);
    status.current_generation = state.generation;
    if !state.healthy {
        return;
    }
    status.system_identifier.clone_from(&state.system_identifier);
    status.timeline = state.timeline;
    status.lsn = state.lsn;
    status.timelines_history.clone_from(&state.timelines_history);
    status.pg_parameters.clone_from(&state.pg_parameters);
    status.older_wal_file.clone_from(&state.older_wal_file);
}
