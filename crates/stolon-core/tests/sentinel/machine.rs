//! The machine: when it reads, what it writes, what a write without an answer means, what it says.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::sentinel::{
    Attention, Effect, Event, Expected, Hold, Machine, Now, Reading, Saying, Setup, Standing, Told, Trouble,
    UidSource, WriteOutcome,
};
use stolon_model::*;

use crate::world::*;

struct Uids(u32);

impl UidSource for Uids {
    fn instance_uid(&mut self) -> InstanceUid {
        self.0 += 1;
        format!("uid{}", self.0).into()
    }
}

/// A machine, a store with one document, and the time.
struct Bench {
    machine: Machine,
    world: World,
    uids: Uids,
}

impl Bench {
    fn new(world: World) -> Bench {
        let setup = Setup { uid: "s1".into(), initial_spec: None };
        Bench { machine: Machine::new(setup), world, uids: Uids(100) }
    }

    /// One that leads and has completed its first rounds.
    fn leading(world: World) -> Bench {
        let mut bench = Bench::new(world);
        bench.handle(Event::StandingChanged(Standing::Leader));
        for _ in 0..3 {
            bench.answer_round(|_| WriteOutcome::Written);
            bench.pass(1000);
        }
        bench
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let now = Now { monotonic: self.world.now, wall: wall(0) };
        self.machine.handle(now, event, &mut self.uids)
    }

    fn pass(&mut self, milliseconds: u64) -> Vec<Effect> {
        self.world.later(milliseconds);
        self.handle(Event::TimePassed)
    }

    fn reading(&mut self) -> Reading {
        Reading {
            as_of: self.world.now,
            document: Some(self.world.data.clone().into()),
            keepers: shared(self.world.current_reports()),
            proxies: self.world.proxies.clone(),
            unreadable_proxies: self.world.unreadable_proxies.clone(),
            told: self.world.told.clone(),
        }
    }

    fn read(&mut self) -> Vec<Effect> {
        let reading = self.reading();
        self.handle(Event::ViewRead(Box::new(reading)))
    }

    /// Answer a reading under way with reports that all have this position.
    fn read_moved(&mut self, lsn: Lsn) -> Vec<Effect> {
        let mut reading = self.reading();
        let states =
            reading.keepers.values_mut().filter_map(|report| Arc::make_mut(report).postgres_state.as_mut());
        states.for_each(|state| state.lsn = lsn);
        self.handle(Event::ViewRead(Box::new(reading)))
    }

    /// Answer a reading under way and the write that follows it.
    fn answer_round(&mut self, outcome: impl Fn(&ClusterDocument) -> WriteOutcome) -> Vec<Effect> {
        let mut effects = self.read();
        if let Some(document) = written(&effects) {
            let outcome = outcome(&document);
            if outcome == WriteOutcome::Written {
                self.world.data = document.try_into().unwrap();
            }
            effects.extend(self.handle(Event::WriteEnded(outcome)));
        }
        if effects.iter().any(|effect| matches!(effect, Effect::PublishReport { .. })) {
            self.handle(Event::ReportEnded(Ok(())));
        }
        effects
    }
}

fn written(effects: &[Effect]) -> Option<ClusterDocument> {
    effects.iter().find_map(|effect| match effect {
        Effect::CompareAndPut { document, .. } => Some((**document).clone()),
        _ => None,
    })
}

fn reads(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::ReadView { .. }))
}

/// How old the reading that is asked for may be.
fn age(effects: &[Effect]) -> Option<Duration> {
    effects.iter().find_map(|effect| match effect {
        Effect::ReadView { at_most, .. } => Some(*at_most),
        _ => None,
    })
}

/// The same, with how long the store may have been silent.
fn tolerated(effects: &[Effect]) -> Option<(Duration, Duration)> {
    effects.iter().find_map(|effect| match effect {
        Effect::ReadView { at_most, silence } => Some((*at_most, *silence)),
        _ => None,
    })
}

fn wakes_at(effects: &[Effect]) -> Option<Duration> {
    effects.iter().find_map(|effect| match effect {
        Effect::WakeAt(at) => Some(*at),
        _ => None,
    })
}

fn sayings(effects: &[Effect]) -> Vec<Saying> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Say(saying) => Some(saying.clone()),
            _ => None,
        })
        .collect()
}

fn elections(effects: &[Effect]) -> usize {
    let is_election = |saying: &&Saying| {
        matches!(saying, Saying::Changed(stolon_core::sentinel::Change::PrimaryElected { .. }))
    };
    sayings(effects).iter().filter(is_election).count()
}

