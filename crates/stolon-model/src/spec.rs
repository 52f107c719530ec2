//! The cluster specification: what the operator wants (docs: "Cluster specification").
//!
//! The table in [`ClusterSpec`] is the one place where a field stands: with its type, default, rules and documentation. Parsing,
//! defaults, validation, notes and the reference page are made from it. Rules between fields are in
//! [`crate::effective`].

use std::collections::BTreeMap;

use crate::effective::InvalidSpec;
use crate::json::{Encode, Encoder, document, text_enum};
use crate::spec_table::{
    AT_LEAST_MIN_SYNCHRONOUS_STANDBYS, AT_LEAST_ONE, AT_MOST_MAX_SYNCHRONOUS_STANDBYS, IN_STANDBY_CLUSTERS,
    MORE_THAN_PROXY_CHECK_INTERVAL, NOT_NEGATIVE, SINGLE_LINES, SLOT_NAMES, SLOT_WAL_BOUND, Stage,
    WITH_EXISTING, WITH_NEW, WITH_PITR, seconds, specification,
};
use crate::time::GoDuration;
use crate::uid::KeeperUid;

/// Default of `maxStandbyLag` in bytes. Not a round number, but every sentinel of a cluster must agree on it.
const MAX_STANDBY_LAG: u32 = 1_232_896;

/// PostgreSQL parameters by name, values raw (unquoted).
pub type Parameters = BTreeMap<String, String>;

text_enum! {
    /// How the first instance of a cluster is made.
    pub enum InitMode {
        /// `initdb`.
        New => "new",
        /// Adopt the data that a keeper already has.
        Existing => "existing",
        /// Restore a backup, then recover.
        PointInTimeRecovery => "pitr",
    }
}

text_enum! {
    /// What a whole cluster is, or what one instance is asked to be.
    pub enum Role {
        /// Takes writes.
        Primary => "master",
        /// Replicates another instance.
        Standby => "standby",
    }
}

text_enum! {
    /// Which addresses the generated superuser and replication lines of `pg_hba.conf` admit.
    pub enum AccessMode {
        /// Every address.
        All => "all",
        /// Only the other instances of the cluster.
        Strict => "strict",
    }
}

