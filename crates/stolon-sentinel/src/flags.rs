//! The flags of `stolon-sentinel`.

use stolon_model::{ClusterSpec, Document};
use stolon_runtime::{CommonArgs, UsageError};

/// A sentinel decides who is the primary.
#[derive(Debug, clap::Parser)]
#[command(name = "stolon-sentinel", about = "Decides who is the primary of a cluster")]
pub struct Flags {
    #[command(flatten)]
    pub(crate) common: CommonArgs,

    /// File with the specification (JSON) of the cluster to make if the store holds none
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    initial_cluster_spec: String,
}

impl Flags {
    /// The specification of `--initial-cluster-spec`, which must be valid even if the cluster exists already.
    ///
    /// # Errors
    /// The file cannot be read, is no JSON, or cannot be worked with.
    pub fn initial_spec(&self) -> Result<Option<ClusterSpec>, UsageError> {
        if self.initial_cluster_spec.is_empty() {
            return Ok(None);
        }
        let path = &self.initial_cluster_spec;
        let text = std::fs::read_to_string(path).map_err(|error| {
            UsageError::new(format!(
                "cannot create sentinel: cannot read provided initial cluster config file: {path}: {error}"
            ))
            .hint("--initial-cluster-spec must name a file with the specification as JSON")
        })?;
        let spec = ClusterSpec::from_json(&text).map_err(|error| {
            UsageError::from(error.explain(&text).after(format!(
                "cannot create sentinel: cannot parse provided initial cluster config: {path}"
            )))
        })?;
        spec.validate().map_err(|error| {
            UsageError::new(format!("cannot create sentinel: invalid initial cluster: {error}"))
                .hint(format!("correct {path} and start again"))
        })?;
        Ok(Some(spec))
    }
}