fn failure() -> Explained {
    Explained::new("no answer")
}

#[test]
fn a_machine_reads_at_once_and_then_once_per_sleep_interval() {
    let mut bench = Bench::new(World::normal(2, 2));
    assert!(reads(&bench.handle(Event::Started)));
    assert!(!reads(&bench.handle(Event::TimePassed)), "one reading at a time");
    let effects = bench.read();
    assert_eq!(
        wakes_at(&effects),
        Some(bench.world.now + Duration::from_secs(5)),
        "a follower decides nothing"
    );
    assert_eq!(written(&effects), None);
    assert!(!reads(&bench.pass(4000)));
    assert!(reads(&bench.pass(1000)));
}

#[test]
fn changes_in_the_store_are_answered_by_one_reading() {
    let mut bench = Bench::leading(World::normal(2, 2));
    bench.pass(5000);
    bench.answer_round(|_| WriteOutcome::Written);
    assert!(!reads(&bench.handle(Event::StoreChanged)), "they are collected");
    assert!(!reads(&bench.handle(Event::StoreChanged)));
    assert!(reads(&bench.pass(10)));
    bench.handle(Event::StoreChanged);
    let effects = bench.answer_round(|_| WriteOutcome::Written);
    let soon = bench.world.now + Duration::from_millis(10);
    assert_eq!(wakes_at(&effects), Some(soon), "what came during the round is looked at after it");
}

#[test]
fn a_leader_writes_positions_once_per_sleep_interval_times_once_a_minute_and_decisions_at_once() {
    let mut bench = Bench::leading(World::normal(2, 2));
    for _ in 0..10 {
        bench.pass(5000);
        let effects = bench.answer_round(|_| WriteOutcome::Written);
        assert_eq!(written(&effects), None, "nothing moves: times can wait for a minute");
    }
    bench.pass(10_000);
    assert!(written(&bench.answer_round(|_| WriteOutcome::Written)).is_some(), "but not for longer");
    bench.pass(5000);
    let effects = bench.read_moved(Lsn(1));
    assert!(written(&effects).is_some(), "a position moved");
    bench.handle(Event::WriteEnded(WriteOutcome::Written));
    bench.handle(Event::ReportEnded(Ok(())));
    bench.handle(Event::StoreChanged);
    bench.pass(1000);
    assert_eq!(written(&bench.read_moved(Lsn(2))), None, "positions can wait");
    bench.world.proxy("p1", 1);
    bench.handle(Event::StoreChanged);
    bench.pass(1000);
    assert!(written(&bench.answer_round(|_| WriteOutcome::Written)).is_some(), "a new proxy cannot");
}

fn forced_failure() -> Bench {
    let mut bench = Bench::leading(World::synchronous(2, &[2], &[2]));
    bench.world.in_sync.insert(uid(1), vec![uid(2)]);
    bench.world.keeper(1).status.force_fail = true;
    bench.handle(Event::StoreChanged);
    bench.pass(1000);
    bench.answer_round(|_| WriteOutcome::Written);
    // The next round elects: the standby has shown life since the request.
    bench.handle(Event::StoreChanged);
    bench.pass(1000);
    bench
}

#[test]
fn a_conflict_is_decided_again_at_once_and_nothing_is_forgotten() {
    let mut bench = forced_failure();
    let effects = bench.answer_round(|_| WriteOutcome::Conflict);
    assert!(sayings(&effects).contains(&Saying::DecidingAgain));
    assert_eq!(elections(&effects), 0, "what was not written is not said");
    assert!(reads(&effects));
    assert_eq!(elections(&bench.answer_round(|_| WriteOutcome::Written)), 1);
}

/// A write without an answer may have been made: the next reading says whether it was, and then it is told once.
#[test]
fn a_write_without_an_answer_is_told_when_it_turns_out_to_have_been_made() {
    for was_made in [true, false] {
        let mut bench = forced_failure();
        let effects = bench.read();
        let document = written(&effects).expect("an election");
        let effects = bench.handle(Event::WriteEnded(WriteOutcome::Unknown(failure())));
        assert_eq!(sayings(&effects), [Saying::Trouble(Trouble::WriteUnknown(failure()))]);
        if was_made {
            bench.world.data = document.try_into().unwrap();
        }
        bench.pass(10);
        let effects = bench.answer_round(|_| WriteOutcome::Written);
        assert_eq!(elections(&effects), 1, "was made: {was_made}");
        assert_eq!(bench.world.data.cluster.status.primary, Some(uid(2)));
    }
}

