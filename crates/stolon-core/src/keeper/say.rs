//! What a keeper says to people, as values. The program chooses words, levels and fields.

use std::time::Duration;

use stolon_model::{ArchiverReport, DiskReport, InstanceUid};

use super::outcome::{RoleChange, ServerDeath, StepFailure};
use super::step::{Reason, Step};
use crate::postgres::Version;

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saying {
    /// Why steps are taken.
    Reason {
        /// Of which instance.
        instance: InstanceUid,
        /// The reason of the steps.
        reason: Reason,
    },
    /// A pass found nothing to change.
    NothingChanged,
    /// A step begins.
    Begins(Box<Step>),
    /// What is under way is of no use any more.
    CallingOff,
    /// The server ended by itself.
    ServerDied(ServerDeath),
    /// The server could not be started, or did not come up.
    StartFailed(StepFailure),
    /// Something keeps us from the goal.
    Trouble {
        /// One sentence, with a hint.
        sentence: String,
        /// When it is tried again.
        again_in: Duration,
        /// Whether the same was said the time before.
        repeated: bool,
    },
    /// A parameter, or a line of a file, is not in force as it was asked for.
    ParameterProblem(String),
    /// A slot was made.
    SlotCreated(String),
    /// A slot was dropped.
    SlotDropped(String),
    /// A slot was dropped because nobody uses it and it held so many bytes of WAL.
    SlotLetGo(String, u64),
    /// A slot could not be changed, for this reason.
    SlotKept(String, String),
    /// The slots could not be looked after.
    SlotsFailed(StepFailure),
    /// The replication role, of this name, or the superuser was made or changed.
    Role(RoleChange, String),
    /// Clients were disconnected.
    SessionsEnded(u64),
    /// Data of another cluster were kept.
    SetAside {
        /// Of which instance they were.
        instance: InstanceUid,
        /// Where they are now.
        path: String,
    },
    /// The standby is a primary now.
    Promoted,
    /// A generation is reached.
    GenerationReached(InstanceUid, i64),
    /// The server runs and does not answer, for this reason.
    NoAnswer(String),
    /// A disk takes nothing, or has no room.
    DiskTrouble(DiskReport),
    /// Disks take what is written again.
    DiskWorksAgain,
    /// WAL does not get to the archive.
    ArchiverTrouble(ArchiverReport),
    /// WAL gets to the archive again.
    ArchiverWorksAgain,
    /// It answers again.
    AnswersAgain,
    /// A look takes longer than the interval.
    LookTakesLong,
    /// The version of the binaries is not known, for this reason.
    VersionUnknown(String),
    /// The binaries are of a major that this keeper does not know yet.
    VersionNewer(Version),
    /// What the data demand of the server's settings cannot be found out: where `pg_controldata` should be.
    DemandsUnknown(String),
    /// A standby receives no WAL: one sentence.
    ReceivesNoWal(String),
    /// It receives WAL again.
    ReceivesWalAgain,
    /// The instance that this standby follows refuses connections: where it was looked for.
    UpstreamRefuses(String),
    /// The store is away, and this keeper has pledged not to promote its instance.
    Pledges {
        /// For how long, each time that it is asked.
        term: Duration,
        /// The primary that asks.
        primary: InstanceUid,
    },
    /// A promotion waits for the end of what was pledged.
    AwaitsPledge {
        /// For how long.
        remaining: Duration,
    },
    /// The store is away, and this primary goes on because all others have pledged.
    VouchedFor,
    /// The pledges on which it went on are over, and the store is still away.
    VouchedForNoMore,
    /// A report did not reach the store.
    ReportRefused(String),
    /// A file could not be written.
    NotSaved(super::event::StateFileKind, String),
    /// A report of somebody else stands under our uid: waiting whether its writer lives.
    PerhapsNamesake {
        /// For how long.
        within: Duration,
    },
    /// The store does not tell whether there is a namesake.
    CannotLookForNamesake(String),
    /// The keeper is told to end, and asks for somebody who takes its primary over.
    HandsOver {
        /// It ends after this in any case.
        within: Duration,
    },
    /// It ends without having asked for that.
    NoHandOver(NoHandOver),
    /// Nobody is fit yet, for these reasons, and somebody may be within the time.
    AwaitsHeir(String),
    /// It has asked, and waits no longer.
    Parts(Parting),
}

/// Why nobody is asked to take a primary over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHandOver {
    /// There is nothing to hand over here.
    #[error("this keeper has no primary")]
    NoPrimary,
    /// The time for it is zero.
    #[error("--handover-timeout is 0")]
    TurnedOff,
    /// Nobody could be asked.
    #[error("the store does not answer")]
    StoreAway,
    /// An operator wants no changes.
    #[error("the cluster is paused")]
    Paused,
    /// No other instance has a keeper that is healthy.
    #[error("no other db has a healthy keeper by the cluster data")]
    Nobody,
}

/// Why a keeper that is told to end does not wait any longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Parting {
    /// It is the primary's keeper no more.
    #[error("another db has the primary")]
    Relieved,
    /// The sentinel has said no, for this reason.
    #[error("nobody takes the primary over: {0}")]
    Refused(String),
    /// What had been begun was taken back.
    #[error("the hand-over was taken back")]
    TakenBack,
    /// No sentinel has taken notice.
    #[error("no sentinel has begun a hand-over")]
    NotAsked,
    /// Nobody was fit in time; at first, for these reasons.
    #[error("nobody was fit to take over within --handover-timeout: {0}")]
    NobodyInTime(String),
    /// It has taken too long.
    #[error("the hand-over has taken too long")]
    TimeIsOver,
}
