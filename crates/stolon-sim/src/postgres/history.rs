//! The family tree of all WAL that was ever written in a run.
//!
//! A branch is what one server wrote between two promotions. Timeline numbers are not unique: two servers that are promoted from the
//! same timeline take the same number. Branches are, so that the simulator knows what PostgreSQL cannot.

use stolon_model::{Lsn, Timeline, TimelineHistoryEntry};

/// The size of the record with which a server ends its recovery: it is promoted, or starts as a primary.
pub(super) const END_OF_RECOVERY: u64 = 160;

/// One branch of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BranchId(pub u32);

/// A position on a branch: what a data directory holds, up to here, and all of what the branch grew from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// On which branch.
    pub branch: BranchId,
    /// Up to here.
    pub lsn: Lsn,
}

#[derive(Clone, Debug)]
struct Branch {
    /// The database cluster that it belongs to (wire: system identifier).
    system: u64,
    timeline: Timeline,
    /// Where it grew from; none for the work of `initdb`.
    parent: Option<Position>,
}

/// All branches of a run.
#[derive(Clone, Debug, Default)]
pub struct Histories {
    branches: Vec<Branch>,
}

impl Histories {
    /// The first branch of a new database cluster.
    pub fn initdb(&mut self, system: u64) -> BranchId {
        self.add(Branch { system, timeline: Timeline(1), parent: None })
    }

    /// A promotion at `from`.
    pub fn promote(&mut self, from: Position) -> BranchId {
        let (system, timeline) = (self.system(from.branch), Timeline(self.timeline(from.branch).0 + 1));
        self.add(Branch { system, timeline, parent: Some(from) })
    }

    fn add(&mut self, branch: Branch) -> BranchId {
        self.branches.push(branch);
        BranchId(self.branches.len() as u32 - 1)
    }

    fn branch(&self, id: BranchId) -> &Branch {
        &self.branches[id.0 as usize]
    }

    /// Every branch.
    pub fn all(&self) -> Vec<BranchId> {
        (0..self.branches.len() as u32).map(BranchId).collect()
    }

    /// The database cluster that a branch belongs to.
    pub fn system(&self, id: BranchId) -> u64 {
        self.branch(id).system
    }

    /// The timeline number of a branch.
    pub fn timeline(&self, id: BranchId) -> Timeline {
        self.branch(id).timeline
    }

    /// True when whoever stands at `holder` has everything up to `wanted`.
    pub fn contains(&self, holder: Position, wanted: Position) -> bool {
        let mut here = holder;
        loop {
            if here.branch == wanted.branch {
                return here.lsn >= wanted.lsn;
            }
            match self.branch(here.branch).parent {
                Some(fork) => here = Position { branch: fork.branch, lsn: fork.lsn.min(here.lsn) },
                None => return false,
            }
        }
    }

    /// A position without the record that a promotion begins a branch with: nobody's commit is in that one.
    pub(crate) fn without_end_of_recovery(&self, position: Position) -> Position {
        let mut here = position;
        while let Some(fork) = self.branch(here.branch).parent
            && here.lsn.0 <= fork.lsn.0 + END_OF_RECOVERY
        {
            here = fork;
        }
        here
    }

    /// The last position that two have in common; none when they are of different database clusters.
    pub fn common(&self, one: Position, other: Position) -> Option<Position> {
        let mut here = one;
        loop {
            let mut there = other;
            loop {
                if here.branch == there.branch {
                    return Some(Position { branch: here.branch, lsn: here.lsn.min(there.lsn) });
                }
                match self.branch(there.branch).parent {
                    Some(fork) => there = Position { branch: fork.branch, lsn: fork.lsn.min(there.lsn) },
                    None => break,
                }
            }
            let fork = self.branch(here.branch).parent?;
            here = Position { branch: fork.branch, lsn: fork.lsn.min(here.lsn) };
        }
    }

    /// The forks in the past of a branch as PostgreSQL's history file lists them, the oldest first.
    pub fn forks(&self, id: BranchId) -> Vec<TimelineHistoryEntry> {
        let mut entries = Vec::new();
        let mut here = id;
        while let Some(fork) = self.branch(here).parent {
            if self.timeline(fork.branch) != self.timeline(here) {
                entries.push(TimelineHistoryEntry {
                    timeline: self.timeline(fork.branch),
                    switch_point: fork.lsn,
                    reason: String::new(),
                });
            }
            here = fork.branch;
        }
        entries.reverse();
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(branch: BranchId, lsn: u64) -> Position {
        Position { branch, lsn: Lsn(lsn) }
    }

    #[test]
    fn a_branch_holds_what_it_grew_from_and_nothing_that_came_after() {
        let mut all = Histories::default();
        let first = all.initdb(1);
        let left = all.promote(at(first, 100));
        let right = all.promote(at(first, 150));
        assert_eq!(all.timeline(left), all.timeline(right), "both take the next number");
        assert!(all.contains(at(left, 200), at(first, 100)));
        assert!(!all.contains(at(left, 200), at(first, 101)));
        assert!(!all.contains(at(left, 200), at(right, 160)));
        assert_eq!(all.common(at(left, 200), at(right, 300)), Some(at(first, 100)));
        assert_eq!(all.forks(right).len(), 1);
        assert_eq!(all.without_end_of_recovery(at(left, 100 + END_OF_RECOVERY)), at(first, 100));
        let commit = at(left, 101 + END_OF_RECOVERY);
        assert_eq!(all.without_end_of_recovery(commit), commit);
        let other = all.initdb(2);
        assert_eq!(all.common(at(left, 200), at(other, 300)), None);
    }
}
