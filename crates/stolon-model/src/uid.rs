//! Identities. Each is a string on the wire; the types keep them apart in the code.
//!
//! A copy of an identity shares its text: documents are full of them, and are copied in every round of a sentinel.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::json::{Decode, DecodeError, Encode, Encoder, Node, Shape};

macro_rules! uid {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(Arc<str>);

        /// By the text. Most comparisons are of copies of one identity, which need not be read for that.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                if Arc::ptr_eq(&self.0, &other.0) {
                    return Ordering::Equal;
                }
                self.0.cmp(&other.0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The identity as it stands on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// True when nothing is named.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Decode for $name {
            const SHAPE: Shape = Shape::Text;
            const EMPTY_STRING_IS_UNSET: bool = true;

            fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
                let mut text = self.0.to_string();
                text.decode_into(node)?;
                self.0 = text.into();
                Ok(())
            }
        }

        impl Encode for $name {
            fn encode_to(&self, out: &mut Encoder) {
                out.string(&self.0);
            }

            fn is_zero(&self) -> bool {
                self.0.is_empty()
            }

            fn is_empty_value(&self) -> bool {
                self.0.is_empty()
            }
        }
    )*};
}

uid! {
    /// A cluster: 8 hex digits, new with every `stolonctl init`.
    ClusterUid;
    /// A keeper: `^[a-z0-9_]+$`, chosen by the operator or 8 hex digits.
    KeeperUid;
    /// An assignment of a PostgreSQL instance to a keeper (wire: a key of `dbs`): 8 hex digits.
    InstanceUid;
    /// A sentinel process: 8 hex digits.
    SentinelUid;
    /// A proxy process: 8 hex digits.
    ProxyUid;
    /// One run of a keeper process: a random UUID in its 36-character form.
    BootUuid;
    /// One publication of a report: 8 hex digits, new each time.
    InfoUid;
    /// One challenge of a keeper by a sentinel: 8 hex digits, new each time.
    ChallengeUid;
}

impl KeeperUid {
    /// Whether a keeper can be called this: `^[a-z0-9_]+$`.
    pub fn is_legal(text: &str) -> bool {
        !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    }
}

/// The name that a standby's replication slot and its `application_name` carry.
pub fn replication_name(instance: &InstanceUid) -> String {
    format!("{STOLON_PREFIX}{instance}")
}

/// Prefix of every replication slot and `application_name` that belongs to this system.
pub const STOLON_PREFIX: &str = "stolon_";

/// The name in `synchronous_standby_names` that never connects, so that commits wait.
pub const FAKE_STANDBY: &str = "stolonfakestandby";
