//! Who holds a lease: a process that can be recognised, and seen to be gone.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::process::{Pid, PidfdFlags};

/// A process of this machine, told from a later one with the same process id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// `/proc/sys/kernel/random/boot_id`: other moments and processes belong to other boots.
    pub boot: String,
    /// The pid namespace of the process id.
    pub namespace: String,
    /// Process id.
    pub pid: i32,
    /// Start of the process, in clock ticks since boot.
    pub started: i64,
}

/// Whether a process still runs.
#[derive(Debug)]
pub enum Life {
    /// The process runs; the descriptor becomes readable when it ends.
    Running(OwnedFd),
    /// The process has ended.
    Gone,
    /// The process cannot be seen from here.
    Hidden,
}

impl Process {
    /// This process.
    pub fn this() -> &'static Process {
        static THIS: OnceLock<Process> = OnceLock::new();
        THIS.get_or_init(|| {
            let pid = rustix::process::getpid();
            Process {
                boot: this_boot().to_owned(),
                namespace: namespace(),
                pid: pid.as_raw_pid(),
                started: started(pid.as_raw_pid()).unwrap_or(0),
            }
        })
    }

    /// Whether it still runs, as far as this process can know for sure.
    pub fn life(&self) -> Life {
        let this = Process::this();
        if self.boot != this.boot {
            return Life::Gone;
        }
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.namespace == this.namespace && self.pid > 0)
        else {
            return Life::Hidden;
        };
        // The descriptor is taken first: from then on the process id cannot pass to another process unnoticed.
        let descriptor = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Life::Gone,
            Err(_) => return Life::Hidden,
        };
        match started(self.pid) {
            Some(started) if started != self.started => Life::Gone,
            _ if has_ended(&descriptor) => Life::Gone,
            _ => Life::Running(descriptor),
        }
    }

    /// True if it is known to have ended.
    pub fn is_gone(&self) -> bool {
        matches!(self.life(), Life::Gone)
    }
}

/// The boot that this process runs in.
pub fn this_boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    })
}

fn namespace() -> String {
    let link = std::fs::read_link("/proc/self/ns/pid");
    link.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Field 22 of `/proc/<pid>/stat`; the name in field 2 may contain blanks and parentheses.
fn started(pid: i32) -> Option<i64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A descriptor of a process is readable once it has ended, reaped or not.
fn has_ended(descriptor: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut descriptors = [PollFd::new(descriptor, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut descriptors, Some(&at_once)), Ok(1..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs() {
        assert!(matches!(Process::this().life(), Life::Running(_)));
        assert!(Process::this().started > 0);
    }

    #[test]
    fn an_ended_process_is_gone_also_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("a pid");
        let other = Process { pid, started: started(pid).expect("its start"), ..Process::this().clone() };
        assert!(!other.is_gone());
        child.kill().expect("kill");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !other.is_gone() {
            assert!(std::time::Instant::now() < deadline, "a zombie counts as gone");
            std::thread::yield_now();
        }
        child.wait().expect("wait");
        assert!(other.is_gone());
    }

    #[test]
    fn other_starts_other_boots_and_other_namespaces() {
        let this = Process::this().clone();
        assert!(Process { started: this.started + 1, ..this.clone() }.is_gone());
        assert!(Process { boot: "before".into(), ..this.clone() }.is_gone());
        let elsewhere = Process { namespace: "pid:[1]".into(), pid: i32::MAX, ..this };
        assert!(matches!(elsewhere.life(), Life::Hidden));
    }
}
