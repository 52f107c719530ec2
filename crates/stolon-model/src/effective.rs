//! What a specification means once its defaults are filled in, and whether it can be worked with
//! (docs: "Cluster specification", defaults and validation).

use std::time::Duration;

use crate::json::{Encode, Encoder};
use crate::spec::{
    AccessMode, ClusterSpec, ExistingConfig, InitMode, NewConfig, Parameters, PitrConfig, Role, StandbyConfig,
};
use crate::time::GoDuration;
use crate::uid::STOLON_PREFIX;

/// Default of `maxStandbyLag` in bytes. Not a round number, but every sentinel of a cluster must agree on it.
pub const DEFAULT_MAX_STANDBY_LAG: u32 = 1_232_896;

/// A specification with its defaults filled in. Field names are those of [`ClusterSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSpec {
    /// Pause between cycles of sentinels and keepers. Zero is legal; programs floor it.
    pub sleep_interval: Duration,
    /// Limit of one request to PostgreSQL.
    pub request_timeout: Duration,
    /// How long an instance may lag behind its wanted generation. Zero = for ever.
    pub convergence_timeout: Duration,
    /// The same for the creation of the first instance. Zero = for ever.
    pub init_timeout: Duration,
    /// Limit of a recovery. Zero = for ever.
    pub sync_timeout: Duration,
    /// How long PostgreSQL may take to accept connections.
    pub db_wait_ready_timeout: Duration,
    /// Missing reports for longer than this make a keeper unhealthy.
    pub fail_interval: Duration,
    /// A keeper without instance is forgotten after this.
    pub dead_keeper_removal_interval: Duration,
    /// Pause between checks of a proxy.
    pub proxy_check_interval: Duration,
    /// A proxy without a good check for this long closes everything.
    pub proxy_timeout: Duration,
    /// `max_replication_slots`.
    pub max_standbys: u16,
    /// Standbys that follow the primary.
    pub max_standbys_per_sender: u16,
    /// Bytes of lag up to which a standby may be elected in asynchronous mode.
    pub max_standby_lag: u32,
    /// Commits wait for standbys.
    pub synchronous_replication: bool,
    /// Fewer synchronous standbys than this block commits.
    pub min_synchronous_standbys: u16,
    /// At most this many synchronous standbys.
    pub max_synchronous_standbys: u16,
    /// Wal senders beyond those that the standbys need.
    pub additional_wal_senders: u16,
    /// Physical replication slots to keep on the primary, without their `stolon_` prefix.
    pub additional_primary_replication_slots: Option<Vec<String>>,
    /// Try `pg_rewind` before a base backup.
    pub use_pg_rewind: bool,
    /// How the first instance is made. The unknown word `""` when unset, which validation refuses.
    pub init_mode: InitMode,
    /// Take the first instance's parameters over into `pgParameters`.
    pub merge_pg_parameters: bool,
    /// What the whole cluster is.
    pub role: Role,
    /// Read with [`InitMode::New`].
    pub new_config: Option<NewConfig>,
    /// Read with [`InitMode::PointInTimeRecovery`].
    pub pitr_config: Option<PitrConfig>,
    /// Read with [`InitMode::Existing`].
    pub existing_config: Option<ExistingConfig>,
    /// Read with [`Role::Standby`].
    pub standby_config: Option<StandbyConfig>,
    /// Which addresses the generated lines of `pg_hba.conf` admit.
    pub default_su_repl_access_mode: AccessMode,
    /// PostgreSQL parameters, values raw.
    pub pg_parameters: Option<Parameters>,
    /// Lines of `pg_hba.conf` after the managed ones. None: everybody with a password.
    pub pg_hba: Option<Vec<String>>,
    /// Restart PostgreSQL when a changed parameter needs it.
    pub automatic_pg_restart: bool,
}

