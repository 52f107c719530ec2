//! The simulator itself, a slice of the everyday campaign, and every scenario that once broke something.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use stolon_sim::campaign::{ACTIVE, Campaign, play};
use stolon_sim::{Command, Fault, Guard, Point, Scenario, Trace, What, run};

/// Seeds of the slice that every test run plays.
const SLICE: u64 = 60;

#[test]
fn the_same_seed_twice_gives_the_same_log() {
    for seed in 1..4 {
        let scenario = Scenario::draw(seed, ACTIVE);
        let (first, second) = (run(&scenario, Trace::Written), run(&scenario, Trace::Written));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!((first.digest, first.events), (second.digest, second.events), "seed {seed}");
        let silent = run(&scenario, Trace::Off);
        assert_eq!(silent.digest, first.digest, "seed {seed}: reading along changes nothing");
    }
}

#[test]
fn a_slice_of_the_everyday_campaign_breaks_nothing() {
    let next = AtomicU64::new(1);
    let found = Mutex::new(Campaign::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SLICE {
                        return;
                    }
                    let outcome = play(seed);
                    found.lock().expect("no run panics").add(seed, &outcome);
                }
            });
        }
    });
    let found = found.into_inner().expect("no run panics");
    assert!(found.failed.is_empty(), "see them with `cargo xtask sim --seed N`: {:#?}", found.failed);
    assert!(found.coverage.acknowledged > 30_000, "clients got far: {}", found.coverage.acknowledged);
    for point in [
        Point::Failover,
        Point::DoubleFailover,
        Point::Rewind,
        Point::HungServer,
        Point::StoreRollback,
        Point::Settled,
        Point::AsynchronousLoss,
        Point::Converged,
    ] {
        assert!(found.coverage.count(point) > 0, "the slice never reached {point:?}");
    }
}

/// Where commits wait for a standby the successor has acknowledged nothing. Where they need none it has as soon as it works: there only one whose
/// promotion never ended is replaced by who was before it.
#[test]
fn a_former_primary_comes_back_when_its_successor_is_lost() {
    let returned = [1, 0].map(|minimum| {
        let played = (1..=10).map(|seed| {
            let outcome = run(&Scenario::lost_successors(seed, minimum), Trace::Off);
            assert_eq!(outcome.violation, None, "seed {seed}, minimum {minimum}");
            outcome.coverage.count(Point::FormerReturned)
        });
        played.sum::<u64>()
    });
    assert!(returned[0] > 4 * returned[1], "{returned:?} came back");
}

/// A report that hangs when the store comes back is given up early enough, also where `failInterval` is short.
#[test]
fn an_outage_of_the_store_alone_replaces_nobody() {
    for seed in (1..=20).chain([128, 242]) {
        let mut scenario = Guard::GapCompensation.scenario(seed);
        (scenario.spec.sleep, scenario.spec.fail) = (1_000, 6_000);
        assert_eq!(run(&scenario, Trace::Off).violation, None, "seed {seed}");
    }
}

#[test]
fn a_primary_that_is_cut_off_locks_out_who_comes_to_it_directly() {
    let mut locked_out = 0;
    for seed in 1..=20 {
        let outcome = run(&Scenario::cut_off_primaries(seed), Trace::Off);
        assert_eq!(outcome.violation, None, "seed {seed}");
        locked_out += outcome.coverage.count(Point::LeaseOver);
    }
    assert!(locked_out > 0);
}

/// Who is replaced by an operator has let everybody go before another one is promoted.
#[test]
fn a_primary_that_works_is_replaced_without_two_that_acknowledge() {
    let mut elections = 0;
    for seed in 1..=20 {
        let outcome = run(&Scenario::replaced_by_operators(seed), Trace::Off);
        assert_eq!(outcome.violation, None, "seed {seed}");
        elections += outcome.coverage.count(Point::ClientsOut);
    }
    assert!(elections > 0);
}

/// All pledge.
#[test]
fn who_goes_to_a_primary_directly_is_not_locked_out_when_only_the_store_is_away() {
    for seed in 1..=20 {
        let mut scenario = Scenario::cut_off_primaries(seed);
        scenario.faults = vec![Fault { at: 45_000, lasts: 120_000, what: What::StoreDown }];
        let outcome = run(&scenario, Trace::Off);
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert_eq!(outcome.coverage.count(Point::LeaseOver), 0, "seed {seed}");
    }
}

