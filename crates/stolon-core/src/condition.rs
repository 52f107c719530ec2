//! How a cluster does as a whole, for whoever has to decide whether to get up at night.
//!
//! By what lies in the store alone, as `stolonctl status` sees it: programs that died without a word are in it for a while.

use std::collections::BTreeMap;
use std::fmt;

use stolon_model::{
    ArchiverFault, ArchiverReport, ByteCount, DiskFault, DiskReport, FileSystemReport, Instance, InstanceUid,
    KeeperReport, KeeperUid, Pause, ProxyReport, ProxyUid, Quorum, Role, SentinelUid, SlotReport,
    StandbyPace, Timestamp, UsableCluster,
};

use crate::logical_slots::lacking;
use crate::sentinel::{eligibility, violations};

/// How a cluster does; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Nothing is wrong.
    Well,
    /// Clients are served, and something is broken: the next failure may not be survived.
    Degraded,
    /// No client can commit.
    NoWrites,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Well => "well",
            Self::Degraded => "degraded",
            Self::NoWrites => "no writes",
        })
    }
}

/// What the judgement is made from.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The cluster data.
    pub cluster: &'a UsableCluster,
    /// The reports of the keepers.
    pub keepers: &'a BTreeMap<KeeperUid, KeeperReport>,
    /// The reports of the proxies.
    pub proxies: &'a BTreeMap<ProxyUid, ProxyReport>,
    /// The sentinels that report.
    pub sentinels: &'a [SentinelUid],
    /// The sentinel that leads.
    pub leader: Option<&'a SentinelUid>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// There is no primary.
    NoPrimary,
    /// The primary's keeper does not report.
    PrimarySilent(KeeperUid),
    /// The primary's PostgreSQL does not work.
    PrimaryFailed(KeeperUid),
    /// Synchronous mode, and nobody is there whom a commit could wait for.
    NobodyToWaitFor {
        /// `minSynchronousStandbys`.
        least: u16,
    },
    /// Synchronous mode: commits wait for these, which are not in sync.
    CommitsWait(Vec<KeeperUid>),
    /// Commits wait for a quorum, and fewer standbys than it asks for are there.
    TooFewForQuorum {
        /// How many there are.
        members: usize,
        /// `synchronousQuorum`.
        required: u16,
    },
    /// Synchronous mode: these are in sync, and have confirmed nothing for seconds.
    CommitsStall(Vec<KeeperUid>),
    /// The proxies are sent to nobody.
    ProxiesClosed,
    /// No sentinel decides anything.
    NobodyDecides {
        /// When the cluster data were changed last.
        since: Timestamp,
        /// How many sentinels report all the same.
        sentinels: usize,
    },
    /// A keeper does not report.
    KeeperSilent(KeeperUid),
    /// The PostgreSQL of a standby does not work.
    StandbyFailed(KeeperUid),
    /// There are standbys, and none of them could take the primary's place.
    NobodyCanTakeOver,
    /// The disk of the primary takes nothing, or has no room.
    PrimaryDisk(KeeperUid, DiskReport),
    /// That of a standby.
    StandbyDisk(KeeperUid, DiskReport),
    /// A file system is nearly full.
    LittleRoom {
        /// Of this keeper's PostgreSQL.
        keeper: KeeperUid,
        /// What it is used for.
        place: String,
        /// What is left.
        free: ByteCount,
    },
    /// The WAL of this keeper's PostgreSQL does not get to the archive.
    Archiving(KeeperUid, ArchiverReport),
    /// A slot holds more than half of the WAL that it may hold.
    SlotNearBound {
        /// The keeper of the server that keeps the WAL.
        keeper: KeeperUid,
        /// The slot.
        slot: String,
        /// The keeper whose standby it is for.
        of: Option<KeeperUid>,
        /// What it holds.
        held: ByteCount,
        /// What may be written yet.
        left: ByteCount,
    },
    /// A standby has no copy of logical slots whose users want that they survive a failover.
    SlotsNotCopied(KeeperUid, Vec<String>),
    /// The cluster data break a rule.
    BrokenRule(String),
    /// An operator has paused the cluster: the next failure is not answered.
    Paused(Pause),
    /// A keeper tells of trouble.
    Trouble(KeeperUid, String),
    /// A proxy turns clients away, since it can make no connection for them to this address.
    CannotReach(ProxyUid, String),
}

