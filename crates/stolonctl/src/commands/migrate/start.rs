//! `stolonctl migrate start`: the cluster begins to copy the legacy server.

use std::io::IsTerminal;
use std::time::Duration;

use stolon_model::{
    ArchiveRecoverySettings, ByteCount, ClusterData, ClusterDocument, ClusterSpec, ClusterUid, Document,
    InitMode, Migration, MigrationMethod, MigrationStage, PitrConfig, Role, StandbyConfig, StandbySettings,
    Timestamp,
};
use stolon_postgres::conninfo::{Conninfo, Place};
use stolon_postgres::foreign::{ForeignSession, NO_LIBRARIES};
use stolon_postgres::quote::sql_literal;
use stolon_runtime::{CommonArgs, Failure, Shutdown, UsageError, go_duration, new_uid8};
use stolon_store::{Expected, StoreError};
use tokio::time::Instant;

use super::check::Method;
use super::facts::{Facts, Slot};
use super::front::{self, FrontArgs, Purpose};
use super::legacy::{Legacy, SourceArgs, parse, trouble};
use super::status::{self, Picture, Steps};
use super::{Outcome, OutputArgs, logical, record};
use crate::confirm::{self, Answer};
use crate::input::Text;
use crate::output;
use crate::stored_cluster::{CANNOT_OPEN, Edit, StoredCluster, record as enter};

/// Between two looks at the copy.
const POLL: Duration = Duration::from_millis(500);
/// How often the cluster is written anew after somebody else wrote.
const ATTEMPTS: u32 = 10;

/// Flags of `migrate start`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// The same as the keepers use it, where their passfile lies elsewhere or they use another user
    #[arg(long, value_name = "CONNINFO")]
    keeper_source: Option<String>,

    /// The program that makes the copy, on the keepers' hosts; of the legacy server's major version
    #[arg(long, default_value = "pg_basebackup", value_name = "PROGRAM")]
    pg_basebackup: String,

    /// Instead of a copy of the running server: what restores a backup of it on the keepers' hosts. %d is the directory to fill
    #[arg(long, value_name = "COMMAND", conflicts_with = "pg_basebackup")]
    restore_command: Option<String>,

    /// What fetches archived WAL that the legacy server does not have any more: %f is the file, %p where it goes
    #[arg(long, value_name = "COMMAND")]
    fetch_wal: Option<String>,
    /// How the data come over: physical, a copy of the same major version into a cluster that is made anew; logical, rows into an
    /// empty cluster of the same or a newer one that exists
    #[arg(long, value_enum)]
    method: Option<Method>,

    #[command(flatten)]
    logical: logical::start::LogicalArgs,

    #[command(flatten)]
    front: FrontArgs,

    /// Into a cluster beside: nothing is made on the legacy server, and it stays open when the cluster is promoted
    #[arg(long)]
    rehearsal: bool,

    /// How long to wait for the copy; it goes on by itself afterwards
    #[arg(long, default_value = "24h", value_name = "SPAN", value_parser = go_duration)]
    timeout: Duration,

    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,

    /// File with what else the cluster specification says, - for standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<String>,

    #[command(flatten)]
    output: OutputArgs,

    /// What else the cluster specification says, as JSON: all but how the cluster begins
    #[arg(value_name = "SPEC")]
    spec: Option<String>,
}

