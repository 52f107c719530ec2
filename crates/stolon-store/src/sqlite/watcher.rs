//! Waking up when another process has written: through inotify, and at the latest by a slow timer. The calls are rustix's, which is in the
//! tree anyway: the crate `inotify` would add a second wrapper of the same three calls, and a reader that is no safer.

use std::ffi::{CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::fs::inotify;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::location::Location;

/// How long a change can stay unseen if its writer died before it could signal it.
const FLOOR: Duration = Duration::from_secs(5);
/// The same without inotify.
const FLOOR_WITHOUT_INOTIFY: Duration = Duration::from_secs(1);

/// Ticks after each change of the file, and at least as often as the floor.
pub struct Signal {
    ticks: watch::Receiver<u64>,
    _listening: AbortOnDropHandle<()>,
}

impl Signal {
    /// Begin to listen. Call inside a tokio runtime.
    pub fn start(location: &Location) -> Self {
        let (ticker, ticks) = watch::channel(0);
        let listening = match Listener::new(location) {
            Ok(listener) => tokio::spawn(listen(listener, ticker)),
            Err(error) => {
                tracing::warn!(%error, "cannot watch the file of the store through inotify, looking once a second instead (see fs.inotify.max_user_instances)");
                tokio::spawn(look_now_and_then(ticker))
            }
        };
        Signal { ticks, _listening: AbortOnDropHandle::new(listening) }
    }

    /// A receiver of the ticks from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.ticks.clone()
    }
}

struct Listener {
    descriptor: AsyncFd<OwnedFd>,
    name: CString,
}

impl Listener {
    /// The directory is watched, not the file: the file may not exist yet, and may be replaced.
    fn new(location: &Location) -> std::io::Result<Self> {
        let name = location.file.file_name().map(OsStr::as_bytes).unwrap_or_default();
        let name = CString::new(name)?;
        let descriptor = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let events = inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::ONLYDIR;
        inotify::add_watch(&descriptor, &location.directory, events)?;
        Ok(Listener { descriptor: super::when_readable(descriptor)?, name })
    }

    /// Returns when something was done to the file.
    async fn changed(&self) -> std::io::Result<()> {
        loop {
            let mut ready = self.descriptor.readable().await?;
            let read = ready.try_io(|descriptor| self.read_events(descriptor.get_ref()));
            match read {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Read all that is there; true if some of it is about the file. `WouldBlock` if there is nothing.
    fn read_events(&self, descriptor: &OwnedFd) -> std::io::Result<bool> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(descriptor, &mut buffer);
        let mut concerned = None;
        loop {
            match reader.next() {
                Ok(event) => {
                    let ours = event.file_name().is_some_and(|name| name == self.name.as_c_str())
                        || event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                    concerned = Some(concerned.unwrap_or(false) || ours);
                }
                Err(Errno::AGAIN) => return concerned.ok_or_else(|| Errno::AGAIN.into()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

async fn listen(listener: Listener, ticker: watch::Sender<u64>) {
    loop {
        if let Ok(Err(error)) = tokio::time::timeout(FLOOR, listener.changed()).await {
            tracing::warn!(%error, "inotify fails, looking at the store once a second instead");
            return look_now_and_then(ticker).await;
        }
        ticker.send_modify(|count| *count = count.wrapping_add(1));
    }
}

async fn look_now_and_then(ticker: watch::Sender<u64>) {
    loop {
        tokio::time::sleep(FLOOR_WITHOUT_INOTIFY).await;
        ticker.send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Notice;
    use crate::sqlite::database::{Database, Durability, put};

    /// Without the floor: only inotify can end the wait.
    #[tokio::test]
    async fn a_commit_is_heard_of() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("store.db");
        let location = Location::from_endpoints(&file.display().to_string()).expect("a location");
        let listener = Listener::new(&location).expect("inotify");
        let mut database = Database::open(&location, Duration::from_secs(5)).expect("a database");
        let heard = async || {
            let patience = Duration::from_secs(30);
            tokio::time::timeout(patience, listener.changed()).await.expect("a sign").expect("inotify");
        };
        heard().await;
        for _ in 0..3 {
            // What is left of earlier events must not answer for the next commit.
            let _ = listener.read_events(listener.descriptor.get_ref());
            std::fs::write(directory.path().join("other"), "x").expect("write");
            let written = database.write("a test", Durability::ProcessLoss, Notice::Wake, |transaction| {
                Ok(Ok(put(transaction, "a", b"x", None)?))
            });
            written.expect("write");
            heard().await;
        }
        let nothing_more = tokio::time::timeout(Duration::from_millis(100), listener.changed()).await;
        assert!(nothing_more.is_err(), "other files of the directory do not wake");
        std::fs::write(directory.path().join("other"), "y").expect("write");
        let nothing_more = tokio::time::timeout(Duration::from_millis(100), listener.changed()).await;
        assert!(nothing_more.is_err(), "other files of the directory do not wake");
    }
}
