//! The highest point that this keeper ever served at, on its own disk: a store that goes back in time is noticed by it.

use std::time::Duration;

use stolon_model::{ClusterData, ClusterUid, Lsn, Served};

use crate::evidence::evidence;
use crate::keeper::goal::OlderThanServed;
use crate::keeper::look::Answer;

/// A position that only moves is written down again after this long.
const WRITE_INTERVAL: Duration = Duration::from_secs(30);

/// The highest point, and what of it is written down.
#[derive(Debug, Default)]
pub(super) struct ServedMark {
    highest: Option<Served>,
    written: Option<Served>,
    written_at: Duration,
}

/// Whether an instance is the one that the cluster has elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Office {
    /// The primary.
    Elected,
    /// A standby, or a primary in whose place another one was elected.
    None,
}

impl ServedMark {
    /// What an earlier keeper wrote down.
    pub(super) fn new(written: Option<Served>) -> Self {
        ServedMark { highest: written.clone(), written, written_at: Duration::ZERO }
    }

    /// Our PostgreSQL works, in the charge of this. What is lower than what is known changes nothing; another cluster replaces it.
    pub(super) fn serves(&mut self, mut now: Served, office: Office, answer: &Answer) {
        (now.timeline, now.lsn) = (answer.timeline, answer.lsn);
        let before = self.highest.as_ref().filter(|highest| highest.cluster_uid == now.cluster_uid);
        if now.epoch == 0 {
            // A program of Stolon dropped the epoch: these data follow those that had it.
            now.epoch = before.map_or(0, |before| before.epoch);
        }
        now.primary_epoch = match office {
            Office::Elected => Some(now.epoch),
            Office::None => before.filter(|it| it.instance == now.instance).and_then(|it| it.primary_epoch),
        };
        let is_higher = self.highest.as_ref().is_none_or(|highest| {
            highest.cluster_uid != now.cluster_uid
                || (highest.instance != now.instance && highest.epoch <= now.epoch)
                || order(highest) < order(&now)
        });
        if is_higher {
            self.highest = Some(now);
        }
    }

    /// The highest point.
    pub(super) fn highest(&self) -> Option<&Served> {
        self.highest.as_ref()
    }

    /// Where the data were that served this cluster last.
    pub(super) fn position_in(&self, cluster: &ClusterUid) -> Option<Lsn> {
        self.highest().filter(|highest| highest.cluster_uid == *cluster).map(|highest| highest.lsn)
    }

    /// What is to be written down now: at once when more than the position moved. Call [`ServedMark::writing`] when that begins.
    pub(super) fn to_write(&self, now: Duration) -> Option<&Served> {
        let highest = self.highest.as_ref().filter(|_| self.highest != self.written)?;
        let moved = self
            .written
            .as_ref()
            .is_none_or(|written| without_position(written) != without_position(highest));
        (moved || now.saturating_sub(self.written_at) >= WRITE_INTERVAL).then_some(highest)
    }

    /// `served` is on its way to the disk.
    pub(super) fn writing(&mut self, now: Duration, served: Served) {
        (self.written, self.written_at) = (Some(served), now);
    }

    /// It did not arrive; it is tried again with the next position.
    pub(super) fn not_written(&mut self) {
        self.written = None;
    }

    /// Why `cluster` is older than what we served under, if it is: judged as sentinels do, so that a keeper follows what a sentinel
    /// decides on, and nothing else.
    pub(super) fn is_ahead_of(&self, cluster: &ClusterData) -> Option<OlderThanServed> {
        let served = self.highest.as_ref()?;
        let primary = cluster.primary().map(|primary| primary.status.timeline).unwrap_or_default();
        Some(OlderThanServed::by(evidence(cluster, primary, served)?, served))
    }
}

fn order(served: &Served) -> (u64, i64, u64, u64) {
    (served.epoch, served.generation, served.timeline.0, served.lsn.0)
}

fn without_position(served: &Served) -> Served {
    Served { lsn: stolon_model::Lsn(0), ..served.clone() }
}

#[cfg(test)]
mod tests {
    use stolon_model::{Instance, Timeline};

    use super::*;

    fn served(epoch: u64, generation: i64, lsn: u64) -> Served {
        Served {
            cluster_uid: "c1".into(),
            epoch,
            instance: "us".into(),
            primary_epoch: None,
            generation,
            timeline: Timeline(1),
            lsn: Lsn(lsn),
        }
    }

    fn answer(lsn: u64) -> Answer {
        Answer { timeline: Timeline(1), lsn: Lsn(lsn), ..Answer::default() }
    }

    fn document(uid: &str, epoch: Option<u64>, generation: i64) -> ClusterData {
        let spec = stolon_model::ClusterSpec::default();
        let mut cluster = ClusterData::initial(ClusterUid::from(uid), spec, stolon_model::Timestamp::ZERO);
        cluster.cluster.epoch = epoch;
        let instance = Instance { generation, ..Instance::default() };
        cluster.instances.insert("us".into(), instance);
        cluster
    }

