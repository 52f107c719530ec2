//! How many standbys there are, and which must be made anew.

use std::time::Duration;

use stolon_core::sentinel::{Change, RemovalReason, Stall};
use stolon_model::*;

use crate::world::*;

fn at_most(world: &mut World, standbys: u16) {
    world.data.cluster.spec.max_standbys_per_sender = Some(standbys);
}

fn removed(world: &mut World) -> Vec<(InstanceUid, RemovalReason)> {
    let decision = world.round();
    decision
        .changes
        .into_iter()
        .filter_map(|change| match change {
            Change::InstanceRemoved { instance, because, .. } => Some((instance, because)),
            _ => None,
        })
        .collect()
}

/// The second keeper is to copy the primary.
fn is_made_anew(world: &World) -> bool {
    let instance = world.data.instance_of(&keeper_uid(2));
    instance.is_some_and(|instance| instance.spec.init_mode == Some(InstanceInitMode::Resync))
}

#[test]
fn a_free_keeper_is_left_alone_while_there_are_enough_standbys() {
    World::normal(3, 2).given(|world| at_most(world, 1)).expect_unchanged("row 9");
    World::normal(2, 2).given(|world| at_most(world, 1)).expect_unchanged("row 12, as it is given");
    World::normal(2, 2)
        .given(|world| {
            at_most(world, 1);
            world.db(2).status.current_generation = 0;
        })
        .with_old_timers()
        .expect_unchanged("row 12, as it is named");
}

#[test]
fn a_standby_that_does_not_come_gets_a_companion() {
    let mut world = World::normal(3, 2).given(|world| {
        at_most(world, 1);
        world.db(2).status.current_generation = 0;
    });
    world = world.with_old_timers();
    world.round();
    assert_eq!(world.data.instances.len(), 3);
    let added = world.db(3).clone();
    assert_eq!(added.spec.keeper_uid, keeper_uid(3));
    assert_eq!((added.generation, added.spec.init_mode), (1, Some(InstanceInitMode::Resync)));
    assert_eq!(world.db(1).spec.followers, uids(&[2, 3]));
}

#[test]
fn once_there_are_enough_the_one_that_did_not_come_is_given_up() {
    let mut world = World::normal(3, 3).given(|world| {
        at_most(world, 1);
        world.db(2).status.current_generation = 0;
    });
    assert_eq!(removed(&mut world), [(uid(2), RemovalReason::NotNeeded)]);
    assert_eq!(world.db(1).spec.followers, uids(&[3]));
}

/// Its keeper cannot bring it back: with the data directory, or the file that says whose data are in it, the instance is gone.
#[test]
fn a_standby_whose_data_are_gone_is_made_anew_after_a_while() {
    let mut world = World::normal(2, 2);
    world.round();
    let round_without_data = |world: &mut World, holds: &str| {
        let mut reports = world.current_reports();
        if let Some(state) = &mut reports.get_mut(&keeper_uid(2)).unwrap().postgres_state {
            (state.uid, state.healthy) = (holds.into(), false);
        }
        world.round_on(&reports).changes
    };
    let is_removal = |change: &Change| matches!(change, Change::InstanceRemoved { .. });
    assert!(!round_without_data(&mut world, "").iter().any(is_removal), "it may come back");
    world.later(1000);
    assert!(!round_without_data(&mut world, "").iter().any(is_removal), "it may still come back");
    let mut changes = Vec::new();
    for _ in 0..60 {
        world.later(1000);
        changes.extend(round_without_data(&mut world, ""));
    }
    let removed: Vec<_> = changes.iter().filter(|change| is_removal(change)).collect();
    assert!(
        matches!(removed[..], [Change::InstanceRemoved { instance, because: RemovalReason::DataLost, .. }] if *instance == uid(2)),
        "{changes:?}"
    );
    assert_eq!(world.db(3).spec.keeper_uid, keeper_uid(2));
    assert_eq!(world.db(3).spec.init_mode, Some(InstanceInitMode::Resync));
}

/// Between the keeper's reaching its first generation and the sentinel's reading of it lies a moment in which data can go.
#[test]
fn data_that_went_before_anybody_read_that_they_were_complete_are_made_anew_on_the_keepers_word() {
    let outcome = |served: usize| {
        let mut world = World::normal(2, 2).given(|world| {
            let standby = world.db(2);
            (standby.status.current_generation, standby.status.healthy) = (0, false);
        });
        let mut changes = Vec::new();
        for _ in 0..60 {
            let mut reports = world.current_reports();
            let report = reports.get_mut(&keeper_uid(2)).unwrap();
            let state = report.postgres_state.as_mut().unwrap();
            (state.uid, state.healthy) = ("".into(), false);
            let served = Served { instance: uid(served), generation: 1, ..Served::default() };
            report.activity.get_or_insert_default().served = Some(served);
            changes.extend(world.later(1000).round_on(&reports).changes);
        }
        changes.into_iter().any(|change| {
            matches!(change, Change::InstanceRemoved { because: RemovalReason::DataLost, instance, .. } if instance == uid(2))
        })
    };
    assert!(outcome(2), "its keeper served it");
    assert!(!outcome(7), "its keeper still reports the instance before it");
}

