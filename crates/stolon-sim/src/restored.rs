//! A virtual machine that is restored from a snapshot: what stood on its disk a while ago stands there again, the state files of the
//! keeper included, so that nothing on it knows.

use stolon_core::keeper::DataKind;

use crate::keeper::StateFiles;
use crate::postgres::{Condition, DataDirectory, Position};
use crate::world::World;

/// Nobody notices that a host was set back by less: after a restart a standby shows somewhat less than it has received.
const UNNOTICED: u64 = 512 * 1024;

/// What a host has on its disk.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    data: DataDirectory,
    files: StateFiles,
}

impl World {
    /// A snapshot of the host of a standby. A primary that is set back goes on with other WAL in the place of what it had, under the same
    /// timeline, and its standbys cannot tell: no program can do anything about that.
    pub(crate) fn take_snapshot(&mut self, keeper: u8) {
        self.snapshots.remove(&keeper);
        let is_whole =
            |data: &&DataDirectory| data.kind == DataKind::Standby && data.condition == Condition::Whole;
        let data = self.postgres[usize::from(keeper)].data.as_ref().filter(is_whole);
        if let Some(mut data) = data.cloned().filter(|_| self.local_instance(keeper).is_some()) {
            data.written = data.durable();
            let files = self.keepers[usize::from(keeper)].files.clone();
            self.snapshots.insert(keeper, Snapshot { data, files });
        }
    }

    /// The host is set back to its snapshot, if it is still a standby and somebody else has everything.
    pub(crate) fn restore_snapshot(&mut self, keeper: u8) {
        let Some(Snapshot { data, files }) = self.snapshots.remove(&keeper) else { return };
        let now = self.postgres[usize::from(keeper)].data.as_ref();
        let before = now.filter(|data| data.kind == DataKind::Standby).map(DataDirectory::durable);
        let is_noticed = |before: &Position| before.lsn.0 - data.written.lsn.0.min(before.lsn.0) > UNNOTICED;
        let Some(before) = before.filter(is_noticed).filter(|_| self.is_elsewhere(keeper)) else { return };
        self.power_off(keeper);
        self.postgres[usize::from(keeper)].data = Some(data);
        let it = self.keeper(keeper);
        it.files = files;
        it.was_at.get_or_insert(before);
        self.power_on(keeper);
    }

    /// Another server is the primary and has everything that this one has.
    fn is_elsewhere(&self, keeper: u8) -> bool {
        let is_another = self.elected().is_some_and(|(_, elected)| elected != keeper);
        is_another && self.can_spare(keeper) && !self.is_set_back()
    }

    /// Whether a host was set back, and does not have yet what it had before.
    pub(crate) fn misses_what_it_had(&mut self, keeper: u8) -> bool {
        let Some(before) = self.keepers[usize::from(keeper)].was_at else { return false };
        let misses = self.durable(keeper).is_some_and(|here| !self.histories.contains(here, before));
        if !misses {
            self.keeper(keeper).was_at = None;
        }
        misses
    }
}
