//! `stolonctl history`

use stolon_model::{Document as _, HistoryEntry};
use stolon_runtime::CommonArgs;

use crate::commands::refuse_surplus;
use crate::output::{self, Format};
use crate::pretty::to_tabbed_json;
use crate::stored_cluster::StoredCluster;
use crate::table::{Alignment, RowEnd, render};

/// Flags of `history`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// text or json
    #[arg(long, short, default_value = "text")]
    format: String,

    #[arg(hide = true)]
    surplus: Vec<String>,
}

/// Print what operators and sentinels did to the cluster lately, the newest last.
///
/// # Errors
/// There are no cluster data, they cannot be worked with, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    refuse_surplus(&args.surplus, 0, "history [--format text|json]")?;
    let format = Format::parse(&args.format)?;
    let cluster = StoredCluster::open(common)?.cluster_data().await?;
    let history = cluster.data().cluster.status.history.as_deref();
    let entries = history.map_or(&[][..], Vec::as_slice);
    Ok(output::result(&match format {
        Format::Text => text(entries),
        Format::Json => json(entries),
    })?)
}

fn json(entries: &[HistoryEntry]) -> String {
    let entries: Vec<serde_json::Value> =
        entries.iter().map(|entry| serde_json::from_str(&entry.to_json()).unwrap_or_default()).collect();
    format!("{}\n", to_tabbed_json(&entries))
}

/// A row for each entry, and one below it for each further detail.
fn text(entries: &[HistoryEntry]) -> String {
    let mut rows = Vec::new();
    for entry in entries {
        let at = entry.at.instant().strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        let mut details = entry.details.iter().flatten().cloned();
        let first = details.next().unwrap_or_default();
        let by = match entry.operator.is_empty() {
            true => format!("sentinel {}", entry.sentinel),
            false => entry.operator.clone(),
        };
        rows.push(vec![at, by, entry.what.clone(), first]);
        rows.extend(details.map(|detail| vec![String::new(), String::new(), String::new(), detail]));
    }
    match rows.is_empty() {
        true => "nothing is known of this cluster's history\n".to_owned(),
        false => render(&["TIME", "BY", "WHAT", "DETAILS"], &rows, RowEnd::Free, Alignment::AllRows),
    }
}
