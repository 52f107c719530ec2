//! Signs of life: which reports count, and what they say about instances.
//!
//! Only a change of `infoUID` proves life. A report counts as fresh for one sleep interval after it was first seen.

use std::sync::Arc;
use std::time::Duration;

use stolon_model::{EffectiveSpec, InfoUid, Instance, KeeperReport, KeeperUid, PostgresState, WasAt};

use super::Rejection;
use super::joined::joined;
use super::memory::{KeeperSighting, Life, Memory, Stall};
use super::round::Round;
use super::seen::{Hearing, Seen, Working};
use super::wake::Wake;
use crate::timeline::Mark;

impl Memory {
    /// The time between the last sign of the store and the one at `heard`, if it was too long: then nobody could be heard of in
    /// it. A store that is always slow leaves no gaps: a round is a reading and a write, and each may take as long as requests
    /// usually do. A store that tells nothing is asked in every second round.
    pub(super) fn gap(
        &self,
        heard: Duration,
        usual_delay: Duration,
        spec: &EffectiveSpec,
    ) -> Option<Duration> {
        let gap = heard.saturating_sub(self.last_read?);
        let limit = (spec.sleep_interval * 3).max(Duration::from_secs(1)) + usual_delay * 2;
        (gap > limit).then_some(gap)
    }

    /// Time during which nothing could be read does not count as silence: move every running clock by it, and leave every keeper
    /// and proxy two sleep intervals to show life again.
    pub(super) fn leave_out_gap(&mut self, gap: Duration, now: Duration, spec: &EffectiveSpec) {
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
        self.stalls.values_mut().for_each(|stall| stall.since = (stall.since + gap).min(now));
        self.proxies.values_mut().for_each(|sighting| sighting.since = (sighting.since + gap).min(now));
        // Whether it was answered in that time is not known.
        self.challenge = None;
        if let Some(closed) = &mut self.closed {
            closed.since = (closed.since + gap).min(now);
        }
    }
}

impl<'a> Seen<'a> {
    /// Notice which keepers have reported anew.
    pub fn see_keepers(&mut self, memory: &mut Memory) {
        let now = self.arrived;
        let life = if self.is_first { Life::Unproven } else { Life::Proven };
        let (view, document) = (self.view, self.document());
        self.dismiss_reports(memory);
        let of_this_cluster =
            view.keepers.iter().filter(|(_, report)| report.cluster_uid == document.cluster.uid);
        let mut newcomers = Vec::new();
        for (uid, report, known) in joined(of_this_cluster.clone(), &mut memory.keepers) {
            let known_report = known.as_ref().and_then(|known| known.report.as_ref());
            if known_report.is_some_and(|known| known.info_uid == report.info_uid) {
                continue;
            }
            let since = self.arrival_of(uid);
            let sighting = KeeperSighting { report: Some(Arc::clone(report)), life, since };
            match known {
                Some(known) => *known = sighting,
                None => newcomers.push((uid.clone(), sighting)),
            }
        }
        memory.keepers.extend(newcomers);
        let missed = joined(&document.keepers, &memory.keepers).filter(|(_, _, known)| known.is_none());
        let missed: Vec<KeeperUid> = missed.map(|(uid, ..)| uid.clone()).collect();
        let never_seen = || KeeperSighting { report: None, life: Life::Unproven, since: now };
        memory.keepers.extend(missed.into_iter().map(|uid| (uid, never_seen())));
        let (sleep_interval, fail_interval) = (self.spec.sleep_interval, self.spec.fail_interval);
        // In the order of their keys, so that the map is built at once.
        let mut fresh = Vec::new();
        for (uid, report, sighting) in joined(of_this_cluster, &memory.keepers) {
            // The end of freshness only begins a silence, so no round is needed at that moment.
            if let Some(sighting) = sighting
                && sighting.life == Life::Proven
                && self.elapsed(sighting.since) <= sleep_interval
                && !memory.dismissed.contains_key(uid)
            {
                let silent_at = sighting.since + sleep_interval + fail_interval + Duration::from_millis(1);
                self.wake = self.wake.or(Wake::at(silent_at));
                fresh.push((uid, &**report));
            }
        }
        self.fresh = fresh.into_iter().collect();
        self.find_reports_of_instances();
    }

