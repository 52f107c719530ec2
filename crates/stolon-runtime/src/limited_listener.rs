//! A listener whose connections are few and short: whoever holds one open without asking for anything takes no descriptors from
//! the program's real work.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use crate::reread::Reread;

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at one time; further ones wait in the kernel.
    pub connections: usize,
    /// From the start of a connection to its end, whatever happens on it.
    pub time: Duration,
}

type Tls = Reread<Arc<ServerConfig>>;

/// Accepts within [`Limits`], the time of a handshake included.
pub(crate) struct LimitedListener {
    listener: TcpListener,
    room: Arc<Semaphore>,
    time: Duration,
    tls: Option<Tls>,
}

impl LimitedListener {
    pub fn new(listener: TcpListener, limits: Limits, tls: Option<Tls>) -> Self {
        let room = Arc::new(Semaphore::new(limits.connections));
        LimitedListener { listener, room, time: limits.time, tls }
    }
}

impl Listener for LimitedListener {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LimitedStream, SocketAddr) {
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        let end = Box::pin(tokio::time::sleep(self.time));
        let wire = match &self.tls {
            None => Wire::Plain(stream),
            Some(tls) => Wire::Handshake(Box::pin(handshake(tls.clone(), stream))),
        };
        (LimitedStream { wire, shown: Shown::default(), end, _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Nobody waits for the handshake of another one.
async fn handshake(tls: Tls, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let config = Arc::clone(&*tls.get().await);
    TlsAcceptor::from(config).accept(stream).await
}

type Handshake = Pin<Box<dyn Future<Output = io::Result<TlsStream<TcpStream>>> + Send>>;

enum Wire {
    Plain(TcpStream),
    Handshake(Handshake),
    Secure(Box<TlsStream<TcpStream>>),
}

/// What a client has shown beside its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    certificate: Arc<AtomicBool>,
}

impl Shown {
    /// Whether it has shown a certificate of an authority that is known here. Others end the handshake.
    pub fn is_certificate(&self) -> bool {
        self.certificate.load(Ordering::Relaxed)
    }
}

impl Connected<IncomingStream<'_, LimitedListener>> for Shown {
    fn connect_info(stream: IncomingStream<'_, LimitedListener>) -> Self {
        stream.io().shown.clone()
    }
}

/// A connection that fails when its time is over.
pub(crate) struct LimitedStream {
    wire: Wire,
    shown: Shown,
    end: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl LimitedStream {
    /// The connection once its handshake is over, unless its time is.
    fn within_time(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Stream>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if let Wire::Handshake(handshake) = &mut self.wire {
            let stream = ready!(handshake.as_mut().poll(context))?;
            let is_shown = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
            self.shown.certificate.store(is_shown, Ordering::Relaxed);
            self.wire = Wire::Secure(Box::new(stream));
        }
        Poll::Ready(match &mut self.wire {
            Wire::Plain(stream) => Ok(Pin::new(stream)),
            Wire::Secure(stream) => Ok(Pin::new(stream)),
            Wire::Handshake(_) => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.within_time(context))?.poll_read(context, buffer)
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.within_time(context))?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.within_time(context))?.poll_flush(context)
    }

    /// A handshake that was not made is not ended in good order.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Secure(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Handshake(_) => Poll::Ready(Ok(())),
        }
    }
}
