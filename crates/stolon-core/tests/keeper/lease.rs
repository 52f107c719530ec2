//! A primary serves ordinary clients only while nobody else can have been elected for long (docs/design/012-lease.md).

use std::time::Duration;

use stolon_core::keeper::*;
use stolon_model::{ClusterData, GoDuration, PledgeRequest};

use crate::given::*;
use crate::pledges::{primary, standby};
use crate::world::{Store, World, seconds, serving};

/// `primaryLease` by default, what is counted on of it, and when clients are out in any case.
const TERM: Duration = seconds(15);
const COUNTED_ON: Duration = Duration::from_millis(11_250);
const OUT: Duration = Duration::from_millis(13_500);
/// Between two confirmations of the cluster data.
const SLEEP: Duration = seconds(5);
const MOMENT: Duration = Duration::from_millis(50);

/// The same primary, whose commits wait for `bb`.
fn synchronous_primary() -> ClusterData {
    let mut cluster = primary();
    let spec = &mut ours(&mut cluster).spec;
    spec.synchronous_replication = true;
    spec.synchronous_standbys = Some(vec!["bb".into()]);
    spec.followers = Some(vec!["bb".into()]);
    cluster
}

/// Serving, with the store gone at this moment.
fn cut_off(cluster: ClusterData) -> World {
    let mut world = serving(cluster);
    world.store = Store::Silent;
    world
}

fn is_shut(world: &World) -> bool {
    !world.postgres().admits_clients()
}

/// How long it takes until no client is let in.
fn shut_after(world: &mut World, most: Duration) -> Duration {
    let begun = world.now;
    while !is_shut(world) && world.now - begun < most {
        world.run(MOMENT);
    }
    assert!(is_shut(world), "{:?}", world.log);
    world.now - begun
}

#[test]
fn a_primary_that_is_cut_off_locks_clients_out_before_its_lease_is_over_and_lets_them_in_when_it_reads() {
    for store in [Store::Silent, Store::Refuses] {
        let mut world = serving(primary());
        world.store = store;
        let mark = world.mark();
        let after = shut_after(&mut world, TERM);
        assert!(after >= COUNTED_ON - SLEEP && after <= COUNTED_ON + MOMENT, "{after:?}");
        let steps = world.steps_since(mark);
        assert!(steps.contains("terminate"), "{steps}");
        assert_eq!(world.is_primary(), Err(No::LeaseOver));
        world.run(seconds(120));
        assert!(is_shut(&world) && world.postgres().running, "it goes on for its standbys");
        assert!(world.sayings.iter().any(|it| matches!(it, Saying::Trouble { .. })), "{:?}", world.sayings);
        world.store = Store::Answers;
        world.run(seconds(6));
        assert!(!is_shut(&world), "{:?}", world.log);
        assert_eq!(world.is_primary(), Ok(()));
        let told = |world: &World| world.report().activity.clone().unwrap().locked_out;
        let lockout = told(&world).unwrap();
        assert!(lockout.lasted.to_std() >= seconds(120) && lockout.number == 1 && !lockout.replaced);
        assert!(lockout.why.ends_with("the keepers of db bb, pp had not pledged to wait"), "{lockout:?}");
        world.run(seconds(700));
        assert_eq!(told(&world), None, "it is in the history by now");
    }
}

#[test]
fn a_store_that_is_away_costs_nothing_while_all_others_pledge() {
    // It refuses, or does not answer at all.
    for takes in [Duration::from_millis(2), seconds(5)] {
        let mut world = cut_off(primary());
        world.reading_takes = takes;
        world.pledges = [("pp", TERM), ("bb", TERM)].into();
        for _ in 0..600 {
            world.run(seconds(1));
            assert!(!is_shut(&world), "{:?}", world.log);
            assert_eq!(world.is_primary(), Ok(()));
        }
        // One of them does not answer any more: it may be elected without our knowing.
        world.pledges.remove("bb");
        let after = shut_after(&mut world, OUT);
        assert!(after >= COUNTED_ON - seconds(3), "{after:?}");
        world.pledges.insert("bb", TERM);
        world.run(seconds(3));
        assert!(!is_shut(&world), "{:?}", world.log);
    }
}

/// The primary has little time left when it asks.
#[test]
fn who_is_asked_waits_no_longer_for_a_store_that_does_not_answer() {
    let mut world = World::with(standby(), DataKind::Standby);
    world.run(seconds(20));
    (world.store, world.reading_takes) = (Store::Silent, seconds(5));
    let request = || PledgeRequest { cluster_uid: "c1".into(), primary: "pp".into(), instance: "us".into() };
    world.tell(Event::PledgeAsked { number: 1, request: request() });
    world.run(Duration::from_millis(600));
    assert_eq!(world.answered, []);
    world.run(Duration::from_millis(150));
    assert_eq!(world.answered, [Some(TERM)]);
    // One that does answer within that time is the better witness.
    let mut world = World::with(standby(), DataKind::Standby);
    world.run(seconds(20));
    world.reading_takes = Duration::from_millis(500);
    world.tell(Event::PledgeAsked { number: 1, request: request() });
    world.run(seconds(1));
    assert_eq!(world.answered, [None]);
}

