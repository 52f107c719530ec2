//! Addresses that are names: lookups that fail, hang, or give another address.

use super::*;

#[test]
fn a_name_server_that_fails_cuts_nobody() {
    let held = Held { host: "db.example", ..Held::open() };
    let mut proxy = Proxy::forwarding(&held);
    for _ in 0..100 {
        let effects = proxy.check();
        assert_eq!((closed(&effects), opened(&effects).len()), (Vec::new(), 0));
        for effect in effects {
            match effect {
                Effect::ReadDocument { .. } => _ = proxy.read(&held),
                Effect::Publish { .. } => _ = proxy.handle(Event::ReportTaken),
                Effect::Resolve { name, .. } => {
                    let effects = proxy.handle(Event::ResolveFailed(name));
                    let keeps = Some(SocketAddr::from(([10, 0, 0, 1], 5432)));
                    assert!(
                        effects.iter().any(|effect| matches!(
                            effect,
                            Effect::Say(Notice::LookupFailed { keeps: kept, .. }) if *kept == keeps
                        )),
                        "{effects:?}"
                    );
                }
                _ => {}
            }
        }
    }
    assert!(proxy.now > Duration::from_secs(1009));
}

#[test]
fn a_lookup_that_hangs_delays_no_check() {
    let held = Held { host: "db.example", ..Held::open() };
    let mut proxy = Proxy::forwarding(&held);
    proxy.name_server = NameServer::Silent;
    for _ in 0..10 {
        let effects = proxy.check();
        let effects = proxy.run(&held, effects);
        assert_eq!(closed(&effects), []);
    }
}

#[test]
fn a_name_without_an_address_opens_when_it_has_one() {
    let held = Held { host: "db.example", ..Held::open() };
    let mut proxy = Proxy::new();
    proxy.name_server = NameServer::Silent;
    let first = proxy.handle(Event::TimePassed);
    let effects = proxy.run(&held, first);
    assert_eq!((opened(&effects).len(), claims(&effects)), (0, vec![(5, 3)]), "{effects:?}");
    let name = ServerAddress { host: "db.example".to_owned(), port: "5432".to_owned() };
    let effects = proxy.handle(Event::Resolved(name, vec![SocketAddr::from(([10, 0, 0, 9], 5432))]));
    assert_eq!(opened(&effects), ["a"], "{effects:?}");
}

#[test]
fn a_name_with_another_address_moves_its_clients() {
    let held = Held { host: "db.example", ..Held::open() };
    let mut proxy = Proxy::forwarding(&held);
    let effects = proxy.check();
    let Some(Effect::Resolve { name, .. }) =
        effects.iter().find(|effect| matches!(effect, Effect::Resolve { .. })).cloned()
    else {
        panic!("{effects:?}")
    };
    proxy.read(&held);
    proxy.handle(Event::ReportTaken);
    let effects = proxy.handle(Event::Resolved(name, vec![SocketAddr::from(([10, 0, 0, 9], 5432))]));
    assert_eq!(closed(&effects), [ClosedBecause::Moved]);
    let effects = proxy.handle(Event::Closed);
    assert_eq!(opened(&effects), ["a"]);
}
