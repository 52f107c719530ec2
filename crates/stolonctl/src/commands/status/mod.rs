//! `stolonctl status`

mod activity;
mod gather;
mod text;

use std::time::Duration;

use serde::Serialize;
use stolon_model::Explained;
use stolon_runtime::{CommonArgs, Failure, UsageError, explained};

use crate::commands::clusterdata::broken;
use crate::output;
use crate::pretty::to_tabbed_json;
use crate::stored_cluster::StoredCluster;

use gather::Status;

/// Flags of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// text or json
    #[arg(long, short, default_value = "text")]
    format: String,

    #[arg(hide = true)]
    ignored: Vec<String>,
}

/// How the answer is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// What goes to stdout when there is no answer, so that readers of JSON always get JSON.
#[derive(Serialize)]
struct NoAnswer {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// Show the cluster.
///
/// # Errors
/// There are no cluster data, they cannot be worked with, or the store does not answer in time. Also cluster data that
/// break rules: they are shown all the same, with what is broken.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    let format = match args.format.as_str() {
        "" | "text" => Format::Text,
        "json" => Format::Json,
        other => {
            return Err(UsageError::new(format!("unrecognised output format {other}"))
                .hint("the formats are text and json")
                .into());
        }
    };
    match (answer(common).await, format) {
        (Ok(status), _) => {
            output::result(&match format {
                Format::Text => text::render(&status),
                Format::Json => format!("{}\n", to_tabbed_json(&status)),
            })?;
            match status.broken_rules {
                0 => Ok(()),
                rules => Err(broken(rules).into()),
            }
        }
        (Err(error), Format::Text) => Err(error),
        (Err(error), Format::Json) => {
            let Explained { sentence, hint } = explained(&error);
            output::remark(&format!("{}\n", to_tabbed_json(&NoAnswer { error: sentence, hint })));
            Err(error)
        }
    }
}

async fn answer(common: &CommonArgs) -> anyhow::Result<Status> {
    /// The store client keeps to its timeout by itself; this is for the case that it does not.
    const GRACE: Duration = Duration::from_secs(1);
    let cluster = StoredCluster::open(common)?;
    match tokio::time::timeout(cluster.timeout + GRACE, gather::gather(&cluster)).await {
        Ok(gathered) => Ok(gathered?),
        Err(_) => Err(Failure::new("cannot get cluster data: the store does not answer")
            .hint("is it running at --store-endpoints? --store-timeout sets how long to wait")
            .into()),
    }
}
