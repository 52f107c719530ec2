//! Limits of the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// From now on neither this process nor what it runs leaves a core file: their memory holds passwords. The hard limit stays, so that
/// an operator can allow one of a running PostgreSQL (`prlimit --core=unlimited --pid`).
pub fn forbid_core_files() {
    let wanted = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
    if let Err(error) = setrlimit(Resource::Core, wanted) {
        tracing::warn!(%error, "cannot forbid core files");
    }
}

/// Raise the soft limit of open files to the hard limit, and return what is in force now (`None`: no limit).
pub fn raise_open_files_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let wanted = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        match setrlimit(Resource::Nofile, wanted) {
            Ok(()) => limit = wanted,
            Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
        }
    }
    limit.current
}