/// What was decided with a write without an answer is remembered, also when the write arrives only after the next reading: otherwise an
/// operator's request would count as taken by a sentinel that no longer leads.
#[test]
fn a_write_without_an_answer_takes_its_memory_along() {
    for arrives_late in [false, true] {
        let mut bench = Bench::leading(World::synchronous(2, &[2], &[2]));
        bench.world.in_sync.insert(uid(1), vec![uid(2)]);
        let primary = bench.world.data.cluster.status.primary.clone();
        let request = FailRequest { uid: "r1".into(), primary, made_for: wall(0), ..FailRequest::default() };
        let status = &mut bench.world.keeper(1).status;
        (status.force_fail, status.fail_request) = (true, Some(request));
        bench.handle(Event::StoreChanged);
        bench.pass(1000);
        let document = written(&bench.read()).expect("the request is taken");
        bench.handle(Event::WriteEnded(WriteOutcome::Unknown(failure())));
        if arrives_late {
            bench.pass(10);
            assert!(written(&bench.read()).is_some(), "it is decided again");
            bench.world.data = document.try_into().unwrap();
            bench.handle(Event::WriteEnded(WriteOutcome::Conflict));
        } else {
            bench.world.data = document.try_into().unwrap();
        }
        let mut elected = 0;
        for _ in 0..3 {
            bench.handle(Event::StoreChanged);
            bench.pass(1000);
            elected += elections(&bench.answer_round(|_| WriteOutcome::Written));
        }
        let outcome = bench.world.keeper(1).status.fail_request.clone().unwrap().outcome;
        assert_eq!((elected, outcome), (1, Some(FailOutcome::Replaced)), "arrives late: {arrives_late}");
    }
}

fn published(effects: &[Effect]) -> Option<SentinelReport> {
    effects.iter().find_map(|effect| match effect {
        Effect::PublishReport { report, .. } => Some((**report).clone()),
        _ => None,
    })
}

/// The store loses the last decision of this sentinel, which nobody else has seen: the sentinel knows, says what it knows for as
/// long as it holds, and holds no longer than until an operator has settled it.
#[test]
fn a_store_that_loses_a_decision_is_noticed_and_what_is_known_of_it_is_published() {
    let mut bench = Bench::leading(World::normal(2, 2).given(|world| world.data.cluster.epoch = Some(7)));
    let before = bench.world.data.clone();
    bench.world.proxy("p1", 1);
    bench.pass(5000);
    let decided: ClusterData =
        written(&bench.answer_round(|_| WriteOutcome::Written)).unwrap().try_into().unwrap();
    assert_eq!(decided.cluster.epoch, Some(8));
    bench.world.data = before;
    bench.pass(5000);
    let effects = bench.answer_round(|_| WriteOutcome::Written);
    assert_eq!(sayings(&effects), [Saying::Held(Hold::DocumentWentBack { epoch: 7, before: 8 })]);
    let newer = NewerData { cluster_uid: "cluster1".into(), epoch: 8, keepers: None };
    assert_eq!(published(&effects).unwrap().newer, Some(newer));
    let served = Served { cluster_uid: "cluster1".into(), epoch: 11, ..Served::default() };
    let mut reading = bench.reading();
    let report = Arc::make_mut(reading.keepers.get_mut(&keeper_uid(2)).unwrap());
    report.activity.as_mut().unwrap().served = Some(served.clone());
    bench.pass(5000);
    let effects = bench.handle(Event::ViewRead(Box::new(Reading { as_of: bench.world.now, ..reading })));
    let keepers = published(&effects).unwrap().newer.unwrap().keepers;
    assert_eq!(keepers, Some([(keeper_uid(2), served)].into()));
    bench.handle(Event::ReportEnded(Ok(())));
    bench.world.data.cluster.epoch = Some(12);
    bench.pass(5000);
    assert_eq!(published(&bench.answer_round(|_| WriteOutcome::Written)).unwrap().newer, None, "settled");
}

#[test]
fn trouble_is_said_once_and_its_end_too() {
    let mut bench = Bench::leading(World::normal(1, 1));
    bench.pass(5000);
    let effects = bench.handle(Event::ViewUnreadable(failure()));
    assert_eq!(sayings(&effects), [Saying::Trouble(Trouble::Unreadable(failure()))]);
    assert!(reads(&bench.pass(5000)));
    assert_eq!(sayings(&bench.handle(Event::ViewUnreadable(failure()))), []);
    bench.pass(5000);
    assert!(sayings(&bench.answer_round(|_| WriteOutcome::Written)).contains(&Saying::TroubleOver));
}

