//! What must hold after every event, each a named function with a sentence; and that the cluster is whole again in the end.

use std::collections::BTreeMap;
use std::rc::Rc;

use stolon_core::sentinel::violations;
use stolon_model::{ClusterData, ClusterDocument, InstanceUid, Lsn, ProxyReport};

use crate::Time;
use crate::coverage::Point;
use crate::lease::Successor;
use crate::pause::LastPause;
use crate::postgres::{BranchId, Condition, Histories, Position};
use crate::world::World;

/// The invariants of the catalogue of faults, as far as they can be stated in this model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Invariant {
    /// No acknowledged write is lost.
    I1NothingLost,
    /// Writes are acknowledged through proxies by one primary after the other, never by two at a time.
    I2OnePrimary,
    /// In synchronous mode a server acknowledges nothing after another one was promoted in its place.
    I3NoSplitBrain,
    /// The cluster becomes whole again by itself.
    I6Convergence,
    /// The only copy of what was promised is never destroyed.
    I7OnlyCopy,
    /// Who is promoted holds everything that was promised, and is whole.
    I8PromotedHoldsEverything,
    /// Who is elected has shown life to the sentinel that elects it.
    I8ElectedIsAlive,
    /// Nobody is replaced without a cause.
    I9NoFalseFailover,
    /// A fault costs few changes of roles.
    I10NoFlapping,
    /// Who may be elected by the document holds everything that was promised.
    I11SynchronousPromise,
    /// The document follows its own rules, and its counters never go back.
    I12Document,
    /// A proxy that says that it has let go has let go.
    I13ProxyLetsGo,
    /// A read that begins after a write was acknowledged sees it.
    I14FreshReads,
    /// Replication slots are those of the followers, and no others.
    I15NoLeaks,
    /// A cluster on which nothing happens is quiet.
    I18Quiescence,
    /// Who takes over by a planned change holds everything that clients were told of, in asynchronous mode, too.
    SwitchoverLosesNothing,
    /// A primary acknowledges nothing for longer than its lease after another one was promoted, also to those who go to it directly.
    LeaseIsKept,
    /// A lookup of a name that fails, or that takes long, ends no connection through a proxy.
    NamesCutNothing,
    /// While an operator's pause holds nobody is elected and nothing is removed.
    PauseIsKept,
    /// A machine keeps its contract with the program around it.
    Contract,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule that was broken.
    pub invariant: Invariant,
    /// When it was noticed.
    pub at: Time,
    /// What was seen.
    pub sentence: String,
}

/// What was promised to clients, and what is needed to judge what comes after.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// On each branch the last position that a client was told of, or saw.
    promised: BTreeMap<BranchId, Lsn>,
    /// The same of what was told, or shown, through proxies.
    through: BTreeMap<BranchId, Lsn>,
    /// Who acknowledged through a proxy last.
    last_through: Option<BranchId>,
    /// Branches whose time was over when another one took over.
    past: Vec<BranchId>,
    before_write: Option<Rc<ClusterDocument>>,
    pub(crate) last_pause: Option<LastPause>,
    pub(crate) elections: u32,
    pub(crate) last_election: Option<Time>,
    /// The last election was one of synchronous mode.
    pub(crate) synchronous: bool,
    /// The highest epoch that the document ever had, and the last document that had it.
    pub(crate) epoch: u64,
    newest: Option<Rc<ClusterDocument>>,
    /// Whose server the proxies are sent to, by the generation of the proxy section.
    routes: BTreeMap<i64, Option<u8>>,
    pub(crate) disturbances: u32,
    pub(crate) last_disturbance: Time,
    pub(crate) active_faults: u32,
    /// The same of faults that are a reason to replace a primary.
    pub(crate) last_reason: Time,
    pub(crate) active_reasons: u32,
    /// When a client was last told of a commit that came through a proxy.
    pub(crate) last_commit: Option<Time>,
    /// The last server that was promoted in the place of another one.
    pub(crate) promoted: Option<Successor>,
    /// Where branches were left in asynchronous mode. What is written beyond that nobody ever promised to keep, whatever the mode is later.
    pub(crate) left_at: BTreeMap<BranchId, Lsn>,
}

fn positions(of: &BTreeMap<BranchId, Lsn>) -> Vec<Position> {
    of.iter().map(|(branch, lsn)| Position { branch: *branch, lsn: *lsn }).collect()
}

