//! `stolonctl migrate check`: what stands in the way of a migration, and what it will take. Changes nothing.

mod finding;
mod inventory;
mod judge;
mod read;
mod session;

use std::process::ExitCode;

use serde::Serialize;
use stolon_runtime::{CommonArgs, Failure, Shutdown, explained};

use super::OutputArgs;
use super::legacy::SourceArgs;
use crate::output::{self, Format};
use crate::pretty::to_tabbed_json;
use crate::stored_cluster::{CANNOT_OPEN, StoredCluster};

use finding::{Finding, Level};
pub use inventory::Method;

/// Flags of `migrate check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// How the data are to come over; without it the one that the versions leave
    #[arg(long, value_enum)]
    method: Option<Method>,

    #[command(flatten)]
    output: OutputArgs,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    method: &'static str,
    /// The worst of the findings.
    level: Level,
    findings: &'a [Finding],
}

/// The legacy cannot be looked at, or the store does not answer.
const NOT_KNOWN: u8 = 3;
/// How many names of one finding people are shown.
const SHOWN: usize = 10;

/// Look at the legacy and at what the keepers report, and say what stands in the way. Exit status 0: nothing, 1: there are warnings,
/// 2: something blocks, 3: it cannot be told.
///
/// # Errors
/// The command line is wrong, or a signal came.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let format = args.output.format()?;
    let cluster = StoredCluster::open_or_make(common, CANNOT_OPEN)?;
    let stop = shutdown.token();
    let looked = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Failure::new("interrupted").hint("nothing was changed").into()),
        looked = look(&cluster, args, &stop) => looked,
    };
    let (method, mut findings) = match looked {
        Ok(looked) => looked,
        Err(error) if error.is::<stolon_runtime::UsageError>() => return Err(error),
        Err(error) => return not_known(&error, format),
    };
    // The worst first; within a level in the order of the judgement.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    output::result(&match format {
        Format::Text => text(method, &findings),
        Format::Json => {
            format!("{}\n", to_tabbed_json(&Answer { method: method.as_str(), level, findings: &findings }))
        }
    })?;
    Ok(ExitCode::from(match level {
        Level::Ok => 0,
        Level::Warning => 1,
        Level::Blocks => 2,
    }))
}

async fn look(
    cluster: &StoredCluster,
    args: &Args,
    stop: &tokio_util::sync::CancellationToken,
) -> anyhow::Result<(Method, Vec<Finding>)> {
    let record = cluster.document().await?.and_then(|found| found.value.cluster?.status.migration);
    let legacy = args.source.legacy(record.as_ref(), stop)?;
    let destination = read::destination(cluster).await?;
    let found = read::inventory(&legacy).await?;
    Ok(judge::findings(&found, &destination, args.method))
}

/// What goes to stdout when there is no answer, so that readers of JSON always get JSON.
#[derive(Serialize)]
struct NoAnswer {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

fn not_known(error: &anyhow::Error, format: Format) -> anyhow::Result<ExitCode> {
    let said = explained(error);
    output::result(&match format {
        Format::Text => {
            let hint = said.hint.map(|hint| format!("\n         hint: {hint}")).unwrap_or_default();
            format!("unknown  {}{hint}\n", said.sentence)
        }
        Format::Json => {
            format!("{}\n", to_tabbed_json(&NoAnswer { error: said.sentence, hint: said.hint }))
        }
    })?;
    Ok(ExitCode::from(NOT_KNOWN))
}

fn text(method: Method, findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        lines.push(format!(
            "{:<8} {}: {}",
            finding.level.as_str(),
            finding.subject.as_str(),
            finding.sentence
        ));
        lines.extend(finding.names.iter().take(SHOWN).map(|name| format!("           {name}")));
        if finding.names.len() > SHOWN {
            lines.push(format!(
                "           and {} more: --output json names them",
                finding.names.len() - SHOWN
            ));
        }
        lines.extend(finding.hint.iter().map(|hint| format!("         hint: {hint}")));
    }
    let number = |level| findings.iter().filter(|finding| finding.level == level).count();
    lines.push(match (number(Level::Blocks), number(Level::Warning)) {
        (0, 0) => {
            format!("Nothing stands in the way. Next: stolonctl migrate start --method {}", method.as_str())
        }
        (0, warnings) => format!(
            "Nothing blocks; {warnings} to think about. Next: stolonctl migrate start --method {}",
            method.as_str()
        ),
        (blocks, _) => format!("{blocks} in the way. Nothing was changed; mend it and check again"),
    });
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}
