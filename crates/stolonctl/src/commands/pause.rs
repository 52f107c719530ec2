//! `stolonctl pause` and `stolonctl resume`

use std::time::Duration;

use jiff::SignedDuration;
use stolon_core::operator as decide;
use stolon_core::pause::{LONGEST, USUAL};
use stolon_model::{GoDuration, Pause, Timestamp};
use stolon_runtime::{CommonArgs, UsageError, go_duration};

use crate::commands::refuse_surplus;
use crate::stored_cluster::{Edit, StoredCluster};
use crate::{operator, output};

/// Characters of a reason: it stands in the cluster data and at the top of every `status`.
const LONGEST_REASON: usize = 200;

/// Flags of `pause`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// When the pause lapses by itself, at most a day from now
    #[arg(long = "for", value_name = "SPAN", default_value = "1h", value_parser = go_duration)]
    span: Duration,

    /// Why, for everybody who looks at the cluster meanwhile
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,

    #[arg(hide = true)]
    surplus: Vec<String>,
}

/// Flags of `resume`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    #[arg(hide = true)]
    surplus: Vec<String>,
}

/// Have nobody elected and nothing removed for a while. A pause that holds already is replaced.
///
/// # Errors
/// The time is out of bounds, there are no cluster data, or the store does not answer.
pub async fn run(common: &CommonArgs, args: Args) -> anyhow::Result<()> {
    refuse_surplus(&args.surplus, 0, "pause [--for SPAN] [--reason TEXT]")?;
    if args.span.is_zero() || args.span > LONGEST {
        let usual = GoDuration::from(USUAL);
        return Err(UsageError::new("a pause lasts longer than nothing and at most a day")
            .hint(format!("--for {usual} is the default; a pause can be asked for again before it is over"))
            .into());
    }
    let reason = args.reason.replace(char::is_control, " ");
    if reason.chars().count() > LONGEST_REASON {
        return Err(UsageError::new(format!("a reason has at most {LONGEST_REASON} characters")).into());
    }
    let cluster = StoredCluster::open(common)?;
    let since = jiff::Timestamp::now();
    let until = since.checked_add(SignedDuration::try_from(args.span)?)?;
    let (since, until) = (Timestamp::utc(since), Timestamp::utc(until));
    let pause = Pause { since, until, operator: operator::name(), reason };
    let command = format!("pause {pause}");
    cluster.change(&command, |document| Ok(decide::pause(document, &pause))).await?;
    output::note(&format!("the cluster is paused {pause}; stolonctl resume ends the pause"));
    if !matches!(cluster.store.leader().await, Ok(Some(_))) {
        output::note("no sentinel leads now, so nobody would be elected anyway");
    }
    Ok(())
}

/// End a pause. Without one there is nothing to do.
///
/// # Errors
/// There are no cluster data, or the store does not answer.
pub async fn resume(common: &CommonArgs, args: &ResumeArgs) -> anyhow::Result<()> {
    refuse_surplus(&args.surplus, 0, "resume")?;
    let cluster = StoredCluster::open(common)?;
    let mut ended = None;
    cluster
        .change("resume", |document| {
            ended = decide::resume(document);
            Ok(if ended.is_some() { Edit::Write } else { Edit::Unneeded })
        })
        .await?;
    output::note(&match ended {
        Some(pause) => format!("the pause {pause} is over"),
        None => "the cluster is not paused".to_owned(),
    });
    Ok(())
}
