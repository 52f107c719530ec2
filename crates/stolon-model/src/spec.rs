//! The cluster specification: what the operator wants (docs: "Cluster specification").

use std::collections::BTreeMap;

use crate::json::{document, text_enum};
use crate::time::GoDuration;
use crate::uid::KeeperUid;

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

document! {
    /// What the operator wants of a cluster. Unset fields take the default of [`ClusterSpec::with_defaults`].
    pub struct ClusterSpec {
        /// Pause between cycles of sentinels and keepers. Default 5 s.
        sleep_interval: Option<GoDuration> = "sleepInterval", omit;
        /// Limit of one request to PostgreSQL. Default 10 s.
        request_timeout: Option<GoDuration> = "requestTimeout", omit;
        /// How long an instance may lag behind its wanted generation. Default 30 s; 0 = for ever.
        convergence_timeout: Option<GoDuration> = "convergenceTimeout", omit;
        /// The same for the creation of the first instance. Default 5 min; 0 = for ever.
        init_timeout: Option<GoDuration> = "initTimeout", omit;
        /// Limit of a recovery. Default 0 = for ever.
        sync_timeout: Option<GoDuration> = "syncTimeout", omit;
        /// How long PostgreSQL may take to accept connections. Default 60 s.
        db_wait_ready_timeout: Option<GoDuration> = "dbWaitReadyTimeout", omit;
        /// Missing reports for longer than this make a keeper unhealthy. Default 20 s.
        fail_interval: Option<GoDuration> = "failInterval", omit;
        /// A keeper without instance is forgotten after this. Default 48 h.
        dead_keeper_removal_interval: Option<GoDuration> = "deadKeeperRemovalInterval", omit;
        /// Pause between checks of a proxy. Default 5 s.
        proxy_check_interval: Option<GoDuration> = "proxyCheckInterval", omit;
        /// A proxy without a good check for this long closes everything. Default 15 s.
        proxy_timeout: Option<GoDuration> = "proxyTimeout", omit;
        /// `max_replication_slots`. Default 20.
        max_standbys: Option<u16> = "maxStandbys", omit;
        /// Standbys that follow the primary. Default 3.
        max_standbys_per_sender: Option<u16> = "maxStandbysPerSender", omit;
        /// Bytes of lag up to which a standby may be elected in asynchronous mode. Default 1 232 896.
        max_standby_lag: Option<u32> = "maxStandbyLag", omit;
        /// Commits wait for standbys. Default false.
        synchronous_replication: Option<bool> = "synchronousReplication", omit;
        /// Fewer synchronous standbys than this block commits. Default 1.
        min_synchronous_standbys: Option<u16> = "minSynchronousStandbys", omit;
        /// At most this many synchronous standbys. Default 1.
        max_synchronous_standbys: Option<u16> = "maxSynchronousStandbys", omit;
        /// Wal senders beyond those that the standbys need. Default 5.
        additional_wal_senders: Option<u16> = "additionalWalSenders", keep;
        /// Physical replication slots to keep on the primary, without their `stolon_` prefix.
        additional_primary_replication_slots: Option<Vec<String>> = "additionalMasterReplicationSlots", keep;
        /// Try `pg_rewind` before a base backup. Default false.
        use_pg_rewind: Option<bool> = "usePgrewind", omit;
        /// How the first instance is made. Required.
        init_mode: Option<InitMode> = "initMode", pointer;
        /// Take the first instance's parameters over into `pgParameters`. Default true.
        merge_pg_parameters: Option<bool> = "mergePgParameters", omit;
        /// `standby`: the whole cluster replicates an outside primary. Default primary.
        role: Option<Role> = "role", pointer;
        /// Read with [`InitMode::New`].
        new_config: Option<NewConfig> = "newConfig", omit;
        /// Read with [`InitMode::PointInTimeRecovery`].
        pitr_config: Option<PitrConfig> = "pitrConfig", omit;
        /// Read with [`InitMode::Existing`].
        existing_config: Option<ExistingConfig> = "existingConfig", omit;
        /// Read with [`Role::Standby`].
        standby_config: Option<StandbyConfig> = "standbyConfig", omit;
        /// Default [`AccessMode::All`].
        default_su_repl_access_mode: Option<AccessMode> = "defaultSUReplAccessMode", pointer;
        /// PostgreSQL parameters, values raw.
        pg_parameters: Option<Parameters> = "pgParameters", omit;
        /// Lines of `pg_hba.conf` after the managed ones. Absent: everybody with a password.
        pg_hba: Option<Vec<String>> = "pgHBA", keep;
        /// Restart PostgreSQL when a changed parameter needs it. Default false.
        automatic_pg_restart: Option<bool> = "automaticPgRestart", keep;
    }
}

document! {
    /// Options of `initdb`.
    pub struct NewConfig {
        /// `--locale` when not empty.
        locale: String = "locale", omit;
        /// `--encoding` when not empty.
        encoding: String = "encoding", omit;
        /// `--data-checksums`.
        data_checksums: bool = "dataChecksums", omit;
    }
}

document! {
    /// Which data to adopt.
    pub struct ExistingConfig {
        /// The keeper whose data becomes the first primary.
        keeper_uid: KeeperUid = "keeperUID", omit;
    }
}

document! {
    /// How to restore a backup.
    pub struct PitrConfig {
        /// Run with `/bin/sh -c`; `%d` is PGDATA, `%%` is `%`.
        data_restore_command: String = "dataRestoreCommand", omit;
        /// Where archived WAL comes from.
        archive_recovery_settings: Option<ArchiveRecoverySettings> = "archiveRecoverySettings", omit;
        /// Where recovery ends.
        recovery_target_settings: Option<RecoveryTargetSettings> = "recoveryTargetSettings", omit;
    }
}

document! {
    /// How a whole cluster replicates an outside primary.
    pub struct StandbyConfig {
        /// Streaming.
        standby_settings: Option<StandbySettings> = "standbySettings", omit;
        /// Archive.
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
        /// `recovery_target`.
        recovery_target: String = "recoveryTarget", omit;
        /// `recovery_target_lsn`.
        recovery_target_lsn: String = "recoveryTargetLsn", omit;
        /// `recovery_target_name`.
        recovery_target_name: String = "recoveryTargetName", omit;
        /// `recovery_target_time`.
        recovery_target_time: String = "recoveryTargetTime", omit;
        /// `recovery_target_xid`.
        recovery_target_xid: String = "recoveryTargetXid", omit;
        /// `recovery_target_timeline`.
        recovery_target_timeline: String = "recoveryTargetTimeline", omit;
    }
}

document! {
    /// How an instance streams from a primary outside the cluster.
    pub struct StandbySettings {
        /// `primary_conninfo`.
        primary_conninfo: String = "primaryConninfo", omit;
        /// `primary_slot_name`.
        primary_slot_name: String = "primarySlotName", omit;
        /// `recovery_min_apply_delay`.
        recovery_min_apply_delay: String = "recoveryMinApplyDelay", omit;
    }
}
