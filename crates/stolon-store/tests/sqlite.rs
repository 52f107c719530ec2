//! The store in a file keeps the contract, also among processes that are killed.

mod suite;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stolon_model::SentinelUid;
use stolon_store::{
    Backend, ClusterStore, Expected, Key, KvClusterStore, KvStore, SqliteStore, StoreError, StoreOptions,
    WatchScope,
};
use suite::within;

const TIMEOUT: Duration = Duration::from_secs(10);
const CLUSTER: &str = "stolon/cluster/test";
const NUMBER: &str = "stolon/number";

fn store_in(directory: &Path) -> SqliteStore {
    store_at(&directory.join("store.db"))
}

fn store_at(file: &Path) -> SqliteStore {
    SqliteStore::new(&file.display().to_string(), TIMEOUT).expect("a store")
}

fn cluster_in(directory: &Path) -> KvClusterStore<SqliteStore> {
    KvClusterStore::new(store_in(directory), CLUSTER)
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[tokio::test]
async fn conformance() {
    let directory = directory();
    suite::run(|| store_in(directory.path())).await;
}

// --- other processes: this test binary starts itself, and the "test" `child` is what it then runs.

const ROLE: &str = "STOLON_STORE_TEST_ROLE";
const FILE: &str = "STOLON_STORE_TEST_FILE";

struct Process(Child);

impl Process {
    fn start(role: &str, directory: &Path) -> Process {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child", "--nocapture"])
            .env(ROLE, role)
            .env(FILE, directory.join("store.db"))
            .stdout(Stdio::null())
            .spawn()
            .expect("a child");
        Process(child)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).expect("signal");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: what the children run.
#[tokio::test]
async fn child() {
    let (Ok(role), Ok(file)) = (std::env::var(ROLE), std::env::var(FILE)) else { return };
    let store = store_at(Path::new(&file));
    match role.as_str() {
        "add" => {
            for _ in 0..25 {
                suite::add_one(&store, &Key::new(NUMBER)).await;
            }
        }
        "add for ever" => loop {
            suite::add_one(&store, &Key::new(NUMBER)).await;
        },
        "write for ever" => loop {
            let value = vec![b'x'; 100_000];
            store.put(&Key::new("stolon/large"), value, None).await.expect("put");
        },
        "lead" => {
            let cluster = KvClusterStore::new(store, CLUSTER);
            let mut campaign = cluster.campaign(SentinelUid::from("child"));
            loop {
                let leadership = campaign.elected().await;
                cluster.put_cluster_document(&suite::document("led")).await.expect("put");
                leadership.lost().await;
                cluster.put_cluster_document(&suite::document("lost")).await.expect("put");
            }
        }
        role => panic!("unknown role {role}"),
    }
}

#[tokio::test]
async fn processes_lose_no_addition() {
    let directory = directory();
    let mut children: Vec<Process> = (0..4).map(|_| Process::start("add", directory.path())).collect();
    for child in &mut children {
        let child = &mut child.0;
        let status = within("a child's additions", async {
            loop {
                if let Some(status) = child.try_wait().expect("wait") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(status.success());
    }
    let number = store_in(directory.path()).get(&Key::new(NUMBER)).await.expect("get").expect("there");
    assert_eq!(String::from_utf8(number.value).expect("text"), "100");
}

#[tokio::test]
async fn a_process_killed_amid_its_writes_leaves_a_whole_store() {
    let directory = directory();
    let store = store_in(directory.path());
    let number = async || match store.get(&Key::new(NUMBER)).await.expect("get") {
        None => 0,
        Some(entry) => String::from_utf8(entry.value).expect("text").parse::<u64>().expect("a number"),
    };
    for round in 0..6 {
        let before = number().await;
        let writers = [
            Process::start("add for ever", directory.path()),
            Process::start("write for ever", directory.path()),
        ];
        within("additions of the child", async {
            while number().await < before + 5 + round {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        })
        .await;
        writers.iter().for_each(|writer| writer.signal(rustix::process::Signal::KILL));
        drop(writers);
        let after = number().await;
        suite::add_one(&store, &Key::new(NUMBER)).await;
        assert_eq!(number().await, after + 1, "the store takes writes at once");
        if let Some(large) = store.get(&Key::new("stolon/large")).await.expect("get") {
            assert_eq!(large.value.len(), 100_000);
        }
    }
}

#[tokio::test]
async fn a_killed_leader_is_succeeded_at_once() {
    let directory = directory();
    let cluster = cluster_in(directory.path());
    let mut watch = cluster.watch(WatchScope::ClusterData);
    let leader = Process::start("lead", directory.path());
    within("the child's leadership", async {
        while cluster.leader().await.expect("leader").is_none() {
            watch.changed().await;
        }
    })
    .await;
    let mut campaign = cluster.campaign(SentinelUid::from("heir"));
    let refused = tokio::time::timeout(Duration::from_millis(500), campaign.elected()).await;
    assert!(refused.is_err(), "the child leads");
    // Its lease was renewed at the earliest now minus 3 s, so that it would last at least 7 s more.
    leader.signal(rustix::process::Signal::KILL);
    let succession = tokio::time::timeout(Duration::from_secs(5), campaign.elected()).await;
    assert!(succession.expect("succession before the lease ends").is_held());
    assert_eq!(cluster.leader().await.expect("leader"), Some("heir".into()));
}

#[tokio::test]
async fn a_frozen_leader_knows_that_it_is_lost() {
    let directory = directory();
    let cluster = cluster_in(directory.path());
    let uid = async || {
        let read = cluster.cluster_document().await.expect("read");
        read.and_then(|document| document.value.cluster).map(|section| section.uid.to_string())
    };
    let mut watch = cluster.watch(WatchScope::ClusterData);
    let leader = Process::start("lead", directory.path());
    within("the child's leadership", async {
        while uid().await.as_deref() != Some("led") {
            watch.changed().await;
        }
    })
    .await;
    leader.signal(rustix::process::Signal::STOP);
    let mut campaign = cluster.campaign(SentinelUid::from("heir"));
    let leadership = within("succession of a frozen leader", campaign.elected()).await;
    leader.signal(rustix::process::Signal::CONT);
    within("the child sees that it is lost", async {
        while uid().await.as_deref() != Some("lost") {
            watch.changed().await;
        }
    })
    .await;
    assert!(leadership.is_held());
    assert_eq!(cluster.leader().await.expect("leader"), Some("heir".into()));
}

// --- the file

#[tokio::test]
async fn access_follows_the_directory() {
    for (mode, wanted) in [(0o700, 0o600), (0o2770, 0o660)] {
        let directory = directory();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode)).expect("chmod");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(directory.path(), Some(12_345), Some(12_346)).expect("chown");
        }
        let owner = std::fs::metadata(directory.path()).expect("the directory");
        let store = store_in(directory.path());
        store.put(&Key::new("a"), b"x".to_vec(), None).await.expect("put");
        for name in ["store.db", "store.db-wal", "store.db-shm"] {
            let file = std::fs::metadata(directory.path().join(name)).expect("a file");
            assert_eq!(file.permissions().mode() & 0o777, wanted, "{name} in a directory of {mode:o}");
            assert_eq!((file.uid(), file.gid()), (owner.uid(), owner.gid()), "{name}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 3);
    }
}

#[tokio::test]
async fn a_replaced_file_is_noticed() {
    let directory = directory();
    let store = store_in(directory.path());
    let key = Key::new("a");
    let old = store.compare_and_put(&key, b"old".to_vec(), Expected::Absent).await.expect("put");
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        std::fs::remove_file(directory.path().join(name)).expect("remove");
    }
    assert_eq!(store.get(&key).await.expect("get"), None);
    let new = store_in(directory.path()).compare_and_put(&key, b"new".to_vec(), Expected::Absent).await;
    assert_ne!(new.expect("put into the new file"), old, "revisions never come back");
    assert_eq!(store.get(&key).await.expect("get").expect("there").value, b"new");
}

#[tokio::test]
async fn what_is_no_store_is_left_alone() {
    let directory = directory();
    let text = directory.path().join("text.db");
    std::fs::write(
        &text,
        "this is a text that is longer than the header of a database, by a good deal ".repeat(4),
    )
    .expect("write");
    let error = store_at(&text).get(&Key::new("a")).await.expect_err("no database");
    assert!(matches!(error, StoreError::Configuration { .. }), "{error:?}");
    assert!(std::fs::read_to_string(&text).expect("read").starts_with("this is a text"));

    let foreign = directory.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).expect("open").execute_batch("CREATE TABLE t (a)").expect("a table");
    let error = store_at(&foreign).get(&Key::new("a")).await.expect_err("another program's database");
    assert!(error.to_string().contains("not one of this program"), "{error}");
}

#[tokio::test]
async fn every_call_ends_while_another_process_keeps_the_file_locked() {
    let directory = directory();
    let file = directory.path().join("store.db");
    let timeout = Duration::from_millis(500);
    let store = SqliteStore::new(&file.display().to_string(), timeout).expect("a store");
    let key = Key::new("a");
    store.put(&key, b"1".to_vec(), None).await.expect("put");
    let lock = rusqlite::Connection::open(&file).expect("open");
    lock.execute_batch("BEGIN IMMEDIATE").expect("lock");
    let error = within("a put in vain", store.put(&key, b"2".to_vec(), None)).await.expect_err("locked");
    assert!(matches!(&error, StoreError::Timeout { timeout: said, .. } if *said == timeout), "{error:?}");
    assert!(error.to_string().contains("locked"), "{error}");
    assert!(store.get(&key).await.expect("readers are not held up").is_some());
    lock.execute_batch("ROLLBACK").expect("unlock");
    store.put(&key, b"3".to_vec(), None).await.expect("put after the lock");
    assert_eq!(store.get(&key).await.expect("get").expect("there").value, b"3");
}

#[tokio::test]
async fn the_file_does_not_grow() {
    let directory = directory();
    let store = store_in(directory.path());
    for round in 0..600 {
        let key = Key::new(format!("stolon/reports/{}", round % 3));
        let ttl = Some(Duration::from_secs(20));
        store.put(&key, vec![b'x'; 8_000], ttl).await.expect("put");
    }
    let size: u64 = ["store.db", "store.db-wal"]
        .iter()
        .map(|name| std::fs::metadata(directory.path().join(name)).expect("a file").len())
        .sum();
    assert!(size < 4 << 20, "{size} bytes after 600 writes of 8 kB");
}

#[tokio::test]
async fn options_make_a_store() {
    let directory = directory();
    let options = StoreOptions::new(
        "sqlite".parse::<Backend>().expect("a backend"),
        format!("sqlite://{}", directory.path().join("store.db").display()),
        "mycluster",
    );
    let store = stolon_store::open(&options).expect("a store");
    store.put_cluster_document(&suite::document("a")).await.expect("put");
    let raw = store_in(directory.path()).get(&Key::new("stolon/cluster/mycluster/clusterdata")).await;
    assert!(raw.expect("get").is_some());
    let error =
        stolon_store::open(&StoreOptions { endpoints: String::new(), ..options }).err().expect("no file");
    let hint = stolon_model::Advise::hint(&error).expect("advice");
    assert!(hint.contains("--store-endpoints"), "{error}: {hint}");
}
