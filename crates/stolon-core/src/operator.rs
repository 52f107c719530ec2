//! What commands of operators make of the cluster data. `stolonctl` writes the result where nobody else has written meanwhile; the
//! simulator plays the same functions.

use std::collections::BTreeMap;

use stolon_model::{
    AccessMode, BadClusterData, ClusterData, ClusterDocument, ClusterSpec, ClusterUid, FailRequest,
    GoDuration, Keeper, KeeperReport, KeeperUid, Pause, RequestKind, Role, ServerAddress, Switchover,
    Timestamp, UpdateRefused, UsableCluster,
};

use crate::sentinel::{CannotSpare, spare};

/// What an edit of the cluster data asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Write the changed document.
    Write,
    /// Write nothing: everything is as it should be.
    Unneeded,
}

/// No keeper of this name is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchKeeper {
    /// Those that are.
    pub known: Vec<KeeperUid>,
}

impl NoSuchKeeper {
    fn among<'k>(known: impl Iterator<Item = &'k KeeperUid>) -> NoSuchKeeper {
        NoSuchKeeper { known: known.cloned().collect() }
    }
}

fn registered<'d>(
    document: &'d mut ClusterDocument,
    keeper: &KeeperUid,
) -> Result<&'d mut Keeper, NoSuchKeeper> {
    let keepers = document.keepers.get_or_insert_default();
    let others = NoSuchKeeper::among(keepers.keys());
    keepers.get_mut(keeper).ok_or(others)
}

/// Whom the keepers' own users are admitted from in a cluster that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// As the specification says, or as Stolon has it where it says nothing.
    AsSpecified,
    /// From the other instances only: nothing was said of a database that nobody uses yet.
    FromInstances,
}

/// `init`: what a database that is new gets where its operator has not chosen. One that exists may be backed up or followed from anywhere, and stays as it is.
/// Written down rather than assumed, so that every program reads the same in it, Stolon's too, and everybody can change it.
pub fn choose_defaults(spec: &mut ClusterSpec) -> Admitted {
    if !spec.leaves_access_open() {
        return Admitted::AsSpecified;
    }
    spec.default_su_repl_access_mode = Some(AccessMode::Strict);
    Admitted::FromInstances
}

/// `init`: a cluster that was not made yet, and that overwrites what keepers have.
pub fn new_cluster(uid: ClusterUid, spec: ClusterSpec, now: Timestamp) -> ClusterData {
    let mut data = ClusterData::initial(uid, spec, now);
    data.cluster.overwrite_data = true;
    data
}

/// Why a standby cluster is not promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotPromote {
    /// The cluster data cannot be worked with.
    Bad(BadClusterData),
    /// Proxies send clients to the legacy server of a migration.
    LegacyServes(ServerAddress),
    /// The specification with the other role is refused.
    Refused(UpdateRefused),
}

/// `promote`: the cluster's role becomes that of a primary.
///
/// # Errors
/// Why it does not.
pub fn promote(document: &mut ClusterDocument) -> Result<Edit, CannotPromote> {
    let data = ClusterData::try_from(document.clone()).map_err(CannotPromote::Bad)?;
    if let Some(legacy) = data.legacy_for_clients() {
        return Err(CannotPromote::LegacyServes(legacy.clone()));
    }
    let Some(cluster) = document.cluster.as_mut() else { return Ok(Edit::Unneeded) };
    let old = cluster.spec.clone().unwrap_or_default();
    if old.effective().role == Role::Primary {
        return Ok(Edit::Unneeded);
    }
    let new = ClusterSpec { role: Some(Role::Primary), ..old.clone() };
    old.check_update(&new).map_err(CannotPromote::Refused)?;
    cluster.spec = Some(new);
    Ok(Edit::Write)
}

/// `pause`: one that holds already is replaced.
pub fn pause(document: &mut ClusterDocument, pause: &Pause) -> Edit {
    let Some(cluster) = document.cluster.as_mut() else { return Edit::Unneeded };
    cluster.pause = Some(pause.clone());
    Edit::Write
}

/// `resume`: the pause that ends.
pub fn resume(document: &mut ClusterDocument) -> Option<Pause> {
    document.cluster.as_mut()?.pause.take()
}

/// `failkeeper`: the request `uid`, made `now`, that a keeper counts as failed once. `now` is not the time of the document: one that is at
/// rest may be a minute old, and the request would have lapsed before it was made.
///
/// # Errors
/// There is no such keeper.
pub fn fail_keeper(
    document: &mut ClusterDocument,
    keeper: &KeeperUid,
    uid: &str,
    now: Timestamp,
) -> Result<Edit, NoSuchKeeper> {
    let primary = document.cluster.as_ref().and_then(|cluster| cluster.status.primary.clone());
    let status = &mut registered(document, keeper)?.status;
    status.force_fail = true;
    let request = FailRequest { uid: uid.to_owned(), primary, made_for: now, ..FailRequest::default() };
    status.fail_request = Some(request);
    Ok(Edit::Write)
}

/// `priority`: `chosen` by an operator; none: that of the keeper's flag counts again.
///
/// # Errors
/// There is no such keeper.
pub fn choose_priority(
    document: &mut ClusterDocument,
    keeper: &KeeperUid,
    chosen: Option<u32>,
) -> Result<Edit, NoSuchKeeper> {
    let status = &mut registered(document, keeper)?.status;
    let before = std::mem::replace(&mut status.chosen_priority, chosen);
    Ok(if before == chosen { Edit::Unneeded } else { Edit::Write })
}

