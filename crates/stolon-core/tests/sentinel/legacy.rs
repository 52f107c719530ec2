//! Where a migration has proxies send clients (docs: design/010-migration.md, "The application first").

use stolon_core::sentinel::Hold;
use stolon_model::*;

use crate::world::*;

/// A standby cluster, or one of its own.
fn be(world: &mut World, role: Role) {
    let spec = &mut world.data.cluster.spec;
    spec.init_mode = Some(InitMode::Existing);
    spec.existing_config = Some(ExistingConfig { keeper_uid: keeper_uid(1) });
    spec.standby_config = (role == Role::Standby).then(StandbyConfig::default);
    spec.role = Some(role.clone());
    if let Some(head) = world.data.instances.get_mut(&uid(1)) {
        let outside = FollowConfig { follow_type: Some(FollowType::External), ..FollowConfig::default() };
        head.spec.follow_config = (role == Role::Standby).then_some(outside);
        head.spec.role = Some(role);
    }
}

fn legacy(host: &str) -> ServerAddress {
    ServerAddress { host: host.to_owned(), port: "5432".to_owned() }
}

/// A migration whose applications reach the legacy server through the proxies, and the document as its commands leave it.
fn fronted(stage: Option<MigrationStage>) -> Migration {
    Migration { stage, legacy_address: Some(legacy("old")), ..Migration::default() }
}

/// A standby cluster that follows, whose proxy sends clients to the legacy server at `host`.
fn following(world: World, host: &str) -> World {
    world.given(|world| {
        be(world, Role::Standby);
        world.data.cluster.status.migration = Some(fronted(Some(MigrationStage::Following)));
        world.data.proxy.spec.primary = None;
        world.data.proxy.spec.legacy = Some(legacy(host));
        world.proxy("p1", 1);
    })
}

/// Proxies send clients to the legacy server while that serves, and to the cluster when it has taken over; in between nowhere.
#[test]
fn the_table_of_where_a_migration_sends_clients() {
    use MigrationMethod::{Logical, Physical};
    use MigrationStage::*;
    #[derive(Debug, PartialEq)]
    enum Goes {
        ToLegacy,
        Nowhere,
        ToCluster,
    }
    let (standby, primary) = (Role::Standby, Role::Primary);
    for (method, role, stage, reopened, goes) in [
        (Physical, &standby, None, false, Goes::ToLegacy),
        (Physical, &standby, Some(Following), false, Goes::ToLegacy),
        (Physical, &standby, Some(Switching), false, Goes::Nowhere),
        (Physical, &standby, Some(TakingBack), false, Goes::Nowhere),
        (Physical, &primary, Some(Promoting), false, Goes::ToCluster),
        (Physical, &primary, Some(Switched), false, Goes::ToCluster),
        (Physical, &primary, Some(RollingBack), false, Goes::Nowhere),
        (Physical, &primary, Some(RolledBack), false, Goes::Nowhere),
        (Physical, &primary, Some(RolledBack), true, Goes::ToLegacy),
        (Physical, &standby, Some(Aborting), false, Goes::Nowhere),
        (Physical, &primary, Some(Finishing), false, Goes::ToCluster),
        // By other means than the switch: both take writes.
        (Physical, &primary, Some(Following), false, Goes::Nowhere),
        (Physical, &standby, Some(Unknown("later".to_owned())), false, Goes::Nowhere),
        (Logical, &primary, Some(Following), false, Goes::ToLegacy),
        (Logical, &primary, Some(Switching), false, Goes::Nowhere),
        (Logical, &primary, Some(Switched), false, Goes::ToCluster),
    ] {
        let mut world = World::normal(1, 1).given(|world| {
            world.data.proxy.spec.primary = None;
            be(world, role.clone());
            world.data.cluster.status.migration = Some(Migration {
                method: Some(method.clone()),
                reopened: reopened.then_some(Timestamp::ZERO),
                ..fronted(stage.clone())
            });
        });
        for _ in 0..3 {
            world.later(1000).round();
        }
        let section = &world.data.proxy.spec;
        let found = match (&section.primary, &section.legacy) {
            (Some(_), _) => Goes::ToCluster,
            (None, Some(_)) => Goes::ToLegacy,
            (None, None) => Goes::Nowhere,
        };
        assert_eq!(found, goes, "{method:?}, {role:?}, {stage:?}, {reopened}");
    }
}

