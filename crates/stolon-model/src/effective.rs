//! What a specification means once its defaults are filled in, and whether it can be worked with
//! (docs: "Cluster specification").

use std::borrow::Cow;
use std::time::Duration;

use crate::explained::Advise;
use crate::spec::{AccessMode, InitMode, Role};
use crate::wal_bound::SlotWalBound;

pub use crate::spec::EffectiveSpec;

/// Why a specification is refused. The texts are Stolon's, which operators search for; only the one about the
/// role says more than it did.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InvalidSpec {
    /// A span of time is negative.
    #[error("{0} must be positive")]
    NegativeDuration(&'static str),
    /// The proxy would close its connections between two checks.
    #[error("proxyCheckInterval should be less than proxyTimeout")]
    ProxyCheckInterval,
    /// A number that must be at least 1 is zero.
    #[error("{0} must be at least 1")]
    BelowOne(&'static str),
    /// More synchronous standbys are demanded than allowed.
    #[error("maxSynchronousStandbys must be greater or equal to minSynchronousStandbys")]
    SynchronousStandbys,
    /// A commit waits for more standbys than there may be.
    #[error("synchronousQuorum must be lower or equal to maxSynchronousStandbys")]
    SynchronousQuorum,
    /// Nothing says how the cluster is made.
    #[error("initMode undefined")]
    NoInitMode,
    /// Not what PostgreSQL takes for the name of a replication slot.
    #[error("wrong replication slot name: {}", go_quoted(.0))]
    SlotName(String),
    /// Slots with this prefix belong to the cluster itself.
    #[error("replication slot name is reserved: {}", go_quoted(.0))]
    ReservedSlotName(String),
    /// Not an amount of WAL.
    #[error("wrong {field}: {}", go_quoted(.given))]
    Size {
        /// The field.
        field: &'static str,
        /// What it says.
        given: String,
    },
    /// A line of `pg_hba.conf` that would be several.
    #[error("pgHBA entries cannot contain newline characters")]
    HbaNewline,
    /// A cluster cannot be made from nothing and follow another.
    #[error("invalid cluster role standby when initMode is \"new\"")]
    NewStandbyCluster,
    /// A part is missing that the init mode needs.
    #[error("{field} undefined. Required when initMode is \"{init_mode}\"")]
    ConfigMissing {
        /// The missing part.
        field: &'static str,
        /// The init mode.
        init_mode: &'static str,
    },
    /// A field within such a part is empty.
    #[error("{0} undefined")]
    ConfigFieldEmpty(&'static str),
    /// A standby cluster never ends its recovery.
    #[error("cannot define pitrConfig.RecoveryTargetSettings when required cluster role is standby")]
    RecoveryTargetOfStandbyCluster,
    /// No such init mode.
    #[error("unknown initMode: {}", go_quoted(.0))]
    UnknownInitMode(String),
    /// No such access mode.
    #[error("unknown defaultSUReplAccessMode: {}", go_quoted(.0))]
    UnknownAccessMode(String),
    /// Nothing says whom a standby cluster follows.
    #[error("standbyConfig undefined. Required when cluster role is \"standby\"")]
    NoStandbyConfig,
    /// No such role.
    #[error("unknown role: {}", go_quoted(.0))]
    UnknownRole(String),
}

impl Advise for InvalidSpec {
    fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::NegativeDuration(_) => "0 is allowed, a negative span of time is not",
            Self::ProxyCheckInterval => {
                "fields that are not set count with their defaults: stolonctl spec --defaults shows them"
            }
            Self::SynchronousStandbys => {
                "fields that are not set count with their defaults: set maxSynchronousStandbys too"
            }
            Self::SynchronousQuorum => {
                "set maxSynchronousStandbys, whose default is 1, to how many standbys there are: with 3 and a quorum of 2 one may be slow"
            }
            Self::NoInitMode => {
                "give initMode \"new\", \"existing\" or \"pitr\"; a full replacement must repeat the stored one"
            }
            Self::SlotName(_) => "a name in additionalMasterReplicationSlots consists of a-z, 0-9 and _",
            Self::ReservedSlotName(_) => {
                "give the name in additionalMasterReplicationSlots without stolon_: the prefix is added to it"
            }
            Self::Size { .. } => "give a whole number with its unit, such as 10GB, or auto, or unlimited",
            Self::HbaNewline => "write each line as an entry of its own",
            Self::NewStandbyCluster => "a standby cluster is made with initMode \"pitr\"",
            Self::UnknownInitMode(_) => "initMode is \"new\", \"existing\" or \"pitr\"",
            Self::UnknownAccessMode(_) => "defaultSUReplAccessMode is \"all\" or \"strict\"",
            Self::UnknownRole(_) => "role is \"master\" or \"standby\"",
            Self::NoStandbyConfig => "standbyConfig may be {} when only archived WAL is read",
            Self::RecoveryTargetOfStandbyCluster => "remove pitrConfig.recoveryTargetSettings",
            Self::BelowOne(_) => "leave the field out for its default: stolonctl spec --defaults shows it",
            Self::ConfigMissing { .. } | Self::ConfigFieldEmpty(_) => {
                "add it, or choose another initMode: docs/cluster-specification.md has each field"
            }
        };
        Some(hint.into())
    }
}

