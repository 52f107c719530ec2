//! Who answers: the server that the keeper started and nobody else, on a socket that nobody else can take.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stolon_core::keeper::{ConfigMerge, OldData, SlotChanges};
use stolon_model::NewConfig;
use stolon_postgres::*;
use support::*;

fn keeper_directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("stolon-pg-").tempdir().unwrap()
}

async fn directories_of(instance: &Instance) -> String {
    let row = instance.sql().await.query_one("SHOW unix_socket_directories", &[]).await.unwrap();
    row.get(0)
}

fn socket_of(directory: &Path, port: &str) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

instance_test!(a_keeper_has_a_socket_directory_of_its_own, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let own = a.postgres.socket_directory();
    assert_eq!(own, a.directory.path().join("socket"));
    assert_eq!(std::fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(socket_of(&own, &a.port).exists() && socket_of(a.directory.path(), &a.port).exists());
    let both = format!("\"{}\",\"{}\"", own.display(), a.directory.path().display());
    assert_eq!(directories_of(&a).await, both);
    a.stop().await;
});

// As on a file system that has no sockets; the second time, not even a link can be made there.
instance_test!(a_directory_that_holds_no_sockets_is_done_without, || async {
    let closed = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o500)).unwrap();
    for has_links in [true, false] {
        let directory = keeper_directory();
        let inside = directory.path().join("keeper");
        std::fs::create_dir_all(inside.join("socket")).unwrap();
        closed(&inside.join("socket"));
        let a = Instance::with("a", &Passwords::default(), directory, |options| {
            options.keeper_directory = inside.clone();
        });
        a.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
        let files = a.files(&[]);
        a.postgres.write_config(&files, ConfigMerge::Replace, &limit()).await.unwrap();
        if !has_links {
            closed(&inside);
        }
        let mut own = Vec::new();
        for _ in 0..2 {
            a.postgres.start(ConfigMerge::Replace, &limit()).await.unwrap();
            a.postgres.wait_ready(&limit()).await.unwrap();
            a.postgres.sample(&limit()).await.unwrap();
            own.push(a.postgres.socket_directory());
            a.stop().await;
        }
        assert!(own[0].starts_with("/tmp") && own[0] == own[1], "{has_links}: {own:?}");
        assert_eq!(std::fs::read_link(inside.join("socket")).is_ok(), has_links);
        std::fs::set_permissions(&inside, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::remove_dir_all(&own[0]).unwrap();
    }
});

// A path may be up to 107 bytes long, and hold what a list of directories is written with.
instance_test!(any_directory_of_a_keeper_will_do, || async {
    for name in [format!("a{}", "b".repeat(100)), "a, \"b\" 'c'".to_owned()] {
        let directory = keeper_directory();
        let inside = directory.path().join(name);
        std::fs::create_dir(&inside).unwrap();
        let a = Instance::with("a", &Passwords::default(), directory, |options| {
            options.keeper_directory = inside.clone();
        });
        a.create(&[]).await;
        let own = a.postgres.socket_directory();
        let made = std::fs::symlink_metadata(&own).unwrap();
        assert!(made.is_dir() && made.permissions().mode() & 0o777 == 0o700, "{}", own.display());
        a.postgres.sample(&limit()).await.unwrap();
        a.stop().await;
        a.postgres.start(ConfigMerge::Replace, &limit()).await.unwrap();
        a.postgres.wait_ready(&limit()).await.unwrap();
        assert_eq!(a.postgres.socket_directory(), own, "the same one again");
        a.stop().await;
        if own.parent() != Some(&inside) {
            std::fs::remove_dir_all(own).unwrap();
        }
    }
});

// The session that the keeper has goes on answering.
instance_test!(a_server_that_lets_nobody_new_in_is_not_ready, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    a.postgres.sample(&limit()).await.unwrap();
    let socket = socket_of(&a.postgres.socket_directory(), &a.port);
    let hidden = socket.with_extension("hidden");
    std::fs::rename(&socket, &hidden).unwrap();
    assert!(!a.postgres.is_in_recovery(&limit()).await.unwrap(), "the session answers");
    let waited = a.postgres.wait_ready(&limit().at_most(Duration::from_secs(1))).await;
    assert!(matches!(waited, Err(PostgresError::Timeout { .. })), "{waited:?}");
    std::fs::rename(&hidden, &socket).unwrap();
    a.postgres.wait_ready(&limit()).await.unwrap();
    a.stop().await;
});

