//! Cluster data: the one document that holds the truth (wire: `clusterdata`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::challenge::Challenge;
use crate::effective::InvalidSpec;
use crate::former::FormerPrimary;
use crate::history::HistoryEntry;
use crate::json::{document, text_enum};
use crate::lsn::{Lsn, Timeline};
use crate::migration::{ClientsGo, Migration, ServerAddress};
use crate::pause::Pause;
use crate::spec::{
    ArchiveRecoverySettings, ClusterSpec, NewConfig, Parameters, PitrConfig, Role, StandbySettings,
};
use crate::switchover::{ProxyHandover, Switchover};
use crate::time::{GoDuration, Timestamp};
use crate::uid::{BootUuid, ClusterUid, InstanceUid, KeeperUid, ProxyUid, STOLON_PREFIX};

/// The only value of `formatVersion` that exists.
pub const FORMAT_VERSION: u64 = 1;

document! {
    /// The whole document, exactly as it lies in the store. Programs that decide work on [`ClusterData`].
    pub struct ClusterDocument {
        /// Always [`FORMAT_VERSION`].
        format_version: u64 = "formatVersion", keep;
        /// When the leader last wrote. Informational.
        change_time: Timestamp = "changeTime", keep;
        /// Absent only in a document that somebody wrote by hand.
        cluster: Option<ClusterSection> = "cluster", keep;
        /// Absent counts as empty.
        keepers: Option<BTreeMap<KeeperUid, Keeper>> = "keepers", keep;
        /// Absent counts as empty.
        instances: Option<BTreeMap<InstanceUid, Instance>> = "dbs", keep;
        /// Absent counts as empty.
        proxy: Option<ProxySection> = "proxy", keep;
    }
}

document! {
    /// `cluster` as it lies in the store.
    pub struct ClusterSection {
        /// Uid of the cluster.
        uid: ClusterUid = "uid", omit;
        /// 1 at creation, never changed.
        generation: i64 = "generation", omit;
        /// Last change by a sentinel.
        change_time: Timestamp = "changeTime", keep;
        /// Absent only in a document that somebody wrote by hand.
        spec: Option<ClusterSpec> = "spec", omit;
        /// What the sentinel decided.
        status: ClusterStatus = "status", keep;
        /// Ours, absent in Stolon's documents: an operator has agreed that keepers overwrite the data of other clusters.
        overwrite_data: bool = "overwriteData", omit;
        /// Ours, absent in Stolon's documents: raised with every write of a sentinel that somebody must act on.
        epoch: Option<u64> = "epoch", omit;
        /// Ours, absent in Stolon's documents: an operator has paused the cluster.
        pause: Option<Pause> = "pause", omit;
    }
}

/// Cluster data that can be worked with: the format version is ours and a cluster with a specification is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterData {
    /// When the leader last wrote. Informational.
    pub change_time: Timestamp,
    /// The cluster.
    pub cluster: Cluster,
    /// Every registered keeper.
    pub keepers: BTreeMap<KeeperUid, Keeper>,
    /// Every assignment of an instance to a keeper (wire: `dbs`).
    pub instances: BTreeMap<InstanceUid, Instance>,
    /// Where clients go.
    pub proxy: ProxySection,
}

/// The cluster: what is wanted of it and what was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Uid of the cluster.
    pub uid: ClusterUid,
    /// 1 at creation, never changed.
    pub generation: i64,
    /// Last change by a sentinel.
    pub change_time: Timestamp,
    /// What the operator wants.
    pub spec: ClusterSpec,
    /// What the sentinel decided.
    pub status: ClusterStatus,
    /// Whether an operator has agreed that keepers overwrite the data of other clusters; otherwise keepers set such data aside.
    pub overwrite_data: bool,
    /// Raised with every write of a sentinel that somebody must act on; none where a sentinel of Stolon wrote last.
    /// Tells a document that went back in time from the newest one.
    pub epoch: Option<u64>,
    /// An operator has paused the cluster; it may have lapsed.
    pub pause: Option<Pause>,
}

/// Why a document cannot be worked with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadClusterData {
    /// Another format.
    #[error("unsupported cluster data format version {0}")]
    FormatVersion(u64),
    /// `cluster` is null or absent.
    #[error("clusterdata validation failed: the document has no cluster")]
    NoCluster,
    /// `cluster.spec` is null or absent.
    #[error("clusterdata validation failed: the cluster has no specification")]
    NoSpec,
    /// `cluster.spec` breaks a rule.
    #[error("clusterdata validation failed: {0}")]
    Spec(InvalidSpec),
}

