//! The account that the programs run under: PostgreSQL refuses root.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, bail};
use stolon_model::Explained;
use tokio::process::Command;

/// Users that may run PostgreSQL when we are root, best first: Debian's own, then one that owns nothing.
const ACCEPTED: [&str; 2] = ["postgres", "nobody"];

/// The account that a program runs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// The account of this process.
    Own,
    /// Another account, which only root can switch to.
    Other {
        /// Name of the user.
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
    /// We are root and none of these users exists.
    pub fn for_postgresql() -> anyhow::Result<Account> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account::Own);
        }
        if let Some(user) = ACCEPTED.iter().find_map(uzers::get_user_by_name) {
            return Ok(Account::Other {
                name: user.name().to_string_lossy().into_owned(),
                uid: user.uid(),
                gid: user.primary_group_id(),
            });
        }
        bail!(
            Explained::new(format!(
                "PostgreSQL refuses to run as root, and there is no user {}",
                ACCEPTED.join(" or ")
            ))
            .with_hint("adduser --system --group postgres")
        )
    }

    /// A command that runs `program` under this account, gets SIGTERM when this process dies in whatever way, and
    /// has a process group of its own so that the terminal's Ctrl-C reaches it only through us.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        self.wrap(command, program)
    }

    /// The same, but killed together with this process: for programs that have nothing to tidy up.
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