impl EffectiveSpec {
    /// How much WAL replication slots may hold.
    pub fn slot_wal_bound(&self) -> SlotWalBound {
        self.max_slot_wal_keep_size.as_deref().and_then(SlotWalBound::parse).unwrap_or_default()
    }

    /// How long a pledge of a standby's keeper holds; `None`: none is given.
    pub fn pledge_term(&self) -> Option<Duration> {
        Some(self.primary_lease.min(self.fail_interval)).filter(|term| !term.is_zero())
    }

    /// How long a primary serves ordinary clients after its keeper has read the cluster data; `None`: for ever. It is over before a silent primary
    /// is replaced, and long enough for several readings.
    pub fn lease_term(&self) -> Option<Duration> {
        let term = self.primary_lease.min(self.fail_interval * 3 / 4);
        let is_engaged = self.fence_without_lease && !term.is_zero() && term >= self.sleep_interval * 3;
        is_engaged.then_some(term)
    }

    pub(crate) fn check_init_mode(&self) -> Result<(), InvalidSpec> {
        match &self.init_mode {
            InitMode::New if self.role == Role::Standby => Err(InvalidSpec::NewStandbyCluster),
            InitMode::New => Ok(()),
            InitMode::Existing => match &self.existing_config {
                None => Err(InvalidSpec::ConfigMissing { field: "existingConfig", init_mode: "existing" }),
                Some(config) if config.keeper_uid.is_empty() => {
                    Err(InvalidSpec::ConfigFieldEmpty("existingConfig.keeperUID"))
                }
                Some(_) => Ok(()),
            },
            InitMode::PointInTimeRecovery => match &self.pitr_config {
                None => Err(InvalidSpec::ConfigMissing { field: "pitrConfig", init_mode: "pitr" }),
                Some(config) if config.data_restore_command.is_empty() => {
                    Err(InvalidSpec::ConfigFieldEmpty("pitrConfig.DataRestoreCommand"))
                }
                Some(config) if config.recovery_target_settings.is_some() && self.role == Role::Standby => {
                    Err(InvalidSpec::RecoveryTargetOfStandbyCluster)
                }
                Some(_) => Ok(()),
            },
            InitMode::Unknown(word) => Err(InvalidSpec::UnknownInitMode(word.clone())),
        }
    }

    pub(crate) fn check_access_mode_and_role(&self) -> Result<(), InvalidSpec> {
        if let AccessMode::Unknown(word) = &self.default_su_repl_access_mode {
            return Err(InvalidSpec::UnknownAccessMode(word.clone()));
        }
        match &self.role {
            Role::Primary => Ok(()),
            Role::Standby if self.standby_config.is_none() => Err(InvalidSpec::NoStandbyConfig),
            Role::Standby => Ok(()),
            Role::Unknown(word) => Err(InvalidSpec::UnknownRole(word.clone())),
        }
    }
}

/// The text in double quotes, as Go's `%q` prints it.
pub(crate) fn go_quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            control if (control as u32) < 0x20 || control == '\u{7f}' => {
                quoted.push_str(&format!("\\x{:02x}", control as u32));
            }
            control if control.is_control() => quoted.push_str(&format!("\\u{:04x}", control as u32)),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}
