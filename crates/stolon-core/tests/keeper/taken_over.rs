//! A keeper that has taken over what an earlier one left running (docs: design/011-keeper-upgrade.md).

use stolon_core::keeper::*;
use stolon_model::{ClusterData, InstanceInitMode as Init, Role};

use crate::given::*;
use crate::world::{Store, World, seconds, serving};

/// A standby that follows `pp`.
fn following() -> World {
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.run(seconds(30));
    assert_eq!(world.reported(), (true, 3), "{:?}", world.log);
    world
}

fn runs_untouched(world: &World) -> bool {
    let steps = world.steps_since(0);
    world.postgres().running && !steps.contains("stop") && !steps.contains("start")
}

#[test]
fn what_is_wanted_as_it_is_goes_on_and_is_in_charge_once_the_keeper_is_known() {
    for mut world in [serving(asked(Role::Primary, Init::None)), serving(synchronous()), following()] {
        let admits = world.postgres().admits_clients();
        world = world.taken_over();
        world.run(seconds(60));
        assert!(runs_untouched(&world) && !world.steps_since(0).contains("reload"), "{:?}", world.log);
        assert_eq!(world.reported(), (true, 3), "the sentinel is told of it: {:?}", world.log);
        let mark = world.mark();
        world.acknowledge();
        world.run(seconds(10));
        // What is in force is not known: the files are written and read once.
        assert!(world.steps_since(mark).contains("reload"), "{:?}", &world.log[mark..]);
        assert!(runs_untouched(&world), "{:?}", world.log);
        assert_eq!(world.postgres().admits_clients(), admits, "{:?}", world.log);
        let mark = world.mark();
        world.change(|cluster| ours(cluster).generation += 1);
        world.run(seconds(10));
        assert_eq!(world.reported(), (true, 4), "{:?}", &world.log[mark..]);
        world.server_dies();
        world.run(seconds(10));
        assert!(world.postgres().running, "it is ours like any other: {:?}", world.log);
    }
}

fn is_another(cluster: &mut ClusterData) {
    let mut other = cluster.instances.remove(&"us".into()).expect("ours");
    other.uid = "other".into();
    other.spec.init_mode = Some(Init::Resync);
    cluster.instances.insert("other".into(), other);
}

fn is_standby(cluster: &mut ClusterData) {
    ours(cluster).spec.role = Some(Role::Standby);
    ours(cluster).spec.follow_config = Some(stolon_model::FollowConfig::internal("pp".into()));
    cluster.cluster.status.primary = Some("pp".into());
}

fn is_nobody(cluster: &mut ClusterData) {
    cluster.instances.remove(&"us".into());
}

#[test]
fn what_is_not_wanted_as_it_is_ends_at_once_and_stays_down_until_the_keeper_is_known() {
    let changes: [fn(&mut ClusterData); 4] = [is_deposed, is_another, is_standby, is_nobody];
    for change in changes {
        let mut world = serving(asked(Role::Primary, Init::None));
        change(&mut world.cluster);
        world = world.taken_over();
        world.run(seconds(1));
        assert!(!world.postgres().running, "{:?}", world.log);
        world.run(seconds(60));
        assert_eq!(world.steps_since(0).matches("start").count(), 0, "{:?}", world.log);
        assert!(!world.postgres().running, "{:?}", world.log);
    }
}

/// Nothing that comes later saves it: who served as something else is not what is wanted now.
#[test]
fn what_is_to_end_ends_though_the_keeper_is_known_by_then() {
    let mut world = serving(asked(Role::Primary, Init::None));
    is_standby(&mut world.cluster);
    world = world.taken_over();
    world.look_takes = seconds(1);
    world.store = Store::Silent;
    world.run(seconds(3));
    world.store = Store::Answers;
    world.change(|_| ());
    world.run(std::time::Duration::from_millis(5));
    assert!(world.postgres().running, "the look that it ends after is not over");
    world.acknowledge();
    world.store = Store::Silent;
    world.run(seconds(10));
    assert!(!world.postgres().running, "{:?}", world.log);
}

#[test]
fn a_synchronous_primary_that_waited_for_its_standbys_goes_on_waiting() {
    let mut world = World::with(synchronous(), DataKind::Primary);
    world.run(seconds(30));
    assert!(world.postgres().running && !world.postgres().admits_clients(), "{:?}", world.log);
    world = world.taken_over();
    world.run(seconds(10));
    world.acknowledge();
    world.run(seconds(30));
    assert!(runs_untouched(&world) && !world.postgres().admits_clients(), "{:?}", world.log);
    world.postgres_mut().standby_streams("bb");
    world.run(seconds(10));
    assert!(runs_untouched(&world) && world.postgres().admits_clients(), "{:?}", world.log);
}

