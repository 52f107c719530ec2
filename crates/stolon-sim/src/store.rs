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
    /// The document.
    ReadDocument,
    /// The document and all reports.
    ReadEverything,
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
    /// The document with its revision.
    Document(Option<(Rc<ClusterDocument>, u64)>),
    /// Everything.
    Everything(Rc<Everything>),
    /// The report of a keeper.
    OwnReport(Option<Rc<KeeperReport>>),
    /// Written.
    Written,
    /// Somebody else wrote before.
    Conflict,
    /// Done.
    Done,
    /// Whether the sentinel that asked leads.
    Leads(bool),
    /// No answer in time: what was to be written may be written.
    NoAnswer,
}

/// All that a sentinel decides on, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Everything {
    /// The document with its revision.
    pub document: Option<(Rc<ClusterDocument>, u64)>,
    /// The reports of keepers.
    pub keepers: BTreeMap<KeeperUid, KeeperReport>,
    /// The reports of proxies.
    pub proxies: BTreeMap<ProxyUid, ProxyReport>,
}

/// What changed for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing.
    Nothing,
    /// A report.
    Report,
    /// The document.
    Document,
}

#[derive(Clone, Debug)]
struct Leased<T> {
    value: Rc<T>,
    until: Time,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub struct Store {
    document: Option<(Rc<ClusterDocument>, u64)>,
    revision: u64,
    keepers: BTreeMap<KeeperUid, Leased<KeeperReport>>,
    proxies: BTreeMap<ProxyUid, Leased<ProxyReport>>,
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
            Request::ReadDocument => (Reply::Document(self.document.clone()), Changed::Nothing),
            Request::ReadEverything => (Reply::Everything(Rc::new(self.everything(now))), Changed::Nothing),
            Request::CompareAndPut { expected, document } => {
                if self.document.as_ref().map(|(_, revision)| *revision) != expected {
                    return (Reply::Conflict, Changed::Nothing);
                }
                self.put(now, Some(document));
                (Reply::Written, Changed::Document)
            }
            Request::ReadKeeperReport(uid) => {
                let report = self.keepers.get(&uid).filter(|report| report.until > now);
                (Reply::OwnReport(report.map(|report| Rc::clone(&report.value))), Changed::Nothing)
            }
            Request::PutKeeperReport(report, ttl) => {
                self.revision += 1;
                let until = now + ttl.max(MINIMUM_TTL);
                self.keepers.insert(report.uid.clone(), Leased { value: report, until });
                (Reply::Done, Changed::Report)
            }
            Request::PutProxyReport(report, ttl) => {
                self.revision += 1;
                let until = now + ttl.max(MINIMUM_TTL);
                self.proxies.insert(report.uid.clone(), Leased { value: report, until });
                (Reply::Done, Changed::Report)
            }
            Request::Lead(sentinel) => (Reply::Leads(self.lead(now, sentinel)), Changed::Nothing),
        }
    }

    fn lead(&mut self, now: Time, sentinel: u8) -> bool {
        let taken = self.leader.is_some_and(|(leader, until)| leader != sentinel && until > now);
        if !taken {
            self.leader = Some((sentinel, now + LEADERSHIP_TTL));
        }
        !taken
    }

    fn everything(&mut self, now: Time) -> Everything {
        self.keepers.retain(|_, report| report.until > now);
        self.proxies.retain(|_, report| report.until > now);
        Everything {
            document: self.document.clone(),
            keepers: self.keepers.iter().map(|(uid, it)| (uid.clone(), (*it.value).clone())).collect(),
            proxies: self.proxies.iter().map(|(uid, it)| (uid.clone(), (*it.value).clone())).collect(),
        }
    }

    /// The document as it is, without a request.
    pub fn document(&self) -> Option<&Rc<ClusterDocument>> {
        self.document.as_ref().map(|(document, _)| document)
    }

    /// The revision of the document as it is.
    pub fn revision_of_document(&self) -> Option<u64> {
        self.document.as_ref().map(|(_, revision)| *revision)
    }

    /// Write the document, whatever is there.
    pub fn put(&mut self, now: Time, document: Option<Rc<ClusterDocument>>) {
        self.revision += 1;
        self.writes += 1;
        if let Some(document) = &document {
            self.past.push_back((now, Rc::clone(document)));
            if self.past.len() > REMEMBERED {
                self.past.pop_front();
            }
        }
        self.document = document.map(|document| (document, self.revision));
    }

    /// `stolonctl removekeeper` takes the report along.
    pub fn remove_keeper_report(&mut self, uid: &KeeperUid) {
        self.keepers.remove(uid);
    }

    /// The document as it was at a moment in the past; none when that is too long ago.
    pub fn document_at(&self, moment: Time) -> Option<Rc<ClusterDocument>> {
        self.past
            .iter()
            .rev()
            .find(|(written, _)| *written <= moment)
            .map(|(_, document)| Rc::clone(document))
    }

    /// Everything is gone.
    pub fn wipe(&mut self) {
        self.revision += 1;
        self.document = None;
        self.keepers.clear();
        self.proxies.clear();
        self.leader = None;
    }
}
