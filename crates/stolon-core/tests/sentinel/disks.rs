//! Disks that are full or hang: who is replaced, and by whom.

use stolon_core::sentinel::{Change, Decision, Hold, PrimaryFault, Rejection};
use stolon_model::*;

use crate::world::*;

fn disk(fault: DiskFault, lasting: bool) -> Option<DiskReport> {
    Some(DiskReport { fault: Some(fault), place: "wal".into(), lasting, ..DiskReport::default() })
}

/// A round on reports in which keepers say this of their disks.
fn round(world: &mut World, disks: &[(usize, Option<DiskReport>)]) -> Decision {
    let mut reports = world.current_reports();
    for (number, disk) in disks {
        let report = reports.get_mut(&keeper_uid(*number)).unwrap();
        report.activity.get_or_insert_default().disk = disk.clone();
    }
    world.round_on(&reports)
}

fn full(lasting: bool) -> Option<DiskReport> {
    disk(DiskFault::Full, lasting)
}

#[test]
fn a_primary_without_room_is_replaced_by_who_has_room_and_by_nobody_else() {
    for (synchronous, primary, standby, replaced) in [
        (false, full(true), None, true),
        (true, full(true), None, true),
        (false, full(false), None, false),
        (false, full(true), full(false), false),
        (false, full(true), disk(DiskFault::Hangs, false), false),
        // A disk that takes nothing shows as a PostgreSQL that does not work, in its own time.
        (false, disk(DiskFault::Hangs, true), None, false),
        (false, None, full(true), false),
    ] {
        let mut world = match synchronous {
            true => World::synchronous(2, &[2], &[2]),
            false => World::normal(2, 2),
        };
        let fault = PrimaryFault::DiskFull { keeper: keeper_uid(1) };
        let is_it = |it: &Change| matches!(it, Change::PrimaryElected { because, .. } if *because == fault);
        // Who works yet is replaced in order: its clients are sent away, and what it ends with is waited for.
        let rounds = 0..4;
        let elected = rounds.fold(false, |elected, _| {
            let decision = round(&mut world, &[(1, primary.clone()), (2, standby.clone())]);
            elected || decision.changes.iter().any(is_it)
        });
        let is_elected = world.data.cluster.status.primary == Some(uid(2));
        assert_eq!((is_elected, elected), (replaced, replaced), "{synchronous} {primary:?} {standby:?}");
        assert!(replaced || world.data.proxy.spec.primary == Some(uid(1)), "clients stay where they are");
    }
}

#[test]
fn a_standby_whose_disk_takes_nothing_does_not_take_over_from_a_dead_primary() {
    for fault in [DiskFault::Full, DiskFault::Hangs, DiskFault::Fails] {
        let mut world = World::normal(3, 3).given(|world| world.break_db(1));
        round(&mut world, &[(2, disk(fault.clone(), false))]);
        assert_eq!(world.data.cluster.status.primary, Some(uid(3)), "{fault:?}");

        let mut world = World::normal(2, 2).given(|world| world.break_db(1));
        let decision = round(&mut world, &[(2, disk(fault.clone(), false))]);
        let rejection = (uid(2), Rejection::Disk { fault: fault.clone() });
        let says_so = |hold: &Hold| matches!(hold, Hold::NoEligibleStandby { rejected, .. } if rejected[..] == [rejection.clone()]);
        assert!(has_hold(&decision, says_so), "{:?}", decision.holds);
        round(&mut world, &[(2, None)]);
        assert_eq!(world.data.cluster.status.primary, Some(uid(2)), "room was made");
    }
}

/// What the clients of a primary that works yet were promised is waited for, whatever the reason for its replacement.
#[test]
fn an_asynchronous_primary_without_room_is_replaced_once_its_successor_has_everything() {
    let mut world = World::normal(2, 2);
    world.db(1).status.lsn = Lsn(600);
    world.db(2).status.lsn = Lsn(500);
    for _ in 0..4 {
        round(&mut world, &[(1, full(true))]);
    }
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
    assert_eq!(world.data.proxy.spec.primary, None, "its clients are sent away");
    world.db(2).status.lsn = Lsn(600);
    round(&mut world, &[(1, full(true))]);
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

/// A successor would meet the same archive, and what waits for it lies on the primary alone.
#[test]
fn an_archive_that_takes_nothing_is_no_reason_to_replace_a_primary() {
    for fault in [ArchiverFault::Fails, ArchiverFault::Waits] {
        let mut world = World::normal(2, 2);
        let mut reports = world.current_reports();
        let activity = &mut reports.get_mut(&keeper_uid(1)).unwrap().activity;
        let archiver = ArchiverReport { fault: Some(fault), failures: 1000, ..ArchiverReport::default() };
        activity.get_or_insert_default().archiver = Some(archiver);
        for _ in 0..4 {
            let decision = world.round_on(&reports);
            assert_eq!((decision.changes, decision.holds), (Vec::new(), Vec::new()));
        }
    }
}
