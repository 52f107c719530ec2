//! Copies of another instance: `pg_basebackup`, `pg_rewind`, and getting rid of data without losing the last good copy.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, RenameFlags, StatxAttributes, StatxFlags};
use secrecy::ExposeSecret;
use stolon_core::keeper::{OldData, Upstream};

use crate::credentials::Credentials;
use crate::error::{PostgresError, Result};
use crate::files::{SecretFile, remove_if_there, sync_parent};
use crate::initialise::parse_progress;
use crate::limit::Limit;
use crate::local::{BaseBackup, LocalPostgres, ProgressSender};
use crate::quote::{self, PgpassHost};
use crate::server::previous_server_lingers;
use crate::tablespaces::{self, Space};

/// Where a copy is made while the old data is still of use; no other program looks there.
const NEW_DIRECTORY: &str = "postgres.new";

/// Extension of the old data's directory for the moment of an exchange.
const ASIDE: &str = "old";
/// What nobody agreed to lose, with the instance that it was.
const KEPT: &str = "kept";
/// `application_name` of a copy.
const COPYING: &str = "pg_basebackup";
const LINGERING_POLL: Duration = Duration::from_millis(20);

/// How tools connect: the source's own setting would make their transactions there wait for standbys, and a source
/// that vanishes from the network must not be waited for for hours.
const TOOL_CONNECTION: [(&str, &str); 5] = [
    ("options", "-c synchronous_commit=off"),
    ("connect_timeout", "10"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "4"),
];

impl LocalPostgres {
    /// `pg_basebackup` with all WAL it needs, a fast checkpoint, and progress. The server must be stopped. With
    /// [`OldData::KeepUntilCopied`] PGDATA is as before when this fails.
    pub async fn base_backup(
        &self,
        backup: &BaseBackup,
        progress: &ProgressSender,
        limit: &Limit,
    ) -> Result<()> {
        self.must_be_stopped(limit).await?;
        self.must_have("pg_basebackup", limit).await?;
        self.port_must_be_free(limit).await?;
        let (directory, old_data) = (self.data_directory(), backup.old_data);
        let beside = self.inner.options.keeper_directory.join(NEW_DIRECTORY);
        let major = self.version(limit).await?.major;
        let spaces = self.tablespaces_of(&backup.source, limit).await.unwrap_or_default();
        let (server, theirs) = (self.clone(), spaces.clone());
        let room = self.removing(move |directory| {
            server.refuse_foreign(&theirs, major)?;
            make_room(directory, beside, old_data)
        });
        let Room { target, wal_elsewhere } = room.await?;
        if target == directory {
            self.remove_data(limit).await?;
        }
        let (server, theirs) = (self.clone(), spaces.clone());
        let begins_anew = target == directory;
        self.removing(move |_| {
            if begins_anew {
                server.begin_record()?;
            }
            server.claim(&theirs, major)
        })
        .await?;
        let room = Room { target: target.clone(), wal_elsewhere };
        if let Err(error) = self.run_base_backup(backup, room, &spaces, progress, limit).await {
            if target != directory {
                let server = self.clone();
                self.removing(move |_| {
                    remove_tree(&target)?;
                    server.clear_tablespaces(&target)
                })
                .await?;
            }
            return Err(error);
        }
        if target != directory {
            let (new, old) = (target.clone(), directory);
            // Once begun it is not called off.
            let limit = Limit::for_tidying_up();
            let exchange = move || exchange(&new, &old);
            self.on_disk("exchanging the data directories", &limit, exchange).await?;
            self.removing(move |_| remove_tree(&target)).await?;
        }
        Ok(())
    }

    async fn run_base_backup(
        &self,
        backup: &BaseBackup,
        Room { target, wal_elsewhere }: Room,
        spaces: &[Space],
        progress: &ProgressSender,
        limit: &Limit,
    ) -> Result<()> {
        let who = &self.inner.options.replication;
        let version = self.version(limit).await?;
        let secret = self.pass_file(&backup.source, who, limit).await?;
        // Not under the standby's name: PostgreSQL would take what the copy streams for a standby's acknowledgement.
        let copying = Upstream { application_name: COPYING.to_owned(), ..backup.source.clone() };
        let mut tool = self
            .tool("pg_basebackup")
            .args(["-R", "-v", "-P", "-Xs", "-w", "--checkpoint=fast", "-D"])
            .arg(target)
            .arg("-d")
            .arg(self.conninfo(&copying, who, version, &TOOL_CONNECTION))
            .env("PGPASSFILE", secret.path());
        if let Some(slot) = &backup.slot {
            tool = tool.args(["--slot", slot]);
        }
        if let Some(elsewhere) = wal_elsewhere {
            tool = tool.arg("--waldir").arg(elsewhere);
        }
        for mapping in spaces.iter().filter_map(Space::mapping) {
            tool = tool.arg("--tablespace-mapping").arg(mapping);
        }
        tool.run(limit, |line| follow(line, progress)).await?.success_of_copy("pg_basebackup").map(|_| ())
    }

