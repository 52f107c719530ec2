//! A store that is away, and a keeper that vouches for its primary (docs/design/012-lease.md). `proxyTimeout` is 3s.

use stolon_model::Voucher;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);

fn voucher(instance: &str, remaining: Duration) -> Option<Voucher> {
    Some(Voucher { instance: instance.into(), remaining: remaining.into() })
}

/// What was done, and when.
type Done = Vec<(Duration, Effect)>;

impl Proxy {
    /// Time passes, the store answers nobody, and the keeper answers with this at once.
    fn without_store(&mut self, lasts: Duration, voucher: &Option<Voucher>) -> Done {
        let end = self.now + lasts;
        let mut done = Vec::new();
        while let Some(at) = self.wake_at.filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let mut effects = self.handle(Event::TimePassed);
            while let Some(effect) = (!effects.is_empty()).then(|| effects.remove(0)) {
                done.push((self.now, effect.clone()));
                effects.extend(match effect {
                    Effect::ReadDocument { .. } => self.handle(Event::DocumentUnreadable),
                    Effect::Publish { .. } => self.handle(Event::ReportRefused),
                    Effect::AskVoucher { .. } => self.handle(Event::Vouched(voucher.clone())),
                    Effect::Close(_) => self.handle(Event::Closed),
                    _ => Vec::new(),
                });
            }
        }
        self.now = end;
        done
    }
}

fn first(done: &Done, wanted: impl Fn(&Effect) -> bool) -> Option<Duration> {
    done.iter().find(|(_, effect)| wanted(effect)).map(|(at, _)| *at)
}

fn is_end(effect: &Effect) -> bool {
    matches!(effect, Effect::Close(_) | Effect::StopListening)
}

fn is_question(effect: &Effect) -> bool {
    matches!(effect, Effect::AskVoucher { .. })
}

#[test]
fn nobody_is_asked_while_the_store_answers() {
    let mut proxy = Proxy::forwarding(&Held::open());
    for _ in 0..50 {
        let effects = proxy.check();
        let effects = proxy.run(&Held::open(), effects);
        assert!(!effects.iter().any(is_question), "{effects:?}");
    }
}

#[test]
fn clients_go_on_for_as_long_as_the_keeper_vouches() {
    let mut proxy = Proxy::forwarding(&Held::open());
    let done = proxy.without_store(600 * SECOND, &voucher("a", 2 * SECOND));
    assert_eq!(first(&done, is_end), None);
    let told = |effect: &Effect| *effect == Effect::Say(Notice::VouchedFor);
    assert_eq!(done.iter().filter(|(_, effect)| told(effect)).count(), 1, "once");
    let questions = done.iter().filter(|(_, effect)| is_question(effect)).count();
    assert!((600..3_000).contains(&questions), "{questions}");
    let silent = proxy.now;
    let done = proxy.without_store(60 * SECOND, &None);
    let closed = first(&done, is_end).expect("an end");
    assert!(closed <= silent + 2 * SECOND, "{:?} later", closed - silent);
    assert!(first(&done, |effect| *effect == Effect::StopListening).is_some());
    assert_eq!(first(&done, |effect| matches!(effect, Effect::Open { .. })), None);
}

/// The one who vouched may have counted from any moment after it was asked.
#[test]
fn a_voucher_counts_from_the_question_and_never_for_longer_than_the_timeout() {
    for (remaining, expected) in [(2 * SECOND, 2 * SECOND), (60 * SECOND, TIMEOUT)] {
        let mut proxy = Proxy::forwarding(&Held::open());
        proxy.check();
        let effects = proxy.handle(Event::DocumentUnreadable);
        assert!(effects.iter().any(is_question), "{effects:?}");
        let asked = proxy.now;
        let effects = proxy.after(1_900, Event::Vouched(voucher("a", remaining)));
        let until = proxy.deadline(&effects).map(|left| proxy.now + left);
        // The store's word alone would end before: three seconds after a check that was a second ago.
        assert_eq!(until, Some(asked + expected).filter(|until| *until > asked + 2 * SECOND), "{effects:?}");
    }
}

#[test]
fn a_voucher_for_somebody_else_counts_for_nothing() {
    let mut proxy = Proxy::forwarding(&Held::open());
    let begun = proxy.now;
    let done = proxy.without_store(60 * SECOND, &voucher("b", 2 * SECOND));
    assert!(first(&done, is_end).expect("an end") <= begun + TIMEOUT);
}

#[test]
fn a_voucher_opens_nothing() {
    let mut proxy = Proxy::new();
    proxy.handle(Event::TimePassed);
    proxy.read(&Held::closed(5));
    let done = proxy.without_store(60 * SECOND, &voucher("a", 2 * SECOND));
    assert_eq!(first(&done, |effect| is_question(effect) || matches!(effect, Effect::Open { .. })), None);
}

#[test]
fn a_frozen_process_closes_when_its_voucher_is_over() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.without_store(30 * SECOND, &voucher("a", 2 * SECOND));
    let effects = proxy.after(3_000, Event::Vouched(voucher("a", 2 * SECOND)));
    assert_eq!(closed(&effects), [ClosedBecause::Expired]);
}

/// The sentinel may have taken it for dead meanwhile.
#[test]
fn when_the_store_is_back_nobody_is_cut() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.without_store(600 * SECOND, &voucher("a", 2 * SECOND));
    let forgotten = Held { enabled: false, generation: 6, ..Held::open() };
    let effects = proxy.change(1, &forgotten);
    assert_eq!((closed(&effects).len(), claims(&effects)), (0, vec![(6, 3)]), "{effects:?}");
    let admitted = Held { generation: 7, ..Held::open() };
    let effects = proxy.change(100, &admitted);
    assert_eq!(closed(&effects), []);
    assert!(proxy.deadline(&effects).is_some_and(|left| left > 2 * SECOND), "{effects:?}");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Say(Notice::Forwarding(_)))), "{effects:?}");
    let effects = proxy.check();
    assert!(!proxy.run(&admitted, effects).iter().any(is_question), "nobody has to vouch any more");
}

#[test]
fn a_proxy_that_is_not_admitted_again_closes_at_the_end_of_its_voucher() {
    let mut proxy = Proxy::forwarding(&Held::open());
    proxy.without_store(600 * SECOND, &voucher("a", 2 * SECOND));
    let back = proxy.now;
    let forgotten = Held { enabled: false, generation: 6, ..Held::open() };
    let mut closes = None;
    proxy.change(1, &forgotten);
    while closes.is_none() && proxy.now < back + 30 * SECOND {
        let effects = proxy.check();
        let effects = proxy.run(&forgotten, effects);
        closes = (!closed(&effects).is_empty()).then_some(proxy.now);
    }
    assert!(closes.expect("an end") <= back + 2 * SECOND);
}

#[test]
fn whoever_reads_of_another_primary_closes_whatever_was_vouched() {
    for held in [Held::closed(6), Held { primary: Some("b"), generation: 6, ..Held::open() }] {
        let mut proxy = Proxy::forwarding(&Held::open());
        proxy.without_store(30 * SECOND, &voucher("a", 2 * SECOND));
        assert_eq!(closed(&proxy.change(1, &held)).len(), 1);
    }
}
