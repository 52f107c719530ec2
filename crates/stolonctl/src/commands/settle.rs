//! `stolonctl settle`: what to go on from after the store went back in time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use stolon_core::sentinel::{Ahead, CannotSettle, SawNewer, Witnesses, accept_loss, take_newest};
use stolon_model::{
    ClusterData, ClusterDocument, KeeperReport, KeeperUid, SentinelReport, SentinelUid, Timestamp,
};
use stolon_runtime::{CommonArgs, Failure, UsageError};

use crate::commands::refuse_surplus;
use crate::output;
use crate::stored_cluster::{Edit, StoredCluster, cannot_get};

/// Flags of `settle`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on from the newest data: the keeper that served last becomes the primary again
    #[arg(long)]
    take_newest: bool,

    /// Give up what these keepers hold beyond the cluster data in the store, or beyond the newest data of others with --take-newest;
    /// without a name where only a sentinel has seen newer cluster data
    #[arg(long, value_name = "KEEPER", value_delimiter = ',', num_args = 0..=1)]
    accept_data_loss: Option<Vec<String>>,

    #[arg(hide = true)]
    surplus: Vec<String>,
}

impl fmt::Display for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settle")?;
        if self.take_newest {
            f.write_str(" --take-newest")?;
        }
        match &self.accept_data_loss {
            Some(keepers) => write!(f, " --accept-data-loss {}", keepers.join(",")),
            None => Ok(()),
        }
    }
}

/// What keepers and sentinels tell of newer cluster data.
pub(super) struct Testimony {
    keepers: BTreeMap<KeeperUid, KeeperReport>,
    sentinels: BTreeMap<SentinelUid, SentinelReport>,
}

impl Testimony {
    /// Read the reports.
    ///
    /// # Errors
    /// The store does not answer.
    pub(super) async fn gather(cluster: &StoredCluster) -> Result<Testimony, Failure> {
        let (keepers, sentinels) =
            tokio::join!(cluster.store.keeper_reports(), cluster.store.sentinel_reports());
        Ok(Testimony { keepers: keepers.map_err(cannot_get)?, sentinels: sentinels.map_err(cannot_get)? })
    }

    pub(super) fn witnesses(&self) -> Witnesses<'_> {
        Witnesses { keepers: &self.keepers, sentinels: &self.sentinels }
    }
}

/// Show who has served under newer cluster data than those in the store, or seen some; or settle it.
///
/// # Errors
/// There is nothing to settle, a keeper that would lose data was not named, or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    refuse_surplus(&args.surplus, 0, "settle [--take-newest] [--accept-data-loss KEEPER,...]")?;
    let cluster = StoredCluster::open(common)?;
    let data = cluster.cluster_data().await?;
    let testimony = Testimony::gather(&cluster).await?;
    let witnesses = testimony.witnesses();
    if !args.take_newest && args.accept_data_loss.is_none() {
        return show(&witnesses.ahead(data.data()), &witnesses.saw_newer(data.data()));
    }
    let named = args.accept_data_loss.iter().flatten();
    let named: BTreeSet<KeeperUid> = named.map(|uid| KeeperUid::from(uid.as_str())).collect();
    let command = args.to_string();
    cluster
        .change(&command, |document| {
            let data = ClusterData::try_from(std::mem::take(document))?;
            let now = Timestamp::utc(jiff::Timestamp::now());
            let next = match args.take_newest {
                true => take_newest(&data, &witnesses, &named, now).map(|(keeper, next)| {
                    output::note(&format!("the newest data are those of keeper {keeper}"));
                    next
                }),
                false => accept_loss(&data, &witnesses, &named, now),
            };
            *document = ClusterDocument::from(next.map_err(cannot_settle)?);
            Ok(Edit::Write)
        })
        .await
        .map(drop)
}

/// One witness a line.
fn show(ahead: &[Ahead], saw: &[SawNewer]) -> anyhow::Result<()> {
    if ahead.is_empty() && saw.is_empty() {
        return Ok(output::result("nobody has served under newer cluster data than those in the store\n")?);
    }
    let of_keeper = |ahead: &Ahead| {
        let served = &ahead.served;
        let elected = served.primary_epoch.map(|epoch| format!(", master under epoch {epoch}"));
        let elected = elected.unwrap_or_default();
        format!(
            "{}: db {} at generation {}, epoch {}, timeline {}, position {}{elected}\n",
            ahead.keeper, served.instance, served.generation, served.epoch, served.timeline, served.lsn
        )
    };
    let of_sentinel =
        |saw: &SawNewer| format!("sentinel {}: cluster data of epoch {}\n", saw.sentinel, saw.epoch);
    let lines: String = ahead.iter().map(of_keeper).chain(saw.iter().map(of_sentinel)).collect();
    output::result(&lines)?;
    let (who, hint) = match ahead.is_empty() {
        true => (
            "a sentinel has seen newer cluster data than those in the store",
            "stolonctl settle --accept-data-loss goes on from those in the store",
        ),
        false => (
            "these keepers have served under newer cluster data than those in the store",
            "stolonctl settle --take-newest goes on from the newest data, --accept-data-loss KEEPER,... gives them up",
        ),
    };
    Err(Failure::new(who).hint(hint).into())
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
        CannotSettle::PrimaryGone(keeper) => {
            Failure::new(format!("the primary of the cluster data in the store is gone: keeper {keeper} holds other data by now"))
                .hint("stolonctl settle --take-newest goes on from the newest data that are left")
                .into()
        }
        CannotSettle::Silent(keeper) => {
            Failure::new(format!("keeper {keeper} has served last and does not report"))
                .hint(format!(
                    "start it, or give up what only it holds: stolonctl settle --take-newest --accept-data-loss {keeper}"
                ))
                .into()
        }
        CannotSettle::DataGone(keeper) => {
            Failure::new(format!("keeper {keeper} has served last and does not hold those data any more"))
                .hint("stolonctl settle --accept-data-loss goes on from the cluster data in the store")
                .into()
        }
    }
}
