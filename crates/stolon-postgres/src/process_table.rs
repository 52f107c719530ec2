//! The processes of this machine, as `/proc` shows them. What cannot be read belongs to others.

use std::ffi::OsStr;
use std::path::Path;

use procfs::process::Process;

use crate::process::TOOL_OF;

/// Processes of tools that work for the keeper in `directory`.
pub(crate) fn tools_of(directory: &Path) -> Vec<u32> {
    let is_marked = |process: &Process| {
        let environment = process.environ().unwrap_or_default();
        environment.get(OsStr::new(TOOL_OF)).is_some_and(|value| value == directory.as_os_str())
    };
    processes().filter(is_marked).filter_map(|process| process.pid().try_into().ok()).collect()
}

/// The postmaster that was started in `data_directory` by a keeper: not only once it has a pid file.
pub(crate) fn postmaster_of(data_directory: &Path) -> Option<u32> {
    let directory = data_directory.display().to_string();
    let is_it = |process: &Process| match process.cmdline().unwrap_or_default().as_slice() {
        [program, option, value, ..] => {
            program.ends_with("postgres") && option == "-D" && *value == directory
        }
        _ => false,
    };
    processes().find(is_it)?.pid().try_into().ok()
}

/// True when the process lives, is no zombie, and works in `directory`, as every server process does in its PGDATA.
pub(crate) fn works_in(pid: u32, directory: &Path) -> bool {
    let Ok(directory) = std::fs::canonicalize(directory) else { return false };
    let Ok(pid) = i32::try_from(pid) else { return false };
    Process::new(pid).and_then(|process| process.cwd()).is_ok_and(|works_in| works_in == directory)
}

/// What the startup process of the server in `data_directory` calls itself, which says what it replays (manual,
/// `update_process_title`); none when no recovery is under way.
pub(crate) fn startup_process_of(data_directory: &Path) -> Option<String> {
    let directory = std::fs::canonicalize(data_directory).ok()?;
    let title = |process: &Process| process.cmdline().map(|words| words.join(" ")).unwrap_or_default();
    let is_it = |process: &Process| {
        title(process).starts_with("postgres: startup") && process.cwd().is_ok_and(|cwd| cwd == directory)
    };
    processes().find(is_it).map(|process| title(&process))
}

fn processes() -> impl Iterator<Item = Process> {
    procfs::process::all_processes().into_iter().flatten().flatten()
}
