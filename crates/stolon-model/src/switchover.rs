//! A planned change of the primary: the record in the cluster data, and what keepers answer to it (docs: design/007-hand-over.md).

use crate::json::{document, text_enum};
use crate::lsn::{Lsn, Timeline};
use crate::time::{GoDuration, Timestamp};
use crate::uid::{InstanceUid, KeeperUid};

document! {
    /// A planned change of the primary. Losing it is safe: a primary that was stopped for it starts again.
    pub struct Switchover {
        /// By which everybody knows that the same one is meant.
        uid: String = "uid", omit;
        /// The primary that it relieves: it lapses with it.
        from: Option<InstanceUid> = "master", omit;
        /// The keeper that is to have the primary; absent: whichever is fit best.
        to: Option<KeeperUid> = "to", omit;
        /// Whether the primary's keeper asked for it, since it is told to end.
        leaving: bool = "leaving", omit;
        /// When it was made, by the clock of whoever made it.
        made_for: Timestamp = "madeFor", keep;
        /// The epoch of the document that it was made for.
        epoch: Option<u64> = "epoch", omit;
        /// For how long it counts; the election of the successor lies within that time, or does not happen.
        timeout: GoDuration = "timeout", keep;
        /// How far it is; absent until a sentinel has taken it up.
        stage: Option<SwitchoverStage> = "stage", omit;
        /// The instance that is to be the primary.
        successor: Option<InstanceUid> = "successor", omit;
        /// Where the old primary has ended: there its shutdown checkpoint begins.
        end: Option<Lsn> = "end", omit;
        /// What became of it; absent while it is under way.
        outcome: Option<SwitchoverOutcome> = "outcome", omit;
        /// Why, for people; of one that waits to be begun, why that was not possible at first.
        because: String = "because", omit;
        /// When that was known.
        decided_at: Timestamp = "decidedAt", keep;
    }
}

text_enum! {
    /// How far a planned change of the primary is.
    pub enum SwitchoverStage {
        /// The primary's keeper writes a checkpoint, so that the stop is short.
        Checkpoint => "checkpoint",
        /// Proxies end their sessions.
        Closing => "closing",
        /// The primary's keeper stops its PostgreSQL, and the successor receives what is left.
        Stopping => "stopping",
    }
}

text_enum! {
    /// What became of a planned change of the primary.
    pub enum SwitchoverOutcome {
        /// The successor was elected.
        Done => "done",
        /// Nobody was fit; nothing was begun.
        Refused => "refused",
        /// It could not go on: the old primary goes on.
        Failed => "failed",
        /// It was taken back by whoever had asked for it.
        Canceled => "canceled",
        /// It came too late.
        Lapsed => "lapsed",
    }
}

impl Switchover {
    /// Whether it is under way, or waits to be taken up.
    pub fn is_open(&self) -> bool {
        self.outcome.is_none()
    }

    /// Write down what became of it, if that is not written down yet.
    pub fn conclude(&mut self, outcome: SwitchoverOutcome, because: String, at: Timestamp) {
        if self.is_open() {
            (self.outcome, self.because, self.decided_at) = (Some(outcome), because, at);
        }
    }
}

document! {
    /// What a keeper answers to a planned change of the primary.
    pub struct SwitchoverReport {
        /// Which one is meant.
        uid: String = "uid", omit;
        /// The primary has written its checkpoint.
        checkpointed: bool = "checkpointed", omit;
        /// The primary's PostgreSQL was stopped in order: there its shutdown checkpoint begins.
        end: Option<Lsn> = "end", omit;
        /// The successor receives nothing any more, and holds everything up to here.
        received: Option<Lsn> = "received", omit;
        /// The timeline of either position.
        timeline: Timeline = "timelineID", omit;
        /// Why the keeper cannot do its part: one sentence.
        trouble: String = "trouble", omit;
    }
}

document! {
    /// How proxies let go of a primary that is relieved. Stolon's close at once, and refuse clients.
    pub struct ProxyHandover {
        /// Sessions that are not idle by then are ended.
        grace: GoDuration = "grace", keep;
        /// New clients wait for so long.
        hold: GoDuration = "hold", keep;
    }
}