    #[test]
    fn older_cluster_data_are_told_by_the_epoch_and_without_one_by_the_generation() {
        for (mine, uid, epoch, generation, older) in [
            (served(5, 3, 0), "c1", Some(5), 3, false),
            (served(5, 3, 0), "c1", Some(4), 9, true),
            (served(5, 3, 0), "c1", Some(6), 3, false),
            (served(5, 3, 0), "c1", Some(6), 1, true),
            (served(5, 3, 0), "c1", Some(5), 2, true),
            (served(5, 3, 0), "c2", Some(1), 1, false),
            (served(5, 3, 0), "c1", None, 3, false),
            (served(5, 3, 0), "c1", None, 2, true),
            (served(0, 3, 0), "c1", Some(1), 2, true),
            (served(0, 3, 0), "c1", Some(1), 4, false),
        ] {
            let mark = ServedMark::new(Some(mine.clone()));
            let found = mark.is_ahead_of(&document(uid, epoch, generation)).is_some();
            assert_eq!(found, older, "{mine:?} {uid} {epoch:?} {generation}");
        }
        let mut elsewhere = document("c1", None, 1);
        elsewhere.instances.clear();
        assert_eq!(ServedMark::new(Some(served(0, 3, 0))).is_ahead_of(&elsewhere), None);
        assert_eq!(ServedMark::new(None).is_ahead_of(&elsewhere), None);
    }

    /// Served under an epoch, then under data of Stolon, which has none; then the store goes back to what was there before.
    #[test]
    fn what_was_served_without_an_epoch_follows_the_one_before() {
        let mut mark = ServedMark::new(Some(served(5, 3, 100)));
        assert_eq!(mark.is_ahead_of(&document("c1", None, 4)), None, "it is followed");
        mark.serves(served(0, 4, 0), Office::None, &answer(200));
        assert_eq!(mark.highest(), Some(&served(5, 4, 200)));
        assert!(mark.is_ahead_of(&document("c1", Some(5), 3)).is_some());
        assert_eq!(mark.is_ahead_of(&document("c1", Some(6), 4)), None, "a sentinel of ours leads again");
        let elsewhere = Served { instance: "anew".into(), ..served(0, 1, 0) };
        mark.serves(elsewhere, Office::None, &answer(150));
        assert_eq!((mark.highest().unwrap().epoch, mark.highest().unwrap().lsn), (5, Lsn(150)));
    }

    /// Which of several was the last to be elected tells whose data are the newest. Another instance begins anew.
    #[test]
    fn it_is_remembered_under_what_it_was_elected() {
        let mut mark = ServedMark::new(None);
        let mut elected = |now: Served, office| {
            mark.serves(now, office, &answer(10));
            mark.highest().unwrap().primary_epoch
        };
        assert_eq!(elected(served(5, 3, 0), Office::None), None);
        assert_eq!(elected(served(6, 4, 0), Office::Elected), Some(6));
        assert_eq!(elected(served(0, 5, 0), Office::Elected), Some(6), "a program of Stolon wrote");
        assert_eq!(elected(served(8, 5, 0), Office::None), Some(6), "another one was elected");
        let anew = Served { instance: "anew".into(), ..served(9, 1, 0) };
        assert_eq!(elected(anew, Office::None), None);
    }

    #[test]
    fn the_highest_point_only_rises_and_another_cluster_replaces_it() {
        let mut mark = ServedMark::new(Some(served(5, 3, 100)));
        mark.serves(served(5, 3, 0), Office::None, &answer(90));
        assert_eq!(mark.highest(), Some(&served(5, 3, 100)), "a restored machine");
        mark.serves(served(5, 3, 0), Office::None, &answer(110));
        assert_eq!(mark.highest(), Some(&served(5, 3, 110)));
        mark.serves(served(6, 1, 0), Office::None, &answer(20));
        assert_eq!(mark.highest(), Some(&served(6, 1, 20)));
        let anew = Served { instance: "anew".into(), ..served(6, 1, 0) };
        mark.serves(anew, Office::None, &answer(10));
        assert_eq!(mark.highest().unwrap().lsn, Lsn(10), "an instance that was made anew");
        let other = Served { cluster_uid: "c2".into(), ..served(1, 1, 0) };
        mark.serves(other.clone(), Office::None, &answer(0));
        assert_eq!(mark.highest().unwrap().cluster_uid, other.cluster_uid);
    }

    #[test]
    fn positions_are_written_down_now_and_then_and_everything_else_at_once() {
        let mut mark = ServedMark::new(None);
        assert_eq!(mark.to_write(Duration::ZERO), None);
        mark.serves(served(5, 3, 0), Office::None, &answer(100));
        let first = mark.to_write(Duration::ZERO).unwrap().clone();
        mark.writing(Duration::ZERO, first);
        mark.serves(served(5, 3, 0), Office::None, &answer(200));
        assert_eq!(mark.to_write(Duration::from_secs(29)), None);
        assert!(mark.to_write(Duration::from_secs(30)).is_some());
        mark.serves(served(5, 4, 0), Office::None, &answer(200));
        assert!(mark.to_write(Duration::ZERO).is_some());
        mark.not_written();
        assert!(mark.to_write(Duration::ZERO).is_some());
    }
}