/// Why a specification is refused. The texts are Stolon's, which operators search for; only the one about the
/// role says more than it did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// A span of time is negative.
    #[error("{0} must be positive")]
    NegativeDuration(&'static str),
    /// The proxy would close its connections between two checks.
    #[error("proxyCheckInterval should be less than proxyTimeout")]
    ProxyCheckInterval,
    /// A number is zero that must not be.
    #[error("{0} must be at least 1")]
    BelowOne(&'static str),
    /// More synchronous standbys are demanded than allowed.
    #[error("maxSynchronousStandbys must be greater or equal to minSynchronousStandbys")]
    SynchronousStandbys,
    /// Nothing says how the cluster is made.
    #[error("initMode undefined")]
    NoInitMode,
    /// Not what PostgreSQL takes for the name of a replication slot.
    #[error("wrong replication slot name: {}", go_quoted(.0))]
    SlotName(String),
    /// Slots with this prefix belong to the cluster itself.
    #[error("replication slot name is reserved: {}", go_quoted(.0))]
    ReservedSlotName(String),
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

impl InvalidSpec {
    /// What to do about it, where that is not obvious from the message.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NegativeDuration(_) => Some("0 is allowed, a negative span of time is not"),
            Self::ProxyCheckInterval => {
                Some("unset fields count with their defaults: proxyCheckInterval 5s, proxyTimeout 15s")
            }
            Self::SynchronousStandbys => {
                Some("unset fields count with their defaults: both are 1; set maxSynchronousStandbys too")
            }
            Self::NoInitMode => Some(
                "give initMode \"new\", \"existing\" or \"pitr\"; a full replacement must repeat the stored one",
            ),
            Self::SlotName(_) => Some("a slot name consists of a-z, 0-9 and _"),
            Self::ReservedSlotName(_) => Some("give the name without stolon_, it is put in front by itself"),
            Self::HbaNewline => Some("make it several entries of the list"),
            Self::NewStandbyCluster => Some("a standby cluster is made with initMode \"pitr\""),
            Self::UnknownInitMode(_) => Some("initMode is \"new\", \"existing\" or \"pitr\""),
            Self::UnknownAccessMode(_) => Some("defaultSUReplAccessMode is \"all\" or \"strict\""),
            Self::UnknownRole(_) => Some("role is \"master\" or \"standby\""),
            Self::NoStandbyConfig => Some("standbyConfig may be {} when only archived WAL is read"),
            Self::RecoveryTargetOfStandbyCluster => Some("remove pitrConfig.recoveryTargetSettings"),
            Self::BelowOne(_) | Self::ConfigMissing { .. } | Self::ConfigFieldEmpty(_) => None,
        }
    }
}

fn duration_or(given: Option<GoDuration>, default_seconds: i64) -> Duration {
    given.unwrap_or(GoDuration::from_seconds(default_seconds)).to_std()
}

impl ClusterSpec {
    /// The specification with its defaults filled in, valid or not (negative spans of time count as zero).
    pub fn effective(&self) -> EffectiveSpec {
        EffectiveSpec {
            sleep_interval: duration_or(self.sleep_interval, 5),
            request_timeout: duration_or(self.request_timeout, 10),
            convergence_timeout: duration_or(self.convergence_timeout, 30),
            init_timeout: duration_or(self.init_timeout, 300),
            sync_timeout: duration_or(self.sync_timeout, 0),
            db_wait_ready_timeout: duration_or(self.db_wait_ready_timeout, 60),
            fail_interval: duration_or(self.fail_interval, 20),
            dead_keeper_removal_interval: duration_or(self.dead_keeper_removal_interval, 48 * 3600),
            proxy_check_interval: duration_or(self.proxy_check_interval, 5),
            proxy_timeout: duration_or(self.proxy_timeout, 15),
            max_standbys: self.max_standbys.unwrap_or(20),
            max_standbys_per_sender: self.max_standbys_per_sender.unwrap_or(3),
            max_standby_lag: self.max_standby_lag.unwrap_or(DEFAULT_MAX_STANDBY_LAG),
            synchronous_replication: self.synchronous_replication.unwrap_or(false),
            min_synchronous_standbys: self.min_synchronous_standbys.unwrap_or(1),
            max_synchronous_standbys: self.max_synchronous_standbys.unwrap_or(1),
            additional_wal_senders: self.additional_wal_senders.unwrap_or(5),
            additional_primary_replication_slots: self.additional_primary_replication_slots.clone(),
            use_pg_rewind: self.use_pg_rewind.unwrap_or(false),
            init_mode: self.init_mode.clone().unwrap_or_default(),
            merge_pg_parameters: self.merge_pg_parameters.unwrap_or(true),
            role: self.role.clone().unwrap_or(Role::Primary),
            new_config: self.new_config.clone(),
            pitr_config: self.pitr_config.clone(),
            existing_config: self.existing_config.clone(),
            standby_config: self.standby_config.clone(),
            default_su_repl_access_mode: self.default_su_repl_access_mode.clone().unwrap_or(AccessMode::All),
            pg_parameters: self.pg_parameters.clone(),
            pg_hba: self.pg_hba.clone(),
            automatic_pg_restart: self.automatic_pg_restart.unwrap_or(false),
        }
    }

