//! The files that the keeper writes: one write of each kind at a time, the newest content wins, what fails is told and tried again.

use std::collections::BTreeMap;

use crate::keeper::event::{StateFile, StateFileKind};

/// The writes under way, and those that failed.
#[derive(Debug, Default)]
pub(super) struct Files {
    under_way: BTreeMap<StateFileKind, StateFile>,
    next: BTreeMap<StateFileKind, StateFile>,
    failed: BTreeMap<StateFileKind, (StateFile, String)>,
}

impl Files {
    /// A file is to be written. Returns it if that is to begin now.
    pub(super) fn save(&mut self, file: StateFile) -> Option<StateFile> {
        let kind = file.kind();
        self.failed.remove(&kind);
        if self.under_way.contains_key(&kind) {
            self.next.insert(kind, file);
            return None;
        }
        self.under_way.insert(kind, file.clone());
        Some(file)
    }

    /// A write has ended. Returns the next of its kind, if there is one.
    pub(super) fn saved(&mut self, kind: StateFileKind, outcome: &Result<(), String>) -> Option<StateFile> {
        let file = self.under_way.remove(&kind);
        if let Some(next) = self.next.remove(&kind) {
            return self.save(next);
        }
        if let (Some(file), Err(error)) = (file, outcome) {
            self.failed.insert(kind, (file, error.clone()));
        }
        None
    }

    /// What failed is tried again.
    pub(super) fn retry(&mut self) -> Vec<StateFile> {
        let failed = std::mem::take(&mut self.failed);
        failed.into_values().filter_map(|(file, _)| self.save(file)).collect()
    }

    /// What could not be written, one sentence each.
    pub(super) fn problems(&self) -> impl Iterator<Item = &str> {
        self.failed.values().map(|(_, error)| error.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(name: &str) -> StateFile {
        StateFile::Boot(name.into())
    }

    #[test]
    fn one_write_of_a_kind_at_a_time_and_the_newest_content_wins() {
        let mut files = Files::default();
        assert_eq!(files.save(boot("a")), Some(boot("a")));
        assert_eq!(files.save(boot("b")), None);
        assert_eq!(files.save(boot("c")), None);
        assert_eq!(files.saved(StateFileKind::Boot, &Ok(())), Some(boot("c")));
        assert_eq!(files.saved(StateFileKind::Boot, &Ok(())), None);
    }

    #[test]
    fn what_cannot_be_written_is_told_until_it_is() {
        let mut files = Files::default();
        files.save(boot("a"));
        files.saved(StateFileKind::Boot, &Err("read-only".into()));
        assert_eq!(files.problems().collect::<Vec<_>>(), ["read-only"]);
        assert_eq!(files.retry(), [boot("a")]);
        files.saved(StateFileKind::Boot, &Ok(()));
        assert_eq!(files.problems().count(), 0);
        assert!(files.retry().is_empty());
    }
}
