//! The store: one document with revisions, reports that vanish with their leases, an election; and the past, so that it can be
//! set back to it.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use stolon_model::{ClusterDocument, KeeperReport, KeeperUid, ProxyReport, ProxyUid};

use crate::Time;

/// The shortest life of a report, whatever its author asks for, as the real store has it.
const MINIMUM_TTL: Duration = Duration::from_secs(20);
/// The life of a leadership without renewal.
pub const LEADERSHIP_TTL: Duration = Duration::from_secs(20);
/// How far back the store can be set.
const REMEMBERED: usize = 400;

/// What is asked of the store.
#[derive(Clone, Debug)]
pub enum Request {
    /// What there is.
    Read,
    /// Replace the document that was read; none: there was none.
    CompareAndPut {
        /// The revision that was read.
        expected: Option<u64>,
        /// What to write.
        document: Rc<ClusterDocument>,
    },
    /// The report of a keeper.
    ReadKeeperReport(KeeperUid),
    /// A keeper's report, and how long it lives.
    PutKeeperReport(Rc<KeeperReport>, Duration),
    /// A proxy's report, and how long it lives.
    PutProxyReport(Rc<ProxyReport>, Duration),
    /// A sentinel wants to lead, or to go on leading.
    Lead(u8),
}

/// What the store answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// What there is; also the answer to a report that was taken.
    Everything(Rc<Everything>),
    /// Not the store's: a program knows enough, and asks nobody.
    Known,
    /// The report of a keeper.
    OwnReport(Option<Rc<KeeperReport>>),
    /// Written.
    Written,
    /// Somebody else wrote before.
    Conflict,
    /// Whether the sentinel that asked leads.
    Leads(bool),
    /// No answer in time: what was to be written may be written.
    NoAnswer,
}

/// All that the store holds, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Everything {
    /// Counts the changes.
    pub revision: u64,
    /// The document with its revision.
    pub document: Option<(Rc<ClusterDocument>, u64)>,
    /// The reports of keepers.
    pub keepers: BTreeMap<KeeperUid, Rc<KeeperReport>>,
    /// The reports of proxies.
    pub proxies: BTreeMap<ProxyUid, Rc<ProxyReport>>,
}

/// What changed for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing.
    Nothing,
    /// Positions in a report: seen by those who look, and no reason to look.
    Positions,
    /// A report.
    Report,
    /// The document.
    Document,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Shared with everybody who has read it.
    holds: Rc<Everything>,
    keepers_until: BTreeMap<KeeperUid, Time>,
    proxies_until: BTreeMap<ProxyUid, Time>,
    leader: Option<(u8, Time)>,
    past: VecDeque<(Time, Rc<ClusterDocument>)>,
    /// Writes of the document so far.
    pub writes: u64,
    /// Requests so far.
    pub requests: u64,
}

impl Store {
    /// Apply a request at the time that the store's own clock shows.
    pub fn apply(&mut self, now: Time, request: Request) -> (Reply, Changed) {
        self.requests += 1;
        match request {
            Request::Read => (self.everything(), Changed::Nothing),
            Request::CompareAndPut { expected, document } => {
                if self.revision_of_document() != expected {
                    return (Reply::Conflict, Changed::Nothing);
                }
                self.put(now, Some(document));
                (Reply::Written, Changed::Document)
            }
            Request::ReadKeeperReport(uid) => {
                (Reply::OwnReport(self.holds.keepers.get(&uid).map(Rc::clone)), Changed::Nothing)
            }
            Request::PutKeeperReport(report, ttl) => {
                self.keepers_until.insert(report.uid.clone(), now + ttl.max(MINIMUM_TTL));
                let last = self.change().keepers.insert(report.uid.clone(), Rc::clone(&report));
                let same = last.is_some_and(|last| last.says_the_same_as(&report));
                (self.everything(), if same { Changed::Positions } else { Changed::Report })
            }
            Request::PutProxyReport(report, ttl) => {
                self.proxies_until.insert(report.uid.clone(), now + ttl.max(MINIMUM_TTL));
                let last = self.change().proxies.insert(report.uid.clone(), Rc::clone(&report));
                let claim = |report: &ProxyReport| (report.generation, report.proxy_timeout);
                let same = last.is_some_and(|last| claim(&last) == claim(&report));
                (self.everything(), if same { Changed::Positions } else { Changed::Report })
            }
            Request::Lead(sentinel) => (Reply::Leads(self.lead(now, sentinel)), Changed::Nothing),
        }
    }

    /// What there is, for somebody who is about to change it.
    fn change(&mut self) -> &mut Everything {
        let holds = Rc::make_mut(&mut self.holds);
        holds.revision += 1;
        holds
    }