#[test]
fn a_cluster_is_made_where_there_is_none_and_nobody_remembers_one() {
    let spec = ClusterSpec { init_mode: Some(InitMode::New), ..ClusterSpec::default() };
    let setup = Setup { uid: "s1".into(), initial_spec: Some(spec) };
    let mut bench = Bench::new(World::normal(1, 1));
    bench.machine = Machine::new(setup);
    bench.handle(Event::Started);
    let nothing = |bench: &Bench| Box::new(Reading { as_of: bench.world.now, ..Reading::default() });
    let effects = bench.handle(Event::ViewRead(nothing(&bench)));
    let Some(Effect::CompareAndPut { expected: Expected::Absent, .. }) = effects.first() else {
        panic!("{effects:?}")
    };
    let effects = bench.handle(Event::WriteEnded(WriteOutcome::Written));
    assert_eq!(sayings(&effects), [Saying::Created, Saying::AccessLeftOpen]);
    assert!(reads(&effects));
    bench.read();
    bench.pass(5000);
    let effects = bench.handle(Event::ViewRead(nothing(&bench)));
    assert_eq!(sayings(&effects), [Saying::Trouble(Trouble::Vanished("cluster1".into()))], "it was there");
    assert_eq!(written(&effects), None);
}

/// The file of a Stolon user makes the cluster that it made with Stolon; that its own users come from anywhere is said, where nobody has chosen it.
#[test]
fn an_initial_specification_is_taken_as_it_stands_and_open_access_is_named() {
    let new = ClusterSpec { init_mode: Some(InitMode::New), ..ClusterSpec::default() };
    let chosen = |mode| ClusterSpec { default_su_repl_access_mode: Some(mode), ..new.clone() };
    let existing = ClusterSpec { init_mode: Some(InitMode::Existing), ..new.clone() };
    let open = vec![Saying::Created, Saying::AccessLeftOpen];
    let cases = [
        (new.clone(), open),
        (chosen(AccessMode::All), vec![Saying::Created]),
        (chosen(AccessMode::Strict), vec![Saying::Created]),
        (existing, vec![Saying::Created]),
    ];
    for (spec, said) in cases {
        let mut bench = Bench::new(World::normal(1, 1));
        bench.machine = Machine::new(Setup { uid: "s1".into(), initial_spec: Some(spec.clone()) });
        bench.handle(Event::Started);
        let nothing = Reading { as_of: bench.world.now, ..Reading::default() };
        let effects = bench.handle(Event::ViewRead(Box::new(nothing)));
        let Some(Effect::CompareAndPut { document, .. }) = effects.first() else { panic!("{effects:?}") };
        assert_eq!(document.cluster.as_ref().and_then(|it| it.spec.as_ref()), Some(&spec));
        assert_eq!(sayings(&bench.handle(Event::WriteEnded(WriteOutcome::Written))), said, "{spec:?}");
    }
}

/// A sentinel that was started after the loss learns of the cluster from the reports of its keepers.
#[test]
fn no_cluster_is_made_while_keepers_report_to_another_one() {
    let mut bench = Bench::new(World::normal(1, 1));
    bench.handle(Event::Started);
    let reading = Reading { document: None, ..bench.reading() };
    let effects = bench.handle(Event::ViewRead(Box::new(reading)));
    assert_eq!(sayings(&effects), [Saying::Trouble(Trouble::Vanished("cluster1".into()))]);
}

#[test]
fn a_report_that_is_refused_stops_no_decision() {
    let mut bench = Bench::leading(World::normal(2, 2));
    bench.pass(60_000);
    let mut effects = bench.read();
    effects.extend(bench.handle(Event::WriteEnded(WriteOutcome::Written)));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::PublishReport { .. })));
    let effects = bench.handle(Event::ReportEnded(Err(failure())));
    assert_eq!(sayings(&effects), [Saying::ReportRefused(failure())]);
    bench.world.proxy("p1", 1);
    bench.pass(5000);
    assert!(written(&bench.answer_round(|_| WriteOutcome::Written)).is_some());
}

