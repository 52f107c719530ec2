//! Where proxies are told to send clients.

use std::time::Duration;
use stolon_core::sentinel::{Hold, ProxySighting};
use stolon_model::*;

use crate::world::*;

fn sighting(world: &World, name: &str, seconds_ago: u64) -> (ProxyUid, ProxySighting) {
    let report = world.proxies.get(&ProxyUid::from(name)).cloned().unwrap();
    (name.into(), ProxySighting { report, since: world.now - Duration::from_secs(seconds_ago) })
}

#[test]
fn a_proxy_counts_while_its_report_changes_and_twice_its_timeout_longer() {
    for (seconds, active) in [(15, true), (30, true), (45, false)] {
        let mut world = World::normal(1, 1).given(|world| world.proxy("p1", 1));
        let known = sighting(&world, "p1", seconds);
        world.memory.proxies.extend([known]);
        world.round();
        let enabled = world.data.proxy.spec.enabled_proxies.clone().unwrap_or_default();
        assert_eq!(enabled.len(), usize::from(active), "{seconds} s");
    }
    let mut world = World::normal(1, 1).given(|world| world.proxy("p1", 1));
    let known = sighting(&world, "p1", 1);
    world.memory.proxies.extend([known]);
    world.proxies.clear();
    world.round();
    assert!(world.memory.proxies.is_empty(), "a record that is gone is gone");
}

/// The five cases of who counts as active, with what is remembered afterwards. The timeout is 15 s.
#[test]
fn what_is_remembered_of_proxies() {
    let mut nobody = World::normal(1, 1);
    nobody.round();
    assert!(nobody.memory.proxies.is_empty());
    assert_eq!(nobody.data.proxy.spec.enabled_proxies, Some(Vec::new()));

    let both = |world: &mut World| {
        world.proxy("p1", 1);
        world.proxy("p2", 1);
    };
    let enabled = |world: &World| world.data.proxy.spec.enabled_proxies.clone().unwrap_or_default();
    let known = |world: &World| world.memory.proxies.keys().cloned().collect::<Vec<_>>();
    let (p1, p2) = (ProxyUid::from("p1"), ProxyUid::from("p2"));
    let mut new = World::normal(1, 1).given(both);
    new.round();
    assert_eq!((enabled(&new), known(&new)), (vec![p1.clone(), p2.clone()], vec![p1.clone(), p2.clone()]));

    let mut renewed = World::normal(1, 1).given(both);
    let before = [sighting(&renewed, "p1", 60), sighting(&renewed, "p2", 60)];
    renewed.memory.proxies.extend(before);
    renewed.proxy("p2", 1);
    renewed.proxies.get_mut(&p2).unwrap().proxy_timeout = 0;
    renewed.round();
    assert_eq!(enabled(&renewed), std::slice::from_ref(&p2), "a new record counts, whatever it says");
    assert_eq!(renewed.memory.proxies[&p2].report, renewed.proxies[&p2], "it replaces the old one");
    assert_eq!(renewed.memory.proxies[&p2].since, renewed.now);

    let mut silent = World::normal(1, 1).given(both);
    let before = [sighting(&silent, "p1", 45), sighting(&silent, "p2", 15)];
    silent.memory.proxies.extend(before);
    silent.round();
    assert_eq!((enabled(&silent), known(&silent)), (vec![p2.clone()], vec![p1.clone(), p2.clone()]));

    let mut gone = World::normal(1, 1).given(both);
    gone.round();
    gone.proxies.remove(&p1);
    gone.later(100).round();
    assert_eq!((enabled(&gone), known(&gone)), (vec![p2.clone()], vec![p2]));
}

#[test]
fn enabled_proxies_follow_the_active_ones() {
    let mut world = World::normal(1, 1).given(|world| {
        world.proxy("p2", 1);
        world.proxy("p1", 1);
    });
    world.round();
    assert_eq!(world.data.proxy.spec.enabled_proxies, Some(vec!["p1".into(), "p2".into()]));
    assert_eq!(world.data.proxy.generation, 2);
}

