//! Waking up when another process has written: through inotify, with a slow look as floor.

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

/// How long a change can stay unseen whose writer died before it could say so.
const FLOOR: Duration = Duration::from_secs(5);
/// The same when the machine gives no inotify.
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

    /// To wait for ticks from now on.
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