/// Nobody is sent to the legacy server while a proxy may still forward to the cluster, nor the other way round; and the record says when no
/// proxy can forward to either.
#[test]
fn from_one_side_of_a_migration_to_the_other_proxies_close_first() {
    use MigrationStage::{Following, Switched, Switching};
    let mut world = World::normal(1, 1).given(|world| {
        be(world, Role::Standby);
        world.data.cluster.status.migration = Some(fronted(Some(Following)));
        world.data.proxy.generation = 7;
        world.proxy("p1", 7);
    });
    let generation = |world: &World| world.data.proxy.generation;
    let goes = |world: &World| {
        let section = &world.data.proxy.spec;
        (section.primary.is_some(), section.legacy.is_some())
    };
    let away = |world: &World| world.data.cluster.status.migration.as_ref().unwrap().proxies_away;
    world.round();
    assert_eq!((goes(&world), generation(&world)), ((false, false), 8), "it still serves the cluster");
    world.later(1000).round();
    assert_eq!(goes(&world), (false, false), "it has not said that it has closed");
    world.proxy("p1", 8);
    world.later(100).round();
    assert_eq!((goes(&world), generation(&world)), ((false, true), 9));
    assert_eq!(world.data.proxy.spec.enabled_proxies, Some(vec!["p1".into()]));
    assert_eq!(world.data.legacy_for_clients(), Some(&legacy("old")));
    world.proxy("p1", 9);

    // `stolonctl migrate switch` closes the legacy server.
    world.data.cluster.status.migration = Some(fronted(Some(Switching)));
    (world.data.proxy.spec.legacy, world.data.proxy.generation) = (None, 10);
    let decision = world.later(100).round();
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::AwaitingProxies { .. })), "{:?}", decision.holds);
    assert_eq!(away(&world), None, "p1 may still be forwarding");
    world.proxy("p1", 10);
    world.later(100).round();
    assert_eq!((away(&world), goes(&world)), (Some(10), (false, false)));

    // Something is closed anew: what was said before says nothing of that.
    world.data.proxy.generation = 11;
    world.later(100).round();
    assert_ne!(away(&world), Some(generation(&world)), "p1 has not said anything of it");

    // The switch is through.
    be(&mut world, Role::Primary);
    world.data.cluster.status.migration.as_mut().unwrap().stage = Some(Switched);
    world.later(100).round();
    assert_eq!(goes(&world), (false, false), "p1 may still be forwarding");
    world.proxy("p1", 11);
    world.converge();
    world.later(100).round();
    assert_eq!(goes(&world), (true, false));
}

/// A proxy that says nothing has closed by itself when its time is over, and does not hold a switch up for ever.
#[test]
fn a_proxy_that_hangs_is_away_after_its_timeout() {
    let mut world = World::normal(1, 1).given(|world| {
        be(world, Role::Standby);
        world.data.cluster.status.migration = Some(fronted(Some(MigrationStage::Switching)));
        world.data.proxy.spec.primary = None;
        world.data.proxy.generation = 8;
        world.proxy("p1", 7);
    });
    let away = |world: &World| world.data.cluster.status.migration.as_ref().unwrap().proxies_away;
    for _ in 0..16 {
        world.later(1000).round();
        assert_eq!(away(&world), None);
    }
    for _ in 0..3 {
        world.later(1000).round();
    }
    assert_eq!(away(&world), Some(8));
}

/// The record was lost, or written by hand: what only the proxy section says is not done.
#[test]
fn a_legacy_server_of_no_migration_gets_no_clients() {
    let mut world = World::normal(1, 1).given(|world| {
        world.data.proxy.spec.primary = None;
        world.data.proxy.spec.legacy = Some(legacy("old"));
        world.proxy("p1", 1);
    });
    assert_eq!(world.data.legacy_for_clients(), None, "no proxy follows it");
    world.round();
    assert_eq!(world.data.proxy.spec.legacy, None);
    world.proxy("p1", 2);
    world.later(100).round();
    assert_eq!(world.data.proxy.spec.primary, Some(uid(1)));
}

/// The legacy server has failed over: its old address is left before the new one is gone to.
#[test]
fn another_address_of_the_legacy_server_is_gone_to_by_way_of_none() {
    let mut world = following(World::normal(1, 1), "older");
    world.round();
    assert_eq!(world.data.proxy.spec.legacy, None);
    world.later(100).round();
    assert_eq!(world.data.proxy.spec.legacy, None, "p1 may still be there");
    world.proxy("p1", 2);
    world.later(100).round();
    assert_eq!(world.data.proxy.spec.legacy, Some(legacy("old")));
}

/// While the first instance is copied, clients are served already; and an election among those who follow does not bother them.
#[test]
fn clients_of_the_legacy_server_notice_nothing_of_the_cluster() {
    let mut world = following(World::normal(2, 2), "old");
    world.round();
    let before = world.data.proxy.clone();
    world.proxy("p1", before.generation);
    world.break_db(1);
    for _ in 0..5 {
        world.later(1000).round();
    }
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    assert_eq!((world.data.proxy.spec, world.data.proxy.generation), (before.spec, before.generation));

    let mut world = World::normal(1, 0).given(|world| {
        world.data.cluster.status.phase = Some(Phase::Initializing);
        world.data.cluster.status.primary = None;
        world.data.instances.clear();
        world.data.proxy = ProxySection::default();
        be(world, Role::Standby);
        world.data.cluster.status.migration = Some(fronted(None));
        world.proxy("p1", 0);
    });
    world.round();
    assert_eq!(world.data.legacy_for_clients(), Some(&legacy("old")));
}
