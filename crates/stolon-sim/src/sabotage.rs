//! Teeth: a guard is taken away, by changing what the machines see or what becomes of their effects, never in the machines
//! themselves. A simulator that does not notice proves nothing about the guard.

use std::rc::Rc;
use std::time::Duration;

use stolon_core::keeper::{Answer, HbaLine, Reports};
use stolon_core::sentinel::Reading;
use stolon_model::{ClusterData, ClusterDocument, InfoUid, Lsn, Switchover};

use crate::scenario::{Direction, Fault, Lease, Placement, Program, Scenario, Spec, What};
use crate::sentinel::reading;
use crate::store::Everything;
use crate::world::World;

/// A rule that keeps data safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// Nobody is elected in asynchronous mode while a proxy may forward to the old primary.
    FenceBeforePromote,
    /// A standby counts as synchronous once it has everything that was acknowledged before it was waited for.
    AdmissionGate,
    /// The standby that is furthest ahead is elected, and none that is too far behind.
    HighestPosition,
    /// The document is replaced only if it is still the one that was read.
    CompareAndPut,
    /// A primary that learns that another one was elected lets no clients in.
    DeposedPrimary,
    /// Proxies are opened to a new primary when none can forward to the old one any more.
    ProxyAcknowledgement,
    /// The first round of a sentinel only watches.
    FirstRoundOnlyWatches,
    /// Time in which nothing could be read is nobody's silence.
    GapCompensation,
    /// Data are destroyed only with a warrant.
    DestroyWarrant,
    /// A synchronous primary that was started lets clients in when its standbys are in sync.
    StartGate,
    /// Nobody acts on cluster data that are older than those that somebody has served under.
    Rollback,
    /// Nobody is elected and nothing removed while an operator's pause holds.
    Pause,
    /// A keeper that answers a challenge lives.
    Answer,
    /// Only a refused connection is evidence, and none that gets no answer.
    OnlyRefusals,
    /// A planned change elects only who holds more than the old primary's shutdown checkpoint.
    EndOfTheOldPrimary,
    /// A deposed primary whose disk hangs is killed.
    DeposedOnHungDisk,
    /// Only a pledge is a pledge: no answer, and a no, is none.
    Pledge,
    /// A keeper that is started knows of what was pledged before.
    PledgeNote,
    /// A voucher ends with the pledges that it counts on.
    VoucherEnds,
    /// A primary serves ordinary clients only while it has a lease.
    Lease,
    /// A primary that is replaced while its keeper works has let its clients go before.
    ClientsOut,
    /// A former primary comes back by itself only while nobody else can have acknowledged a commit.
    FormerIsComplete,
    /// A keeper that takes a server over knows whether its clients are locked out.
    FoundGate,
    /// A lookup that fails takes no address away.
    NameKeepsAddress,
    /// Of a quorum so many members are compared that one of them has acknowledged, whichever did.
    EnoughToCompare,
    /// Nothing can come to a member of a quorum any more when its position is compared.
    StopsReceiving,
    /// While another quorum takes the place of one, both count.
    JointQuorums,
}

impl Guard {
    /// All of them.
    pub const ALL: [Guard; 27] = [
        Guard::FenceBeforePromote,
        Guard::AdmissionGate,
        Guard::HighestPosition,
        Guard::CompareAndPut,
        Guard::DeposedPrimary,
        Guard::ProxyAcknowledgement,
        Guard::FirstRoundOnlyWatches,
        Guard::GapCompensation,
        Guard::DestroyWarrant,
        Guard::StartGate,
        Guard::Rollback,
        Guard::Pause,
        Guard::Answer,
        Guard::OnlyRefusals,
        Guard::EndOfTheOldPrimary,
        Guard::DeposedOnHungDisk,
        Guard::Pledge,
        Guard::PledgeNote,
        Guard::VoucherEnds,
        Guard::Lease,
        Guard::ClientsOut,
        Guard::FormerIsComplete,
        Guard::FoundGate,
        Guard::NameKeepsAddress,
        Guard::EnoughToCompare,
        Guard::StopsReceiving,
        Guard::JointQuorums,
    ];

