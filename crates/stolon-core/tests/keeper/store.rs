//! The whole keeper while the store is slow, silent or back, and how often it asks it.

use std::time::Duration;

use stolon_core::keeper::*;
use stolon_model::{GoDuration, InstanceInitMode as Init, Role};

use crate::given::*;
use crate::world::{Store, World, seconds, serving};

#[test]
fn without_the_store_a_synchronous_primary_comes_back_behind_its_gate() {
    let mut world = serving(synchronous());
    world.store = Store::Silent;
    world.run(seconds(20));
    world.postgres_mut().replication.clear();
    let mark = world.mark();
    world.server_dies();
    world.run(seconds(20));
    assert!(world.steps_since(mark).contains("start"), "{:?}", &world.log[mark..]);
    assert!(world.postgres().running && !world.postgres().admits_clients(), "its standby is not there yet");
    world.postgres_mut().standby_streams("bb");
    world.run(seconds(5));
    assert!(world.postgres().admits_clients(), "{:?}", &world.log[mark..]);
}

/// Whenever the store comes back, the keepers have reported before a sentinel that has just read it again counts their silence: it leaves
/// two sleep intervals at least, and all of `failInterval` to those that had reported when the store went.
#[test]
fn a_report_that_hung_when_the_store_came_back_is_followed_by_another_one_in_time() {
    for outage in (0..60).map(|step| seconds(20) + Duration::from_millis(137) * step) {
        let mut cluster = synchronous();
        cluster.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(1));
        cluster.cluster.spec.fail_interval = Some(GoDuration::from_seconds(6));
        let mut world = serving(cluster);
        world.store = Store::Silent;
        world.run(outage);
        world.store = Store::Answers;
        let before = world.reports.len();
        world.run(seconds(4) + Duration::from_millis(10));
        assert!(world.reports.len() > before, "after an outage of {outage:?}");
    }
}

#[test]
fn without_the_store_nothing_is_started_that_another_primary_could_stand_beside() {
    let mut world = serving(asked(Role::Primary, Init::None));
    world.store = Store::Silent;
    world.run(seconds(20));
    world.server_dies();
    world.run(seconds(60));
    assert!(!world.postgres().running, "{:?}", world.log);
    world.store = Store::Answers;
    world.run(seconds(10));
    assert!(world.postgres().running && world.postgres().admits_clients());
}

#[test]
fn without_the_store_a_standby_comes_back_and_what_troubles_is_said() {
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.run(seconds(10));
    world.store = Store::Silent;
    world.run(seconds(20));
    world.server_dies();
    world.run(seconds(20));
    assert!(world.postgres().running);
    world.store = Store::Answers;
    world.run(Duration::from_millis(5100));
    assert_eq!(world.problem(), "", "the trouble is over");
    let troubled = world.sayings.iter().any(
        |saying| matches!(saying, Saying::Trouble { sentence, .. } if sentence.contains("cluster data")),
    );
    assert!(troubled, "{:?}", world.sayings);
}

#[test]
fn a_thawed_keeper_reads_again_before_it_starts_a_primary() {
    let mut world = serving(asked(Role::Primary, Init::None));
    let mark = world.mark();
    world.freeze(seconds(60));
    is_deposed(&mut world.cluster);
    world.server_dies();
    world.run(seconds(10));
    let steps = world.steps_since(mark);
    let first = |word: &str| steps.split(' ').position(|step| step == word);
    assert!(first("read") < first("start"), "{steps}");
    assert!(!world.postgres().admits_clients(), "what it knew before the freeze is over: {steps}");
}

#[test]
fn a_promotion_and_an_opening_gate_wait_for_the_present_word_of_the_store() {
    // The look on which the promotion is planned takes long, and meanwhile another one is elected.
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Standby);
    world.cluster.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(60));
    world.run(seconds(70));
    assert!(world.postgres().in_recovery, "{:?}", world.log);
    world.look_takes = seconds(5);
    let standby = world.cluster.clone();
    world.change(|cluster| {
        cluster.cluster.status.primary = Some("us".into());
        let ours = ours(cluster);
        (ours.spec.role, ours.spec.follow_config) = (Some(Role::Primary), None);
        ours.generation += 1;
    });
    world.run(seconds(1));
    world.cluster = standby;
    world.run(seconds(20));
    assert!(world.postgres().in_recovery, "{:?}", world.log);

    // Its standby is in sync, but another one was elected, and no watch told.
    let mut world = World::with(synchronous(), DataKind::Primary);
    world.cluster.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(60));
    world.run(seconds(20));
    assert!(world.postgres().running && !world.postgres().admits_clients());
    is_deposed(&mut world.cluster);
    world.postgres_mut().standby_streams("bb");
    world.run(seconds(20));
    assert!(!world.postgres().admits_clients(), "{:?}", world.log);
}

#[test]
fn a_keeper_on_which_nothing_happens_asks_the_store_once_in_an_interval() {
    for sleep in [1, 5, 20] {
        let mut cluster = asked(Role::Primary, Init::None);
        cluster.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(sleep));
        let mut world = serving(cluster);
        let (reports, questions) = (world.reports.len(), world.questions);
        world.run(seconds(600));
        let intervals = 600 / sleep as usize;
        let reports = world.reports.len() - reports;
        assert!((intervals - 2..=intervals).contains(&reports), "{reports} reports, {sleep} s apart");
        assert_eq!(world.questions - questions, 0, "each report brings the cluster data along");
        let renewed_seldom = world.ttl >= seconds(60) && world.ttl >= seconds(6 * sleep as u64);
        assert!(renewed_seldom, "a time to live of {:?}", world.ttl);
    }
}

#[test]
fn a_keeper_whose_reports_do_not_get_through_asks_for_the_cluster_data() {
    let mut world = serving(asked(Role::Primary, Init::None));
    world.store = Store::Silent;
    let questions = world.questions;
    world.run(seconds(8));
    assert!(world.questions > questions, "one interval and a half after the last report");
}
