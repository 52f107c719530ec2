//! Who runs the programs: PostgreSQL refuses root.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, bail};
use stolon_model::Explained;
use tokio::process::Command;

/// Users that may run PostgreSQL when we are root, best first: Debian's own, then one that owns nothing.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// The account that a program runs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// The one that we run under.
    Own,
    /// Another one, which only root can switch to.
    Other {
        /// Name.
        name: String,
        /// User number.
        uid: u32,
        /// Group number.
        gid: u32,
    },
}

impl Account {
    /// An account that PostgreSQL accepts: our own, or an unprivileged one if we are root.
    ///
    /// # Errors
    /// We are root and no candidate exists.
    pub fn for_postgresql() -> anyhow::Result<Account> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account::Own);
        }
        let users =
            std::fs::read_to_string("/etc/passwd").context("the users of this machine cannot be read")?;
        for candidate in CANDIDATES {
            if let Some((uid, gid)) = find(&users, candidate) {
                return Ok(Account::Other { name: candidate.to_owned(), uid, gid });
            }
        }
        bail!(
            Explained::new(format!(
                "PostgreSQL refuses to run as root, and there is no user {}",
                CANDIDATES.join(" or ")
            ))
            .with_hint("adduser --system --group postgres")
        )
    }

    /// A command that runs `program` under this account, gets SIGTERM when we die however that happens, and
    /// has a process group of its own so that the terminal's Ctrl-C reaches it only through us.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        self.wrap(command, program)
    }

    /// The same, but killed with us: for programs that have nothing to tidy up.
    pub fn expendable_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        self.wrap(command, program)
    }

    fn wrap(&self, mut command: Command, program: impl AsRef<OsStr>) -> Command {
        if let Account::Other { uid, gid, .. } = self {
            command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--init-groups"]);
            command.env("HOME", "/");
        }
        command.arg("--").arg(program.as_ref());
        command.process_group(0);
        command
    }

    /// Hand a file or directory over to this account.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn own(&self, path: &Path) -> anyhow::Result<()> {
        if let Account::Other { name, uid, gid } = self {
            chown(path, Some(*uid), Some(*gid))
                .with_context(|| format!("{} cannot be given to the user {name}", path.display()))?;
        }
        Ok(())
    }

    /// Make a directory with all its parents, private to this account.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn make_directory(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("the directory {} cannot be made", path.display()))?;
        self.own(path)
    }

    /// Write a file that only this account may read.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn write_private(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let failed = || format!("{} cannot be written", path.display());
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .with_context(failed)?;
        file.write_all(text.as_bytes()).with_context(failed)?;
        self.own(path)
    }
}

fn find(users: &str, name: &str) -> Option<(u32, u32)> {
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/bash\npostgresql:x:7:8::/:/bin/sh\npostgres:x:106:113:,,,:/var:/bin/bash\n";
        assert_eq!(find(users, "postgres"), Some((106, 113)));
        assert_eq!(find(users, "nobody"), None);
    }
}