    /// A scenario in which the guard is needed: like those of the campaign, with the faults that call for it.
    pub fn scenario(self, seed: u64) -> Scenario {
        let scenario = self.faults(seed);
        match self {
            // The lease shuts the old primary in time as well, and would hide that the guard is missing.
            Guard::FenceBeforePromote | Guard::ProxyAcknowledgement | Guard::VoucherEnds => {
                let spec = Spec { lease: Lease::Ignored, ..scenario.spec.clone() };
                Scenario { spec, ..scenario }
            }
            _ => scenario,
        }
    }

    fn faults(self, seed: u64) -> Scenario {
        let kinds: &[u64] = match self {
            Guard::FenceBeforePromote => &[14, 16, 18],
            Guard::ProxyAcknowledgement => return Self::two_cuts(seed),
            Guard::AdmissionGate => &[10, 17, 21, 11],
            Guard::HighestPosition => &[17, 35, 35, 11, 12],
            Guard::CompareAndPut => &[24, 21, 43],
            Guard::DeposedPrimary => &[3, 16, 10, 14],
            Guard::FirstRoundOnlyWatches => return Self::no_time_to_watch(seed),
            Guard::GapCompensation => &[23],
            Guard::DestroyWarrant => &[0],
            Guard::StartGate => &[6, 17],
            Guard::FoundGate => &[0, 0, 6, 17],
            Guard::Rollback => &[11, 40],
            Guard::Pause => &[11, 43],
            Guard::Answer => &[27, 36],
            Guard::OnlyRefusals => &[10, 11, 14],
            Guard::EndOfTheOldPrimary => &[17, 21, 44, 44],
            Guard::DeposedOnHungDisk => return Self::hung_disks(seed),
            Guard::NameKeepsAddress => return Scenario::without_names(seed),
            Guard::Lease => return Scenario::cut_off_primaries(seed),
            Guard::ClientsOut => return Scenario::replaced_by_operators(seed),
            Guard::EnoughToCompare => return Scenario::two_of_a_quorum(seed),
            Guard::StopsReceiving => return Scenario::quorum_without_the_store(seed),
            Guard::JointQuorums => return Scenario::quorum_that_changes(seed),
            Guard::FormerIsComplete => return Scenario::lost_successors(seed, 0),
            Guard::Pledge | Guard::PledgeNote | Guard::VoucherEnds => return self.store_for_some(seed),
        };
        let synchronous = match self {
            Guard::AdmissionGate | Guard::StartGate | Guard::FoundGate | Guard::Rollback => Some((1, 1)),
            Guard::FenceBeforePromote
            | Guard::HighestPosition
            | Guard::DeposedPrimary
            | Guard::EndOfTheOldPrimary => None,
            _ => Scenario::draw(seed, Duration::from_secs(60)).spec.synchronous,
        };
        let scenario = Scenario::focused(seed, Duration::from_secs(200), kinds, synchronous);
        // Who is deposed is seen by those who come to it straight.
        match self {
            Guard::DeposedPrimary => Scenario { direct_clients: 3, ..scenario },
            // Shorter intervals give nobody the time to report again.
            Guard::GapCompensation => {
                let spec = Spec { sleep: 5_000, fail: 20_000, ..scenario.spec.clone() };
                Scenario { spec, ..scenario }
            }
            _ => scenario,
        }
    }