/// Where commits need no standby the former primary does not come back by itself, and an operator goes on from it.
#[test]
fn an_operator_goes_on_from_what_the_keeper_of_a_former_primary_holds() {
    let mut recovered = 0;
    for seed in 1..=6 {
        let mut scenario = Scenario::lost_successors(seed, 0);
        scenario.faults.push(Fault { at: 50_000, lasts: 250_000, what: What::Operator(Command::Recover) });
        let outcome = run(&scenario, Trace::Off);
        assert_eq!(outcome.violation, None, "seed {seed}");
        recovered += outcome.coverage.count(Point::Recovered);
    }
    assert!(recovered > 0);
}

/// What the one before promised counts no more, and what keepers hold is overwritten.
#[test]
fn an_operator_makes_the_cluster_anew_while_keepers_and_the_store_come_and_go() {
    for seed in 1..=6 {
        let mut scenario = Scenario::cut_off_primaries(seed);
        let init = |at| Fault { at, lasts: 0, what: What::Operator(Command::Init) };
        scenario.faults.extend([init(55_000), init(160_000), init(161_000)]);
        let outcome = run(&scenario, Trace::Off);
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert_eq!(outcome.coverage.count(Point::MadeAnew), 3, "seed {seed}");
        assert_eq!(outcome.coverage.count(Point::Converged), 1, "seed {seed}");
    }
}

/// Keepers that are added one by one, one that is removed while it runs and registers anew, and one that was stopped for it.
#[test]
fn keepers_that_are_added_and_removed_keepers_that_come_back_become_standbys() {
    for seed in 1..=6 {
        let mut scenario = Scenario::lost_successors(seed, 1);
        (scenario.keepers, scenario.spec.standbys) = (4, 3);
        let joins = (1..4u8).map(|keeper| Fault {
            at: 20_000 + u64::from(keeper) * 25_000,
            lasts: 0,
            what: What::Joins(keeper),
        });
        let runs = |at, keeper| {
            let what = What::Operator(Command::RemoveKeeperThatRuns(keeper));
            Fault { at, lasts: 0, what }
        };
        let stopped = |at, keeper| {
            let what = What::Operator(Command::RemoveKeeper(keeper));
            Fault { at, lasts: 20_000, what }
        };
        scenario.faults = joins.collect();
        scenario.faults.extend([runs(150_000, 1), runs(190_000, 2), stopped(230_000, 3)]);
        let outcome = run(&scenario, Trace::Off);
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert_eq!(outcome.coverage.count(Point::KeeperJoined), 3, "seed {seed}");
        assert!(outcome.coverage.count(Point::KeeperRemoved) > 0, "seed {seed}");
        assert_eq!(outcome.coverage.count(Point::Converged), 1, "seed {seed}");
    }
}

/// The standby starts when the primary's keeper is told to end: it has the primary a moment later, and nothing is lost.
#[test]
fn a_keeper_that_is_told_to_end_waits_for_a_standby_that_is_about_to_be_fit() {
    let (mut awaited, mut relieved) = (0, 0);
    for seed in 1..=12 {
        let outcome = run(&Scenario::told_to_end_before_anybody_is_fit(seed), Trace::Off);
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert_eq!(outcome.coverage.count(Point::Converged), 1, "seed {seed}");
        awaited += outcome.coverage.count(Point::HeirAwaited);
        relieved += outcome.coverage.count(Point::RelievedBeforeItsEnd);
    }
    assert!(awaited > 5 && relieved > 4, "{awaited} waited, {relieved} were relieved");
}

/// No session ends, no proxy closes, nobody is replaced.
#[test]
fn a_name_server_that_fails_or_answers_late_changes_nothing() {
    for seed in 1..=12 {
        let outcome = run(&Scenario::without_names(seed), Trace::Off);
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert_eq!(outcome.coverage.count(Point::Failover), 0, "seed {seed}");
        assert!(outcome.coverage.count(Point::NamesFailed) > 0, "seed {seed}");
    }
}

#[test]
fn scenarios_that_once_broke_something_break_nothing_now() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds");
    let mut played = 0;
    for entry in std::fs::read_dir(&directory).expect("the directory is there").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("it can be read");
        let scenario: Scenario = serde_json::from_str(&text).expect("it is a scenario");
        let outcome = run(&scenario, Trace::Off);
        assert_eq!(outcome.violation, None, "{}", entry.path().display());
        played += 1;
    }
    assert!(played > 0, "there is at least one scenario");
}
