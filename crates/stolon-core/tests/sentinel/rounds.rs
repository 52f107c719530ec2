//! Several rounds: signs of life, first rounds, gaps, new leaders.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_core::sentinel::{Hold, Life, Memory, Standing, Weight};
use stolon_model::*;

use crate::world::*;

/// A9: what another leader stored is no reason to do anything.
#[test]
fn a_new_sentinel_decides_nothing_in_its_first_round() {
    let mut world = World::normal(2, 2).given(|world| {
        world.memory = Memory::default();
        world.db(1).status.healthy = false;
    });
    let before = without_times(&world.data);
    let decision = world.round();
    assert_eq!(without_times(&decision.next), before);
    assert!(has_hold(&decision, |hold| *hold == Hold::FirstRound));
    assert!(world.memory.keepers.values().all(|sighting| sighting.life == Life::Unproven));
    let decision = world.later(500).round();
    assert!(decision.next.instances[&uid(1)].status.healthy, "the keeper reports: all is well");
}

#[test]
fn a_keeper_whose_record_never_changes_is_not_alive() {
    let mut world = World::normal(2, 2).given(|world| world.memory = Memory::default());
    let reports = world.current_reports();
    let mut elapsed = 0;
    while world.data.keepers[&keeper_uid(1)].status.healthy {
        world.later(1000).round_on(&reports);
        elapsed += 1;
        assert!(elapsed < 60, "never noticed");
    }
    assert!(elapsed > 20, "failInterval is 20 s, it took {elapsed}");
}

/// Detection to the millisecond: one sleep interval after the last sign of life, and failInterval more.
#[test]
fn the_moment_of_a_failure_is_known_beforehand() {
    let mut world = World::normal(2, 2).given(|world| {
        world.data.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(1));
        world.data.cluster.spec.fail_interval = Some(GoDuration::from_seconds(5));
    });
    world.round();
    let died = world.now;
    world.silent.insert(keeper_uid(1));
    let last_words = world.current_reports().remove(&keeper_uid(1));
    let mut failed_at = None;
    let mut last = last_words.map(|report| {
        let known = world.memory.keepers[&keeper_uid(1)].report.clone().unwrap();
        KeeperReport { info_uid: known.info_uid.clone(), ..report }
    });
    for _ in 0..200 {
        let mut reports = world.current_reports();
        if let Some(report) = &mut last {
            reports.insert(keeper_uid(1), report.clone());
        }
        let decision = world.round_on(&reports);
        if world.data.cluster.status.primary == Some(uid(2)) {
            failed_at = Some(world.now);
            break;
        }
        let floor = world.now + Duration::from_millis(900);
        world.now = decision.wake_at.map_or(floor, |at| at.min(floor));
    }
    let took = failed_at.expect("a failover") - died;
    assert!(took > Duration::from_secs(6) && took <= Duration::from_millis(6010), "{took:?}");
}

/// A10: while the store was away nobody was silent.
#[test]
fn an_outage_of_the_store_is_nobodys_silence() {
    let mut world = World::normal(2, 2);
    world.round();
    let frozen = world.current_reports();
    world.later(1000).round_on(&frozen);
    world.later(8000).round_on(&frozen);
    // The store is away for a minute; the standby reports first.
    world.later(60_000);
    let mut reports = world.current_reports();
    reports.insert(keeper_uid(1), frozen[&keeper_uid(1)].clone());
    world.round_on(&reports);
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
    world.later(1000).round();
    assert!(world.data.instances[&uid(1)].status.healthy);
    assert!(world.memory.trouble.is_empty());
}

