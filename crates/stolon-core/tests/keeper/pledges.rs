//! What keepers promise each other while the store is away (docs/design/012-lease.md).

use std::time::Duration;

use stolon_core::keeper::*;
use stolon_model::{
    ClusterData, FormerPrimary, GoDuration, InstanceInitMode as Init, Keeper, Pledge, PledgeRequest, Role,
};

use crate::given::*;
use crate::world::{Store, World, seconds, serving};

/// `primaryLease` by default, and what is counted on of it.
const TERM: Duration = seconds(15);
const COUNTED_ON: Duration = Duration::from_millis(11_250);
const MOMENT: Duration = Duration::from_millis(20);

fn can_be_asked(cluster: &mut ClusterData, keeper: &str) {
    let mut known = Keeper::default();
    known.uid = keeper.into();
    known.status.http_address = format!("{keeper}:8008");
    cluster.keepers.insert(keeper.into(), known);
}

/// We are the primary that proxies go to, and two others could take our place: `pp` of `k2` and `bb` of `k3`.
pub fn primary() -> ClusterData {
    let mut cluster = asked(Role::Primary, Init::None);
    add(&mut cluster, "bb", "k3", Role::Standby, Init::None);
    for keeper in ["k2", "k3"] {
        can_be_asked(&mut cluster, keeper);
    }
    cluster.proxy.spec.primary = Some("us".into());
    cluster
}

/// We are a standby of `pp`, to which proxies go.
pub fn standby() -> ClusterData {
    let mut cluster = asked(Role::Standby, Init::None);
    cluster.proxy.spec.primary = Some("pp".into());
    cluster
}

fn following() -> World {
    let mut world = World::with(standby(), DataKind::Standby);
    world.run(seconds(20));
    world
}

/// The keeper of `pp` wants a pledge of us.
fn pledged(world: &mut World) -> Option<Duration> {
    pledged_to(world, "pp", "c1")
}

fn pledged_to(world: &mut World, primary: &str, cluster: &str) -> Option<Duration> {
    let request =
        PledgeRequest { cluster_uid: cluster.into(), primary: primary.into(), instance: "us".into() };
    let before = world.answered.len();
    world.tell(Event::PledgeAsked { number: 1, request });
    world.run(MOMENT);
    assert_eq!(world.answered.len(), before + 1, "each question has its answer");
    world.answered[before]
}

fn elect_us(cluster: &mut ClusterData) {
    cluster.cluster.status.primary = Some("us".into());
    cluster.proxy.spec.primary = None;
    let ours = ours(cluster);
    (ours.generation, ours.spec.role, ours.spec.follow_config) = (4, Some(Role::Primary), None);
}

fn promotions(world: &World) -> usize {
    world.log.iter().filter(|(_, word)| word == "promote").count()
}

#[test]
fn nobody_is_asked_while_the_store_answers() {
    let mut world = serving(primary());
    world.pledges = [("pp", TERM), ("bb", TERM)].into();
    world.run(seconds(300));
    assert_eq!((world.asked.len(), world.vouched()), (0, Duration::ZERO));
}

/// Proxies close soon: what would do for everything else, since it was read a moment ago, is not good enough once the store has refused a report.
#[test]
fn a_report_that_is_refused_has_the_others_asked_at_once() {
    let mut world = serving(primary());
    world.pledges = [("pp", TERM), ("bb", TERM)].into();
    let reports = world.reports.len();
    while world.reports.len() == reports {
        world.run(MOMENT);
    }
    world.store = Store::Refuses;
    let refused = |world: &World| world.sayings.iter().any(|it| matches!(it, Saying::ReportRefused(_)));
    for _ in 0..1000 {
        if !refused(&world) {
            world.run(MOMENT);
        }
    }
    assert!(refused(&world));
    world.run(5 * MOMENT);
    assert!(!world.vouched().is_zero(), "{:?}", world.log);
}