/// Its data vanished before its keeper had read that it counts as complete, so that the keeper began to copy it again.
#[test]
fn a_complete_standby_that_is_begun_again_is_made_anew() {
    for (generation, init_mode, removal) in [
        (0, InstanceInitMode::None, Some(RemovalReason::DataLost)),
        (1, InstanceInitMode::None, None),
        (0, InstanceInitMode::Resync, None),
    ] {
        let mut world = World::normal(2, 2).given(|world| {
            world.break_db(2);
            world.db(2).spec.init_mode = Some(init_mode.clone());
            world.db(2).status.current_generation = generation;
        });
        let found = removed(&mut world).into_iter().map(|(_, because)| because).next();
        assert_eq!(found, removal, "{generation} {init_mode:?}");
    }
}

/// It was promoted under cluster data that the store has lost. Its server does not even run, so that its timeline tells nothing.
#[test]
fn a_standby_that_holds_the_data_of_a_primary_is_made_anew() {
    let removals = |holder: usize, works: bool| {
        let mut world = World::normal(2, 2).given(|world| world.break_db(2));
        if !works {
            world.break_db(1);
        }
        let mut reports = world.current_reports();
        let report = reports.get_mut(&keeper_uid(2)).unwrap();
        report.activity.get_or_insert_default().holds_primary_data = true;
        report.postgres_state.as_mut().unwrap().uid = uid(holder);
        let changes = world.round_on(&reports).changes;
        let removed = changes.into_iter().filter_map(|change| match change {
            Change::InstanceRemoved { instance, because, .. } => Some((instance, because)),
            _ => None,
        });
        removed.collect::<Vec<_>>()
    };
    assert_eq!(removals(2, true), [(uid(2), RemovalReason::FormerPrimary)]);
    assert_eq!(removals(2, false), [], "the primary does not work");
    assert_eq!(removals(7, true), [(uid(2), RemovalReason::DataLost)], "it says that of another instance");
}

/// A8: a base backup that is under way counts.
#[test]
fn slow_standbys_are_not_made_again_and_again() {
    let mut world = World::normal(5, 1).given(|world| at_most(world, 1));
    for _ in 0..30 {
        world.later(1000).round();
        assert_eq!(world.data.instances.len(), 2);
        // The primary does what is asked of it, or nobody would look after standbys.
        world.db(1).status.current_generation = world.db(1).generation;
    }
}

/// A7: Stolon computes 2 − 4 in sixteen bits and makes a standby on every free keeper.
#[test]
fn more_standbys_than_wanted_are_no_reason_for_more() {
    World::normal(10, 5)
        .given(|world| {
            at_most(world, 2);
            for number in [3, 4, 5] {
                world.db(number).generation = 2;
            }
        })
        .expect_unchanged("A7");
}

#[test]
fn of_too_many_the_worst_goes_but_never_a_synchronous_one() {
    let mut world = World::normal(3, 3).given(|world| {
        at_most(world, 1);
        world.db(2).status.lsn = Lsn(100);
        world.db(3).status.lsn = Lsn(200);
    });
    assert_eq!(removed(&mut world), [(uid(2), RemovalReason::Surplus)]);
    // A21: the synchronous one is the worst here, and stays.
    let mut world = World::synchronous(4, &[2], &[2]).given(|world| {
        at_most(world, 1);
        world.db(3).status.lsn = Lsn(100);
        world.db(4).status.lsn = Lsn(100);
    });
    let removed: Vec<_> = removed(&mut world).into_iter().map(|(uid, _)| uid).collect();
    assert_eq!(removed, [uid(4), uid(3)], "equals: the highest uid first");
}

