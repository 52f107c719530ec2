//! A sentinel without IO: events go in, effects come out.
//!
//! A round is a reading, a decision, and a write if one is due. Rounds do not overlap, and the next reading begins at the latest one
//! sleep interval later. This sentinel's report is published beside them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stolon_model::{
    ClusterData, ClusterDocument, ClusterSpec, ClusterUid, Explained, KeeperReport, KeeperUid, NewerData,
    SentinelReport, SentinelUid, UsableCluster,
};

use super::event::{Attention, Effect, Event, Expected, Measure, Reading, Saying, Trouble, WriteOutcome};
use super::history::{self, Audit};
use super::readiness::{Leadership, Loss, readiness};
use super::recover::former_primaries_held;
use super::{Change, Decision, Hold, Memory, Now, Standing, UidSource, View, Weight, reconcile};
use crate::latency::Latency;

/// Wakes that come closer together than this are answered by one round. A failover in synchronous mode takes four rounds, each
/// of which answers what keepers did about the one before, so clients wait that long each time; on a quiet cluster no client does.
const COALESCE: Duration = Duration::from_millis(10);
/// The sleep interval until a specification says another one.
const DEFAULT_SLEEP_INTERVAL: Duration = Duration::from_secs(5);
/// A store that told nothing for so many sleep intervals is asked: one reading in two asks a store that never tells.
const SILENCE: f64 = 1.5;
/// Where a store tells of what happens, what was confirmed so long ago is good enough to see that nothing has to be done. A leader at rest
/// confirms it with each of its writes.
const CONFIRMED: Duration = AT_REST;
/// The cluster data and this sentinel's report are written only so often if nothing but times changes.
const AT_REST: Duration = Duration::from_secs(60);
/// `sleepInterval` below this would spin.
const SHORTEST_SLEEP: Duration = Duration::from_millis(100);

/// What a sentinel was given at its start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Uid of the sentinel.
    pub uid: SentinelUid,
    /// How to make the cluster if there is none.
    pub initial_spec: Option<ClusterSpec>,
}

/// How young the next reading must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// What is known suffices.
    Known,
    /// What is known is wrong or must be proven.
    Fresh,
}

/// What is under way in the store.
#[derive(Clone, Debug)]
enum UnderWay {
    Nothing,
    Reading { since: Duration },
    Writing { since: Duration, proposal: Box<Proposal> },
    Creating,
}

/// What is to be written, and what it was decided on.
#[derive(Clone, Debug)]
struct Proposal {
    before: UsableCluster,
    document: Arc<ClusterDocument>,
    decided: Decided,
}

/// What a decision comes to beside the document.
#[derive(Clone, Debug)]
struct Decided {
    epoch: u64,
    memory: Memory,
    changes: Vec<Change>,
    holds: Vec<Hold>,
    wake_at: Option<Duration>,
}

impl Decided {
    fn of(decision: Decision) -> (ClusterData, Self) {
        let Decision { next, memory, changes, holds, weight: _, wake_at } = decision;
        let epoch = next.cluster.epoch.unwrap_or(0);
        (next, Decided { epoch, memory, changes, holds, wake_at })
    }
}

/// One sentinel. `Clone` for the simulator and for model checking.
#[derive(Clone, Debug)]
pub struct Machine {
    setup: Setup,
    standing: Standing,
    memory: Memory,
    latency: Latency,
    sleep_interval: Duration,
    under_way: UnderWay,
    /// Whether something changed in the store since the last reading began.
    stirred: bool,
    /// When the last reading began.
    began: Duration,
    /// When the next one is due, if nothing happens before.
    due: Duration,
    need: Need,
    /// What was last attended to.
    attention: Attention,
    /// When the last decision must be looked at again. A verdict needs a fresh reading, and must not wait for one.
    verdict_at: Option<Duration>,
    /// When the document was last written.
    last_write: Option<Duration>,
    /// A write whose outcome is not known. The document tells, as soon as it is another one than before.
    unsure: Option<Box<Proposal>>,
    /// Uid of the cluster that was last seen in the store.
    last_seen: Option<ClusterUid>,
    /// What operators have done, as far as it was told.
    audit: Option<Audit>,
    own_report: OwnReport,
    holds: Vec<Hold>,
    trouble: Option<Trouble>,
}

