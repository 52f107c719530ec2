use std::sync::Arc;
use stolon_model::{ClusterData, ClusterSpec, InitMode, Keeper, Timestamp};

use super::*;
use crate::keeper::{RewindCredentials, StoreCommands, SyncAfterCrash, Transport, User};

fn us() -> Identity {
    let user = User {
        name: "su".into(),
        method: "md5".into(),
        local_method: "md5".into(),
        transport: Transport::Any,
    };
    Identity {
        keeper: "k1".into(),
        boot: "boot".into(),
        listen_address: "127.0.0.1".into(),
        port: "5432".into(),
        superuser: user.clone(),
        rewind_credentials: RewindCredentials::Absent,
        replication: user,
        rewinder: None,
        commands: StoreCommands::All,
        sync_after_crash: SyncAfterCrash::EachFile,
    }
}

fn usable() -> ClusterRead {
    let mut spec = ClusterSpec::default();
    spec.init_mode = Some(InitMode::New);
    let mut cluster = ClusterData::initial("c1".into(), spec, Timestamp::ZERO);
    cluster.keepers.insert("k1".into(), Keeper::default());
    ClusterRead::Usable(Arc::new(UsableCluster::try_from(cluster).unwrap()))
}

/// Asks at one time, is answered at another, in milliseconds.
fn read(orders: &mut Orders, asked: u64, answered: u64, read: ClusterRead) -> Change {
    let [asked, answered] = [asked, answered].map(Duration::from_millis);
    assert_eq!(orders.ask(asked, FRESH), Some(FRESH));
    orders.read(answered, read, asked, &us(), &ServedMark::new(None))
}

fn freshness(orders: &Orders, millis: u64) -> Freshness {
    orders.freshness(Duration::from_millis(millis))
}

#[test]
fn what_was_read_is_fresh_for_a_while() {
    let mut orders = Orders::new("".into());
    assert_eq!(freshness(&orders, 0), Freshness::Stale);
    assert_eq!(read(&mut orders, 0, 10, usable()), Change::Goal);
    assert_eq!(freshness(&orders, 1000), Freshness::Fresh);
    assert_eq!(freshness(&orders, 1100), Freshness::Stale);
    assert_eq!(read(&mut orders, 2000, 2010, usable()), Change::Nothing);
    assert_eq!(freshness(&orders, 2010), Freshness::Fresh);
}

#[test]
fn an_answer_that_waited_in_a_frozen_process_is_not_fresh() {
    let mut orders = Orders::new("".into());
    read(&mut orders, 0, 10, usable());
    read(&mut orders, 100, 60_000, usable());
    assert_eq!(freshness(&orders, 60_000), Freshness::Stale);
    read(&mut orders, 60_000, 60_010, usable());
    assert_eq!(freshness(&orders, 60_010), Freshness::Fresh);
}

#[test]
fn a_store_that_is_always_slow_is_believed_after_a_few_readings() {
    let mut orders = Orders::new("".into());
    let mut now = 0;
    for _ in 0..10 {
        read(&mut orders, now, now + 3000, usable());
        now += 3000;
    }
    assert_eq!(freshness(&orders, now), Freshness::Fresh);
}

#[test]
fn a_store_that_does_not_answer_takes_nothing_back_and_is_asked_again_soon() {
    let mut orders = Orders::new("".into());
    read(&mut orders, 0, 10, usable());
    let goal = orders.goal().clone();
    let away = || ClusterRead::Unanswered("away".into());
    assert_eq!(read(&mut orders, 5010, 5020, away()), Change::Goal);
    assert_eq!(orders.goal(), &goal);
    assert_eq!(freshness(&orders, 5020), Freshness::InDoubt);
    assert_eq!(orders.due(), Some(Duration::from_millis(5220)));
    assert_eq!(read(&mut orders, 5220, 5230, away()), Change::Nothing);
    assert_eq!(orders.due(), Some(Duration::from_millis(5630)), "less and less often");
    assert_eq!(read(&mut orders, 5630, 5640, usable()), Change::Goal, "the doubt is over");
    assert_eq!(orders.doubt(), None);
}

#[test]
fn what_cannot_be_worked_with_is_a_word_of_its_own() {
    for answer in [ClusterRead::Absent, ClusterRead::Invalid("format 9".into())] {
        let mut orders = Orders::new("".into());
        read(&mut orders, 0, 10, usable());
        read(&mut orders, 20, 30, answer);
        assert!(matches!(orders.goal(), Goal::LeaveAlone(_)));
        assert_eq!(orders.doubt(), None);
    }
}

#[test]
fn what_is_asked_while_a_reading_is_under_way_is_read_afterwards() {
    let mut orders = Orders::new("".into());
    let (old, young) = (Duration::from_secs(5), FRESH);
    assert_eq!(orders.ask(Duration::ZERO, old), Some(old));
    assert_eq!(orders.ask(Duration::ZERO, young), None);
    assert_eq!(orders.ask(Duration::ZERO, old), None);
    assert_eq!(orders.due(), None);
    orders.read(Duration::ZERO, usable(), Duration::ZERO, &us(), &ServedMark::new(None));
    assert_eq!(orders.must_read_again(), Some(young), "the youngest that somebody wants");
    assert_eq!(orders.ask(Duration::ZERO, young), Some(young));
    assert_eq!(orders.must_read_again(), None);
}

#[test]
fn what_was_known_long_before_it_was_asked_for_is_as_old_as_it_is() {
    let mut orders = Orders::new("".into());
    let now = Duration::from_secs(60);
    orders.ask(now, Duration::from_secs(5));
    orders.read(now, usable(), now - Duration::from_secs(4), &us(), &ServedMark::new(None));
    assert_eq!(orders.freshness(now), Freshness::Stale);
}

#[test]
fn the_next_reading_is_due_when_what_is_known_becomes_too_old() {
    let mut orders = Orders::new("".into());
    // In milliseconds; the default interval is five seconds.
    for (age, pause) in [(0, 5000), (2500, 5000), (4000, 3500), (7450, 100), (20_000, 100)] {
        read(&mut orders, 60_000 - age, 60_000, ClusterRead::Absent);
        assert_eq!(orders.due(), Some(Duration::from_millis(60_000 + pause)), "as of {age} ms ago");
    }
}
