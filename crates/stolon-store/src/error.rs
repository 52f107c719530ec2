//! What can go wrong with a store, in words for the people who run it.

use std::borrow::Cow;
use std::time::Duration;

use stolon_model::Advise;

/// Why an operation on the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote the document since it was read. Read it again, decide again.
    #[error("Unable to complete atomic operation, key modified")]
    Conflict,
    /// A write was sent and no answer came: it may have happened, may still happen, or may not.
    /// Read before you write again.
    #[error("the outcome of {operation} is unknown: {cause}")]
    Unknown {
        /// What was being written.
        operation: String,
        /// What happened instead of an answer.
        cause: String,
    },
    /// The store gave no answer in time. Nothing was changed.
    #[error(
        "{operation}: no answer within {} (--store-timeout): {cause}",
        stolon_model::GoDuration::from(*timeout)
    )]
    Timeout {
        /// What was asked.
        operation: String,
        /// The time that was allowed.
        timeout: Duration,
        /// What was being waited for.
        cause: String,
    },
    /// The store could not be reached. Nothing was changed.
    #[error("cannot reach the store: {cause}")]
    Unreachable {
        /// Which endpoint, and what it said.
        cause: String,
        /// What to do.
        hint: String,
    },
    /// The store was reached and refused. Nothing was changed.
    #[error("the store refused {operation}: {cause}")]
    Refused {
        /// What was asked.
        operation: String,
        /// The store's own words.
        cause: String,
        /// What to do.
        hint: String,
    },
    /// What lies in the store cannot be read.
    #[error("the value of {key} in the store cannot be read: {cause}")]
    Decode {
        /// The key.
        key: String,
        /// What is wrong with it, and where.
        cause: String,
    },
    /// The options do not describe a store that can be used. Repeating the call cannot help.
    #[error("{problem}")]
    Configuration {
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },
}

impl Advise for StoreError {
    fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Unreachable { hint, .. }
            | Self::Refused { hint, .. }
            | Self::Configuration { hint, .. } => Some(hint.clone().into()),
            Self::Conflict | Self::Unknown { .. } | Self::Timeout { .. } | Self::Decode { .. } => None,
        }
    }
}

impl StoreError {
    pub(crate) fn configuration(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Configuration { problem: problem.into(), hint: hint.into() }
    }
}