    /// Synchronous mode, where no fence comes before a promotion: a proxy loses the store, and a second later so does a keeper, which
    /// may be that of the primary. The proxy goes on to it for as long as its `proxyTimeout` allows.
    fn two_cuts(seed: u64) -> Scenario {
        const CUT: u64 = 28_000;
        let scenario = Scenario::focused(seed, Duration::from_secs(200), &[], Some((1, 1)));
        let (sleep, fail, proxy_check, proxy_timeout) = (1_000, 4_000, 1_000, 30_000);
        let spec = Spec { sleep, fail, proxy_check, proxy_timeout, ..scenario.spec.clone() };
        let cuts = (0..3).flat_map(|keeper| {
            let at = 45_000 + u64::from(keeper) * 50_000 + seed % 997;
            let proxy = What::ProxyCutFromStore(0, Direction::Both);
            let keeper = What::CutFromStore(keeper, Direction::Both);
            [Fault { at, lasts: CUT, what: proxy }, Fault { at: at + 1_000, lasts: CUT, what: keeper }]
        });
        let faults = cuts.collect();
        Scenario { keepers: 3, proxies: 2, clients: 6, direct_clients: 0, spec, faults, ..scenario }
    }

    /// Asynchronous mode: a disk hangs, which may be that of the primary, until its successor has been elected for some seconds.
    fn hung_disks(seed: u64) -> Scenario {
        let scenario = Scenario::focused(seed, Duration::from_secs(300), &[], None);
        let (sleep, fail, proxy_check, proxy_timeout) = (1_000, 4_000, 1_000, 3_000);
        let spec = Spec { sleep, fail, proxy_check, proxy_timeout, ..scenario.spec.clone() };
        let hang = |keeper: u8| {
            let at = 45_000 + u64::from(keeper) * 120_000 + seed % 997;
            Fault { at, lasts: 13_000 + seed % 7 * 1_000, what: What::DiskHangs(keeper) }
        };
        let faults = [hang(0), hang(1)].into();
        Scenario { keepers: 2, direct_clients: 4, spec, faults, ..scenario }
    }

    /// Keepers and proxies lose the store, and sentinels keep it. After a while all but the keeper of one standby, and at last everybody, reach
    /// it again. Without the note the keeper of that standby is started anew in between.
    fn store_for_some(self, seed: u64) -> Scenario {
        let scenario = Scenario::focused(seed, Duration::from_secs(200), &[], None);
        // A voucher never counts for longer than that.
        let proxy_timeout = if self == Guard::VoucherEnds { 10_000 } else { 3_000 };
        let (sleep, fail, proxy_check) = (1_000, 12_000, 1_000);
        let spec = Spec { sleep, fail, proxy_check, proxy_timeout, ..scenario.spec.clone() };
        let cut = |at, lasts, keeper| Fault { at, lasts, what: What::CutFromStore(keeper, Direction::Both) };
        let faults = (0..2).flat_map(|keeper: u8| {
            let at = 45_000 + u64::from(keeper) * 75_000 + seed % 997;
            let back = at + 20_000 + seed % 7 * 1_000;
            let seen = Fault { at, lasts: 50_000, what: What::StoreSeenBy(keeper) };
            let killed = What::Killed(Program::Keeper(keeper));
            let killed = Fault { at: back - 600, lasts: 200, what: killed };
            let begins = if self == Guard::Pledge { Vec::new() } else { vec![cut(at, back - at, keeper)] };
            let killed = (self == Guard::PledgeNote).then_some(killed);
            begins.into_iter().chain([seen]).chain(killed)
        });
        let faults = faults.collect();
        Scenario { keepers: 2, proxies: 2, clients: 4, direct_clients: 0, spec, faults, ..scenario }
    }

    /// The host of one of two keepers loses its power, the server of the other one ends again and again, and the only sentinel is started
    /// anew while the last report of the first one is still there. Once the first one is the standby.
    fn no_time_to_watch(seed: u64) -> Scenario {
        let scenario = Scenario::focused(seed, Duration::from_secs(200), &[], None);
        let (sleep, fail, proxy_check, proxy_timeout) = (1_000, 4_000, 1_000, 3_000);
        let spec = Spec { sleep, fail, proxy_check, proxy_timeout, ..scenario.spec.clone() };
        let troubles = (0..2).flat_map(|keeper| {
            let at = 45_000 + u64::from(keeper) * 70_000 + seed % 997;
            let power = What::PowerLoss(keeper);
            let crashes = What::CrashLoop(1 - keeper, 300);
            let sentinel = What::Killed(Program::Sentinel(0));
            [
                Fault { at, lasts: 30_000, what: power },
                Fault { at: at + 500, lasts: 25_000, what: crashes },
                Fault { at: at + 6_000 + seed % 7 * 1_000, lasts: 300, what: sentinel },
            ]
        });
        let faults = troubles.collect();
        Scenario { keepers: 2, sentinels: 1, spec, faults, ..scenario }
    }
}

