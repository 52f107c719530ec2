//! Which standbys keep up, as the primary sees it in two looks.
//!
//! PostgreSQL tells how long a standby took for the last WAL that it confirmed (`flush_lag` of `pg_stat_replication`), and says nothing
//! more of one that has stopped confirming, or is not connected. What counts here is therefore what the primary had flushed at an
//! earlier look, and whether the standby has confirmed that since.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_model::{InstanceUid, Lsn, StandbyPace};

use super::standby_admission::names_in;
use crate::keeper::look::Answer;
use crate::keeper::parameters::instances_of;

/// A commit that waits for this long is one that its client gives up.
const STALLED: Duration = Duration::from_secs(3);

/// What each standby has yet to confirm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stragglers {
    standbys: BTreeMap<String, Confirming>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Confirming {
    /// What the primary had flushed.
    lsn: Lsn,
    since: Duration,
    pace: StandbyPace,
}

/// Whether somebody may be about to hold commits up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    Up,
    Behind,
}

impl Stragglers {
    /// A server was looked at: those that stream from it count, and those that it waits for. Returns whether one of the latter is behind.
    pub(super) fn looked(&mut self, now: Duration, answer: &Answer) -> Keeping {
        if answer.in_recovery {
            self.reset();
            return Keeping::Up;
        }
        let named = names_in(&answer.synchronous_standby_names);
        let flushed: BTreeMap<&str, Option<Lsn>> = named
            .iter()
            .map(|name| (name.as_str(), None))
            .chain(answer.replication.iter().map(|row| (row.application_name.as_str(), row.flush_lsn)))
            .collect();
        self.standbys.retain(|name, _| flushed.contains_key(name.as_str()));
        for (name, flushed) in flushed {
            let begin = || Confirming { lsn: answer.lsn, since: now, pace: StandbyPace::Behind };
            let confirming = self.standbys.entry(name.to_owned()).or_insert_with(begin);
            match flushed {
                Some(flushed) if flushed >= confirming.lsn => {
                    *confirming = Confirming { lsn: answer.lsn, since: now, pace: StandbyPace::InStep };
                }
                _ if now.saturating_sub(confirming.since) >= STALLED => {
                    confirming.pace = StandbyPace::Stalled
                }
                _ => confirming.pace = StandbyPace::Behind,
            }
        }
        let behind = |name: &String| self.standbys.get(name).is_some_and(|it| it.pace != StandbyPace::InStep);
        if named.iter().any(behind) { Keeping::Behind } else { Keeping::Up }
    }

    /// The server was started or promoted: its standbys have yet to come.
    pub(super) fn reset(&mut self) {
        self.standbys.clear();
    }

    /// For how long a standby has lacked something, at the least; zero while it is in step.
    pub(super) fn behind(&self, now: Duration, standby: &InstanceUid) -> Duration {
        let is_it = |name: &&String| instances_of(std::slice::from_ref(*name)).contains(standby);
        let confirming = self.standbys.iter().find(|(name, _)| is_it(name)).map(|(_, it)| it);
        let behind = confirming.filter(|it| it.pace != StandbyPace::InStep);
        behind.map(|it| now.saturating_sub(it.since)).unwrap_or_default()
    }

    /// For the report; absent on a standby.
    pub(super) fn report(&self) -> Option<BTreeMap<InstanceUid, StandbyPace>> {
        let paces: BTreeMap<InstanceUid, StandbyPace> = self
            .standbys
            .iter()
            .flat_map(|(name, it)| {
                instances_of(std::slice::from_ref(name))
                    .into_iter()
                    .map(|instance| (instance, it.pace.clone()))
            })
            .collect();
        (!paces.is_empty()).then_some(paces)
    }
}

#[cfg(test)]
mod tests {
    use StandbyPace::{Behind, InStep, Stalled};

    use super::*;
    use crate::keeper::look::ReplicationRow;

    /// One look: the primary's position, and what each standby has flushed. Commits wait for `a`.
    fn look(stragglers: &mut Stragglers, seconds: u64, lsn: u64, flushed: &[(&str, u64)]) -> Keeping {
        let row = |&(name, flushed): &(&str, u64)| ReplicationRow {
            application_name: format!("stolon_{name}"),
            sync_state: "sync".into(),
            flush_lsn: Some(Lsn(flushed)),
            replay_lag: None,
        };
        let answer = Answer {
            synchronous_standby_names: "1 (\"stolon_a\")".into(),
            lsn: Lsn(lsn),
            replication: flushed.iter().map(row).collect(),
            ..Answer::default()
        };
        stragglers.looked(Duration::from_secs(seconds), &answer)
    }

    fn paces(stragglers: &Stragglers) -> Vec<(String, StandbyPace)> {
        let paces = stragglers.report().unwrap_or_default();
        paces.into_iter().map(|(instance, pace)| (instance.to_string(), pace)).collect()
    }

    #[test]
    fn a_standby_that_stops_confirming_stalls_and_one_that_confirms_what_was_there_keeps_up() {
        let mut stragglers = Stragglers::default();
        assert_eq!(look(&mut stragglers, 0, 100, &[("a", 100), ("b", 10)]), Keeping::Up);
        assert_eq!(paces(&stragglers), [("a".into(), InStep), ("b".into(), Behind)]);
        assert_eq!(look(&mut stragglers, 2, 300, &[("a", 100), ("b", 99)]), Keeping::Up);
        assert_eq!(paces(&stragglers), [("a".into(), InStep), ("b".into(), Behind)]);
        // `b` goes on for ever behind, but confirms within three seconds what was there; `a` confirms nothing more.
        assert_eq!(look(&mut stragglers, 4, 500, &[("a", 299), ("b", 280)]), Keeping::Behind);
        assert_eq!(paces(&stragglers), [("a".into(), Behind), ("b".into(), InStep)]);
        assert_eq!(look(&mut stragglers, 5, 600, &[("a", 299), ("b", 500)]), Keeping::Behind);
        assert_eq!(paces(&stragglers), [("a".into(), Stalled), ("b".into(), InStep)]);
        assert_eq!(look(&mut stragglers, 6, 600, &[("a", 300), ("b", 600)]), Keeping::Up);
        assert_eq!(paces(&stragglers), [("a".into(), InStep), ("b".into(), InStep)]);
    }

    #[test]
    fn one_that_is_waited_for_and_not_connected_stalls_although_nothing_is_written() {
        let mut stragglers = Stragglers::default();
        look(&mut stragglers, 0, 100, &[]);
        look(&mut stragglers, 2, 100, &[("b", 100)]);
        assert_eq!(look(&mut stragglers, 3, 100, &[("b", 100)]), Keeping::Behind);
        assert_eq!(paces(&stragglers), [("a".into(), Stalled), ("b".into(), InStep)]);
    }

    #[test]
    fn an_idle_standby_keeps_up() {
        let mut stragglers = Stragglers::default();
        for seconds in [0, 60, 120] {
            look(&mut stragglers, seconds, 100, &[("a", 100)]);
        }
        assert_eq!(paces(&stragglers), [("a".into(), InStep)]);
        stragglers.reset();
        assert_eq!(stragglers.report(), None);
    }
}
