//! The rules of the machine, one by one.

mod legacy;
mod names;
mod stopping;
mod vouched;

use std::net::SocketAddr;
use std::time::Duration;

use stolon_model::{
    ClusterData, ClusterDocument, ClusterSpec, ClusterUid, GoDuration, InitMode, Instance, InstanceStatus,
    InstanceUid, Keeper, KeeperUid, ProxyUid, ServerAddress, Timestamp,
};

use super::*;

const OWN: &str = "0a1b2c3d";
const FAREWELL: Duration = Duration::from_secs(2);

/// What the store holds: who is primary, by which generation, and where.
#[derive(Clone)]
struct Held {
    primary: Option<&'static str>,
    generation: i64,
    epoch: Option<u64>,
    host: &'static str,
    enabled: bool,
    timeout: i64,
}

impl Held {
    /// Clients go to `a` at 10.0.0.1, proxyCheckInterval 1s, proxyTimeout 3s.
    fn open() -> Self {
        Held { primary: Some("a"), generation: 5, epoch: None, host: "10.0.0.1", enabled: true, timeout: 3 }
    }

    fn closed(generation: i64) -> Self {
        Held { primary: None, generation, ..Held::open() }
    }

    fn document(&self) -> ClusterDocument {
        let spec = ClusterSpec {
            init_mode: Some(InitMode::New),
            proxy_check_interval: Some(GoDuration::from_seconds(1)),
            proxy_timeout: Some(GoDuration::from_seconds(self.timeout)),
            ..ClusterSpec::default()
        };
        let mut cluster = ClusterData::initial(ClusterUid::from("c"), spec, Timestamp::ZERO);
        cluster.cluster.epoch = self.epoch;
        let status = InstanceStatus {
            listen_address: self.host.to_owned(),
            port: "5432".to_owned(),
            ..InstanceStatus::default()
        };
        for uid in ["a", "b"] {
            let mut instance = Instance { status: status.clone(), ..Instance::default() };
            let keeper = KeeperUid::from(format!("keeper of {uid}"));
            instance.spec.keeper_uid = keeper.clone();
            let known = cluster.keepers.entry(keeper).or_insert_with(Keeper::default);
            known.status.http_address = format!("{uid}:8008");
            cluster.instances.insert(InstanceUid::from(uid), instance);
        }
        cluster.proxy.generation = self.generation;
        cluster.proxy.spec.primary = self.primary.map(InstanceUid::from);
        cluster.proxy.spec.enabled_proxies =
            Some(self.enabled.then(|| ProxyUid::from(OWN)).into_iter().collect());
        cluster.into()
    }
}

/// A machine with a clock and a store that answers when it is told to.
struct Proxy {
    machine: Machine,
    now: Duration,
    wake_at: Option<Duration>,
    name_server: NameServer,
}

#[derive(PartialEq, Eq)]
enum NameServer {
    Answers,
    Silent,
}

impl Proxy {
    fn new() -> Self {
        Proxy::with(OnSilence::StopListening)
    }

    fn with(on_silence: OnSilence) -> Self {
        let policy = Policy { on_silence, drain: Duration::from_secs(10) };
        let machine = Machine::new(ProxyUid::from(OWN), policy);
        Proxy { machine, now: Duration::from_secs(1000), wake_at: None, name_server: NameServer::Answers }
    }