impl Finding {
    /// How a cluster does of which this is true.
    pub fn condition(&self) -> Condition {
        match self {
            Self::NoPrimary
            | Self::PrimarySilent(_)
            | Self::PrimaryFailed(_)
            | Self::NobodyToWaitFor { .. }
            | Self::CommitsWait(_)
            | Self::TooFewForQuorum { .. }
            | Self::CommitsStall(_)
            | Self::PrimaryDisk(..)
            | Self::ProxiesClosed => Condition::NoWrites,
            Self::NobodyDecides { .. }
            | Self::KeeperSilent(_)
            | Self::StandbyFailed(_)
            | Self::NobodyCanTakeOver
            | Self::Paused(_)
            | Self::StandbyDisk(..)
            | Self::LittleRoom { .. }
            | Self::Archiving(..)
            | Self::SlotNearBound { .. }
            | Self::SlotsNotCopied(..)
            | Self::BrokenRule(_)
            | Self::Trouble(..)
            | Self::CannotReach(..) => Condition::Degraded,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPrimary => f.write_str("there is no master"),
            Self::PrimarySilent(keeper) => write!(f, "the master keeper {keeper} does not report"),
            Self::PrimaryFailed(keeper) => {
                write!(f, "PostgreSQL of the master keeper {keeper} does not work")
            }
            Self::NobodyToWaitFor { least } => write!(
                f,
                "commits wait: no standby can acknowledge them, and minSynchronousStandbys is {least}"
            ),
            Self::CommitsWait(keepers) => {
                let names: Vec<&str> = keepers.iter().map(KeeperUid::as_str).collect();
                write!(f, "commits wait for standbys that are not in sync: {}", names.join(", "))
            }
            Self::TooFewForQuorum { members, required } => write!(
                f,
                "commits wait: standbys that can acknowledge them: {members}, and synchronousQuorum is {required}"
            ),
            Self::CommitsStall(keepers) => {
                let names: Vec<&str> = keepers.iter().map(KeeperUid::as_str).collect();
                let names = names.join(", ");
                write!(f, "commits wait for standbys that have confirmed nothing for seconds: {names}")
            }
            Self::ProxiesClosed => f.write_str("the proxies are closed"),
            Self::NobodyDecides { since, sentinels } => {
                match sentinels {
                    0 => f.write_str("no sentinel runs, so nothing is decided: start stolon-sentinel")?,
                    1 => f.write_str("the only sentinel does not lead, so nothing is decided")?,
                    count => write!(f, "none of {count} sentinels leads, so nothing is decided")?,
                }
                if *since == Timestamp::ZERO {
                    return Ok(());
                }
                write!(f, "; the cluster data were changed last at {since}")
            }
            Self::KeeperSilent(keeper) => write!(f, "keeper {keeper} does not report"),
            Self::StandbyFailed(keeper) => write!(f, "PostgreSQL of keeper {keeper} does not work"),
            Self::NobodyCanTakeOver => f.write_str("no standby could take over now"),
            Self::Paused(pause) => write!(f, "the cluster is paused {pause}: nobody would be elected now"),
            Self::PrimaryDisk(keeper, disk) => write!(f, "the master keeper {keeper}: {}", DiskWords(disk)),
            Self::StandbyDisk(keeper, disk) => write!(f, "keeper {keeper}: {}", DiskWords(disk)),
            Self::LittleRoom { keeper, place, free } => {
                write!(f, "the file system of {keeper} for {place} has only {free} left")
            }
            Self::Archiving(keeper, archiver) => write!(f, "keeper {keeper}: {}", ArchiverWords(archiver)),
            Self::SlotNearBound { keeper, slot, of, held, left } => {
                write!(
                    f,
                    "the replication slot {slot} of {keeper} holds {held} of WAL: after another {left} "
                )?;
                match of {
                    Some(of) => write!(f, "{of} lacks WAL, and is copied anew when it is back"),
                    None => f.write_str("whoever uses it lacks WAL"),
                }
            }
            Self::SlotsNotCopied(keeper, slots) => write!(
                f,
                "keeper {keeper} has no copy of the logical slots {}: their consumers would find none if it took over; PostgreSQL's log \
                 there says why, and a consumer that takes nothing holds its copy up",
                slots.join(", ")
            ),
            Self::BrokenRule(rule) => write!(f, "the cluster data are broken: {rule}"),
            Self::Trouble(keeper, sentence) => write!(f, "{keeper}: {sentence}"),
            Self::CannotReach(proxy, address) => write!(
                f,
                "proxy {proxy} cannot connect to {address} and turns clients away: its log says why"
            ),
        }
    }
}