#[test]
fn copies_of_something_else_are_made_anew() {
    type Case = (&'static str, fn(&mut World), Option<RemovalReason>);
    let cases: &[Case] = &[
        (
            "system differs",
            |world| world.db(2).status.system_identifier = "2".into(),
            Some(RemovalReason::OtherSystem),
        ),
        ("its system unknown", |world| world.db(1).status.system_identifier = "1".into(), None),
        (
            "ahead of the fork",
            |world| {
                world.db(1).status.timeline = Timeline(2);
                let fork = TimelineHistoryEntry {
                    timeline: Timeline(1),
                    switch_point: Lsn(900),
                    reason: String::new(),
                };
                world.db(1).status.timelines_history = Some(vec![fork]);
                world.db(2).status.timeline = Timeline(1);
                world.db(2).status.lsn = Lsn(1000);
            },
            Some(RemovalReason::OtherBranch),
        ),
        (
            "at the fork",
            |world| {
                world.db(1).status.timeline = Timeline(2);
                let fork = TimelineHistoryEntry {
                    timeline: Timeline(1),
                    switch_point: Lsn(900),
                    reason: String::new(),
                };
                world.db(1).status.timelines_history = Some(vec![fork]);
                world.db(2).status.timeline = Timeline(1);
                world.db(2).status.lsn = Lsn(900);
            },
            None,
        ),
    ];
    for (name, change, reason) in cases {
        let mut world = World::normal(2, 2).given(change);
        let expected: Vec<_> = reason.iter().map(|reason| (uid(2), *reason)).collect();
        assert_eq!(removed(&mut world), expected, "{name}");
        assert_eq!(is_made_anew(&world), reason.is_some(), "{name}");
    }
}

#[test]
fn a_standby_that_lacks_wal_is_made_anew() {
    // The segment where the standby stands; the primary's oldest is 5.
    for (seconds, segment, lost) in [(50, 4, false), (51, 4, true), (51, 5, false)] {
        let mut world = World::normal(2, 2).given(|world| {
            world.db(1).status.lsn = Lsn(20 << 24);
            world.db(1).status.older_wal_file = "000000010000000000000005".into();
            world.db(2).generation = 2;
            world.db(2).status.current_generation = 2;
            world.db(2).status.lsn = Lsn(segment << 24);
            let stall = Stall { lsn: Lsn(segment << 24), since: START - Duration::from_secs(seconds) };
            world.memory.stalls.insert(uid(2), stall);
        });
        let expected: &[_] = if lost { &[(uid(2), RemovalReason::MissingWal)] } else { &[] };
        assert_eq!(removed(&mut world), expected, "{seconds} s, segment {segment}");
        assert_eq!(is_made_anew(&world), lost, "{seconds} s, segment {segment}");
    }
}

/// Where nothing happens rounds are rare: this one is asked for, and need not be the eleventh.
#[test]
fn a_standby_that_lacks_wal_is_made_anew_at_a_round_that_is_asked_for() {
    let mut world = World::normal(2, 2).given(|world| {
        world.db(1).status.lsn = Lsn(20 << 24);
        world.db(1).status.older_wal_file = "000000010000000000000005".into();
        world.db(2).generation = 2;
        world.db(2).status.current_generation = 2;
        world.db(2).status.lsn = Lsn(4 << 24);
    });
    let wake = world.round().wake_at.expect("it is waited for");
    assert!(wake <= world.now + Duration::from_millis(50_001), "{wake:?} after {:?}", world.now);
    world.now = world.now.max(START) + Duration::from_millis(50_001);
    // Meanwhile the store was heard of.
    world.memory.last_read = Some(world.now);
    assert_eq!(removed(&mut world), [(uid(2), RemovalReason::MissingWal)]);
}

#[test]
fn dead_keepers_are_forgotten_only_without_instance() {
    let mut world = World::normal(3, 2).given(|world| {
        world.data.cluster.spec.dead_keeper_removal_interval = Some(GoDuration::from_seconds(3600));
        world.silence_keeper(2);
        world.silence_keeper(3);
        world.wall_seconds = 3700;
    });
    world.round();
    let left: Vec<_> = world.data.keepers.keys().cloned().collect();
    assert_eq!(left, [keeper_uid(1), keeper_uid(2)]);
}

#[test]
fn additional_slots_are_kept_on_the_primary_only() {
    let mut world = World::normal(2, 2).given(|world| {
        world.data.cluster.spec.additional_primary_replication_slots = Some(vec!["reporting".into()])
    });
    world.round();
    assert_eq!(world.db(1).spec.additional_replication_slots, Some(vec!["reporting".to_owned()]));
    assert_eq!(world.db(2).spec.additional_replication_slots, None);
}

/// In the mode `strict` the primary admits nobody whose address it does not know, and a standby begins by copying it.
#[test]
fn the_address_of_a_standby_is_known_before_its_keeper_has_begun_it() {
    let mut world = World::normal(3, 2);
    world.round();
    assert_eq!(world.db(3).status.listen_address, "");
    let round_at = |world: &mut World, address: &str| {
        let mut reports = world.current_reports();
        let state =
            PostgresState { listen_address: address.into(), port: "5433".into(), ..Default::default() };
        reports.get_mut(&keeper_uid(3)).unwrap().postgres_state = Some(state);
        world.round_on(&reports);
        (world.db(3).status.listen_address.clone(), world.db(3).status.port.clone())
    };
    for address in ["10.0.0.3", "10.0.0.4"] {
        assert_eq!(round_at(&mut world, address), (address.to_owned(), "5433".to_owned()));
    }
    assert_eq!(world.db(3).status.current_generation, 0, "an address is no sign of life");
    world.db(3).status.current_generation = 1;
    assert_eq!(
        round_at(&mut world, "10.0.0.5").0,
        "10.0.0.4",
        "what it says of something else is not about it"
    );
}