/// Whether more than times changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Positions move: an election after the loss of this sentinel goes by those in the document.
    Moving,
    /// Positions do not move.
    Still,
}

impl Rest {
    fn between(before: &ClusterData, next: &ClusterData) -> Rest {
        let [before, next] = [before, next]
            .map(|data| data.instances.iter().map(|(uid, instance)| (uid, instance.status.lsn)));
        if before.eq(next) { Rest::Still } else { Rest::Moving }
    }
}

/// This sentinel's report.
#[derive(Clone, Debug, Default)]
struct OwnReport {
    /// When the report was last published.
    last: Option<Duration>,
    /// Being published, since then.
    under_way: Option<Duration>,
    /// Why the report did not reach the store.
    refused: Option<Explained>,
}

impl Machine {
    /// A sentinel that has seen nothing yet.
    pub fn new(setup: Setup) -> Self {
        Machine {
            setup,
            standing: Standing::Follower,
            memory: Memory::default(),
            latency: Latency::default(),
            sleep_interval: DEFAULT_SLEEP_INTERVAL,
            under_way: UnderWay::Nothing,
            stirred: false,
            began: Duration::ZERO,
            due: Duration::ZERO,
            need: Need::Fresh,
            attention: Attention::Matters,
            verdict_at: None,
            last_write: None,
            unsure: None,
            last_seen: None,
            audit: None,
            own_report: OwnReport::default(),
            holds: Vec::new(),
            trouble: None,
        }
    }