/// The worst of these, and [`Condition::Well`] if there is nothing.
pub fn condition(findings: &[Finding]) -> Condition {
    findings.iter().map(Finding::condition).max().unwrap_or(Condition::Well)
}

/// Everything that is wrong, the worst first.
pub fn findings(evidence: Evidence<'_>) -> Vec<Finding> {
    let data = evidence.cluster.data();
    let mut findings = match data.primary() {
        None => vec![Finding::NoPrimary],
        Some(primary) => {
            let mut findings = evidence.of_primary(primary);
            findings.extend(evidence.of_standbys(primary));
            findings
        }
    };
    if evidence.leader.is_none() {
        findings
            .push(Finding::NobodyDecides { since: data.change_time, sentinels: evidence.sentinels.len() });
    }
    findings.extend(data.cluster.pause.iter().cloned().map(Finding::Paused));
    findings.extend(violations(data).iter().map(|rule| Finding::BrokenRule(rule.to_string())));
    findings.extend(evidence.disks());
    findings.extend(evidence.archivers());
    findings.extend(evidence.slots_near_bound());
    findings.extend(evidence.slots_not_copied());
    findings.extend(evidence.troubles());
    findings.extend(cannot_reach(evidence.proxies));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.condition()));
    findings
}

/// The proxies that turn clients away, one finding each.
pub fn cannot_reach(proxies: &BTreeMap<ProxyUid, ProxyReport>) -> impl Iterator<Item = Finding> {
    let failing = proxies.iter().filter(|(_, report)| !report.unreachable.is_empty());
    failing.map(|(uid, report)| Finding::CannotReach(uid.clone(), report.unreachable.clone()))
}

