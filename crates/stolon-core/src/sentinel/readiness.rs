//! Who would take over if the primary failed now, and what would be lost by it.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use stolon_model::{
    ByteCount, Instance, InstanceUid, KeeperReport, KeeperUid, Pause, StandbyLagReport, UsableCluster,
};

use super::Rejection;
use super::eligibility::{Question, disk_trouble};

/// What a failure of the primary would come to, as far as the cluster data and the reports tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Who would take over; none: nobody can.
    pub successor: Option<Successor>,
    /// Why the others may not.
    pub rejected: Vec<(KeeperUid, Rejection)>,
    /// What would keep even a fit successor waiting.
    pub impediment: Option<Impediment>,
}

/// Who would take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its keeper.
    pub keeper: KeeperUid,
    /// Its instance.
    pub instance: InstanceUid,
    /// What it lacks.
    pub loss: Loss,
}

/// What was committed on the primary and would be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Commits wait for the successor.
    Nothing,
    /// By the last reports; a client may have committed since.
    UpTo {
        /// Of WAL.
        bytes: u64,
        /// For how long it has lacked the oldest of them; none where nobody tells.
        behind: Option<Duration>,
    },
}

/// What keeps an election from happening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Impediment {
    /// No sentinel leads.
    NobodyDecides,
    /// An operator has paused the cluster.
    Paused(Pause),
}

/// Whether a sentinel leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// One does.
    Held,
    /// None does.
    Vacant,
}

/// What would happen if the primary failed now. None: there is no primary. `report_of` gives the last report of a keeper.
pub fn readiness<'a>(
    cluster: &UsableCluster,
    report_of: impl Fn(&KeeperUid) -> Option<&'a KeeperReport>,
    leadership: Leadership,
) -> Option<Readiness> {
    let data = cluster.data();
    let primary = data.primary()?;
    let question = Question::about(primary, data, cluster.spec());
    let too_few = question.too_few_to_compare();
    let mut candidates = Vec::new();
    let mut rejected = Vec::new();
    for instance in data.instances.values().filter(|instance| instance.uid != primary.uid) {
        let report = report_of(&instance.spec.keeper_uid);
        let why = question
            .rejection(instance)
            .or_else(|| question.crashes(report))
            .or_else(|| disk_trouble(report))
            .or_else(|| too_few.clone());
        match why {
            None => candidates.push(instance),
            Some(why) => rejected.push((instance.spec.keeper_uid.clone(), why)),
        }
    }
    let successor = candidates.into_iter().min_by_key(|instance| question.rank(instance));
    let impediment = match (&data.cluster.pause, leadership) {
        (_, Leadership::Vacant) => Some(Impediment::NobodyDecides),
        (Some(pause), Leadership::Held) => Some(Impediment::Paused(pause.clone())),
        (None, Leadership::Held) => None,
    };
    let successor = successor.map(|instance| Successor {
        keeper: instance.spec.keeper_uid.clone(),
        instance: instance.uid.clone(),
        loss: loss(primary, instance, report_of(&primary.spec.keeper_uid)),
    });
    Some(Readiness { successor, rejected, impediment })
}

/// The primary itself tells best, since it sees both at one moment. Where it does not, positions of different moments have to do.
fn loss(primary: &Instance, successor: &Instance, report: Option<&KeeperReport>) -> Loss {
    if primary.spec.synchronous_replication {
        return Loss::Nothing;
    }
    let told = report.and_then(|report| report.activity.as_ref()?.standby_lag.as_ref());
    let is_it = |lag: &&StandbyLagReport| lag.instance == successor.uid;
    match told.and_then(|told| told.iter().find(is_it)) {
        Some(lag) => {
            let behind = Some(Duration::from_secs(lag.behind_seconds));
            Loss::UpTo { bytes: lag.unflushed_bytes, behind }
        }
        None => {
            let bytes = primary.status.lsn.ahead_of(successor.status.lsn);
            Loss::UpTo { bytes: u64::try_from(bytes).unwrap_or(0), behind: None }
        }
    }
}

impl Display for Readiness {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.impediment {
            None => f.write_str("if the primary failed now: ")?,
            Some(Impediment::NobodyDecides) => {
                f.write_str(
                    "if the primary failed now: nobody would be elected, since no sentinel leads; with one: ",
                )?;
            }
            Some(Impediment::Paused(_)) => f.write_str(
                "if the primary failed now: nobody would be elected before the pause is over; then: ",
            )?,
        }
        match &self.successor {
            Some(successor) => write!(f, "{} would take over, {}", successor.keeper, successor.loss),
            None if self.rejected.is_empty() => f.write_str("there is no standby that could take over"),
            None => f.write_str("nobody could take over"),
        }
    }
}

impl Display for Loss {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing would be lost"),
            Self::UpTo { bytes, behind: Some(behind) } if *bytes > 0 && !behind.is_zero() => {
                write!(f, "{} of the last {} s would be lost", ByteCount(*bytes), behind.as_secs())
            }
            Self::UpTo { bytes, .. } => write!(f, "{} would be lost", ByteCount(*bytes)),
        }
    }
}
