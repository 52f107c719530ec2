//! `stolonctl update`

use std::collections::BTreeSet;

use stolon_model::{Advise as _, ClusterSpec, DecodeError, Document, Patch, UnknownField, unknown_fields};
use stolon_runtime::{CommonArgs, UsageError};

use crate::advice::{self, Advice, Strictness};
use crate::commands::refuse_surplus;
use crate::input::Text;
use crate::output::{self, lines};
use crate::stored_cluster::{Edit, StoredCluster};

/// Flags of `update`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Change only what the document mentions; null removes a field
    #[arg(long, short)]
    patch: bool,

    /// File with the cluster specification or the patch, - for standard input
    #[arg(long, short, default_value = "", hide_default_value = true)]
    file: String,

    /// Refuse, with exit status 2, what otherwise only causes warnings
    #[arg(long)]
    strict: bool,

    /// The cluster specification or the patch as JSON
    #[arg(value_name = "SPEC")]
    spec: Vec<String>,
}

const CANNOT_UPDATE: &str = "Cannot update cluster spec";

/// What is done with the stored specification.
pub(super) enum Change {
    Replace { spec: Box<ClusterSpec>, unknown: Vec<UnknownField> },
    Patch(Patch),
}

/// Parse the change, explain what it does, apply it, write, and show what is different.
///
/// # Errors
/// The specification is wrong, the cluster does not take the change, or the store does not answer.
pub async fn run(common: &CommonArgs, args: Args) -> anyhow::Result<()> {
    refuse_surplus(&args.spec, 1, "update [--patch] [--file FILE] [SPEC]")?;
    let cluster = StoredCluster::open(common)?;
    let text = given_text(&args)?;
    let change =
        if args.patch { Change::parse_patch(&text)? } else { Change::parse_replacement(&text.text)? };

    let stored = cluster.workable_document().await?.value;
    let majors = advice::known_majors(&cluster, Some(&stored)).await;
    let now = stored.cluster.and_then(|cluster| cluster.spec).unwrap_or_default();
    refuse_slot_sync(&now, &change.apply(&now)?, &majors)?;
    advice::give(&change.explain(&change.apply(&now)?, &majors), Strictness::from_flag(args.strict))?;

    let changed = cluster
        .change("update", |document| {
            let Some(cluster) = document.cluster.as_mut() else { return Ok(Edit::Unneeded) };
            let new = change.apply(&cluster.spec.clone().unwrap_or_default())?;
            let is_news = cluster.spec.replace(new) != cluster.spec;
            Ok(if is_news { Edit::Write } else { Edit::Unneeded })
        })
        .await?;
    Ok(output::result(&lines(&changed))?)
}

/// PostgreSQL copies logical slots to standbys from version 17 on.
fn refuse_slot_sync(now: &ClusterSpec, new: &ClusterSpec, majors: &BTreeSet<u16>) -> Result<(), UsageError> {
    let is_asked_for = new.sync_logical_slots == Some(true) && now.sync_logical_slots != Some(true);
    match majors.first().filter(|oldest| is_asked_for && **oldest < 17) {
        None => Ok(()),
        Some(oldest) => Err(UsageError::new(format!(
            "syncLogicalSlots needs PostgreSQL 17 or newer, and a keeper runs {oldest}: it copies no logical slots to standbys"
        ))
        .hint("move to a newer major first (stolonctl migrate start --method logical), or leave the field out")),
    }
}

impl Change {
    fn parse_patch(text: &Text) -> Result<Change, UsageError> {
        Ok(Change::Patch(Patch::parse(&text.text).map_err(|error| error.explained())?))
    }

    pub(super) fn parse_replacement(text: &str) -> Result<Change, UsageError> {
        let wrong = |error: DecodeError| error.explain(text).after("failed to unmarshal cluster spec");
        Ok(Change::Replace {
            spec: Box::new(ClusterSpec::from_json(text).map_err(wrong)?),
            unknown: unknown_fields(text).map_err(wrong)?,
        })
    }

    /// What of the change is legal and yet hardly meant, and what else its author should know.
    pub(super) fn explain(&self, new: &ClusterSpec, majors: &BTreeSet<u16>) -> Vec<Advice> {
        match self {
            Change::Replace { unknown, .. } => {
                let mut advice = advice::about_unknown(unknown);
                advice.extend(advice::about_spec(new, majors));
                advice
            }
            Change::Patch(patch) => {
                let mut advice = advice::about_unknown(&patch.unknown_fields());
                advice.extend(advice::about_changed_spec(new, &patch.parameters(), majors));
                advice
            }
        }
    }

    /// The specification that the cluster has afterwards.
    pub(super) fn apply(&self, old: &ClusterSpec) -> Result<ClusterSpec, UsageError> {
        let new = match self {
            Change::Replace { spec, .. } => (**spec).clone(),
            Change::Patch(patch) => patch.apply(old).map_err(|error| error.explained())?,
        };
        old.check_update(&new).map_err(|refused| UsageError::because(CANNOT_UPDATE, &refused))?;
        advice::refuse_impossible(CANNOT_UPDATE, old, &new)?;
        Ok(new)
    }
}

/// Exactly one of argument and file.
fn given_text(args: &Args) -> anyhow::Result<Text> {
    match (args.spec.first(), args.file.as_str()) {
        (None, "") => Err(UsageError::new(
            "no cluster spec provided as argument and no file provided (--file/-f option)",
        )
        .hint("for example: stolonctl update --patch '{\"failInterval\":\"10s\"}'")
        .into()),
        (Some(_), file) if !file.is_empty() => Err(UsageError::new(
            "only one of cluster spec provided as argument or file must provided (--file/-f option)",
        )
        .hint("leave one of them out")
        .into()),
        (Some(spec), _) => Ok(Text::argument(spec)),
        (None, file) => Text::read(file),
    }
}
