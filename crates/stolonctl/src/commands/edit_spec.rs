//! `stolonctl edit-spec`

use std::io::Write as _;
use std::process::Stdio;

use stolon_model::{ClusterSpec, fields_that_are_set, spec_changes};
use stolon_runtime::{CommonArgs, Failure};

use crate::advice::{self, Strictness};
use crate::commands::update::Change;
use crate::confirm::{self, Answer};
use crate::output::{self, lines};
use crate::stored_cluster::{Edit, StoredCluster};

/// Flags of `edit-spec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

/// Used where neither `VISUAL` nor `EDITOR` says anything else.
const EDITOR: &str = "vi";

/// Let the operator edit the specification, show what is different, ask, and write if nobody else has changed it meanwhile.
///
/// # Errors
/// The editor cannot be run, what it leaves is no valid specification, somebody else changed the specification, or the store does not
/// answer. What was written in the editor is kept in a file then, which the message names.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<()> {
    let cluster = StoredCluster::open(common)?;
    let stored = cluster.workable_document().await?.value;
    let majors = advice::known_majors(&cluster, Some(&stored)).await;
    let old = stored.cluster.and_then(|cluster| cluster.spec).unwrap_or_default();
    let draft = Draft::of(&format!("{:#}\n", fields_that_are_set(&old)))?;
    let edited = draft.edited().await?;
    let applied = async {
        let change = Change::parse_replacement(&edited)?;
        let new = change.apply(&old)?;
        let different = spec_changes(&old, &new);
        if different.is_empty() {
            return Ok(output::remark("nothing was changed\n"));
        }
        output::remark(&lines(&different));
        advice::give(&change.explain(&new, &majors), Strictness::Warn)?;
        if !args.yes && confirm::ask().await? == Answer::No {
            return Ok(());
        }
        write(&cluster, &old, &new).await
    };
    match applied.await {
        Ok(()) => Ok(()),
        Err(error) => Err(draft.kept(error)),
    }
}

async fn write(cluster: &StoredCluster, old: &ClusterSpec, new: &ClusterSpec) -> anyhow::Result<()> {
    cluster
        .change("edit-spec", |document| {
            let Some(section) = document.cluster.as_mut() else { return Ok(Edit::Unneeded) };
            if section.spec.clone().unwrap_or_default() != *old {
                return Err(Failure::new("somebody else changed the specification meanwhile")
                    .hint("nothing was changed; stolonctl edit-spec again shows what it is now")
                    .into());
            }
            section.spec = Some(new.clone());
            Ok(Edit::Write)
        })
        .await
        .map(drop)
}

/// The specification in a file that only its owner can read, until it is dropped.
struct Draft(tempfile::NamedTempFile);

impl Draft {
    fn of(text: &str) -> anyhow::Result<Draft> {
        let cannot = |error: std::io::Error| Failure::new(format!("cannot write a temporary file: {error}"));
        let mut file =
            tempfile::Builder::new().prefix("stolon-spec-").suffix(".json").tempfile().map_err(cannot)?;
        file.write_all(text.as_bytes()).map_err(cannot)?;
        Ok(Draft(file))
    }

    /// What the operator leaves in the file.
    async fn edited(&self) -> anyhow::Result<String> {
        let named = ["VISUAL", "EDITOR"].into_iter().filter_map(|name| std::env::var(name).ok());
        let editor = named.into_iter().find(|value| !value.is_empty()).unwrap_or_else(|| EDITOR.to_owned());
        // As git and others do: the variable may hold arguments, too.
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", &format!("{editor} \"$@\""), &editor]).arg(self.0.path());
        command.stdin(Stdio::inherit()).kill_on_drop(true);
        let failed = |why: String| {
            Failure::new(format!("the editor {editor:?} failed: {why}"))
                .hint("nothing was changed; set EDITOR to the editor that you want")
        };
        let ended = command.status().await.map_err(|error| failed(error.to_string()))?;
        if !ended.success() {
            return Err(failed(ended.to_string()).into());
        }
        // Some editors replace the file.
        Ok(std::fs::read_to_string(self.0.path()).map_err(|error| failed(error.to_string()))?)
    }

    /// Keep the file, and say where it is: what was typed is not lost by an error.
    fn kept(self, error: anyhow::Error) -> anyhow::Error {
        if let Ok((_, path)) = self.0.keep() {
            output::note(&format!("what you wrote is kept in {}", path.display()));
        }
        error
    }
}