    /// The same document with every default written out; what has no default stays unset.
    pub fn with_defaults(&self) -> ClusterSpec {
        let given = self.clone();
        let effective = self.effective();
        let seconds = |given: Option<GoDuration>, filled: Duration| given.or(Some(filled.into()));
        ClusterSpec {
            sleep_interval: seconds(given.sleep_interval, effective.sleep_interval),
            request_timeout: seconds(given.request_timeout, effective.request_timeout),
            convergence_timeout: seconds(given.convergence_timeout, effective.convergence_timeout),
            init_timeout: seconds(given.init_timeout, effective.init_timeout),
            sync_timeout: seconds(given.sync_timeout, effective.sync_timeout),
            db_wait_ready_timeout: seconds(given.db_wait_ready_timeout, effective.db_wait_ready_timeout),
            fail_interval: seconds(given.fail_interval, effective.fail_interval),
            dead_keeper_removal_interval: seconds(
                given.dead_keeper_removal_interval,
                effective.dead_keeper_removal_interval,
            ),
            proxy_check_interval: seconds(given.proxy_check_interval, effective.proxy_check_interval),
            proxy_timeout: seconds(given.proxy_timeout, effective.proxy_timeout),
            max_standbys: Some(effective.max_standbys),
            max_standbys_per_sender: Some(effective.max_standbys_per_sender),
            max_standby_lag: Some(effective.max_standby_lag),
            synchronous_replication: Some(effective.synchronous_replication),
            min_synchronous_standbys: Some(effective.min_synchronous_standbys),
            max_synchronous_standbys: Some(effective.max_synchronous_standbys),
            additional_wal_senders: Some(effective.additional_wal_senders),
            use_pg_rewind: Some(effective.use_pg_rewind),
            merge_pg_parameters: Some(effective.merge_pg_parameters),
            role: Some(effective.role),
            default_su_repl_access_mode: Some(effective.default_su_repl_access_mode),
            automatic_pg_restart: Some(effective.automatic_pg_restart),
            ..given
        }
    }

    /// For people: only what is set, one tab for each level, no newline at the end.
    pub fn to_json_set_only(&self) -> String {
        let mut out = Encoder::indented_set_only();
        self.encode_to(&mut out);
        out.finish()
    }

    /// For people: every field, defaults filled in, `null` where there is none; no newline at the end.
    pub fn to_json_with_defaults(&self) -> String {
        let mut out = Encoder::indented_complete();
        self.with_defaults().encode_to(&mut out);
        out.finish()
    }

    /// Check the specification; the first failure is reported, in Stolon's order.
    ///
    /// # Errors
    /// A program that meets an invalid specification leaves everything as it is.
    pub fn validate(&self) -> Result<EffectiveSpec, InvalidSpec> {
        self.check_durations()?;
        let effective = self.effective();
        check_numbers(&effective)?;
        if self.init_mode.is_none() {
            return Err(InvalidSpec::NoInitMode);
        }
        check_lists(&effective)?;
        check_init_mode(&effective)?;
        check_access_and_role(&effective)?;
        Ok(effective)
    }

    fn check_durations(&self) -> Result<(), InvalidSpec> {
        let durations = [
            ("sleepInterval", self.sleep_interval),
            ("requestTimeout", self.request_timeout),
            ("convergenceTimeout", self.convergence_timeout),
            ("initTimeout", self.init_timeout),
            ("syncTimeout", self.sync_timeout),
            ("dbWaitReadyTimeout", self.db_wait_ready_timeout),
            ("failInterval", self.fail_interval),
            ("deadKeeperRemovalInterval", self.dead_keeper_removal_interval),
            ("proxyCheckInterval", self.proxy_check_interval),
            ("proxyTimeout", self.proxy_timeout),
        ];
        match durations.iter().find(|(_, given)| given.is_some_and(|given| given.0 < 0)) {
            Some((name, _)) => Err(InvalidSpec::NegativeDuration(name)),
            None => Ok(()),
        }
    }

