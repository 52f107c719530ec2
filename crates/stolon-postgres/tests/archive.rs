//! WAL that a server had not archived when it died.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

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
