//! `stolonctl migrate start --method logical`: the cluster begins to take what the legacy server holds and writes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use stolon_model::{
    ByteCount, ClusterData, ClusterDocument, Migration, MigrationMethod, MigrationStage, Timestamp,
};
use stolon_postgres::conninfo::Conninfo;
use stolon_postgres::foreign::ForeignSession;
use stolon_postgres::quote::{sql_identifier, sql_literal};
use stolon_runtime::{Failure, UsageError, new_uid8};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::facts::Facts;
use super::super::fence::{self, Side};
use super::super::flow::{Begin, Database, Flow, column, databases, each_gently};
use super::super::front::{FrontArgs, Purpose};
use super::super::head::Head;
use super::super::legacy::{Legacy, parse, trouble};
use super::super::wait::{Seen, until};
use super::super::worker::Worker;
use super::super::{Outcome, closing, record};
use super::programs::Programs;
use super::progress::{self, Depth, Progress};
use super::schema::Schema;
use super::{fit, inflow, publishing};
use crate::output;
use crate::stored_cluster::{Edit, StoredCluster};

/// How long the cluster may take to be closed for clients.
const CLOSING: Duration = Duration::from_secs(60);
/// Between two looks at the copy.
const POLL: Duration = Duration::from_millis(500);

/// Flags of `migrate start` that only this method has.
#[derive(Debug, clap::Args)]
pub struct LogicalArgs {
    /// Logical method: how the cluster's PostgreSQL is entered, as a superuser and without a password; its host names the line of the
    /// passfile, for the primary is found by the cluster data. Without it as the legacy server
    #[arg(long, value_name = "CONNINFO")]
    pub target: Option<String>,

    /// Logical method: directory of pg_dump and pg_restore, of the cluster's major version; without it those in PATH
    #[arg(long, value_name = "DIR")]
    pub pg_bin_path: Option<PathBuf>,
}

/// What is needed all the way.
pub struct Start<'a> {
    /// The cluster.
    pub cluster: &'a StoredCluster,
    /// The legacy server.
    pub legacy: &'a Legacy,
    /// What it says about itself.
    pub facts: &'a Facts,
    /// The flags.
    pub args: &'a LogicalArgs,
    /// Those about the proxies.
    pub front: &'a FrontArgs,
    /// `--keeper-source`.
    pub keeper_source: Option<&'a str>,
    /// Calls it off.
    pub stop: &'a CancellationToken,
    /// `--timeout`.
    pub patience: Duration,
}

