//! When may a standby count as synchronous?
//!
//! PostgreSQL shows `sync` as soon as a standby is connected and named, although WAL that was acknowledged
//! before it was named may not have reached it. A standby therefore counts only once it has flushed what the
//! primary had flushed after the reload that named it.

use std::collections::BTreeMap;

use stolon_core::keeper::ReplicationRow;
use stolon_model::Lsn;

/// Remembers, for each standby that is named now, how far it must have flushed to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncGate {
    marks: BTreeMap<String, Mark>,
}

/// A reload reaches one process of the server after the other: a commit may be released by the old names a moment after the new
/// ones were seen. The position therefore is taken at the second look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    SeenOnce,
    Reach(Lsn),
}

impl SyncGate {
    /// Nobody has passed.
    pub fn new() -> Self {
        Self::default()
    }

    /// To be called with every look at a primary: `named` are the application names that
    /// `synchronous_standby_names` in force names ([`names_in`]), `flushed` is the primary's flush position read *after* that.
    /// A newly named standby must reach the position of the second look; one that is no longer named is forgotten.
    pub fn observe(&mut self, named: &[String], flushed: Lsn) {
        self.marks.retain(|name, _| named.contains(name));
        for name in named {
            match self.marks.get_mut(name) {
                None => {
                    self.marks.insert(name.clone(), Mark::SeenOnce);
                }
                Some(mark @ Mark::SeenOnce) => *mark = Mark::Reach(flushed),
                Some(Mark::Reach(_)) => {}
            }
        }
    }

    /// The server was restarted or promoted: everybody has to pass again.
    pub fn reset(&mut self) {
        self.marks.clear();
    }

    /// Application names that PostgreSQL shows as `sync` and that have flushed what they must, sorted.
    pub fn in_sync(&self, rows: &[ReplicationRow]) -> Vec<String> {
        let mut names: Vec<String> = rows
            .iter()
            .filter(|row| row.sync_state == "sync")
            .filter(|row| match self.marks.get(&row.application_name) {
                Some(Mark::Reach(required)) => row.flush_lsn >= Some(*required),
                Some(Mark::SeenOnce) | None => false,
            })
            .map(|row| row.application_name.clone())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The names in a value of `synchronous_standby_names`: `a`, `2 (a,b)`, `FIRST 1 (a, "b")`.
pub fn names_in(value: &str) -> Vec<String> {
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
            application_name: name.into(),
            sync_state: sync_state.into(),
            flush_lsn: Some(Lsn(flushed)),
        }
    }

    #[test]
    fn a_newly_named_standby_counts_once_it_has_flushed_what_was_there() {
        let mut gate = SyncGate::new();
        gate.observe(&["stolon_a".into()], Lsn(90));
        assert!(gate.in_sync(&[row("stolon_a", "sync", 900)]).is_empty(), "one look is not enough");
        gate.observe(&["stolon_a".into()], Lsn(100));
        assert!(gate.in_sync(&[row("stolon_a", "sync", 99)]).is_empty());
        gate.observe(&["stolon_a".into()], Lsn(500));
        assert_eq!(gate.in_sync(&[row("stolon_a", "sync", 100)]), ["stolon_a"]);
        assert!(gate.in_sync(&[row("stolon_a", "async", 900)]).is_empty());
    }

    #[test]
    fn a_second_standby_has_its_own_mark_and_the_first_keeps_its() {
        let mut gate = SyncGate::new();
        for flushed in [90, 100] {
            gate.observe(&["a".into()], Lsn(flushed));
        }
        for flushed in [900, 1000] {
            gate.observe(&["a".into(), "b".into()], Lsn(flushed));
        }
        let rows = [row("a", "sync", 700), row("b", "sync", 700)];
        assert_eq!(gate.in_sync(&rows), ["a"]);
        gate.observe(&["b".into()], Lsn(2000));
        assert_eq!(gate.in_sync(&[row("a", "sync", 9000), row("b", "sync", 1000)]), ["b"]);
        gate.reset();
        assert!(gate.in_sync(&[row("b", "sync", 9000)]).is_empty());
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
