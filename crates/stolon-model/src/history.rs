//! What was done to a cluster, by whom: a short memory that every operator finds in the cluster data.

use std::sync::Arc;

use crate::cluster::ClusterStatus;
use crate::json::document;
use crate::time::Timestamp;
use crate::uid::SentinelUid;

/// Older entries are dropped: the document has a limit in every store.
const ENTRIES: usize = 40;
/// More lines of one entry are counted and not kept.
const LINES: usize = 12;
/// Characters of a line.
const LENGTH: usize = 240;

document! {
    /// One thing that an operator or a sentinel did to the cluster.
    pub struct HistoryEntry {
        /// When, by the clock of whoever did it.
        at: Timestamp = "at", keep;
        /// The operator who did it, as `user@host`; empty where a sentinel did.
        operator: String = "operator", omit;
        /// The sentinel that did it; empty where an operator did.
        sentinel: SentinelUid = "sentinel", omit;
        /// The command of an operator; `failover`, for example, of a sentinel.
        what: String = "what", omit;
        /// What it came to, a sentence or a changed field each.
        details: Option<Vec<String>> = "details", omit;
        /// What tells it from all others where a keeper reports it for a while and a sentinel enters it once; empty: nobody reports it again.
        mark: String = "mark", omit;
    }
}

impl HistoryEntry {
    /// The command of an operator.
    pub fn of_operator(at: Timestamp, operator: String, what: &str, details: Vec<String>) -> HistoryEntry {
        let details = within_bounds(details);
        HistoryEntry { at, operator, what: what.to_owned(), details, ..HistoryEntry::default() }
    }

    /// The act of a sentinel.
    pub fn of_sentinel(
        at: Timestamp,
        sentinel: SentinelUid,
        what: &str,
        details: Vec<String>,
    ) -> HistoryEntry {
        let details = within_bounds(details);
        HistoryEntry { at, sentinel, what: what.to_owned(), details, ..HistoryEntry::default() }
    }
}

fn within_bounds(details: Vec<String>) -> Option<Vec<String>> {
    let more = details.len().saturating_sub(LINES);
    let mut kept: Vec<String> = details.into_iter().take(LINES).map(shortened).collect();
    if more > 0 {
        kept.push(format!("and {more} more"));
    }
    (!kept.is_empty()).then_some(kept)
}

impl ClusterStatus {
    /// Add an entry, the newest last.
    pub fn record(&mut self, entry: HistoryEntry) {
        let entries = Arc::make_mut(self.history.get_or_insert_default());
        entries.push(entry);
        let surplus = entries.len().saturating_sub(ENTRIES);
        entries.drain(..surplus);
    }
}

fn shortened(line: String) -> String {
    match line.chars().count() > LENGTH {
        true => line.chars().take(LENGTH).chain(['…']).collect(),
        false => line,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_short() {
        let mut status = ClusterStatus::default();
        for number in 0..100 {
            let details = vec!["ä".repeat(1000); number % 20];
            let what = format!("update {number}");
            status.record(HistoryEntry::of_operator(Timestamp::ZERO, "a@b".to_owned(), &what, details));
        }
        let entries = status.history.unwrap();
        assert_eq!(entries.len(), ENTRIES);
        assert_eq!(entries.last().unwrap().what, "update 99");
        let details = entries.last().unwrap().details.as_ref().unwrap();
        assert_eq!((details.len(), details[LINES].as_str()), (LINES + 1, "and 7 more"));
        assert_eq!(details[0].chars().count(), LENGTH + 1);
    }
}
