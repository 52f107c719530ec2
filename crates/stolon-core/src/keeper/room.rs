//! Room on the file systems that PostgreSQL uses, and whether they take what is written.

use std::time::Duration;

use stolon_model::FileSystemReport;

/// A file system, and what PostgreSQL has on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// In their order.
    pub uses: Vec<DiskUse>,
    /// Bytes in all.
    pub total: u64,
    /// Bytes that PostgreSQL's user can have yet.
    pub free: u64,
}

/// What PostgreSQL has on a file system.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum DiskUse {
    /// PGDATA.
    #[error("data")]
    Data,
    /// `pg_wal`.
    #[error("wal")]
    Wal,
    /// A tablespace, by its oid.
    #[error("tablespace {0}")]
    Tablespace(String),
}

/// One more segment of WAL, of the usual size: a file system that has no room for it is full, whether or not a few bytes fit.
const LEAST_FREE: u64 = 16 << 20;

impl FileSystem {
    /// Whether PostgreSQL can hardly write on it.
    pub fn has_no_room(&self) -> bool {
        let holds_more = |used_for: &DiskUse| matches!(used_for, DiskUse::Data | DiskUse::Wal);
        self.free < LEAST_FREE && self.uses.iter().any(holds_more)
    }

    /// For the report.
    pub(super) fn report(&self) -> FileSystemReport {
        FileSystemReport {
            uses: Some(self.uses.iter().map(ToString::to_string).collect()),
            total_bytes: self.total,
            free_bytes: self.free,
        }
    }
}

/// What became of a few bytes that were written to a disk and flushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// They arrived.
    Written,
    /// There was no space for them.
    NoSpace,
    /// They could not be written or flushed: the operating system's words.
    Failed(String),
    /// They have been under way for so long.
    UnderWay(Duration),
}

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Empty: not known.
    pub file_systems: Vec<FileSystem>,
    /// What the last probe of each place has shown.
    pub probes: Vec<(DiskUse, Probed)>,
    /// What the segments in `pg_wal` take.
    pub wal_bytes: u64,
}

impl Room {
    /// The one that WAL is written to.
    pub fn of_wal(&self) -> Option<&FileSystem> {
        self.file_systems.iter().find(|it| it.uses.contains(&DiskUse::Wal))
    }
}

/// What slots may hold by the room that there is, in megabytes: half of what is free besides the WAL that is there. It is a power of two, and
/// changed only where it would be out by more than a factor, since each change is a reload of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RoomForSlots {
    megabytes: Option<u64>,
}

/// Standbys need some WAL to come back after a moment, whatever room there is: four segments.
const LEAST_MEGABYTES: u64 = 64;

impl RoomForSlots {
    /// A look has found this much room.
    pub fn looked(&mut self, room: &Room) {
        let Some(file_system) = room.of_wal() else { return };
        let half = (file_system.free.saturating_add(room.wal_bytes) / 2) >> 20;
        let fits = self.megabytes.is_some_and(|now| now <= half && half / 4 < now);
        if !fits {
            let power = half.checked_ilog2().map_or(0, |exponent| 1 << exponent);
            self.megabytes = Some(power.clamp(LEAST_MEGABYTES, i32::MAX as u64));
        }
    }

    /// None: it is not known yet.
    pub fn megabytes(self) -> Option<u64> {
        self.megabytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slots_may_hold_follows_the_room_and_does_not_flutter() {
        let mut room = RoomForSlots::default();
        room.looked(&Room::default());
        assert_eq!(room.megabytes(), None, "nothing is known");
        for (free, wal, expected) in [
            (100 << 10, 0, 32 << 10),
            // WAL that slots hold already leaves the bound as it is.
            (60 << 10, 40 << 10, 32 << 10),
            (64 << 10, 0, 32 << 10),
            (63 << 10, 0, 16 << 10),
            (64 << 10, 0, 16 << 10),
            (127 << 10, 0, 16 << 10),
            (128 << 10, 0, 64 << 10),
            (300, 20, 128),
            (1, 0, 64),
            (0, 0, 64),
            (u64::MAX >> 20, 0, i32::MAX as u64),
        ] {
            let file_system = FileSystem { uses: vec![DiskUse::Wal], total: u64::MAX, free: free << 20 };
            room.looked(&Room { file_systems: vec![file_system], wal_bytes: wal << 20, ..Room::default() });
            assert_eq!(room.megabytes(), Some(expected), "{free} free, {wal} of WAL");
        }
    }
}
