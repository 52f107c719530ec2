//! Whose the data directory is, and who else may write there.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Uid;
use stolon_runtime::UsageError;

const OTHERS_WRITE: u32 = 0o002;

/// Makes sure that nobody but us, root and a group can put other data, or another configuration, in the place of ours. (Volumes are
/// given to pods by their group.) A directory of ours that everybody may write to, as provisioners of volumes make them, is closed, if nobody
/// has used it.
///
/// # Errors
/// Somebody else can write there, or has.
pub(crate) fn close_to_others(directory: &Path) -> Result<(), UsageError> {
    close(directory, rustix::process::geteuid())
}

fn close(directory: &Path, us: Uid) -> Result<(), UsageError> {
    let shown = directory.display();
    let refuse = |cause: String| UsageError::new(format!("cannot use data dir {shown}: {cause}"));
    let failed = |error: std::io::Error| {
        refuse(error.to_string()).hint("the user of this keeper must be able to enter, read and change it")
    };
    let metadata = std::fs::metadata(directory).map_err(failed)?;
    let owner = Uid::from_raw(metadata.uid());
    if !is_ours(owner, us) {
        return Err(refuse(format!(
            "it belongs to user {}, and this keeper runs as user {}",
            owner.as_raw(),
            us.as_raw()
        ))
        .hint(format!("run the keeper as its owner, or: chown -R {} {shown}", us.as_raw())));
    }
    let mode = metadata.permissions().mode();
    if mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    if let Some(strange) = entry_of_others(directory, us).map_err(failed)? {
        return Err(refuse(format!(
            "every user of this machine may write there, and {} is neither ours nor root's",
            strange.display()
        ))
        .hint(format!("look at what others have left there, remove it, then: chmod o-w {shown}")));
    }
    if owner != us {
        return Err(refuse("every user of this machine may write there".to_owned()).hint(format!(
            "as root: chmod o-w {shown}; or name a directory below it, which the keeper makes for itself"
        )));
    }
    tracing::warn!("every user of this machine could write in data dir {shown}: taken back (chmod o-w)");
    std::fs::set_permissions(directory, Permissions::from_mode(mode & !OTHERS_WRITE)).map_err(failed)
}

/// Root is told elsewhere that no keeper runs as root.
fn is_ours(owner: Uid, us: Uid) -> bool {
    owner == us || owner.is_root() || us.is_root()
}

fn entry_of_others(directory: &Path, us: Uid) -> std::io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if !is_ours(Uid::from_raw(std::fs::symlink_metadata(&path)?.uid()), us) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(directory: &Path, us: Uid) -> String {
        close(directory, us).unwrap_err().message
    }

    #[test]
    fn a_directory_is_closed_to_others_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let owner = Uid::from_raw(std::fs::metadata(path).unwrap().uid());
        // For whoever runs the test it is ours, for the other one it is theirs.
        let other = Uid::from_raw(owner.as_raw() + 1);
        let mode = || std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for (before, after) in [(0o700, 0o700), (0o2775, 0o2775), (0o2777, 0o2775), (0o707, 0o705)] {
            std::fs::set_permissions(path, Permissions::from_mode(before)).unwrap();
            close(path, owner).unwrap();
            assert_eq!(mode(), after, "{before:o}");
        }
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        std::fs::write(path.join("dbstate"), "").unwrap();
        let text = refused(path, other);
        match owner.is_root() {
            true => assert!(text.contains("every user of this machine may write there"), "{text}"),
            false => assert!(text.contains("it belongs to user"), "{text}"),
        }
        assert_eq!(mode(), 0o777, "what is refused stays as it is");
    }

    #[test]
    fn what_others_left_is_named() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let [us, other] = [70, 71];
        std::os::unix::fs::chown(directory.path(), Some(us), None).unwrap();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let left = directory.path().join("postgres");
        std::os::unix::fs::symlink("/elsewhere", &left).unwrap();
        std::os::unix::fs::lchown(&left, Some(other), None).unwrap();
        let text = refused(directory.path(), Uid::from_raw(us));
        assert!(text.contains(&format!("{} is neither ours nor root's", left.display())), "{text}");
        std::os::unix::fs::chown(directory.path(), Some(other), None).unwrap();
        let text = refused(directory.path(), Uid::from_raw(us));
        assert!(text.contains("it belongs to user 71, and this keeper runs as user 70"), "{text}");
    }
}
