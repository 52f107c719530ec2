//! What the writing of a few bytes shows of the disks: nothing else of a server tells that its disk takes nothing any more before somebody
//! has waited for it.

use std::time::Duration;

use stolon_model::{DiskFault, DiskReport};

use crate::keeper::goal::Goal;
use crate::keeper::room::{DiskUse, Probed, Room};
use crate::keeper::say::Saying;

use super::Machine;

/// A disk that takes longer than this for a few bytes hangs, however short `sleepInterval` is: one that writes back much takes seconds.
const LEAST_PATIENCE: Duration = Duration::from_secs(5);

/// What is wrong with the disks, and since when.
#[derive(Debug, Default)]
pub(super) struct Disks {
    trouble: Option<Trouble>,
    server: Fate,
}

/// Whether there may be a server, as far as that is known without its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    MayRun,
    /// It has ended, and none was begun to be started since.
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    fault: DiskFault,
    place: DiskUse,
    /// The words of the operating system; empty: there are none.
    words: String,
    since: Duration,
}

impl Disks {
    /// A look has ended. `sleep` is the sleep interval. Returns what is news.
    pub(super) fn looked(&mut self, now: Duration, room: &Room, sleep: Duration) -> Option<Saying> {
        let found = worst(room, sleep.max(LEAST_PATIENCE));
        let since =
            self.trouble.as_ref().filter(|before| found.as_ref().is_some_and(|it| it.0 == before.fault));
        let since = since.map_or(now, |before| before.since);
        let before = self.trouble.take();
        self.trouble = found.map(|(fault, place, words)| Trouble { fault, place, words, since });
        let kind =
            |trouble: &Option<Trouble>| trouble.as_ref().map(|it| (it.fault.clone(), it.place.clone()));
        if kind(&before) == kind(&self.trouble) {
            return None;
        }
        Some(self.report(now, Duration::MAX).map_or(Saying::DiskWorksAgain, Saying::DiskTrouble))
    }

    /// For the report; `lasts` is how long it takes until it counts as lasting.
    pub(super) fn report(&self, now: Duration, lasts: Duration) -> Option<DiskReport> {
        let Trouble { fault, place, words, since } = self.trouble.clone()?;
        Some(DiskReport {
            fault: Some(fault),
            place: place.to_string(),
            words,
            lasting: now.saturating_sub(since) > lasts,
        })
    }

    /// Whether nothing that must reach the disk does so, be it because it waits or because it fails. On a full disk what is there can
    /// be changed yet.
    pub(super) fn take_nothing(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.fault != DiskFault::Full)
    }

    pub(super) fn fault(&self) -> Option<DiskFault> {
        self.trouble.as_ref().map(|trouble| trouble.fault.clone())
    }

    fn hang(&self) -> bool {
        self.fault() == Some(DiskFault::Hangs)
    }

    /// Whether there may be a server whose commits wait for a disk that hangs.
    fn hold_up_a_server(&self) -> bool {
        self.hang() && self.server == Fate::MayRun
    }

    /// Whether there may be a server.
    pub(super) fn server_may_run(&self) -> bool {
        self.server == Fate::MayRun
    }

    pub(super) fn server_ended(&mut self) {
        self.server = Fate::Ended;
    }

    pub(super) fn server_starts(&mut self) {
        self.server = Fate::MayRun;
    }
}

impl Machine {
    /// A server that must not serve and whose disk hangs is killed, whatever else is under way. No file can be written that would lock its
    /// clients out, it does not stop by itself, and what its clients wait for would be acknowledged when the disk comes back: a session that
    /// is told to end finishes its commit first (docs/design/009-disks.md).
    pub(super) fn kill_what_must_not_serve_and_hangs(&mut self) {
        if !self.must_not_serve() || !self.server.disks.hold_up_a_server() {
            return;
        }
        self.kill();
    }

    /// The server is killed, whatever else is under way.
    pub(super) fn kill(&mut self) {
        let reaction = self.pursuit.kill(self.orders.goal());
        self.call_off_if_asked(reaction);
    }

    fn must_not_serve(&self) -> bool {
        match self.orders.goal() {
            Goal::LeaveAlone(_) => false,
            Goal::Stop(_) => true,
            // What is here is replaced, whatever it was.
            goal @ Goal::Reach(instance) => goal.is_deposed() || instance.uid != self.disk.local.uid,
        }
    }

    /// Whether there is no use in starting a server that has ended: what it has to write would hang as well, and behind its gate it serves
    /// nobody. Looks go on, and show when the disk is back.
    pub(super) fn is_kept_down_for_its_disk(&self) -> bool {
        let disks = &self.server.disks;
        disks.server == Fate::Ended && disks.hang() && self.orders.goal().is_deposed()
    }
}