/// Begin a migration, or go on with one that was begun, and wait for the copy.
///
/// # Errors
/// The specification is wrong, the operator gave no answer, or the store or the legacy server does not answer.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    let format = args.output.format()?;
    let stop = shutdown.token();
    let cluster = StoredCluster::open_or_make(common, CANNOT_OPEN)?;
    let found = cluster.document().await?.map(|found| found.value);
    // A cluster that was moved away from again is made anew.
    let recorded = found.as_ref().and_then(record::of).filter(|it| !is_over(it)).cloned();
    let legacy = args.source.legacy(recorded.as_ref(), &stop)?;
    let session = legacy.connect(None).await;
    let session = session.map_err(|problem| trouble("the legacy server cannot be used", &problem))?;
    let facts = Facts::ask(&session, &legacy).await?;
    let began = Instant::now();
    let mut recorded = recorded.map(|migration| continued(migration, &facts)).transpose()?;
    if let Some(migration) = &mut recorded {
        migration.legacy_address = args.front.renewed(migration, &legacy.conninfo, session.place())?;
        front::renew(&cluster, &migration.uid, migration.legacy_address.as_ref()).await?;
    }
    if is_logical(args, recorded.as_ref())? {
        if recorded.is_none() && !args.yes && !agreed_to_close().await? {
            return Ok(());
        }
        let start = logical::start::Start {
            cluster: &cluster,
            legacy: &legacy,
            facts: &facts,
            args: &args.logical,
            front: &args.front,
            keeper_source: args.keeper_source.as_deref(),
            stop: &stop,
            patience: args.timeout,
        };
        return start.run(session, recorded).await?.show(format);
    }
    let migration = match recorded {
        Some(migration) => migration,
        None => {
            let wanted = wanted(args, &legacy.conninfo, session.place(), &facts)?;
            let spec = spec(args, &wanted)?;
            if !args.yes && !agreed(found.is_some()).await? {
                return Ok(());
            }
            initialise(&cluster, &wanted, &spec).await?;
            output::note("the cluster is initialised as a standby cluster of the legacy server");
            wanted
        }
    };
    make_slot(&session, &legacy, &migration.slot).await?;
    drop(session);
    follows(&cluster, &migration.uid).await?;
    let waited = tokio::select! {
        biased;
        () = stop.cancelled() => Err(still_copying("interrupted").into()),
        waited = wait(&cluster, &args.source, &stop, args.timeout) => waited,
    };
    let picture = waited?;
    let mut outcome = Outcome::new("stolonctl migrate switch", "stolonctl migrate abort");
    outcome.did(format!(
        "the cluster follows the legacy server, {} behind",
        ByteCount(picture.lag_bytes.unwrap_or(0))
    ));
    outcome.figure("start_seconds", began.elapsed().as_secs_f64());
    outcome.show(format)
}

fn is_over(migration: &Migration) -> bool {
    migration.stage == Some(MigrationStage::RolledBack)
}

/// Which method is meant. One that was begun before keeps its own.
fn is_logical(args: &Args, recorded: Option<&Migration>) -> Result<bool, UsageError> {
    let asked = args.method.map(|method| method == Method::Logical);
    let begun = recorded.map(Migration::is_logical);
    if let (Some(asked), Some(begun)) = (asked, begun)
        && asked != begun
    {
        return Err(UsageError::new("this migration was begun by the other method")
            .hint("leave out --method, or give the migration up: stolonctl migrate abort"));
    }
    let is_logical = begun.or(asked).unwrap_or(false);
    if is_logical && (args.rehearsal || args.spec.is_some() || args.file.is_some()) {
        return Err(UsageError::new(
            "the logical method fills a cluster that exists, and makes things on the legacy server",
        )
        .hint("leave out --rehearsal and the specification"));
    }
    Ok(is_logical)
}

/// A migration that was begun before.
fn continued(migration: Migration, facts: &Facts) -> anyhow::Result<Migration> {
    if migration.system_identifier != facts.system_identifier {
        return Err(Failure::new("a migration of another legacy server into this cluster is under way")
            .hint("stolonctl migrate abort gives it up; --cluster-name says which cluster is meant")
            .into());
    }
    match migration.stage {
        None | Some(MigrationStage::Following) => {
            output::note("this migration was begun before: going on with it");
            Ok(migration)
        }
        Some(_) => Err(Failure::new("this migration is past its start")
            .hint("stolonctl migrate status shows what is next")
            .into()),
    }
}

/// The record of a new migration.
fn wanted(args: &Args, source: &Conninfo, place: &Place, facts: &Facts) -> anyhow::Result<Migration> {
    let purpose = if args.rehearsal { Purpose::Rehearsal } else { Purpose::Migration };
    let legacy_address = args.front.wanted(place, purpose)?;
    if !facts.is_superuser && !args.rehearsal {
        return Err(Failure::new(
            "the user on the legacy server is no superuser, and could not close it at the switch",
        )
        .hint("name a superuser in --source; --rehearsal needs none")
        .into());
    }
    if facts.wal_level == "minimal" {
        return Err(Failure::new("wal_level of the legacy server is minimal: it sends no WAL")
            .hint("set wal_level = replica there, which needs a restart")
            .into());
    }
    let keeper_source = match &args.keeper_source {
        Some(text) => parse(text, "--keeper-source")?,
        None => source.clone(),
    };
    let keeper_source = past_fence(keeper_source, source, facts);
    let uid = new_uid8();
    Ok(Migration {
        slot: if args.rehearsal { String::new() } else { format!("migration_{uid}") },
        uid,
        method: Some(MigrationMethod::Physical),
        rehearsal: args.rehearsal,
        source: source.to_string(),
        keeper_source: keeper_source.to_string(),
        system_identifier: facts.system_identifier.clone(),
        timeline: facts.timeline,
        legacy_address,
        began: Timestamp::utc(jiff::Timestamp::now()),
        ..Migration::default()
    })
}

