//! The instance that data is copied from: looking at it before anything here is deleted.

use stolon_model::{Lsn, Timeline};

/// Where to copy from, and as whom to appear there. Users and passwords are those of [`crate::Options`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Address of the other instance.
    pub host: String,
    /// Its port.
    pub port: String,
    /// `application_name`: `stolon_` and our instance UID.
    pub application_name: String,
}

/// What a source said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFacts {
    /// Decimal.
    pub system_identifier: String,
    /// Its timeline.
    pub timeline: Timeline,
    /// Its position.
    pub lsn: Lsn,
}

/// Why a source cannot be copied from now. All but a wrong password may mend themselves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceProblem {
    /// No connection.
    #[error("cannot reach PostgreSQL at {address}: {reason}")]
    Unreachable {
        /// host:port.
        address: String,
        /// The system's words.
        reason: String,
    },
    /// User or password refused.
    #[error("PostgreSQL at {address} refuses the replication user {user}: {reason}")]
    Refused {
        /// host:port.
        address: String,
        /// Who.
        user: String,
        /// The server's words.
        reason: String,
    },
    /// It demands TLS; the look beforehand speaks none. The copy itself does (`sslmode=prefer`).
    #[error("PostgreSQL at {address} wants TLS, so it was not looked at beforehand")]
    NeedsTls {
        /// host:port.
        address: String,
    },
    /// No wal sender is free.
    #[error("PostgreSQL at {address} has no free wal sender: {reason}")]
    Busy {
        /// host:port.
        address: String,
        /// The server's words.
        reason: String,
    },
    /// The slot is not there yet.
    #[error("PostgreSQL at {address} has no replication slot {slot} yet")]
    NoSlot {
        /// host:port.
        address: String,
        /// Slot name.
        slot: String,
    },
    /// Another cluster answers there.
    #[error(
        "PostgreSQL at {address} has system identifier {found}, not {wanted}: another database cluster answers there"
    )]
    OtherCluster {
        /// host:port.
        address: String,
        /// What was expected.
        wanted: String,
        /// What answered.
        found: String,
    },
    /// It answered with something else.
    #[error("PostgreSQL at {address} answered: {reason}")]
    Other {
        /// host:port.
        address: String,
        /// The server's words.
        reason: String,
    },
}

impl SourceProblem {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => {
                Some("is that PostgreSQL running, and does a firewall let us through?".into())
            }
            Self::Refused { .. } => {
                Some("are the replication user and its password the same on every keeper?".into())
            }
            Self::Busy { .. } => Some("raise maxStandbys or additionalWalSenders".into()),
            _ => None,
        }
    }
}
