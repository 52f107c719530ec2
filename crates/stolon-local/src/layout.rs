//! Where a cluster's files lie, and the command lines of its programs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::{Account, Process, Target};

/// The directory of the logs, below that of the cluster.
pub const LOGS: &str = "log";

/// The two users of the databases, with their passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name of the superuser that keepers and clients use.
    pub superuser: String,
    /// Password of the superuser.
    pub superuser_password: String,
    /// Name of the user that standbys stream with.
    pub replication_user: String,
    /// Password of that user.
    pub replication_password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, {})", self.superuser, self.replication_user)
    }
}

/// A cluster on this machine.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The directory of all files of the cluster, and the working directory of its processes.
    pub directory: PathBuf,
    /// `--cluster-name`.
    pub cluster_name: String,
    /// `--store-backend`.
    pub store_backend: String,
    /// `--store-endpoints`.
    pub store_endpoints: String,
    /// `--kubeconfig`, for a store in Kubernetes.
    pub kubeconfig: Option<PathBuf>,
    /// Where the programs are.
    pub programs: PathBuf,
    /// Where PostgreSQL's programs are.
    pub pg_bin: PathBuf,
    /// The account that runs everything.
    pub account: Account,
    /// Users and passwords.
    pub credentials: Credentials,
}

/// A program with its arguments, not started yet.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name of the service, for example `keeper1`.
    pub name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    /// In Kubernetes, the pod that it reports in: it has the name of the service.
    pod: Option<String>,
    log: PathBuf,
    directory: PathBuf,
    account: Account,
}

impl Service {
    /// Start the program. Its log is appended to.
    ///
    /// # Errors
    /// See [`Process::start`].
    pub fn start(&self) -> anyhow::Result<Process> {
        let mut command = self.account.command(&self.program);
        command.args(&self.arguments).current_dir(&self.directory);
        without_our_settings(&mut command);
        command.envs(self.pod.iter().map(|pod| ("POD_NAME", pod)));
        Process::start(&self.name, command, &self.log)
    }

    /// The file of the log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The same from another file.
    pub fn run_from(mut self, program: &Path) -> Service {
        self.program = program.to_owned();
        self
    }

    /// The same with another argument, `--name=value`: also a flag that needs no value takes this one.
    pub fn with(mut self, flag: &str, value: impl AsRef<Path>) -> Service {
        let mut argument = OsString::from(flag);
        argument.push("=");
        argument.push(value.as_ref());
        self.arguments.push(argument);
        self
    }
}

