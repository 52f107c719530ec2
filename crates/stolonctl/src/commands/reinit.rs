//! `stolonctl reinit`

use std::time::Duration;

use stolon_core::sentinel::{CannotSpare, spare};
use stolon_model::{InstanceInitMode, KeeperUid, RequestKind};
use stolon_runtime::{CommonArgs, Failure, go_duration};

use crate::commands::removekeeper::only_uid;
use crate::commands::request::{Seen, place, refuse_pause};
use crate::output;
use crate::stored_cluster::{StoredCluster, cannot_get};

/// Flags of `reinit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid
    #[arg(value_name = "KEEPER")]
    uid: Vec<String>,

    /// How long to wait for the copy, which goes on afterwards
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = go_duration)]
    timeout: Duration,
}

/// Have the data of a standby copied anew from the primary, and wait until it is complete.
///
/// # Errors
/// The keeper has no standby, or the last copy of the data; the request comes to nothing; or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    let keeper = only_uid(&args.uid, "reinit KEEPER [--timeout SPAN]")?;
    let cluster = StoredCluster::open(common)?;
    let usable = cluster.cluster_data_to_change().await?;
    refuse_pause(usable.data())?;
    let reports = cluster.store.keeper_reports().await.map_err(cannot_get)?;
    spare(&usable, &reports, &keeper).map_err(|why| cannot_spare(&keeper, &why))?;
    let before = usable.data().instance_of(&keeper).map(|instance| instance.uid.clone());
    let placed = place(&cluster, &keeper, RequestKind::Reinit, None).await?;
    output::note(&format!("keeper {keeper}: its data are to be copied anew"));
    let is_done = |seen: &Seen| {
        let made = seen.instance.as_ref().is_some_and(|instance| {
            Some(&instance.uid) != before.as_ref() && instance.spec.init_mode == Some(InstanceInitMode::None)
        });
        made && seen.is_well()
    };
    placed.until(&cluster, args.timeout, is_done).await?;
    output::note(&format!("keeper {keeper}: its data are complete"));
    Ok(())
}

fn cannot_spare(keeper: &KeeperUid, why: &CannotSpare) -> Failure {
    match why {
        CannotSpare::Primary => Failure::new(format!("keeper {keeper} has the master, whose data the others copy"))
            .hint(format!("stolonctl failkeeper {keeper} has another keeper take over first")),
        CannotSpare::LastCopy { primary } => Failure::new(format!(
            "keeper {keeper} may have the last copy of what was committed: the master keeper {primary} does not work"
        ))
        .hint(format!("repair {primary} first")),
    }
}