    /// The effects but for the next moment to wake, which is kept.
    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = self.machine.handle(self.now, event);
        self.wake_at = None;
        effects.retain(|effect| match effect {
            Effect::WakeAt(at) => {
                self.wake_at = Some(*at);
                false
            }
            _ => true,
        });
        effects
    }

    fn after(&mut self, milliseconds: u64, event: Event) -> Vec<Effect> {
        self.now += Duration::from_millis(milliseconds);
        self.handle(event)
    }

    fn read(&mut self, held: &Held) -> Vec<Effect> {
        self.handle(Event::DocumentRead(Some(Box::new(held.document()))))
    }

    /// Answer everything that is asked for, at once, with what the store holds; returns all effects.
    fn run(&mut self, held: &Held, mut effects: Vec<Effect>) -> Vec<Effect> {
        let mut all = Vec::new();
        for _ in 0..30 {
            let Some(effect) = (!effects.is_empty()).then(|| effects.remove(0)) else { return all };
            all.push(effect.clone());
            effects.extend(match effect {
                Effect::ReadDocument { .. } => self.read(held),
                Effect::Publish { .. } => self.handle(Event::ReportTaken),
                Effect::Resolve { name, .. } if self.name_server == NameServer::Answers => {
                    self.handle(Event::Resolved(name, vec![SocketAddr::from(([10, 0, 0, 1], 5432))]))
                }
                Effect::Listen => self.handle(Event::Listening),
                Effect::Close(_) => self.handle(Event::Closed),
                Effect::Withdraw { .. } => self.handle(Event::Withdrawn),
                _ => Vec::new(),
            });
        }
        panic!("no end of effects: {all:?}")
    }

    fn tick(&mut self, held: &Held) -> Vec<Effect> {
        self.change(0, held)
    }

    fn change(&mut self, milliseconds: u64, held: &Held) -> Vec<Effect> {
        self.now += Duration::from_millis(milliseconds);
        let effects = self.handle(Event::ClusterChanged);
        self.run(held, effects)
    }

    /// Sends clients to `a` at this moment.
    fn forwarding(held: &Held) -> Self {
        let mut proxy = Proxy::new();
        let first = proxy.handle(Event::TimePassed);
        let effects = proxy.run(held, first);
        assert_eq!(opened(&effects), ["a"], "{effects:?}");
        proxy
    }

    /// The timer rings for the next check.
    fn check(&mut self) -> Vec<Effect> {
        self.now = self.wake_at.expect("a next check");
        self.handle(Event::TimePassed)
    }

    fn deadline(&self, effects: &[Effect]) -> Option<Duration> {
        effects.iter().rev().find_map(|effect| match effect {
            Effect::Open { deadline, .. } | Effect::MoveDeadline(deadline) => {
                Some(deadline.saturating_sub(self.now))
            }
            _ => None,
        })
    }
}

fn not_enabled() -> ClosedBecause {
    let address = ServerAddress { host: "10.0.0.1".into(), port: "5432".into() };
    ClosedBecause::NotEnabled { to: Upstream::Primary("a".into()), address }
}

fn opened(effects: &[Effect]) -> Vec<String> {
    let open = |effect: &Effect| match effect {
        Effect::Open { destination, .. } => Some(match &destination.to {
            Upstream::Primary(primary) => primary.to_string(),
            Upstream::Legacy => "legacy".to_owned(),
        }),
        _ => None,
    };
    effects.iter().filter_map(open).collect()
}

fn closed(effects: &[Effect]) -> Vec<ClosedBecause> {
    let close = |effect: &Effect| match effect {
        Effect::Close(why) => Some(why.clone()),
        _ => None,
    };
    effects.iter().filter_map(close).collect()
}

fn claims(effects: &[Effect]) -> Vec<(i64, u64)> {
    let claim = |effect: &Effect| match effect {
        Effect::Publish { claim, .. } => Some((claim.generation, claim.timeout.as_secs())),
        _ => None,
    };
    effects.iter().filter_map(claim).collect()
}

fn reads(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::ReadDocument { .. })).count()
}

fn failures(effects: &[Effect]) -> Vec<(Check, u128)> {
    let failure = |effect: &Effect| match effect {
        Effect::Say(Notice::CheckFailed { check, retry_in }) => Some((*check, retry_in.as_millis())),
        _ => None,
    };
    effects.iter().filter_map(failure).collect()
}

