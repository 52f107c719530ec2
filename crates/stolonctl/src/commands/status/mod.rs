//! `stolonctl status`

mod activity;
mod failover;
mod gather;
mod instances;
mod slots;
mod style;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use stolon_core::condition::{Condition, condition};
use stolon_model::Explained;
use stolon_runtime::{CommonArgs, Failure, Shutdown, UsageError, explained};

use crate::commands::clusterdata::broken;
use crate::output::{self, Format, lines};
use crate::pretty::to_tabbed_json;
use crate::stored_cluster::StoredCluster;

use gather::Status;
pub(super) use instances::rounded;
use style::Style;

/// Flags of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// text or json
    #[arg(long, short, default_value = "text")]
    format: String,

    /// Only judge, for scripts: exit status 0 well, 1 degraded, 2 no writes, 3 not known
    #[arg(long)]
    check: bool,

    /// Show it again every two seconds, until it is interrupted
    #[arg(long, conflicts_with = "check")]
    watch: bool,

    #[arg(hide = true)]
    ignored: Vec<String>,
}

impl Args {
    /// Whether it goes on until it is interrupted.
    pub fn is_watch(&self) -> bool {
        self.watch
    }

    fn format(&self) -> Result<Format, UsageError> {
        match self.format.as_str() {
            "" => Ok(Format::Text),
            word => Format::parse(word),
        }
    }
}

/// What goes to stdout when there is no answer, so that readers of JSON always get JSON.
#[derive(Serialize)]
struct NoAnswer {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// What `--check` answers.
#[derive(Serialize)]
struct Judgement {
    condition: String,
    findings: Vec<String>,
}

/// `--check`: it cannot be told how the cluster does.
const NOT_KNOWN: u8 = 3;

/// Show the cluster, or judge it.
///
/// # Errors
/// There are no cluster data, they cannot be worked with, or the store does not answer in time. Also cluster data that
/// break rules: they are shown all the same, with what is broken. `--check` answers all of these by its exit status.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let format = args.format()?;
    let cluster = StoredCluster::open(common)?;
    let answer = answer(&cluster).await;
    if args.check {
        return check(answer, format);
    }
    match answer {
        Ok(status) => {
            output::result(&shown(&status, format))?;
            match status.broken_rules {
                0 => Ok(ExitCode::SUCCESS),
                rules => Err(broken(rules).into()),
            }
        }
        Err(error) => {
            if format == Format::Json {
                let Explained { sentence, hint } = explained(&error);
                output::remark(&format!("{}\n", to_tabbed_json(&NoAnswer { error: sentence, hint })));
            }
            Err(error)
        }
    }
}

/// Show the cluster again and again.
///
/// # Errors
/// The command line is wrong, or the output cannot be written.
pub async fn watch(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let format = args.format()?;
    let cluster = StoredCluster::open(common)?;
    let picture = async || Ok(shown(&answer(&cluster).await?, format));
    crate::watch::watch(&shutdown.token(), picture).await?;
    Ok(ExitCode::SUCCESS)
}

fn shown(status: &Status, format: Format) -> String {
    match format {
        Format::Text => text::render(status, Style::of_stdout()),
        Format::Json => format!("{}\n", to_tabbed_json(status)),
    }
}

/// The judgement, with the exit status that scripts go by.
fn check(answer: anyhow::Result<Status>, format: Format) -> anyhow::Result<ExitCode> {
    let (judgement, code) = match answer {
        Ok(status) => {
            let condition = condition(&status.findings);
            let code = match condition {
                Condition::Well => 0,
                Condition::Degraded => 1,
                Condition::NoWrites => 2,
            };
            let findings = status.findings.iter().map(ToString::to_string).collect();
            (Judgement { condition: condition.to_string(), findings }, code)
        }
        Err(error) => {
            let Explained { sentence, hint } = explained(&error);
            let findings =
                std::iter::once(sentence).chain(hint.map(|hint| format!("hint: {hint}"))).collect();
            (Judgement { condition: "not known".to_owned(), findings }, NOT_KNOWN)
        }
    };
    output::result(&match format {
        Format::Text => format!("{}\n{}", judgement.condition, lines(&judgement.findings)),
        Format::Json => format!("{}\n", to_tabbed_json(&judgement)),
    })?;
    Ok(ExitCode::from(code))
}

async fn answer(cluster: &StoredCluster) -> anyhow::Result<Status> {
    /// The store client keeps to its timeout by itself; this is for the case that it does not.
    const GRACE: Duration = Duration::from_secs(1);
    match tokio::time::timeout(cluster.timeout + GRACE, gather::gather(cluster)).await {
        Ok(gathered) => Ok(gathered?),
        Err(_) => Err(Failure::new("cannot get cluster data: the store does not answer")
            .hint("is it running at --store-endpoints? --store-timeout sets how long to wait")
            .into()),
    }
}