// A server that was killed leaves a file that names a process, and the number is in use again.
instance_test!(no_lock_file_of_a_socket_keeps_a_server_from_starting, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    a.stop().await;
    let lock = a.directory.path().join(format!(".s.PGSQL.{}.lock", a.port));
    let ours = std::process::id();
    let minute_ago = std::time::SystemTime::now() - Duration::from_secs(60);
    let (stale, held) = (
        format!("{ours}\n/no/such/data\n"),
        format!("{ours}\n{}\n", std::env::current_dir().unwrap().display()),
    );
    for (content, made, public) in [
        (stale.as_str(), None, true),
        ("", Some(minute_ago), true),
        // Another server may be about to write into it.
        ("", None, false),
        (held.as_str(), None, false),
    ] {
        std::fs::write(&lock, content).unwrap();
        std::fs::write(a.data().join("postmaster.pid"), content).unwrap();
        if let Some(made) = made {
            std::fs::File::options().write(true).open(&lock).unwrap().set_modified(made).unwrap();
        }
        a.postgres.start(ConfigMerge::Replace, &limit()).await.unwrap();
        a.postgres.wait_ready(&limit()).await.unwrap();
        let directories = directories_of(&a).await;
        assert_eq!(directories.contains(','), public, "{content:?}: {directories}");
        a.stop().await;
        assert_eq!(lock.exists(), !public, "what is another's is left alone");
    }
});

instance_test!(a_server_starts_without_the_directory_for_people, || async {
    let a = Instance::with("a", &Passwords::default(), keeper_directory(), |options| {
        options.public_socket_directory = "/no/such/directory".into();
    });
    a.create(&[]).await;
    a.postgres.sample(&limit()).await.unwrap();
    a.stop().await;
});

instance_test!(a_server_with_the_same_port_is_left_alone, || async {
    let public = keeper_directory();
    let a = Instance::with("a", &Passwords::default(), keeper_directory(), |options| {
        options.public_socket_directory = public.path().to_owned();
    });
    a.create(&[]).await;
    a.postgres.refresh_slots(&["stolon_x".to_owned()].into(), &limit()).await.unwrap();
    let b = Instance::with("b", &Passwords::default(), keeper_directory(), |options| {
        options.public_socket_directory = public.path().to_owned();
        (options.port, options.listen_addresses) = (a.port.clone(), "127.0.0.2".into());
    });
    b.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
    let no_slots = std::collections::BTreeSet::new();
    let asked = b.postgres.refresh_slots(&no_slots, &limit()).await.unwrap_err();
    assert!(matches!(asked, PostgresError::NotRunning), "{asked}");

    // The same port of another address: both run, and each is asked by its own keeper.
    b.start(&b.files(&[("listen_addresses", "127.0.0.2")])).await;
    assert_eq!(b.postgres.refresh_slots(&no_slots, &limit()).await.unwrap(), SlotChanges::default());
    let of = |instance: &Instance| instance.present().system_identifier.clone();
    assert_eq!(b.postgres.sample(&limit()).await.unwrap().system_identifier, of(&b));
    assert_eq!(a.postgres.sample(&limit()).await.unwrap().system_identifier, of(&a));

    // Even where our own socket leads to the other one.
    let path = socket_of(&b.postgres.socket_directory(), &b.port);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(socket_of(&a.postgres.socket_directory(), &a.port), &path).unwrap();
    let error = b.postgres.sample(&limit()).await.unwrap_err();
    let PostgresError::Stranger { mismatch: Mismatch::Process { found, .. }, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(i32::try_from(*found).unwrap(), a.pid());
    let rows = a.sql().await.query("SELECT slot_name::text FROM pg_replication_slots", &[]).await.unwrap();
    assert_eq!(rows.len(), 1, "nobody dropped it");
    b.stop().await;
    a.stop().await;
});

instance_test!(nothing_is_sent_to_whoever_takes_the_place_of_the_server, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let path = socket_of(&a.postgres.socket_directory(), &a.port);
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let error = a.postgres.sample(&limit()).await.unwrap_err();
    assert!(matches!(error, PostgresError::Stranger { mismatch: Mismatch::Process { .. }, .. }), "{error}");
    let mut sent = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut sent).unwrap();
    assert!(sent.is_empty(), "{sent:?}");
    a.stop().await;
});

