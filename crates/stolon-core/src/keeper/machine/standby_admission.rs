//! When may a standby count as synchronous?
//!
//! PostgreSQL shows `sync` as soon as a standby is connected and named, although WAL that was acknowledged
//! before it was named may not have reached it. A standby therefore counts only once it has flushed what the
//! primary had flushed after the reload that named it.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{FAKE_STANDBY, InstanceUid, Lsn, Quorum, QuorumReport};

use crate::keeper::look::{Answer, ReplicationRow};
use crate::keeper::parameters::instances_of;

/// Remembers, for each standby that is named now, how far it must have flushed to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StandbyAdmission {
    marks: BTreeMap<String, Mark>,
    quorum: Option<QuorumMark>,
}

/// How far the members of a quorum must have flushed. What another quorum acknowledged before is not for it: it begins anew with each generation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct QuorumMark {
    generation: i64,
    quorum: Quorum,
    mark: Mark,
}

/// A reload reaches one process of the server after the other: a commit may be released by the old names a moment after the new
/// ones were seen. The position therefore is taken at the second look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    SeenOnce,
    Reach(Lsn),
}

impl StandbyAdmission {
    /// A server was looked at that had been brought to this generation. A newly named standby must reach the position of the second look; one that is no longer named is
    /// forgotten.
    pub(super) fn looked(&mut self, generation: i64, answer: &Answer) {
        if answer.in_recovery {
            return;
        }
        if let Some(quorum) = quorum_in(&answer.synchronous_standby_names) {
            // None of its members need to have acknowledged anything.
            self.marks.clear();
            self.looked_at_quorum(generation, quorum, answer.lsn);
            return;
        }
        self.quorum = None;
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

    fn looked_at_quorum(&mut self, generation: i64, quorum: Quorum, lsn: Lsn) {
        match &mut self.quorum {
            Some(known) if (known.generation, &known.quorum) == (generation, &quorum) => {
                if known.mark == Mark::SeenOnce {
                    known.mark = Mark::Reach(lsn);
                }
            }
            _ => self.quorum = Some(QuorumMark { generation, quorum, mark: Mark::SeenOnce }),
        }
    }

    /// The server was started or promoted: everybody has to pass again.
    pub(super) fn reset(&mut self) {
        self.marks.clear();
        self.quorum = None;
    }

    /// The quorum in force, once enough of its members have flushed what was there when it came into force: WAL is flushed in order, so they
    /// hold all that was acknowledged before, by whatever rule.
    pub(super) fn quorum(&self, answer: &Answer) -> Option<QuorumReport> {
        let QuorumMark { generation, quorum, mark } = self.quorum.as_ref().filter(|_| !answer.in_recovery)?;
        let Mark::Reach(required) = mark else { return None };
        let reached: Vec<String> = answer
            .replication
            .iter()
            .filter(|row| row.sync_state == "quorum" && row.flush_lsn >= Some(*required))
            .map(|row| row.application_name.clone())
            .collect();
        let reached: BTreeSet<InstanceUid> = instances_of(&reached).into_iter().collect();
        let enough = quorum.members().iter().filter(|uid| reached.contains(uid)).count();
        (enough >= quorum.required.into())
            .then(|| QuorumReport { generation: *generation, quorum: quorum.clone() })
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

/// The quorum in a value of `synchronous_standby_names`: `ANY 2 (a,b,c)`.
pub(super) fn quorum_in(value: &str) -> Option<Quorum> {
    let (head, _) = value.split_once('(')?;
    let mut words = head.split_whitespace();
    let is_any = words.next().is_some_and(|word| word.eq_ignore_ascii_case("ANY"));
    let required = words.next().filter(|_| is_any)?.parse().ok()?;
    let names = names_in(value).into_iter().filter(|name| name != FAKE_STANDBY);
    Some(Quorum::of(required, instances_of(&names.collect::<Vec<_>>())))
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
        admission.looked(1, &answer("stolon_a", 90, vec![]));
        assert!(in_sync(&admission, vec![row("a", "sync", 900)]).is_empty(), "one look is not enough");
        admission.looked(1, &answer("stolon_a", 100, vec![]));
        assert!(in_sync(&admission, vec![row("a", "sync", 99)]).is_empty());
        admission.looked(1, &answer("stolon_a", 500, vec![]));
        assert_eq!(in_sync(&admission, vec![row("a", "sync", 100)]), ["a"]);
        assert!(in_sync(&admission, vec![row("a", "async", 900)]).is_empty());
    }

    #[test]
    fn a_second_standby_has_its_own_mark_and_the_first_keeps_its() {
        let mut admission = StandbyAdmission::default();
        for flushed in [90, 100] {
            admission.looked(1, &answer("stolon_a", flushed, vec![]));
        }
        for flushed in [900, 1000] {
            admission.looked(1, &answer("2 (stolon_a,stolon_b)", flushed, vec![]));
        }
        assert_eq!(in_sync(&admission, vec![row("a", "sync", 700), row("b", "sync", 700)]), ["a"]);
        admission.looked(1, &answer("stolon_b", 2000, vec![]));
        assert_eq!(in_sync(&admission, vec![row("a", "sync", 9000), row("b", "sync", 1000)]), ["b"]);
        admission.reset();
        assert!(in_sync(&admission, vec![row("b", "sync", 9000)]).is_empty());
    }

    #[test]
    fn asking_who_is_in_sync_moves_nobody_forward() {
        let mut admission = StandbyAdmission::default();
        admission.looked(1, &answer("stolon_a", 90, vec![]));
        let before = admission.clone();
        assert!(in_sync(&admission, vec![row("a", "sync", 900)]).is_empty());
        assert_eq!(admission, before);
    }

    #[test]
    fn a_quorum_counts_once_enough_of_it_have_flushed_what_was_there_and_anew_with_each_generation() {
        let any = |required: u16, names: &[&str]| {
            Quorum::of(required, names.iter().map(|it| InstanceUid::from(*it)))
        };
        let rows = |flushed: [u64; 3]| {
            ["a", "b", "c"]
                .iter()
                .zip(flushed)
                .map(|(name, lsn)| row(name, "quorum", lsn))
                .collect::<Vec<_>>()
        };
        let names = "ANY 2 (stolon_a,stolon_b,stolon_c)";
        let shown =
            |admission: &StandbyAdmission, flushed| admission.quorum(&answer(names, 0, rows(flushed)));
        let mut admission = StandbyAdmission::default();
        admission.looked(7, &answer(names, 90, vec![]));
        assert_eq!(shown(&admission, [900; 3]), None, "one look is not enough");
        admission.looked(7, &answer(names, 100, vec![]));
        assert_eq!(shown(&admission, [100, 99, 99]), None);
        let expected = QuorumReport { generation: 7, quorum: any(2, &["a", "b", "c"]) };
        assert_eq!(shown(&admission, [0, 100, 100]), Some(expected));
        admission.looked(8, &answer(names, 500, vec![]));
        assert_eq!(shown(&admission, [900; 3]), None, "another rule may have been in force between the two");
        admission.looked(8, &answer(names, 600, vec![]));
        assert_eq!(shown(&admission, [600, 500, 600]).map(|it| it.generation), Some(8));
        admission.looked(8, &answer("2 (stolon_a,stolon_b)", 700, vec![]));
        assert_eq!(shown(&admission, [900; 3]), None);
    }

    #[test]
    fn a_member_of_a_quorum_is_not_in_sync_and_begins_anew_where_all_are_waited_for() {
        let mut admission = StandbyAdmission::default();
        for (names, flushed) in [("stolon_a", 10), ("stolon_a", 20), ("ANY 1 (stolon_a,stolon_b)", 500)] {
            admission.looked(1, &answer(names, flushed, vec![]));
        }
        assert!(in_sync(&admission, vec![row("a", "quorum", 900)]).is_empty());
        admission.looked(2, &answer("stolon_a", 600, vec![]));
        admission.looked(2, &answer("stolon_a", 700, vec![]));
        assert!(
            in_sync(&admission, vec![row("a", "sync", 699)]).is_empty(),
            "its first mark is of no use any more"
        );
        assert_eq!(in_sync(&admission, vec![row("a", "sync", 700)]), ["a"]);
    }

    #[test]
    fn a_quorum_is_read_without_the_name_that_nobody_has() {
        assert_eq!(quorum_in("ANY 2 (stolon_a,\"stolonfakestandby\")"), Some(Quorum::of(2, ["a".into()])));
        for value in ["", "stolon_a", "2 (stolon_a,stolon_b)", "FIRST 1 (stolon_a)"] {
            assert_eq!(quorum_in(value), None, "{value}");
        }
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