impl TryFrom<ClusterDocument> for ClusterData {
    type Error = BadClusterData;

    fn try_from(document: ClusterDocument) -> Result<Self, BadClusterData> {
        if document.format_version != FORMAT_VERSION {
            return Err(BadClusterData::FormatVersion(document.format_version));
        }
        let cluster = document.cluster.ok_or(BadClusterData::NoCluster)?;
        let spec = cluster.spec.ok_or(BadClusterData::NoSpec)?;
        Ok(ClusterData {
            change_time: document.change_time,
            cluster: Cluster {
                uid: cluster.uid,
                generation: cluster.generation,
                change_time: cluster.change_time,
                spec,
                status: cluster.status,
                overwrite_data: cluster.overwrite_data,
                epoch: cluster.epoch,
                pause: cluster.pause,
            },
            keepers: document.keepers.unwrap_or_default(),
            instances: document.instances.unwrap_or_default(),
            proxy: document.proxy.unwrap_or_default(),
        })
    }
}

impl From<ClusterData> for ClusterDocument {
    fn from(data: ClusterData) -> Self {
        ClusterDocument {
            format_version: FORMAT_VERSION,
            change_time: data.change_time,
            cluster: Some(ClusterSection {
                uid: data.cluster.uid,
                generation: data.cluster.generation,
                change_time: data.cluster.change_time,
                spec: Some(data.cluster.spec),
                status: data.cluster.status,
                overwrite_data: data.cluster.overwrite_data,
                epoch: data.cluster.epoch,
                pause: data.cluster.pause,
            }),
            keepers: Some(data.keepers),
            instances: Some(data.instances),
            proxy: Some(data.proxy),
        }
    }
}

impl ClusterData {
    /// A cluster that nobody has worked on yet, as `stolonctl init` writes it (the golden document `after_init.json` of the tests, apart
    /// from the epoch). Its epoch is the time in seconds, so that a store that goes back to it is noticed; none before 1970.
    pub fn initial(uid: ClusterUid, spec: ClusterSpec, now: Timestamp) -> Self {
        ClusterData {
            change_time: Timestamp::ZERO,
            cluster: Cluster {
                uid,
                generation: 1,
                change_time: now,
                spec,
                status: ClusterStatus { phase: Some(Phase::Initializing), ..ClusterStatus::default() },
                overwrite_data: false,
                epoch: u64::try_from(now.instant().as_second()).ok(),
                pause: None,
            },
            keepers: BTreeMap::new(),
            instances: BTreeMap::new(),
            proxy: ProxySection::default(),
        }
    }

    /// The instance assigned to a keeper; the one with the lowest uid if several name that keeper.
    pub fn instance_of(&self, keeper: &KeeperUid) -> Option<&Instance> {
        self.instances.values().find(|instance| &instance.spec.keeper_uid == keeper)
    }

    /// The keeper whose standby a replication slot of this name is for; none: it is for nobody in the cluster.
    pub fn keeper_of_slot(&self, slot: &str) -> Option<&KeeperUid> {
        let instance = self.instances.get(&InstanceUid::from(slot.strip_prefix(STOLON_PREFIX)?))?;
        Some(&instance.spec.keeper_uid)
    }

    /// Where a migration has proxies send clients.
    pub fn clients_go(&self) -> ClientsGo<'_> {
        let role = self.cluster.spec.role.as_ref().unwrap_or(&Role::Primary);
        let migration = self.cluster.status.migration.as_ref();
        migration.map_or(ClientsGo::ToCluster, |migration| migration.clients_go(role))
    }

    /// The legacy server that proxies send clients to: both the proxy section and the record of the migration say so.
    pub fn legacy_for_clients(&self) -> Option<&ServerAddress> {
        let told = self.proxy.spec.legacy.as_ref().filter(|_| self.proxy.spec.primary.is_none())?;
        (self.clients_go() == ClientsGo::ToLegacy(told)).then_some(told)
    }

    /// The elected primary, if there is one and the document holds it.
    pub fn primary(&self) -> Option<&Instance> {
        self.instances.get(self.cluster.status.primary.as_ref()?)
    }
}

