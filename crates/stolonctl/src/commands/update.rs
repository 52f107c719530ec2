//! `stolonctl update`

use stolon_model::json::Node;
use stolon_model::{ClusterSpec, Document, UpdateRefused, merge_patch};
use stolon_runtime::{CommonArgs, UsageError};

use crate::advice::{self, Strictness};
use crate::commands::refuse_surplus;
use crate::input::Text;
use crate::session::{Edit, Session};

/// Flags of `update`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Change only what the document mentions; null removes a field
    #[arg(long, short)]
    patch: bool,

    /// File with the cluster specification or the patch, - for standard input
    #[arg(long, short, default_value = "", hide_default_value = true)]
    file: String,

    /// Refuse, with exit status 2, what would otherwise only be warned about
    #[arg(long)]
    strict: bool,

    /// The cluster specification or the patch as JSON
    #[arg(value_name = "SPEC")]
    spec: Vec<String>,
}

/// What is done with the stored specification.
enum Change {
    Replace(Box<ClusterSpec>),
    Patch(Text),
}

/// Check everything, then write.
///
/// # Errors
/// The specification is wrong, the cluster does not take the change, or the store does not answer.
pub async fn run(common: &CommonArgs, args: Args) -> anyhow::Result<()> {
    refuse_surplus(&args.spec, 1, "update [--patch] [--file FILE] [SPEC]")?;
    let session = Session::open(common)?;
    let text = given_text(&args)?;
    let strictness = Strictness::from_flag(args.strict);
    let about_text = advice::about_text(&text.text);
    let mentioned = args.patch.then(|| advice::parameters_mentioned(&text.text));
    let change = if args.patch { parsed_patch(text)? } else { parsed_replacement(&text)? };

    let stored = session.workable_document().await?.value;
    let majors = advice::known_majors(&session, Some(&stored)).await;
    let mut advised = false;
    session
        .change(|document| {
            let Some(cluster) = document.cluster.as_mut() else { return Ok(Edit::Unneeded) };
            let old = cluster.spec.take().unwrap_or_default();
            let new = change.applied_to(&old)?;
            old.check_update(&new).map_err(refused)?;
            if !advised {
                let mut advice = about_text.clone();
                advice.extend(advice::about_changed_spec(&new, mentioned.as_ref(), &majors));
                advice::give(&advice, strictness)?;
                advised = true;
            }
            cluster.spec = Some(new);
            Ok(Edit::Write)
        })
        .await
}

impl Change {
    fn applied_to(&self, old: &ClusterSpec) -> anyhow::Result<ClusterSpec> {
        match self {
            Change::Replace(spec) => Ok((**spec).clone()),
            Change::Patch(patch) => merge_patch(old, &patch.text).map_err(|error| {
                let explained = error.decode_error().explain(&patch.text);
                let plain = error.decode_error().to_string();
                UsageError::new(error.to_string().replace(&plain, &explained)).into()
            }),
        }
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

/// A text that is no JSON is refused before the store is asked anything.
fn parsed_patch(text: Text) -> anyhow::Result<Change> {
    Node::parse(&text.text).map_err(|error| {
        UsageError::new(format!(
            "failed to patch cluster spec: failed to merge patch cluster spec: invalid JSON document: {}",
            error.explain(&text.text)
        ))
    })?;
    Ok(Change::Patch(text))
}

fn parsed_replacement(text: &Text) -> anyhow::Result<Change> {
    let spec = ClusterSpec::from_json(&text.text).map_err(|error| {
        UsageError::new(format!("failed to unmarshal cluster spec: {}", error.explain(&text.text)))
    })?;
    Ok(Change::Replace(Box::new(spec)))
}

fn refused(reason: UpdateRefused) -> UsageError {
    let error = UsageError::new(format!("Cannot update cluster spec: {reason}"));
    match reason.hint() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
