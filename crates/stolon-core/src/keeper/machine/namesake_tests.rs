use stolon_model::PostgresState;

use super::*;

const SILENCE: Duration = Duration::from_secs(3);

fn report(boot: &str, info: &str) -> Option<Box<KeeperReport>> {
    let mut report = KeeperReport::default();
    report.boot_uuid = boot.into();
    report.info_uid = info.into();
    Some(Box::new(report))
}

fn read(watch: &mut NamesakeWatch, second: u64, found: Option<Box<KeeperReport>>) -> Found {
    let us = Us { boot: &BootUuid::from("ours"), has_instance: false };
    watch.read(Duration::from_secs(second), Ok(found), us, SILENCE)
}

#[test]
fn a_report_is_foreign_or_not_by_who_reported_from_the_directory_before() {
    for (predecessor, boot, foreign) in [
        (Predecessor::None, "a", true),
        (Predecessor::Unknown, "a", false),
        (Predecessor::Boot("a".into()), "a", false),
        (Predecessor::Boot("a".into()), "b", true),
    ] {
        let mut watch = NamesakeWatch::new(predecessor.clone());
        read(&mut watch, 0, report(boot, "1"));
        let waits = matches!(watch.permission(Duration::ZERO), Permission::Wait(_));
        assert_eq!(waits, foreign, "{predecessor:?} {boot}");
    }
}

#[test]
fn a_foreign_report_that_changes_is_a_living_namesakes() {
    let mut watch = NamesakeWatch::new(Predecessor::None);
    assert_eq!(watch.permission(Duration::ZERO), Permission::ReadFirst);
    assert_eq!(
        read(&mut watch, 0, report("b", "1")),
        Found::Say(Saying::PerhapsNamesake { within: SILENCE })
    );
    assert_eq!(watch.permission(Duration::ZERO), Permission::Wait(Some(Duration::from_secs(1))));
    assert_eq!(watch.permission(Duration::from_secs(1)), Permission::ReadFirst);
    assert_eq!(read(&mut watch, 1, report("b", "1")), Found::Nothing);
    assert_eq!(read(&mut watch, 2, report("b", "2")), Found::Yield(Exit::Namesake { address: None }));
}

#[test]
fn one_that_stays_silent_is_gone() {
    let mut watch = NamesakeWatch::new(Predecessor::None);
    for second in [0, 1, 2, 3] {
        assert_ne!(watch.permission(Duration::from_secs(second)), Permission::NoteFirst);
        read(&mut watch, second, report("b", "1"));
    }
    assert_eq!(watch.permission(Duration::from_secs(3)), Permission::NoteFirst);
    watch.noted();
    assert_eq!(watch.permission(Duration::from_secs(3)), Permission::Granted);
}

#[test]
fn a_store_that_does_not_answer_is_asked_again() {
    let mut watch = NamesakeWatch::new(Predecessor::None);
    let us = Us { boot: &BootUuid::from("ours"), has_instance: false };
    let found = watch.read(Duration::ZERO, Err("away".into()), us, SILENCE);
    assert_eq!(found, Found::Say(Saying::CannotLookForNamesake("away".into())));
    assert_eq!(watch.permission(Duration::ZERO), Permission::Wait(Some(FIRST_PAUSE)));
    assert_eq!(watch.permission(FIRST_PAUSE), Permission::ReadFirst);
}

#[test]
fn of_two_that_start_together_the_one_that_wrote_last_stays_unless_only_the_other_has_an_instance() {
    for (boot, other_has_instance, has_instance, stays) in [
        ("ours", false, false, true),
        ("theirs", false, false, false),
        ("theirs", true, true, false),
        ("theirs", false, true, true),
    ] {
        let mut watch = NamesakeWatch::new(Predecessor::None);
        read(&mut watch, 0, None);
        watch.noted();
        watch.reported();
        assert_eq!(watch.permission(Duration::ZERO), Permission::ReadFirst);
        let mut found = report(boot, "1").unwrap();
        let mut state = PostgresState::default();
        state.uid = if other_has_instance { "them".into() } else { Default::default() };
        found.postgres_state = Some(state);
        let us = Us { boot: &BootUuid::from("ours"), has_instance };
        let found = watch.read(Duration::ZERO, Ok(Some(found)), us, SILENCE);
        assert_eq!(found == Found::Nothing, stays, "{boot} {other_has_instance} {has_instance}");
        assert_eq!(watch.permission(Duration::ZERO), Permission::Granted, "asked once");
    }
}