specification! {
    /// What the operator wants of a cluster. Unset fields take the default of [`ClusterSpec::with_defaults`].
    pub struct ClusterSpec;
    /// A specification with its defaults filled in. Field names are those of [`ClusterSpec`].
    pub struct EffectiveSpec;

    /// Longest pause between two rounds of sentinels and keepers, and between two signs of life of a keeper.
    sleep_interval: GoDuration = "sleepInterval", omit, default(seconds(5)), rules [NOT_NEGATIVE];
    /// Limit of one request to PostgreSQL.
    request_timeout: GoDuration = "requestTimeout", omit, default(seconds(10)), rules [NOT_NEGATIVE];
    /// How long an instance may take to do what is asked of it before it counts as failed; `0s`: for ever.
    convergence_timeout: GoDuration = "convergenceTimeout", omit, default(seconds(30)), rules [NOT_NEGATIVE];
    /// The same for the creation of the first instance; `0s`: for ever.
    init_timeout: GoDuration = "initTimeout", omit, default(seconds(300)), rules [NOT_NEGATIVE];
    /// Limit of a point-in-time recovery; `0s`: for ever.
    sync_timeout: GoDuration = "syncTimeout", omit, default(seconds(0)), rules [NOT_NEGATIVE];
    /// How long PostgreSQL may take until it accepts connections.
    db_wait_ready_timeout: GoDuration = "dbWaitReadyTimeout", omit, default(seconds(60)), rules [NOT_NEGATIVE];
    /// A keeper without a sign of life for longer than this is unhealthy.
    fail_interval: GoDuration = "failInterval", omit, default(seconds(20)), rules [NOT_NEGATIVE];
    /// How long a standby binds itself not to be promoted when no keeper can read the store, so that proxies go on to the primary; at most
    /// `failInterval` counts; `0s`: proxies close when the store is away.
    primary_lease: GoDuration = "primaryLease", omit, default(seconds(15)), rules [NOT_NEGATIVE];
    /// A primary whose keeper has neither read the cluster data within `primaryLease` nor the pledges of all others locks out everybody but the
    /// superuser and the replication user: nobody knows then whether another one was elected. Counts where all keepers can be asked, and
    /// where three quarters of `failInterval` are not less than three times `sleepInterval`. `false`: who comes to it directly is served on.
    fence_without_lease: bool = "fenceWithoutLease", omit, default(true);
    /// A keeper without an instance that has been silent for this long is forgotten.
    dead_keeper_removal_interval: GoDuration = "deadKeeperRemovalInterval", omit, default(seconds(48 * 3600)),
        rules [NOT_NEGATIVE];
    /// Longest pause between two checks of a proxy.
    proxy_check_interval: GoDuration = "proxyCheckInterval", omit, default(seconds(5)), rules [NOT_NEGATIVE];
    /// A proxy without a successful check for this long closes every connection.
    proxy_timeout: GoDuration = "proxyTimeout", omit, default(seconds(15)),
        rules [NOT_NEGATIVE, MORE_THAN_PROXY_CHECK_INTERVAL];
    /// PostgreSQL `max_replication_slots` (a change needs a restart); `max_wal_senders` is derived from it.
    max_standbys: u16 = "maxStandbys", omit, default(20), rules [AT_LEAST_ONE];
    /// How many standbys follow the primary.
    max_standbys_per_sender: u16 = "maxStandbysPerSender", omit, default(3), rules [AT_LEAST_ONE];
    /// In asynchronous mode, a standby that is further behind than this many bytes is not elected.
    max_standby_lag: u32 = "maxStandbyLag", omit, default(MAX_STANDBY_LAG);
    /// A primary whose PostgreSQL ends unexpectedly more often than this within a minute is replaced where a standby can take over.
    max_restarts_per_minute: u32 = "maxRestartsPerMinute", omit, default(3);
    /// Commits wait for standbys.
    synchronous_replication: bool = "synchronousReplication", omit, default(false);
    /// With fewer synchronous standbys than this, commits block; with 0 the primary goes on alone.
    min_synchronous_standbys: u16 = "minSynchronousStandbys", omit, default(1);
    /// How many synchronous standbys there are at most.
    max_synchronous_standbys: u16 = "maxSynchronousStandbys", omit, default(1),
        rules [AT_LEAST_ONE, AT_LEAST_MIN_SYNCHRONOUS_STANDBYS];
    /// How many of the synchronous standbys must acknowledge a commit, whichever they are (PostgreSQL 13 and newer); absent: all of them. With
    /// fewer standbys than this commits block, unless `minSynchronousStandbys` is 0.
    synchronous_quorum: u16 = "synchronousQuorum", omit, optional,
        rules [AT_LEAST_ONE, AT_MOST_MAX_SYNCHRONOUS_STANDBYS];
    /// WAL senders on top of `2 × maxStandbys + 2`.
    additional_wal_senders: u16 = "additionalWalSenders", keep, default(5);
    /// Physical replication slots for consumers outside of the cluster, each as `stolon_<name>`: on the primary and, for a failover, on its standbys.
    additional_primary_replication_slots: Vec<String> = "additionalMasterReplicationSlots", keep, optional,
        rules [SLOT_NAMES];
    /// How much WAL replication slots may hold: `auto` goes by the room on each server's file system, `unlimited` sets no bound, `10GB` is
    /// one; `max_slot_wal_keep_size` in `pgParameters` wins over it.
    max_slot_wal_keep_size: String = "maxSlotWalKeepSize", omit, optional, rules [SLOT_WAL_BOUND];
    /// Logical replication slots that were made with `failover` are copied to the standbys, and outlive a failover (PostgreSQL 17 and
    /// newer, with `wal_level` `logical` in `pgParameters`).
    sync_logical_slots: bool = "syncLogicalSlots", omit, default(false);
    /// Bring an old primary back with `pg_rewind` instead of a full copy where that is possible.
    use_pg_rewind: bool = "usePgrewind", omit, default(false);
    /// How the first instance is made: `new` runs `initdb`, `existing` adopts the data that a keeper has, `pitr` restores a backup.
    init_mode: InitMode = "initMode", pointer, required;
    /// Take the parameters of the first instance over into `pgParameters` once it is made.
    merge_pg_parameters: bool = "mergePgParameters", omit, default(true);
    /// `standby`: the whole cluster replicates a primary outside, until `stolonctl promote` ends that.
    role: Role = "role", pointer, default(Role::Primary);
    /// Options of `initdb`.
    new_config: NewConfig = "newConfig", omit, optional, read WITH_NEW;
    /// The backup to restore, and where its recovery ends; required then.
    pitr_config: PitrConfig = "pitrConfig", omit, optional, read WITH_PITR;
    /// Which data to adopt; required then.
    existing_config: ExistingConfig = "existingConfig", omit, optional, read WITH_EXISTING;
    /// The primary outside, or an archive of its WAL; required then.
    standby_config: StandbyConfig = "standbyConfig", omit, optional, read IN_STANDBY_CLUSTERS;
    /// Whom the generated superuser and replication lines of `pg_hba.conf` admit: `all` every address, `strict` only the other instances.
    default_su_repl_access_mode: AccessMode = "defaultSUReplAccessMode", pointer, default(AccessMode::All);
    /// PostgreSQL parameters, values as strings and unquoted.
    pg_parameters: Parameters = "pgParameters", omit, optional;
    /// Lines of `pg_hba.conf` after the generated ones; absent: everybody with a password, `[]`: nobody else.
    pg_hba: Vec<String> = "pgHBA", keep, optional, rules [SINGLE_LINES];
    /// Restart PostgreSQL when a changed parameter needs it, standbys first.
    automatic_pg_restart: bool = "automaticPgRestart", keep, default(false);
}

