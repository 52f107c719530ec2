//! When may a standby count as synchronous?
//!
//! PostgreSQL shows `sync` as soon as a standby is connected and named, although WAL that was acknowledged
//! before it was named may not have reached it. A standby therefore counts only once it has flushed what the
//! primary had flushed after the reload that named it.

use std::collections::BTreeMap;

use stolon_model::Lsn;

use crate::sample::ReplicationRow;

/// Remembers, for each standby that is named now, how far it must have flushed to count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncGate {
    required: BTreeMap<String, Lsn>,
}

impl SyncGate {
    /// Nobody has passed.
    pub fn new() -> Self {
        Self::default()
    }

    /// To be called with every look at a primary: `named` are the application names that
    /// `synchronous_standby_names` in force names, `flushed` is the primary's flush position read *after* that.
    /// A newly named standby must reach `flushed`; one that is no longer named is forgotten.
    pub fn observe(&mut self, named: &[String], flushed: Lsn) {
        self.required.retain(|name, _| named.contains(name));
        for name in named {
            self.required.entry(name.clone()).or_insert(flushed);
        }
    }

    /// The server was restarted or promoted: everybody has to pass again.
    pub fn reset(&mut self) {
        self.required.clear();
    }

    /// Application names that PostgreSQL shows as `sync` and that have flushed what they must, sorted.
    pub fn in_sync(&self, rows: &[ReplicationRow]) -> Vec<String> {
        let mut names: Vec<String> = rows
            .iter()
            .filter(|row| row.sync_state == "sync")
            .filter(|row| {
                self.required
                    .get(&row.application_name)
                    .is_some_and(|required| row.flush_lsn >= Some(*required))
            })
            .map(|row| row.application_name.clone())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, sync_state: &str, flushed: u64) -> ReplicationRow {
        ReplicationRow {
            application_name: name.into(),
            state: "streaming".into(),
            sync_state: sync_state.into(),
            flush_lsn: Some(Lsn(flushed)),
        }
    }

    #[test]
    fn a_newly_named_standby_counts_once_it_has_flushed_what_was_there() {
        let mut gate = SyncGate::new();
        gate.observe(&["stolon_a".into()], Lsn(100));
        assert_eq!(gate.in_sync(&[row("stolon_a", "sync", 99)]), Vec::<String>::new());
        gate.observe(&["stolon_a".into()], Lsn(500));
        assert_eq!(gate.in_sync(&[row("stolon_a", "sync", 100)]), ["stolon_a"]);
        assert_eq!(gate.in_sync(&[row("stolon_a", "async", 900)]), Vec::<String>::new());
    }

    #[test]
    fn a_second_standby_has_its_own_mark_and_the_first_keeps_its() {
        let mut gate = SyncGate::new();
        gate.observe(&["a".into()], Lsn(100));
        gate.observe(&["a".into(), "b".into()], Lsn(1000));
        let rows = [row("a", "sync", 700), row("b", "sync", 700)];
        assert_eq!(gate.in_sync(&rows), ["a"]);
        gate.observe(&["b".into()], Lsn(2000));
        assert_eq!(gate.in_sync(&[row("a", "sync", 9000), row("b", "sync", 1000)]), ["b"]);
    }

    #[test]
    fn nobody_counts_before_the_first_look() {
        assert!(SyncGate::new().in_sync(&[row("a", "sync", 1)]).is_empty());
    }
}