#[test]
fn where_there_is_no_lease_clients_stay() {
    let cases: [(&str, fn(&mut ClusterData)); 7] = [
        ("an operator wants none", |cluster| cluster.cluster.spec.fence_without_lease = Some(false)),
        ("it is turned off with the pledges", |cluster| {
            cluster.cluster.spec.primary_lease = Some(GoDuration::from_seconds(0));
        }),
        ("a keeper cannot be asked", |cluster| {
            cluster.keepers.get_mut(&"k3".into()).unwrap().status.http_address.clear();
        }),
        ("nobody can be elected", |cluster| cluster.instances.retain(|uid, _| uid.as_str() == "us")),
        ("the term is too short for several readings", |cluster| {
            cluster.cluster.spec.primary_lease = Some(GoDuration::from_seconds(14));
        }),
        ("so is failInterval", |cluster| {
            cluster.cluster.spec.fail_interval = Some(GoDuration::from_seconds(19));
        }),
        ("the keepers are far apart", |cluster| {
            cluster.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(6));
        }),
    ];
    for (what, change) in cases {
        let mut world = serving(primary());
        world.change(change);
        world.run(seconds(5));
        world.store = Store::Silent;
        world.run(seconds(300));
        assert!(!is_shut(&world), "{what}");
    }
}

/// What nobody has acknowledged may be there when sessions were ended.
#[test]
fn a_synchronous_primary_lets_clients_in_when_its_standbys_follow() {
    let mut world = cut_off(synchronous_primary());
    shut_after(&mut world, TERM);
    world.postgres_mut().replication.clear();
    world.store = Store::Answers;
    world.run(seconds(10));
    assert!(is_shut(&world), "{:?}", world.log);
    world.postgres_mut().standby_streams("bb");
    world.run(seconds(2));
    assert!(!is_shut(&world), "{:?}", world.log);
}

#[test]
fn a_host_that_stood_still_locks_clients_out_before_anything_else() {
    let mut world = serving(primary());
    let mark = world.mark();
    world.store = Store::Silent;
    world.freeze(seconds(60));
    world.run(MOMENT);
    assert!(is_shut(&world), "{:?}", world.log);
    let steps = world.steps_since(mark);
    assert!(!steps.contains("kill"), "{steps}");
}

/// A server that takes no rules any more would let clients commit for as long as it likes.
#[test]
fn a_server_whose_clients_cannot_be_locked_out_in_time_is_killed() {
    let hangs: [fn(&mut World); 2] = [
        |world| assert!(world.postgres_mut().hanging.insert("terminate".into())),
        |world| assert!(world.postgres_mut().hanging.insert("look".into())),
    ];
    for hang in hangs {
        let mut world = cut_off(primary());
        hang(&mut world);
        let after = shut_after(&mut world, TERM);
        assert!(after <= OUT + MOMENT, "{after:?}");
        assert!(world.steps_since(0).contains("kill"), "{:?}", world.log);
    }
}

/// Nobody can lock out the clients of a server before it was looked at.
#[test]
fn a_deposed_primary_whose_server_does_not_answer_is_killed_when_its_lease_would_be_over() {
    let mut world = serving(primary());
    world.postgres_mut().hanging.insert("look".into());
    world.run(seconds(4));
    world.change(|cluster| is_deposed(cluster));
    let after = shut_after(&mut world, TERM);
    assert!(after <= OUT + MOMENT, "{after:?}");
    assert!(world.steps_since(0).contains("kill"), "{:?}", world.log);
}

#[test]
fn what_takes_long_is_called_off_for_it() {
    let mut world = serving(primary());
    world.ready_takes = seconds(3600);
    world.server_dies();
    world.run(seconds(1));
    assert!(world.steps_since(0).ends_with("ready"), "{:?}", world.log);
    world.store = Store::Silent;
    world.run(OUT);
    assert!(is_shut(&world), "{:?}", world.log);
}

/// In asynchronous mode nobody knows without the store whether another one was elected; unless all others have pledged.
#[test]
fn a_primary_that_ends_without_the_store_comes_back_behind_its_gate_where_all_others_pledge() {
    let mut world = cut_off(primary());
    world.run(seconds(10));
    world.server_dies();
    world.run(seconds(60));
    assert!(!world.postgres().running, "{:?}", world.log);
    let mark = world.mark();
    world.pledges = [("pp", TERM), ("bb", TERM)].into();
    world.run(seconds(60));
    assert!(!is_shut(&world), "{:?}", world.log);
    let began = world.log[mark..].iter().find(|(_, word)| word.starts_with("configure"));
    assert!(began.is_some(), "{:?}", world.log);
}

#[test]
fn a_synchronous_one_comes_back_behind_its_gate_and_opens_with_pledges() {
    let mut world = cut_off(synchronous_primary());
    world.run(seconds(10));
    world.server_dies();
    world.run(seconds(60));
    assert!(world.postgres().running && is_shut(&world), "{:?}", world.log);
    world.pledges = [("pp", TERM), ("bb", TERM)].into();
    world.run(seconds(60));
    assert!(!is_shut(&world), "{:?}", world.log);
}

#[test]
fn who_was_deposed_meanwhile_stays_shut() {
    let mut world = cut_off(primary());
    shut_after(&mut world, TERM);
    world.store = Store::Answers;
    world.change(|cluster| is_deposed(cluster));
    world.run(seconds(60));
    assert!(is_shut(&world), "{:?}", world.log);
}
