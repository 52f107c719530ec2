//! A PostgreSQL beside a cluster that no keeper manages: what the cluster is restored from, migrated from, or follows.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};
use stolon_local::{Credentials, Process, Server};

use crate::cluster::{Cluster, PATIENCE, QUERY, backends};
use crate::majors::reachable_programs_of_major;

/// A server of the cluster's PostgreSQL, with the cluster's users. Its files lie below those of the cluster, and it ends with it.
pub struct Foreign {
    /// Files, port, superuser.
    pub server: Server,
    /// Where the restore command finds the password of the cluster's superuser.
    pub password_file: PathBuf,
    who: Credentials,
    process: Option<Process>,
}

impl Foreign {
    /// `initdb` with these lines in `postgresql.conf`; not started yet. `name` is that of the directory.
    ///
    /// # Errors
    /// `initdb` fails, or the machine refuses something.
    pub async fn create(cluster: &mut Cluster, name: &str, settings: &str) -> anyhow::Result<Foreign> {
        let programs = cluster.layout.pg_bin.clone();
        Foreign::of_programs(cluster, programs, name, settings).await
    }

    /// [`Foreign::create`] of another major of PostgreSQL than the cluster's.
    ///
    /// # Errors
    /// The same; or that major is not there.
    pub async fn of_major(
        cluster: &mut Cluster,
        major: u16,
        name: &str,
        settings: &str,
    ) -> anyhow::Result<Foreign> {
        let layout = &cluster.layout;
        let programs = reachable_programs_of_major(major, &layout.account, &layout.directory).await?;
        Foreign::of_programs(cluster, programs, name, settings).await
    }

    async fn of_programs(
        cluster: &mut Cluster,
        pg_bin: PathBuf,
        name: &str,
        settings: &str,
    ) -> anyhow::Result<Foreign> {
        let layout = &cluster.layout;
        let directory = layout.directory.join(name);
        let server = Server {
            pg_bin,
            account: layout.account.clone(),
            port: cluster.ports.take()?,
            password: "foreign".to_owned(),
            directory: directory.clone(),
        };
        server.create(settings).await?;
        let foreign = Foreign {
            server,
            password_file: directory.join("pgpass"),
            who: cluster.layout.credentials.clone(),
            process: None,
        };
        foreign.write_password(&foreign.who.superuser_password)?;
        Ok(foreign)
    }

    /// Start it for the first time, and make the users that a cluster of its data needs.
    ///
    /// # Errors
    /// It does not start, or does not take the users.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.start_again().await?;
        let who = &self.who;
        self.create_user("superuser replication", &who.superuser, &who.superuser_password).await?;
        self.create_user("replication", &who.replication_user, &who.replication_password).await
    }

    /// A user that may log in. By SQL: not every packaged PostgreSQL has `createuser`.
    ///
    /// # Errors
    /// It does not answer, or there is such a user.
    pub async fn create_user(&self, rights: &str, name: &str, password: &str) -> anyhow::Result<()> {
        let password = password.replace('\'', "''");
        self.run(&format!("create role \"{name}\" login {rights} password '{password}'")).await
    }

    /// Start it after [`Foreign::stop`].
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = Some(self.server.start().await?);
        Ok(())
    }

    /// The name of the cluster's superuser, which it has too.
    pub fn superuser(&self) -> &str {
        &self.who.superuser
    }

    /// Its processes whose title holds a word, for example `logical replication worker`.
    ///
    /// # Errors
    /// It does not run.
    pub fn backends(&self, title: &str) -> anyhow::Result<Vec<Pid>> {
        backends(&self.server.data(), title)
    }

    /// SIGKILL to its postmaster; what it had started ends by itself.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().context("the foreign server does not run")?;
        process.signal(Signal::KILL);
        process.exited().await;
        Ok(())
    }

    /// Fast shutdown.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let process = self.process.take().context("the foreign server does not run")?;
        process.signal(Signal::INT);
        let ended = tokio::time::timeout(PATIENCE, process.exited()).await;
        ensure!(ended.is_ok_and(|status| status.success()), "the foreign server does not stop in good order");
        Ok(())
    }

    /// Put a password into the file that the restore command reads.
    ///
    /// # Errors
    /// The machine refuses it.
    pub fn write_password(&self, password: &str) -> anyhow::Result<()> {
        let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
        self.server.account.write_private(&self.password_file, &format!("*:*:*:*:{escaped}\n"))
    }

    /// The restore command of the documentation, with the password in a file.
    pub fn restore_command(&self) -> String {
        format!(
            "PGPASSFILE={} {} -D %d -P -h 127.0.0.1 -p {} -U {} -X stream --checkpoint=fast",
            self.password_file.display(),
            self.server.pg_bin.join("pg_basebackup").display(),
            self.server.port,
            self.who.superuser,
        )
    }

    /// Run statements as its superuser.
    ///
    /// # Errors
    /// It does not answer, or refuses them.
    pub async fn run(&self, sql: &str) -> anyhow::Result<()> {
        self.server.target().connect(QUERY).await?.rows(sql, QUERY).await.map(drop)
    }
}
