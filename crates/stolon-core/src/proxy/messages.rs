//! What the machine is told, and what it asks for.

use std::net::SocketAddr;
use std::time::Duration;

use stolon_model::{ClusterDocument, ServerAddress, Voucher};

use super::{ClosedBecause, Upstream, Version};

/// What the flags ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// What is done about the listening socket when the store is silent.
    pub on_silence: OnSilence,
    /// How long open connections may go on after a request to stop.
    pub drain: Duration,
}

/// What is done about the listening socket when no cluster data could be read within `proxyTimeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnSilence {
    /// The socket is closed, so that a load balancer in front notices.
    StopListening,
    /// The socket stays: clients are accepted and closed at once.
    KeepListening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A moment that [`Effect::WakeAt`] named has come, or the program has just started.
    TimePassed,
    /// The cluster data may have changed.
    ClusterChanged,
    /// The answer to [`Effect::ReadDocument`]: a linearizable read; `None` where the store holds no cluster.
    DocumentRead(Option<Box<ClusterDocument>>),
    /// The other answer to [`Effect::ReadDocument`]: an error, or none within the limit.
    DocumentUnreadable,
    /// The answer to [`Effect::Publish`]: the report is in the store.
    ReportTaken,
    /// The other answer to [`Effect::Publish`]: an error, or none within the limit. The report may be in the store all the same.
    ReportRefused,
    /// The answer to [`Effect::Resolve`]: every address of the name.
    Resolved(ServerAddress, Vec<SocketAddr>),
    /// The other answer to [`Effect::Resolve`]: an error, or none within the limit.
    ResolveFailed(ServerAddress),
    /// The answer to [`Effect::AskVoucher`]; `None`: there is none, or no answer within the limit.
    Vouched(Option<Voucher>),
    /// The answer to [`Effect::Listen`].
    Listening,
    /// The other answer to [`Effect::Listen`].
    ListenFailed,
    /// The answer to [`Effect::Close`]: the last connection has ended.
    Closed,
    /// Somebody wants the program to stop; the second request wants it at once.
    StopRequested,
    /// The last client has disconnected, after [`Effect::StopListening`] of a program that stops.
    ConnectionsEnded,
    /// The answer to [`Effect::Withdraw`], however it went.
    Withdrawn,
}

/// What is to be done, in this order. Each of `ReadDocument`, `Publish`, `Resolve`, `AskVoucher`, `Listen`, `Close` and `Withdraw` is answered
/// by exactly one event; at most one of each is under way, except that a `Resolve` replaces the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Read the cluster document, linearizable, within the limit.
    ReadDocument {
        /// How long to wait.
        limit: Duration,
    },
    /// Put the proxy's report into the store, within the limit.
    Publish {
        /// The content of the report.
        claim: Claim,
        /// After how long the report vanishes at the latest; a third of it at the earliest.
        ttl: Duration,
        /// How long to wait.
        limit: Duration,
    },
    /// Look up the addresses of a name, within the limit.
    Resolve {
        /// Host and port.
        name: ServerAddress,
        /// How long to wait.
        limit: Duration,
    },
    /// Ask the keeper of the primary how long that cannot be replaced, within the limit.
    AskVoucher {
        /// Where it answers, `host:port`.
        address: String,
        /// How long to wait.
        limit: Duration,
    },
    /// Open the listening socket.
    Listen,
    /// Close the listening socket; accepted connections go on.
    StopListening,
    /// Send clients there, until the deadline.
    Open {
        /// Which server.
        destination: Destination,
        /// From then on nothing may be forwarded, unless [`Effect::MoveDeadline`] comes before.
        deadline: Duration,
    },
    /// Another deadline for the destination that is open; it may be an earlier one.
    MoveDeadline(Duration),
    /// End every connection, and let none through: at once, or where each is idle within the grace of
    /// [`ClosedBecause::HandingOver`].
    Close(ClosedBecause),
    /// New clients wait for the next [`Effect::Open`] until this moment; one that is past turns them away.
    Hold(Duration),
    /// Remove the proxy's report from the store, within the limit.
    Withdraw {
        /// How long to wait.
        limit: Duration,
    },
    /// Send [`Event::TimePassed`] then; replaces the moment named before.
    WakeAt(Duration),
    /// Log a notice.
    Say(Notice),
    /// Set a metric.
    Measure(Measurement),
    /// The program is over.
    Exit,
}

/// Where clients are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Which server it is.
    pub to: Upstream,
    /// Its address in the cluster data.
    pub name: ServerAddress,
    /// What the address was resolved to.
    pub address: SocketAddr,
}

/// What a report of a proxy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The generation of the proxy section that this proxy does, or [`NOTHING`].
    pub generation: i64,
    /// Forwarding ends at the latest this long after the start of the publication, unless another one follows.
    pub timeout: Duration,
}

/// Acknowledges no generation that a sentinel could wait for: those are not negative.
pub const NOTHING: i64 = -1;

/// What is worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// Clients are sent there from now on.
    Forwarding(Destination),
    /// Clients are sent nowhere from now on.
    SentNowhere(ClosedBecause),
    /// The store is away, and the primary's keeper vouches for the primary: clients go on.
    VouchedFor,
    /// A check did not succeed.
    CheckFailed {
        /// The part of it that failed.
        check: Check,
        /// The pause before the next one.
        retry_in: Duration,
    },
    /// A name could not be resolved.
    LookupFailed {
        /// The name.
        name: ServerAddress,
        /// The address that stays in use.
        keeps: Option<SocketAddr>,
        /// The pause before the next attempt.
        retry_in: Duration,
    },
    /// The store holds cluster data that are older than what this proxy has seen: clients go on going where they go.
    OlderThanSeen {
        /// The newest version that was seen.
        seen: Version,
        /// The version in the store.
        found: Version,
    },
    /// The program stops when the connections have ended, or after this time.
    Draining(Duration),
}

/// A part of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// The cluster data could not be read.
    Read,
    /// The report could not be published.
    Publish,
    /// The listening socket could not be opened.
    Listen,
    /// The cluster data cannot be worked with.
    BadClusterData,
    /// The store answers, but so late that what it says is out of date.
    TooSlow,
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measurement {
    /// A check succeeded now.
    CheckSucceeded,
}