text_enum! {
    /// How far the cluster is.
    pub enum Phase {
        /// The first instance is being made.
        Initializing => "initializing",
        /// There is, or was, a primary.
        Normal => "normal",
    }
}

document! {
    /// What the sentinel decided for the cluster.
    pub struct ClusterStatus {
        /// Part of Stolon's format; never set.
        current_generation: i64 = "currentGeneration", omit;
        /// How far the cluster is.
        phase: Option<Phase> = "phase", omit;
        /// The elected primary.
        primary: Option<InstanceUid> = "master", omit;
        /// Ours, unknown to Stolon, which drops it: what was done to the cluster lately, the newest last.
        history: Option<Arc<Vec<HistoryEntry>>> = "history", omit;
        /// Ours, unknown to Stolon, which drops it and so makes it void: a keeper is to show that it lives.
        challenge: Option<Challenge> = "challenge", omit;
        /// Ours, unknown to Stolon, which drops it: a planned change of the primary that is under way, or was the last one.
        switchover: Option<Switchover> = "switchover", omit;
        /// Ours, unknown to Stolon, which drops it: a migration of a database into this cluster.
        migration: Option<Migration> = "migration", omit;
        /// Ours, unknown to Stolon, which drops it: former primaries whose data their keepers may still hold, the last one last.
        formers: Option<Vec<FormerPrimary>> = "formerMasters", omit;
    }
}

document! {
    /// A registered keeper.
    pub struct Keeper {
        /// Uid, the same as the key.
        uid: KeeperUid = "uid", omit;
        /// Always 1.
        generation: i64 = "generation", omit;
        /// Last change by a sentinel.
        change_time: Timestamp = "changeTime", keep;
        /// Part of Stolon's format; always empty.
        spec: Option<Empty> = "spec", omit;
        /// What was observed of the keeper.
        status: KeeperStatus = "status", keep;
    }
}

document! {
    /// What was observed of a keeper.
    pub struct KeeperStatus {
        /// Whether the keeper reports.
        healthy: bool = "healthy", omit;
        /// When the keeper was healthy last.
        last_healthy_time: Timestamp = "lastHealthyTime", keep;
        /// The run of the keeper process that reports. A keeper that finds another run here keeps its PostgreSQL stopped.
        boot_uuid: BootUuid = "bootUUID", omit;
        /// Version of the keeper's PostgreSQL binaries; 0.0 when unknown.
        postgres_binary_version: PostgresVersion = "postgresBinaryVersion", keep;
        /// Ours, unknown to Stolon, which drops it: where the keeper can be asked for a pledge, and a primary's for a voucher; empty: nowhere.
        http_address: String = "httpAddress", omit;
        /// Set by `stolonctl failkeeper`, consumed by the leader.
        force_fail: bool = "forceFail", omit;
        /// Ours, absent in Stolon's documents: what the last request about the keeper (`stolonctl failkeeper`, `reinit`, `restart`, `reload`) was made for, and what became of it.
        fail_request: Option<FailRequest> = "failRequest", omit;
        /// Whether the keeper's instance may be elected; absent counts as true.
        can_be_primary: Option<bool> = "canBeMaster", omit;
        /// Whether the keeper's instance may be a synchronous standby; absent counts as true.
        can_be_synchronous_replica: Option<bool> = "canBeSynchronousReplica", omit;
        /// Ours, unknown to Stolon, which drops it: where the keeper stands, by its flag; empty: it does not say.
        zone: String = "zone", omit;
        /// Ours, unknown to Stolon, which drops it: who is preferred among those that are equally fit to be the primary, by the keeper's
        /// flag; absent: [`DEFAULT_PRIORITY`].
        failover_priority: Option<u32> = "failoverPriority", omit;
        /// Ours, unknown to Stolon, which drops it: what an operator has chosen in its place.
        chosen_priority: Option<u32> = "chosenPriority", omit;
    }
}

/// The priority of a keeper that says nothing else. A keeper of priority 0 never gets the primary.
pub const DEFAULT_PRIORITY: u32 = 1;

impl KeeperStatus {
    /// Who is preferred among those that are equally fit to be the primary: the higher; 0: never.
    pub fn priority(&self) -> u32 {
        self.chosen_priority.or(self.failover_priority).unwrap_or(DEFAULT_PRIORITY)
    }

    /// Whether the keeper's instance may ever be elected.
    pub fn may_be_primary(&self) -> bool {
        self.can_be_primary != Some(false) && self.priority() != 0
    }

