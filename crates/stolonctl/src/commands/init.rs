//! `stolonctl init`

use stolon_core::operator::{self, Admitted};
use stolon_model::{
    ClusterDocument, ClusterSpec, ClusterUid, DecodeError, Document, InitMode, Timestamp, UnknownField,
    unknown_fields,
};
use stolon_runtime::{CommonArgs, Failure, UsageError, new_uid8};

use crate::advice::{self, Strictness};
use crate::commands::refuse_surplus;
use crate::confirm::{self, Answer};
use crate::input::{STANDARD_INPUT, Text};
use crate::output;
use crate::stored_cluster::{CANNOT_OPEN, StoredCluster, record};

const NARROWED: &str = "The superuser and the replication user are admitted from the addresses of keepers only (defaultSUReplAccessMode: strict). \
                        Backups and standbys from elsewhere need a line of pgHBA, or, as with Stolon: \
                        stolonctl update --patch '{\"defaultSUReplAccessMode\":\"all\"}'\n";

/// Flags of `init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File with the cluster specification, - for standard input
    #[arg(long, short, default_value = "", hide_default_value = true)]
    file: String,

    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,

    /// Refuse, with exit status 2, what otherwise only causes warnings
    #[arg(long)]
    strict: bool,

    /// The cluster specification as JSON; {"initMode":"new"} when absent
    #[arg(value_name = "SPEC")]
    spec: Vec<String>,
}

/// Check everything, ask, then write.
///
/// # Errors
/// The specification is wrong, the operator gave no answer, or the store does not answer.
pub async fn run(common: &CommonArgs, args: Args) -> anyhow::Result<()> {
    refuse_surplus(&args.spec, 1, "init [--file FILE] [--yes] [SPEC]")?;
    let cluster = StoredCluster::open_or_make(common, CANNOT_OPEN)?;
    let text = given_text(&args)?;
    let (mut spec, unknown) = parse(&text)?;

    let old = cluster.document().await?.map(|found| found.value);
    let majors = advice::known_majors(&cluster, old.as_ref()).await;
    let mut advice = advice::about_unknown(&unknown);
    advice.extend(advice::about_spec(&spec, &majors));
    advice::give(&advice, Strictness::from_flag(args.strict))?;

    if old.is_some() {
        output::remark("WARNING: The current cluster data will be removed\n");
    }
    output::remark(
        "WARNING: The databases managed by the keepers will be overwritten depending on the provided cluster spec.\n",
    );
    if operator::choose_defaults(&mut spec) == Admitted::FromInstances {
        output::remark(NARROWED);
    }
    if !args.yes && confirm::ask().await? == Answer::No {
        return Ok(());
    }

    let uid = ClusterUid::from(new_uid8());
    let mut document =
        ClusterDocument::from(operator::new_cluster(uid, spec, Timestamp::utc(jiff::Timestamp::now())));
    record(&mut document, "init", Vec::new());
    // Unconditional on purpose: the leading sentinel of the old cluster writes all the time, and it is this
    // command's task to end that cluster.
    cluster
        .store
        .put_cluster_document(&document)
        .await
        .map_err(|error| Failure::because("cannot update cluster data", &error).into())
}

/// The argument wins over the file.
fn given_text(args: &Args) -> anyhow::Result<Text> {
    if let Some(spec) = args.spec.first() {
        return Ok(Text::argument(spec));
    }
    match args.file.as_str() {
        "" => {
            let default = ClusterSpec { init_mode: Some(InitMode::New), ..ClusterSpec::default() };
            Ok(Text::argument(&default.to_json()))
        }
        STANDARD_INPUT if !args.yes => Err(UsageError::new(
            "the question before init cannot be answered: standard input is the cluster specification",
        )
        .hint("nothing was changed; add --yes, or give the specification as an argument or in a file")
        .into()),
        file => Text::read(file),
    }
}

/// The specification, which is valid, and the keys that have no meaning.
fn parse(text: &Text) -> Result<(ClusterSpec, Vec<UnknownField>), UsageError> {
    let wrong = |error: DecodeError| error.explain(&text.text).after("failed to unmarshal cluster spec");
    let spec = ClusterSpec::from_json(&text.text).map_err(wrong)?;
    let unknown = unknown_fields(&text.text).map_err(wrong)?;
    spec.validate().map_err(|invalid| UsageError::because("invalid cluster spec", &invalid))?;
    advice::refuse_impossible("invalid cluster spec", &ClusterSpec::default(), &spec)?;
    Ok((spec, unknown))
}