    /// When a report came here. After an interruption everything counts as just arrived: what came before it says nothing about
    /// the time since.
    fn arrival_of(&self, keeper: &KeeperUid) -> Duration {
        match self.hearing {
            Hearing::Interrupted => self.arrived,
            Hearing::Constant => {
                let told = self.view.told.keepers.get(keeper);
                told.map_or(self.arrived, |at| self.arrived.min(*at))
            }
        }
    }

    /// The last report of a keeper that was removed or forgotten stays in the store for a while. It was known already, so it proves no
    /// life: only another report brings the keeper back.
    fn dismiss_reports(&self, memory: &mut Memory) {
        let (view, registered) = (self.view, &self.document().keepers);
        if !memory.registered.iter().eq(registered.keys()) {
            for uid in memory.registered.iter().filter(|uid| !registered.contains_key(uid)) {
                if let Some(report) = view.keepers.get(uid) {
                    memory.dismissed.insert(uid.clone(), report.info_uid.clone());
                }
            }
            memory.registered = registered.keys().cloned().collect();
        }
        let is_last = |uid: &KeeperUid, last: &InfoUid| {
            view.keepers.get(uid).is_some_and(|report| report.info_uid == *last)
        };
        memory.dismissed.retain(|uid, last| is_last(uid, last));
        let silent = joined(&memory.keepers, view.keepers).filter(|(_, _, report)| report.is_none());
        let gone: Vec<KeeperUid> =
            silent.map(|(uid, ..)| uid).filter(|uid| !registered.contains_key(*uid)).cloned().collect();
        for uid in gone {
            memory.keepers.remove(&uid);
        }
    }

    /// Find the fresh reports of the keepers that are in charge of instances.
    fn find_reports_of_instances(&mut self) {
        let (mut in_charge, mut working) = (Vec::new(), Vec::new());
        for (uid, instance) in &self.document().instances {
            let Some(report) = self.fresh.get(&instance.spec.keeper_uid).copied() else { continue };
            in_charge.push((uid, report));
            let state = report.postgres_state.as_ref().filter(|state| state.uid == *uid && state.healthy);
            if let Some(state) = state {
                let in_sync = state.synchronous_standbys.as_deref().unwrap_or_default();
                let standby_pace =
                    report.activity.as_ref().and_then(|activity| activity.standby_pace.as_ref());
                working.push((uid, Working { info_uid: &report.info_uid, in_sync, standby_pace }));
            }
        }
        self.in_charge = in_charge.into_iter().collect();
        self.working = working.into_iter().collect();
    }
}