#[test]
fn a_primary_is_vouched_for_while_all_others_pledge() {
    let mut world = serving(primary());
    world.pledges = [("pp", TERM), ("bb", TERM)].into();
    world.store = Store::Silent;
    world.run(seconds(10));
    for _ in 0..600 {
        world.run(seconds(1));
        let left = world.vouched();
        assert!(left > seconds(9) && left <= COUNTED_ON, "{left:?} at {:?}", world.now);
    }
    let told = world.sayings.iter().filter(|saying| **saying == Saying::VouchedFor).count();
    assert_eq!(told, 1, "once");
    // One of them does not answer any more: it may be elected without our knowing.
    world.pledges.remove("bb");
    world.run(COUNTED_ON - seconds(2));
    assert!(!world.vouched().is_zero());
    world.run(seconds(2));
    assert_eq!(world.vouched(), Duration::ZERO);
    assert!(world.sayings.contains(&Saying::VouchedForNoMore));
    world.pledges.insert("bb", TERM);
    world.run(seconds(3));
    assert!(!world.vouched().is_zero(), "it is back");
}

/// It may have been given at once, and the answer took all that time.
#[test]
fn a_pledge_counts_from_before_it_was_asked_for() {
    let mut world = serving(primary());
    world.pledges = [("pp", TERM), ("bb", TERM)].into();
    (world.store, world.pledge_takes) = (Store::Silent, Duration::from_millis(800));
    world.run(seconds(30));
    let (_, last) = world.asked.iter().rfind(|(_, at)| *at + world.pledge_takes <= world.now).unwrap();
    assert_eq!(world.now + world.vouched(), *last + COUNTED_ON);
    world.freeze(seconds(11));
    assert_eq!(
        world.vouched(),
        Duration::ZERO,
        "a host that stood still vouches for nothing when it goes on"
    );
}

#[test]
fn who_cannot_be_sure_of_all_others_vouches_for_nothing() {
    let cases: [(&str, fn(&mut ClusterData)); 6] = [
        ("a former primary may come back", |cluster| {
            let former = FormerPrimary { instance: "ff".into(), complete: true, ..FormerPrimary::default() };
            cluster.cluster.status.formers = Some(vec![former]);
        }),
        ("proxies are sent elsewhere", |cluster| cluster.proxy.spec.primary = None),
        ("another one was elected", |cluster| is_deposed(cluster)),
        ("a keeper cannot be asked", |cluster| {
            cluster.keepers.get_mut(&"k3".into()).unwrap().status.http_address.clear();
        }),
        ("an instance that is new to us", |cluster| add(cluster, "cc", "k4", Role::Standby, Init::None)),
        ("it is turned off", |cluster| {
            cluster.cluster.spec.primary_lease = Some(GoDuration::from_seconds(0));
        }),
    ];
    for (what, change) in cases {
        let mut world = serving(primary());
        world.pledges = [("pp", TERM), ("bb", TERM)].into();
        world.change(change);
        world.run(seconds(5));
        world.store = Store::Silent;
        world.run(seconds(30));
        assert_eq!(world.vouched(), Duration::ZERO, "{what}");
    }
}

#[test]
fn the_only_keeper_vouches_for_itself() {
    let mut cluster = primary();
    cluster.instances.retain(|uid, _| uid.as_str() == "us");
    let mut world = serving(cluster);
    world.store = Store::Silent;
    world.run(seconds(60));
    assert!(!world.vouched().is_zero());
    assert_eq!(world.asked.len(), 0);
}

#[test]
fn a_standby_pledges_only_where_it_cannot_read_and_knows_the_same_primary() {
    let mut world = following();
    assert_eq!(pledged(&mut world), None, "the store answers");
    world.store = Store::Silent;
    world.run(seconds(10));
    for (primary, cluster) in [("us", "c1"), ("bb", "c1"), ("pp", "c2")] {
        assert_eq!(pledged_to(&mut world, primary, cluster), None, "{primary} of {cluster}");
    }
    assert_eq!(pledged(&mut world), Some(TERM));
    assert!(world.files.contains(&StateFile::Pledged(Pledge { term: TERM.into() })));

    let cases: [fn(&mut ClusterData); 4] = [
        elect_us,
        |cluster| cluster.proxy.spec.primary = None,
        |cluster| cluster.cluster.spec.primary_lease = Some(GoDuration::from_seconds(0)),
        |cluster| drop(cluster.instances.remove(&"us".into())),
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let mut world = following();
        world.change(change);
        world.run(seconds(1));
        world.store = Store::Silent;
        world.run(seconds(10));
        assert_eq!(pledged(&mut world), None, "change {index}");
    }
}