#[test]
fn a_primary_is_not_left_to_itself_for_long_while_nobody_can_be_asked() {
    let mut world = serving(asked(Role::Primary, Init::None)).taken_over();
    world.store = Store::Silent;
    world.run(seconds(15));
    assert!(runs_untouched(&world), "{:?}", world.log);
    world.run(seconds(10));
    assert!(!world.postgres().running, "{:?}", world.log);
    world.store = Store::Answers;
    world.run(seconds(30));
    assert!(!world.postgres().running, "nothing is started that no sentinel knows of: {:?}", world.log);
    world.acknowledge();
    world.run(seconds(10));
    assert!(world.postgres().running && world.postgres().admits_clients(), "{:?}", world.log);

    let mut standby = following().taken_over();
    standby.store = Store::Silent;
    standby.run(seconds(600));
    assert!(runs_untouched(&standby), "{:?}", standby.log);
}

/// Nobody can say more about it than the keeper before could.
#[test]
fn a_primary_about_which_something_was_read_is_left_alone_when_the_store_goes_away() {
    let mut world = serving(asked(Role::Primary, Init::None)).taken_over();
    world.run(seconds(1));
    world.store = Store::Silent;
    world.run(seconds(600));
    assert!(runs_untouched(&world), "{:?}", world.log);
}

#[test]
fn one_that_dies_is_not_started_before_the_keeper_is_known() {
    let mut world = serving(asked(Role::Primary, Init::None)).taken_over();
    world.run(seconds(1));
    world.server_dies();
    world.run(seconds(60));
    assert!(!world.postgres().running, "{:?}", world.log);
    world.acknowledge();
    world.run(seconds(10));
    assert!(world.postgres().running, "{:?}", world.log);

    // Its death came before anybody listened.
    let world = serving(asked(Role::Primary, Init::None));
    let mut world = world.taken_over();
    world.postgres_mut().running = false;
    world.run(seconds(60));
    assert!(!world.postgres().running, "{:?}", world.log);
}

#[test]
fn a_standby_that_was_elected_meanwhile_is_promoted_once_the_keeper_is_known() {
    let mut world = following();
    ours(&mut world.cluster).spec.role = Some(Role::Primary);
    ours(&mut world.cluster).spec.follow_config = None;
    world.cluster.cluster.status.primary = Some("us".into());
    world = world.taken_over();
    world.run(seconds(10));
    assert!(runs_untouched(&world) && world.postgres().in_recovery, "{:?}", world.log);
    world.acknowledge();
    world.run(seconds(10));
    assert!(runs_untouched(&world) && !world.postgres().in_recovery, "{:?}", world.log);
}

/// The earlier keeper had it promoted, and another one was elected since.
#[test]
fn a_standby_whose_promotion_ends_when_nobody_wants_it_ends() {
    let mut world = following().taken_over();
    world.run(seconds(1));
    assert!(runs_untouched(&world), "{:?}", world.log);
    {
        let mut postgres = world.postgres_mut();
        (postgres.in_recovery, postgres.data) = (false, present(DataKind::Primary));
    }
    world.run(seconds(10));
    assert!(!world.postgres().running, "{:?}", world.log);
}

/// PostgreSQL says so of what the earlier keeper gave it.
#[test]
fn settings_of_a_standby_that_only_a_start_takes_are_brought_into_force() {
    let cluster = asked(Role::Standby, Init::None);
    let mut seen = running(DataKind::Standby, &goal(&cluster));
    seen.applied = None;
    let mut live = live(DataKind::Standby);
    assert!(!planned(&cluster, &seen).contains("start"));
    live.pending_restart = vec!["primary_conninfo".to_owned()];
    seen.server = Server::Running(Some(live));
    assert!(
        planned(&cluster, &seen).starts_with("stop configure:standby start"),
        "{}",
        planned(&cluster, &seen)
    );
}

#[test]
fn a_keeper_that_is_told_to_depart_ends_and_touches_nothing() {
    let mut world = serving(synchronous());
    let mark = world.mark();
    world.tell(Event::DepartureRequested);
    assert!(world.ended);
    world.run(seconds(60));
    assert_eq!(world.steps_since(mark), "");
    assert!(world.postgres().running && world.postgres().admits_clients());
}
