//! A small check in each run of the tests, and its teeth. `cargo xtask model` is the large one.

use stolon_check::{Action, Bound, Findings, Guard, Reached, Recovery, Replication, check};

fn bound(replication: Replication) -> Bound {
    let recovery = Recovery::Never;
    Bound { ticks: 3, faults: 1, given: Vec::new(), recovery, replication, without: None }
}

#[track_caller]
fn assert_safe(findings: &Findings) {
    assert_eq!(findings.violation, None, "{findings:#?}");
}

#[test]
fn one_fault_breaks_no_rule_in_synchronous_mode() {
    assert_safe(&check(&bound(Replication::Synchronous)));
}

#[test]
fn one_fault_breaks_no_rule_in_asynchronous_mode() {
    assert_safe(&check(&bound(Replication::Asynchronous)));
}

/// Under the same faults nothing happens while the guard is there, and something does without it.
#[track_caller]
fn assert_needed(guard: Guard) {
    let with = Bound { ticks: 6, faults: 0, given: guard.faults(), ..bound(Replication::Synchronous) };
    let findings = check(&with);
    assert_safe(&findings);
    let without = check(&Bound { without: Some(guard), ..with });
    assert!(without.violation.is_some(), "{guard:?} is not needed: {without:#?}");
}

#[test]
fn proxies_that_were_not_waited_for_send_clients_to_two_primaries() {
    assert_needed(Guard::Acknowledgement);
}

#[test]
fn a_proxy_without_a_deadline_goes_on_with_the_replaced_primary() {
    assert_needed(Guard::Deadline);
}

#[test]
fn whoever_is_elected_without_having_been_waited_for_is_found() {
    assert_needed(Guard::SynchronousSet);
}

#[test]
fn a_paused_sentinel_that_writes_blindly_takes_the_cluster_back() {
    assert_needed(Guard::CompareAndPut);
}

#[test]
fn the_small_check_comes_to_where_it_proves_something() {
    let given = vec![Action::Crash(0)];
    let findings = check(&Bound { ticks: 7, faults: 0, given, ..bound(Replication::Synchronous) });
    assert_safe(&findings);
    assert_eq!(findings.reached, Reached::CommitsAndFailover);
}