/// A11: no proxies is no proxies, also after a trip through JSON.
#[test]
fn without_proxies_the_generation_stands_still() {
    let mut world = World::normal(1, 1);
    for _ in 0..5 {
        world.later(1000).round();
        let text = ClusterDocument::from(world.data.clone()).to_json();
        world.data = ClusterDocument::from_json(&text).unwrap().try_into().unwrap();
    }
    assert_eq!(world.data.proxy.generation, 1);
}

/// Clients are let in once the primary does what is asked of it.
#[test]
fn proxies_open_when_the_primary_is_ready_or_after_a_grace() {
    let closed = |world: &mut World| {
        world.data.proxy.spec.primary = None;
        world.proxy("p1", 1);
        world.db(1).generation = 2;
    };
    let mut world = World::normal(1, 1).given(closed);
    let decision = world.round();
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::NotOpened { .. })), "{:?}", decision.holds);
    world.converge();
    world.later(100).round();
    assert_eq!(world.data.proxy.spec.primary, Some(uid(1)));
    assert_eq!(world.data.proxy.spec.enabled_proxies, Some(vec!["p1".into()]));

    let mut world = World::normal(1, 1).given(closed);
    for _ in 0..29 {
        world.later(1000).round();
        assert_eq!(world.data.proxy.spec.primary, None);
    }
    for _ in 0..3 {
        world.later(1000).round();
    }
    assert_eq!(world.data.proxy.spec.primary, Some(uid(1)), "after convergenceTimeout");
}

/// A successor that nobody has seen promoted gets no clients: the one before may be elected again, and would know nothing of theirs.
#[test]
fn no_grace_opens_proxies_while_the_former_primary_may_return() {
    let mut world = World::normal(2, 2).given(|world| {
        world.data.proxy.spec.primary = None;
        world.data.cluster.status.primary = Some(uid(2));
        let spec = world.db(1).spec.clone();
        world.db(2).spec = InstanceSpec { keeper_uid: keeper_uid(2), ..spec };
        world.db(2).generation = 2;
        world.proxy("p1", 1);
        world.silence_keeper(1);
    });
    for _ in 0..40 {
        world.later(1000).round();
        assert_eq!(world.data.proxy.spec.primary, None);
    }
    world.converge();
    world.later(100).round();
    assert_eq!(world.data.proxy.spec.primary, Some(uid(2)), "it has been seen to do what is asked of it");
}

#[test]
fn proxies_open_only_when_all_have_closed() {
    let mut world = World::normal(1, 1).given(|world| {
        world.data.proxy.spec.primary = None;
        world.data.proxy.generation = 7;
        world.proxy("p1", 7);
        world.proxy("p2", 6);
    });
    let decision = world.round();
    assert!(has_hold(&decision, |hold| {
        matches!(hold, Hold::AwaitingProxies { proxies, .. } if *proxies == [ProxyUid::from("p2")])
    }));
    world.proxy("p2", 7);
    world.later(100).round();
    assert_eq!((world.data.proxy.spec.primary.clone(), world.data.proxy.generation), (Some(uid(1)), 8));
}

/// A15.
#[test]
fn an_election_while_proxies_are_closed_does_not_close_them_again() {
    let mut world = World::normal(2, 2).given(|world| {
        world.data.proxy.spec.primary = None;
        world.break_db(1);
    });
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    assert_eq!(world.data.proxy.generation, 1);
}

/// A proxy whose report cannot be read may be forwarding: it stops no decision, and it is waited for as long as it can last.
#[test]
fn a_proxy_that_cannot_be_understood_is_fenced_by_time() {
    let mut world = World::normal(2, 2).given(|world| {
        world.data.cluster.spec.proxy_check_interval = Some(GoDuration::from_seconds(1));
        world.data.cluster.spec.proxy_timeout = Some(GoDuration::from_seconds(3));
        world.unreadable_proxies.insert("odd".into());
        world.break_db(1);
    });
    let decision = world.round();
    assert_eq!(world.data.proxy.spec.primary, None, "clients are cut off all the same");
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::AwaitingFence { .. })), "{:?}", decision.holds);
    for _ in 0..6 {
        world.later(500).round();
        assert_eq!(world.data.cluster.status.primary, Some(uid(1)), "it may be forwarding");
    }
    world.later(1000).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