#[test]
fn a_proxy_that_starts_publishes_and_reads_again_before_it_opens() {
    let mut proxy = Proxy::new();
    let effects = proxy.handle(Event::TimePassed);
    assert_eq!((reads(&effects), effects.len()), (1, 1), "nothing can be published yet: {effects:?}");
    let effects = proxy.read(&Held::open());
    assert_eq!(claims(&effects), [(5, 3)]);
    assert_eq!(opened(&effects), [""; 0]);
    let effects = proxy.after(100, Event::ReportTaken);
    assert_eq!(reads(&effects), 1);
    assert_eq!(opened(&effects), [""; 0]);
    proxy.now += Duration::from_millis(100);
    let effects = proxy.read(&Held::open());
    assert_eq!(opened(&effects), ["a"]);
    assert_eq!(proxy.deadline(&effects), Some(Duration::from_millis(2800)), "from the publication's start");
}

#[test]
fn what_has_changed_meanwhile_is_not_opened() {
    for (held, expected) in [
        (Held::closed(6), ClosedBecause::NoPrimary),
        (Held { enabled: false, generation: 6, ..Held::open() }, not_enabled()),
    ] {
        let mut proxy = Proxy::new();
        proxy.handle(Event::TimePassed);
        proxy.read(&Held::open());
        proxy.handle(Event::ReportTaken);
        let effects = proxy.read(&held);
        assert_eq!(opened(&effects), [""; 0]);
        assert!(effects.contains(&Effect::Say(Notice::SentNowhere(expected))), "{effects:?}");
    }
}

#[test]
fn the_steady_state_costs_one_round_trip() {
    let mut proxy = Proxy::forwarding(&Held::open());
    let effects = proxy.check();
    assert_eq!((reads(&effects), claims(&effects)), (1, vec![(5, 3)]), "both at once: {effects:?}");
    proxy.now += Duration::from_millis(200);
    assert_eq!(proxy.read(&Held::open()), []);
    let effects = proxy.handle(Event::ReportTaken);
    let deadline = proxy.now + Duration::from_millis(2800);
    assert_eq!(
        effects,
        [Effect::MoveDeadline(deadline), Effect::Measure(Measurement::CheckSucceeded)],
        "the deadline counts from the start of both"
    );
}

#[test]
fn a_change_that_means_nothing_to_a_proxy_publishes_nothing() {
    let mut proxy = Proxy::forwarding(&Held::open());
    let effects = proxy.change(100, &Held::open());
    assert_eq!((reads(&effects), claims(&effects)), (1, Vec::new()), "{effects:?}");
}

#[test]
fn a_change_while_the_data_are_read_is_read_too() {
    let mut proxy = Proxy::forwarding(&Held::open());
    assert_eq!(reads(&proxy.handle(Event::ClusterChanged)), 1);
    assert_eq!(reads(&proxy.handle(Event::ClusterChanged)), 0);
    let effects = proxy.read(&Held::open());
    assert_eq!(reads(&effects), 1);
    let effects = proxy.run(&Held::closed(6), effects);
    assert_eq!(closed(&effects), [ClosedBecause::NoPrimary]);
}

#[test]
fn a_generation_is_acknowledged_when_the_last_connection_has_ended() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.handle(Event::ClusterChanged);
    let effects = proxy.read(&Held::closed(6));
    assert_eq!(closed(&effects), [ClosedBecause::NoPrimary]);
    assert_eq!(claims(&effects), []);
    let effects = proxy.after(1500, Event::TimePassed);
    assert_eq!(claims(&effects), [], "not even as a sign of life");
    let effects = proxy.handle(Event::Closed);
    assert_eq!(claims(&effects), [(6, 3)]);
}

#[test]
fn after_a_fence_one_reading_opens_the_next_primary() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.change(100, &Held::closed(6));
    proxy.now += Duration::from_millis(700);
    proxy.handle(Event::ClusterChanged);
    let effects = proxy.read(&Held { primary: Some("b"), generation: 7, ..Held::open() });
    assert_eq!(opened(&effects), ["b"]);
    assert_eq!(claims(&effects), [(7, 3)]);
    assert_eq!(proxy.deadline(&effects), Some(Duration::from_millis(2300)), "by the last acknowledgement");
}

