//! Which keeper a person may take out of a cluster.

use std::collections::BTreeMap;

use stolon_model::{KeeperReport, KeeperUid, UsableCluster};

use super::eligibility::{Question, eligibility};

/// Why a keeper cannot be spared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotSpare {
    /// It has the primary.
    Primary,
    /// The primary does not work, nobody else could take its place, and this keeper has a complete copy.
    LastCopy {
        /// The keeper of the primary.
        primary: KeeperUid,
    },
}

/// Whether a keeper can be taken out together with its data. The keeper of the primary cannot; and as long as the primary does not
/// work, neither can who may hold the last copy of what was committed, also if its keeper is down at the moment.
///
/// # Errors
/// Why it cannot.
pub fn spare(
    cluster: &UsableCluster,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    keeper: &KeeperUid,
) -> Result<(), CannotSpare> {
    let data = cluster.data();
    let Some(primary) = data.primary() else { return Ok(()) };
    let instance = data.instance_of(keeper);
    if instance.is_some_and(|instance| instance.uid == primary.uid) {
        return Err(CannotSpare::Primary);
    }
    let another_can = || {
        // Who is to take over is found by comparison: nobody's copy can be spared for it.
        if primary.quorum().is_some() {
            return false;
        }
        let others = eligibility(cluster, reports);
        others.iter().any(|other| other.keeper != *keeper && other.rejection.is_none())
    };
    let mut formers = data.cluster.status.formers.iter().flatten();
    let is_former = formers.any(|former| former.keeper == *keeper && former.complete);
    let question = Question::about(primary, data, cluster.spec());
    let may_be_copy = || is_former || instance.is_some_and(|it| question.may_hold_everything(it));
    match !primary_works(cluster, reports) && may_be_copy() && !another_can() {
        true => Err(CannotSpare::LastCopy { primary: primary.spec.keeper_uid.clone() }),
        false => Ok(()),
    }
}

/// Whether the primary works. The document calls a keeper healthy for as long as `failInterval` after its death, or for ever where no
/// sentinel leads; its report ends sooner.
pub(super) fn primary_works(cluster: &UsableCluster, reports: &BTreeMap<KeeperUid, KeeperReport>) -> bool {
    let data = cluster.data();
    data.primary().is_some_and(|primary| {
        let uid = &primary.spec.keeper_uid;
        let keeper_works = data.keepers.get(uid).is_some_and(|keeper| keeper.status.healthy);
        keeper_works && primary.status.healthy && reports.contains_key(uid)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use stolon_model::{ClusterDocument, Document, InstanceUid};

    use super::*;

    /// `k1` has the primary, `k2` and `k3` have standbys, `k4` has nothing.
    const DOCUMENT: &str = r#"{"formatVersion":1,"changeTime":"2026-01-02T03:04:05Z","cluster":{"uid":"c","generation":1,"changeTime":"0001-01-01T00:00:00Z","spec":{"initMode":"new"},"status":{"phase":"normal","master":"aa"}},
"keepers":{"k1":{"uid":"k1","status":{"healthy":true}},"k2":{"uid":"k2","status":{"healthy":true}},"k3":{"uid":"k3","status":{"healthy":true}},"k4":{"uid":"k4","status":{"healthy":true}}},
"dbs":{"aa":{"uid":"aa","generation":3,"spec":{"keeperUID":"k1","role":"master","initMode":"none","followers":["bb","cc"]},"status":{"healthy":true,"currentGeneration":3,"systemdID":"7","timelineID":1}},
"bb":{"uid":"bb","generation":2,"spec":{"keeperUID":"k2","role":"standby","initMode":"none","followConfig":{"type":"internal","dbuid":"aa"}},"status":{"healthy":true,"currentGeneration":2,"systemdID":"7","timelineID":1}},
"cc":{"uid":"cc","generation":2,"spec":{"keeperUID":"k3","role":"standby","initMode":"none","followConfig":{"type":"internal","dbuid":"aa"}},"status":{"healthy":true,"currentGeneration":2,"systemdID":"7","timelineID":1}}},
"proxy":{"generation":1,"spec":{"masterDBUID":"aa"}}}"#;

    /// In sync, broken, to go.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a str, Result<(), CannotSpare>);

    /// Who is in sync, and whose PostgreSQL does not work.
    fn cluster(in_sync: &[&str], broken: &[&str]) -> UsableCluster {
        let mut document = ClusterDocument::from_json(DOCUMENT).unwrap();
        let instances = document.instances.as_mut().unwrap();
        for uid in broken {
            instances.get_mut(&InstanceUid::from(*uid)).unwrap().status.healthy = false;
        }
        let primary = instances.get_mut(&InstanceUid::from("aa")).unwrap();
        primary.spec.synchronous_replication = !in_sync.is_empty();
        let in_sync: Vec<InstanceUid> = in_sync.iter().map(|uid| InstanceUid::from(*uid)).collect();
        primary.spec.synchronous_standbys = Some(in_sync.clone());
        primary.status.synchronous_standbys = Some(in_sync);
        UsableCluster::try_from(document).unwrap()
    }

    fn reports(of: &[&str]) -> BTreeMap<KeeperUid, KeeperReport> {
        of.iter()
            .map(|uid| {
                (KeeperUid::from(*uid), KeeperReport { uid: (*uid).into(), ..KeeperReport::default() })
            })
            .collect()
    }

    fn last_copy() -> Result<(), CannotSpare> {
        Err(CannotSpare::LastCopy { primary: "k1".into() })
    }

    #[test]
    fn the_last_copy_of_a_primary_that_does_not_work_cannot_be_spared() {
        let cases: &[Case<'_>] = &[
            // Of the primary, never.
            (&[], &[], "k1", Err(CannotSpare::Primary)),
            (&["bb"], &["aa"], "k1", Err(CannotSpare::Primary)),
            // While the primary works, anybody else, and nobody misses who has no data.
            (&[], &[], "k2", Ok(())),
            (&["bb"], &[], "k2", Ok(())),
            (&["bb"], &["aa"], "k4", Ok(())),
            // Synchronous mode: only who is in sync holds everything, also if it is down.
            (&["bb"], &["aa"], "k2", last_copy()),
            (&["bb"], &["aa", "bb"], "k2", last_copy()),
            (&["bb"], &["aa"], "k3", Ok(())),
            (&["bb", "cc"], &["aa"], "k2", Ok(())),
            (&["bb", "cc"], &["aa", "cc"], "k2", last_copy()),
            // Asynchronous mode: anybody may be the last.
            (&[], &["aa"], "k2", Ok(())),
            (&[], &["aa", "cc"], "k2", last_copy()),
        ];
        let reports = reports(&["k1", "k2", "k3", "k4"]);
        for (in_sync, broken, keeper, expected) in cases {
            let judged = spare(&cluster(in_sync, broken), &reports, &(*keeper).into());
            assert_eq!(judged, *expected, "{keeper} of {in_sync:?} without {broken:?}");
        }
    }

    /// The document calls a keeper healthy for as long as `failInterval` after its death; its report ends sooner.
    #[test]
    fn a_primary_whose_keeper_has_no_report_any_more_does_not_work() {
        let cluster = cluster(&["bb"], &[]);
        assert_eq!(spare(&cluster, &reports(&["k1", "k2"]), &"k2".into()), Ok(()));
        assert_eq!(spare(&cluster, &reports(&["k2"]), &"k2".into()), last_copy());
    }
}
