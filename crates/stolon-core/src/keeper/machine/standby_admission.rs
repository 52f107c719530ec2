//! When may a standby count as synchronous?
//!
//! PostgreSQL shows `sync` as soon as a standby is connected and named, although WAL that was acknowledged
//! before it was named may not have reached it. A standby therefore counts only once it has flushed what the
//! primary had flushed after the reload that named it.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{InstanceUid, Lsn};

use crate::keeper::look::{Answer, ReplicationRow};
use crate::keeper::parameters::instances_of;

/// Remembers, for each standby that is named now, how far it must have flushed to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StandbyAdmission {
    marks: BTreeMap<String, Mark>,
}

/// A reload reaches one process of the server after the other: a commit may be released by the old names a moment after the new
/// ones were seen. The position therefore is taken at the second look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    SeenOnce,
    Reach(Lsn),
}

impl StandbyAdmission {
    /// A server was looked at. A newly named standby must reach the position of the second look; one that is no longer named is
    /// forgotten.
    pub(super) fn looked(&mut self, answer: &Answer) {
        if answer.in_recovery {
            return;
        }
        let named = names_in(&answer.synchronous_standby_names);
        self.marks.retain(|name, _| named.contains(name));
        for name in named {
            self.marks
                .entry(name)
                .and_modify(|mark| {
                    if *mark == Mark::SeenOnce {
                        *mark = Mark::Reach(answer.lsn);
                    }
                })
                .or_insert(Mark::SeenOnce);
        }
    }

    /// The server was started or promoted: everybody has to pass again.
    pub(super) fn reset(&mut self) {
        self.marks.clear();
    }

    /// The instances that PostgreSQL shows as `sync` and that have flushed what they must.
    pub(super) fn in_sync(&self, answer: &Answer) -> BTreeSet<InstanceUid> {
        if answer.in_recovery {
            return BTreeSet::new();
        }
        let passed = answer.replication.iter().filter(|row| self.has_passed(row));
        let names: Vec<String> = passed.map(|row| row.application_name.clone()).collect();
        instances_of(&names).into_iter().collect()
    }

    fn has_passed(&self, row: &ReplicationRow) -> bool {
        let reached = match self.marks.get(&row.application_name) {
            Some(Mark::Reach(required)) => row.flush_lsn >= Some(*required),
            Some(Mark::SeenOnce) | None => false,
        };
        row.sync_state == "sync" && reached
    }
}

/// The names in a value of `synchronous_standby_names`: `a`, `2 (a,b)`, `FIRST 1 (a, "b")`.
pub(super) fn names_in(value: &str) -> Vec<String> {
    let list = value.split_once('(').map_or(value, |(_, rest)| rest.trim_end().trim_end_matches(')'));
    list.split(',')
        .map(|name| name.trim().trim_matches('"').to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, sync_state: &str, flushed: u64) -> ReplicationRow {
        ReplicationRow {
            application_name: format!("stolon_{name}"),
            sync_state: sync_state.into(),
            flush_lsn: Some(Lsn(flushed)),
            replay_lag: None,
        }
    }

    fn answer(names: &str, flushed: u64, rows: Vec<ReplicationRow>) -> Answer {
        Answer {
            synchronous_standby_names: names.into(),
            lsn: Lsn(flushed),
            replication: rows,
            ..Answer::default()
        }
    }

    fn in_sync(admission: &StandbyAdmission, rows: Vec<ReplicationRow>) -> Vec<String> {
        admission.in_sync(&answer("", 0, rows)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_newly_named_standby_counts_once_it_has_flushed_what_was_there() {
        let mut admission = StandbyAdmission::default();
        admission.looked(&answer("stolon_a", 90, vec![]));
        assert!(in_sync(&admission, vec![row("a", "sync", 900)]).is_empty(), "one look is not enough");
        admission.looked(&answer("stolon_a", 100, vec![]));
        assert!(in_sync(&admission, vec![row("a", "sync", 99)]).is_empty());
        admission.looked(&answer("stolon_a", 500, vec![]));
        assert_eq!(in_sync(&admission, vec![row("a", "sync", 100)]), ["a"]);
        assert!(in_sync(&admission, vec![row("a", "async", 900)]).is_empty());
    }

    #[test]
    fn a_second_standby_has_its_own_mark_and_the_first_keeps_its() {
        let mut admission = StandbyAdmission::default();
        for flushed in [90, 100] {
            admission.looked(&answer("stolon_a", flushed, vec![]));
        }
        for flushed in [900, 1000] {
            admission.looked(&answer("2 (stolon_a,stolon_b)", flushed, vec![]));
        }
        assert_eq!(in_sync(&admission, vec![row("a", "sync", 700), row("b", "sync", 700)]), ["a"]);
        admission.looked(&answer("stolon_b", 2000, vec![]));
        assert_eq!(in_sync(&admission, vec![row("a", "sync", 9000), row("b", "sync", 1000)]), ["b"]);
        admission.reset();
        assert!(in_sync(&admission, vec![row("b", "sync", 9000)]).is_empty());
    }

    #[test]
    fn asking_who_is_in_sync_moves_nobody_forward() {
        let mut admission = StandbyAdmission::default();
        admission.looked(&answer("stolon_a", 90, vec![]));
        let before = admission.clone();
        assert!(in_sync(&admission, vec![row("a", "sync", 900)]).is_empty());
        assert_eq!(admission, before);
    }

    #[test]
    fn names_are_read_in_every_form() {
        for (value, names) in [
            ("", vec![]),
            ("stolon_a", vec!["stolon_a"]),
            ("2 (stolon_a,stolon_b)", vec!["stolon_a", "stolon_b"]),
            ("ANY 1 (a, \"b\")", vec!["a", "b"]),
        ] {
            assert_eq!(names_in(value), names, "{value}");
        }
    }
}