#[test]
fn straight_to_another_primary_everything_is_closed_first() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.handle(Event::ClusterChanged);
    let effects = proxy.read(&Held { primary: Some("b"), generation: 7, ..Held::open() });
    assert_eq!(closed(&effects), [ClosedBecause::Moved]);
    assert_eq!((opened(&effects).len(), claims(&effects).len()), (0, 0), "{effects:?}");
    let effects = proxy.handle(Event::Closed);
    assert_eq!((opened(&effects), claims(&effects)), (vec!["b".to_owned()], vec![(7, 3)]));
}

#[test]
fn sessions_live_through_generations_that_change_nothing_for_them() {
    let mut proxy = Proxy::forwarding(&Held::open());
    let effects = proxy.change(100, &Held { generation: 6, ..Held::open() });
    assert_eq!((closed(&effects), claims(&effects)), (Vec::new(), vec![(6, 3)]));
}

#[test]
fn everything_ends_when_no_check_succeeds_within_the_timeout() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.check();
    proxy.now += Duration::from_secs(2);
    let effects = proxy.handle(Event::TimePassed);
    assert_eq!(closed(&effects), [ClosedBecause::Expired], "also while both requests are under way");
    assert!(effects.contains(&Effect::StopListening));
    proxy.handle(Event::Closed);
    proxy.now += Duration::from_secs(60);
    let effects = proxy.read(&Held::open());
    assert_eq!(opened(&effects), [""; 0], "what was read before is too old: {effects:?}");
    let effects = proxy.handle(Event::ReportTaken);
    let effects = [effects, proxy.check()].concat();
    let effects = proxy.run(&Held::open(), effects);
    assert_eq!(opened(&effects), ["a"]);
}

#[test]
fn a_frozen_process_closes_before_it_does_anything_else() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.check();
    proxy.now += Duration::from_secs(20);
    let effects = proxy.read(&Held::open());
    assert_eq!(effects[0], Effect::Close(ClosedBecause::Expired));
    assert_eq!(opened(&effects), [""; 0]);
}

#[test]
fn silence_leaves_the_listener_where_that_is_wanted() {
    let mut proxy = Proxy::with(OnSilence::KeepListening);
    let first = proxy.handle(Event::TimePassed);
    proxy.run(&Held::open(), first);
    let effects = proxy.after(3000, Event::TimePassed);
    assert_eq!(closed(&effects), [ClosedBecause::Expired]);
    assert!(!effects.contains(&Effect::StopListening));
}

#[test]
fn failed_checks_are_repeated_after_growing_pauses() {
    let mut proxy = Proxy::new();
    proxy.handle(Event::TimePassed);
    for pause in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
        assert_eq!(failures(&proxy.handle(Event::DocumentUnreadable)), [(Check::Read, pause)]);
        assert_eq!(reads(&proxy.check()), 1);
    }
    let mut proxy = Proxy::forwarding(&Held::open());
    for pause in [100, 200, 400] {
        proxy.check();
        assert_eq!(failures(&proxy.handle(Event::ReportRefused)), [(Check::Publish, pause)]);
        proxy.read(&Held::open());
    }
    proxy.check();
    proxy.handle(Event::ReportTaken);
    proxy.read(&Held::open());
    proxy.check();
    assert_eq!(failures(&proxy.handle(Event::DocumentUnreadable)), [(Check::Read, 100)], "after a success");
}