/// A20: a write that is refused is decided again on the same reports.
#[test]
fn a_refused_write_loses_nothing() {
    let forced = World::synchronous(2, &[2], &[2]).given(|world| world.keeper(1).status.force_fail = true);
    let stuck =
        World::normal(2, 2).given(|world| world.db(1).status.current_generation = 5).with_old_timers();
    let arriving = World::normal(3, 2);
    type Case = (&'static str, World, fn(&World) -> bool);
    let cases: [Case; 3] = [
        ("a forced failure", forced, |world| world.memory.request.is_some()),
        ("a primary that does not converge", stuck, |world| {
            world.data.cluster.status.primary == Some(uid(2))
        }),
        ("a keeper's first report", arriving, |world| world.data.keepers.contains_key(&keeper_uid(3))),
    ];
    for (name, mut world, is_decided) in cases {
        let reports = world.current_reports();
        world.data.keepers.remove(&keeper_uid(3));
        // The second attempt comes when these reports would be too old if they had counted as seen.
        for milliseconds in [50, 6000] {
            let (data, memory) = (world.data.clone(), world.memory.clone());
            let refused = world.later(milliseconds).round_on(&reports);
            assert!(is_decided(&world), "{name}, first attempt");
            world.data = data;
            world.memory = refused.memory_of_refused_write(&memory);
        }
        world.later(50).round_on(&reports);
        assert!(is_decided(&world), "{name}, last attempt");
    }
}

/// 9.4-7: a sentinel that follows sees everything, so that it loses no time when it leads.
#[test]
fn a_follower_decides_nothing_but_remembers() {
    let mut world = World::normal(2, 2).given(|world| world.standing = Standing::Follower);
    let before = world.data.clone();
    world.round();
    world.break_db(1);
    world.memory.trouble.clear();
    for _ in 0..25 {
        world.later(1000).round();
    }
    assert_eq!(without_times(&world.data).cluster, without_times(&before).cluster);
    world.standing = Standing::Leader;
    world.later(100).round();
    assert_eq!(
        world.data.cluster.status.primary,
        Some(uid(2)),
        "at once: the trouble was watched all the time"
    );
}

#[test]
fn reports_of_another_cluster_do_not_count() {
    let mut world = World::normal(1, 1);
    let mut reports = world.current_reports();
    let stranger = KeeperReport {
        uid: "stranger".into(),
        cluster_uid: "other".into(),
        ..reports[&keeper_uid(1)].clone()
    };
    reports.insert("stranger".into(), stranger);
    world.round_on(&reports);
    assert!(!world.data.keepers.contains_key(&KeeperUid::from("stranger")));
}

#[test]
fn a_cluster_made_anew_begins_with_an_empty_memory() {
    let mut world = World::normal(2, 2);
    world.round();
    world.data.cluster.uid = "cluster2".into();
    let decision = world.later(500).round();
    assert!(has_hold(&decision, |hold| *hold == Hold::FirstRound));
}

/// Times and positions change all the time: they are no reason to write at once.
#[test]
fn positions_alone_are_routine() {
    let mut world = World::normal(2, 2);
    assert_eq!(world.round().weight, Weight::Routine);
    let mut reports = world.current_reports();
    let state = reports.get_mut(&keeper_uid(1)).unwrap().postgres_state.as_mut().unwrap();
    state.lsn = Lsn(77);
    let decision = world.later(500).round_on(&reports);
    assert_eq!(decision.weight, Weight::Routine);
    assert_eq!(decision.next.instances[&uid(1)].status.lsn, Lsn(77));
    world.break_db(1);
    assert_eq!(world.later(500).round().weight, Weight::Decisive);
}

/// A whole life: from nothing to two instances, a failover, and the old primary's return.
#[test]
fn a_cluster_from_birth_to_failover_and_back() {
    let mut world = World::initializing(0);
    world.proxy("p1", 0);
    world.data.keepers = BTreeMap::new();
    let keeper = |number: usize| KeeperReport {
        info_uid: format!("first-{number}").into(),
        uid: keeper_uid(number),
        cluster_uid: "cluster1".into(),
        ..KeeperReport::default()
    };
    world.round_on(&[(keeper_uid(1), keeper(1)), (keeper_uid(2), keeper(2))].into());
    assert_eq!(world.data.instances.len(), 1, "chosen in the round that registers the keepers");
    for _ in 0..4 {
        world.converge();
        let generation = world.data.proxy.generation;
        world.proxy("p1", generation);
        world.later(300).round();
    }
    assert_eq!(world.data.cluster.status.phase, Some(Phase::Normal));
    assert_eq!(world.data.proxy.spec.primary, Some(uid(1)));
    assert_eq!(world.data.proxy.spec.enabled_proxies, Some(vec!["p1".into()]));
    assert_eq!(world.db(1).spec.followers, uids(&[2]));
    assert_eq!(world.db(2).spec.init_mode, Some(InstanceInitMode::None));

    world.silence_keeper(1);
    for _ in 0..3 {
        let generation = world.data.proxy.generation;
        world.proxy("p1", generation);
        world.later(300).round();
    }
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    world.db(2).status.current_generation = world.db(2).generation;
    for _ in 0..3 {
        let generation = world.data.proxy.generation;
        world.proxy("p1", generation);
        world.later(300).round();
        world.db(2).status.current_generation = world.db(2).generation;
    }
    assert_eq!(world.data.proxy.spec.primary, Some(uid(2)));
    assert!(!world.data.instances.contains_key(&uid(1)), "the old instance is given up");

    world.silent.clear();
    world.later(300).round();
    world.later(300).round();
    let back = world.data.instance_of(&keeper_uid(1)).expect("a new instance").clone();
    assert_eq!(back.spec.init_mode, Some(InstanceInitMode::Resync));
    assert_eq!(back.spec.follow_config, Some(FollowConfig::internal(uid(2))));
}

/// A keeper that dies under a slow store is noticed as fast as under a quick one, apart from the store's own delay.
#[test]
fn a_slow_store_moves_no_clocks() {
    let failed_after = |delay: u64| {
        let mut world = World::normal(2, 2).given(|world| {
            world.data.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(1));
            world.data.cluster.spec.fail_interval = Some(GoDuration::from_seconds(5));
            world.usual_delay = Duration::from_millis(delay);
        });
        // A round is a reading and a write: twice the delay, and the pause of the sleep interval if that is longer.
        let round = (2 * delay + 10).max(1000);
        for _ in 0..5 {
            world.later(round).round();
        }
        world.silent.insert(keeper_uid(1));
        let died = world.now;
        while world.data.keepers[&keeper_uid(1)].status.healthy {
            world.later(round).round();
            assert!(world.now < died + Duration::from_secs(60), "never noticed at a delay of {delay} ms");
        }
        (world.now - died, Duration::from_millis(round))
    };
    for delay in [0, 500, 1100, 1500, 2500] {
        let (took, round) = failed_after(delay);
        assert!(took <= Duration::from_secs(6) + round * 2, "at {delay} ms: {took:?}");
    }
}

/// Nobody looks at a report that only says that its keeper lives; its silence is counted from when it came all the same.
#[test]
fn silence_begins_after_the_report_and_not_after_the_round_that_saw_it() {
    let mut world = World::normal(2, 2);
    world.round();
    let came = world.now + Duration::from_secs(1);
    world.told.keepers.insert(keeper_uid(2), came);
    world.told.last = came;
    world.later(5000).round();
    assert_eq!(world.memory.keepers[&keeper_uid(2)].since, came);
    assert_eq!(world.memory.keepers[&keeper_uid(1)].since, world.now, "nobody told when that one came");

    // Nothing was heard for a minute: what came in it says nothing about the time since.
    let came = world.now + Duration::from_secs(1);
    world.told.keepers.insert(keeper_uid(2), came);
    world.later(60_000).round();
    assert_eq!(world.memory.keepers[&keeper_uid(2)].since, world.now);
}