impl World {
    pub(crate) fn lacks(&self, guard: Guard) -> bool {
        self.sabotage == Some(guard)
    }

    /// What a sentinel sees.
    pub(crate) fn as_sentinels_see_it(&self, sentinel: u8, everything: &Rc<Everything>) -> Rc<Everything> {
        let Some(guard) = self.sabotage else { return Rc::clone(everything) };
        let mut seen = (**everything).clone();
        let data = seen.document.as_ref().and_then(|(it, _)| ClusterData::try_from((**it).clone()).ok());
        match guard {
            Guard::FenceBeforePromote | Guard::ProxyAcknowledgement => {
                let Some(section) = data.map(|data| data.proxy) else { return Rc::clone(everything) };
                // They have done what comes next already, or what they are asked for now.
                let generation = match (guard, section.spec.primary.is_some()) {
                    (Guard::FenceBeforePromote, true) => section.generation + 1,
                    (Guard::ProxyAcknowledgement, false) => section.generation,
                    _ => return Rc::clone(everything),
                };
                for report in seen.proxies.values_mut().map(Rc::make_mut) {
                    report.generation = generation;
                    // Also of a proxy that is cut off, which says nothing new.
                    report.info_uid = InfoUid::from(format!("{}+{generation}", report.info_uid));
                }
            }
            Guard::HighestPosition | Guard::AdmissionGate => {
                let primary = data.as_ref().and_then(|data| data.primary().cloned());
                let Some(primary) = primary else { return Rc::clone(everything) };
                let head = seen.keepers.get(&primary.spec.keeper_uid);
                let reported = head.and_then(|report| report.postgres_state.as_ref()).map(|state| state.lsn);
                let lsn = reported.unwrap_or_default().max(primary.status.lsn);
                let reports = seen.keepers.values_mut().map(Rc::make_mut);
                for state in reports.filter_map(|report| report.postgres_state.as_mut()) {
                    state.lsn = state.lsn.max(lsn);
                }
            }
            Guard::Pause => {
                if let Some((document, _)) = &mut seen.document
                    && let Some(cluster) = &mut Rc::make_mut(document).cluster
                    && let Some(pause) = &mut cluster.pause
                {
                    // Its time seems to be over.
                    pause.until = pause.since;
                }
            }
            Guard::Rollback => {
                for report in seen.keepers.values_mut() {
                    if let Some(activity) = &mut Rc::make_mut(report).activity {
                        activity.served = None;
                    }
                }
            }
            // As keepers of Stolon's report.
            Guard::ClientsOut => {
                for report in seen.keepers.values_mut().map(Rc::make_mut) {
                    if let Some(activity) = &mut report.activity {
                        activity.fenced = None;
                    }
                }
            }
            Guard::FormerIsComplete => {
                if let Some((document, _)) = &mut seen.document
                    && let Some(cluster) = &mut Rc::make_mut(document).cluster
                {
                    let formers = cluster.status.formers.iter_mut().flatten();
                    formers.for_each(|former| former.complete = true);
                }
            }
            Guard::EnoughToCompare | Guard::JointQuorums => {
                if let Some((document, _)) = &mut seen.document {
                    let instances = Rc::make_mut(document).instances.iter_mut().flatten();
                    for rules in instances.filter_map(|(_, instance)| instance.status.quorums.as_mut()) {
                        self.as_rules_without(guard, rules);
                    }
                }
            }
            Guard::StopsReceiving => {
                for report in seen.keepers.values_mut().map(Rc::make_mut) {
                    let generation = report.postgres_state.as_ref().map(|state| state.generation);
                    if let Some(activity) = &mut report.activity {
                        activity.stopped = generation;
                    }
                }
            }
            Guard::Answer => {
                let Some(last) = &self.sentinels[usize::from(sentinel)].last else {
                    return Rc::clone(everything);
                };
                let challenged = data.as_ref().and_then(|data| {
                    let challenge = data.cluster.status.challenge.as_ref()?;
                    Some(data.instances.get(&challenge.instance)?.spec.keeper_uid.clone())
                });
                let Some(keeper) = challenged else { return Rc::clone(everything) };
                // It has said nothing since.
                if let Some(report) = last.keepers.get(&keeper) {
                    seen.keepers.insert(keeper, Rc::clone(report));
                }
            }
            Guard::EndOfTheOldPrimary => {
                let record = data.as_ref().and_then(|data| data.cluster.status.switchover.clone());
                let Some(record) = record.filter(Switchover::is_open) else { return Rc::clone(everything) };
                let timeline =
                    data.as_ref().and_then(|data| data.primary()).map(|primary| primary.status.timeline);
                for report in seen.keepers.values_mut().map(Rc::make_mut) {
                    let Some(activity) = &mut report.activity else { continue };
                    let answer = activity.switchover.get_or_insert_default();
                    answer.uid.clone_from(&record.uid);
                    answer.received = Some(Lsn(u64::MAX));
                    answer.timeline = timeline.unwrap_or_default();
                }
            }
            Guard::FirstRoundOnlyWatches if self.sentinels[usize::from(sentinel)].readings > 0 => {
                // What was there when it began seems to be news.
                for report in seen.keepers.values_mut().map(Rc::make_mut) {
                    report.info_uid = InfoUid::from(format!("{}+", report.info_uid));
                }
            }
            _ => return Rc::clone(everything),
        }
        Rc::new(seen)
    }

