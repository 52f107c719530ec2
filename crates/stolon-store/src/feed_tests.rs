use super::*;
use crate::{Key, MemoryStore, Revision};

fn feed() -> KvFeed {
    let weigh: Weigh = |_, _, new| match new {
        Some(entry) if entry.value == b"quiet" => Weight::Quiet,
        _ => Weight::Wakes,
    };
    KvFeed::new(Arc::new(MemoryStore::new()), Selector::Below(Key::new("c")), weigh)
}

fn entry(name: &str, value: &str, revision: i64) -> Entry {
    Entry { key: Key::new(format!("c/{name}")), value: value.into(), revision: Revision(revision) }
}

fn put(name: &str, value: &str, revision: i64) -> (Vec<Change>, Version) {
    let entry = entry(name, value, revision);
    (vec![Change { key: entry.key.clone(), entry: Some(entry) }], Version(revision))
}

fn removal(name: &str, revision: i64) -> (Vec<Change>, Version) {
    (vec![Change { key: Key::new(format!("c/{name}")), entry: None }], Version(revision))
}

fn look(changed: &[Entry], count: usize, version: i64) -> Look {
    Look { changed: changed.to_vec(), count, version: Version(version) }
}

fn at(milliseconds: u64) -> BootInstant {
    BootInstant::from_milliseconds(milliseconds)
}

fn shown(feed: &KvFeed) -> String {
    let text = |held: &Held| format!("{}={}", held.entry.key, String::from_utf8_lossy(&held.entry.value));
    feed.with(|entries| entries.values().map(text).collect::<Vec<_>>().join(" "))
}

/// A feed that was answered once, at version 10.
fn answered() -> KvFeed {
    let feed = feed();
    assert_eq!(feed.as_of(), None);
    feed.absorb_look(look(&[entry("a", "1", 4), entry("b", "1", 9)], 2, 10), at(100), Version::START);
    feed
}

#[test]
fn news_make_the_copy_newer_and_never_younger() {
    let feed = answered();
    let wakes = feed.wakes();
    assert_eq!((shown(&feed).as_str(), feed.as_of()), ("c/a=1 c/b=1", Some(at(100))));
    let (changes, version) = put("a", "2", 11);
    feed.absorb_changes(changes, version);
    let (changes, version) = removal("b", 12);
    feed.absorb_changes(changes, version);
    assert_eq!((shown(&feed).as_str(), feed.as_of()), ("c/a=2", Some(at(100))));
    assert!(wakes.has_changed().expect("a sender"));
}

#[test]
fn news_that_come_late_or_twice_change_nothing() {
    let feed = answered();
    for (changes, version) in [put("a", "old", 3), removal("a", 10), put("b", "1", 9)] {
        feed.absorb_changes(changes, version);
    }
    assert_eq!(shown(&feed), "c/a=1 c/b=1");
    for _ in 0..2 {
        let (changes, version) = removal("b", 12);
        feed.absorb_changes(changes, version);
    }
    // What was written before the removal, and is told of after it.
    let (changes, version) = put("b", "before", 11);
    feed.absorb_changes(changes, version);
    assert_eq!(shown(&feed), "c/a=1");
}

#[test]
fn an_answer_that_news_have_overtaken_only_confirms() {
    let feed = answered();
    let known = feed.version();
    for (changes, version) in [put("b", "2", 11), removal("b", 13)] {
        feed.absorb_changes(changes, version);
    }
    // The question was asked at version 10 and answered at 12, where b still was.
    let overtaken = look(&[entry("b", "2", 11)], 2, 12);
    assert_eq!(feed.absorb_answer(overtaken.clone(), known, known, at(200)), Absorbed::Complete);
    assert_eq!((shown(&feed).as_str(), feed.as_of()), ("c/a=1", Some(at(200))), "it does not come back");
    feed.absorb_look(overtaken, at(150), known);
    assert_eq!((shown(&feed).as_str(), feed.as_of()), ("c/a=1", Some(at(200))), "nor is it older again");
}