/// At half a second a round trip, and two of them for a report, with a timeout of three seconds.
#[test]
fn a_slow_store_closes_nothing() {
    let held = Held::open();
    let mut proxy = Proxy::new();
    let mut pending: Vec<(Duration, Event)> = Vec::new();
    let mut effects = proxy.handle(Event::TimePassed);
    let end = proxy.now + Duration::from_secs(120);
    let mut open_since = None;
    while proxy.now < end {
        assert_eq!(closed(&effects), [], "at {:?}", proxy.now);
        if !opened(&effects).is_empty() {
            open_since = Some(proxy.now);
        }
        for effect in &effects {
            match effect {
                Effect::ReadDocument { limit } => {
                    assert!(*limit > Duration::from_millis(500));
                    let answer = Event::DocumentRead(Some(Box::new(held.document())));
                    pending.push((proxy.now + Duration::from_millis(500), answer));
                }
                Effect::Publish { limit, .. } => {
                    let (after, answer) = match *limit > Duration::from_millis(1000) {
                        true => (Duration::from_millis(1000), Event::ReportTaken),
                        false => (*limit, Event::ReportRefused),
                    };
                    pending.push((proxy.now + after, answer));
                }
                Effect::Listen => pending.push((proxy.now, Event::Listening)),
                _ => {}
            }
        }
        pending.sort_by_key(|(at, _)| *at);
        let wake_at = proxy.wake_at.unwrap_or(end);
        effects = match pending.first() {
            Some((at, _)) if *at <= wake_at => {
                let (at, event) = pending.remove(0);
                proxy.now = at;
                proxy.handle(event)
            }
            _ => {
                proxy.now = wake_at;
                proxy.handle(Event::TimePassed)
            }
        };
    }
    let open_since = open_since.expect("open");
    assert!(end - open_since > Duration::from_secs(110), "open since {open_since:?}");
}

#[test]
fn where_the_store_is_slow_the_next_check_begins_early_enough() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.check();
    proxy.now += Duration::from_millis(600);
    proxy.read(&Held::open());
    proxy.handle(Event::ReportTaken);
    assert_eq!(proxy.wake_at, Some(proxy.now), "2.4 s are left, and four times what was seen are needed");
}

#[test]
fn a_lowered_timeout_holds_before_it_is_published_however_that_ends() {
    let mut proxy = Proxy::forwarding(&Held { timeout: 3600, ..Held::open() });
    proxy.now += Duration::from_millis(500);
    proxy.handle(Event::ClusterChanged);
    let effects = proxy.read(&Held { timeout: 2, ..Held::open() });
    assert_eq!(claims(&effects), [(5, 2)], "exactly what holds");
    let moved = Effect::MoveDeadline(proxy.now + Duration::from_secs(2));
    let place = |wanted: &dyn Fn(&Effect) -> bool| effects.iter().position(wanted).unwrap();
    assert!(place(&|effect| *effect == moved) < place(&|effect| matches!(effect, Effect::Publish { .. })));
    proxy.handle(Event::ReportRefused);
    let effects = proxy.after(2000, Event::TimePassed);
    assert_eq!(closed(&effects), [ClosedBecause::Expired]);
}

#[test]
fn a_raised_timeout_holds_only_when_the_sentinel_knows_of_it() {
    let mut proxy = Proxy::forwarding(&Held::open());
    let raised = Held { timeout: 60, ..Held::open() };
    proxy.handle(Event::ClusterChanged);
    assert_eq!(claims(&proxy.read(&raised)), [(5, 60)]);
    proxy.handle(Event::ReportRefused);
    let effects = proxy.after(3000, Event::TimePassed);
    assert_eq!(closed(&effects), [ClosedBecause::Expired], "nobody has confirmed the longer one");

    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.change(0, &raised);
    let effects = proxy.check();
    let effects = proxy.run(&raised, effects);
    assert_eq!(proxy.deadline(&effects), Some(Duration::from_secs(60)));
}

