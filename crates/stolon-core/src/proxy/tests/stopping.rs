//! The end of a proxy: it drains, and withdraws its report last.

use super::*;

#[test]
fn a_stop_drains_and_withdraws_the_report_last() {
    let mut proxy = Proxy::forwarding(&Held::open());
    let effects = proxy.handle(Event::StopRequested);
    let limit = Duration::from_secs(10);
    assert_eq!(effects, [Effect::StopListening, Effect::Say(Notice::Draining(limit))]);
    let effects = proxy.check();
    let effects = proxy.run(&Held::open(), effects);
    assert!(proxy.deadline(&effects).is_some(), "checks go on meanwhile");
    let effects = proxy.handle(Event::ConnectionsEnded);
    assert_eq!(closed(&effects), [ClosedBecause::Stopping]);
    let effects = proxy.handle(Event::Closed);
    assert_eq!(effects, [Effect::Withdraw { limit: FAREWELL }]);
    assert_eq!(proxy.handle(Event::Withdrawn), [Effect::Exit]);
    assert_eq!(proxy.handle(Event::ClusterChanged), []);
}

#[test]
fn a_drain_ends_by_its_limit_by_a_second_request_and_with_the_primary() {
    let limit = |proxy: &mut Proxy| {
        let mut effects = Vec::new();
        while effects.last() != Some(&Effect::Exit) {
            let next = proxy.check();
            effects.extend(proxy.run(&Held::open(), next));
        }
        effects
    };
    let second_request = |proxy: &mut Proxy| {
        let effects = proxy.handle(Event::StopRequested);
        proxy.run(&Held::open(), effects)
    };
    let primary = |proxy: &mut Proxy| proxy.tick(&Held::closed(6));
    let endings: [(&str, &dyn Fn(&mut Proxy) -> Vec<Effect>); 3] =
        [("limit", &limit), ("second request", &second_request), ("primary", &primary)];
    for (what, ending) in endings {
        let mut proxy = Proxy::forwarding(&Held::open());
        let start = proxy.now;
        proxy.handle(Event::StopRequested);
        let effects = ending(&mut proxy);
        assert!(effects.contains(&Effect::Withdraw { limit: FAREWELL }), "{what}: {effects:?}");
        assert_eq!(effects.last(), Some(&Effect::Exit), "{what}");
        assert!(proxy.now - start <= Duration::from_secs(10), "{what}");
    }
}

#[test]
fn a_publication_under_way_is_waited_for_before_the_withdrawal() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.check();
    proxy.handle(Event::StopRequested);
    proxy.handle(Event::StopRequested);
    assert_eq!(proxy.handle(Event::Closed), []);
    assert_eq!(proxy.handle(Event::ReportTaken), [Effect::Withdraw { limit: FAREWELL }]);

    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.check();
    proxy.handle(Event::StopRequested);
    proxy.handle(Event::StopRequested);
    proxy.handle(Event::Closed);
    assert_eq!(
        proxy.after(2000, Event::TimePassed),
        [Effect::Withdraw { limit: FAREWELL }],
        "but not for ever"
    );
}

#[test]
fn a_stop_while_the_listener_opens_leaves_none() {
    let mut proxy = Proxy::new();
    proxy.handle(Event::TimePassed);
    proxy.read(&Held::closed(5));
    assert!(proxy.handle(Event::StopRequested).contains(&Effect::StopListening));
    assert!(proxy.handle(Event::Listening).contains(&Effect::StopListening));
}
