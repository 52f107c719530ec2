//! `stolonctl priority`: who is preferred among those that are equally fit to be the primary.

use std::fmt::Write as _;

use stolon_core::operator::choose_priority;
use stolon_model::{Keeper, KeeperUid};
use stolon_runtime::{CommonArgs, UsageError};

use crate::commands::refuse_surplus;
use crate::commands::removekeeper::no_such_keeper;
use crate::output;
use crate::stored_cluster::StoredCluster;

/// Takes an operator's choice back.
const BY_FLAG: &str = "default";

/// Flags of `priority`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid; without one the priorities of all are shown
    #[arg(value_name = "KEEPER", requires = "priority")]
    uid: Option<String>,

    /// A number, the higher the better; 0: never; default: that of the keeper's --failover-priority
    #[arg(value_name = "NUMBER")]
    priority: Option<String>,

    #[arg(hide = true)]
    surplus: Vec<String>,
}

/// Show the priorities, or choose that of a keeper. It is in force at once, and moves no primary.
///
/// # Errors
/// There is no such keeper, the number is none, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    refuse_surplus(&args.surplus, 0, "priority [KEEPER NUMBER|default]")?;
    let cluster = StoredCluster::open(common)?;
    let (Some(uid), Some(word)) = (&args.uid, &args.priority) else {
        let usable = cluster.cluster_data().await?;
        return Ok(output::result(&shown(usable.data().keepers.values()))?);
    };
    let chosen = parse(word)?;
    let uid = KeeperUid::from(uid.as_str());
    cluster
        .change(&format!("priority {uid} {word}"), |document| {
            choose_priority(document, &uid, chosen)
                .map_err(|none| no_such_keeper(&uid, none.known.iter()).into())
        })
        .await
        .map(drop)
}

fn parse(word: &str) -> Result<Option<u32>, UsageError> {
    if word == BY_FLAG {
        return Ok(None);
    }
    let refused = |_| {
        UsageError::new(format!("{word:?} is no priority"))
            .hint("a number of at most 4294967295, the higher the better; 0: never; default: as the keeper was started")
    };
    word.parse().map(Some).map_err(refused)
}

fn shown<'k>(keepers: impl Iterator<Item = &'k Keeper>) -> String {
    let mut lines = String::new();
    for keeper in keepers {
        let status = &keeper.status;
        let (priority, by) = match status.chosen_priority {
            Some(chosen) => (chosen, "chosen by an operator"),
            None => (status.priority(), "by its flag"),
        };
        let never = if status.may_be_primary() { "" } else { ", never the master" };
        _ = writeln!(lines, "{}: {priority}, {by}{never}", keeper.uid);
    }
    lines
}