impl Round<'_> {
    /// The time since when a keeper is silent: one sleep interval after its last sign of life.
    pub fn silent_since(&self, keeper: &KeeperUid) -> Option<Duration> {
        if self.seen.fresh.contains_key(keeper) {
            return None;
        }
        match self.memory.keepers.get(keeper) {
            Some(sighting) if sighting.life == Life::Proven => {
                Some(sighting.since + self.seen.spec.sleep_interval)
            }
            Some(sighting) => Some(sighting.since),
            None => Some(self.seen.now.monotonic),
        }
    }

    /// Whether an instance works by the last word of its keeper, and that word is not older than two reports may be apart.
    pub fn is_known_to_work(&self, instance: &Instance) -> bool {
        let Some(since) = self.memory.trouble.get(&instance.uid) else { return true };
        let lateness = self.seen.spec.sleep_interval + self.seen.view.usual_delay * 2;
        !self.seen.in_charge.contains_key(&instance.uid) && self.seen.elapsed(*since) <= lateness
    }

    /// Register keepers that report for the first time, and take over what known ones report about themselves.
    pub fn register_keepers(&mut self) {
        self.draft.register(&self.seen.fresh);
    }

    /// Take over what fresh reports say about instances; start the clock of those that are not reported to work.
    pub fn see_instances(&mut self) {
        self.mark_positions();
        let (seen, memory) = (self.seen, &self.memory);
        self.draft.observe(|instance| {
            let report = match seen.in_charge.get(&instance.uid) {
                Some(report) => *report,
                None => last_words(memory, &instance.spec.keeper_uid)?,
            };
            report.postgres_state.as_ref().filter(|state| state.uid == instance.uid)
        });
        self.draft.foresee(|instance| seen.fresh.get(&instance.spec.keeper_uid)?.postgres_state.as_ref());
        self.mark_positions();
        self.note_set_back();
        self.watch_trouble();
    }

    fn note_set_back(&mut self) {
        let is_back = |instance: &&Instance| self.went_back(instance).is_some();
        let was_at = |instance: &Instance| {
            let Mark { timeline, lsn } = self.memory.marks.get(&instance.uid).copied()?;
            Some((instance.uid.clone(), WasAt { timeline, lsn }))
        };
        let back = self.draft.instances.values().filter(is_back).filter_map(was_at).collect();
        self.draft.note_set_back(&back);
    }

    /// Remember how far each instance ever was.
    fn mark_positions(&mut self) {
        let mut unknown = Vec::new();
        for (uid, instance, known) in joined(&self.draft.instances, &mut self.memory.marks) {
            // What another sentinel saw stands there too.
            let mark = Mark::of(&instance.status);
            match known {
                Some(known) => *known = mark.max(*known),
                None => unknown.push((uid.clone(), mark)),
            }
        }
        self.memory.marks.extend(unknown);
    }

    /// An instance that holds less than it did was set back with its host.
    pub fn went_back(&self, instance: &Instance) -> Option<Rejection> {
        let before = self.memory.marks.get(&instance.uid)?;
        let own = Mark::now(&instance.status);
        before.is_missed_at(own).then_some(Rejection::WentBack { own: own.lsn, before: before.lsn })
    }

    /// Start the clocks of instances that are not reported to work, and of those that do not move.
    fn watch_trouble(&mut self) {
        let (seen, now) = (self.seen, self.seen.now.monotonic);
        let mut troubled = Vec::new();
        for (uid, instance, report) in joined(&seen.document().instances, seen.in_charge()) {
            let since = match report {
                None => self.silent_since(&instance.spec.keeper_uid).unwrap_or(now),
                Some(_) => now,
            };
            let state = report.and_then(|report| report.postgres_state.as_ref());
            if let Some(state) = state.filter(|state| state.uid == *uid) {
                self.watch_position(state);
            }
            if !seen.working.contains_key(uid) {
                troubled.push((uid, since));
            }
        }
        self.memory.trouble.retain(|uid, _| !seen.working.contains_key(uid));
        for (uid, since) in troubled {
            self.memory.trouble.entry(uid.clone()).or_insert(since);
        }
    }

    /// Remember since when an instance has reported this position.
    fn watch_position(&mut self, state: &PostgresState) {
        let first = Stall { lsn: state.lsn, since: self.seen.now.monotonic };
        let stall = self.memory.stalls.entry(state.uid.clone()).or_insert_with(|| first.clone());
        if stall.lsn != state.lsn {
            *stall = first;
        }
    }
}

/// What a silent keeper said last still tells where its instance is. The document may not say so, since positions are only
/// written now and then, and elections depend on them.
fn last_words<'m>(memory: &'m Memory, keeper: &KeeperUid) -> Option<&'m KeeperReport> {
    memory.keepers.get(keeper).filter(|sighting| sighting.life == Life::Proven)?.report.as_deref()
}
