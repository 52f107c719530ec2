//! How a cluster does as a whole, for whoever has to decide whether to get up at night.
//!
//! By what lies in the store alone, as `stolonctl status` sees it: programs that died without a word are in it for a while.

use std::collections::BTreeMap;
use std::fmt;

use stolon_model::{
    ByteCount, DiskFault, DiskReport, FileSystemReport, Instance, InstanceUid, KeeperReport, KeeperUid,
    Pause, Role, SentinelUid, SlotReport, StandbyPace, Timestamp, UsableCluster,
};

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
    /// The cluster data break a rule.
    BrokenRule(String),
    /// An operator has paused the cluster: the next failure is not answered.
    Paused(Pause),
    /// A keeper tells of trouble.
    Trouble(KeeperUid, String),
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
            | Self::SlotNearBound { .. }
            | Self::BrokenRule(_)
            | Self::Trouble(..) => Condition::Degraded,
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
            Self::BrokenRule(rule) => write!(f, "the cluster data are broken: {rule}"),
            Self::Trouble(keeper, sentence) => write!(f, "{keeper}: {sentence}"),
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
    findings.extend(evidence.slots_near_bound());
    findings.extend(evidence.troubles());
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.condition()));
    findings
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
        if self.cluster.data().proxy.spec.primary.is_none() {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use stolon_model::{ClusterDocument, Document, KeeperActivity};

    use super::*;

    const DOCUMENT: &str = r#"{"formatVersion":1,"changeTime":"2026-01-02T03:04:05Z","cluster":{"uid":"c","generation":1,"changeTime":"0001-01-01T00:00:00Z","spec":{"initMode":"new"},"status":{"phase":"normal","master":"aa"}},
"keepers":{"k1":{"uid":"k1","status":{"healthy":true}},"k2":{"uid":"k2","status":{"healthy":true}}},
"dbs":{"aa":{"uid":"aa","generation":3,"spec":{"keeperUID":"k1","role":"master","initMode":"none","followers":["bb"]},"status":{"healthy":true,"currentGeneration":3,"systemdID":"7","timelineID":1}},
"bb":{"uid":"bb","generation":2,"spec":{"keeperUID":"k2","role":"standby","initMode":"none","followConfig":{"type":"internal","dbuid":"aa"}},"status":{"healthy":true,"currentGeneration":2,"systemdID":"7","timelineID":1}}},
"proxy":{"generation":1,"spec":{"masterDBUID":"aa"}}}"#;

    /// The findings in words, with a leader.
    fn judged(change: impl FnOnce(&mut ClusterDocument), reports: &[KeeperReport]) -> Vec<String> {
        let mut document = ClusterDocument::from_json(DOCUMENT).unwrap();
        change(&mut document);
        let cluster = UsableCluster::try_from(document).unwrap();
        let keepers = reports.iter().map(|report| (report.uid.clone(), report.clone())).collect();
        let leader = SentinelUid::from("s");
        let sentinels = [leader.clone()];
        let evidence =
            Evidence { cluster: &cluster, keepers: &keepers, sentinels: &sentinels, leader: Some(&leader) };
        findings(evidence).iter().map(|it| format!("{}: {it}", it.condition())).collect()
    }

    fn primary_of(document: &mut ClusterDocument) -> &mut Instance {
        document.instances.as_mut().unwrap().get_mut(&InstanceUid::from("aa")).unwrap()
    }

    fn synchronous(standbys: &[&str]) -> impl FnOnce(&mut ClusterDocument) {
        let standbys = standbys.iter().map(|uid| InstanceUid::from(*uid)).collect();
        move |document| {
            let primary = primary_of(document);
            primary.spec.synchronous_replication = true;
            primary.spec.synchronous_standbys = Some(standbys);
            primary.status.synchronous_standbys = primary.spec.synchronous_standbys.clone();
        }
    }

    fn report(in_sync: &[&str]) -> KeeperReport {
        let mut state = stolon_model::PostgresState::default();
        state.synchronous_standbys = Some(in_sync.iter().map(|uid| InstanceUid::from(*uid)).collect());
        KeeperReport { uid: "k1".into(), postgres_state: Some(state), ..KeeperReport::default() }
    }

    #[test]
    fn a_cluster_in_which_everything_works_is_well() {
        assert_eq!(judged(|_| {}, &[]), Vec::<String>::new());
        assert_eq!(judged(synchronous(&["bb"]), &[report(&["bb"])]), Vec::<String>::new());
        assert_eq!(condition(&[]), Condition::Well);
    }

    #[test]
    fn a_standby_in_sync_that_confirms_nothing_holds_commits_up() {
        let mut stalled = report(&["bb"]);
        let pace = |pace| Some([("bb".into(), pace), ("cc".into(), StandbyPace::Stalled)].into());
        let activity = |pace| Some(KeeperActivity { standby_pace: pace, ..KeeperActivity::default() });
        stalled.activity = activity(pace(StandbyPace::Stalled));
        assert_eq!(
            judged(synchronous(&["bb"]), &[stalled.clone()]),
            ["no writes: commits wait for standbys that have confirmed nothing for seconds: k2"]
        );
        stalled.activity = activity(pace(StandbyPace::Behind));
        assert_eq!(judged(synchronous(&["bb"]), &[stalled]), Vec::<String>::new());
    }

    #[test]
    fn commits_that_wait_come_first() {
        assert_eq!(
            judged(synchronous(&["bb"]), &[report(&[])]),
            ["no writes: commits wait for standbys that are not in sync: k2"]
        );
        assert_eq!(
            judged(synchronous(&[]), &[report(&[])]),
            [
                "no writes: commits wait: no standby can acknowledge them, and minSynchronousStandbys is 1",
                "degraded: no standby could take over now"
            ]
        );
        let nobody_needed = |document: &mut ClusterDocument| {
            synchronous(&[])(document);
            let spec = document.cluster.as_mut().unwrap().spec.as_mut().unwrap();
            spec.min_synchronous_standbys = Some(0);
        };
        assert_eq!(judged(nobody_needed, &[report(&[])]), ["degraded: no standby could take over now"]);
        // What the primary's keeper has not looked at is not known.
        assert_eq!(judged(synchronous(&["bb"]), &[]), Vec::<String>::new());
    }

    #[test]
    fn each_failure_has_its_sentence() {
        let keeper = |document: &mut ClusterDocument, uid: &str| {
            document.keepers.as_mut().unwrap().get_mut(&KeeperUid::from(uid)).unwrap().status.healthy = false;
        };
        let takes_over = "degraded: no standby could take over now";
        assert_eq!(judged(|it| keeper(it, "k1"), &[]), ["no writes: the master keeper k1 does not report"]);
        assert_eq!(judged(|it| keeper(it, "k2"), &[]), ["degraded: keeper k2 does not report", takes_over]);
        assert_eq!(
            judged(|it| primary_of(it).status.healthy = false, &[]),
            ["no writes: PostgreSQL of the master keeper k1 does not work"]
        );
        let closed = |it: &mut ClusterDocument| it.proxy.as_mut().unwrap().spec.primary = None;
        assert_eq!(judged(closed, &[]), ["no writes: the proxies are closed"]);
        let mut troubled = report(&[]);
        troubled.activity = Some(stolon_model::KeeperActivity {
            problem: "no space\nleft".to_owned(),
            ..stolon_model::KeeperActivity::default()
        });
        assert_eq!(judged(|_| {}, &[troubled]), ["degraded: k1: no space left"]);
    }

    #[test]
    fn a_disk_that_takes_nothing_is_named_and_the_primary_s_means_no_writes() {
        let on = |keeper: &str, activity| KeeperReport {
            uid: keeper.into(),
            activity: Some(activity),
            ..report(&[])
        };
        let with = |fault| stolon_model::KeeperActivity {
            disk: Some(DiskReport {
                fault: Some(fault),
                place: "wal".into(),
                words: "EIO".into(),
                lasting: false,
            }),
            ..stolon_model::KeeperActivity::default()
        };
        assert_eq!(
            judged(|_| {}, &[on("k1", with(DiskFault::Full)), on("k2", with(DiskFault::Hangs))]),
            [
                "no writes: the master keeper k1: the disk for wal is full",
                "degraded: no standby could take over now",
                "degraded: keeper k2: the disk for wal hangs: what is written does not arrive",
            ]
        );
        let fails = "no writes: the master keeper k1: the disk for wal takes nothing: EIO";
        assert_eq!(judged(|_| {}, &[on("k1", with(DiskFault::Fails))]), [fails]);
        let room = |free| stolon_model::KeeperActivity {
            file_systems: Some(vec![FileSystemReport {
                uses: Some(vec!["data".into(), "wal".into()]),
                total_bytes: 10 << 30,
                free_bytes: free,
            }]),
            ..stolon_model::KeeperActivity::default()
        };
        let nearly = "degraded: the file system of k2 for data, wal has only 500.0 MiB left";
        assert_eq!(judged(|_| {}, &[on("k2", room(500 << 20))]), [nearly]);
        assert_eq!(judged(|_| {}, &[on("k2", room(513 << 20))]), Vec::<String>::new());
    }

    #[test]
    fn slots_that_are_about_to_be_let_go_are_named_with_whom_they_are_for() {
        let slot = |name: &str, held: u64, left| SlotReport {
            name: name.to_owned(),
            held_bytes: Some(held << 20),
            left_bytes: left,
            ..SlotReport::default()
        };
        let mut holding = report(&[]);
        holding.activity = Some(stolon_model::KeeperActivity {
            slots: Some(vec![
                slot("stolon_bb", 65, Some(64 << 20)),
                slot("backup", 100, Some(0)),
                slot("stolon_far", 64, Some(64 << 20)),
                slot("unbounded", 1 << 30, None),
            ]),
            ..stolon_model::KeeperActivity::default()
        });
        assert_eq!(
            judged(|_| {}, &[holding]),
            [
                "degraded: the replication slot stolon_bb of k1 holds 65.0 MiB of WAL: after another 64.0 MiB k2 lacks WAL, and is \
                 copied anew when it is back",
                "degraded: the replication slot backup of k1 holds 100.0 MiB of WAL: after another 0 B whoever uses it lacks WAL"
            ]
        );
    }

    #[test]
    fn nobody_decides_without_a_sentinel_that_leads() {
        let cluster = UsableCluster::try_from(ClusterDocument::from_json(DOCUMENT).unwrap()).unwrap();
        let changed = "the cluster data were changed last at 2026-01-02T03:04:05Z";
        for (sentinels, expected) in [
            (&[][..], "no sentinel runs, so nothing is decided: start stolon-sentinel"),
            (&["a".into()][..], "the only sentinel does not lead, so nothing is decided"),
            (&["a".into(), "b".into()][..], "none of 2 sentinels leads, so nothing is decided"),
        ] {
            let evidence = Evidence { cluster: &cluster, keepers: &BTreeMap::new(), sentinels, leader: None };
            let found = findings(evidence);
            assert_eq!(
                found.iter().map(ToString::to_string).collect::<Vec<_>>(),
                [format!("{expected}; {changed}")]
            );
        }
    }
}