    /// Whether both keepers say where they stand, and it is not the same zone.
    pub fn stands_elsewhere_than(&self, other: &KeeperStatus) -> bool {
        !self.zone.is_empty() && !other.zone.is_empty() && self.zone != other.zone
    }
}

document! {
    /// A request about one keeper. Losing it is safe: to fail a keeper then counts as a request of Stolon's, and nothing else happens.
    pub struct FailRequest {
        /// By which the command knows its own request.
        uid: String = "uid", omit;
        /// The primary when it was made: the request lapses with it.
        primary: Option<InstanceUid> = "master", omit;
        /// When it was made, by the clock of whoever made it.
        made_for: Timestamp = "madeFor", keep;
        /// What is asked for; absent: that the keeper counts as failed, once.
        kind: Option<RequestKind> = "kind", omit;
        /// The instance that is to be made anew, or whose server is to be restarted: the request is about no other.
        instance: InstanceUid = "dbUID", omit;
        /// The start of the server that is to be restarted: the request is about no other.
        started: Option<Timestamp> = "startedAt", omit;
        /// What became of it; absent until that is known.
        outcome: Option<FailOutcome> = "outcome", omit;
        /// Why, for people.
        because: String = "because", omit;
        /// When that was known.
        decided_at: Timestamp = "decidedAt", keep;
    }
}

text_enum! {
    /// What is asked of a keeper, or about it.
    pub enum RequestKind {
        /// That the data of its standby are made anew.
        Reinit => "reinit",
        /// That it restarts its PostgreSQL.
        Restart => "restart",
        /// That its PostgreSQL reads its files again.
        Reload => "reload",
    }
}

text_enum! {
    /// What became of a request about a keeper.
    pub enum FailOutcome {
        /// Another primary was elected.
        Replaced => "replaced",
        /// It was carried out. One to fail a keeper: it counted as failed once, and was not the primary's.
        Counted => "counted",
        /// Nothing happened.
        Nothing => "nothing",
        /// It came too late.
        Lapsed => "lapsed",
    }
}

document! {
    /// Version of PostgreSQL binaries; 0.0 when unknown.
    pub struct PostgresVersion {
        /// `15` of 15.4, `9` of 9.6.7.
        major: i64 = "Maj", keep;
        /// `4` of 15.4, `6` of 9.6.7.
        minor: i64 = "Min", keep;
    }
}

document! {
    /// An object without fields.
    pub struct Empty {}
}

text_enum! {
    /// How an instance comes to be.
    pub enum InstanceInitMode {
        /// The instance is there already.
        None => "none",
        /// Adopt the data in place.
        Existing => "existing",
        /// `initdb`.
        New => "new",
        /// Restore a backup.
        PointInTimeRecovery => "pitr",
        /// Copy from, or rewind against, another instance.
        Resync => "resync",
    }
}

document! {
    /// An assignment of a PostgreSQL instance to a keeper.
    pub struct Instance {
        /// Uid, the same as the key.
        uid: InstanceUid = "uid", omit;
        /// Starts at 1; one more whenever `spec` changes.
        generation: i64 = "generation", omit;
        /// Last change by a sentinel.
        change_time: Timestamp = "changeTime", keep;
        /// What the keeper must reach.
        spec: InstanceSpec = "spec", omit;
        /// What was observed of the instance.
        status: InstanceStatus = "status", keep;
    }
}

