//! `stolonctl settle`: what to go on from after the store went back in time.

use std::collections::BTreeSet;

use stolon_core::sentinel::{Ahead, CannotSettle, accept_loss, ahead, take_newest};
use stolon_model::{ClusterData, ClusterDocument, KeeperUid};
use stolon_runtime::{CommonArgs, Failure, UsageError};

use crate::commands::refuse_surplus;
use crate::output;
use crate::stored_cluster::{Edit, StoredCluster, cannot_get};

/// Flags of `settle`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on from the newest data: the keeper that served last becomes the primary again
    #[arg(long, conflicts_with = "accept_data_loss")]
    take_newest: bool,

    /// Go on from the cluster data in the store, and give up what these keepers hold beyond them
    #[arg(long, value_name = "KEEPER", value_delimiter = ',')]
    accept_data_loss: Vec<String>,

    #[arg(hide = true)]
    surplus: Vec<String>,
}

/// Show which keepers have served under newer cluster data than those in the store, or settle it.
///
/// # Errors
/// There is nothing to settle, a keeper that would lose data was not named, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    refuse_surplus(&args.surplus, 0, "settle [--take-newest | --accept-data-loss KEEPER,...]")?;
    let cluster = StoredCluster::open(common)?;
    let data = cluster.cluster_data().await?;
    let reports = cluster.store.keeper_reports().await.map_err(cannot_get)?;
    if !args.take_newest && args.accept_data_loss.is_empty() {
        return show(&ahead(data.data(), reports.values()));
    }
    let named: BTreeSet<KeeperUid> =
        args.accept_data_loss.iter().map(|uid| KeeperUid::from(uid.as_str())).collect();
    cluster
        .change(|document| {
            let data = ClusterData::try_from(std::mem::take(document))?;
            let next = match args.take_newest {
                true => take_newest(&data, &reports).map(|(keeper, next)| {
                    output::note(&format!("the newest data are those of keeper {keeper}"));
                    next
                }),
                false => accept_loss(&data, &reports, &named),
            };
            *document = ClusterDocument::from(next.map_err(cannot_settle)?);
            Ok(Edit::Write)
        })
        .await
}

/// One keeper a line.
fn show(ahead: &[Ahead]) -> anyhow::Result<()> {
    if ahead.is_empty() {
        return Ok(output::result("nobody has served under newer cluster data than those in the store\n")?);
    }
    let line = |ahead: &Ahead| {
        let served = &ahead.served;
        format!(
            "{}: db {} at generation {}, epoch {}, timeline {}, position {}\n",
            ahead.keeper, served.instance, served.generation, served.epoch, served.timeline, served.lsn
        )
    };
    output::result(&ahead.iter().map(line).collect::<String>())?;
    Err(Failure::new("these keepers have served under newer cluster data than those in the store")
        .hint("stolonctl settle --take-newest goes on from the newest data, --accept-data-loss KEEPER,... gives them up")
        .into())
}

fn cannot_settle(why: CannotSettle) -> anyhow::Error {
    match why {
        CannotSettle::NobodyAhead => {
            Failure::new("nobody has served under newer cluster data than those in the store")
                .hint(
                    "there is nothing to settle; a keeper that does not report is not known to hold anything",
                )
                .into()
        }
        CannotSettle::NotNamed(keepers) => {
            let keepers: Vec<&str> = keepers.iter().map(KeeperUid::as_str).collect();
            UsageError::new(format!(
                "these keepers would lose data and were not named: {}",
                keepers.join(", ")
            ))
            .hint("name each keeper whose newer data may be lost, or use --take-newest")
            .into()
        }
        CannotSettle::DataGone(keeper) => {
            Failure::new(format!("keeper {keeper} has served last and does not hold those data any more"))
                .hint("stolonctl settle --accept-data-loss goes on from the cluster data in the store")
                .into()
        }
    }
}