instance_test!(a_port_that_is_taken_is_found_before_anything_is_copied, || async {
    let (a, b) = (Instance::new("a", &Passwords::default()), Instance::new("b", &Passwords::default()));
    a.create(&[]).await;
    a.postgres.refresh_slots(&[b.slot()].into(), &limit()).await.unwrap();
    b.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
    let before = fingerprint(&b.data());
    for address in ["127.0.0.1", "0.0.0.0"] {
        let taken = std::net::TcpListener::bind(format!("{address}:{}", b.port)).unwrap();
        let is_taken = |error: &PostgresError| matches!(error, PostgresError::PortTaken { .. });
        let copied = b.copy(&a, OldData::DeleteFirst).await.unwrap_err();
        let rewound = b.postgres.rewind(&a.source_for(&b), &progress(), &limit()).await.unwrap_err();
        let restored = b.postgres.restore("rm -rf %d/*", &progress(), &limit()).await.unwrap_err();
        assert!([&copied, &rewound, &restored].into_iter().all(is_taken), "{copied} {rewound} {restored}");
        drop(taken);
    }
    assert_eq!(fingerprint(&b.data()), before);
    b.copy(&a, OldData::DeleteFirst).await.unwrap();
    a.stop().await;
});

// SIGSTOP of the postmaster: sessions that it has go on, and nobody new comes in.
instance_test!(a_postmaster_that_hangs_is_noticed_though_its_sessions_answer, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    a.postgres.sample(&limit()).await.unwrap();
    kill(a.pid(), rustix::process::Signal::STOP);
    assert!(!a.postgres.is_in_recovery(&limit()).await.unwrap(), "the kept session answers");
    let short = limit().at_most(Duration::from_millis(500));
    let error = a.postgres.sample(&short).await.unwrap_err();
    assert!(matches!(error, PostgresError::Timeout { .. }), "{error}");
    kill(a.pid(), rustix::process::Signal::CONT);
    a.postgres.sample(&limit()).await.unwrap();
    a.stop().await;
});

/// Another user's socket where PostgreSQL would make its own for people. Whoever comes is asked for a password.
struct Squatter {
    directory: PathBuf,
}

const HEARD: &str = "heard";

impl Squatter {
    /// None when we are not root, who can be another user than PostgreSQL's.
    fn sit() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let directory = Self::directory_of(std::process::id());
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o1777)).unwrap();
        let port = stolon_testkit::postgres::free_port().unwrap().to_string();
        let path = socket_of(&directory, &port);
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(directory.join("port"), port).unwrap();
        std::fs::write(directory.join(HEARD), "").unwrap();
        let heard = directory.join(HEARD);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 1024];
                let _ = stream.read(&mut bytes);
                // AuthenticationCleartextPassword.
                let _ = stream.write_all(b"R\0\0\0\x08\0\0\0\x03");
                if let Ok(read) = stream.read(&mut bytes) {
                    let mut file = std::fs::File::options().append(true).open(&heard).unwrap();
                    file.write_all(&bytes[..read]).unwrap();
                }
            }
        });
        Some(Self { directory })
    }

    /// The directory and the port that our parent has taken.
    fn of_parent() -> Option<(PathBuf, String)> {
        let parent = rustix::process::getppid()?.as_raw_nonzero().get();
        let directory = Self::directory_of(parent.try_into().ok()?);
        let port = std::fs::read_to_string(directory.join("port")).ok()?;
        Some((directory, port))
    }

    fn directory_of(pid: u32) -> PathBuf {
        std::env::temp_dir().join(format!("stolon-squatter-{pid}"))
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn another_user_neither_stops_the_server_nor_hears_a_password() {
    let _squatter = Squatter::sit();
    run("another_user_neither_stops_the_server_nor_hears_a_password", || async {
        let Some((directory, port)) = Squatter::of_parent() else { return };
        let with_lock = directory.join(format!(".s.PGSQL.{port}.lock"));
        for lock in [None, Some(&with_lock)] {
            let a = Instance::with("a", &Passwords::default(), keeper_directory(), |options| {
                (options.public_socket_directory, options.port) = (directory.clone(), port.clone());
            });
            if let Some(lock) = lock {
                std::fs::write(
                    lock,
                    format!("{}\n{}\n", std::process::id(), std::env::current_dir().unwrap().display()),
                )
                .unwrap();
            }
            a.create(&[]).await;
            a.postgres.sample(&limit()).await.unwrap();
            a.stop().await;
        }
        assert_eq!(std::fs::read_to_string(directory.join(HEARD)).unwrap(), "");
    });
}