impl Evidence<'_> {
    fn keeper_reports(&self, keeper: &KeeperUid) -> bool {
        self.cluster.data().keepers.get(keeper).is_some_and(|keeper| keeper.status.healthy)
    }

    fn of_primary(&self, primary: &Instance) -> Vec<Finding> {
        let keeper = primary.spec.keeper_uid.clone();
        if !self.keeper_reports(&keeper) {
            return vec![Finding::PrimarySilent(keeper)];
        }
        if !primary.status.healthy {
            return vec![Finding::PrimaryFailed(keeper)];
        }
        let mut findings: Vec<Finding> = self.commits_wait(primary).into_iter().collect();
        let data = self.cluster.data();
        if data.proxy.spec.primary.is_none() && data.legacy_for_clients().is_none() {
            findings.push(Finding::ProxiesClosed);
        }
        findings
    }

    /// Whom the primary waits for, by the cluster data, and whether they are in sync, by its keeper's last report.
    fn commits_wait(&self, primary: &Instance) -> Option<Finding> {
        let is_standby_cluster = primary.spec.role != Some(Role::Primary);
        if !primary.spec.synchronous_replication || is_standby_cluster {
            return None;
        }
        let listed = primary.spec.synchronous_standbys.as_deref().unwrap_or_default();
        let foreign = primary.spec.external_synchronous_standbys.as_deref().unwrap_or_default();
        let least = self.cluster.spec().min_synchronous_standbys;
        if listed.is_empty() && foreign.is_empty() {
            return (least > 0).then_some(Finding::NobodyToWaitFor { least });
        }
        let report = self.keepers.get(&primary.spec.keeper_uid)?;
        if let Some(quorum) = primary.quorum() {
            return self.quorum_waits(&quorum, !foreign.is_empty(), report);
        }
        let in_sync = report.postgres_state.as_ref()?.synchronous_standbys.as_ref()?;
        let late: Vec<KeeperUid> =
            listed.iter().filter(|uid| !in_sync.contains(uid)).map(|uid| self.keeper_of(uid)).collect();
        if !late.is_empty() {
            return Some(Finding::CommitsWait(late));
        }
        let paces = report.activity.as_ref()?.standby_pace.as_ref()?;
        let stalled = listed.iter().filter(|uid| paces.get(uid) == Some(&StandbyPace::Stalled));
        let stalled: Vec<KeeperUid> = stalled.map(|uid| self.keeper_of(uid)).collect();
        (!stalled.is_empty()).then_some(Finding::CommitsStall(stalled))
    }

    /// A quorum takes commits as long as enough of its members keep up, whichever they are.
    fn quorum_waits(&self, quorum: &Quorum, is_blocked: bool, report: &KeeperReport) -> Option<Finding> {
        let activity = report.activity.as_ref()?;
        if is_blocked {
            let required = self.cluster.spec().synchronous_quorum.unwrap_or(quorum.required);
            return Some(Finding::TooFewForQuorum { members: quorum.members().len(), required });
        }
        let paces = activity.standby_pace.as_ref();
        let keeps_up = |uid: &&InstanceUid| {
            paces.and_then(|paces| paces.get(*uid)).is_some_and(|pace| *pace != StandbyPace::Stalled)
        };
        let (up, late): (Vec<_>, Vec<_>) = quorum.members().iter().partition(keeps_up);
        let late: Vec<KeeperUid> = late.into_iter().map(|uid| self.keeper_of(uid)).collect();
        (up.len() < quorum.required.into()).then_some(Finding::CommitsStall(late))
    }

    fn keeper_of(&self, instance: &InstanceUid) -> KeeperUid {
        let found = self.cluster.data().instances.get(instance);
        found.map_or_else(|| KeeperUid::from(instance.as_str()), |found| found.spec.keeper_uid.clone())
    }

    fn of_standbys(&self, primary: &Instance) -> Vec<Finding> {
        let data = self.cluster.data();
        let mut findings = Vec::new();
        for uid in data.keepers.keys().filter(|uid| **uid != primary.spec.keeper_uid) {
            if !self.keeper_reports(uid) {
                findings.push(Finding::KeeperSilent(uid.clone()));
            } else if data.instance_of(uid).is_some_and(|instance| !instance.status.healthy) {
                findings.push(Finding::StandbyFailed(uid.clone()));
            }
        }
        let candidates = eligibility(self.cluster, self.keepers);
        if !candidates.is_empty() && candidates.iter().all(|candidate| candidate.rejection.is_some()) {
            findings.push(Finding::NobodyCanTakeOver);
        }
        findings
    }

    /// What keepers tell of their disks.
    fn disks(&self) -> Vec<Finding> {
        let primary = self.cluster.data().primary().map(|primary| &primary.spec.keeper_uid);
        let of_report = |(keeper, report): (&KeeperUid, &KeeperReport)| -> Vec<Finding> {
            let Some(activity) = &report.activity else { return Vec::new() };
            if let Some(disk) = activity.disk.clone() {
                let finding = match primary == Some(keeper) {
                    true => Finding::PrimaryDisk(keeper.clone(), disk),
                    false => Finding::StandbyDisk(keeper.clone(), disk),
                };
                return vec![finding];
            }
            let nearly_full = activity.file_systems.iter().flatten().filter(|it| is_nearly_full(it));
            let finding = |it: &FileSystemReport| Finding::LittleRoom {
                keeper: keeper.clone(),
                place: it.uses.iter().flatten().cloned().collect::<Vec<_>>().join(", "),
                free: ByteCount(it.free_bytes),
            };
            nearly_full.map(finding).collect()
        };
        self.keepers.iter().flat_map(of_report).collect()
    }

    /// Whose WAL does not get to the archive.
    fn archivers(&self) -> Vec<Finding> {
        let told = |(keeper, report): (&KeeperUid, &KeeperReport)| {
            let archiver = report.activity.as_ref()?.archiver.clone()?;
            archiver.fault.is_some().then(|| Finding::Archiving(keeper.clone(), archiver))
        };
        self.keepers.iter().filter_map(told).collect()
    }

    /// While the bound is far nothing is wrong: a standby that restarts is behind for a moment.
    fn slots_near_bound(&self) -> Vec<Finding> {
        let data = self.cluster.data();
        let of_report = |(keeper, report): (&KeeperUid, &KeeperReport)| -> Vec<Finding> {
            let slots = report.activity.iter().flat_map(|activity| activity.slots.iter().flatten());
            let near = |slot: &SlotReport| {
                let (held, left) = (slot.held_bytes?, slot.left_bytes?);
                (left < held).then(|| Finding::SlotNearBound {
                    keeper: keeper.clone(),
                    slot: slot.name.clone(),
                    of: data.keeper_of_slot(&slot.name).cloned(),
                    held: ByteCount(held),
                    left: ByteCount(left),
                })
            };
            slots.filter_map(near).collect()
        };
        self.keepers.iter().flat_map(of_report).collect()
    }

    fn slots_not_copied(&self) -> Vec<Finding> {
        let data = self.cluster.data();
        let Some(primary) = data.primary().filter(|_| self.cluster.spec().sync_logical_slots) else {
            return Vec::new();
        };
        let report = self.keepers.get(&primary.spec.keeper_uid);
        let standbys = data.instances.values().filter(|it| it.uid != primary.uid && it.status.healthy);
        let lacks = |standby: &Instance| {
            let keeper = &standby.spec.keeper_uid;
            let slots = lacking(report, self.keepers.get(keeper));
            (!slots.is_empty()).then(|| Finding::SlotsNotCopied(keeper.clone(), slots))
        };
        standbys.filter_map(lacks).collect()
    }

    fn troubles(&self) -> Vec<Finding> {
        let told = |(uid, report): (&KeeperUid, &KeeperReport)| {
            let activity = report.activity.as_ref()?;
            let problems = [&activity.problem, &activity.replication_problem];
            let first = problems.into_iter().find(|problem| !problem.is_empty())?;
            Some(Finding::Trouble(uid.clone(), first.replace('\n', " ")))
        };
        self.keepers.iter().filter_map(told).collect()
    }
}