    fn everything(&self) -> Reply {
        Reply::Everything(Rc::clone(&self.holds))
    }

    /// What there is now.
    pub fn holds(&self) -> &Rc<Everything> {
        &self.holds
    }

    /// When the first of the leases ends.
    pub fn first_lease_ends(&self) -> Option<Time> {
        self.keepers_until.values().chain(self.proxies_until.values()).min().copied()
    }

    /// Reports go with their leases.
    pub fn end_leases(&mut self, now: Time) -> Changed {
        if self.first_lease_ends().is_none_or(|first| first > now) {
            return Changed::Nothing;
        }
        self.keepers_until.retain(|_, until| *until > now);
        self.proxies_until.retain(|_, until| *until > now);
        let holds = Rc::make_mut(&mut self.holds);
        holds.revision += 1;
        holds.keepers.retain(|uid, _| self.keepers_until.contains_key(uid));
        holds.proxies.retain(|uid, _| self.proxies_until.contains_key(uid));
        Changed::Report
    }

    fn lead(&mut self, now: Time, sentinel: u8) -> bool {
        let taken = self.leader.is_some_and(|(leader, until)| leader != sentinel && until > now);
        if !taken {
            self.leader = Some((sentinel, now + LEADERSHIP_TTL));
        }
        !taken
    }

    /// The reports of keepers, without a request.
    pub fn keeper_reports(&self) -> BTreeMap<KeeperUid, KeeperReport> {
        self.holds.keepers.iter().map(|(uid, report)| (uid.clone(), (**report).clone())).collect()
    }

    /// The document as it is, without a request.
    pub fn document(&self) -> Option<&Rc<ClusterDocument>> {
        self.holds.document.as_ref().map(|(document, _)| document)
    }

    /// The revision of the document as it is.
    pub fn revision_of_document(&self) -> Option<u64> {
        self.holds.document.as_ref().map(|(_, revision)| *revision)
    }

    /// Write the document, whatever is there.
    pub fn put(&mut self, now: Time, document: Option<Rc<ClusterDocument>>) {
        self.writes += 1;
        if let Some(document) = &document {
            self.past.push_back((now, Rc::clone(document)));
            if self.past.len() > REMEMBERED {
                self.past.pop_front();
            }
        }
        let holds = self.change();
        holds.document = document.map(|document| (document, holds.revision));
    }

    /// `stolonctl removekeeper` takes the report along.
    pub fn remove_keeper_report(&mut self, uid: &KeeperUid) {
        self.keepers_until.remove(uid);
        self.change().keepers.remove(uid);
    }

    /// The document as it was at a moment in the past; none when that is too long ago.
    pub fn document_at(&self, moment: Time) -> Option<Rc<ClusterDocument>> {
        self.past
            .iter()
            .rev()
            .find(|(written, _)| *written <= moment)
            .map(|(_, document)| Rc::clone(document))
    }

    /// Nobody sets the store back to what was before.
    pub fn forget_the_past(&mut self) {
        self.past.clear();
    }

    /// Everything is gone.
    pub fn wipe(&mut self) {
        let revision = self.holds.revision + 1;
        self.holds = Rc::new(Everything { revision, ..Everything::default() });
        self.keepers_until.clear();
        self.proxies_until.clear();
        self.leader = None;
    }
}

#[cfg(test)]
mod tests {
    use stolon_model::{Lsn, PostgresState};

    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn report(healthy: bool, lsn: u64) -> Request {
        let state = PostgresState { healthy, lsn: Lsn(lsn), ..PostgresState::default() };
        let report = KeeperReport { uid: "k".into(), postgres_state: Some(state), ..KeeperReport::default() };
        Request::PutKeeperReport(Rc::new(report), TTL)
    }

    #[test]
    fn positions_alone_are_no_news_and_a_report_goes_with_its_lease() {
        let mut store = Store::default();
        let changed = |store: &mut Store, request| store.apply(Time::ZERO, request).1;
        assert_eq!(changed(&mut store, report(true, 1)), Changed::Report);
        let before = Rc::clone(store.holds());
        assert_eq!(changed(&mut store, report(true, 2)), Changed::Positions);
        assert_eq!(changed(&mut store, report(false, 2)), Changed::Report);
        let lsn =
            |holds: &Everything| holds.keepers[&KeeperUid::from("k")].postgres_state.clone().unwrap().lsn;
        assert_eq!((lsn(&before), lsn(store.holds())), (Lsn(1), Lsn(2)), "who has read keeps what was read");
        assert_eq!(store.end_leases(TTL - Duration::from_millis(1)), Changed::Nothing);
        assert_eq!(store.end_leases(TTL), Changed::Report);
        assert!(store.holds().keepers.is_empty() && store.first_lease_ends().is_none());
    }
}