impl Ledger {
    /// What was promised so far.
    pub(crate) fn promises(&self) -> Vec<Position> {
        positions(&self.promised)
    }

    /// What clients were told of, or saw, through proxies so far. Who goes to a server directly is ahead of them while a new primary works
    /// and the proxies are not open to it yet.
    pub(crate) fn told_through_proxies(&self) -> Vec<Position> {
        positions(&self.through)
    }

    pub(crate) fn tell_through_proxy(&mut self, position: Position) {
        let known = self.through.entry(position.branch).or_insert(position.lsn);
        *known = position.lsn.max(*known);
    }

    /// What somebody at `holder` lacks of what was promised.
    pub(crate) fn lacking(&self, histories: &Histories, holder: Position) -> Option<Position> {
        self.promised
            .iter()
            .map(|(branch, lsn)| Position { branch: *branch, lsn: *lsn })
            .find(|promise| !histories.contains(holder, *promise))
    }

    fn promise(&mut self, histories: &Histories, position: Position) {
        let known = self.promised.get(&position.branch).is_some_and(|lsn| *lsn >= position.lsn);
        if known {
            return;
        }
        // What the new promise contains need not be remembered.
        self.promised
            .retain(|branch, lsn| !histories.contains(position, Position { branch: *branch, lsn: *lsn }));
        self.promised.insert(position.branch, position.lsn);
    }

    /// An operator has agreed to lose what the document in the store does not know of.
    pub(crate) fn give_up_everything(&mut self) {
        self.promised.clear();
        self.through.clear();
        self.past.clear();
        (self.last_through, self.promoted) = (None, None);
    }

    /// An operator made the cluster anew: what was decided of the one before counts no more.
    pub(crate) fn begin_anew(&mut self) {
        (self.epoch, self.newest, self.last_pause, self.last_commit) = (0, None, None, None);
        (self.synchronous, self.last_election) = (false, None);
    }

    /// Promises count only as far as somebody at `holder` has them. True when something is given up.
    fn give_up_what_lacks(&mut self, histories: &Histories, holder: Position) -> bool {
        if self.lacking(histories, holder).is_none() {
            return false;
        }
        for promise in std::mem::take(&mut self.promised) {
            let promise = Position { branch: promise.0, lsn: promise.1 };
            if let Some(common) = histories.common(holder, promise) {
                self.promise(histories, common);
            }
        }
        true
    }
}

