//! Tablespaces: what of an instance lies outside of PGDATA, and whose it is.
//!
//! A tablespace's directory holds one folder for each major version (`PG_15_202209061`), and nothing that says whose it is (PostgreSQL
//! manual, "Tablespaces"). A keeper deletes such a folder only where its own record names the directory, or where PGDATA links to it and
//! the folder was born after the keeper had begun to make PGDATA. So a backup whose links lead to somebody else's tablespaces costs
//! nobody's data.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stolon_core::keeper::Upstream;

use crate::backup::remove_tree;
use crate::data_directory::data_version;
use crate::error::{PostgresError, Result};
use crate::files::write_atomically;
use crate::limit::Limit;
use crate::local::LocalPostgres;

/// Name of the record, in the keeper's directory: when the making of PGDATA began, and the directories that are ours.
const RECORD: &str = "tablespaces";
/// How often the record is brought up to what a running server has.
const LEARN_INTERVAL: Duration = Duration::from_secs(10);
const LEARN_LIMIT: Duration = Duration::from_secs(10);
/// The time of a file lags behind the clock by up to a tick of the kernel, which is 10 ms at most.
const TICK: Duration = Duration::from_millis(20);

/// Where tablespaces of others are put here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablespaceMapping(Vec<(PathBuf, PathBuf)>);

impl TablespaceMapping {
    /// Each directory of the first kind, and what lies below it, is here below the second. Both are absolute.
    pub fn new(pairs: Vec<(PathBuf, PathBuf)>) -> Self {
        Self(pairs)
    }

    /// Where a tablespace is here. The longest directory that it lies in decides.
    fn here(&self, theirs: &Path) -> PathBuf {
        let fits = self.0.iter().filter(|(from, _)| theirs.starts_with(from));
        let longest = fits.max_by_key(|(from, _)| from.components().count());
        match longest.and_then(|(from, to)| Some((theirs.strip_prefix(from).ok()?, to))) {
            Some((rest, to)) if rest.as_os_str().is_empty() => to.clone(),
            Some((rest, to)) => to.join(rest),
            None => theirs.to_owned(),
        }
    }
}

/// A tablespace of a server that is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    theirs: PathBuf,
    here: PathBuf,
}

impl Space {
    /// For `pg_basebackup --tablespace-mapping`; none where both are the same.
    pub(crate) fn mapping(&self) -> Option<String> {
        let text = |path: &Path| path.display().to_string().replace('=', "\\=");
        (self.theirs != self.here).then(|| format!("{}={}", text(&self.theirs), text(&self.here)))
    }
}

/// What a keeper knows of its tablespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    /// When the making of PGDATA began; none where an earlier version, or Stolon, made it.
    made_since: Option<SystemTime>,
    directories: BTreeSet<PathBuf>,
}

impl Record {
    fn begun_now() -> Self {
        Record { made_since: Some(SystemTime::now() - TICK), directories: BTreeSet::new() }
    }

    /// None before the first.
    fn read(file: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PostgresError::io("read", file)(error)),
        };
        let mut lines = text.lines();
        let since = lines.next().and_then(|line| line.parse().ok()).map(Duration::from_millis);
        let made_since = since.filter(|since| !since.is_zero()).map(|since| UNIX_EPOCH + since);
        Ok(Some(Record { made_since, directories: lines.map(PathBuf::from).collect() }))
    }

    fn write(&self, file: &Path) -> Result<()> {
        let since = self.made_since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        let mut text = format!("{}\n", since.unwrap_or_default().as_millis());
        for directory in &self.directories {
            text.push_str(&format!("{}\n", directory.display()));
        }
        write_atomically(file, text.as_bytes()).map(drop)
    }

    /// Whether what PGDATA links to is ours: a folder that is older than PGDATA was there before.
    fn owns_linked(&self, space: &Path, major: u16) -> bool {
        let Some(since) = self.made_since else { return true };
        let folders = folders_of(space, major);
        let is_younger = |folder: &PathBuf| {
            std::fs::symlink_metadata(folder).and_then(|it| it.created()).is_ok_and(|born| born >= since)
        };
        self.directories.contains(space) || (!folders.is_empty() && folders.iter().all(is_younger))
    }
}