/// What is known is good enough to see that nothing happened; what others must act on is decided on a fresh reading.
#[test]
fn a_decision_on_what_was_known_is_made_again_on_what_the_store_says() {
    let mut bench = Bench::leading(World::normal(2, 2));
    bench.pass(5000);
    bench.answer_round(|_| WriteOutcome::Written);
    let effects = bench.pass(5000);
    assert_eq!(tolerated(&effects), Some((Duration::from_secs(60), Duration::from_millis(7500))));
    bench.world.proxy("p1", 1);
    let old = Reading { as_of: bench.world.now - Duration::from_secs(3), ..bench.reading() };
    let effects = bench.handle(Event::ViewRead(Box::new(old.clone())));
    assert_eq!((age(&effects), written(&effects)), (Some(Duration::ZERO), None));
    // The store says something else: the old reading is forgotten.
    bench.world.proxies.clear();
    assert_eq!(written(&bench.answer_round(|_| WriteOutcome::Written)), None);
    bench.world.proxy("p1", 1);
    bench.pass(5000);
    let effects = bench.answer_round(|_| WriteOutcome::Written);
    assert!(written(&effects).is_some(), "it is fresh already");
}

/// A keeper's silence is judged at its time, and by asking.
#[test]
fn a_verdict_that_is_due_asks_the_store() {
    let mut bench = Bench::leading(World::normal(2, 2));
    let effects = bench.answer_round(|_| WriteOutcome::Written);
    let verdict = wakes_at(&effects).expect("a time");
    assert!(verdict <= bench.world.now + Duration::from_secs(5));
    bench.world.silence_keeper(2);
    let mut asked = Vec::new();
    for _ in 0..8 {
        let effects = bench.pass(5000);
        asked.extend(age(&effects));
        bench.answer_round(|_| WriteOutcome::Written);
    }
    assert!(asked.contains(&Duration::ZERO), "{asked:?}");
}

/// Twenty seconds of a store that tells of every report, read every five seconds without a question. The last words of those who are
/// silent from now on stay there.
fn told_for_a_while(bench: &mut Bench, silent: &[usize]) -> Reading {
    bench.pass(5000);
    let before = bench.reading();
    bench.handle(Event::ViewRead(Box::new(before.clone())));
    bench.handle(Event::WriteEnded(WriteOutcome::Written));
    bench.world.silent.extend(silent.iter().map(|number| keeper_uid(*number)));
    let mut reading = before.clone();
    for _ in 0..4 {
        bench.pass(5000);
        reading = Reading { as_of: before.as_of, ..bench.reading() };
        reading.told.last = bench.world.now;
        for (uid, report) in &before.keepers {
            reading.keepers.entry(uid.clone()).or_insert_with(|| report.clone());
        }
        let effects = bench.handle(Event::ViewRead(Box::new(reading.clone())));
        assert!(!reads(&effects), "what was told is good enough");
        if written(&effects).is_some() {
            bench.handle(Event::WriteEnded(WriteOutcome::Written));
        }
    }
    reading
}

/// What the store tells by itself is a sign of it: the time between two questions is no gap, in which nobody could be heard of.
#[test]
fn a_store_that_tells_leaves_no_gap() {
    let mut bench = Bench::leading(World::normal(2, 2));
    let last = told_for_a_while(&mut bench, &[1]).as_of;
    let mut since = Duration::ZERO;
    while bench.world.data.keepers[&keeper_uid(1)].status.healthy {
        bench.pass(1000);
        bench.answer_round(|_| WriteOutcome::Written);
        since = bench.world.now - last;
        assert!(since < Duration::from_secs(60), "never noticed");
    }
    // One sleep interval, and the time after which a keeper counts as failed.
    assert!(since <= Duration::from_secs(26), "noticed after {since:?}");
}

/// A store that was silent for long and then tells of one report has not yet told of the others.
#[test]
fn a_store_that_was_silent_and_tells_again_is_asked_before_anybody_is_judged() {
    let mut bench = Bench::leading(World::normal(2, 2));
    let reading = told_for_a_while(&mut bench, &[]);
    for _ in 0..8 {
        bench.pass(5000);
        bench.handle(Event::ViewUnreadable(failure()));
    }
    bench.handle(Event::StoreChanged);
    bench.pass(5000);
    let told = Told { last: bench.world.now, ..reading.told };
    let effects = bench.handle(Event::ViewRead(Box::new(Reading { told, ..reading })));
    assert_eq!((age(&effects), written(&effects)), (Some(Duration::ZERO), None));
    bench.world.silent.insert(keeper_uid(1));
    let before = bench.world.data.keepers.clone();
    bench.answer_round(|_| WriteOutcome::Written);
    assert_eq!(
        bench.world.data.keepers[&keeper_uid(1)].status.healthy,
        before[&keeper_uid(1)].status.healthy
    );
}

