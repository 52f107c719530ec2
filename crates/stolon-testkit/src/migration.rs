//! A database that moves into a cluster by `stolonctl migrate`, while an application writes that knows both addresses.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use stolon_local::Target;
use stolon_local::writes::{Writes, Writing};

use crate::cluster::{Cluster, short_timings};
use crate::foreign::Foreign;

impl Foreign {
    /// How `stolonctl migrate` and the keepers connect to it.
    pub fn source(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user={} passfile={}",
            self.server.port,
            self.superuser(),
            self.password_file.display()
        )
    }

    /// So many clients that write rows from now on, to this server or to one of the others, whichever takes them. No key keeps a row out that
    /// comes twice. Call inside a tokio runtime.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn application(&self, others: &[Target], clients: usize) -> anyhow::Result<Writing> {
        self.run("create table if not exists acknowledged_writes (id bigint not null)").await?;
        let mut doors = vec![self.server.target()];
        doors.extend_from_slice(others);
        let pause = Duration::from_millis(2);
        Writes { doors, clients, pause, limit: Duration::from_secs(5) }.start().await
    }
}

impl Cluster {
    /// A step of `stolonctl migrate`, which must succeed within `limit`; returns its answer.
    ///
    /// # Errors
    /// The step fails, or takes too long.
    pub async fn migrate(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<Value> {
        let mut all = vec!["migrate"];
        all.extend(arguments);
        all.extend(["--output", "json"]);
        let said = self.stolonctl_ok_within(&all, limit).await?;
        // A question before it, and warnings, come first.
        let begins = said.find('{').context("no JSON")?;
        Ok(serde_json::from_str(&said[begins..])?)
    }

    /// Start a migration with short timings, and wait until the cluster follows.
    ///
    /// # Errors
    /// The step fails, or takes too long.
    pub async fn migrate_start(
        &self,
        legacy: &Foreign,
        more: &[&str],
        limit: Duration,
    ) -> anyhow::Result<Value> {
        let mut spec = short_timings();
        spec.as_object_mut().context("no object")?.remove("initMode");
        let (spec, source) = (spec.to_string(), legacy.source());
        let program = self.layout.pg_bin.join("pg_basebackup").display().to_string();
        let mut arguments = vec!["start", "--yes", "--source", &source];
        if !more.contains(&"--restore-command") {
            arguments.extend(["--pg-basebackup", &program]);
        }
        arguments.extend(more);
        arguments.push(&spec);
        self.migrate(&arguments, limit).await
    }
}
