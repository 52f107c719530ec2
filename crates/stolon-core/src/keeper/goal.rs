//! What the cluster data asks of one keeper.

use std::collections::BTreeSet;
use std::time::Duration;

use stolon_model::{
    AccessMode, ArchiveRecoverySettings, BootUuid, ClusterData, EffectiveSpec, FollowConfig, FollowType,
    Instance, InstanceInitMode, InstanceUid, KeeperUid, NewConfig, Phase, PitrConfig, Quorum, RequestKind,
    Role, STOLON_PREFIX, Served, StandbySettings, Timeline, Timestamp, UsableCluster, replication_name,
};

use super::hba::{HbaGoal, SlotReaders, User};
use super::parameters::{ParameterGoal, SyncAfterCrash, synchronous_names};
use super::part::{Part, stop_reason};
use super::slot_sync::SlotSync;
use super::store_commands::{NotAllowed, StoreCommands};
use crate::evidence::Evidence;
use crate::timeline::Mark;

/// What a keeper is and was told by its flags; constant while it runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Uid of the keeper.
    pub keeper: KeeperUid,
    /// This run of the process.
    pub boot: BootUuid,
    /// `--pg-listen-address`.
    pub listen_address: String,
    /// `--pg-port`.
    pub port: String,
    /// The superuser.
    pub superuser: User,
    /// `pg_rewind` needs somebody who may read the files of the source, with a password.
    pub rewind_credentials: RewindCredentials,
    /// The replication user.
    pub replication: User,
    /// Who reads the files of a source for `pg_rewind`; none: the superuser.
    pub rewinder: Option<User>,
    /// `--allowed-commands`.
    pub commands: StoreCommands,
    /// What the kernel of this machine allows.
    pub sync_after_crash: SyncAfterCrash,
}

/// Whether this keeper can run `pg_rewind` at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewindCredentials {
    /// The user for rewinds, or the superuser, has a name and a password.
    Present,
    /// There is no such user, and the superuser has no password.
    Absent,
}

/// What the cluster data asks of a keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Touch nothing; PostgreSQL stays as it is.
    LeaveAlone(LeaveAlone),
    /// PostgreSQL must not run.
    Stop(StopReason),
    /// Reach this.
    Reach(Box<InstanceGoal>),
}

/// Why nothing is touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaveAlone {
    /// There is nothing in the store.
    #[error("no cluster data available, waiting for it to appear")]
    NoClusterData,
    /// The store does not answer, or what it holds cannot be worked with.
    #[error("{0}")]
    Unusable(String),
    /// The store went back in time, or somebody wrote back an old document. What is here is newer than what is asked for.
    #[error("{0}: the store went back in time, so nothing is touched or started here")]
    OlderThanServed(OlderThanServed),
    /// The sentinel has not registered us yet.
    #[error("our keeper data is not available, waiting for it to appear")]
    KeeperUnknown,
    /// An earlier keeper left a server that is wanted as it is.
    #[error(
        "the server that was taken over goes on as it is until the sentinel has seen that this keeper was started anew"
    )]
    BootNotAcknowledged,
    /// The document asks for something that makes no sense.
    #[error("the cluster data asks for something impossible: {0}")]
    Impossible(String),
    /// The document asks for something that our operator has not allowed.
    #[error(transparent)]
    NotAllowed(NotAllowed),
}

/// Cluster data that are older than what this keeper served under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster data are older than what this keeper served under ({they} after {we})")]
pub struct OlderThanServed {
    /// Of the cluster data.
    pub they: DocumentAge,
    /// What we served under.
    pub we: DocumentAge,
}

impl OlderThanServed {
    /// What shows it, and what was served under.
    pub(super) fn by(evidence: Evidence, served: &Served) -> Self {
        let (they, we) = match evidence {
            Evidence::Epoch { document } => (DocumentAge::Epoch(document), DocumentAge::Epoch(served.epoch)),
            Evidence::Generation { document } => {
                (DocumentAge::Generation(document), DocumentAge::Generation(served.generation))
            }
            Evidence::Timeline { document } => {
                (DocumentAge::Timeline(document), DocumentAge::Timeline(served.timeline))
            }
        };
        OlderThanServed { they, we }
    }
}

/// What says how old cluster data are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentAge {
    /// The document's own count.
    Epoch(u64),
    /// That of our instance.
    Generation(i64),
    /// That of the primary, where the document does not hold our instance.
    Timeline(Timeline),
}