impl ClusterSpec {
    /// Check the specification; the first failure is reported, in Stolon's order.
    ///
    /// # Errors
    /// A program that meets an invalid specification leaves everything as it is.
    pub fn validate(&self) -> Result<EffectiveSpec, InvalidSpec> {
        let spec = self.effective();
        self.check_rules(Stage::Numbers, &spec)?;
        if self.init_mode.is_none() {
            return Err(InvalidSpec::NoInitMode);
        }
        self.check_rules(Stage::Lists, &spec)?;
        spec.check_init_mode()?;
        spec.check_access_mode_and_role()?;
        Ok(spec)
    }

    /// A database is to be made, and nothing says where its superuser and its replication user may come from: from anywhere, as in Stolon.
    /// One that exists may be backed up or followed from anywhere on purpose.
    pub fn leaves_access_open(&self) -> bool {
        let is_new = self.init_mode == Some(InitMode::New) && self.role != Some(Role::Standby);
        is_new && self.default_su_repl_access_mode.is_none()
    }

    /// The fields that are set and yet not read, each with what it would be read with (`initMode "new"`).
    pub fn fields_without_effect(&self) -> Vec<(&'static str, &'static str)> {
        self.unread_fields(&self.effective())
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
}

document! {
    /// Options of `initdb`.
    pub struct NewConfig {
        /// `initdb --locale`.
        locale: String = "locale", omit;
        /// `initdb --encoding`.
        encoding: String = "encoding", omit;
        /// `initdb --data-checksums`.
        data_checksums: bool = "dataChecksums", omit;
    }
}

document! {
    /// Which data to adopt.
    pub struct ExistingConfig {
        /// The keeper whose data becomes the first primary; required.
        keeper_uid: KeeperUid = "keeperUID", omit;
    }
}

document! {
    /// How to restore a backup.
    pub struct PitrConfig {
        /// Command that restores the backup, run by `/bin/sh -c`; `%d` is PGDATA, `%%` a percent sign; required.
        data_restore_command: String = "dataRestoreCommand", omit;
        /// Where archived WAL comes from.
        archive_recovery_settings: Option<ArchiveRecoverySettings> = "archiveRecoverySettings", omit;
        /// Where recovery ends; not in a standby cluster.
        recovery_target_settings: Option<RecoveryTargetSettings> = "recoveryTargetSettings", omit;
    }
}

document! {
    /// How a whole cluster replicates an outside primary.
    pub struct StandbyConfig {
        /// The primary outside.
        standby_settings: Option<StandbySettings> = "standbySettings", omit;
        /// The archive.
        archive_recovery_settings: Option<ArchiveRecoverySettings> = "archiveRecoverySettings", omit;
    }
}

document! {
    /// Where archived WAL comes from.
    pub struct ArchiveRecoverySettings {
        /// PostgreSQL `restore_command`.
        restore_command: String = "restoreCommand", omit;
    }
}

document! {
    /// Where recovery ends; each non-empty field is the PostgreSQL parameter of the same name.
    pub struct RecoveryTargetSettings {
        /// PostgreSQL `recovery_target`.
        recovery_target: String = "recoveryTarget", omit;
        /// PostgreSQL `recovery_target_lsn`.
        recovery_target_lsn: String = "recoveryTargetLsn", omit;
        /// PostgreSQL `recovery_target_name`.
        recovery_target_name: String = "recoveryTargetName", omit;
        /// PostgreSQL `recovery_target_time`.
        recovery_target_time: String = "recoveryTargetTime", omit;
        /// PostgreSQL `recovery_target_xid`.
        recovery_target_xid: String = "recoveryTargetXid", omit;
        /// PostgreSQL `recovery_target_timeline`.
        recovery_target_timeline: String = "recoveryTargetTimeline", omit;
    }
}

document! {
    /// How an instance streams from a primary outside the cluster.
    pub struct StandbySettings {
        /// PostgreSQL `primary_conninfo`.
        primary_conninfo: String = "primaryConninfo", omit;
        /// PostgreSQL `primary_slot_name`.
        primary_slot_name: String = "primarySlotName", omit;
        /// PostgreSQL `recovery_min_apply_delay`.
        recovery_min_apply_delay: String = "recoveryMinApplyDelay", omit;
    }
}
