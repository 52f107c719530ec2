//! The legacy server of a migration is a destination as any other one, and only by the record of the migration.

use stolon_model::{Migration, MigrationMethod, MigrationStage, Voucher};

use super::*;

fn address() -> ServerAddress {
    ServerAddress { host: "10.0.0.9".to_owned(), port: "5432".to_owned() }
}

/// Proxies are told to go to the legacy server, while a migration of the logical method is at this stage.
fn document(stage: MigrationStage, generation: i64, enabled: bool) -> ClusterDocument {
    let held = Held { primary: None, generation, enabled, ..Held::open() };
    let mut document = held.document();
    document.proxy.as_mut().unwrap().spec.legacy = Some(address());
    document.cluster.as_mut().unwrap().status.migration = Some(Migration {
        method: Some(MigrationMethod::Logical),
        stage: Some(stage),
        legacy_address: Some(address()),
        ..Migration::default()
    });
    document
}

impl Proxy {
    /// Reads this document and publishes until nothing is asked for any more; returns all effects.
    fn shown(&mut self, document: &ClusterDocument, event: Event) -> Vec<Effect> {
        let (mut all, mut effects) = (Vec::new(), self.handle(event));
        for _ in 0..30 {
            let Some(effect) = (!effects.is_empty()).then(|| effects.remove(0)) else { return all };
            all.push(effect.clone());
            effects.extend(match effect {
                Effect::ReadDocument { .. } => {
                    self.handle(Event::DocumentRead(Some(Box::new(document.clone()))))
                }
                Effect::Publish { .. } => self.handle(Event::ReportTaken),
                Effect::Listen => self.handle(Event::Listening),
                Effect::Close(_) => self.handle(Event::Closed),
                _ => Vec::new(),
            });
        }
        panic!("no end of effects: {all:?}")
    }

    fn at_legacy() -> Proxy {
        let mut proxy = Proxy::new();
        let effects = proxy.shown(&document(MigrationStage::Following, 5, true), Event::TimePassed);
        assert_eq!(opened(&effects), ["legacy"], "{effects:?}");
        assert_eq!(claims(&effects).last(), Some(&(5, 3)));
        proxy
    }
}

#[test]
fn clients_go_to_the_legacy_server_only_while_the_record_of_the_migration_says_so() {
    let own = ProxyUid::from(OWN);
    let goes = |document: &ClusterDocument| match route(Some(document), &own).route {
        Route::Open { to, address, vouched_at, .. } => {
            assert_eq!((to, vouched_at), (Upstream::Legacy, None));
            Some(address)
        }
        Route::Closed { .. } => None,
    };
    let following = document(MigrationStage::Following, 5, true);
    assert_eq!(goes(&following), Some(address()));
    assert_eq!(goes(&document(MigrationStage::Following, 5, false)), None, "it is not enabled");
    for stage in [
        MigrationStage::Switching,
        MigrationStage::TakingBack,
        MigrationStage::Promoting,
        MigrationStage::Switched,
        MigrationStage::RollingBack,
        MigrationStage::RolledBack,
        MigrationStage::Aborting,
        MigrationStage::Finishing,
        MigrationStage::Unknown("later".to_owned()),
    ] {
        assert_eq!(goes(&document(stage.clone(), 5, true)), None, "{stage:?}");
    }
    let migration = |change: fn(&mut Option<Migration>)| {
        let mut document = following.clone();
        change(&mut document.cluster.as_mut().unwrap().status.migration);
        goes(&document)
    };
    assert_eq!(migration(|it| *it = None), None, "the record is lost");
    assert_eq!(migration(|it| it.as_mut().unwrap().legacy_address = None), None);
    assert_eq!(migration(|it| it.as_mut().unwrap().rehearsal = true), None);
    let elsewhere = |it: &mut Option<Migration>| {
        it.as_mut().unwrap().legacy_address =
            Some(ServerAddress { host: "10.0.0.8".to_owned(), ..address() });
    };
    assert_eq!(migration(elsewhere), None, "the sentinel has not moved them yet");
    let mut both = following.clone();
    both.proxy.as_mut().unwrap().spec.primary = Some("a".into());
    let Route::Open { to, .. } = route(Some(&both), &own).route else { panic!("open") };
    assert_eq!(to, Upstream::Primary("a".into()), "whoever is primary comes first");
}

#[test]
fn from_the_legacy_server_to_the_cluster_everything_is_closed_first() {
    let mut proxy = Proxy::at_legacy();
    proxy.handle(Event::ClusterChanged);
    let effects = proxy.read(&Held { generation: 7, ..Held::open() });
    assert_eq!(closed(&effects), [ClosedBecause::Moved]);
    assert_eq!((opened(&effects).len(), claims(&effects).len()), (0, 0), "{effects:?}");
    let effects = proxy.handle(Event::Closed);
    assert_eq!((opened(&effects), claims(&effects)), (vec!["a".to_owned()], vec![(7, 3)]));
}

#[test]
fn the_legacy_server_is_left_at_the_deadline_and_no_voucher_prolongs_it() {
    let mut proxy = Proxy::at_legacy();
    let mut asked = false;
    let mut effects = proxy.check();
    for _ in 0..20 {
        asked |= effects.iter().any(|effect| matches!(effect, Effect::AskVoucher { .. }));
        if !closed(&effects).is_empty() {
            break;
        }
        effects = proxy.after(
            200,
            match effects.iter().any(|effect| matches!(effect, Effect::ReadDocument { .. })) {
                true => Event::DocumentUnreadable,
                false => Event::TimePassed,
            },
        );
        let voucher = Voucher { instance: "a".into(), remaining: GoDuration::from_seconds(60) };
        effects.extend(proxy.handle(Event::Vouched(Some(voucher))));
    }
    assert_eq!((closed(&effects), asked), (vec![ClosedBecause::Expired], false));
}

#[test]
fn a_store_that_goes_back_to_before_the_switch_sends_nobody_to_the_legacy_server() {
    let mut proxy = Proxy::forwarding(&Held { generation: 9, ..Held::open() });
    let effects = proxy.shown(&document(MigrationStage::Following, 5, true), Event::ClusterChanged);
    assert_eq!((closed(&effects).len(), opened(&effects).len()), (0, 0), "{effects:?}");
    assert_eq!(claims(&effects), [(NOTHING, 3)]);
}
