//! The processes of this machine, as `/proc` shows them. What cannot be read belongs to others.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use procfs::process::Process;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::process::TOOL_OF;

/// Processes of tools that work for the keeper in `directory`.
pub(crate) fn tools_of(directory: &Path) -> Vec<Held> {
    let is_marked = |process: &Process| {
        let environment = process.environ().unwrap_or_default();
        environment.get(OsStr::new(TOOL_OF)).is_some_and(|value| value == directory.as_os_str())
    };
    processes()
        .filter(is_marked)
        .filter_map(|process| process.pid().try_into().ok())
        .filter_map(Held::of)
        .collect()
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

/// A process that is held by a descriptor (pidfd_open(2)), so that its number cannot become another's before it is signalled.
#[derive(Debug)]
pub(crate) struct Held {
    pid: i32,
    /// Clock ticks since the boot of the machine: with the number, the identity of a process.
    started: u64,
    /// None where the kernel (before 5.3) or a filter of system calls does not give one.
    handle: Option<OwnedFd>,
}

impl Held {
    /// The process that has this number now; none when there is none.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        let handle = match pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()) {
            Ok(handle) => Some(handle),
            Err(Errno::SRCH) => return None,
            // That there is no descriptor does not say that there is no process.
            Err(_) => None,
        };
        let started = Process::new(pid).and_then(|process| process.stat()).ok()?.starttime;
        Some(Self { pid, started, handle })
    }

    /// Of its own, for those who wait for its end.
    pub(crate) fn descriptor(&self) -> Option<OwnedFd> {
        self.handle.as_ref().and_then(|handle| handle.try_clone().ok())
    }

    /// Best effort: it may have ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let sent = self.handle.as_ref().map(|handle| pidfd_send_signal(handle, signal));
        if matches!(sent, Some(Ok(()) | Err(Errno::SRCH))) {
            return;
        }
        // By its number, as long as that is still its own.
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| !self.is_over()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// True once it has ended, whether or not its parent has noticed.
    pub(crate) fn is_over(&self) -> bool {
        match Process::new(self.pid).and_then(|process| process.stat()) {
            Ok(stat) => stat.starttime != self.started || matches!(stat.state, 'Z' | 'X'),
            Err(_) => true,
        }
    }
}

/// All that descend from a process, and not the process itself.
pub(crate) fn family_of(ancestor: &Held) -> Vec<Held> {
    let table: Vec<(i32, i32, u64)> = processes()
        .filter_map(|process| process.stat().ok())
        .map(|stat| (stat.pid, stat.ppid, stat.starttime))
        .collect();
    let mut members = vec![ancestor.pid];
    let mut family = Vec::new();
    let mut at = 0;
    while let Some(&parent) = members.get(at) {
        at += 1;
        for &(pid, _, started) in table.iter().filter(|(_, of, _)| *of == parent) {
            members.push(pid);
            family.extend(pid.try_into().ok().and_then(Held::of).filter(|held| held.started == started));
        }
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_descriptor_is_signalled_by_its_number_while_it_is_the_same() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let held = Held { handle: None, ..Held::of(child.id()).unwrap() };
        let another = Held { pid: held.pid, started: held.started + 1, handle: None };
        another.signal(Signal::KILL);
        assert!(!held.is_over());
        held.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(held.is_over());
    }
}
