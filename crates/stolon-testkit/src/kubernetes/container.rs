//! A container: a process with a file system, a process table and rights of its own (manual pages unshare(1), setpriv(1)).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use stolon_local::Account;
use tokio::process::Command;

/// A directory of this machine in the container.
pub struct Mount {
    /// Here.
    pub from: PathBuf,
    /// There.
    pub to: String,
    /// Whether nobody may write there.
    pub is_read_only: bool,
}

/// What a container is made of.
pub struct Container {
    /// An empty directory. What is mounted on it is seen in the container alone.
    pub root: PathBuf,
    /// The directory of the programs under test.
    pub programs: PathBuf,
    /// The directory of PostgreSQL's programs, below `/usr`.
    pub postgres: PathBuf,
    /// `runAsUser`.
    pub user: u64,
    /// `runAsGroup`.
    pub group: u64,
    /// `fsGroup`.
    pub groups: u64,
    /// `readOnlyRootFilesystem`.
    pub is_read_only: bool,
    /// `allowPrivilegeEscalation: false`.
    pub gains_nothing: bool,
    /// `capabilities: { drop: [ALL] }`.
    pub drops_all: bool,
    /// `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
    /// Volumes.
    pub mounts: Vec<Mount>,
}

/// The beginning of every container. `$root` is its file system.
const BEGIN: &str = r#"
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr proc dev etc var tmp
chmod 1777 tmp
mount --rbind /usr usr
mount --bind "$programs" usr/local/bin
for directory in bin sbin lib lib64; do ln -s usr/$directory $directory; done
mount --rbind /dev dev
mount -t proc proc proc
cp /etc/nsswitch.conf etc
echo "postgres:x:$user:$group::/:/bin/sh" > etc/passwd
echo "postgres:x:$group:" > etc/group
echo '127.0.0.1 localhost' > etc/hosts
"#;

impl Container {
    /// The command that runs these words in it. It ends with them, and everything in it with the first process.
    pub fn command(&self, words: &[&str], variables: &[(String, String)]) -> Command {
        let mut command = Account::Own.expendable_command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--", "/bin/sh", "-euc"]);
        command.arg(self.script()).arg("container").args(words);
        let postgres = self.postgres.display();
        command.env_clear();
        command.env("PATH", format!("/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{postgres}"));
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.env("root", &self.root).env("programs", &self.programs);
        command.env("user", self.user.to_string()).env("group", self.group.to_string());
        command
    }

    /// What makes the container and becomes its first process.
    fn script(&self) -> String {
        let mut script = BEGIN.to_owned();
        for (name, address) in &self.hosts {
            let _ = writeln!(script, "echo '{address} {name}' >> etc/hosts");
        }
        for Mount { from, to, is_read_only } in &self.mounts {
            let (from, to) = (from.display(), to.trim_start_matches('/'));
            let _ = writeln!(script, "mkdir -p '{to}'; mount --bind '{from}' '{to}'");
            if *is_read_only {
                let _ = writeln!(script, "mount -o remount,bind,ro '{to}'");
            }
        }
        script.push_str("cd /\n");
        if self.is_read_only {
            script.push_str("mount -o remount,ro \"$root\"\n");
        }
        let _ = write!(
            script,
            "exec env --unset=root --unset=programs --unset=user --unset=group chroot \"$root\" setpriv \
             --reuid {} --regid {} --groups {} --pdeathsig KILL",
            self.user, self.group, self.groups
        );
        if self.gains_nothing {
            script.push_str(" --no-new-privs");
        }
        if self.drops_all {
            script.push_str(" --bounding-set=-all --inh-caps=-all");
        }
        script.push_str(" -- \"$@\"\n");
        script
    }
}
