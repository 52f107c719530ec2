//! `stolonctl switchover`: another keeper gets the primary, and nothing is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_core::operator::{SwitchoverUnderWay, Wanted, ask_for_switchover};
use stolon_core::sentinel::{Obstacle, fitness};
use stolon_model::{
    ClusterDocument, ClusterStatus, GoDuration, InstanceUid, KeeperUid, Switchover, SwitchoverOutcome,
    SwitchoverStage, Timestamp, UsableCluster,
};
use stolon_runtime::{CommonArgs, Failure, Shutdown, UsageError, go_duration, new_uid8};
use tokio::time::Instant;

use crate::commands::removekeeper::no_such_keeper;
use crate::output;
use crate::stored_cluster::{Edit, StoredCluster, cannot_get};

/// Between two looks at how far it is.
const POLL: Duration = Duration::from_millis(100);
/// How long taking it back may be tried: the document must have an answer by then.
const FAREWELL: Duration = Duration::from_secs(10);

/// Flags of `switchover`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keeper that is to have the primary; without it the sentinel chooses the standby that is furthest ahead
    #[arg(long, value_name = "KEEPER")]
    to: Option<String>,

    /// Only say who would take over, or why nobody can
    #[arg(long)]
    dry_run: bool,

    /// How long it may take until the new primary is elected; what has not come about by then is taken back
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = go_duration)]
    timeout: Duration,
}

/// How the command ends when it does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interruption {
    Signal,
    TimeOut,
}

/// Have another keeper take over in good order, and show each step.
///
/// # Errors
/// Nobody is fit, or it did not come about: then the primary is what it was. Or the store does not answer.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    let timeout = args.timeout;
    if timeout.is_zero() {
        return Err(UsageError::new("--timeout must be longer than nothing").into());
    }
    let to = args.to.as_deref().map(KeeperUid::from);
    let cluster = StoredCluster::open(common)?;
    let data = cluster.cluster_data_to_change().await?;
    if let Some(keeper) = to.as_ref().filter(|keeper| !data.data().keepers.contains_key(*keeper)) {
        return Err(no_such_keeper(keeper, data.data().keepers.keys()).into());
    }
    let judged = judge(&cluster, &data, to.as_ref()).await?;
    if args.dry_run {
        let chosen = judged.map_err(refused)?;
        let from = data.data().primary().map(|primary| primary.spec.keeper_uid.to_string());
        output::result(&format!(
            "keeper {} (db {}) would take over from keeper {}; nothing was changed\n",
            chosen.0,
            chosen.1,
            from.unwrap_or_default()
        ))?;
        return Ok(());
    }
    if let Err(obstacle) = judged
        && !obstacle.may_pass()
    {
        return Err(refused(obstacle).into());
    }
    if !matches!(cluster.store.leader().await, Ok(Some(_))) {
        return Err(Failure::new("no sentinel leads now, so nobody would carry it out")
            .hint("start a sentinel; stolonctl status shows those that report")
            .into());
    }
    hand_over(&cluster, to.as_ref(), timeout, shutdown).await
}

/// Ask for it, and show each step.
///
/// # Errors
/// It did not come about: then the primary is what it was. Or the store does not answer.
pub async fn hand_over(
    cluster: &StoredCluster,
    to: Option<&KeeperUid>,
    timeout: Duration,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let uid = new_uid8();
    let command = match to {
        Some(keeper) => format!("switchover --to {keeper}"),
        None => "switchover".to_owned(),
    };
    cluster.change(&command, |document| ask(document, &uid, to, timeout)).await?;
    follow(cluster, &uid, timeout, shutdown).await
}

/// Who would take over by what lies in the store.
///
/// # Errors
/// The store does not answer.
pub async fn judge(
    cluster: &StoredCluster,
    data: &UsableCluster,
    to: Option<&KeeperUid>,
) -> Result<Result<(KeeperUid, InstanceUid), Obstacle>, Failure> {
    let reports: BTreeMap<_, _> = cluster.store.keeper_reports().await.map_err(cannot_get)?;
    Ok(fitness(data, &reports, to).map(|fit| (fit.keeper, fit.instance)))
}