#[test]
fn a_removal_that_nobody_told_of_is_found_by_counting() {
    let feed = answered();
    let known = feed.version();
    let asked = |look| feed.absorb_answer(look, known, known, at(200));
    assert_eq!(asked(look(&[], 1, 12)), Absorbed::NeedsAll);
    // One is gone and another one is new: as many as before.
    assert_eq!(asked(look(&[entry("c", "1", 11)], 2, 12)), Absorbed::NeedsAll);
    assert_eq!((shown(&feed).as_str(), feed.as_of()), ("c/a=1 c/b=1", Some(at(100))), "not half of it");
    assert_eq!(asked(look(&[entry("b", "2", 11)], 2, 12)), Absorbed::Complete);
    assert_eq!((shown(&feed).as_str(), feed.as_of()), ("c/a=1 c/b=2", Some(at(200))));
}

#[test]
fn a_store_that_went_back_in_time_is_believed() {
    let feed = answered();
    let known = feed.version();
    assert_eq!(feed.absorb_answer(look(&[], 2, 6), known, known, at(200)), Absorbed::NeedsAll);
    feed.absorb_look(look(&[entry("a", "0", 2)], 1, 6), at(300), known);
    assert_eq!((shown(&feed).as_str(), feed.as_of()), ("c/a=0", Some(at(300))));
    let (changes, version) = put("a", "1", 7);
    feed.absorb_changes(changes, version);
    assert_eq!(shown(&feed), "c/a=1", "and followed from there");
    feed.absorb_look(look(&[entry("a", "9", 7)], 1, 6), at(400), feed.version());
    assert_eq!(shown(&feed), "c/a=9", "also where it gives a revision away again");
}

#[test]
fn what_does_not_matter_wakes_only_those_who_ask_for_everything() {
    let feed = answered();
    let mut wakes = feed.wakes();
    let (changes, version) = put("a", "quiet", 11);
    feed.absorb_changes(changes, version);
    feed.absorb_look(look(&[entry("a", "quiet", 11), entry("b", "1", 9)], 2, 12), at(200), Version(11));
    assert!(!wakes.has_changed().expect("a sender"), "the same again is no change either");
    feed.attend(Attention::Everything);
    let (changes, version) = put("a", "quiet", 13);
    feed.absorb_changes(changes, version);
    assert!(wakes.has_changed().expect("a sender"));
    wakes.mark_unchanged();
    feed.absorb_look(look(&[entry("a", "quiet", 13)], 1, 14), at(300), Version(13));
    assert!(wakes.has_changed().expect("a sender"), "a removal is a change");
}

#[test]
fn a_report_arrives_once_however_often_it_is_told_of() {
    let feed = feed();
    let arrival = |name: &str| feed.with(|entries| entries[&format!("c/{name}")].arrived);
    let start = BootInstant::now();
    feed.absorb_look(look(&[entry("a", "1", 4), entry("b", "1", 9)], 2, 10), at(100), Version::START);
    let first = (arrival("a"), arrival("b"));
    assert_eq!(feed.told(), None, "it was only asked");
    assert!(first.0 >= start, "it came when it came, and not when it was asked for");
    let (changes, version) = put("a", "2", 11);
    feed.absorb_changes(changes, version);
    assert!(arrival("a") > first.0);
    assert_eq!(arrival("b"), first.1);
    let second = (arrival("a"), feed.told());
    assert_eq!(second.1, Some(second.0));
    // The same again, by a watch that was opened anew, and as an answer.
    let (changes, version) = put("a", "2", 11);
    feed.absorb_changes(changes, version);
    feed.absorb_look(look(&[entry("a", "2", 11), entry("b", "1", 9)], 2, 12), at(200), Version(11));
    assert_eq!((arrival("a"), arrival("b")), (second.0, first.1));
    assert_eq!(feed.told(), second.1, "nothing new was told");
}
