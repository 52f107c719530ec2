//! Whether a disk takes what is written to it: a few bytes, flushed, now and then.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stolon_core::keeper::{DiskUse, Probed};
use tokio::time::Instant;

/// A flush of a file has the file system write back its journal, which those who commit wait for, too.
const INTERVAL: Duration = Duration::from_secs(1);
/// One block of PostgreSQL.
const BYTES: [u8; 8192] = [0; 8192];
/// Base backups and `pg_rewind` leave out what begins like this (PostgreSQL source, `PG_TEMP_FILE_PREFIX`), wherever it is.
const FILE: &str = "pgsql_tmp_stolon_probe";

/// Probes one place on threads of its own, one at a time: a disk that hangs keeps one thread, and nobody waits for it.
#[derive(Clone, Debug)]
pub(crate) struct DiskProbe {
    place: DiskUse,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug)]
struct Known {
    last: Option<Probed>,
    begun: Option<Instant>,
    /// The last one, whether or not it has ended.
    tried: Option<Instant>,
}

impl DiskProbe {
    pub(crate) fn of(place: DiskUse) -> Self {
        let known = Known { last: None, begun: None, tried: None };
        DiskProbe { place, known: Arc::new(Mutex::new(known)) }
    }

    /// Begins another probe in `directory` where the last one has ended and is a while ago.
    pub(crate) fn begin(&self, directory: PathBuf) {
        let now = Instant::now();
        let mut known = self.known.lock();
        let is_recent = known.tried.is_some_and(|tried| now.saturating_duration_since(tried) < INTERVAL);
        if known.begun.is_some() || is_recent {
            return;
        }
        (known.begun, known.tried) = (Some(now), Some(now));
        let ours = Arc::clone(&self.known);
        // Not waited for at the end either: a keeper that ends does not wait for a disk.
        drop(tokio::task::spawn_blocking(move || {
            let probed = probe(&directory);
            let mut known = ours.lock();
            (known.last, known.begun) = (probed, None);
        }));
    }

    /// What is known now; none: nothing.
    pub(crate) fn seen(&self) -> Option<(DiskUse, Probed)> {
        let known = self.known.lock();
        let under_way = known.begun.map(|begun| Probed::UnderWay(begun.elapsed()));
        let seen = match (under_way, &known.last) {
            // What went wrong before has not come right as long as the next one is under way.
            (Some(under_way), Some(Probed::Written) | None) => under_way,
            (Some(Probed::UnderWay(time)), Some(_)) if time > INTERVAL => Probed::UnderWay(time),
            (_, last) => last.clone()?,
        };
        Some((self.place.clone(), seen))
    }
}

/// None: the place is not there.
fn probe(directory: &Path) -> Option<Probed> {
    let path = directory.join(FILE);
    let written = write(&path);
    // Made anew each time: on a full disk a block that is there could be written again.
    let removed = std::fs::remove_file(&path);
    match written.and(removed) {
        Ok(()) => Some(Probed::Written),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => None,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(Probed::NoSpace),
            _ => Some(Probed::Failed(error.to_string())),
        },
    }
}

fn write(path: &Path) -> std::io::Result<()> {
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(no_link);
    let mut file = options.open(path)?;
    file.write_all(&BYTES)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_leaves_nothing_and_says_what_it_met() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(probe(directory.path()), Some(Probed::Written));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(probe(&directory.path().join("gone")), None);
        // What a killed keeper left is no hindrance; a link leads nowhere.
        std::fs::write(directory.path().join(FILE), "old").unwrap();
        assert_eq!(probe(directory.path()), Some(Probed::Written));
        std::os::unix::fs::symlink("/dev/full", directory.path().join(FILE)).unwrap();
        assert!(matches!(probe(directory.path()), Some(Probed::Failed(_))));
    }

    #[tokio::test]
    async fn one_that_does_not_come_back_is_told_by_its_age_and_not_followed_by_another() {
        let (directory, it) = (tempfile::tempdir().unwrap(), DiskProbe::of(DiskUse::Wal));
        assert_eq!(it.seen(), None);
        let ended = async {
            while it.known.lock().begun.is_some() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        it.begin(directory.path().to_owned());
        tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
        assert_eq!(it.seen(), Some((DiskUse::Wal, Probed::Written)));
        // A FIFO in the place of the file is a disk that hangs: who opens it waits for a reader.
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let fifo = directory.path().join(FILE);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        it.known.lock().tried = None;
        it.begin(directory.path().to_owned());
        let begun = it.known.lock().begun;
        it.begin(directory.path().to_owned());
        assert_eq!(it.known.lock().begun, begun);
        assert!(begun.is_some() && matches!(it.seen(), Some((_, Probed::UnderWay(_)))));
        // A reader ends the wait; what comes of a FIFO cannot be flushed.
        let reader = std::thread::spawn(move || std::fs::read(fifo));
        let ended = async {
            while it.known.lock().begun.is_some() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
        assert!(matches!(it.seen(), Some((_, Probed::Failed(_)))));
        reader.join().unwrap().unwrap();
    }
}