impl std::fmt::Display for DocumentAge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Epoch(epoch) => write!(f, "epoch {epoch}"),
            Self::Generation(generation) => write!(f, "generation {generation}"),
            Self::Timeline(timeline) => write!(f, "timeline {timeline}"),
        }
    }
}

/// Why PostgreSQL must not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// No instance is assigned to us.
    #[error("no db assigned")]
    NoInstance,
    /// The sentinel still sees our previous process.
    #[error("waiting for the sentinel to see that this keeper was started anew")]
    BootNotAcknowledged,
    /// An earlier keeper left a primary, and nobody can be asked about it.
    #[error("the primary that was taken over may have been replaced, and no cluster data can be read")]
    NothingKnown,
    /// Another instance is to be the primary.
    #[error("handing over to another db: PostgreSQL is stopped in order, so that nothing is lost")]
    HandsOver,
    /// Another instance became the primary.
    #[error("another db took over: PostgreSQL stays stopped until this one is asked to follow it")]
    HandedOver,
}

/// An instance to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceGoal {
    /// Which instance.
    pub uid: InstanceUid,
    /// Which generation of its specification.
    pub generation: i64,
    /// What it is asked to be.
    pub role: InstanceRole,
    /// How it comes to be when it is not here.
    pub make: Make,
    /// What becomes of what is here instead.
    pub other_data: OtherData,
    /// `postgresql.conf`.
    pub parameters: ParameterGoal,
    /// `pg_hba.conf`.
    pub hba: HbaGoal,
    /// Which commands may stand in either file.
    pub commands: StoreCommands,
    /// The superuser, for `pg_hba.conf`.
    pub superuser: User,
    /// The replication user, for `pg_hba.conf`.
    pub replication: User,
    /// Names of the `stolon_` slots that must exist, and no others.
    pub slots: BTreeSet<String>,
    /// Those of them that are for standbys of the cluster.
    pub member_slots: BTreeSet<String>,
    /// Slots that a standby keeps for the consumers of its primary, so that they find them there after a failover.
    pub copied_slots: BTreeSet<String>,
    /// When a changed parameter needs a restart.
    pub restart: RestartPolicy,
    /// An operator wants the server to be restarted that was started then.
    pub restart_asked: Option<Timestamp>,
    /// The request of an operator that the server read its files again.
    pub reload_asked: Option<String>,
    /// `dbWaitReadyTimeout`; none = for ever.
    pub ready_timeout: Option<Duration>,
    /// `syncTimeout`; none = for ever.
    pub sync_timeout: Option<Duration>,
}

/// What an instance is asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceRole {
    /// Takes writes.
    Primary(PrimaryGoal),
    /// Follows.
    Standby(Follow),
}

/// What a primary is asked besides taking writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryGoal {
    /// Its commits wait; these instances must be in sync before clients are let in after a start.
    pub synchronous: Option<BTreeSet<InstanceUid>>,
    /// Of these so many, whichever they are; none: all of them.
    pub quorum: Option<Quorum>,
    /// Former primaries that may come back in its place: what was flushed here before a crash and acknowledged by nobody must not be shown.
    pub may_return: BTreeSet<InstanceUid>,
    /// No client may write here any more, for this reason.
    pub deposed: Option<Deposed>,
    /// How far it was by the cluster data, and so by what it was elected for.
    pub was_at: Mark,
    /// The planned change for which a checkpoint is to be written.
    pub checkpoint_for: Option<String>,
}

/// Why no client may write on a primary any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deposed {
    /// This instance was elected.
    By(InstanceUid),
    /// Another one will be, as soon as no client can write here (docs/design/012-lease.md).
    Beforehand,
}

/// Whom a standby follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follow {
    /// An instance of this cluster.
    Internal(Peer),
    /// An instance of this cluster, of which nothing is received for the moment: standbys are about to be compared
    /// (docs/design/016-quorum.md).
    Stopped(Peer),
    /// An instance that the cluster data does not hold any more.
    Missing(InstanceUid),
    /// A primary outside.
    External {
        /// Streaming.
        standby: Option<StandbySettings>,
        /// Archive.
        archive: Option<ArchiveRecoverySettings>,
    },
}

/// Another instance of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Uid of the instance.
    pub uid: InstanceUid,
    /// What was observed of it.
    pub status: stolon_model::InstanceStatus,
}

