//! Trees of processes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A process and all its descendants, the process first.
pub fn tree(root: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in processes() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.ppid).or_default().push(pid);
        }
    }
    let mut found = vec![root.as_raw_nonzero().get()];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.get(pid).into_iter().flatten());
        next += 1;
    }
    found.into_iter().filter_map(Pid::from_raw).collect()
}

/// Living processes whose working directory is `directory` or below it. A process that is started there is
/// found there, also when its parent is gone.
pub fn running_in(directory: &Path) -> Vec<Pid> {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf());
    processes()
        .filter(|pid| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&directory))
        })
        .filter(|pid| *pid != std::process::id() as i32)
        .filter_map(Pid::from_raw)
        .collect()
}

/// SIGKILL to a process, its descendants and whatever works in `directory`, until nothing is left of them.
///
/// Returns how many processes were killed. Ends after ten seconds whatever happens: a process that sits in an
/// uninterruptible wait cannot be killed.
pub async fn kill_tree(root: Option<Pid>, directory: &Path) -> usize {
    let mut killed = std::collections::BTreeSet::new();
    let mut family = root.map(tree).unwrap_or_default();
    for _ in 0..1000 {
        family.extend(running_in(directory));
        family.retain(|pid| is_alive(*pid));
        if family.is_empty() {
            break;
        }
        for pid in &family {
            killed.insert(pid.as_raw_nonzero());
            // It may have ended by itself in the meantime.
            let _ = kill_process(*pid, Signal::KILL);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    killed.len()
}

/// True while a process runs; a zombie does not.
pub(crate) fn is_alive(pid: Pid) -> bool {
    stat(pid.as_raw_nonzero().get()).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Our children of this name that have ended and that nobody has waited for yet.
pub(crate) fn zombies(name: &str) -> Vec<Pid> {
    let own = std::process::id() as i32;
    processes()
        .filter(|pid| {
            stat(*pid).is_some_and(|stat| stat.state == 'Z' && stat.ppid == own && stat.comm == name)
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// All processes, except those that end while they are looked at.
fn processes() -> impl Iterator<Item = i32> {
    procfs::process::all_processes().into_iter().flatten().filter_map(|process| Some(process.ok()?.pid()))
}

fn stat(pid: i32) -> Option<procfs::process::Stat> {
    procfs::process::Process::new(pid).ok()?.stat().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tree_and_its_orphans_are_found_and_killed() {
        let directory = tempfile::tempdir().unwrap();
        // The inner shell becomes an orphan when the outer one goes on to its own sleep.
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", "(sh -c 'sleep 300; true' &) ; sleep 300; true"])
            .current_dir(directory.path())
            .spawn()
            .unwrap();
        let root = Pid::from_raw(child.id().unwrap() as i32).unwrap();
        for _ in 0..500 {
            if running_in(directory.path()).len() >= 4 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(tree(root).len() >= 2, "a shell and its sleep");
        assert!(kill_tree(Some(root), directory.path()).await >= 4);
        assert_eq!(running_in(directory.path()), []);
        assert!(!child.wait().await.unwrap().success());
    }
}
