//! Where the file is, and whether it may be there.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The file of a store: an absolute path whose directory exists on a file system of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The directory, with symbolic links resolved.
    pub directory: PathBuf,
    /// The file, with symbolic links resolved.
    pub file: PathBuf,
}

impl Location {
    /// The file that `--store-endpoints` names. It need not exist, its directory must.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: no file, no directory, or a network file system.
    pub fn from_endpoints(endpoints: &str) -> Result<Self, StoreError> {
        let path = endpoint_path(endpoints)?;
        if path.is_dir() {
            return Err(StoreError::configuration(
                format!("{} is a directory, the store sqlite is a file", path.display()),
                format!("name a file in it, for example {}", path.join("stolon.db").display()),
            ));
        }
        let path = path.canonicalize().unwrap_or(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(no_file());
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let directory = parent.canonicalize().map_err(|error| {
            StoreError::configuration(
                format!("the directory {} of the store cannot be used: {error}", parent.display()),
                "create it; it should belong to the user that runs the keepers",
            )
        })?;
        refuse_network_file_system(&directory)?;
        let file = directory.join(name);
        Ok(Location { directory, file })
    }

    /// Whether the file exists; one that cannot be looked at does, so that the failure to open it is told.
    pub fn exists(&self) -> bool {
        self.file.try_exists().unwrap_or(true)
    }

    /// Make the file if there is none, with the access that the directory grants. It appears whole: `fill` has
    /// written to it before anybody else can see it.
    ///
    /// Whoever may make files in the directory may use the store: the file's owner and group are the
    /// directory's (as far as this process may give them), and group and others may write it if they may
    /// write the directory and the directory is not sticky. So `umask` plays no part, and a directory that
    /// belongs to the user of the keepers gives a store that both they and root can use. SQLite makes its
    /// `-wal` and `-shm` files with the owner and the access of the file itself.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create_if_absent(&self, fill: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
        if self.file.try_exists()? {
            return Ok(());
        }
        let directory = std::fs::metadata(&self.directory)?;
        let fresh = self.directory.join(format!(".{}.new", uuid::Uuid::new_v4()));
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        if std::os::unix::fs::fchown(&made, Some(directory.uid()), Some(directory.gid())).is_err() {
            // Only root gives files away; without that the group may still be ours to set.
            let _ = std::os::unix::fs::fchown(&made, None, Some(directory.gid()));
        }
        made.set_permissions(std::fs::Permissions::from_mode(file_mode(directory.mode())))?;
        drop(made);
        // Linking is the one step by which the finished file appears; another process may have been faster.
        let linked = fill(&fresh).and_then(|()| std::fs::hard_link(&fresh, &self.file));
        std::fs::remove_file(&fresh)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

/// Read and write for everybody who may make files in a directory of this mode.
fn file_mode(directory: u32) -> u32 {
    const STICKY: u32 = 0o1000;
    let grant =
        |class: u32| if directory & class != 0 && directory & STICKY == 0 { class | class << 1 } else { 0 };
    0o600 | grant(0o020) | grant(0o002)
}

fn no_file() -> StoreError {
    StoreError::configuration(
        "the store backend sqlite needs a file",
        "name it: --store-endpoints /var/lib/stolon/store.db",
    )
}

fn endpoint_path(endpoints: &str) -> Result<PathBuf, StoreError> {
    let text = endpoints.trim();
    let path = ["sqlite://", "sqlite:", "file://", "file:"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    if path.is_empty() {
        return Err(no_file());
    }
    if path.contains("://") || path.starts_with("//") {
        return Err(StoreError::configuration(
            format!("the store backend sqlite needs a file, not the address {text}"),
            "name a file, for example --store-endpoints /var/lib/stolon/store.db; \
             for a store on other machines use --store-backend etcdv3",
        ));
    }
    Ok(PathBuf::from(path))
}

fn refuse_network_file_system(directory: &Path) -> Result<(), StoreError> {
    let unreadable = |cause: String| {
        StoreError::configuration(
            format!("the file system of {} cannot be examined: {cause}", directory.display()),
            "put the store on a local disk that this user can read",
        )
    };
    let file_system = rustix::fs::statfs(directory).map_err(|error| unreadable(error.to_string()))?;
    #[allow(clippy::useless_conversion)] // its width depends on the processor
    let magic = i64::from(file_system.f_type);
    let kind = if magic == FUSE {
        let device = std::fs::metadata(directory).map_err(|error| unreadable(error.to_string()))?.dev();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        network_fuse(mounted_type(&mounts, device).unwrap_or("fuse"))
    } else {
        network_kind(magic).map(str::to_owned)
    };
    match kind {
        None => Ok(()),
        Some(kind) => Err(StoreError::configuration(
            format!(
                "{} is on a network file system ({kind}), where the store sqlite would be damaged",
                directory.display()
            ),
            "put the file on a local disk; for more than one machine use --store-backend etcdv3",
        )),
    }
}

const FUSE: i64 = 0x6573_5546;

/// File systems that other machines can share, by the magic number of `statfs(2)`.
fn network_kind(magic: i64) -> Option<&'static str> {
    // The field is 32 bits wide on some machines, where large numbers come out negative.
    match magic & 0xFFFF_FFFF {
        0x6969 => Some("NFS"),
        0x517B => Some("SMB"),
        0xFF53_4D42 => Some("CIFS"),
        0xFE53_4D42 => Some("SMB2"),
        0x0102_1997 => Some("9p"),
        0x564C => Some("NCP"),
        0x7375_7245 => Some("Coda"),
        0x5346_414F | 0x6B41_4653 => Some("AFS"),
        0x00C3_6400 => Some("Ceph"),
        0x0116_1970 => Some("GFS2"),
        0x7461_636F => Some("OCFS2"),
        0x0BD0_0BD0 => Some("Lustre"),
        0x1983_0326 => Some("BeeGFS"),
        0x4750_4653 => Some("GPFS"),
        _ => None,
    }
}

/// A FUSE file system may be anywhere: only those that are known to be local are accepted.
fn network_fuse(kind: &str) -> Option<String> {
    let local = ["fuseblk", "fuse.fuse-overlayfs", "virtiofs", "fuse.gocryptfs", "fuse.encfs", "fuse.bindfs"];
    (!local.contains(&kind)).then(|| kind.to_owned())
}

/// The type of the file system with this device number, in the words of `mountinfo`.
fn mounted_type(mountinfo: &str, device: u64) -> Option<&str> {
    let wanted = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        (mount.split(' ').nth(2)? == wanted).then(|| file_system.split(' ').next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_named_in_several_ways() {
        for text in
            ["/a/b.db", "sqlite:///a/b.db", "sqlite:/a/b.db", "file:///a/b.db", "file:/a/b.db", " /a/b.db "]
        {
            assert_eq!(endpoint_path(text).ok(), Some(PathBuf::from("/a/b.db")), "{text}");
        }
        for text in ["", "  ", "sqlite://", "http://127.0.0.1:2379", "sqlite:////host/share"] {
            assert!(matches!(endpoint_path(text), Err(StoreError::Configuration { .. })), "{text}");
        }
    }

    #[test]
    fn a_missing_directory_is_said() {
        let error = Location::from_endpoints("/nonexistent/for/sure/x.db").expect_err("no such directory");
        assert!(error.to_string().contains("/nonexistent/for/sure"), "{error}");
        assert!(stolon_model::Advise::hint(&error).is_some(), "{error}");
    }

    #[test]
    fn network_file_systems_are_known() {
        assert_eq!(network_kind(0x6969), Some("NFS"));
        assert_eq!(network_kind(i64::from(0xFF53_4D42_u32 as i32)), Some("CIFS"));
        assert_eq!(network_kind(0xEF53), None, "ext4");
        assert_eq!(network_kind(0x0102_1994), None, "tmpfs");
        let mounts = "36 35 0:45 / /mnt/far rw - fuse.sshfs host:/x rw\n37 35 0:46 / /mnt/o rw - fuse.fuse-overlayfs o rw\n";
        let kind = |minor| mounted_type(mounts, rustix::fs::makedev(0, minor)).and_then(network_fuse);
        assert_eq!(kind(45).as_deref(), Some("fuse.sshfs"));
        assert_eq!(kind(46), None);
    }

    #[test]
    fn the_directory_decides_who_may_use_the_store() {
        for (directory, file) in
            [(0o700, 0o600), (0o755, 0o600), (0o770, 0o660), (0o2775, 0o660), (0o777, 0o666), (0o1777, 0o600)]
        {
            assert_eq!(file_mode(directory), file, "{directory:o}");
        }
    }
}