/// Another switchover is under way, which was asked for then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchoverUnderWay(pub Timestamp);

/// What `switchover` asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'w> {
    /// Of the request.
    pub uid: &'w str,
    /// Who is to have the primary; none: whoever is furthest ahead.
    pub to: Option<&'w KeeperUid>,
    /// How long it may take.
    pub timeout: GoDuration,
}

/// `switchover`: that another keeper gets the primary.
///
/// # Errors
/// Another one is under way.
pub fn ask_for_switchover(
    document: &mut ClusterDocument,
    wanted: Wanted<'_>,
    now: Timestamp,
) -> Result<Edit, SwitchoverUnderWay> {
    let Some(cluster) = &mut document.cluster else { return Ok(Edit::Unneeded) };
    if let Some(other) = cluster.status.switchover.as_ref().filter(|other| other.is_open()) {
        return Err(SwitchoverUnderWay(other.made_for));
    }
    cluster.status.switchover = Some(Switchover {
        uid: wanted.uid.to_owned(),
        from: cluster.status.primary.clone(),
        to: wanted.to.cloned(),
        // Not the time of the document: one that is at rest may be a minute old.
        made_for: now,
        epoch: cluster.epoch,
        timeout: wanted.timeout,
        ..Switchover::default()
    });
    Ok(Edit::Write)
}

/// Why a keeper is not asked to do something with its PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotPlace {
    /// The cluster data cannot be worked with.
    Bad(BadClusterData),
    /// The cluster is paused.
    Paused(Pause),
    /// The keeper has no instance.
    NoInstance,
    /// No such keeper is registered.
    NoSuchKeeper(NoSuchKeeper),
}

/// What `restart`, `reload` and `reinit` ask a keeper for.
#[derive(Clone, Debug)]
pub struct Errand<'e> {
    /// Of the request.
    pub uid: &'e str,
    /// What is asked for.
    pub kind: RequestKind,
    /// When the server was started that is to be restarted.
    pub started: Option<Timestamp>,
}

/// Nothing that moves anything is asked for in a pause.
///
/// # Errors
/// The cluster is paused.
pub fn refuse_pause(data: &ClusterData) -> Result<(), Pause> {
    data.cluster.pause.clone().map_or(Ok(()), Err)
}

/// `restart`, `reload`, `reinit`: a request about the PostgreSQL that the keeper has now.
///
/// # Errors
/// Why nothing is asked for.
pub fn place_errand(
    document: &mut ClusterDocument,
    keeper: &KeeperUid,
    errand: &Errand<'_>,
    now: Timestamp,
) -> Result<Edit, CannotPlace> {
    let data = ClusterData::try_from(document.clone()).map_err(CannotPlace::Bad)?;
    refuse_pause(&data).map_err(CannotPlace::Paused)?;
    let instance = data.instance_of(keeper).map(|instance| instance.uid.clone());
    let missing = || match data.keepers.contains_key(keeper) {
        true => CannotPlace::NoInstance,
        false => CannotPlace::NoSuchKeeper(NoSuchKeeper::among(data.keepers.keys())),
    };
    let request = FailRequest {
        uid: errand.uid.to_owned(),
        primary: data.cluster.status.primary.clone(),
        made_for: now,
        kind: Some(errand.kind.clone()),
        instance: instance.ok_or_else(missing)?,
        started: errand.started,
        ..FailRequest::default()
    };
    if let Some(found) = document.keepers.as_mut().and_then(|keepers| keepers.get_mut(keeper)) {
        found.status.fail_request = Some(request);
    }
    Ok(Edit::Write)
}

/// Why a keeper is not removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotRemove {
    /// The cluster data cannot be worked with.
    Bad(BadClusterData),
    /// No such keeper is registered.
    NoSuchKeeper(NoSuchKeeper),
    /// It is needed.
    CannotSpare(CannotSpare),
}

/// Whether the last copy may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastCopy {
    /// It is kept.
    Kept,
    /// An operator has agreed to lose it.
    MayBeLost,
}

/// `removekeeper`: the keeper and its instance are taken out.
///
/// # Errors
/// Why they are not.
pub fn remove_keeper(
    document: &mut ClusterDocument,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    keeper: &KeeperUid,
    last_copy: LastCopy,
) -> Result<Edit, CannotRemove> {
    let mut keepers = document.keepers.clone().unwrap_or_default();
    if keepers.remove(keeper).is_none() {
        return Err(CannotRemove::NoSuchKeeper(NoSuchKeeper::among(keepers.keys())));
    }
    let usable = UsableCluster::try_from(document.clone()).map_err(CannotRemove::Bad)?;
    match spare(&usable, reports, keeper) {
        Err(CannotSpare::LastCopy { .. }) if last_copy == LastCopy::MayBeLost => {}
        judged => judged.map_err(CannotRemove::CannotSpare)?,
    }
    document.keepers = Some(keepers);
    if let Some(instances) = &mut document.instances {
        instances.retain(|_, instance| instance.spec.keeper_uid != *keeper);
    }
    Ok(Edit::Write)
}