/// How an instance comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Make {
    /// It must be here already.
    Nothing,
    /// The cluster data does not say how, for this reason. One that is here need not be made: a standby that was elected before the
    /// sentinel saw it ready still carries the way in which it was made, without the rest.
    Unknown(String),
    /// Adopt the data that is here.
    Adopt,
    /// `initdb`.
    New(NewConfig),
    /// Restore a backup and recover.
    Restore(PitrConfig),
    /// The same, in a way that our operator has not allowed.
    NotAllowed(NotAllowed),
    /// Copy from, or rewind against, another instance.
    Resync {
        /// Whom it will follow; none when the cluster data does not hold it.
        source: Option<Box<Peer>>,
        /// The elected primary, to rewind against; none when rewinding is out of the question.
        rewind_against: Option<Box<Peer>>,
        /// Whether what is here may do as it is.
        reuse: Reuse,
    },
}

/// Whether data that are here may become the wanted instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// As far as they are good for it.
    Allowed,
    /// An operator wants everything copied.
    Forbidden,
}

/// What becomes of the data of another cluster that stand where an instance is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherData {
    /// `stolonctl init` asked, and an operator agreed.
    Overwrite,
    /// A sentinel made the cluster from an initial specification. To it a store that was emptied is a new one, and that is
    /// nobody's consent to lose a database.
    SetAside,
}

/// When a changed parameter needs a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// The operator restarts (`automaticPgRestart` false).
    Manual,
    /// At once.
    Now,
    /// Once the standbys have restarted with theirs: limits must be raised there first.
    AfterStandbys,
}

impl Goal {
    /// What `cluster` asks of us. `spec` is its specification with the defaults filled in.
    pub fn of(cluster: &UsableCluster, us: &Identity) -> Goal {
        let (cluster, spec) = (cluster.data(), cluster.spec());
        let Some(keeper) = cluster.keepers.get(&us.keeper) else {
            return Goal::LeaveAlone(LeaveAlone::KeeperUnknown);
        };
        let Some((uid, instance)) = cluster.instances.iter().find(|(_, it)| it.spec.keeper_uid == us.keeper)
        else {
            return Goal::Stop(StopReason::NoInstance);
        };
        if keeper.status.boot_uuid != us.boot {
            return Goal::Stop(StopReason::BootNotAcknowledged);
        }
        if let Some(why) = stop_reason(cluster, &us.keeper, uid) {
            return Goal::Stop(why);
        }
        let follow = instance.spec.follow_config.as_ref();
        if let Some(Err(refused)) = follow.map(|follow| us.commands.check_follow(follow)) {
            return Goal::LeaveAlone(LeaveAlone::NotAllowed(refused));
        }
        match instance_goal(cluster, spec, us, uid, instance) {
            Ok(goal) => Goal::Reach(Box::new(goal)),
            Err(why) => Goal::LeaveAlone(LeaveAlone::Impossible(why)),
        }
    }
}

impl Goal {
    /// True when both ask for the same, apart from how far the others have got meanwhile.
    pub fn asks_the_same_as(&self, other: &Goal) -> bool {
        match (self, other) {
            (Goal::Reach(this), Goal::Reach(that)) => without_positions(this) == without_positions(that),
            _ => self == other,
        }
    }

    /// Whom a standby is asked to stream from, in words. None for those that live on an archive alone.
    pub fn upstream_in_words(&self) -> Option<String> {
        let Goal::Reach(goal) = self else { return None };
        match &goal.role {
            InstanceRole::Standby(Follow::Internal(peer)) => {
                Some(format!("{}:{}", peer.status.listen_address, peer.status.port))
            }
            InstanceRole::Standby(Follow::External { standby: Some(standby), .. })
                if !standby.primary_conninfo.is_empty() =>
            {
                Some("the primary outside of the cluster that primaryConninfo names".to_owned())
            }
            InstanceRole::Primary(_) | InstanceRole::Standby(_) => None,
        }
    }

    /// True for a primary beside which another instance was elected, or will be.
    pub fn is_deposed(&self) -> bool {
        let Goal::Reach(goal) = self else { return false };
        matches!(&goal.role, InstanceRole::Primary(primary) if primary.deposed.is_some())
    }

    /// The generation of a primary that lets its clients go before another one is elected.
    pub fn fenced_in(&self) -> Option<i64> {
        let Goal::Reach(goal) = self else { return None };
        let InstanceRole::Primary(primary) = &goal.role else { return None };
        (primary.deposed == Some(Deposed::Beforehand)).then_some(goal.generation)
    }