fn refused(obstacle: Obstacle) -> Failure {
    let failure = Failure::new(format!("no switchover: {obstacle}"));
    match obstacle {
        Obstacle::PrimaryNotReady | Obstacle::PrimarySilent => failure.hint(
            "a primary that does not work is replaced by itself after failInterval; stolonctl status shows what is going on",
        ),
        Obstacle::Migration => failure.hint("stolonctl migrate status shows how far it is"),
        Obstacle::StandbyCluster => failure.hint("stolonctl promote makes a standby cluster take writes"),
        _ => failure.hint("nothing was changed; stolonctl status shows all keepers"),
    }
}

fn ask(
    document: &mut ClusterDocument,
    uid: &str,
    to: Option<&KeeperUid>,
    timeout: Duration,
) -> anyhow::Result<Edit> {
    let wanted = Wanted { uid, to, timeout: GoDuration::from(timeout) };
    let now = Timestamp::utc(jiff::Timestamp::now());
    ask_for_switchover(document, wanted, now).map_err(|SwitchoverUnderWay(made_for)| {
        Failure::new("another switchover is under way")
            .hint(format!("it was asked for at {made_for}; stolonctl status shows how far it is"))
            .into()
    })
}

/// Until it is known what became of it, and clients are let in.
async fn follow(
    cluster: &StoredCluster,
    uid: &str,
    timeout: Duration,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let patience = timeout + FAREWELL;
    let stop = shutdown.token();
    let interruption = tokio::select! {
        ended = watch(cluster, uid) => return ended,
        () = stop.cancelled() => Interruption::Signal,
        () = tokio::time::sleep(patience) => Interruption::TimeOut,
    };
    take_back(cluster, uid, interruption).await
}

async fn watch(cluster: &StoredCluster, uid: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    let say = |what: &str| output::note(&format!("{:5.1}s  {what}", began.elapsed().as_secs_f64()));
    let mut steps = Steps::default();
    loop {
        tokio::time::sleep(POLL).await;
        let Ok(Some(found)) = cluster.document().await else { continue };
        let Some(data) = found.value.cluster.as_ref() else { continue };
        let Some(record) = own_record(&data.status, uid) else {
            return Err(Failure::new("the leading sentinel knows no switchover: it is Stolon's, or older")
                .hint("stolonctl failkeeper with the primary's keeper has another one take over")
                .into());
        };
        steps.new_ones(record).iter().for_each(|stage| say(&in_words(stage.as_ref(), record, &found.value)));
        match &record.outcome {
            None => {}
            Some(SwitchoverOutcome::Done) => {
                say(&format!("elected: {}", record.because));
                if let Some(successor) = &record.successor {
                    wait_for_clients(cluster, successor).await;
                }
                say("clients are let in");
                return Ok(());
            }
            Some(SwitchoverOutcome::Refused) => {
                return Err(Failure::new(format!("no switchover: {}", record.because))
                    .hint("nothing was changed; stolonctl status shows all keepers")
                    .into());
            }
            Some(_) => {
                return Err(Failure::new(format!("the switchover did not come about: {}", record.because))
                    .hint("the primary is what it was; stolonctl status shows what is going on")
                    .into());
            }
        }
    }
}

fn own_record<'a>(status: &'a ClusterStatus, uid: &str) -> Option<&'a Switchover> {
    status.switchover.as_ref().filter(|record| record.uid == uid)
}

/// The steps in their order, and how many were shown. One may be over before anybody looks.
#[derive(Debug, Default)]
struct Steps {
    shown: usize,
}

impl Steps {
    /// What has come since the last look.
    fn new_ones(&mut self, record: &Switchover) -> Vec<Option<SwitchoverStage>> {
        use SwitchoverStage::{Checkpoint, Closing, Stopping};
        let order = [None, Some(Checkpoint), Some(Closing), Some(Stopping)];
        let reached = order.iter().position(|stage| *stage == record.stage).map_or(0, |at| at + 1);
        let new = order.get(self.shown..reached).unwrap_or_default().to_vec();
        self.shown = self.shown.max(reached);
        new
    }
}