#[test]
fn older_cluster_data_open_nothing_and_close_nothing() {
    for (newer, older) in [
        (Held::open(), Held { primary: Some("b"), generation: 4, ..Held::open() }),
        (Held::open(), Held::closed(4)),
        (
            Held { epoch: Some(8), ..Held::open() },
            Held { primary: Some("b"), epoch: Some(7), generation: 9, ..Held::open() },
        ),
    ] {
        let mut proxy = Proxy::forwarding(&newer);
        let effects = proxy.tick(&older);
        assert_eq!((closed(&effects), opened(&effects).len()), (Vec::new(), 0), "{effects:?}");
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Say(Notice::OlderThanSeen { .. }))));
        assert_eq!(claims(&effects), [(NOTHING, 3)], "no sentinel may take that for an acknowledgement");
        for _ in 0..10 {
            let effects = proxy.check();
            let effects = proxy.run(&older, effects);
            assert_eq!((closed(&effects), claims(&effects)), (Vec::new(), vec![(NOTHING, 3)]));
        }
        let effects = proxy.tick(&newer);
        assert_eq!((closed(&effects), claims(&effects)), (Vec::new(), vec![(5, 3)]));
    }
}

#[test]
fn a_gate_that_is_shut_stays_shut_on_older_cluster_data() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.change(100, &Held::closed(6));
    let older = Held { generation: 5, ..Held::open() };
    let effects = proxy.change(100, &older);
    assert_eq!((opened(&effects).len(), claims(&effects)), (0, vec![(5, 3)]), "{effects:?}");
    let why = |effect: &Effect| {
        matches!(effect, Effect::Say(Notice::SentNowhere(ClosedBecause::OlderThanSeen { .. })))
    };
    assert!(effects.iter().any(why));
    let effects = proxy.change(100, &Held { generation: 7, ..Held::open() });
    assert_eq!(opened(&effects), ["a"]);
}

#[test]
fn an_earlier_state_that_somebody_has_accepted_is_followed() {
    let mut proxy = Proxy::forwarding(&Held { epoch: Some(8), ..Held::open() });
    let accepted = Held { primary: Some("b"), epoch: Some(9), generation: 2, ..Held::open() };
    let effects = proxy.tick(&accepted);
    assert_eq!((closed(&effects), opened(&effects)), (vec![ClosedBecause::Moved], vec!["b".to_owned()]));
}

#[test]
fn bad_cluster_data_close_everything_and_are_read_again() {
    let mut proxy = Proxy::forwarding(&Held::open());
    let document = ClusterDocument { format_version: 2, ..Held::open().document() };
    proxy.handle(Event::ClusterChanged);
    let effects = proxy.handle(Event::DocumentRead(Some(Box::new(document))));
    assert_eq!(closed(&effects).len(), 1);
    let effects = proxy.handle(Event::Closed);
    assert_eq!((claims(&effects), failures(&effects)), (Vec::new(), vec![(Check::BadClusterData, 100)]));
}

#[test]
fn without_a_cluster_clients_go_nowhere_and_nothing_is_acknowledged() {
    let mut proxy = Proxy::new();
    proxy.handle(Event::TimePassed);
    let effects = proxy.handle(Event::DocumentRead(None));
    assert!(effects.contains(&Effect::Listen));
    assert!(effects.contains(&Effect::Measure(Measurement::CheckSucceeded)), "{effects:?}");
    assert_eq!(claims(&effects), []);
}

#[test]
fn a_port_that_is_taken_is_tried_again_and_delays_no_acknowledgement() {
    let mut proxy = Proxy::new();
    proxy.handle(Event::TimePassed);
    let effects = proxy.read(&Held::closed(5));
    assert!(effects.contains(&Effect::Listen));
    assert_eq!(claims(&effects), [(5, 3)]);
    assert_eq!(failures(&proxy.handle(Event::ListenFailed)).len(), 1);
    proxy.handle(Event::ReportTaken);
    let effects = proxy.check();
    let effects = proxy.run(&Held::closed(5), effects);
    assert!(effects.contains(&Effect::Listen));
}
