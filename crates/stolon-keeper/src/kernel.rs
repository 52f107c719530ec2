//! What the kernel of this machine allows.

use stolon_core::keeper::SyncAfterCrash;

/// The first Linux whose `syncfs` reports that something could not be written (`syncfs(2)`, "Versions").
const SYNCFS_REPORTS: (u32, u32) = (5, 8);

/// How a server that crashed may make sure that what the one before it wrote is on the disk.
pub(crate) fn sync_after_crash() -> SyncAfterCrash {
    let uname = rustix::system::uname();
    of_kernel(&uname.sysname().to_string_lossy(), &uname.release().to_string_lossy())
}

/// A kernel that cannot be told says nothing of failures.
fn of_kernel(name: &str, release: &str) -> SyncAfterCrash {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if name == "Linux" && (major, minor) >= SYNCFS_REPORTS => {
            SyncAfterCrash::FileSystems
        }
        _ => SyncAfterCrash::EachFile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_whose_failures_do_not_show_is_not_relied_on() {
        for (name, release, expected) in [
            ("Linux", "5.8.0", SyncAfterCrash::FileSystems),
            ("Linux", "6.1.0-18-amd64", SyncAfterCrash::FileSystems),
            ("Linux", "5.14-rc3", SyncAfterCrash::FileSystems),
            ("Linux", "5.4.0-150-generic", SyncAfterCrash::EachFile),
            ("Linux", "4.4.0", SyncAfterCrash::EachFile),
            ("Linux", "10", SyncAfterCrash::EachFile),
            ("Linux", "", SyncAfterCrash::EachFile),
            ("FreeBSD", "14.1-RELEASE", SyncAfterCrash::EachFile),
        ] {
            assert_eq!(of_kernel(name, release), expected, "{name} {release}");
        }
    }
}
