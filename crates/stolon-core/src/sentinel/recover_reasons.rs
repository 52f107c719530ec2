//! What keepers hold that an operator could go on from, and what would be lost by it, as values and in words.

use std::fmt::{self, Display, Formatter};

use stolon_model::{ByteCount, InstanceUid, KeeperUid, Lsn, Timeline, Timestamp};

/// Complete data of the cluster that a keeper holds beside the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The keeper.
    pub keeper: KeeperUid,
    /// The instance.
    pub instance: InstanceUid,
    /// What it was last.
    pub was: Was,
    /// Its timeline, as far as anybody knows.
    pub timeline: Timeline,
    /// Its position, as far as anybody knows.
    pub lsn: Lsn,
    /// What would be lost if the cluster went on from it.
    pub loss: WouldBeLost,
}

/// What an instance was last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Was {
    /// The primary, until then; [`Timestamp::ZERO`]: nobody remembers when.
    Primary {
        /// When another one was elected in its place.
        until: Timestamp,
    },
    /// A standby.
    Standby,
}

/// What the primary may have acknowledged that an instance does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WouldBeLost {
    /// Nobody can have been told of anything.
    Nothing,
    /// What lies between these positions, and what came after the last report of the primary.
    Since {
        /// The primary's timeline.
        timeline: Timeline,
        /// Where the instance ends, or where the primary left it.
        from: Lsn,
        /// The primary's last position.
        to: Lsn,
    },
    /// Nobody knows where the two parted.
    Unknown {
        /// The primary's timeline.
        timeline: Timeline,
        /// The primary's last position.
        to: Lsn,
    },
}

impl WouldBeLost {
    /// Where on the primary's timeline begins what would be lost; none: nothing would.
    pub(super) fn from(&self) -> Option<Lsn> {
        match self {
            Self::Nothing => None,
            Self::Since { from, .. } => Some(*from),
            Self::Unknown { .. } => Some(Lsn(0)),
        }
    }
}

impl Held {
    pub(super) fn as_way_out(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let keeper = &self.keeper;
        write!(f, "{self}; stolonctl recover {keeper} says what would be lost by going on from it")
    }
}

impl Display for Held {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "keeper {} holds db {}, ", self.keeper, self.instance)?;
        match self.was {
            Was::Primary { until } if until.is_never() => f.write_str("a former primary")?,
            Was::Primary { until } => write!(f, "the primary until {until}")?,
            Was::Standby => f.write_str("a standby")?,
        }
        write!(f, ", on timeline {} up to {}", self.timeline, self.lsn)
    }
}

impl Display for WouldBeLost {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing: no client was told of a commit since"),
            Self::Since { timeline, from, to } => {
                let bytes = u64::try_from(to.ahead_of(*from)).unwrap_or(0);
                write!(
                    f,
                    "what was committed on timeline {timeline} after {from}: {} up to {to}, and whatever the primary did after its last report",
                    ByteCount(bytes)
                )
            }
            Self::Unknown { timeline, to } => write!(
                f,
                "what was committed on timeline {timeline}, which was at {to} in the last report of the primary; where it began is not known"
            ),
        }
    }
}

/// A former primary is back that holds what an operator has given up.
pub(super) fn given_up(
    f: &mut Formatter<'_>,
    instance: &InstanceUid,
    keeper: &KeeperUid,
    timeline: Timeline,
    from: Lsn,
    to: Lsn,
) -> fmt::Result {
    let bytes = u64::try_from(to.ahead_of(from)).unwrap_or(0);
    write!(
        f,
        "keeper {keeper} is back with db {instance}, the former primary that an operator has given up (stolonctl recover): what it wrote on \
         timeline {timeline} from {from} to {to} ({}) is lost when its keeper makes a standby of it",
        ByteCount(bytes)
    )
}