impl Start<'_> {
    /// Begin, or go on with what was begun, until the cluster follows.
    ///
    /// # Errors
    /// The two do not fit, or the store or one of the servers does not answer.
    pub async fn run(&self, session: ForeignSession, recorded: Option<Migration>) -> anyhow::Result<Outcome> {
        let began = Instant::now();
        let migration = match recorded {
            Some(migration) => migration,
            None => self.begin(&session).await?,
        };
        drop(session);
        let keepers = match migration.keeper_source.as_str() {
            "" => None,
            text => Some(parse(text, "--keeper-source")?),
        };
        if migration.stage.is_none() {
            self.make(&migration, keepers.as_ref()).await?;
        }
        if !self.until(&migration, Progress::has_all_rows).await?.unfinished.is_empty() {
            self.finish(&migration).await?;
        }
        let copied = self.until(&migration, Progress::is_copied).await?;
        let mut outcome = Outcome::new("stolonctl migrate switch", "stolonctl migrate abort");
        outcome.did(format!(
            "the cluster follows the legacy server: {} tables, {}",
            copied.total,
            ByteCount(copied.copied)
        ));
        outcome.figure("start_seconds", began.elapsed().as_secs_f64());
        Ok(outcome)
    }

    /// The record of a new migration, written once it is known that nothing is in the way.
    async fn begin(&self, session: &ForeignSession) -> anyhow::Result<Migration> {
        let target = match &self.args.target {
            Some(text) => parse(text, "--target")?.to_string(),
            None => self.legacy.conninfo.to_string(),
        };
        let keeper_source = self.keeper_source.map(|text| parse(text, "--keeper-source")).transpose()?;
        let migration = Migration {
            uid: new_uid8(),
            method: Some(MigrationMethod::Logical),
            source: self.legacy.conninfo.to_string(),
            target,
            keeper_source: keeper_source.as_ref().map(Conninfo::to_string).unwrap_or_default(),
            system_identifier: self.facts.system_identifier.clone(),
            timeline: self.facts.timeline,
            legacy_address: self.front.wanted(session.place(), Purpose::Migration)?,
            began: Timestamp::utc(jiff::Timestamp::now()),
            ..Migration::default()
        };
        let mut document = self.cluster.workable_document().await?.value;
        if let Some(cluster) = document.cluster.as_mut() {
            cluster.status.migration = Some(migration.clone());
        }
        let head = Head::of(&ClusterData::try_from(document)?)?;
        let place = session.place();
        let flow = inflow(self.legacy, &head, place, &migration.uid);
        let theirs = fit::check(self.legacy, session, self.facts, &flow).await?;
        Programs::find(self.args.pg_bin_path.as_deref(), theirs.major, self.stop).await?;
        let user = head.entered_as(self.legacy, place).0.get("user").unwrap_or_default();
        let hba = closing::lines(user);
        self.cluster.change("migrate start", |document| write(document, &migration, &hba)).await?;
        output::note("the cluster is closed for clients until the switch");
        Ok(migration)
    }

    /// Everything that is there before the first row is copied.
    async fn make(&self, migration: &Migration, keepers: Option<&Conninfo>) -> anyhow::Result<()> {
        let worker = Worker::claim(self.cluster, "migrate start", |document| {
            match record::to_change(document)?.stage {
                None => Ok(()),
                Some(_) => Err(Failure::new("another command has moved the migration on").into()),
            }
        })
        .await?;
        let session = worker.session(self.legacy).await?;
        let place = session.place().clone();
        let head = self.head().await?;
        let user = head.entered_as(self.legacy, &place).0.get("user").unwrap_or_default();
        let closed = Instant::now() + CLOSING;
        closing::until_closed(self.cluster, &closing::lines(user), closed).await?;
        let flow = inflow(self.legacy, &head, &place, &migration.uid);
        let cluster =
            flow.to.enter(None).await.map_err(|problem| trouble("the cluster cannot be asked", &problem))?;
        fence::end_sessions(&cluster, self.legacy, Side::Cluster, Instant::now(), closed).await?;
        let (schema, theirs) = self.schema(flow, &cluster).await?;
        schema.roles_and_databases(&self.own_roles(&cluster, &flow).await?).await?;
        output::note("roles and databases are made on the cluster");
        each_gently(&self.databases(&session).await?, async |database| {
            schema.first_half(database).await?;
            publishing::publish(&flow, self.legacy, database).await?;
            self.subscribe(&schema, database, keepers).await
        })
        .await?;
        worker
            .note(|migration| {
                migration.stage = Some(MigrationStage::Following);
                migration.cluster_timeline = theirs.timeline;
                migration.worker = None;
            })
            .await
    }

    /// What makes definitions on the cluster, which a session is with, and what that says about itself.
    async fn schema<'f>(
        &self,
        flow: Flow<'f>,
        cluster: &ForeignSession,
    ) -> anyhow::Result<(Schema<'f>, Facts)> {
        let theirs = Facts::ask_of(cluster, &flow.to.question(), "the cluster").await?;
        let programs = Programs::find(self.args.pg_bin_path.as_deref(), theirs.major, self.stop).await?;
        let (legacy_major, cluster_major) = (self.facts.major, theirs.major);
        Ok((Schema { flow, programs, legacy_major, cluster_major }, theirs))
    }

    /// The cluster's own roles, which keepers and we use, are left alone. Those that came before a death are complete, for they came in one
    /// transaction.
    async fn own_roles(&self, cluster: &ForeignSession, flow: &Flow<'_>) -> anyhow::Result<BTreeSet<String>> {
        const KNOWN: &str = "SELECT rolname FROM pg_roles WHERE rolname NOT LIKE 'pg\\_%' \
            AND (rolname = current_user OR rolreplication OR rolsuper)";
        let rows = cluster.rows(KNOWN, &flow.to.question()).await;
        Ok(column(&rows.map_err(|problem| trouble("the cluster cannot be asked", &problem))?)
            .into_iter()
            .collect())
    }

    async fn databases(&self, session: &ForeignSession) -> anyhow::Result<Vec<Database>> {
        let found = databases(session, &self.legacy.question()).await;
        Ok(found.map_err(|problem| trouble("the legacy server cannot be asked", &problem))?)
    }

    /// Have the cluster take rows, and remember beside that what they are defined by.
    async fn subscribe(
        &self,
        schema: &Schema<'_>,
        database: &Database,
        keepers: Option<&Conninfo>,
    ) -> anyhow::Result<()> {
        let cannot = |problem| trouble("the cluster cannot subscribe to the legacy server", &problem);
        let flow = &schema.flow;
        let from = flow.from.enter(Some(&database.name)).await.map_err(cannot)?;
        flow.subscribe(database, from.place(), Begin::Copying, keepers).await.map_err(cannot)?;
        let to = flow.to.enter(Some(&database.name)).await.map_err(cannot)?;
        if let Some(definitions) = schema.mark(&to, database).await? {
            let remark = sql_literal(&super::definitions::remark(&definitions));
            let sql = format!("COMMENT ON SUBSCRIPTION {} IS {remark}", sql_identifier(&flow.name()));
            to.rows(&sql, &flow.to.question()).await.map_err(cannot)?;
        }
        Ok(())
    }

    /// Until the copy is so far, with its progress on stderr.
    async fn until(
        &self,
        migration: &Migration,
        is_so_far: impl Fn(&Progress) -> bool,
    ) -> anyhow::Result<Progress> {
        let mut said = String::new();
        until(POLL, Instant::now() + self.patience, async || {
            if self.stop.is_cancelled() {
                return Err(still_copying("interrupted").into());
            }
            // What cannot be told now is asked again.
            if let Ok(progress) = self.progress(migration).await {
                if is_so_far(&progress) {
                    return Ok(Seen::Done(progress));
                }
                let line =
                    progress.problems.first().cloned().unwrap_or_else(|| progress::sentence(&progress));
                if line != said {
                    output::note(&line);
                    said = line;
                }
            }
            Ok(Seen::not_yet(still_copying("the time to wait is over")))
        })
        .await
    }

    async fn progress(&self, migration: &Migration) -> anyhow::Result<Progress> {
        let (head, place) = (self.head().await?, self.legacy.first_place());
        progress::read(&inflow(self.legacy, &head, &place, &migration.uid), Depth::Rows).await
    }

    async fn head(&self) -> anyhow::Result<Head> {
        Ok(Head::of(&ClusterData::try_from(self.cluster.workable_document().await?.value)?)?)
    }

    /// What was left out so that the copy is quick.
    async fn finish(&self, migration: &Migration) -> anyhow::Result<()> {
        output::note("every table is copied; indexes, foreign keys and triggers are made");
        let worker = Worker::claim(self.cluster, "migrate start", |document| {
            match record::to_change(document)?.stage {
                Some(MigrationStage::Following) => Ok(()),
                _ => Err(Failure::new("another command has moved the migration on").into()),
            }
        })
        .await?;
        let session = worker.session(self.legacy).await?;
        let (head, place) = (self.head().await?, session.place().clone());
        let flow = inflow(self.legacy, &head, &place, &migration.uid);
        let cluster =
            flow.to.enter(None).await.map_err(|problem| trouble("the cluster cannot be asked", &problem))?;
        let (schema, _) = self.schema(flow, &cluster).await?;
        let databases = self.databases(&session).await?;
        each_gently(&databases, async |database| schema.second_half(database).await).await?;
        worker.note(|migration| migration.worker = None).await
    }
}

fn still_copying(why: &str) -> Failure {
    Failure::new(format!("{why}: the copy goes on by itself"))
        .hint("stolonctl migrate start goes on with what comes after it; stolonctl migrate abort gives it up")
}

/// The record, and the cluster closed for clients, in one write.
fn write(document: &mut ClusterDocument, migration: &Migration, hba: &[String]) -> anyhow::Result<Edit> {
    let former = closing::admitted(document);
    let cluster = document.cluster.as_mut().ok_or_else(record::nothing_under_way)?;
    if cluster.status.migration.is_some() {
        return Err(UsageError::new("another migration into this cluster is under way, or was taken back")
            .hint("stolonctl migrate status shows how far it is; stolonctl init makes an empty cluster")
            .into());
    }
    cluster.status.migration = Some(Migration { former_pg_hba: former, ..migration.clone() });
    closing::admit(document, Some(hba.to_vec()));
    record::turn_clients_away(document);
    Ok(Edit::Write)
}