    /// `pg_rewind` against a running primary, as [`Options::rewinder`](crate::Options) or the superuser. The server must be stopped; before PostgreSQL 13 it must
    /// have been stopped in order, later versions recover it first, and fetch WAL that is gone by the server's `restore_command`. Its configuration files are the source's afterwards.
    pub async fn rewind(&self, source: &Upstream, progress: &ProgressSender, limit: &Limit) -> Result<()> {
        self.must_be_stopped(limit).await?;
        self.must_have("pg_rewind", limit).await?;
        self.port_must_be_free(limit).await?;
        let crashed = !self.control_data(limit).await?.state.is_clean();
        let server = self.clone();
        let prepare = move || {
            let directory = server.data_directory();
            if crashed && directory.join("standby.signal").exists() {
                return Err(PostgresError::StandbyCrashed);
            }
            server.forget_stale_pid_file()?;
            // pg_rewind stops at a file that is a link on one side only.
            remove_if_there(&directory.join("postgresql.auto.conf")).map(drop)
        };
        self.on_disk("preparing the rewind", limit, prepare).await?;
        loop {
            match self.run_rewind(source, progress, limit).await {
                Err(PostgresError::Tool { tail, .. }) if previous_server_lingers(&tail) => {
                    limit.pause("waiting for the previous server's processes", LINGERING_POLL).await?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn run_rewind(&self, source: &Upstream, progress: &ProgressSender, limit: &Limit) -> Result<()> {
        let version = self.version(limit).await?;
        let who = self.rewinder(version);
        let secret = self.pass_file(source, who, limit).await?;
        let more = [&[("dbname", "postgres")], &TOOL_CONNECTION[..]].concat();
        let conninfo = self.conninfo(source, who, version, &more);
        let has_archive = version.rewinds_from_archive()
            && !self.command_at_start("restore_command", limit).await.unwrap_or_default().trim().is_empty();
        let tool = self
            .tool("pg_rewind")
            .args(has_archive.then_some("--restore-target-wal"))
            .arg("--progress")
            .arg("-D")
            .arg(self.data_directory())
            .arg("--source-server")
            .arg(conninfo)
            .env("PGPASSFILE", secret.path());
        tool.run(limit, |line| follow(line, progress)).await?.success("pg_rewind").map(|_| ())
    }

    /// Where the file system cannot exchange two directories at once, a kill in between leaves the old data aside.
    pub(crate) fn finish_exchange(&self) -> Result<()> {
        let directory = self.data_directory();
        let aside = directory.with_extension(ASIDE);
        if !directory.exists() && aside.exists() {
            std::fs::rename(&aside, &directory)
                .map_err(PostgresError::io("move back the data from", &aside))?;
            sync_parent(&directory)?;
        }
        Ok(())
    }

    /// Deletes PGDATA, its tablespaces' files, and what a broken-off copy left. Of a mount point, and of a `pg_wal` elsewhere,
    /// only the content goes. The server must be stopped.
    pub async fn remove_data(&self, limit: &Limit) -> Result<()> {
        self.must_be_stopped(limit).await?;
        limit.check("removing the data")?;
        let beside = self.inner.options.keeper_directory.join(NEW_DIRECTORY);
        let server = self.clone();
        self.removing(move |directory| {
            remove_tree(&beside)?;
            remove_tree(&directory.with_extension(ASIDE))?;
            server.clear_tablespaces(directory)?;
            clear_linked_wal(directory)?;
            remove_tree(directory)
        })
        .await
    }

    /// Once begun it is waited for: a removal that goes on behind our back would meet the next copy.
    async fn removing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let directory = self.data_directory();
        let never = Limit::unlimited(&tokio_util::sync::CancellationToken::new());
        self.on_disk("removing data", &never, move || work(&directory)).await
    }

    /// Moves PGDATA away, to a name beside it that says which instance it was; tells where it is now. The server must be stopped.
    ///
    /// # Errors
    /// It cannot be moved: it is a link or a mount point, or parts of it lie elsewhere, where a new instance would meet them.
    pub async fn set_aside(&self, instance: &str, limit: &Limit) -> Result<PathBuf> {
        self.must_be_stopped(limit).await?;
        let directory = self.data_directory();
        let kept = kept_beside(&directory, instance);
        let set_aside = move || {
            if !can_be_exchanged(&directory) || kept.exists() {
                return Err(PostgresError::CannotBeSetAside { directory, kept });
            }
            std::fs::rename(&directory, &kept).map_err(PostgresError::io("set aside", &directory))?;
            sync_parent(&directory)?;
            Ok(kept)
        };
        self.on_disk("setting old data aside", limit, set_aside).await
    }

    async fn must_be_stopped(&self, limit: &Limit) -> Result<()> {
        let server = self.clone();
        let look = move || server.live_orphan();
        let orphan = self.look_at_disk("looking for a server that runs", limit, look).await?;
        if self.inner.state.borrow().is_running() || orphan.is_some() {
            return Err(PostgresError::Invalid(
                "PostgreSQL must be stopped before its data is replaced".to_owned(),
            ));
        }
        Ok(())
    }

    async fn pass_file(&self, source: &Upstream, who: &Credentials, limit: &Limit) -> Result<SecretFile> {
        let password = who.password_to_send().unwrap_or_default();
        let host = PgpassHost::Named { host: &source.host, port: &source.port };
        let line = quote::pgpass_line(host, &who.username, password.expose_secret());
        let directory = self.secrets_directory();
        self.on_disk("writing a file of passwords", limit, move || {
            SecretFile::new(&directory, line.expose_secret())
        })
        .await
    }
}

/// A uid comes from the store, and must not lead anywhere else.
fn kept_beside(directory: &Path, instance: &str) -> PathBuf {
    let name = instance.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    directory.with_extension(format!("{KEPT}-{name}"))
}

fn follow(line: &str, progress: &ProgressSender) {
    match parse_progress(line) {
        Some(seen) => {
            progress.send_if_modified(|known| std::mem::replace(known, seen) != seen);
        }
        None => tracing::info!("{line}"),
    }
}

/// Where a copy goes.
struct Room {
    target: PathBuf,
    /// A `pg_wal` that was put on another disk stays there.
    wal_elsewhere: Option<PathBuf>,
}

fn make_room(directory: &Path, beside: PathBuf, old_data: OldData) -> Result<Room> {
    if old_data == OldData::KeepUntilCopied && can_be_exchanged(directory) {
        remove_tree(&beside)?;
        if directory.exists() {
            // Left by an exchange that a kill cut short: it would be in the way of the next.
            remove_tree(&directory.with_extension(ASIDE))?;
        }
        return Ok(Room { target: beside, wal_elsewhere: None });
    }
    let is_elsewhere =
        |wal: &PathBuf| std::fs::canonicalize(directory).is_ok_and(|inside| !wal.starts_with(inside));
    let wal_elsewhere = std::fs::canonicalize(directory.join("pg_wal")).ok().filter(is_elsewhere);
    Ok(Room { target: directory.to_owned(), wal_elsewhere })
}

/// A directory whose parts all lie in it can be exchanged with another by renaming.
fn can_be_exchanged(directory: &Path) -> bool {
    let is_link = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    !is_link(directory)
        && !is_mount_point(directory)
        && !is_link(&directory.join("pg_wal"))
        && !is_link(&directory.join("pg_xlog"))
        && tablespaces::linked(directory).is_empty()
}

/// Also a directory of the same file system that is bound there, whose device tells nothing (Linux 5.8 and newer say so).
fn is_mount_point(directory: &Path) -> bool {
    let flags = (AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    let is_root = rustix::fs::statx(CWD, directory, flags.0, flags.1)
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let parent = directory.parent().unwrap_or(Path::new("/"));
    is_root || device(directory).is_some_and(|own| device(parent) != Some(own))
}

/// Puts `new` in the place of `old`: in one step where the file system can. Afterwards the old data, if any, is at `new`.
fn exchange(new: &Path, old: &Path) -> Result<()> {
    if !old.exists() {
        std::fs::rename(new, old).map_err(PostgresError::io("move the copy to", old))?;
        return sync_parent(old);
    }
    match rustix::fs::renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            let aside = old.with_extension(ASIDE);
            std::fs::rename(old, &aside).map_err(PostgresError::io("move the old data from", old))?;
            std::fs::rename(new, old).map_err(PostgresError::io("move the copy to", old))?;
            std::fs::rename(&aside, new).map_err(PostgresError::io("move the old data from", &aside))?;
        }
        Err(error) => return Err(PostgresError::io("move the copy to", old)(error.into())),
    }
    sync_parent(old)
}

/// Empties a linked `pg_wal`.
fn clear_linked_wal(directory: &Path) -> Result<()> {
    for name in ["pg_wal", "pg_xlog"] {
        let link = directory.join(name);
        if std::fs::symlink_metadata(&link).is_ok_and(|metadata| metadata.is_symlink())
            && let Ok(target) = std::fs::canonicalize(&link)
        {
            remove_content(&target)?;
        }
    }
    Ok(())
}

/// Removes a directory with all below it. Of a mount point or a link, its content.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PostgresError::io("look at", path)(error)),
    };
    if metadata.is_symlink() || is_mount_point(path) {
        return remove_content(path);
    }
    std::fs::remove_dir_all(path).map_err(PostgresError::io("remove", path))?;
    sync_parent(path)
}

fn remove_content(path: &Path) -> Result<()> {
    let remove = || {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_name() == OsStr::new("lost+found") {
                continue;
            }
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(PostgresError::io("remove", path))?;
    sync_parent(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_of_the_store_leads_nowhere_else() {
        for (uid, expected) in [
            ("5f3a09bc", "/data/postgres.kept-5f3a09bc"),
            ("/../../../etc", "/data/postgres.kept-__________etc"),
            ("", "/data/postgres.kept-"),
        ] {
            assert_eq!(kept_beside(Path::new("/data/postgres"), uid), Path::new(expected));
        }
    }
}
