//! The files that the keeper writes: one write of each kind at a time, the newest content wins; what fails, or does not end, is told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::keeper::event::{StateFile, StateFileKind};

/// A write that takes longer is told: the disk hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The writes under way, and those that failed.
#[derive(Debug, Default)]
pub(super) struct Files {
    under_way: BTreeMap<StateFileKind, Write>,
    next: BTreeMap<StateFileKind, StateFile>,
    failed: BTreeMap<StateFileKind, (StateFile, String)>,
}

#[derive(Debug)]
struct Write {
    file: StateFile,
    since: Duration,
    /// It was told that it takes long.
    is_late: bool,
}

/// What a write that has ended leaves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// What was written, or may have been.
    pub(super) file: Option<StateFile>,
    /// The next one of its kind, whose write begins.
    pub(super) next: Option<StateFile>,
}

impl Files {
    /// A file is to be written. Returns it if that is to begin now.
    pub(super) fn save(&mut self, now: Duration, file: StateFile) -> Option<StateFile> {
        let kind = file.kind();
        self.failed.remove(&kind);
        if self.under_way.contains_key(&kind) {
            self.next.insert(kind, file);
            return None;
        }
        self.under_way.insert(kind, Write { file: file.clone(), since: now, is_late: false });
        Some(file)
    }

    /// A write has ended.
    pub(super) fn saved(
        &mut self,
        now: Duration,
        kind: StateFileKind,
        outcome: &Result<(), String>,
    ) -> Written {
        let file = self.under_way.remove(&kind).map(|write| write.file);
        if let Some(next) = self.next.remove(&kind) {
            return Written { file, next: self.save(now, next) };
        }
        if let (Some(file), Err(error)) = (&file, outcome) {
            self.failed.insert(kind, (file.clone(), error.clone()));
        }
        Written { file, next: None }
    }

    /// What failed, to be tried again.
    pub(super) fn take_failed(&mut self) -> Vec<StateFile> {
        std::mem::take(&mut self.failed).into_values().map(|(file, _)| file).collect()
    }

    /// The kinds whose write has become late, each once.
    pub(super) fn newly_late(&mut self, now: Duration) -> Vec<StateFileKind> {
        let mut late = Vec::new();
        for (kind, write) in &mut self.under_way {
            if !write.is_late && now.saturating_sub(write.since) >= PATIENCE {
                write.is_late = true;
                late.push(*kind);
            }
        }
        late
    }

    /// Whether the write under way is known to be late, so that nobody has to wait for it.
    pub(super) fn is_late(&self, kind: StateFileKind) -> bool {
        self.under_way.get(&kind).is_some_and(|write| write.is_late)
    }

    /// When the next write becomes late.
    pub(super) fn wake(&self) -> Option<Duration> {
        let waiting = self.under_way.values().filter(|write| !write.is_late);
        waiting.map(|write| write.since + PATIENCE).min()
    }

    /// What could not be written, one sentence each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let late = self.under_way.iter().filter(|(_, write)| write.is_late).map(|(kind, _)| late(*kind));
        self.failed.values().map(|(_, error)| error.clone()).chain(late)
    }
}

/// That a write does not end.
pub(super) fn late(kind: StateFileKind) -> String {
    format!("the disk hangs: the file of {kind} is still being written after {PATIENCE:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn boot(name: &str) -> StateFile {
        StateFile::Boot(name.into())
    }

    fn next(files: &mut Files) -> Option<StateFile> {
        files.saved(NOW, StateFileKind::Boot, &Ok(())).next
    }

    #[test]
    fn one_write_of_a_kind_at_a_time_and_the_newest_content_wins() {
        let mut files = Files::default();
        assert_eq!(files.save(NOW, boot("a")), Some(boot("a")));
        assert_eq!(files.save(NOW, boot("b")), None);
        assert_eq!(files.save(NOW, boot("c")), None);
        assert_eq!(next(&mut files), Some(boot("c")));
        assert_eq!(next(&mut files), None);
    }

    #[test]
    fn what_cannot_be_written_is_told_until_it_is() {
        let mut files = Files::default();
        files.save(NOW, boot("a"));
        files.saved(NOW, StateFileKind::Boot, &Err("read-only".into()));
        assert_eq!(files.problems().collect::<Vec<_>>(), ["read-only"]);
        assert_eq!(files.take_failed(), [boot("a")]);
        assert_eq!(files.problems().count(), 0);
        assert!(files.take_failed().is_empty());
    }

    #[test]
    fn a_write_that_does_not_end_is_told_once_and_shown_until_it_has_ended() {
        let mut files = Files::default();
        files.save(NOW, boot("a"));
        assert_eq!(files.wake(), Some(PATIENCE));
        assert_eq!(files.newly_late(PATIENCE / 2), []);
        assert_eq!(files.newly_late(PATIENCE), [StateFileKind::Boot]);
        assert_eq!((files.newly_late(PATIENCE * 2), files.wake()), (Vec::new(), None), "once");
        assert_eq!(files.problems().count(), 1);
        next(&mut files);
        assert_eq!(files.problems().count(), 0);
    }
}