    /// What is legal, and yet hardly what was meant: one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let spec = self.effective();
        sentences_that_apply(&[
            (
                spec.sleep_interval.is_zero(),
                "sleepInterval is 0s: Stolon's own programs would go round without a pause, ours wait a little",
            ),
            (
                spec.init_mode == InitMode::Existing && spec.role == Role::Standby,
                "initMode \"existing\" with role \"standby\": the adopted data become a primary that takes writes; use \
                 initMode \"pitr\" for a standby cluster",
            ),
        ])
    }

    /// What is legal and may well be meant, and what it does or does not do: one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let spec = self.effective();
        sentences_that_apply(&[
            (
                spec.new_config.is_some() && spec.init_mode != InitMode::New,
                "newConfig is only read with initMode \"new\"",
            ),
            (
                spec.pitr_config.is_some() && spec.init_mode != InitMode::PointInTimeRecovery,
                "pitrConfig is only read with initMode \"pitr\"",
            ),
            (
                spec.existing_config.is_some() && spec.init_mode != InitMode::Existing,
                "existingConfig is only read with initMode \"existing\"",
            ),
            (
                spec.standby_config.is_some() && spec.role != Role::Standby,
                "standbyConfig is only read with role \"standby\"",
            ),
            (
                spec.synchronous_replication && spec.role == Role::Standby,
                "synchronousReplication is ignored while role is \"standby\"",
            ),
            (
                spec.synchronous_replication && spec.min_synchronous_standbys == 0,
                "minSynchronousStandbys is 0: commits do not wait when no standby is left, so acknowledged rows can be lost",
            ),
        ])
    }
}

fn sentences_that_apply(sentences: &[(bool, &str)]) -> Vec<String> {
    sentences.iter().filter(|(applies, _)| *applies).map(|(_, sentence)| (*sentence).to_owned()).collect()
}

fn check_numbers(spec: &EffectiveSpec) -> Result<(), InvalidSpec> {
    if spec.proxy_check_interval >= spec.proxy_timeout {
        return Err(InvalidSpec::ProxyCheckInterval);
    }
    let at_least_one = [
        ("maxStandbys", spec.max_standbys),
        ("maxStandbysPerSender", spec.max_standbys_per_sender),
        ("maxSynchronousStandbys", spec.max_synchronous_standbys),
    ];
    if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value < 1) {
        return Err(InvalidSpec::BelowOne(name));
    }
    if spec.max_synchronous_standbys < spec.min_synchronous_standbys {
        return Err(InvalidSpec::SynchronousStandbys);
    }
    Ok(())
}

fn check_lists(spec: &EffectiveSpec) -> Result<(), InvalidSpec> {
    for slot in spec.additional_primary_replication_slots.iter().flatten() {
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if slot.is_empty() || !slot.bytes().all(legal) {
            return Err(InvalidSpec::SlotName(slot.clone()));
        }
        if slot.starts_with(STOLON_PREFIX) {
            return Err(InvalidSpec::ReservedSlotName(slot.clone()));
        }
    }
    if spec.pg_hba.iter().flatten().any(|line| line.contains('\n')) {
        return Err(InvalidSpec::HbaNewline);
    }
    Ok(())
}

fn check_init_mode(spec: &EffectiveSpec) -> Result<(), InvalidSpec> {
    match &spec.init_mode {
        InitMode::New if spec.role == Role::Standby => Err(InvalidSpec::NewStandbyCluster),
        InitMode::New => Ok(()),
        InitMode::Existing => match &spec.existing_config {
            None => Err(InvalidSpec::ConfigMissing { field: "existingConfig", init_mode: "existing" }),
            Some(config) if config.keeper_uid.is_empty() => {
                Err(InvalidSpec::ConfigFieldEmpty("existingConfig.keeperUID"))
            }
            Some(_) => Ok(()),
        },
        InitMode::PointInTimeRecovery => match &spec.pitr_config {
            None => Err(InvalidSpec::ConfigMissing { field: "pitrConfig", init_mode: "pitr" }),
            Some(config) if config.data_restore_command.is_empty() => {
                Err(InvalidSpec::ConfigFieldEmpty("pitrConfig.DataRestoreCommand"))
            }
            Some(config) if config.recovery_target_settings.is_some() && spec.role == Role::Standby => {
                Err(InvalidSpec::RecoveryTargetOfStandbyCluster)
            }
            Some(_) => Ok(()),
        },
        InitMode::Unknown(word) => Err(InvalidSpec::UnknownInitMode(word.clone())),
    }
}

fn check_access_and_role(spec: &EffectiveSpec) -> Result<(), InvalidSpec> {
    if let AccessMode::Unknown(word) = &spec.default_su_repl_access_mode {
        return Err(InvalidSpec::UnknownAccessMode(word.clone()));
    }
    match &spec.role {
        Role::Primary => Ok(()),
        Role::Standby if spec.standby_config.is_none() => Err(InvalidSpec::NoStandbyConfig),
        Role::Standby => Ok(()),
        Role::Unknown(word) => Err(InvalidSpec::UnknownRole(word.clone())),
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