document! {
    /// What a keeper must reach for an instance.
    pub struct InstanceSpec {
        /// The keeper in charge.
        keeper_uid: KeeperUid = "keeperUID", omit;
        /// Copy of the cluster's.
        request_timeout: GoDuration = "requestTimeout", keep;
        /// Copy of the cluster's.
        max_standbys: u16 = "maxStandbys", omit;
        /// Whether this instance is a primary whose commits wait for standbys.
        synchronous_replication: bool = "synchronousReplication", omit;
        /// Copy of the cluster's.
        use_pg_rewind: bool = "usePgrewind", omit;
        /// Copy of the cluster's.
        additional_wal_senders: u16 = "additionalWalSenders", keep;
        /// Copy of the cluster's on the primary; null elsewhere.
        additional_replication_slots: Option<Vec<String>> = "additionalReplicationSlots", keep;
        /// How the instance comes to be.
        init_mode: Option<InstanceInitMode> = "initMode", omit;
        /// Options of `initdb`, read with [`InstanceInitMode::New`].
        new_config: Option<NewConfig> = "newConfig", omit;
        /// The backup to restore, read with [`InstanceInitMode::PointInTimeRecovery`].
        pitr_config: Option<PitrConfig> = "pitrConfig", omit;
        /// Copy of the cluster's.
        pg_parameters: Option<Arc<Parameters>> = "pgParameters", omit;
        /// Copy of the cluster's; null and `[]` differ.
        pg_hba: Option<Arc<Vec<String>>> = "pgHBA", keep;
        /// What the instance is asked to be.
        role: Option<Role> = "role", omit;
        /// Whom the instance follows; absent for a primary.
        follow_config: Option<FollowConfig> = "followConfig", omit;
        /// Instances that follow this one, sorted.
        followers: Option<Vec<InstanceUid>> = "followers", keep;
        /// Whether the parameters found at initialisation are kept.
        include_previous_config: bool = "includePreviousConfig", omit;
        /// Which standbys must acknowledge commits, sorted; null when not synchronous.
        synchronous_standbys: Option<Vec<InstanceUid>> = "synchronousStandbys", keep;
        /// Literal further names; only ever [`crate::FAKE_STANDBY`].
        external_synchronous_standbys: Option<Vec<String>> = "externalSynchronousStandbys", keep;
        /// Ours, absent in Stolon's documents: what its keeper has is not to be rewound, but copied. Losing it is safe.
        copy_anew: bool = "copyAnew", omit;
        /// Ours, absent in Stolon's documents: this primary is about to be replaced, and lets its ordinary clients go before. Losing it is safe: who
        /// was elected deposes it all the same.
        fenced: bool = "fenced", omit;
        /// Ours, absent in Stolon's documents: so many of the synchronous standbys must acknowledge a commit; 0: all of them. Losing it is safe:
        /// all of them are waited for then, and nobody counts as in sync before it has been (docs/design/016-quorum.md).
        synchronous_quorum: u16 = "synchronousQuorum", omit;
        /// Ours, absent in Stolon's documents: this standby is about to be compared with others, and receives nothing meanwhile. Losing it is safe:
        /// nobody is elected by comparison without it.
        stops_receiving: bool = "stopsReceiving", omit;
    }
}

text_enum! {
    /// Whether the followed instance belongs to this cluster.
    pub enum FollowType {
        /// An instance of this cluster.
        Internal => "internal",
        /// A primary outside.
        External => "external",
    }
}

document! {
    /// Whom an instance follows.
    pub struct FollowConfig {
        /// Whether the followed instance is inside or outside.
        follow_type: Option<FollowType> = "type", omit;
        /// The followed instance, if it is inside.
        instance_uid: InstanceUid = "dbuid", omit;
        /// How to stream from a primary outside.
        standby_settings: Option<StandbySettings> = "standbySettings", omit;
        /// Where archived WAL of a primary outside comes from.
        archive_recovery_settings: Option<ArchiveRecoverySettings> = "archiveRecoverySettings", omit;
    }
}

impl FollowConfig {
    /// Follow an instance of this cluster.
    pub fn internal(instance_uid: InstanceUid) -> Self {
        FollowConfig { follow_type: Some(FollowType::Internal), instance_uid, ..FollowConfig::default() }
    }
}

document! {
    /// What was observed of an instance.
    pub struct InstanceStatus {
        /// Whether its keeper reports that PostgreSQL works.
        healthy: bool = "healthy", omit;
        /// The generation that its keeper has reached; 0 = never reported.
        current_generation: i64 = "currentGeneration", omit;
        /// Advertised address, without brackets.
        listen_address: String = "listenAddress", omit;
        /// Advertised port.
        port: String = "port", omit;
        /// PostgreSQL system identifier in decimal. Misspelt on the wire.
        system_identifier: String = "systemdID", omit;
        /// Timeline of PostgreSQL.
        timeline: Timeline = "timelineID", omit;
        /// Position in the WAL.
        lsn: Lsn = "xLogPos", omit;
        /// The last two entries of the timeline history.
        timelines_history: Option<Vec<TimelineHistoryEntry>> = "timelinesHistory", omit;
        /// PostgreSQL parameters, except the managed ones.
        pg_parameters: Option<Arc<Parameters>> = "pgParameters", omit;
        /// Standbys known to be in sync; maintained by the sentinel.
        synchronous_standbys: Option<Vec<InstanceUid>> = "synchronousStandbys", keep;
        /// Name of the oldest WAL file that is still there.
        older_wal_file: String = "olderWalFile", omit;
        /// Whether it stores a password of the superuser or the replication user for MD5. Stolon ignores it, and may drop it.
        stores_md5: bool = "storesMD5", omit;
        /// Of a primary's slots for consumers outside of the cluster, up to where each has let WAL go: its standbys follow with theirs. Stolon ignores it,
        /// and may drop it.
        slot_positions: Option<BTreeMap<String, Lsn>> = "slotPositions", omit;
        /// Ours, absent in Stolon's documents: where it was before its host was set back; absent once it is there again.
        was_at: Option<WasAt> = "wasAt", omit;
        /// Ours, absent in Stolon's documents: by each of these a commit of this primary may have been acknowledged. Losing it is safe: nobody can be
        /// elected then before the primary has shown again who holds what.
        quorums: Option<Vec<Quorum>> = "quorums", omit;
    }
}