    /// What a keeper sees of the reports.
    pub(crate) fn reports_as_keepers_see_them(&self, everything: &Everything) -> Reports {
        if self.lacks(Guard::Rollback) {
            return Reports::default();
        }
        let keepers = everything.keepers.iter().map(|(uid, report)| (uid.clone(), (**report).clone()));
        Reports { keepers: keepers.collect(), sentinels: self.sentinel_reports() }
    }

    /// What a sentinel takes for a reading when the store does not answer: what it read last.
    pub(crate) fn what_a_sentinel_makes_up(&self, sentinel: u8) -> Option<Reading> {
        let last = self.sentinels[usize::from(sentinel)].last.as_ref()?;
        let now = self.local(Program::Sentinel(sentinel));
        self.lacks(Guard::GapCompensation).then(|| reading(last, now))
    }

    /// The revision that a sentinel's write names.
    pub(crate) fn expected_revision(&self, read: Option<u64>) -> Option<u64> {
        match self.lacks(Guard::CompareAndPut) {
            true => self.store.revision_of_document(),
            false => read,
        }
    }

    /// The document that the store is set back to; without the guard nobody can tell it from a newer one.
    pub(crate) fn as_the_store_is_set_back(&self, document: Rc<ClusterDocument>) -> Rc<ClusterDocument> {
        if !self.lacks(Guard::Rollback) {
            return document;
        }
        let mut document = (*document).clone();
        if let Some(cluster) = &mut document.cluster {
            cluster.epoch = Some(self.ledger.epoch + 1);
        }
        Rc::new(document)
    }