    /// The generation of a standby that is told to receive nothing.
    pub fn stopped_in(&self) -> Option<i64> {
        let Goal::Reach(goal) = self else { return None };
        matches!(goal.role, InstanceRole::Standby(Follow::Stopped(_))).then_some(goal.generation)
    }

    /// True for a primary that is asked for a checkpoint for this planned change.
    pub fn wants_checkpoint_for(&self, change: &str) -> bool {
        let Goal::Reach(goal) = self else { return false };
        matches!(&goal.role, InstanceRole::Primary(primary) if primary.checkpoint_for.as_deref() == Some(change))
    }

    /// True for a primary, unless another instance was elected beside it, or will be.
    pub fn is_to_serve(&self) -> bool {
        let Goal::Reach(goal) = self else { return false };
        matches!(&goal.role, InstanceRole::Primary(primary) if primary.deposed.is_none())
    }

    /// True when what is being made for this goal is of no use for `now`. Cluster data that cannot be read changes
    /// nothing, and neither do parameters: they come into force once the instance is made.
    pub fn is_given_up_by(&self, now: &Goal) -> bool {
        match (self, now) {
            (_, Goal::LeaveAlone(_)) => false,
            (Goal::Reach(this), Goal::Reach(that)) => {
                this.uid != that.uid || without_positions(this).make != without_positions(that).make
            }
            _ => self != now,
        }
    }
}

fn without_positions(goal: &InstanceGoal) -> InstanceGoal {
    let mut goal = goal.clone();
    let still = |peer: &mut Peer| {
        let status = std::mem::take(&mut peer.status);
        peer.status.listen_address = status.listen_address;
        peer.status.port = status.port;
        peer.status.system_identifier = status.system_identifier;
    };
    match &mut goal.role {
        InstanceRole::Primary(primary) => primary.was_at = Mark::default(),
        InstanceRole::Standby(Follow::Internal(peer) | Follow::Stopped(peer)) => still(peer),
        InstanceRole::Standby(_) => {}
    }
    if let Make::Resync { source, rewind_against, .. } = &mut goal.make {
        source.iter_mut().chain(rewind_against).for_each(|peer| still(peer));
    }
    goal
}

fn instance_goal(
    cluster: &ClusterData,
    spec: &EffectiveSpec,
    us: &Identity,
    uid: &InstanceUid,
    instance: &Instance,
) -> Result<InstanceGoal, String> {
    let wanted = &instance.spec;
    let standbys = wanted.synchronous_standbys.clone().unwrap_or_default();
    let external = wanted.external_synchronous_standbys.clone().unwrap_or_default();
    let required =
        Some(wanted.synchronous_quorum).filter(|required| wanted.synchronous_replication && *required > 0);
    let role = match &wanted.role {
        Some(Role::Primary) => InstanceRole::Primary(PrimaryGoal {
            synchronous: wanted.synchronous_replication.then(|| standbys.iter().cloned().collect()),
            quorum: required.map(|required| Quorum::of(required, standbys.iter().cloned())),
            may_return: may_return(cluster, uid),
            deposed: deposed(cluster, uid, instance),
            was_at: Mark::of(&instance.status),
            checkpoint_for: match Part::of(cluster, &us.keeper) {
                Some(Part::Checkpoint(change)) => Some(change),
                _ => None,
            },
        }),
        Some(Role::Standby) => InstanceRole::Standby(match follow(cluster, wanted.follow_config.as_ref())? {
            Follow::Internal(peer) if wanted.stops_receiving => Follow::Stopped(peer),
            follow => follow,
        }),
        Some(Role::Unknown(word)) => return Err(format!("db {uid} has the role {word:?}")),
        None => return Err(format!("db {uid} has no role")),
    };
    let synchronous_names =
        if wanted.synchronous_replication { synchronous_names(&standbys, &external) } else { Vec::new() };
    Ok(InstanceGoal {
        uid: uid.clone(),
        generation: instance.generation,
        make: make(cluster, us, uid, instance).unwrap_or_else(Make::Unknown),
        other_data: match cluster.cluster.overwrite_data {
            true => OtherData::Overwrite,
            false => OtherData::SetAside,
        },
        parameters: ParameterGoal {
            user: wanted.pg_parameters.as_deref().cloned().unwrap_or_default(),
            include_captured: wanted.include_previous_config,
            listen_address: us.listen_address.clone(),
            port: us.port.clone(),
            max_standbys: wanted.max_standbys,
            additional_wal_senders: wanted.additional_wal_senders,
            slot_wal_bound: spec.slot_wal_bound(),
            use_pg_rewind: wanted.use_pg_rewind,
            slot_sync: SlotSync::of(cluster, spec, instance, &role),
            synchronous_names,
            synchronous_quorum: required,
            sync_after_crash: us.sync_after_crash,
        },
        hba: hba_goal(us, cluster, spec, uid, instance, &role),
        commands: us.commands.clone(),
        superuser: us.superuser.clone(),
        replication: us.replication.clone(),
        slots: slots(uid, instance),
        member_slots: member_slots(uid, instance),
        copied_slots: copied_slots(spec, &role),
        restart: restart_policy(cluster, spec, &role, instance),
        restart_asked: restart_asked(cluster, us, uid),
        reload_asked: reload_asked(cluster, us, uid),
        role,
        ready_timeout: unless_zero(spec.db_wait_ready_timeout),
        sync_timeout: unless_zero(spec.sync_timeout),
    })
}