/// A store that has just gone is noticed by whoever is asked.
#[test]
fn who_is_asked_looks_whether_the_store_is_away() {
    for store in [Store::Silent, Store::Refuses] {
        let mut world = following();
        world.store = store;
        assert_eq!(pledged(&mut world), Some(TERM), "{store:?}");
    }
}

#[test]
fn a_pledge_counts_for_no_longer_than_the_fail_interval() {
    let mut world = following();
    world.change(|cluster| cluster.cluster.spec.fail_interval = Some(GoDuration::from_seconds(6)));
    world.run(seconds(1));
    world.store = Store::Silent;
    world.run(seconds(10));
    assert_eq!(pledged(&mut world), Some(seconds(6)));
}

#[test]
fn what_cannot_be_written_down_is_not_pledged() {
    let mut world = following();
    world.store = Store::Silent;
    world.disk_fails = Some((StateFileKind::Pledged, "full"));
    world.run(seconds(10));
    assert_eq!(pledged(&mut world), None);
    world.disk_fails = None;
    assert_eq!(pledged(&mut world), Some(TERM));
}

#[test]
fn a_promotion_waits_for_the_end_of_the_last_pledge() {
    let mut world = following();
    world.store = Store::Silent;
    world.run(seconds(10));
    assert_eq!(pledged(&mut world), Some(TERM));
    world.run(seconds(3));
    assert_eq!(pledged(&mut world), Some(TERM), "and again");
    let given = world.now;
    world.store = Store::Answers;
    world.change(elect_us);
    world.run(TERM - seconds(1));
    assert_eq!(promotions(&world), 0, "{:?}", world.log);
    assert_eq!(pledged(&mut world), None, "nothing is pledged any more");
    world.run(given + TERM + MOMENT - world.now);
    assert_eq!(promotions(&world), 1, "{:?}", world.log);
    assert!(world.sayings.iter().any(|saying| matches!(saying, Saying::AwaitsPledge { .. })));
}

#[test]
fn a_standby_that_pledged_nothing_is_promoted_at_once() {
    let mut world = following();
    let elected = world.now;
    world.change(elect_us);
    world.run(seconds(1));
    let promoted = world.log.iter().find(|(_, word)| word == "promote").unwrap().0;
    assert!(promoted < (elected + Duration::from_millis(100)).as_millis(), "{:?}", world.log);
}

#[test]
fn the_next_keeper_keeps_what_this_one_may_have_pledged() {
    for (pledged, waits) in [(TERM, 1), (Duration::ZERO, 0)] {
        let mut cluster = standby();
        elect_us(&mut cluster);
        let beginning = || Beginning { pledged, ..beginning(complete("us")) };
        let mut world = World::begun(beginning(), cluster.clone(), present(DataKind::Standby));
        world.run(seconds(14));
        assert_eq!(promotions(&world), 1 - waits, "{pledged:?}");
        world.run(seconds(2));
        assert_eq!(promotions(&world), 1);
        // What was a primary before needs no promotion.
        let mut world = World::begun(beginning(), cluster, present(DataKind::Primary));
        world.run(seconds(14));
        assert_eq!(world.reported().0, waits == 0, "{pledged:?}");
        world.run(seconds(2));
        assert!(world.reported().0);
    }
}

#[test]
fn the_note_is_withdrawn_when_the_store_is_back() {
    let mut world = following();
    world.store = Store::Silent;
    world.run(seconds(10));
    assert_eq!(pledged(&mut world), Some(TERM));
    world.store = Store::Answers;
    world.run(seconds(60));
    let notes = world.files.iter().filter(|file| file.kind() == StateFileKind::Pledged);
    assert_eq!(notes.last(), Some(&StateFile::Pledged(Pledge::default())));
}
