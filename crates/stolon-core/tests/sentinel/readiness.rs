//! Who would take over if the primary failed now: the same one that an election chooses.

use std::time::Duration;

use stolon_core::sentinel::{Impediment, Leadership, Loss, Readiness, readiness};
use stolon_model::*;

use crate::world::*;

fn ready(world: &mut World, lag: &[(usize, u64, u64)], leadership: Leadership) -> Readiness {
    let mut reports = world.current_reports();
    let told = lag.iter().map(|(number, unflushed_bytes, behind_seconds)| StandbyLagReport {
        instance: uid(*number),
        unflushed_bytes: *unflushed_bytes,
        behind_seconds: *behind_seconds,
    });
    if let Some(report) = reports.get_mut(&keeper_uid(1)) {
        report.activity.get_or_insert_default().standby_lag = Some(told.collect());
    }
    let cluster = world.data.clone().try_into().unwrap();
    readiness(&cluster, |uid| reports.get(uid), leadership).unwrap()
}

fn would_take_over(readiness: &Readiness) -> Option<(KeeperUid, Loss)> {
    readiness.successor.as_ref().map(|successor| (successor.keeper.clone(), successor.loss))
}

#[test]
fn in_synchronous_mode_nothing_would_be_lost_and_who_is_not_in_sync_could_not() {
    let mut world = World::synchronous(3, &[2], &[2]);
    world.db(3).status.lsn = Lsn(9_000);
    let found = ready(&mut world, &[], Leadership::Held);
    assert_eq!(would_take_over(&found), Some((keeper_uid(2), Loss::Nothing)));
    assert_eq!(found.rejected.len(), 1);
    assert_eq!(
        found.to_string(),
        "if the primary failed now: keeper2 would take over, nothing would be lost"
    );
}

#[test]
fn in_asynchronous_mode_the_primary_tells_best_what_would_be_lost() {
    let mut world = World::normal(3, 3);
    world.db(1).status.lsn = Lsn(9_000);
    world.db(2).status.lsn = Lsn(8_000);
    world.db(3).status.lsn = Lsn(7_000);
    for (lag, loss, words) in [
        (&[][..], Loss::UpTo { bytes: 1_000, behind: None }, "1000 B would be lost"),
        (&[(2, 0, 0)], Loss::UpTo { bytes: 0, behind: Some(Duration::ZERO) }, "0 B would be lost"),
        (
            &[(3, 5, 0), (2, 2_048, 3)],
            Loss::UpTo { bytes: 2_048, behind: Some(Duration::from_secs(3)) },
            "2.0 KiB of the last 3 s would be lost",
        ),
    ] {
        let found = ready(&mut world, lag, Leadership::Held);
        assert_eq!(would_take_over(&found), Some((keeper_uid(2), loss)));
        assert_eq!(found.to_string(), format!("if the primary failed now: keeper2 would take over, {words}"));
    }
    world.break_db(1);
    let foreseen = ready(&mut world, &[], Leadership::Held).successor.unwrap().instance;
    (0..4).for_each(|_| _ = world.round());
    assert_eq!(world.data.cluster.status.primary, Some(foreseen), "the election chooses the same one");
}

#[test]
fn nobody_is_named_where_nobody_could_and_what_holds_an_election_up_is_told() {
    let mut alone = World::normal(1, 1);
    let words = ready(&mut alone, &[], Leadership::Held).to_string();
    assert_eq!(words, "if the primary failed now: there is no standby that could take over");

    let mut world = World::normal(2, 2);
    world.silence_keeper(2);
    let found = ready(&mut world, &[], Leadership::Held);
    assert_eq!((found.successor.clone(), found.rejected.len()), (None, 1));
    assert_eq!(found.to_string(), "if the primary failed now: nobody could take over");

    let mut world = World::normal(2, 2);
    let found = ready(&mut world, &[], Leadership::Vacant);
    assert_eq!(found.impediment, Some(Impediment::NobodyDecides));
    world.data.cluster.pause = Some(Pause::default());
    let found = ready(&mut world, &[], Leadership::Held);
    assert_eq!(found.impediment, Some(Impediment::Paused(Pause::default())));
    assert!(found.to_string().contains("before the pause is over"), "{found}");
}