impl Instance {
    /// The rule that this primary is asked to acknowledge by; none: it waits for all of its synchronous standbys, or for nobody.
    pub fn quorum(&self) -> Option<Quorum> {
        let members = self.spec.synchronous_standbys.iter().flatten().cloned();
        (self.spec.synchronous_replication && self.spec.synchronous_quorum > 0)
            .then(|| Quorum::of(self.spec.synchronous_quorum, members))
    }
}

document! {
    /// A rule of acknowledgement: so many of these standbys, whichever they are.
    pub struct Quorum {
        /// How many.
        required: u16 = "required", omit;
        /// Of whom, sorted.
        standbys: Option<Vec<InstanceUid>> = "standbys", keep;
    }
}

impl Quorum {
    /// So many of these.
    pub fn of(required: u16, standbys: impl IntoIterator<Item = InstanceUid>) -> Self {
        let mut standbys: Vec<InstanceUid> = standbys.into_iter().collect();
        standbys.sort();
        standbys.dedup();
        Quorum { required, standbys: Some(standbys) }
    }

    /// Of whom it is.
    pub fn members(&self) -> &[InstanceUid] {
        self.standbys.as_deref().unwrap_or_default()
    }

    /// Among so many of its members there is at least one that has acknowledged, whichever those were. More than there are: no number of them
    /// tells, since commits by a rule of nobody are on nobody. 0: by this rule nothing can ever be acknowledged.
    pub fn to_compare(&self) -> usize {
        (self.members().len() + 1).saturating_sub(self.required.into())
    }
}

document! {
    /// How far an instance was at its furthest. Losing it is safe: a sentinel that runs remembers it.
    pub struct WasAt {
        /// Its timeline.
        timeline: Timeline = "timelineID", omit;
        /// Its position there.
        lsn: Lsn = "xLogPos", omit;
    }
}

document! {
    /// One fork in the past of an instance.
    pub struct TimelineHistoryEntry {
        /// The timeline that ended.
        timeline: Timeline = "timelineID", omit;
        /// Where it ended.
        switch_point: Lsn = "switchPoint", omit;
        /// Reason, in PostgreSQL's words.
        reason: String = "reason", omit;
    }
}

document! {
    /// Where clients go.
    pub struct ProxySection {
        /// Part of Stolon's format; never set.
        uid: ProxyUid = "uid", omit;
        /// One more whenever `spec` changes.
        generation: i64 = "generation", omit;
        /// Last change by a sentinel.
        change_time: Timestamp = "changeTime", keep;
        /// What proxies must do.
        spec: ProxySpec = "spec", keep;
        /// Part of Stolon's format; always empty.
        status: Empty = "status", keep;
    }
}

document! {
    /// What proxies must do.
    pub struct ProxySpec {
        /// The instance that clients are sent to; absent: none.
        primary: Option<InstanceUid> = "masterDbUid", omit;
        /// The proxies that may forward, sorted.
        enabled_proxies: Option<Vec<ProxyUid>> = "enabledProxies", omit;
        /// Ours, unknown to Stolon: clients are sent nowhere for a moment, since the primary is relieved.
        handover: Option<ProxyHandover> = "handOver", omit;
        /// Ours, unknown to Stolon, which drops it: clients are sent to the legacy server of a migration there, and to no instance.
        legacy: Option<ServerAddress> = "legacy", omit;
    }
}