/// Before version 15 a WAL sender loads the libraries of sessions too, so a stream that breaks while the server is closed would not come
/// back. A superuser may leave them out.
fn past_fence(keeper_source: Conninfo, source: &Conninfo, facts: &Facts) -> Conninfo {
    let same_user = keeper_source.get("user") == source.get("user");
    if facts.major >= 15 || !facts.is_superuser || !same_user {
        return keeper_source;
    }
    let given = keeper_source.get("options").map(|options| format!("{options} ")).unwrap_or_default();
    keeper_source.with("options", &format!("{given}{NO_LIBRARIES}"))
}

/// What the operator says of the cluster, and how it begins.
fn spec(args: &Args, migration: &Migration) -> anyhow::Result<ClusterSpec> {
    let text = match (&args.spec, &args.file) {
        (Some(_), Some(_)) => {
            return Err(
                UsageError::new("--file and a specification on the command line exclude each other").into()
            );
        }
        (Some(text), None) => Text::argument(text),
        (None, Some(file)) => Text::read(file)?,
        (None, None) => Text::argument("{}"),
    };
    let wrong = |error: stolon_model::DecodeError| {
        UsageError::from(error.explain(&text.text).after("failed to unmarshal cluster spec"))
    };
    let given = ClusterSpec::from_json(&text.text).map_err(wrong)?;
    let begins = given.init_mode.is_some() || given.role.is_some();
    if begins || given.pitr_config.is_some() || given.standby_config.is_some() {
        return Err(UsageError::new("how the cluster begins is for the migration to say")
            .hint("leave out initMode, role, pitrConfig and standbyConfig")
            .into());
    }
    let mut pg_parameters = given.pg_parameters.clone().unwrap_or_default();
    // For the way back.
    pg_parameters.entry("wal_level".to_owned()).or_insert_with(|| "logical".to_owned());
    let archive = args.fetch_wal.clone().map(|restore_command| ArchiveRecoverySettings { restore_command });
    let data_restore_command = match &args.restore_command {
        Some(command) => command.clone(),
        None => copy_command(&args.pg_basebackup, migration),
    };
    let spec = ClusterSpec {
        pg_parameters: Some(pg_parameters),
        init_mode: Some(InitMode::PointInTimeRecovery),
        role: Some(Role::Standby),
        pitr_config: Some(PitrConfig {
            data_restore_command,
            archive_recovery_settings: archive.clone(),
            ..PitrConfig::default()
        }),
        standby_config: Some(StandbyConfig {
            standby_settings: Some(StandbySettings {
                primary_conninfo: migration.keeper_source.clone(),
                primary_slot_name: migration.slot.clone(),
                ..StandbySettings::default()
            }),
            archive_recovery_settings: archive,
        }),
        ..given
    };
    spec.validate().map_err(|invalid| UsageError::because("invalid cluster spec", &invalid))?;
    Ok(spec)
}

/// `dataRestoreCommand`: a base backup of the legacy server, with its progress.
fn copy_command(program: &str, migration: &Migration) -> String {
    // For the shell, and then for `%d`.
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%"));
    let slot = match migration.slot.as_str() {
        "" => String::new(),
        slot => format!(" -S {slot}"),
    };
    format!("{} -D %d -d {} -P -X stream{slot} -c fast", quoted(program), quoted(&migration.keeper_source))
}

async fn agreed_to_close() -> Result<bool, Failure> {
    output::remark("WARNING: The cluster admits no client until the migration is switched.\n");
    Ok(confirm::ask().await? == Answer::Yes)
}

async fn agreed(replaces: bool) -> Result<bool, Failure> {
    if replaces {
        output::remark("WARNING: The current cluster data will be removed\n");
    }
    output::remark(
        "WARNING: The databases managed by the keepers will be overwritten by those of the legacy server.\n",
    );
    Ok(confirm::ask().await? == Answer::Yes)
}