/// A proxy that says nothing after it was told to close has closed when its own timeout is over, and not before, whatever the
/// specification says now.
#[test]
fn the_fence_waits_for_what_each_proxy_has_published() {
    let mut world = World::normal(2, 2).given(|world| {
        world.data.cluster.spec.proxy_check_interval = Some(GoDuration::from_seconds(1));
        world.data.cluster.spec.proxy_timeout = Some(GoDuration::from_seconds(3));
        world.data.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(1));
        world.proxy("slow", 1);
        world.break_db(1);
    });
    world.round();
    for second in 1..=15 {
        let decision = world.later(1000).round();
        assert_eq!(world.data.cluster.status.primary, Some(uid(1)), "second {second}: it published 15 s");
        assert!(has_hold(&decision, |hold| matches!(hold, Hold::AwaitingFence { .. })));
    }
    for _ in 0..3 {
        world.later(1000).round();
    }
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

/// A proxy that was shown an older document stays where it is and says that it acknowledges nothing; only the end of its report
/// ends the wait for it. One that is merely behind closes by itself.
#[test]
fn a_proxy_that_stays_where_it_is_is_waited_for_as_long_as_it_reports() {
    for (generation, elected) in [(-1, 1), (0, 2), (1, 2)] {
        let mut world = World::normal(2, 2).given(|world| {
            world.proxy("p1", generation);
            world.break_db(1);
        });
        let mut held = Vec::new();
        for _ in 0..60 {
            world.later(1000);
            world.proxy("p1", generation);
            held = world.round().holds;
        }
        assert_eq!(world.data.cluster.status.primary, Some(uid(elected)), "it says {generation}");
        let told = texts(&held)
            .iter()
            .any(|hold| hold.contains("; still open to the primary of newer cluster data"));
        assert_eq!(told, generation == -1, "{held:?}");
        for _ in 0..32 {
            world.later(1000).round();
        }
        assert_eq!(world.data.cluster.status.primary, Some(uid(2)), "it says nothing any more");
    }
}

/// A cluster that takes the rows of a legacy server is a primary already, and stays closed until the switch, however long that takes.
#[test]
fn a_cluster_that_is_being_filled_stays_closed() {
    use MigrationMethod::{Logical, Physical};
    use MigrationStage::{Aborting, Following, Promoting, Switched, Switching, TakingBack};
    for (method, stage, opens) in [
        (Logical, None, false),
        (Logical, Some(Following), false),
        (Logical, Some(Switching), false),
        (Logical, Some(TakingBack), false),
        (Logical, Some(Aborting), false),
        (Logical, Some(Promoting), true),
        (Logical, Some(Switched), true),
        (Physical, Some(Following), true),
    ] {
        let mut world = World::normal(1, 1).given(|world| {
            world.data.proxy.spec.primary = None;
            world.data.cluster.status.migration = Some(Migration {
                method: Some(method.clone()),
                stage: stage.clone(),
                ..Migration::default()
            });
        });
        world.round();
        for _ in 0..100 {
            world.later(1000).round();
        }
        assert_eq!(world.data.proxy.spec.primary.is_some(), opens, "{method:?}, {stage:?}");
    }
}

/// Clients wait for the way back of a migration, but not for ever; a cluster that was moved away from again stays closed.
#[test]
fn a_migration_keeps_proxies_closed() {
    use MigrationStage::{Following, Promoting, RolledBack, RollingBack, Switched};
    for (stage, way_back, seconds, opens) in [
        (Promoting, true, 9, false),
        (Promoting, true, 11, true),
        (Promoting, false, 0, true),
        (RollingBack, true, 100, false),
        (RolledBack, true, 100, false),
        (Switched, true, 0, true),
        (Following, false, 0, true),
    ] {
        let mut world = World::normal(1, 1).given(|world| {
            world.data.proxy.spec.primary = None;
            world.data.cluster.status.migration =
                Some(Migration { stage: Some(stage.clone()), way_back, ..Migration::default() });
        });
        world.round();
        for _ in 0..seconds {
            world.later(1000).round();
        }
        assert_eq!(
            world.data.proxy.spec.primary.is_some(),
            opens,
            "{stage:?}, {way_back}, after {seconds} s"
        );
    }
}
