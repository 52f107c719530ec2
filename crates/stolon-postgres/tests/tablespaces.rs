//! Tablespaces: copied to where they may be, made anew with PGDATA, and never at the cost of somebody else's data.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stolon_core::keeper::OldData;
use stolon_postgres::*;
use stolon_testkit::postgres::bin_directory;
use support::*;

/// A primary with a table in a tablespace, and the directory that standbys of this machine cannot have as well.
struct World {
    a: Instance,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let a = Instance::new("a", &Passwords::default());
        a.create(&[]).await;
        let world = World { a, directory };
        std::fs::create_dir_all(world.space("a")).unwrap();
        let location = world.space("a").display().to_string();
        world.a.run(&format!("CREATE TABLESPACE x LOCATION '{location}'")).await;
        world.a.run("CREATE TABLE t TABLESPACE x AS SELECT generate_series(1, 1000) AS n").await;
        world.a.postgres.refresh_slots(&["stolon_b".to_owned()].into(), &limit()).await.unwrap();
        world
    }

    /// The tablespace of an instance.
    fn space(&self, name: &str) -> PathBuf {
        self.directory.path().join(name).join("x")
    }

    fn standby(&self, change: impl FnOnce(&mut Options)) -> Instance {
        let pairs =
            [("a", "b")].map(|(from, to)| (self.directory.path().join(from), self.directory.path().join(to)));
        Instance::with("b", &Passwords::default(), tempfile::tempdir().unwrap(), |options| {
            options.tablespace_mapping = TablespaceMapping::new(pairs.to_vec());
            change(options);
        })
    }

    async fn follows(&self, b: &Instance) {
        b.start(&b.standby_files(&self.a, &[])).await;
        let count = b.sql().await.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
        assert_eq!(count.get::<_, i64>(0), 1000);
        let links = std::fs::read_dir(b.data().join("pg_tblspc")).unwrap().flatten();
        let links: Vec<PathBuf> = links.map(|entry| std::fs::read_link(entry.path()).unwrap()).collect();
        assert_eq!(links, [self.space("b")]);
    }
}

fn record(b: &Instance) -> String {
    std::fs::read_to_string(b.directory.path().join("tablespaces")).unwrap_or_default()
}

fn files_below(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

instance_test!(a_standby_whose_data_are_lost_is_copied_again_though_its_tablespaces_are_there, || async {
    let world = World::new().await;
    let b = world.standby(|_| {});
    b.copy(&world.a, OldData::KeepUntilCopied).await.unwrap();
    world.follows(&b).await;
    // Where it is its own it stays its own, by the word of a server that runs.
    eventually("the record", || async { record(&b).contains(&world.space("b").display().to_string()) }).await;
    b.stop().await;
    std::fs::remove_dir_all(b.data()).unwrap();
    assert!(files_below(&world.space("b")) > 0);
    b.copy(&world.a, OldData::KeepUntilCopied).await.unwrap();
    world.follows(&b).await;
    // The same with the data there, which go with their tablespaces before the copy.
    b.stop().await;
    b.copy(&world.a, OldData::KeepUntilCopied).await.unwrap();
    world.follows(&b).await;
    b.stop().await;
    b.postgres.remove_data(&limit()).await.unwrap();
    assert_eq!(files_below(&world.space("b")), 0);
    assert!(files_below(&world.space("a")) > 0);
    world.a.stop().await;
});

instance_test!(a_first_copy_that_is_broken_off_leaves_nothing_in_the_way_of_the_next, || async {
    let world = World::new().await;
    // It fails at the very end, once.
    let programs = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(bin_directory().unwrap()).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), programs.path().join(entry.file_name())).unwrap();
    }
    let (program, failed) = (programs.path().join("pg_basebackup"), programs.path().join("failed"));
    let real = std::fs::read_link(&program).unwrap();
    std::fs::remove_file(&program).unwrap();
    let (real, marker) = (real.display(), failed.display());
    let script = format!(
        "#!/bin/sh\n'{real}' \"$@\" || exit\ntest -e '{marker}' || {{ touch '{marker}'; exit 1; }}\n"
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();

    let b = world.standby(|options| options.bin_path = Some(programs.path().to_owned()));
    b.copy(&world.a, OldData::KeepUntilCopied).await.unwrap_err();
    assert!(failed.exists());
    b.copy(&world.a, OldData::KeepUntilCopied).await.unwrap();
    world.follows(&b).await;
    b.stop().await;
    world.a.stop().await;
});

instance_test!(a_tablespace_is_not_copied_to_where_others_have_something, || async {
    let world = World::new().await;
    let b = world.standby(|_| {});
    for theirs in ["PG_15_202209061/1/2", "photos/cat"] {
        let file = world.space("b").join(theirs);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "theirs").unwrap();
        let refused = b.copy(&world.a, OldData::KeepUntilCopied).await.unwrap_err();
        assert!(matches!(refused, PostgresError::ForeignTablespace { .. }), "{refused}");
        assert!(refused.to_string().contains(&world.space("b").display().to_string()), "{refused}");
        assert!(refused.hint().unwrap().contains("--tablespace-mapping"));
        b.postgres.remove_data(&limit()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "theirs");
        std::fs::remove_dir_all(world.space("b")).unwrap();
    }
    world.a.stop().await;
});

instance_test!(a_failed_restore_takes_away_what_it_made_and_nothing_else, || async {
    let world = World::new().await;
    world.a.stop().await;
    let there = files_below(&world.space("a"));
    let b = world.standby(|_| {});
    let restore = async |command: &str| {
        b.postgres.restore(command, &ProgressSender::default(), &limit()).await.unwrap_err();
        assert!(!b.data().exists());
        assert_eq!(files_below(&world.space("a")), there, "{command}");
    };
    // Its links lead to the tablespaces of the server that was copied.
    let copy = format!("cp -a {}/. %d", world.a.data().display());
    restore(&format!("{copy} && false")).await;
    // It has some of its own.
    let (theirs, ours) = (world.space("a"), world.space("b"));
    let of_its_own = format!(
        "{copy} && mkdir -p {ours} && cp -a {theirs}/. {ours} && for link in %d/pg_tblspc/*; do ln -sfn {ours} $link; done && false",
        ours = ours.display(),
        theirs = theirs.display()
    );
    restore(&of_its_own).await;
    assert_eq!(files_below(&ours), 0);
});
