//! `stolonctl recover`: go on from what a keeper holds when the primary is lost and nobody may take its place by itself.

use std::fmt::Write as _;

use stolon_core::sentinel::{CannotRecover, Held, Was, held, recover};
use stolon_model::{ClusterData, ClusterDocument, KeeperUid, Timestamp, UsableCluster};
use stolon_runtime::{CommonArgs, Failure};

use crate::commands::refuse_surplus;
use crate::commands::removekeeper::no_such_keeper;
use crate::commands::settle::Testimony;
use crate::commands::status::rounded;
use crate::output;
use crate::stored_cluster::{Edit, StoredCluster, checked, record};

/// Flags of `recover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper's uid; without one it is shown what each keeper holds
    #[arg(value_name = "KEEPER")]
    uid: Option<String>,

    /// Go on from what the keeper holds, and lose what was said to be lost
    #[arg(long, requires = "uid")]
    allow_data_loss: bool,

    #[arg(hide = true)]
    surplus: Vec<String>,
}

/// Say what keepers hold beside a primary that is lost, and what would be lost by going on from it; or go on from it.
///
/// # Errors
/// It is not called for, or was only asked about; or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    refuse_surplus(&args.surplus, 0, "recover [KEEPER [--allow-data-loss]]")?;
    let cluster = StoredCluster::open(common)?;
    let usable = cluster.cluster_data_to_change().await?;
    let testimony = Testimony::gather(&cluster).await?;
    let Some(keeper) = args.uid.as_deref().map(KeeperUid::from) else {
        return show(&usable, &testimony);
    };
    let judge = |usable: &UsableCluster| {
        let now = Timestamp::utc(jiff::Timestamp::now());
        let judged = recover(usable, &testimony.witnesses(), &keeper, now);
        judged.map_err(|why| cannot_recover(&keeper, why, usable.data()))
    };
    let (held, _) = judge(&usable)?;
    output::result(&told(&usable, &held))?;
    if !args.allow_data_loss {
        return Err(Failure::new("nothing was changed")
            .hint(format!(
                "stolonctl recover {keeper} --allow-data-loss goes on from what keeper {keeper} holds"
            ))
            .into());
    }
    cluster
        .amend(|document| {
            // Somebody else may have written since: what is judged is what is replaced.
            let usable = checked(Some(document.clone()))?;
            let (held, next) = judge(&usable)?;
            *document = ClusterDocument::from(next);
            let details = vec![held.to_string(), format!("lost is {}", held.loss)];
            record(document, &format!("recover {keeper} --allow-data-loss"), details);
            Ok(Edit::Write)
        })
        .await?;
    output::note(&format!("keeper {keeper} has the master; stolonctl status shows how it comes up"));
    Ok(())
}

/// A keeper a line, and what became of the primary.
fn show(usable: &UsableCluster, testimony: &Testimony) -> anyhow::Result<()> {
    let reports = testimony.witnesses().keepers;
    let all = held(usable.data(), |keeper| reports.get(keeper));
    let mut text = primary_line(usable.data());
    for held in &all {
        _ = writeln!(text, "{held}; going on from it would lose {}", held.loss);
    }
    if all.is_empty() {
        text.push_str("no other keeper that reports holds complete data of this cluster\n");
    }
    Ok(output::result(&text)?)
}

fn told(usable: &UsableCluster, held: &Held) -> String {
    let mut text = primary_line(usable.data());
    _ = writeln!(text, "{held}{}", ago(held));
    _ = writeln!(text, "lost would be {}", held.loss);
    text
}

fn ago(held: &Held) -> String {
    match held.was {
        Was::Primary { until } if !until.is_never() => format!(" ({} ago)", since(until)),
        Was::Primary { .. } | Was::Standby => String::new(),
    }
}

fn since(moment: Timestamp) -> String {
    let age = jiff::Timestamp::now().duration_since(moment.instant());
    rounded(std::time::Duration::try_from(age).unwrap_or_default())
}

/// What is known of the primary.
fn primary_line(data: &ClusterData) -> String {
    let Some(primary) = data.primary() else { return "the cluster has no master\n".to_owned() };
    let keeper = &primary.spec.keeper_uid;
    let heard = data.keepers.get(keeper).map(|keeper| keeper.status.last_healthy_time);
    let heard = heard.filter(|heard| !heard.is_never());
    let heard = heard.map_or("never".to_owned(), |heard| format!("{heard}, {} ago", since(heard)));
    let status = &primary.status;
    format!(
        "the master is db {} on keeper {keeper}, on timeline {} at {} in its last report; the keeper was last seen well: {heard}\n",
        primary.uid, status.timeline, status.lsn
    )
}

fn cannot_recover(keeper: &KeeperUid, why: CannotRecover, data: &ClusterData) -> Failure {
    match why {
        CannotRecover::NoPrimary => Failure::new("the cluster has no master yet, so none is lost")
            .hint("stolonctl status says what is being done"),
        CannotRecover::StoreWentBack => {
            Failure::new("the store went back in time: what is lost is not known")
                .hint("stolonctl settle shows who has newer cluster data, and is to be used first")
        }
        CannotRecover::PrimaryWorks(primary) => Failure::new(format!(
            "the master on keeper {primary} works, or has failInterval to show that it does"
        ))
        .hint("stolonctl switchover moves it in good order, stolonctl failkeeper where it hangs"),
        CannotRecover::HasPrimary => Failure::new(format!("keeper {keeper} has the master already"))
            .hint("stolonctl status says why it does not work; stolonctl recover shows what others hold"),
        CannotRecover::AnotherCan(another) => Failure::new(format!(
            "keeper {another} can take over by itself, and loses no more"
        ))
        .hint(
            "a sentinel elects it; stolonctl status says what that waits for, stolonctl resume ends a pause",
        ),
        CannotRecover::Silent if !data.keepers.contains_key(keeper) => {
            no_such_keeper(keeper, data.keepers.keys())
        }
        CannotRecover::Silent => Failure::new(format!("keeper {keeper} does not report")).hint("start it"),
        CannotRecover::HoldsNothing => {
            Failure::new(format!("keeper {keeper} holds no complete data of this cluster"))
                .hint("stolonctl recover shows who does")
        }
    }
}