impl Layout {
    /// Make the directories and the password files.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn prepare(&self) -> anyhow::Result<()> {
        for directory in [self.directory.clone(), self.logs()] {
            self.account.make_directory(&directory)?;
        }
        let credentials = &self.credentials;
        self.account.write_private(&self.superuser_password_file(), &credentials.superuser_password)?;
        self.account.write_private(&self.replication_password_file(), &credentials.replication_password)
    }

    /// Where a keeper keeps everything.
    pub fn keeper_directory(&self, number: usize) -> PathBuf {
        self.directory.join(format!("keeper{number}"))
    }

    /// The database of the first keeper that has one; none in a new directory.
    pub fn first_database(&self) -> Option<PathBuf> {
        let keepers = (1..).map(|number| self.keeper_directory(number));
        let mut databases =
            keepers.take_while(|directory| directory.is_dir()).map(|directory| directory.join("postgres"));
        databases.find(|data| data.join("PG_VERSION").is_file())
    }

    /// A keeper named `keeper<number>` whose PostgreSQL listens on a port of 127.0.0.1.
    pub fn keeper(&self, number: usize, port: u16) -> Service {
        let name = format!("keeper{number}");
        let mut arguments = self.common();
        let credentials = &self.credentials;
        push(&mut arguments, "--uid", &name);
        push(&mut arguments, "--data-dir", self.keeper_directory(number));
        push(&mut arguments, "--pg-listen-address", "127.0.0.1");
        push(&mut arguments, "--pg-port", port.to_string());
        push(&mut arguments, "--pg-bin-path", &self.pg_bin);
        push(&mut arguments, "--pg-su-username", &credentials.superuser);
        push(&mut arguments, "--pg-su-passwordfile", self.superuser_password_file());
        push(&mut arguments, "--pg-repl-username", &credentials.replication_user);
        push(&mut arguments, "--pg-repl-passwordfile", self.replication_password_file());
        self.service(name, "stolon-keeper", arguments)
    }

    /// A sentinel, called `sentinel<number>` here.
    pub fn sentinel(&self, number: usize) -> Service {
        self.service(format!("sentinel{number}"), "stolon-sentinel", self.common())
    }

    /// A proxy, called `proxy<number>` here, that listens on a port of 127.0.0.1.
    pub fn proxy(&self, number: usize, port: u16) -> Service {
        let mut arguments = self.common();
        push(&mut arguments, "--listen-address", "127.0.0.1");
        push(&mut arguments, "--port", port.to_string());
        self.service(format!("proxy{number}"), "stolon-proxy", arguments)
    }

    /// `stolonctl` for this cluster, with the store's flags but no subcommand yet.
    pub fn stolonctl(&self) -> Command {
        let mut command = self.account.expendable_command(self.programs.join("stolonctl"));
        command.args(self.common()).current_dir(&self.directory);
        without_our_settings(&mut command);
        command
    }

    /// A database server of this cluster by its port, as superuser.
    pub fn target(&self, port: u16) -> Target {
        Target {
            port,
            user: self.credentials.superuser.clone(),
            password: self.credentials.superuser_password.clone(),
            database: "postgres".to_owned(),
        }
    }

    /// Where the logs of all services are.
    pub fn logs(&self) -> PathBuf {
        self.directory.join(LOGS)
    }

    /// Where the log of a service is.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Where keepers read the passwords of the superuser and of the replication user.
    pub fn password_files(&self) -> [PathBuf; 2] {
        [self.superuser_password_file(), self.replication_password_file()]
    }

    fn superuser_password_file(&self) -> PathBuf {
        self.directory.join("superuser-password")
    }

    fn replication_password_file(&self) -> PathBuf {
        self.directory.join("replication-password")
    }

    fn common(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        push(&mut arguments, "--cluster-name", &self.cluster_name);
        push(&mut arguments, "--store-backend", &self.store_backend);
        push(&mut arguments, "--store-endpoints", &self.store_endpoints);
        if let Some(kubeconfig) = &self.kubeconfig {
            push(&mut arguments, "--kube-resource-kind", "configmap");
            push(&mut arguments, "--kubeconfig", kubeconfig);
        }
        arguments
    }

    fn service(&self, name: String, program: &str, arguments: Vec<OsString>) -> Service {
        Service {
            log: self.log(&name),
            pod: self.kubeconfig.as_ref().map(|_| name.clone()),
            name,
            program: self.programs.join(program),
            arguments,
            directory: self.directory.clone(),
            account: self.account.clone(),
        }
    }
}

fn push(arguments: &mut Vec<OsString>, flag: &str, value: impl AsRef<std::ffi::OsStr>) {
    arguments.push(flag.into());
    arguments.push(value.as_ref().into());
}

/// Environment variables that would silently change what the programs do.
fn without_our_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["STKEEPER_", "STSENTINEL_", "STPROXY_", "STOLONCTL_", "PG"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(&*name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_seen_whichever_keeper_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let secret = String::new;
        let layout = Layout {
            directory: directory.path().to_path_buf(),
            cluster_name: "test".to_owned(),
            store_backend: "sqlite".to_owned(),
            store_endpoints: String::new(),
            kubeconfig: None,
            programs: PathBuf::new(),
            pg_bin: PathBuf::new(),
            account: Account::Own,
            credentials: Credentials {
                superuser: secret(),
                superuser_password: secret(),
                replication_user: secret(),
                replication_password: secret(),
            },
        };
        assert_eq!(layout.first_database(), None);
        std::fs::create_dir_all(layout.keeper_directory(1)).unwrap();
        let data = layout.keeper_directory(2).join("postgres");
        std::fs::create_dir_all(&data).unwrap();
        assert_eq!(layout.first_database(), None, "a directory is no database");
        std::fs::write(data.join("PG_VERSION"), "15").unwrap();
        assert_eq!(layout.first_database(), Some(data));
    }
}