    /// Handle an event.
    pub fn handle(&mut self, now: Now, event: Event, uids: &mut dyn UidSource) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        let at = now.monotonic;
        match event {
            Event::Started => self.due = at,
            Event::TimePassed => {}
            Event::StoreChanged => self.stirred = true,
            Event::StandingChanged(standing) => {
                self.standing = standing;
                self.ask_again(at);
            }
            Event::ViewRead(reading) => self.decide(now, *reading, uids, out),
            Event::ViewUnreadable(why) => self.not_read(at, why, out),
            Event::WriteEnded(outcome) => self.write_ended(at, outcome, out),
            Event::ReportEnded(outcome) => self.report_ended(at, outcome, out),
        }
        self.go_on(at, out);
        self.attend(out);
        effects
    }

    /// Begin the next reading when it is due; otherwise say when it will be.
    fn go_on(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if !matches!(self.under_way, UnderWay::Nothing) {
            return;
        }
        let due = match self.stirred {
            true => self.due.min(self.began + COALESCE),
            false => self.due,
        };
        if now < due {
            return out.push(Effect::WakeAt(due));
        }
        let verdict_is_due = self.verdict_at.take_if(|at| now >= *at).is_some();
        let silence = self.sleep_interval.mul_f64(SILENCE);
        let at_most = match self.need {
            Need::Known if !verdict_is_due => CONFIRMED.max(silence),
            Need::Known | Need::Fresh => Duration::ZERO,
        };
        self.need = Need::Known;
        self.stirred = false;
        self.began = now;
        self.due = now + self.sleep_interval;
        self.under_way = UnderWay::Reading { since: now };
        out.push(Effect::ReadView { at_most, silence });
    }

    fn attend(&mut self, out: &mut Vec<Effect>) {
        let attention =
            if self.memory.awaits_positions() { Attention::Positions } else { Attention::Matters };
        if attention != self.attention {
            self.attention = attention;
            out.push(Effect::Attend(attention));
        }
    }

    /// Have the next reading ask the store, at that time at the latest.
    fn ask_again(&mut self, at: Duration) {
        self.need = Need::Fresh;
        self.due = self.due.min(at);
    }

    fn decide(&mut self, now: Now, mut reading: Reading, uids: &mut dyn UidSource, out: &mut Vec<Effect>) {
        let UnderWay::Reading { since: read_at } = self.under_way else { return };
        self.under_way = UnderWay::Nothing;
        let is_fresh = reading.as_of >= read_at;
        let Some(document) = reading.document.take() else {
            if !is_fresh {
                return self.ask_again(now.monotonic);
            }
            return self.no_document(now, &reading.keepers, uids, out);
        };
        if is_fresh {
            self.settle_unsure(&document, out);
        }
        let cluster = match UsableCluster::try_from(document) {
            Ok(cluster) => cluster,
            Err(bad) => return self.note_trouble(Trouble::Unusable(bad), out),
        };
        self.last_seen = Some(cluster.data().cluster.uid.clone());
        let audit = self.audit.get_or_insert_with(|| Audit::of(&cluster.data().cluster));
        out.extend(audit.read(&cluster.data().cluster).into_iter().map(Effect::Say));
        self.sleep_interval = cluster.spec().sleep_interval.max(SHORTEST_SLEEP);
        self.due = read_at + self.sleep_interval;
        let view = View {
            cluster: &cluster,
            keepers: &reading.keepers,
            proxies: &reading.proxies,
            unreadable_proxies: &reading.unreadable_proxies,
            standing: self.standing,
            read_at: reading.as_of,
            usual_delay: self.latency.usual(),
            told: &reading.told,
        };
        if !is_fresh && self.memory.gap(view.heard(), view.usual_delay, cluster.spec()).is_some() {
            // The store was silent, and tells again: how long it was silent is judged by what it answers.
            return self.ask_again(now.monotonic);
        }
        if is_fresh {
            self.latency.note(now.monotonic.saturating_sub(read_at));
        }
        let decision = reconcile(&view, &self.memory, now, uids);
        let (loss, formers) = match self.standing {
            Standing::Follower => (None, 0),
            Standing::Leader => (loss_at_failover(&view), former_primaries(&view)),
        };
        out.push(Effect::Measure(Measure::LossAtFailover(loss)));
        out.push(Effect::Measure(Measure::FormerPrimaries(formers)));
        match self.standing {
            Standing::Follower => {
                // A follower has no deadlines: it only remembers what it sees.
                self.memory = decision.memory;
                self.note_holds(Vec::new(), out);
                self.no_more_trouble(out);
            }
            // A decision that others must act on needs the present state of the store.
            Standing::Leader if decision.weight == Weight::Decisive && !is_fresh => {
                return self.ask_again(now.monotonic);
            }
            Standing::Leader => {
                self.carry_out(now, cluster, decision, out);
            }
        }
        self.publish_report(now.monotonic, out);
    }

    /// Write what was decided: at once if a keeper or a proxy must act on it, otherwise as a sign of life.
    fn carry_out(&mut self, now: Now, before: UsableCluster, decision: Decision, out: &mut Vec<Effect>) {
        let Now { monotonic: now, wall } = now;
        let due = || {
            self.last_write.is_none_or(|at| match Rest::between(before.data(), &decision.next) {
                Rest::Moving => self.comes_round(at, now),
                Rest::Still => now.saturating_sub(at) >= AT_REST.max(self.sleep_interval),
            })
        };
        let is_written = decision.weight == Weight::Decisive || due();
        let (mut next, decided) = Decided::of(decision);
        history::record(&mut next, &self.setup.uid, &decided.changes, wall);
        if !is_written {
            return self.completed(decided, out);
        }
        let document = Arc::new(ClusterDocument::from(next));
        out.push(Effect::CompareAndPut { document: Arc::clone(&document), expected: Expected::AsRead });
        let proposal = Box::new(Proposal { before, document, decided });
        self.under_way = UnderWay::Writing { since: now, proposal };
    }

    fn write_ended(&mut self, now: Duration, outcome: WriteOutcome, out: &mut Vec<Effect>) {
        let (since, proposal) = match std::mem::replace(&mut self.under_way, UnderWay::Nothing) {
            UnderWay::Writing { since, proposal } => (since, proposal),
            UnderWay::Creating => return self.creation_ended(now, outcome, out),
            other => return self.under_way = other,
        };
        if matches!(outcome, WriteOutcome::Written | WriteOutcome::Conflict) {
            self.latency.note(now.saturating_sub(since));
        }
        match outcome {
            WriteOutcome::Written => {
                self.last_write = Some(now);
                self.need = Need::Fresh;
                self.unsure = None;
                self.completed(proposal.decided, out);
                self.publish_report(now, out);
            }
            WriteOutcome::Conflict => {
                out.push(Effect::Say(Saying::DecidingAgain));
                self.ask_again(self.began + COALESCE);
                self.memory = proposal.decided.memory.of_refused_write(&self.memory);
            }
            WriteOutcome::Failed(why) => {
                self.memory = proposal.decided.memory.of_refused_write(&self.memory);
                self.note_trouble(Trouble::NotWritten(why), out);
            }
            WriteOutcome::Unknown(why) => {
                self.unsure = Some(proposal.clone());
                self.memory = proposal.decided.memory.of_refused_write(&self.memory);
                self.ask_again(now + COALESCE);
                self.note_trouble(Trouble::WriteUnknown(why), out);
            }
        }
    }

    /// The document tells whether a write without an answer was made. If it was, what it changed is said, and what was decided with
    /// it is remembered. As long as the document is the one before, the write may still arrive; once it is a third one, it cannot.
    fn settle_unsure(&mut self, document: &ClusterDocument, out: &mut Vec<Effect>) {
        let is_before =
            |proposal: &Proposal| ClusterDocument::from(proposal.before.data().clone()) == *document;
        if self.unsure.as_deref().is_none_or(is_before) {
            return;
        }
        let Some(proposal) = self.unsure.take() else { return };
        let Proposal { document: proposed, decided, .. } = *proposal;
        if *proposed == *document {
            self.memory.take_over(decided.memory);
            out.extend(decided.changes.into_iter().map(|change| Effect::Say(Saying::Changed(change))));
        }
    }

    /// A round is over: log every change once, and what does not happen only if the reasons have changed.
    fn completed(&mut self, decided: Decided, out: &mut Vec<Effect>) {
        self.no_more_trouble(out);
        self.verdict_at = decided.wake_at;
        self.due = decided.wake_at.map_or(self.due, |at| at.min(self.due));
        self.memory = decided.memory;
        self.memory.epoch = self.memory.epoch.max(decided.epoch);
        out.extend(decided.changes.into_iter().map(|change| Effect::Say(Saying::Changed(change))));
        self.note_holds(decided.holds, out);
        out.push(Effect::Measure(Measure::RoundCompleted));
    }

    fn note_holds(&mut self, holds: Vec<Hold>, out: &mut Vec<Effect>) {
        let is_known = |hold: &&Hold| self.holds.iter().any(|known| known.is_same_as(hold));
        let new = holds.iter().filter(|hold| !is_known(hold)).cloned();
        out.extend(new.map(|hold| Effect::Say(Saying::Held(hold))));
        let same = self.holds.len() == holds.len() && holds.iter().all(|hold| is_known(&hold));
        if !same {
            // Published with the next report, which is due now.
            self.own_report.last = None;
        }
        out.push(Effect::Measure(Measure::Holds(holds.len())));
        let paused = holds.iter().any(|hold| matches!(hold, Hold::Paused { .. }));
        out.push(Effect::Measure(Measure::Paused(paused)));
        self.holds = holds;
    }

    fn not_read(&mut self, now: Duration, why: Explained, out: &mut Vec<Effect>) {
        let UnderWay::Reading { since } = self.under_way else { return };
        self.under_way = UnderWay::Nothing;
        self.due = now.max(since + self.sleep_interval);
        self.note_trouble(Trouble::Unreadable(why), out);
    }

    fn note_trouble(&mut self, trouble: Trouble, out: &mut Vec<Effect>) {
        if self.trouble.as_ref() != Some(&trouble) {
            out.push(Effect::Say(Saying::Trouble(trouble.clone())));
            self.trouble = Some(trouble);
        }
    }

    fn no_more_trouble(&mut self, out: &mut Vec<Effect>) {
        if self.trouble.take().is_some() {
            out.push(Effect::Say(Saying::TroubleOver));
        }
    }

    /// There is no document: make one if this sentinel was told how, and if nobody remembers another one. That a store was lost or
    /// emptied is not an operator's consent to overwrite databases.
    fn no_document(
        &mut self,
        now: Now,
        keepers: &BTreeMap<KeeperUid, Arc<KeeperReport>>,
        uids: &mut dyn UidSource,
        out: &mut Vec<Effect>,
    ) {
        let reported = || keepers.values().map(|report| &report.cluster_uid).find(|uid| !uid.is_empty());
        if let Some(cluster) = self.last_seen.as_ref().or_else(reported) {
            return self.note_trouble(Trouble::Vanished(cluster.clone()), out);
        }
        let Some(spec) = self.setup.initial_spec.clone() else {
            return self.note_trouble(Trouble::NoCluster, out);
        };
        let data = ClusterData::initial(uids.cluster_uid(), spec, now.wall);
        out.push(Effect::CompareAndPut { document: Arc::new(data.into()), expected: Expected::Absent });
        self.under_way = UnderWay::Creating;
    }

    fn creation_ended(&mut self, now: Duration, outcome: WriteOutcome, out: &mut Vec<Effect>) {
        match outcome {
            WriteOutcome::Written => {
                out.push(Effect::Say(Saying::Created));
                if self.setup.initial_spec.as_ref().is_some_and(ClusterSpec::leaves_access_open) {
                    out.push(Effect::Say(Saying::AccessLeftOpen));
                }
            }
            WriteOutcome::Conflict => out.push(Effect::Say(Saying::CreatedByAnother)),
            WriteOutcome::Unknown(why) => return self.note_trouble(Trouble::WriteUnknown(why), out),
            WriteOutcome::Failed(why) => return self.note_trouble(Trouble::NotWritten(why), out),
        }
        self.ask_again(now);
    }

    /// True when what was last done then must be done again by the round that comes once per sleep interval. Rounds begin
    /// before they write, so this one may come a little early; it must not skip a beat for that.
    fn comes_round(&self, last: Duration, now: Duration) -> bool {
        now.saturating_sub(last) >= self.sleep_interval.mul_f64(0.9)
    }

    /// Publish this sentinel's report if it is due. The store keeps the report as long as this process runs; it is repeated now and
    /// then in case it was removed.
    fn publish_report(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let due = self.own_report.last.is_none_or(|at| now.saturating_sub(at) >= AT_REST);
        if !due || self.own_report.under_way.is_some() || matches!(self.under_way, UnderWay::Writing { .. }) {
            return;
        }
        let holds: Vec<String> = self.holds.iter().map(ToString::to_string).collect();
        let holds = (!holds.is_empty()).then_some(holds);
        let report = Box::new(SentinelReport { uid: self.setup.uid.clone(), holds, newer: self.newer() });
        self.own_report.under_way = Some(now);
        self.own_report.last = Some(now);
        out.push(Effect::PublishReport { report, ttl: self.sleep_interval * 2 });
    }

    /// What `stolonctl settle` must know to lift what this sentinel holds on to.
    fn newer(&self) -> Option<NewerData> {
        let ahead = self.holds.iter().find_map(|hold| match hold {
            Hold::StoreWentBack { ahead } => Some(ahead.as_slice()),
            Hold::DocumentWentBack { .. } => Some([].as_slice()),
            _ => None,
        })?;
        let keepers = ahead.iter().map(|ahead| (ahead.keeper.clone(), ahead.served.clone())).collect();
        Some(NewerData {
            cluster_uid: self.memory.cluster_uid.clone().unwrap_or_default(),
            epoch: self.memory.epoch,
            keepers: Some(keepers).filter(|keepers: &BTreeMap<_, _>| !keepers.is_empty()),
        })
    }

    fn report_ended(&mut self, now: Duration, outcome: Result<(), Explained>, out: &mut Vec<Effect>) {
        let since = self.own_report.under_way.take();
        if let (Some(since), Ok(())) = (since, &outcome) {
            self.latency.note(now.saturating_sub(since));
        }
        let refused = outcome.err();
        if let Some(why) = refused.as_ref().filter(|why| self.own_report.refused.as_ref() != Some(*why)) {
            out.push(Effect::Say(Saying::ReportRefused(why.clone())));
        }
        self.own_report.refused = refused;
    }
}

fn loss_at_failover(view: &View<'_>) -> Option<Loss> {
    Some(readiness(view.cluster, |keeper| view.report_of(keeper), Leadership::Held)?.successor?.loss)
}

fn former_primaries(view: &View<'_>) -> usize {
    former_primaries_held(view.cluster.data(), |keeper| view.report_of(keeper)).count()
}