impl World {
    /// The first violation ends the run.
    pub(crate) fn violate(&mut self, invariant: Invariant, sentence: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let sentence = sentence();
            self.log.say(self.now, "!!", || format!("{invariant:?}: {sentence}"));
            for keeper in 0..self.scenario.keepers {
                let state = self.state_of(keeper);
                self.log.say(self.now, &format!("pg{keeper}"), || state);
            }
            self.violation = Some(Violation { invariant, at: self.now, sentence });
        }
    }

    /// Everything about a PostgreSQL, for the end of a trace.
    fn state_of(&self, keeper: u8) -> String {
        let postgres = &self.postgres[usize::from(keeper)];
        let data = postgres.data.as_ref().map_or("no data".to_owned(), |data| {
            let (branch, timeline) = (data.written.branch, self.histories.timeline(data.written.branch));
            format!(
                "branch {} timeline {timeline} flushed {} of {} {:?} {:?} slots {:?}",
                branch.0, data.flushed, data.written.lsn, data.kind, data.condition, data.slots
            )
        });
        let server = postgres.server.as_ref().map_or("no server".to_owned(), |server| {
            format!(
                "{:?} recovery {} locked {} names {:?} upstream {:?} to {:?} senders {:?} waiting {:?}",
                server.phase,
                server.in_recovery,
                server.locked,
                server.waits_for,
                server.upstream,
                server.config.recovery.upstream.as_ref().map(|it| &it.host),
                server.senders,
                server.waiting.front(),
            )
        });
        let instance = &self.keepers[usize::from(keeper)].files.instance;
        format!("{data}; {server}; {instance:?}; {:?}", postgres.troubles)
    }

    /// The document that counts: the newest that was ever decided, also while the store holds an older one, or none.
    pub(crate) fn decided(&self) -> Option<&Rc<ClusterDocument>> {
        self.ledger.newest.as_ref()
    }

    /// The store holds an older document than the one that counts, or none.
    pub(crate) fn is_set_back(&self) -> bool {
        let cluster = self.store.document().and_then(|document| document.cluster.as_ref());
        cluster.and_then(|cluster| cluster.epoch).unwrap_or(0) < self.ledger.epoch
    }

    /// A document was decided, by a sentinel or by an operator.
    pub(crate) fn note_decided(&mut self, document: &Rc<ClusterDocument>) {
        let epoch = document.cluster.as_ref().and_then(|cluster| cluster.epoch).unwrap_or(0);
        if epoch >= self.ledger.epoch {
            self.ledger.epoch = epoch;
            self.ledger.newest = Some(Rc::clone(document));
        }
    }

    /// The elected primary's keeper by the document that counts.
    pub(crate) fn elected(&self) -> Option<(InstanceUid, u8)> {
        let document = self.decided()?;
        let cluster = document.cluster.as_ref()?;
        let uid = cluster.status.primary.clone()?;
        let instance = document.instances.as_ref()?.get(&uid)?;
        let keeper = self.keeper_index(&instance.spec.keeper_uid)?;
        Some((uid, keeper))
    }

    pub(crate) fn durable(&self, keeper: u8) -> Option<Position> {
        Some(self.postgres[usize::from(keeper)].data.as_ref()?.durable())
    }

    /// What somebody at `holder` lacks of what was promised.
    pub(crate) fn lacking(&self, holder: Position) -> Option<Position> {
        self.ledger.lacking(&self.histories, holder)
    }

    /// I1: a client is told of a commit, or sees one: from now on it is promised.
    pub(crate) fn promised(&mut self, position: Position) {
        self.coverage.acknowledged += 1;
        if self.was_left(position) || !self.is_synchronous() && self.is_past(position) {
            // In asynchronous mode who goes to a server directly learns of its end when the server does.
            return;
        }
        self.ledger.promise(&self.histories, position);
        self.check_synchronous_promise();
        self.check_quorum_promise();
    }

    /// The elected primary has gone another way.
    fn is_past(&self, position: Position) -> bool {
        let Some(here) = self.elected().and_then(|(_, keeper)| self.durable(keeper)) else { return false };
        here.branch != position.branch
    }

    /// A read shows commits: they are promised, too.
    pub(crate) fn seen(&mut self, position: Position) {
        if self.is_synchronous() && !self.was_left(position) {
            self.ledger.promise(&self.histories, position);
            self.check_synchronous_promise();
            self.check_quorum_promise();
        }
    }

    /// The elected primary is asked to wait for standbys.
    fn is_synchronous(&self) -> bool {
        let Some((uid, _)) = self.elected() else { return false };
        let instance = self.decided().and_then(|it| it.instances.as_ref()?.get(&uid).cloned());
        instance.is_some_and(|instance| instance.spec.synchronous_replication)
    }

    /// I3: a server acknowledges a commit.
    pub(crate) fn acknowledged_by(&mut self, keeper: u8, position: Position) {
        self.check_deposed(keeper);
        self.check_lease(keeper, position);
        if !self.ledger.synchronous || self.was_left(position) {
            return;
        }
        if let Some(Successor { keeper: other, branch, .. }) = self.ledger.promoted
            && other != keeper
            && branch != position.branch
            && !self.histories.contains(position, Position { branch, lsn: Lsn(0) })
        {
            self.violate(Invariant::I3NoSplitBrain, || {
                format!(
                    "pg{keeper} acknowledged {} although pg{other} was promoted in its place",
                    position.lsn
                )
            });
        }
    }

    /// I2, I1: a proxy tells a client of a commit.
    pub(crate) fn passed_through(&mut self, proxy: u8, position: Position) {
        if self.ledger.last_through != Some(position.branch) {
            if self.ledger.past.contains(&position.branch) {
                self.violate(Invariant::I2OnePrimary, || {
                    format!(
                        "p{proxy} passed on a commit at {} of a primary that had been replaced",
                        position.lsn
                    )
                });
            }
            self.ledger.past.extend(self.ledger.last_through.replace(position.branch));
        }
        self.ledger.last_commit = Some(self.now);
        if let Some(lacking) = self.ledger.lacking(&self.histories, position)
            && lacking.branch != position.branch
        {
            self.violate(Invariant::I1NothingLost, || {
                format!(
                    "a commit at {} through p{proxy} without what was promised at {}",
                    position.lsn, lacking.lsn
                )
            });
        }
    }

    /// I14: a server shows somebody its data through a proxy. `began`: what others were told through proxies when the read began.
    pub(crate) fn check_read(&mut self, keeper: u8, began: &[Position]) {
        let Some(here) = self.postgres[usize::from(keeper)].data.as_ref().map(|data| data.written) else {
            return;
        };
        let still = |promise: &&Position| {
            self.ledger.promised.iter().any(|(branch, lsn)| {
                self.histories.contains(Position { branch: *branch, lsn: *lsn }, **promise)
            })
        };
        let stale =
            began.iter().filter(still).find(|promise| !self.histories.contains(here, **promise)).copied();
        if let Some(stale) = stale {
            self.violate(Invariant::I14FreshReads, || {
                format!(
                    "a read on pg{keeper} at {} does not see what was promised at {}",
                    here.lsn, stale.lsn
                )
            });
        }
    }

    /// I11: every member of both lists of the elected primary could be elected now, so it has to hold everything.
    pub(crate) fn check_synchronous_promise(&mut self) {
        let Some(document) = self.decided().cloned() else { return };
        let Some((uid, _)) = self.elected() else { return };
        let Some(instances) = document.instances.as_ref() else { return };
        let Some(primary) = instances.get(&uid).filter(|primary| primary.spec.synchronous_replication) else {
            return;
        };
        let known = primary.status.synchronous_standbys.iter().flatten();
        let listed = primary.spec.synchronous_standbys.as_deref().unwrap_or_default();
        for standby in known.filter(|uid| listed.contains(uid)) {
            let Some(instance) = instances.get(standby) else { continue };
            let Some(keeper) = self.keeper_index(&instance.spec.keeper_uid) else { continue };
            if self.local_instance(keeper).as_ref() != Some(standby) {
                continue;
            }
            // Nobody knows at once that a host was set back; it must not be promoted.
            if self.misses_what_it_had(keeper) {
                continue;
            }
            let Some(here) = self.durable(keeper) else { continue };
            if let Some(lacking) = self.ledger.lacking(&self.histories, here) {
                self.violate(Invariant::I11SynchronousPromise, || {
                    format!(
                        "db {standby} on k{keeper} counts as in sync at {} and lacks {}",
                        here.lsn, lacking.lsn
                    )
                });
            }
        }
    }

    /// True when some keeper has everything that was promised, whole.
    pub(crate) fn holds_everything(&self, keeper: u8) -> bool {
        let data = self.postgres[usize::from(keeper)].data.as_ref();
        data.is_some_and(|data| {
            data.condition == Condition::Whole
                && self.ledger.lacking(&self.histories, data.durable()).is_none()
        })
    }

    /// True when a cluster can lose the data of a keeper without a person having to help it: somebody who may be elected holds
    /// everything, or somebody else is the primary.
    pub(crate) fn can_spare(&self, keeper: u8) -> bool {
        let Some((uid, elected)) = self.elected() else { return false };
        if elected != keeper {
            return self.holds_everything(elected) && self.accepts_connections(elected);
        }
        let Some(document) = self.decided() else { return false };
        let Some(instances) = &document.instances else { return false };
        let Some(primary) = instances.get(&uid) else { return false };
        let known = primary.status.synchronous_standbys.as_deref().unwrap_or_default();
        let listed = primary.spec.synchronous_standbys.as_deref().unwrap_or_default();
        if primary.spec.synchronous_quorum > 0 {
            return self.quorum_can_spare(primary, |uid| {
                let instance = instances.get(uid).filter(|instance| instance.status.healthy)?;
                let keeper = document.keepers.as_ref()?.get(&instance.spec.keeper_uid)?;
                self.keeper_index(&instance.spec.keeper_uid).filter(|_| keeper.status.may_be_primary())
            });
        }
        instances.values().filter(|instance| instance.uid != uid && instance.status.healthy).any(|instance| {
            let eligible = match primary.spec.synchronous_replication {
                true => known.contains(&instance.uid) && listed.contains(&instance.uid),
                false => instance.status.timeline == primary.status.timeline,
            };
            let keepers = document.keepers.as_ref();
            let keeper = keepers.and_then(|keepers| keepers.get(&instance.spec.keeper_uid));
            eligible
                && keeper.is_some_and(|keeper| keeper.status.may_be_primary())
                && self.keeper_index(&instance.spec.keeper_uid).is_some_and(|it| self.holds_everything(it))
        })
    }

    /// I7: what stands at PGDATA of a keeper is about to be destroyed.
    pub(crate) fn check_destruction(&mut self, keeper: u8) {
        let Some(here) = self.durable(keeper) else { return };
        if self.ledger.promised.is_empty() || self.ledger.lacking(&self.histories, here).is_some() {
            return;
        }
        let another = (0..self.scenario.keepers).any(|other| other != keeper && self.holds_everything(other));
        if !another {
            self.violate(Invariant::I7OnlyCopy, || {
                format!("k{keeper} destroys the only data that hold everything up to {}", here.lsn)
            });
        }
    }

    /// A fault destroyed data, or set them back: nobody can promise what nobody has any more.
    pub(crate) fn forget_what_nobody_has(&mut self) {
        let holders: Vec<Position> =
            (0..self.scenario.keepers).filter_map(|keeper| self.durable(keeper)).collect();
        let promises = self.ledger.promises();
        let lost = promises
            .iter()
            .any(|promise| !holders.iter().any(|holder| self.histories.contains(*holder, *promise)));
        if !lost {
            return;
        }
        let mut kept = Ledger::default();
        for holder in holders {
            for promise in &promises {
                if let Some(common) = self.histories.common(holder, *promise) {
                    kept.promise(&self.histories, common);
                }
            }
        }
        self.ledger.promised = kept.promised;
    }

    /// In asynchronous mode what the next primary at `holder` lacks is lost.
    pub(crate) fn give_up_asynchronously(&mut self, holder: Position) {
        if self.ledger.give_up_what_lacks(&self.histories, holder) {
            self.coverage.reached(Point::AsynchronousLoss);
            self.log.say(self.now, "", || "commits of the asynchronous mode are lost".to_owned());
        }
    }

    /// I8: a standby became a primary at `from`.
    pub(crate) fn after_promotion(&mut self, keeper: u8, from: Position) {
        let Some((uid, elected)) = self.elected() else { return };
        if elected != keeper || self.local_instance(keeper).as_ref() != Some(&uid) {
            return;
        }
        if let Some(branch) = self.postgres[usize::from(keeper)].data.as_ref().map(|data| data.written.branch)
        {
            self.ledger.promoted = Some(Successor { keeper, branch, at: self.now });
        }
        let deposed = (0..self.scenario.keepers).any(|other| {
            let server = self.postgres[usize::from(other)].server.as_ref();
            other != keeper && server.is_some_and(|server| !server.in_recovery)
        });
        if deposed {
            self.coverage.reached(Point::DeposedPrimaryRan);
        }
        if self.misses_what_is_known(keeper, from) {
            self.violate(Invariant::I8PromotedHoldsEverything, || {
                format!(
                    "k{keeper} is promoted at {} and held more by the cluster data: its host was set back",
                    from.lsn
                )
            });
        }
        if !self.ledger.synchronous {
            self.leave_behind(from);
            self.give_up_asynchronously(from);
        } else if let Some(lacking) = self.ledger.lacking(&self.histories, from) {
            self.violate(Invariant::I8PromotedHoldsEverything, || {
                format!(
                    "k{keeper} is promoted at {} and lacks what was promised at {}",
                    from.lsn, lacking.lsn
                )
            });
        }
    }

    /// Before a request that may replace the document.
    pub(crate) fn before_write(&mut self, request: &crate::store::Request) {
        if let crate::store::Request::CompareAndPut { .. } = request {
            self.ledger.before_write = self.store.document().cloned();
        }
        match request {
            crate::store::Request::PutProxyReport(report, _) => self.check_proxy_report(report),
            crate::store::Request::PutKeeperReport(report, _) => {
                self.note_life(&report.uid);
                self.note_answer(&report.uid);
            }
            _ => {}
        }
    }

    /// After it: was the document replaced?
    pub(crate) fn after_write(
        &mut self,
        from: crate::Program,
        reply: &crate::store::Reply,
        _changed: crate::store::Changed,
    ) {
        match reply {
            crate::store::Reply::Conflict => self.coverage.reached(Point::Conflict),
            crate::store::Reply::Written => {
                let before = self.ledger.before_write.take();
                if let Some(after) = self.store.document().cloned() {
                    self.note_decided(&after);
                    self.check_document(from, before.as_deref(), &after);
                }
            }
            _ => {}
        }
    }

    /// I12, I9, I10: a sentinel replaced the document.
    fn check_document(
        &mut self,
        from: crate::Program,
        before: Option<&ClusterDocument>,
        after: &ClusterDocument,
    ) {
        let Ok(next) = ClusterData::try_from(after.clone()) else {
            return self.violate(Invariant::I12Document, || format!("{from:?} wrote what nobody can read"));
        };
        let last = before.and_then(|document| ClusterData::try_from(document.clone()).ok());
        let broken = violations(&next);
        let known = last.as_ref().map(violations).unwrap_or_default();
        if let Some(rule) = broken.iter().find(|rule| !known.contains(rule)) {
            self.violate(Invariant::I12Document, || format!("{from:?} broke a rule: {rule}"));
        }
        self.note_route(&next);
        self.note_challenge(&next);
        let Some(last) = last.filter(|last| last.cluster.uid == next.cluster.uid) else { return };
        for (uid, instance) in &next.instances {
            let went_back = last.instances.get(uid).is_some_and(|last| last.generation > instance.generation);
            if went_back {
                self.violate(Invariant::I12Document, || format!("the generation of db {uid} went back"));
            }
        }
        if next.cluster.spec != last.cluster.spec {
            self.violate(Invariant::I12Document, || format!("{from:?} undid what an operator specified"));
        }
        if next.proxy.generation < last.proxy.generation {
            self.violate(Invariant::I12Document, || "the generation of the proxies went back".to_owned());
        }
        self.check_pause(from, &last, &next);
        self.note_switchover(&last, &next);
        let (old, new) = (&last.cluster.status.primary, &next.cluster.status.primary);
        if let (Some(old), Some(new)) = (old, new)
            && old != new
            && next.instances.contains_key(new)
        {
            let synchronous =
                last.instances.get(old).is_some_and(|primary| primary.spec.synchronous_replication);
            let handed_over = Self::is_handed_over(&last, &next);
            // A planned change keeps the promises of synchronous mode.
            if last.cluster.status.formers.iter().flatten().any(|former| former.instance == *new) {
                self.coverage.reached(Point::FormerReturned);
            }
            self.check_election(synchronous || handed_over);
            if handed_over {
                self.check_handed_over();
            }
            self.check_life(from);
            self.check_lag(&last, old, new);
            self.note_return();
        }
        if next.primary().is_some_and(|primary| primary.spec.synchronous_replication) {
            let primary = next.primary();
            let listed = primary.and_then(|it| it.spec.synchronous_standbys.as_ref().map(Vec::len));
            let wanted = next.cluster.spec.effective().max_synchronous_standbys;
            if listed.is_some_and(|listed| listed < usize::from(wanted)) {
                self.coverage.reached(Point::DegradedSynchronousSet);
            }
        }
        self.check_synchronous_promise();
        self.check_quorum_promise();
    }

    fn note_route(&mut self, next: &ClusterData) {
        let target = next.proxy.spec.primary.as_ref().and_then(|uid| next.instances.get(uid));
        let keeper = target.and_then(|instance| self.keeper_index(&instance.spec.keeper_uid));
        self.ledger.routes.insert(next.proxy.generation, keeper);
    }

    /// I13: a proxy says which generation it has applied.
    fn check_proxy_report(&mut self, report: &ProxyReport) {
        let Some(proxy) = self.proxies.iter().position(|proxy| *proxy.uid() == report.uid) else { return };
        let Some((keeper, last)) = self.open_route(proxy as u8) else { return };
        let Some(applied) = self.ledger.routes.get(&report.generation).copied() else { return };
        // One that has said more since then has moved on, and so has one that has read more.
        let mut later = self.ledger.routes.range(report.generation..).skip(1);
        let moved_on = last > report.generation || later.any(|(_, to)| *to == Some(keeper));
        if !moved_on && applied != Some(keeper) {
            self.violate(Invariant::I13ProxyLetsGo, || {
                format!(
                    "p{proxy} says that it applied generation {} and still serves pg{keeper}",
                    report.generation
                )
            });
        }
    }

    /// The store was set back, emptied, or written by hand: its counters begin anew.
    pub(crate) fn document_replaced(&mut self) {
        self.ledger.routes.clear();
        if let Some(data) = self.store.document().and_then(|it| ClusterData::try_from((**it).clone()).ok()) {
            self.note_route(&data);
        }
    }
}