/// A step in words.
fn in_words(stage: Option<&SwitchoverStage>, record: &Switchover, document: &ClusterDocument) -> String {
    let keeper_of = |uid: &Option<InstanceUid>| {
        let instance = document.instances.as_ref()?.get(uid.as_ref()?)?;
        Some(instance.spec.keeper_uid.to_string())
    };
    let from = keeper_of(&record.from).unwrap_or_default();
    let to = keeper_of(&record.successor).unwrap_or_default();
    match stage {
        None => "waiting for the sentinel".to_owned(),
        Some(SwitchoverStage::Checkpoint) => {
            format!("keeper {to} is fit to take over; keeper {from} writes a checkpoint")
        }
        Some(SwitchoverStage::Closing) => {
            "proxies hold new clients, and end sessions where they are idle".to_owned()
        }
        Some(SwitchoverStage::Stopping) => {
            format!("keeper {from} stops its PostgreSQL, keeper {to} receives the rest")
        }
        Some(SwitchoverStage::Unknown(word)) => word.clone(),
    }
}

/// Until proxies are sent to the new primary; whoever interrupts this changes nothing any more.
async fn wait_for_clients(cluster: &StoredCluster, successor: &InstanceUid) {
    loop {
        if let Ok(Some(found)) = cluster.document().await {
            let proxy = found.value.proxy.as_ref();
            if proxy.is_some_and(|proxy| proxy.spec.primary.as_ref() == Some(successor)) {
                return;
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Take it back, unless the new primary is elected already: both are writes on the same document, so one comes first.
async fn take_back(cluster: &StoredCluster, uid: &str, why: Interruption) -> anyhow::Result<()> {
    let mut outcome = None;
    let because = match why {
        Interruption::Signal => "the operator took it back",
        Interruption::TimeOut => "no sentinel has said what became of it",
    };
    let taken = cluster.change("switchover, taken back", |document| {
        let record = document.cluster.as_mut().and_then(|cluster| cluster.status.switchover.as_mut());
        let Some(record) = record.filter(|record| record.uid == uid) else { return Ok(Edit::Unneeded) };
        outcome.clone_from(&record.outcome);
        if !record.is_open() {
            return Ok(Edit::Unneeded);
        }
        let now = Timestamp::utc(jiff::Timestamp::now());
        record.conclude(SwitchoverOutcome::Canceled, because.to_owned(), now);
        Ok(Edit::Write)
    });
    tokio::time::timeout(FAREWELL, taken)
        .await
        .map_err(|_| Failure::new("the store does not say whether the switchover was taken back"))??;
    match (outcome, why) {
        (None, Interruption::Signal) => {
            Err(Failure::new("interrupted: the switchover was taken back, the primary is what it was").into())
        }
        (None, Interruption::TimeOut) => {
            Err(Failure::new(format!("the switchover was taken back: {because}"))
                .hint("the primary is what it was; stolonctl status shows what goes on")
                .into())
        }
        (Some(SwitchoverOutcome::Done), _) => {
            output::note("the new primary was elected already, so it was not taken back");
            Ok(())
        }
        (Some(other), _) => {
            Err(Failure::new(format!("the switchover had ended before: {}", other.as_str())).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_shown_once_also_if_nobody_looked_while_it_lasted() {
        use SwitchoverStage::{Checkpoint, Closing, Stopping, Unknown};
        let mut steps = Steps::default();
        let at = |stage| Switchover { stage, ..Switchover::default() };
        for (stage, shown) in [
            (Some(Checkpoint), vec![None, Some(Checkpoint)]),
            (Some(Checkpoint), vec![]),
            (Some(Unknown("flying".to_owned())), vec![]),
            (Some(Stopping), vec![Some(Closing), Some(Stopping)]),
            (Some(Stopping), vec![]),
        ] {
            assert_eq!(steps.new_ones(&at(stage.clone())), shown, "{stage:?}");
        }
    }
}