    /// What a keeper reads.
    pub(crate) fn as_keepers_read_it(&self, keeper: u8, data: &mut ClusterData) {
        if self.lacks(Guard::Lease) {
            data.cluster.spec.fence_without_lease = Some(false);
        }
        if self.lacks(Guard::StopsReceiving) {
            data.instances.values_mut().for_each(|instance| instance.spec.stops_receiving = false);
        }
        if !self.lacks(Guard::DeposedPrimary) {
            return;
        }
        let uid = self.keepers[usize::from(keeper)].uid();
        let own = data.instances.iter().find(|(_, instance)| instance.spec.keeper_uid == *uid);
        if let Some(own) = own.map(|(own, _)| own.clone()) {
            data.cluster.status.primary = Some(own);
        }
    }

    /// What a keeper's look finds.
    pub(crate) fn as_keepers_see_it(&self, answer: &mut Answer) {
        if self.lacks(Guard::AdmissionGate) {
            for row in &mut answer.replication {
                row.flush_lsn = Some(Lsn(u64::MAX));
            }
        }
    }

    /// What a keeper writes into `pg_hba.conf`.
    pub(crate) fn as_keepers_write_it(&self, lines: &mut Vec<HbaLine>) {
        if self.lacks(Guard::StartGate) {
            lines.push(HbaLine::Verbatim("host all all all trust".to_owned()));
        }
    }

    /// What a keeper that is started finds of earlier pledges.
    pub(crate) fn as_keepers_find_pledges(&self, pledged: Duration) -> Duration {
        if self.lacks(Guard::PledgeNote) { Duration::ZERO } else { pledged }
    }

    /// What a keeper does with the data that it finds when it starts.
    pub(crate) fn keeper_finds_data(&mut self, keeper: u8) {
        if self.lacks(Guard::DestroyWarrant) && self.postgres[usize::from(keeper)].data.is_some() {
            self.check_destruction(keeper);
            self.postgres[usize::from(keeper)].data = None;
        }
    }
}

impl Scenario {
    /// Synchronous mode, two keepers, and at least `minimum` standbys that commits wait for: one host loses its power, and when the other one
    /// has taken over for some seconds, so does that one, for long; the first one is back meanwhile. Then the other way round.
    pub fn lost_successors(seed: u64, minimum: u16) -> Scenario {
        let scenario = Scenario::focused(seed, Duration::from_secs(330), &[], Some((minimum, 1)));
        let (sleep, fail, proxy_check, proxy_timeout) = (1_000, 4_000, 1_000, 3_000);
        let synchronous = Some((minimum, 1));
        let spec = Spec { sleep, fail, proxy_check, proxy_timeout, synchronous, ..scenario.spec.clone() };
        let losses = (0..2).flat_map(|keeper: u8| {
            let at = 45_000 + u64::from(keeper) * 150_000 + seed % 997;
            let lost = at + 10_000 + seed % 7 * 1_000;
            [
                Fault { at, lasts: 25_000, what: What::PowerLoss(keeper) },
                Fault { at: lost, lasts: 60_000, what: What::PowerLoss(1 - keeper) },
            ]
        });
        let faults = losses.collect();
        Scenario { keepers: 2, placement: Placement::Apart, spec, faults, ..scenario }
    }

    /// A scenario with faults of a few kinds only, close together, and at least two keepers.
    pub(crate) fn focused(
        seed: u64,
        active: Duration,
        kinds: &[u64],
        synchronous: Option<(u16, u16)>,
    ) -> Scenario {
        let mut scenario = Scenario::draw(seed, active);
        scenario.keepers = scenario.keepers.clamp(2, 3);
        scenario.sentinels = scenario.sentinels.max(2);
        scenario.spec.standbys = 3;
        scenario.spec.synchronous = synchronous.map(|(minimum, _)| (minimum.min(1), 1));
        // The one that was drawn is for as many standbys as were.
        scenario.spec.quorum = None;
        scenario.clients = 3;
        scenario.redraw_faults(kinds);
        scenario
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_specification_of_a_guard_is_valid() {
        for guard in Guard::ALL {
            for seed in 0..200 {
                let spec = guard.scenario(seed).spec.cluster_spec();
                assert!(spec.validate().is_ok(), "{guard:?}, seed {seed}: {:?}", spec.validate());
            }
        }
    }
}