/// Which server an operator wants to be restarted. Another one that runs by now is not meant, and nothing is restarted while the cluster is
/// paused.
fn restart_asked(cluster: &ClusterData, us: &Identity, uid: &InstanceUid) -> Option<Timestamp> {
    let request = cluster.keepers.get(&us.keeper)?.status.fail_request.as_ref()?;
    let is_open = request.outcome.is_none() && cluster.cluster.pause.is_none();
    let is_meant = request.kind == Some(RequestKind::Restart) && request.instance == *uid;
    request.started.filter(|_| is_open && is_meant)
}

/// The request that the server read its files again.
fn reload_asked(cluster: &ClusterData, us: &Identity, uid: &InstanceUid) -> Option<String> {
    let request = cluster.keepers.get(&us.keeper)?.status.fail_request.as_ref()?;
    let is_meant = request.kind == Some(RequestKind::Reload) && request.instance == *uid;
    (request.outcome.is_none() && is_meant).then(|| request.uid.clone())
}

/// Zero is no limit.
fn unless_zero(timeout: Duration) -> Option<Duration> {
    (!timeout.is_zero()).then_some(timeout)
}

fn may_return(cluster: &ClusterData, us: &InstanceUid) -> BTreeSet<InstanceUid> {
    let formers = cluster.cluster.status.formers.iter().flatten();
    let others = formers.filter(|former| former.complete && former.instance != *us);
    others.map(|former| former.instance.clone()).collect()
}

/// The election of another is known to us before the sentinel takes our role away: stop taking writes at once.
fn deposed(cluster: &ClusterData, us: &InstanceUid, instance: &Instance) -> Option<Deposed> {
    let elected = cluster.cluster.status.primary.as_ref()?;
    let is_normal = cluster.cluster.status.phase == Some(Phase::Normal);
    match is_normal && !elected.is_empty() {
        true if elected != us => Some(Deposed::By(elected.clone())),
        true => instance.spec.fenced.then_some(Deposed::Beforehand),
        false => None,
    }
}

fn follow(cluster: &ClusterData, config: Option<&FollowConfig>) -> Result<Follow, String> {
    let config = config.ok_or("a standby without followConfig")?;
    match &config.follow_type {
        Some(FollowType::Internal) => Ok(match peer(cluster, &config.instance_uid) {
            Some(peer) => Follow::Internal(peer),
            None => Follow::Missing(config.instance_uid.clone()),
        }),
        Some(FollowType::External) => Ok(Follow::External {
            standby: config.standby_settings.clone(),
            archive: config.archive_recovery_settings.clone(),
        }),
        Some(FollowType::Unknown(word)) => Err(format!("a standby that follows by type {word:?}")),
        None => Err("a standby whose followConfig has no type".to_owned()),
    }
}

fn peer(cluster: &ClusterData, uid: &InstanceUid) -> Option<Peer> {
    cluster.instances.get(uid).map(|instance| Peer { uid: uid.clone(), status: instance.status.clone() })
}

