//! What went wrong with PostgreSQL, in the words of the decisions.

use stolon_core::keeper::{FailureKind, ServerDeath, SourceTrouble, StepFailure};

use crate::error::{Disk, PostgresError};
use crate::explain;
use crate::source::SourceProblem;

/// SQLSTATE `disk_full`.
const DISK_FULL: &str = "53100";

impl From<PostgresError> for StepFailure {
    fn from(error: PostgresError) -> Self {
        StepFailure { kind: kind(&error), sentence: error.to_string(), hint: error.hint() }
    }
}

fn kind(error: &PostgresError) -> FailureKind {
    match error {
        PostgresError::Cancelled { .. } => FailureKind::CalledOff,
        PostgresError::Timeout { .. } => FailureKind::TimedOut,
        PostgresError::ServerExited { status, explanation, tail } => FailureKind::ServerExited(ServerDeath {
            status: status.clone(),
            explanation: explanation.clone(),
            cause: explain::death_cause(tail),
        }),
        PostgresError::DiskFull { disk: Disk::Ours, .. } => FailureKind::DiskFullHere,
        PostgresError::DiskFull { disk: Disk::Source, .. } => FailureKind::DiskFullAtSource,
        PostgresError::Sql { code: Some(code), .. } if code == DISK_FULL => FailureKind::DiskFullHere,
        PostgresError::Spawn { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            FailureKind::NoProgram
        }
        PostgresError::StandbyCrashed => FailureKind::NotRewindable,
        PostgresError::LacksWal { .. } => FailureKind::LacksWal,
        PostgresError::Source(problem) => FailureKind::Source(trouble(problem)),
        _ => FailureKind::Other,
    }
}

fn trouble(problem: &SourceProblem) -> SourceTrouble {
    match problem {
        SourceProblem::Unreachable { .. } => SourceTrouble::Unreachable,
        SourceProblem::Refused { .. } => SourceTrouble::Refused,
        SourceProblem::Busy { .. } => SourceTrouble::Busy,
        SourceProblem::NoSlot { .. } => SourceTrouble::NoSlot,
        SourceProblem::OtherCluster { .. } => SourceTrouble::OtherCluster,
        SourceProblem::WeakProof { .. }
        | SourceProblem::NoTls { .. }
        | SourceProblem::TlsFiles { .. }
        | SourceProblem::Other { .. } => SourceTrouble::Other,
    }
}