impl LocalPostgres {
    fn record_of_tablespaces(&self) -> PathBuf {
        self.inner.options.keeper_directory.join(RECORD)
    }

    /// From now on PGDATA is being made, and nothing outside of it is ours yet.
    pub(crate) fn begin_record(&self) -> Result<()> {
        Record::begun_now().write(&self.record_of_tablespaces())
    }

    /// The tablespaces of a server, as its superuser. They have to be known before a copy is begun, since one that is broken off
    /// leaves no links to them.
    pub(crate) async fn tablespaces_of(&self, source: &Upstream, limit: &Limit) -> Option<Vec<Space>> {
        const SQL: &str = "SELECT spc.location FROM pg_tablespace, \
                           LATERAL (SELECT pg_tablespace_location(oid) AS location) spc WHERE spc.location LIKE '/%'";
        match self.ask_source(source, SQL, limit).await {
            Ok(rows) => {
                let paths = rows.into_iter().filter_map(|row| row.into_iter().next().flatten());
                let mapping = &self.inner.options.tablespace_mapping;
                let space = |theirs: PathBuf| Space { here: mapping.here(&theirs), theirs };
                Some(paths.map(PathBuf::from).map(space).collect())
            }
            Err(error) => {
                tracing::warn!(%error, "cannot see which tablespaces are to be copied: a copy that is broken off would leave them");
                None
            }
        }
    }

    /// # Errors
    /// A tablespace would have to go where something lies that is not ours. Nothing is changed.
    pub(crate) fn refuse_foreign(&self, spaces: &[Space], major: u16) -> Result<()> {
        let record = Record::read(&self.record_of_tablespaces())?.unwrap_or_default();
        let linked = linked(&self.data_directory());
        for Space { here, .. } in spaces {
            let is_ours = record.directories.contains(here)
                || (linked.contains(here) && record.owns_linked(here, major));
            let is_clear = if is_ours { holds_only(here, major)? } else { is_empty(here)? };
            if !is_clear {
                return Err(PostgresError::ForeignTablespace { directory: here.clone() });
            }
        }
        Ok(())
    }

    /// Empties our directories for a copy, and writes down that what comes there is ours. [`LocalPostgres::refuse_foreign`] comes first.
    pub(crate) fn claim(&self, spaces: &[Space], major: u16) -> Result<()> {
        let file = self.record_of_tablespaces();
        let mut record = Record::read(&file)?.unwrap_or_else(Record::begun_now);
        for Space { here, .. } in spaces.iter().filter(|space| record.directories.contains(&space.here)) {
            remove_folders(here, major)?;
        }
        record.directories.extend(spaces.iter().map(|space| space.here.clone()));
        record.write(&file)
    }

    /// Deletes what is ours of the tablespaces of the data in `directory`, and of those that the record names. Another major version may have
    /// its folder beside ours.
    pub(crate) fn clear_tablespaces(&self, directory: &Path) -> Result<()> {
        let file = self.record_of_tablespaces();
        let record = Record::read(&file)?.unwrap_or_default();
        let Some(major) = self.major(directory) else { return Ok(()) };
        let linked = linked(directory).into_iter().filter(|space| record.owns_linked(space, major));
        for space in linked.chain(record.directories.iter().cloned()) {
            remove_folders(&space, major)?;
        }
        if !record.directories.is_empty() {
            Record { directories: BTreeSet::new(), ..record }.write(&file)?;
        }
        Ok(())
    }

    /// Of the data; of the binaries where there are none.
    fn major(&self, directory: &Path) -> Option<u16> {
        let of_data = data_version(directory).ok().flatten();
        of_data.or_else(|| self.known_version()).map(|version| version.major)
    }

    /// Brings the record up to what the server has, for as long as it runs.
    pub(crate) async fn keep_record(self) {
        let mut server = self.server();
        loop {
            let postgres = self.clone();
            let limit = Limit::within(LEARN_LIMIT, &tokio_util::sync::CancellationToken::new());
            let learn = move || postgres.learn_tablespaces();
            if let Err(error) = self.on_disk("writing down the tablespaces", &limit, learn).await {
                tracing::debug!(%error, "the record of tablespaces stays as it is");
            }
            let ended = server.wait_for(|state| !state.is_running());
            if tokio::time::timeout(LEARN_INTERVAL, ended).await.is_ok() {
                return;
            }
        }
    }