/// Less than a twentieth, and less than a gibibyte, of which large file systems have enough.
fn is_nearly_full(file_system: &FileSystemReport) -> bool {
    const ENOUGH: u64 = 1 << 30;
    file_system.free_bytes < (file_system.total_bytes / 20).min(ENOUGH)
}

/// What is wrong with a disk, in words.
#[derive(Clone, Copy, Debug)]
pub struct DiskWords<'a>(pub &'a DiskReport);

impl fmt::Display for DiskWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DiskReport { fault, place, words, .. } = self.0;
        match fault {
            Some(DiskFault::Full) => write!(f, "the disk for {place} is full"),
            Some(DiskFault::Hangs) => {
                write!(f, "the disk for {place} hangs: what is written does not arrive")
            }
            _ => write!(f, "the disk for {place} takes nothing: {words}"),
        }
    }
}

/// What is wrong with the archiving of WAL, since when, and what to do about it, in words.
#[derive(Clone, Copy, Debug)]
pub struct ArchiverWords<'a>(pub &'a ArchiverReport);

impl fmt::Display for ArchiverWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ArchiverReport { fault, waiting_files, first_waiting, waiting_since, last_failed, .. } = self.0;
        write!(f, "WAL is not archived: {first_waiting} has waited")?;
        if let Some(since) = waiting_since {
            write!(f, " since {since}")?;
        }
        match waiting_files {
            0 | 1 => {}
            2 => f.write_str(", and 1 file after it")?,
            files => write!(f, ", and {} files after it", files - 1)?,
        }
        match fault {
            Some(ArchiverFault::Fails) => {
                write!(f, "; archive_command or archive_library failed last for {last_failed}: see PostgreSQL's log, and mend it")?;
            }
            _ => f.write_str("; archive_command or archive_library hangs, does not keep up, or is not set: look at what it waits for")?,
        }
        f.write_str("; until then pg_wal grows, and recovery to a point in time ends before this file")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
#[path = "condition_tests.rs"]
mod tests;
