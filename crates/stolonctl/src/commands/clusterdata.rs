//! `stolonctl clusterdata read`, `check` and `write`

use stolon_core::sentinel::{Older, newest, older_than, violations};
use stolon_model::{Advise as _, ClusterData, ClusterDocument, Document, Explained, Timestamp};
use stolon_runtime::{CommonArgs, Failure, UsageError};

use crate::commands::print_help;
use crate::commands::settle::Testimony;
use crate::input::{STANDARD_INPUT, Text};
use crate::output;
use crate::stored_cluster::{StoredCluster, checked, record};

/// Flags of `clusterdata`.
#[derive(Debug, clap::Args)]
#[command(disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print the cluster data
    Read(ReadArgs),
    /// List the rules that the cluster data break; exit status 1 if there are any
    Check(CheckArgs),
    /// Put a saved document in the place of the cluster data; its contents are not checked
    Write(WriteArgs),
    /// Anything else: the help
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, clap::Args)]
struct ReadArgs {
    /// Indent the document
    #[arg(long)]
    pretty: bool,

    #[arg(hide = true)]
    ignored: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    #[arg(hide = true)]
    ignored: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct WriteArgs {
    /// File with the cluster data, - for standard input
    #[arg(long, short, default_value = STANDARD_INPUT)]
    file: String,

    /// Overwrite what is there
    #[arg(long, short)]
    yes: bool,

    /// Write a document that is older than what is there, or than what keepers have served under, and give up what they hold
    /// beyond it
    #[arg(long)]
    allow_data_loss: bool,

    #[arg(hide = true)]
    ignored: Vec<String>,
}

/// Read, check or write.
///
/// # Errors
/// Those of the three.
pub async fn run(common: &CommonArgs, args: Args) -> anyhow::Result<()> {
    match args.command {
        Some(Command::Read(args)) => read(common, &args).await,
        Some(Command::Check(_)) => check(common).await,
        Some(Command::Write(args)) => write(common, &args).await,
        Some(Command::Other(words)) => {
            if let Some(word) = words.first().filter(|word| *word != "help") {
                output::note(&format!("unknown command {word:?} for \"stolonctl clusterdata\""));
            }
            print_help(Some("clusterdata"))
        }
        None => print_help(Some("clusterdata")),
    }
}

async fn read(common: &CommonArgs, args: &ReadArgs) -> anyhow::Result<()> {
    let cluster = StoredCluster::open(common)?;
    let document = cluster.document().await?.map(|found| found.value);
    checked(document.clone())?;
    // As it lies in the store: what is null there stays null.
    let document = document.unwrap_or_default();
    let json = if args.pretty { document.to_json_indented() } else { document.to_json() };
    Ok(output::result(&format!("{json}\n"))?)
}

/// One violation a line.
async fn check(common: &CommonArgs) -> anyhow::Result<()> {
    let data = StoredCluster::open(common)?.cluster_data().await?;
    let violations = violations(data.data());
    if violations.is_empty() {
        return Ok(output::result("the cluster data break no rule\n")?);
    }
    let lines: String = violations.iter().map(|violation| format!("{violation}\n")).collect();
    output::result(&lines)?;
    Err(broken(violations.len()).into())
}

/// Cluster data that break rules end a command with exit status 1.
pub(super) fn broken(rules: usize) -> Failure {
    Failure::new(format!("the cluster data break {rules} of the rules that sentinels keep"))
        .hint("the sentinels mend what they can; stolonctl clusterdata write puts a saved document back")
}

async fn write(common: &CommonArgs, args: &WriteArgs) -> anyhow::Result<()> {
    let cluster = StoredCluster::open_or_make(common, "failed to create new store cannot create kv store")?;
    let file = if args.file.is_empty() { STANDARD_INPUT } else { &args.file };
    let text = Text::read(file)?;
    let document = ClusterDocument::from_json(&text.text)
        .map_err(|error| UsageError::from(error.explain(&text.text).after("invalid cluster data")))?;
    let stored = cluster.document().await?.map(|found| found.value);
    let exists = stored.is_some();
    match (exists, args.yes) {
        (true, false) => {
            return Err(Failure::new("WARNING: cluster data already available use --yes to override")
                .hint("stolonctl clusterdata read saves what is there")
                .into());
        }
        (true, true) => output::remark("WARNING: The current cluster data will be removed\n"),
        (false, _) => {}
    }
    let document = match args.allow_data_loss {
        true => {
            let mut document = made_newest(&cluster, document).await?;
            record(&mut document, "clusterdata write --allow-data-loss", Vec::new());
            document
        }
        // Byte for byte what the operator saved.
        false => {
            refuse_older(&cluster, &document, stored).await?;
            document
        }
    };
    cluster.store.put_cluster_document(&document).await.map_err(|error| {
        let Explained { sentence, hint } = error.explained();
        Failure { message: format!("failed to write cluster data into new store {sentence}"), hint }
    })?;
    output::remark("successfully wrote cluster data into the new store\n");
    Ok(())
}

/// A document that is older than what is there, or than what a keeper has served under, would lose data. Documents that cannot be
/// worked with are not compared.
async fn refuse_older(
    cluster: &StoredCluster,
    document: &ClusterDocument,
    stored: Option<ClusterDocument>,
) -> anyhow::Result<()> {
    let Ok(data) = ClusterData::try_from(document.clone()) else { return Ok(()) };
    let stored = stored.and_then(|stored| ClusterData::try_from(stored).ok());
    let testimony = Testimony::gather(cluster).await?;
    let older = stored.and_then(|stored| older_than(&data, &stored)).map(|older| match older {
        Older::Epoch { own, other } => format!("its epoch is {own}, that of the stored one {other}"),
        Older::Generation { keeper, own, other } => {
            format!("the db of keeper {keeper} is at generation {own} in it, at {other} in the stored one")
        }
        Older::Proxy { own, other } => {
            format!("its proxy section is at generation {own}, that of the stored one at {other}")
        }
    });
    let ahead = testimony.witnesses().ahead(&data);
    let served = ahead.first().map(|ahead| format!("keeper {} has served under a newer one", ahead.keeper));
    let saw = testimony.witnesses().saw_newer(&data);
    let seen = saw.first().map(|saw| format!("sentinel {} has seen a newer one", saw.sentinel));
    match older.or(served).or(seen) {
        None => Ok(()),
        Some(why) => Err(Failure::new(format!("the document is older than what is there: {why}"))
            .hint("nothing was written; --allow-data-loss writes it, and keepers then give up what they hold beyond it")
            .into()),
    }
}

/// The document as the newest one: nobody holds against it what was served before.
async fn made_newest(cluster: &StoredCluster, document: ClusterDocument) -> anyhow::Result<ClusterDocument> {
    let Ok(data) = ClusterData::try_from(document.clone()) else { return Ok(document) };
    let testimony = Testimony::gather(cluster).await?;
    let stored = cluster.document().await?.and_then(|found| ClusterData::try_from(found.value).ok());
    let now = Timestamp::utc(jiff::Timestamp::now());
    Ok(newest(&data, stored.as_ref(), &testimony.witnesses(), now).into())
}
