//! Room on the file systems that PostgreSQL uses.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stolon_core::keeper::{DiskUse, FileSystem, Room};
use tokio::sync::watch;

use crate::probe::DiskProbe;
use crate::sample::{segments, wal_directory};

/// What is looked at now is waited for this long; a look at PostgreSQL does not stand still for a file system that does.
const PATIENCE: Duration = Duration::from_millis(100);

/// Looks at file systems on a thread of its own: one at a time, since one that hangs would keep more and more of them.
#[derive(Clone, Debug)]
pub(crate) struct RoomWatch {
    inner: Arc<Inner>,
    probes: [DiskProbe; 2],
}

#[derive(Debug)]
struct Inner {
    known: watch::Sender<Room>,
    under_way: Mutex<UnderWay>,
}

/// Whether a server of ours runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerRuns {
    No,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnderWay {
    No,
    Yes,
}

impl RoomWatch {
    pub(crate) fn new() -> Self {
        RoomWatch {
            inner: Arc::new(Inner {
                known: watch::Sender::new(Room::default()),
                under_way: Mutex::new(UnderWay::No),
            }),
            probes: [DiskUse::Data, DiskUse::Wal].map(DiskProbe::of),
        }
    }

    /// The room around PGDATA, and what became of a few bytes there; what was known before if the file systems do not answer at once. Nothing
    /// is written where no server runs: a copy, say, is exchanged with what is there. What was begun before is told nevertheless.
    pub(crate) async fn look(&self, data: PathBuf, server: ServerRuns) -> Room {
        if server == ServerRuns::Yes {
            let [of_data, of_wal] = &self.probes;
            of_data.begin(data.clone());
            of_wal.begin(data.join("pg_wal"));
        }
        let room = self.room(data).await;
        Room { probes: self.probes.iter().filter_map(DiskProbe::seen).collect(), ..room }
    }

    async fn room(&self, data: PathBuf) -> Room {
        let mut known = self.inner.known.subscribe();
        let begun = std::mem::replace(&mut *self.inner.under_way.lock(), UnderWay::Yes) == UnderWay::No;
        if begun {
            let inner = Arc::clone(&self.inner);
            // Not waited for at the end either: a keeper that ends does not wait for a disk.
            drop(tokio::task::spawn_blocking(move || {
                let room = room_around(&data);
                *inner.under_way.lock() = UnderWay::No;
                inner.known.send_replace(room);
            }));
        }
        let _ = tokio::time::timeout(PATIENCE, known.changed()).await;
        let room = known.borrow_and_update().clone();
        room
    }
}

/// Places on one file system are one entry. Places that are not there yet are where they will be made.
fn room_around(data: &Path) -> Room {
    let wal = wal_directory(data);
    let mut places = vec![(DiskUse::Data, data.to_owned()), (DiskUse::Wal, wal.clone())];
    let tablespaces = std::fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten();
    let mut tablespaces: Vec<_> = tablespaces
        .filter_map(|link| Some((DiskUse::Tablespace(link.file_name().into_string().ok()?), link.path())))
        .collect();
    tablespaces.sort();
    places.extend(tablespaces);
    let mut seen: Vec<(u64, FileSystem)> = Vec::new();
    for (place, path) in places {
        let Some(there) = path.ancestors().find(|path| path.exists()) else { continue };
        let (Ok(metadata), Ok(space)) = (std::fs::metadata(there), rustix::fs::statvfs(there)) else {
            continue;
        };
        match seen.iter_mut().find(|(device, _)| *device == metadata.dev()) {
            Some((_, file_system)) => file_system.uses.push(place),
            None => {
                let (total, free) = (space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize);
                seen.push((metadata.dev(), FileSystem { uses: vec![place], total, free }));
            }
        }
    }
    let file_systems = seen.into_iter().map(|(_, file_system)| file_system).collect();
    Room { file_systems, wal_bytes: wal_bytes(&wal), probes: Vec::new() }
}

/// Segments are all of one size, so that one of them is asked.
fn wal_bytes(directory: &Path) -> u64 {
    let segments = segments(directory).unwrap_or_default();
    let size = segments.first().and_then(|first| std::fs::metadata(directory.join(first)).ok());
    size.map_or(0, |size| size.len() * segments.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_on_one_file_system_are_one_and_what_is_not_there_yet_is_where_it_will_be() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("postgres");
        let before = room_around(&data);
        assert_eq!(before.file_systems.len(), 1, "{before:?}");
        assert_eq!(
            (&before.file_systems[0].uses[..], before.wal_bytes),
            (&[DiskUse::Data, DiskUse::Wal][..], 0)
        );
        assert!(
            before.file_systems[0].free > 0 && before.file_systems[0].free <= before.file_systems[0].total
        );

        std::fs::create_dir_all(data.join("pg_wal/archive_status")).unwrap();
        std::fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        for name in ["000000010000000000000001", "000000010000000000000002", "00000002.history"] {
            std::fs::write(data.join("pg_wal").join(name), [0; 4096]).unwrap();
        }
        // Every Linux has this file system, and it is not the one of the test.
        std::os::unix::fs::symlink("/proc", data.join("pg_tblspc/16384")).unwrap();
        let room = room_around(&data);
        assert_eq!(room.wal_bytes, 8192);
        let uses: Vec<_> = room.file_systems.iter().map(|it| it.uses.clone()).collect();
        assert_eq!(uses, [vec![DiskUse::Data, DiskUse::Wal], vec![DiskUse::Tablespace("16384".into())]]);
    }
}
