//! A virtual machine that is restored from a snapshot: what stood on its disk a while ago stands there again, the state files of the
//! keeper included, so that nothing on it knows.

use stolon_core::keeper::DataKind;
use stolon_model::Lsn;

use crate::keeper::StateFiles;
use crate::postgres::{Condition, DataDirectory, Position};
use crate::world::World;

/// Nobody notices that a standby stands so little below what the cluster data say: after a restart it shows somewhat less than it has
/// received.
const UNNOTICED: u64 = 512 * 1024;

/// What a host has on its disk.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    data: DataDirectory,
    files: StateFiles,
}

/// A host that was set back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetBack {
    /// Where its PostgreSQL was.
    before: Position,
    /// Where it was by the cluster data.
    known: Lsn,
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

    /// The host is set back to its snapshot, if it is still a standby and somebody else has everything. What it has acknowledged since a
    /// sentinel read its report is known to nobody, so it must not be what makes the difference.
    pub(crate) fn restore_snapshot(&mut self, keeper: u8) {
        let Some(Snapshot { data, files }) = self.snapshots.remove(&keeper) else { return };
        let now = self.postgres[usize::from(keeper)].data.as_ref();
        let before = now.filter(|data| data.kind == DataKind::Standby).map(DataDirectory::durable);
        let Some(before) = before.filter(|_| self.is_elsewhere(keeper)) else { return };
        let is_noticed = |known: &Lsn| known.0.saturating_sub(data.written.lsn.0) > UNNOTICED;
        let Some(known) = self.known_position(keeper).filter(is_noticed) else { return };
        // An earlier time counts no more once what it took is there again.
        self.misses_what_it_had(keeper);
        self.power_off(keeper);
        self.postgres[usize::from(keeper)].data = Some(data);
        let it = self.keeper(keeper);
        // To restore a host takes longer than a pledge lasts.
        let pledged = it.files.pledged.clone();
        it.files = files;
        it.files.pledged = pledged;
        it.set_back.get_or_insert(SetBack { before, known });
        self.power_on(keeper);
    }

    /// Where its instance is by the cluster data.
    fn known_position(&self, keeper: u8) -> Option<Lsn> {
        let instance = self.local_instance(keeper)?;
        let instances = self.decided()?.instances.as_ref()?;
        instances.get(&instance).map(|instance| instance.status.lsn)
    }

    /// Whether an instance lacks what it had by the cluster data, before its host was set back.
    pub(crate) fn misses_what_is_known(&self, keeper: u8, here: Position) -> bool {
        let set_back = self.keepers[usize::from(keeper)].set_back;
        set_back.is_some_and(|set_back| set_back.known.0.saturating_sub(here.lsn.0) > UNNOTICED)
    }

    /// Another server is the primary and has everything that this one has.
    fn is_elsewhere(&self, keeper: u8) -> bool {
        let is_another = self.elected().is_some_and(|(_, elected)| elected != keeper);
        is_another && self.can_spare(keeper) && !self.is_set_back()
    }

    /// Whether a host was set back, and does not have yet what it had before.
    pub(crate) fn misses_what_it_had(&mut self, keeper: u8) -> bool {
        let Some(SetBack { before, .. }) = self.keepers[usize::from(keeper)].set_back else { return false };
        let misses = self.durable(keeper).is_some_and(|here| !self.histories.contains(here, before));
        if !misses {
            self.keeper(keeper).set_back = None;
        }
        misses
    }
}