/// Write the new cluster with its record. One migration that was begun meanwhile is left alone.
async fn initialise(
    cluster: &StoredCluster,
    migration: &Migration,
    spec: &ClusterSpec,
) -> anyhow::Result<()> {
    let now = Timestamp::utc(jiff::Timestamp::now());
    let mut data = ClusterData::initial(ClusterUid::from(new_uid8()), spec.clone(), now);
    data.cluster.overwrite_data = true;
    data.cluster.status.migration = Some(migration.clone());
    let mut fresh = ClusterDocument::from(data);
    enter(&mut fresh, "migrate start", Vec::new());
    for _ in 0..ATTEMPTS {
        let found = cluster.document().await?;
        if found.as_ref().and_then(|found| record::of(&found.value)).is_some_and(|it| !is_over(it)) {
            return Err(Failure::new("another migrate start was quicker")
                .hint("stolonctl migrate status shows how far it is")
                .into());
        }
        let mut document = fresh.clone();
        if let Some(found) = &found {
            front::keep_clients(&found.value, &mut document);
        }
        let expected = found.map_or(Expected::Absent, |found| Expected::Revision(found.revision));
        match cluster.store.compare_and_put_cluster_document(&document, expected).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(Failure::because("cannot update cluster data", &error).into()),
        }
    }
    Err(Failure::new("others keep writing the cluster data").hint("nothing was changed, try again").into())
}

/// The slot keeps what the copy does not have yet.
async fn make_slot(session: &ForeignSession, legacy: &Legacy, slot: &str) -> anyhow::Result<()> {
    let cannot = |problem| trouble("the replication slot on the legacy server cannot be made", &problem);
    if slot.is_empty() || Slot::look(session, legacy, slot).await.map_err(cannot)? != Slot::Absent {
        return Ok(());
    }
    let sql = format!("SELECT pg_create_physical_replication_slot({}, true)", sql_literal(slot));
    session.rows(&sql, &legacy.question()).await.map_err(cannot)?;
    output::note(&format!("replication slot {slot} is made on the legacy server"));
    Ok(())
}

/// Write down that everything is in place.
async fn follows(cluster: &StoredCluster, uid: &str) -> anyhow::Result<()> {
    cluster
        .amend(|document| {
            let migration = record::to_change(document)?;
            if migration.uid != uid || migration.stage.is_some() {
                return Ok(Edit::Unneeded);
            }
            migration.stage = Some(MigrationStage::Following);
            Ok(Edit::Write)
        })
        .await
}

fn still_copying(why: &str) -> Failure {
    Failure::new(format!("{why}: the copy goes on by itself"))
        .hint("stolonctl migrate status --watch shows how far it is; stolonctl migrate abort gives it up")
}

/// Until the cluster follows, with its progress on stderr.
async fn wait(
    cluster: &StoredCluster,
    source: &SourceArgs,
    stop: &tokio_util::sync::CancellationToken,
    patience: Duration,
) -> anyhow::Result<Picture> {
    let deadline = Instant::now() + patience;
    let mut said = String::new();
    loop {
        // What cannot be told now is asked again.
        if let Ok(picture) = status::look(cluster, source, stop).await {
            if picture.follows() {
                return Ok(picture);
            }
            let steps = if std::io::stderr().is_terminal() { Steps::Small } else { Steps::Large };
            let line = picture.progress(steps);
            if !line.is_empty() && line != said {
                output::note(&line);
                said = line;
            }
        }
        if Instant::now() >= deadline {
            return Err(still_copying("the time to wait is over").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_made_through_the_slot_and_survives_the_shell() {
        let migration = Migration {
            keeper_source: "host=a passfile=/it's/100%".to_owned(),
            slot: "stolon_migration_1".to_owned(),
            ..Migration::default()
        };
        assert_eq!(
            copy_command("/usr/bin/pg_basebackup", &migration),
            r"'/usr/bin/pg_basebackup' -D %d -d 'host=a passfile=/it'\''s/100%%' -P -X stream -S stolon_migration_1 -c fast"
        );
        let rehearsal = Migration { keeper_source: "host=a".to_owned(), ..Migration::default() };
        assert_eq!(
            copy_command("pg_basebackup", &rehearsal),
            "'pg_basebackup' -D %d -d 'host=a' -P -X stream -c fast"
        );
    }
}