fn make(
    cluster: &ClusterData,
    us: &Identity,
    uid: &InstanceUid,
    instance: &Instance,
) -> Result<Make, String> {
    let wanted = &instance.spec;
    Ok(match &wanted.init_mode {
        None | Some(InstanceInitMode::None) => Make::Nothing,
        Some(InstanceInitMode::Existing) => Make::Adopt,
        Some(InstanceInitMode::New) => Make::New(wanted.new_config.clone().unwrap_or_default()),
        Some(InstanceInitMode::PointInTimeRecovery) => {
            let pitr = wanted.pitr_config.as_ref().ok_or_else(|| format!("db {uid} has no pitrConfig"))?;
            match us.commands.check_restore(pitr) {
                Ok(()) => Make::Restore(pitr.clone()),
                Err(refused) => Make::NotAllowed(refused),
            }
        }
        Some(InstanceInitMode::Resync) => {
            let config =
                wanted.follow_config.as_ref().ok_or_else(|| format!("db {uid} has no followConfig"))?;
            let rewindable = wanted.use_pg_rewind
                && !wanted.copy_anew
                && us.rewind_credentials == RewindCredentials::Present;
            let primary = cluster.cluster.status.primary.as_ref().filter(|_| rewindable);
            Make::Resync {
                reuse: if wanted.copy_anew { Reuse::Forbidden } else { Reuse::Allowed },
                source: peer(cluster, &config.instance_uid).map(Box::new),
                rewind_against: primary
                    .and_then(|primary| peer(cluster, primary))
                    .filter(|primary| !primary.status.listen_address.is_empty())
                    .map(Box::new),
            }
        }
        Some(InstanceInitMode::Unknown(word)) => return Err(format!("db {uid} has the init mode {word:?}")),
    })
}

fn hba_goal(
    us: &Identity,
    cluster: &ClusterData,
    spec: &EffectiveSpec,
    uid: &InstanceUid,
    instance: &Instance,
    role: &InstanceRole,
) -> HbaGoal {
    let is_head = matches!(role, InstanceRole::Primary(_) | InstanceRole::Standby(Follow::External { .. }));
    let others = cluster.instances.iter().filter(|(other, _)| is_head && *other != uid);
    HbaGoal {
        access: match spec.default_su_repl_access_mode {
            AccessMode::Strict => AccessMode::Strict,
            _ => AccessMode::All,
        },
        peers: others.map(|(_, other)| other.status.listen_address.clone()).collect(),
        slot_readers: if spec.sync_logical_slots { SlotReaders::Standbys } else { SlotReaders::Nobody },
        rewinder: us.rewinder.clone(),
        operator_lines: instance.spec.pg_hba.as_deref().cloned(),
    }
}

fn slots(uid: &InstanceUid, instance: &Instance) -> BTreeSet<String> {
    let additional = instance.spec.additional_replication_slots.iter().flatten();
    let mut slots = member_slots(uid, instance);
    slots.extend(additional.map(|name| format!("{STOLON_PREFIX}{name}")));
    slots
}

/// By the specification of the cluster, and not of the instance: a keeper of Stolon's would make them on its standby, and advance none.
fn copied_slots(spec: &EffectiveSpec, role: &InstanceRole) -> BTreeSet<String> {
    match role {
        InstanceRole::Standby(Follow::Internal(_)) => {
            let names = spec.additional_primary_replication_slots.iter().flatten();
            names.map(|name| format!("{STOLON_PREFIX}{name}")).collect()
        }
        InstanceRole::Primary(_) | InstanceRole::Standby(_) => BTreeSet::new(),
    }
}

fn member_slots(uid: &InstanceUid, instance: &Instance) -> BTreeSet<String> {
    let followers = instance.spec.followers.iter().flatten().filter(|follower| *follower != uid);
    followers.map(replication_name).collect()
}

/// Raised limits must reach the standbys before the primary (PostgreSQL manual, "Hot Standby"); lowered ones
/// reach a standby only as far as the WAL that it replays allows. Nothing is restarted for parameters while the cluster is paused; a pause
/// that has lapsed is taken out of the cluster data by the sentinel.
fn restart_policy(
    cluster: &ClusterData,
    spec: &EffectiveSpec,
    role: &InstanceRole,
    instance: &Instance,
) -> RestartPolicy {
    if !spec.automatic_pg_restart || cluster.cluster.pause.is_some() {
        return RestartPolicy::Manual;
    }
    let waiting_for = |follower: &InstanceUid| {
        cluster
            .instances
            .get(follower)
            .is_some_and(|it| it.status.healthy && it.status.current_generation != it.generation)
    };
    match role {
        InstanceRole::Primary(_) if instance.spec.followers.iter().flatten().any(waiting_for) => {
            RestartPolicy::AfterStandbys
        }
        _ => RestartPolicy::Now,
    }
}