/// How long one has waited for a store that was away is no measure for its answers: the next outage is no silence of keepers.
#[test]
fn a_store_that_went_away_twice_is_nobodys_silence() {
    let mut bench = Bench::leading(World::normal(2, 2));
    bench.pass(5000);
    let effects = bench.read();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::PublishReport { .. })), "{effects:?}");
    bench.world.silent.insert(keeper_uid(1));
    assert!(reads(&bench.pass(5000)));
    bench.handle(Event::ReportEnded(Err(failure())));
    bench.answer_round(|_| WriteOutcome::Written);
    for _ in 0..3 {
        assert!(reads(&bench.pass(5000)));
        bench.handle(Event::ViewUnreadable(failure()));
    }
    assert!(reads(&bench.pass(5000)));
    bench.world.later(2000);
    bench.answer_round(|_| WriteOutcome::Written);
    assert!(bench.world.data.keepers[&keeper_uid(1)].status.healthy);
}

/// Reports that only say that somebody lives are worth no round, unless a hand-over waits for their positions.
#[test]
fn positions_are_attended_to_while_something_waits_for_them() {
    let attention = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Attend(attention) => Some(*attention),
            _ => None,
        })
    };
    let mut bench = Bench::leading(World::synchronous(2, &[2], &[2]));
    bench.world.in_sync.insert(uid(1), vec![uid(2)]);
    bench.world.keeper(1).status.force_fail = true;
    bench.handle(Event::StoreChanged);
    bench.pass(1000);
    let effects = bench.answer_round(|_| WriteOutcome::Written);
    assert_eq!(attention(&effects), Some(Attention::Positions));
    let mut last = None;
    for _ in 0..6 {
        bench.world.converge();
        bench.handle(Event::StoreChanged);
        bench.pass(1000);
        last = attention(&bench.answer_round(|_| WriteOutcome::Written)).or(last);
    }
    assert_eq!(bench.world.data.cluster.status.primary, Some(uid(2)));
    assert_eq!(last, Some(Attention::Matters), "and not for longer");
}

/// An operator's command is told once, with what it changed; a change that a program of Stolon made, which enters nothing, too. What was
/// there before is no news, and neither is another cluster's.
#[test]
fn what_operators_do_is_told_once() {
    let mut bench = Bench::leading(World::synchronous(2, &[2], &[2]));
    let audited = |bench: &mut Bench| -> Vec<Saying> {
        bench.handle(Event::StoreChanged);
        bench.pass(1000);
        let effects = bench.read();
        let audit = |it: &Saying| matches!(it, Saying::Operated(_) | Saying::SpecificationChanged(_));
        let said = sayings(&effects).into_iter().filter(audit).collect();
        bench.handle(Event::WriteEnded(WriteOutcome::Written));
        said
    };
    assert_eq!(audited(&mut bench), []);
    let entry = HistoryEntry::of_operator(wall(1), "ann@db1".to_owned(), "failkeeper k9", Vec::new());
    bench.world.data.cluster.status.record(entry.clone());
    assert_eq!(audited(&mut bench), [Saying::Operated(entry)]);
    assert_eq!(audited(&mut bench), []);

    bench.world.data.cluster.spec.max_standbys = Some(7);
    let changed = vec!["maxStandbys: (not set) -> 7".to_owned()];
    assert_eq!(audited(&mut bench), [Saying::SpecificationChanged(changed)]);
    assert_eq!(audited(&mut bench), []);

    // What a sentinel takes over from a database that it has just made is no command.
    let initialized = HistoryEntry::of_sentinel(wall(2), "s1".into(), "initialized", Vec::new());
    bench.world.data.cluster.status.record(initialized);
    bench.world.data.cluster.spec.max_standbys = Some(8);
    assert_eq!(audited(&mut bench), []);
}

#[test]
fn an_election_is_entered_into_the_history() {
    let mut bench = forced_failure();
    let effects = bench.answer_round(|_| WriteOutcome::Written);
    let document = written(&effects).expect("an election");
    let history = document.cluster.unwrap().status.history.unwrap();
    let [entry] = history.as_slice() else { panic!("{history:?}") };
    assert_eq!((entry.sentinel.as_str(), entry.what.as_str()), ("s1", "failover"));
    assert!(entry.details.as_ref().unwrap()[0].contains("the operator asked keeper"), "{entry:?}");
}