/// The worst that the probes show, of the first place of which it is true.
fn worst(room: &Room, patience: Duration) -> Option<(DiskFault, DiskUse, String)> {
    let shows = |(place, probed): &(DiskUse, Probed)| match probed {
        Probed::UnderWay(time) if *time > patience => {
            Some((0, DiskFault::Hangs, place.clone(), String::new()))
        }
        Probed::Failed(words) => Some((1, DiskFault::Fails, place.clone(), words.clone())),
        Probed::NoSpace => Some((2, DiskFault::Full, place.clone(), String::new())),
        Probed::Written | Probed::UnderWay(_) => None,
    };
    let worst = room.probes.iter().filter_map(shows).min_by_key(|(rank, ..)| *rank);
    worst.map(|(_, fault, place, words)| (fault, place, words)).or_else(|| {
        let full = room.file_systems.iter().find(|it| it.has_no_room())?;
        Some((DiskFault::Full, full.uses.first()?.clone(), String::new()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::room::FileSystem;

    const SECOND: Duration = Duration::from_secs(1);

    fn probed(probes: &[(DiskUse, Probed)]) -> Room {
        Room { probes: probes.to_vec(), ..Room::default() }
    }

    fn looked(disks: &mut Disks, second: u32, room: &Room) -> Option<(DiskFault, String, bool)> {
        disks.looked(SECOND * second, room, SECOND);
        let report = disks.report(SECOND * second, SECOND * 5)?;
        Some((report.fault?, report.place, report.lasting))
    }

    #[test]
    fn a_disk_hangs_when_a_few_bytes_take_longer_than_anybody_s_patience() {
        let mut disks = Disks::default();
        let under_way = |seconds: u32| probed(&[(DiskUse::Wal, Probed::UnderWay(SECOND * seconds))]);
        assert_eq!(looked(&mut disks, 1, &under_way(5)), None);
        assert!(!disks.take_nothing());
        assert_eq!(looked(&mut disks, 2, &under_way(6)), Some((DiskFault::Hangs, "wal".into(), false)));
        assert!(disks.take_nothing() && disks.hold_up_a_server());
        let long = Room { probes: vec![(DiskUse::Wal, Probed::UnderWay(SECOND * 20))], ..Room::default() };
        assert!(
            Disks::default().looked(SECOND, &long, SECOND * 30).is_none(),
            "the sleep interval is longer"
        );
        assert_eq!(looked(&mut disks, 7, &under_way(11)), Some((DiskFault::Hangs, "wal".into(), false)));
        assert_eq!(looked(&mut disks, 8, &under_way(12)), Some((DiskFault::Hangs, "wal".into(), true)));
        assert_eq!(looked(&mut disks, 9, &probed(&[(DiskUse::Wal, Probed::Written)])), None);
        assert!(!disks.take_nothing() && !disks.hold_up_a_server());
    }

    #[test]
    fn the_worst_is_told_and_a_full_disk_still_takes_changes() {
        let mut disks = Disks::default();
        let full = (DiskUse::Data, Probed::NoSpace);
        assert_eq!(
            looked(&mut disks, 1, &probed(&[full.clone()])),
            Some((DiskFault::Full, "data".into(), false))
        );
        assert!(!disks.take_nothing());
        let failing = (DiskUse::Wal, Probed::Failed("read-only".into()));
        let both = probed(&[full, failing]);
        assert_eq!(
            looked(&mut disks, 7, &both),
            Some((DiskFault::Fails, "wal".into(), false)),
            "a new trouble"
        );
        assert!(disks.take_nothing() && !disks.hold_up_a_server());
        let uses = vec![DiskUse::Data, DiskUse::Wal];
        let no_segment = FileSystem { uses, total: 1 << 40, free: (16 << 20) - 1 };
        let room = Room { file_systems: vec![no_segment], ..Room::default() };
        assert_eq!(looked(&mut disks, 8, &room), Some((DiskFault::Full, "data".into(), false)));
    }

    #[test]
    fn it_is_news_once_and_so_is_its_end() {
        let mut disks = Disks::default();
        let full = probed(&[(DiskUse::Data, Probed::NoSpace)]);
        let is_trouble = |said: &Option<Saying>| matches!(said, Some(Saying::DiskTrouble(_)));
        assert!(is_trouble(&disks.looked(SECOND, &full, SECOND)));
        assert_eq!(disks.looked(SECOND * 2, &full, SECOND), None);
        let written = probed(&[(DiskUse::Data, Probed::Written)]);
        assert_eq!(disks.looked(SECOND * 3, &written, SECOND), Some(Saying::DiskWorksAgain));
        assert_eq!(disks.looked(SECOND * 4, &written, SECOND), None);
    }
}