    /// What was dropped may be somebody else's tomorrow; what was made since PGDATA is ours.
    fn learn_tablespaces(&self) -> Result<()> {
        let directory = self.data_directory();
        if !directory.join("pg_tblspc").is_dir() || !directory.join("global/pg_control").is_file() {
            return Ok(());
        }
        let file = self.record_of_tablespaces();
        let before = Record::read(&file)?;
        let known = before.clone().unwrap_or_default();
        let Some(major) = self.major(&directory) else { return Ok(()) };
        let ours = linked(&directory).into_iter().filter(|space| known.owns_linked(space, major));
        let directories = ours.collect();
        let now = Record { directories, ..known };
        if before.as_ref() == Some(&now) || (before.is_none() && now.directories.is_empty()) {
            return Ok(());
        }
        now.write(&file)
    }
}

/// The directories that PGDATA links to.
pub(crate) fn linked(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(directory.join("pg_tblspc")).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

/// The folders of a major version in a tablespace: one, or more after a change of the catalogue.
fn folders_of(space: &Path, major: u16) -> Vec<PathBuf> {
    let prefix = format!("PG_{major}_");
    let entries = std::fs::read_dir(space).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

fn remove_folders(space: &Path, major: u16) -> Result<()> {
    folders_of(space, major).iter().try_for_each(|folder| remove_tree(folder))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(PostgresError::io("read", directory)(error)),
    }
}

fn is_empty(directory: &Path) -> Result<bool> {
    Ok(entries(directory)?.is_empty())
}

fn holds_only(directory: &Path, major: u16) -> Result<bool> {
    let folders = folders_of(directory, major);
    Ok(entries(directory)?.iter().all(|entry| folders.contains(entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_holds_for_what_lies_below() {
        let pairs = [("/ts/k1", "/ts/k2"), ("/ts/k1/fast", "/nvme")];
        let mapping = TablespaceMapping::new(pairs.map(|(from, to)| (from.into(), to.into())).to_vec());
        for (theirs, here) in [
            ("/ts/k1", "/ts/k2"),
            ("/ts/k1/a", "/ts/k2/a"),
            ("/ts/k1/fast/b", "/nvme/b"),
            ("/ts/k10/a", "/ts/k10/a"),
            ("/elsewhere", "/elsewhere"),
        ] {
            assert_eq!(mapping.here(Path::new(theirs)), Path::new(here), "{theirs}");
        }
        let space = Space { theirs: "/a=b".into(), here: "/c".into() };
        assert_eq!(space.mapping().as_deref(), Some("/a\\=b=/c"));
    }

    #[test]
    fn a_record_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(RECORD);
        assert_eq!(Record::read(&file).unwrap(), None);
        for made_since in [None, Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123))] {
            let record = Record { made_since, directories: [PathBuf::from("/a b"), "/c".into()].into() };
            record.write(&file).unwrap();
            assert_eq!(Record::read(&file).unwrap(), Some(record));
        }
    }

    #[test]
    fn a_folder_that_was_there_before_is_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let space = directory.path().join("space");
        std::fs::create_dir_all(space.join("PG_15_202209061")).unwrap();
        assert_eq!(folders_of(&space, 1), Vec::<PathBuf>::new());
        let hour = Duration::from_secs(3600);
        let later = Record { made_since: Some(SystemTime::now() + hour), directories: BTreeSet::new() };
        assert!(!later.owns_linked(&space, 15));
        let earlier = Record { made_since: Some(SystemTime::now() - hour), ..later.clone() };
        assert!(earlier.owns_linked(&space, 15));
        assert!(!earlier.owns_linked(&directory.path().join("nowhere"), 15));
        assert!(Record { directories: [space.clone()].into(), ..later }.owns_linked(&space, 15));
        assert!(Record::default().owns_linked(&space, 15), "of a keeper that wrote nothing down yet");
    }
}
