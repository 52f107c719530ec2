//! A disk that hangs: what is read never comes. A FIFO in the place of a file does the same to whoever opens it.

#![allow(clippy::unwrap_used)]

mod support;

use std::cell::Cell;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use stolon_core::keeper::{ConfigMerge, Data, FailureKind, Instance as _, ServerLook, Step, StepOutcome};
use stolon_postgres::*;
use support::*;

/// How long what meets the disk may take here.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(10);

/// A file whose reading hangs, until this is dropped.
struct Hanging {
    path: PathBuf,
    kept: PathBuf,
}

impl Hanging {
    fn new(path: &Path) -> Self {
        let (path, kept) = (path.to_owned(), path.with_extension("kept"));
        std::fs::rename(&path, &kept).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        Hanging { path, kept }
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let fifo = self.path.with_extension("fifo");
        std::fs::rename(&self.path, &fifo).unwrap();
        std::fs::rename(&self.kept, &self.path).unwrap();
        // Who waits reads to the end. An error says that nobody waits.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        while std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(&fifo).is_ok() {
            std::thread::sleep(TICK);
        }
    }
}

/// Runs `work`, which takes about [`PATIENCE`]; meanwhile the thread must go on.
async fn while_the_thread_goes_on<T>(what: &str, work: impl Future<Output = T>) -> T {
    let ticks = Cell::new(0_u32);
    let tick = async {
        loop {
            tokio::time::sleep(TICK).await;
            ticks.set(ticks.get() + 1);
        }
    };
    tokio::select! {
        done = tokio::time::timeout(DEADLINE, work) => {
            assert!(ticks.get() > 20, "{what}: the thread stood still, {} ticks", ticks.get());
            done.unwrap_or_else(|_| panic!("{what} did not end"))
        }
        () = tick => unreachable!(),
    }
}

async fn take(instance: &LocalInstance, step: Step) -> FailureKind {
    let name = format!("{step:?}").chars().take(20).collect::<String>();
    let taken = instance.take(step, PATIENCE, &|_| {}, std::future::pending());
    match while_the_thread_goes_on(&name, taken).await {
        StepOutcome::Failed(failure) => failure.kind,
        StepOutcome::Done(learned) => panic!("{name} is done: {learned:?}"),
    }
}

instance_test!(a_disk_that_hangs_stops_no_thread_and_is_told, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let it = LocalInstance::new(a.postgres.clone());
    {
        let _version = Hanging::new(&a.data().join("PG_VERSION"));
        // The second one finds the first still waiting.
        for _ in 0..2 {
            let seen = while_the_thread_goes_on("a look", it.look(PATIENCE)).await;
            assert!(matches!(&seen.data, Data::Unreadable(why) if why.contains("in time")), "{seen:?}");
        }
    }
    let seen = it.look(DEADLINE).await;
    assert!(matches!((&seen.data, &seen.server), (Data::Present(_), ServerLook::Answering(_))), "{seen:?}");
    {
        let _control = Hanging::new(&a.data().join("global/pg_control"));
        let seen = while_the_thread_goes_on("a look", it.look(PATIENCE)).await;
        assert!(matches!(seen.data, Data::Unreadable(_)), "{seen:?}");
    }
    {
        let _file = Hanging::new(&a.data().join("postgresql.conf"));
        let (config, merge) = (Box::new(a.files(&[])), ConfigMerge::WithExisting);
        assert_eq!(take(&it, Step::CheckSettings { config, merge }).await, FailureKind::TimedOut);
    }
    a.stop().await;
});

// The last rung of the ladder asks no disk, and does not wait for one.
instance_test!(a_server_whose_disk_hangs_is_ended, || async {
    let a = Instance::new("a", &Passwords::default());
    a.create(&[]).await;
    let it = LocalInstance::new(a.postgres.clone());
    let _pid = Hanging::new(&a.data().join("postmaster.pid"));
    let seen = while_the_thread_goes_on("a look", it.look(PATIENCE)).await;
    assert!(matches!(seen.server, ServerLook::Silent(_)), "{seen:?}");
    kill(a.pid(), Signal::STOP);
    let limit = limit();
    let stopped = a.postgres.stop(StopMode::Fast, DEADLINE, &limit);
    while_the_thread_goes_on("a stop", stopped).await.unwrap();
    assert_eq!(*a.postgres.server().borrow(), ServerState::Stopped);
});
