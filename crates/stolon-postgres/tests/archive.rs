//! WAL that a server had not archived when it died.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use stolon_core::keeper::{Archiver, ConfigMerge, LastRun};
use stolon_postgres::*;

use support::*;

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn ready(a: &Instance) -> BTreeSet<String> {
    let marks = names(&a.data().join("pg_wal/archive_status"));
    marks.into_iter().filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).collect()
}

// The archive was away while it lived; the command runs as PostgreSQL runs it, and what fails keeps nobody from going on.
instance_test!(what_a_dead_server_had_left_is_archived_as_far_as_that_succeeds, || async {
    let a = Instance::new("a", &Passwords::default());
    let archive = a.directory.path().join("the archive");
    let command = format!("test ! -f '{0}/%f' && cp %p '{0}/%f'", archive.display());
    a.create(&[("archive_mode", "on"), ("archive_command", &command)]).await;
    for _ in 0..3 {
        a.run("SELECT pg_logical_emit_message(true, 'x', 'y')").await;
        a.run("SELECT pg_switch_wal()").await;
    }
    a.crash().await;
    let left = ready(&a);
    assert!(left.len() >= 3, "{left:?}");

    a.postgres.archive_what_is_left(&limit()).await.unwrap();
    assert_eq!(ready(&a), left, "there is no archive yet");

    std::fs::create_dir(&archive).unwrap();
    let first = left.first().unwrap();
    std::fs::write(archive.join(first), "another one's").unwrap();
    a.postgres.archive_what_is_left(&limit()).await.unwrap();
    assert_eq!(names(&archive), left);
    assert_eq!(ready(&a), [first.clone()].into(), "what is there is not overwritten");
    assert_eq!(std::fs::read(archive.join(first)).unwrap(), b"another one's");
});

async fn archiver(a: &Instance) -> Option<Archiver> {
    a.postgres.sample(&limit()).await.unwrap().archiver
}

async fn archiver_shows(a: &Instance, what: &str, is_it: impl Fn(&Archiver) -> bool) -> Archiver {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let seen = archiver(a).await.unwrap();
        if is_it(&seen) {
            return seen;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: {seen:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

instance_test!(a_look_shows_an_archive_that_takes_nothing_and_what_waits_for_it, || async {
    let a = Instance::new("a", &Passwords::default());
    let archive = a.directory.path().join("archive");
    let command = format!("test ! -f {0}/%f && cp %p {0}/%f", archive.display());
    a.create(&[("archive_mode", "on"), ("archive_command", &command)]).await;
    a.run("SELECT pg_logical_emit_message(true, 'x', 'y')").await;
    a.run("SELECT pg_switch_wal()").await;
    let failing =
        archiver_shows(&a, "a failure", |it| it.last_run == LastRun::Failed && it.backlog.is_some()).await;
    let backlog = failing.backlog.unwrap();
    assert!(
        failing.failures > 0 && failing.last_failed == backlog.first && failing.last_archived_at.is_none()
    );
    assert_eq!(backlog.files, ready(&a).len() as u64);
    assert!(backlog.age <= DEADLINE, "{backlog:?}");

    std::fs::create_dir(&archive).unwrap();
    // The archiver has slept after its third failure for a minute at most; a new file wakes it.
    a.run("SELECT pg_logical_emit_message(true, 'x', 'y')").await;
    a.run("SELECT pg_switch_wal()").await;
    let works =
        archiver_shows(&a, "success", |it| it.last_run == LastRun::Succeeded && it.backlog.is_none()).await;
    assert!(works.last_archived_at.is_some() && works.failures >= failing.failures);
});

instance_test!(a_server_that_archives_nothing_shows_nothing_of_it, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[("archive_mode", "off")]).await;
    assert_eq!(archiver(&a).await, None);
});

// What pg_rewind has to read of the old server lies in the archive alone.
instance_test!(a_rewind_fetches_from_the_archive_what_is_gone, || async {
    let (a, b) = (Instance::new("a", &Passwords::default()), Instance::new("b", &Passwords::default()));
    let archive = a.directory.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    a.create(&[]).await;
    b.follow(&a, &[]).await;
    b.run("SELECT pg_promote()").await;
    b.run("CREATE TABLE of_b ()").await;
    for _ in 0..3 {
        a.run("CREATE TABLE IF NOT EXISTS of_a AS SELECT 1").await;
        a.run("SELECT pg_switch_wal()").await;
    }
    a.stop().await;
    let mut segments: Vec<String> =
        names(&a.data().join("pg_wal")).into_iter().filter(|name| name.len() == 24).collect();
    segments.sort();
    // The last one has the checkpoint that the server ended with.
    let control = a.postgres.control_data(&limit()).await.unwrap();
    let end = control.orderly_end().unwrap();
    let at = end.checkpoint.0;
    let last = format!("{:08X}{:08X}{:08X}", end.timeline.0, at >> 32, at >> 24 & 0xFF);
    for name in segments.iter().filter(|name| **name < last) {
        std::fs::rename(a.data().join("pg_wal").join(name), archive.join(name)).unwrap();
    }
    let refused = a.postgres.rewind(&b.source_for(&a), &progress(), &limit()).await;
    assert!(matches!(refused, Err(PostgresError::Tool { .. })), "{refused:?}");

    let fetch = format!("cp '{}/%f' %p", archive.display());
    let files = a.standby_files(&b, &[("restore_command", &fetch)]);
    a.postgres.write_config(&files, ConfigMerge::Replace, &limit()).await.unwrap();
    a.postgres.rewind(&b.source_for(&a), &progress(), &limit()).await.unwrap();
    b.postgres.refresh_slots(&[a.slot()].into(), &limit()).await.unwrap();
    a.start(&a.standby_files(&b, &[])).await;
    eventually("the table of the new primary", || async {
        a.sql().await.batch_execute("SELECT FROM of_b").await.is_ok()
    })
    .await;
    assert!(a.sql().await.batch_execute("SELECT FROM of_a").await.is_err(), "it was left");
});
