//! Small questions to the HTTP endpoints of keepers: one request for each connection.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::endpoint::Asking;
use crate::reread::Reread;

/// No answer is longer.
const LONGEST_ANSWER: u64 = 64 << 10;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

/// Before the address of a server that answers over TLS. Others have none.
pub const HTTPS: &str = "https://";

/// Asks the HTTP endpoints of keepers, and proves to them and has them prove what the options say. Clones share what they have said.
#[derive(Clone)]
pub struct Asker {
    files: Option<Reread<Asking>>,
    said: Arc<Mutex<Option<String>>>,
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asker")
    }
}

impl Asker {
    /// One that proves nothing, and asks nobody over TLS.
    pub fn plain() -> Self {
        Asker { files: None, said: Arc::default() }
    }

    pub(crate) fn new(files: Reread<Asking>) -> Self {
        Asker { files: Some(files), ..Asker::plain() }
    }

    /// Ask the server at `address` (`host:port`, or `https://host:port`), all within `limit`. A body is JSON.
    ///
    /// # Errors
    /// It cannot be reached, does not prove who it is, does not answer in time, or its answer is none of HTTP, or too long.
    pub async fn ask(
        &self,
        method: &str,
        address: &str,
        path: &str,
        body: &str,
        limit: Duration,
    ) -> Result<HttpAnswer> {
        let question = Question { method, path, body };
        let host = address.strip_prefix(HTTPS).unwrap_or(address);
        let answer = self.within(limit, address, TcpStream::connect(host), question).await;
        self.tell(address, &answer);
        answer
    }

    /// Whether the server that listens at `bound` proves that it is `address`, as it has to to all who ask there.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn finds(&self, bound: SocketAddr, address: &str, path: &str, limit: Duration) -> Result<()> {
        let question = Question { method: "GET", path, body: "" };
        let here = match bound.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        self.within(limit, address, TcpStream::connect((here, bound.port())), question).await.map(drop)
    }

    async fn within(
        &self,
        limit: Duration,
        address: &str,
        connection: impl Future<Output = Result<TcpStream>>,
        question: Question<'_>,
    ) -> Result<HttpAnswer> {
        let asking = async {
            let files = match &self.files {
                Some(files) => files.get().await,
                None => Arc::default(),
            };
            let stream = connection.await?;
            match address.strip_prefix(HTTPS) {
                Some(place) => {
                    let stream = secured(files.tls.clone(), place, stream).await?;
                    question.answered(stream, place, files.token.as_ref()).await
                }
                // Who knows authorities shows no token in the clear.
                None => {
                    let token = files.token.as_ref().filter(|_| files.tls.is_none());
                    question.answered(stream, address, token).await
                }
            }
        };
        tokio::time::timeout(limit, asking).await.map_err(|_| Error::from(ErrorKind::TimedOut))?
    }

    /// A keeper that is away is no news here. One that trusts us not, or that we do not trust, is a mistake of somebody's; it is said once.
    fn tell(&self, address: &str, answer: &Result<HttpAnswer>) {
        let why = match answer {
            Ok(answer) if answer.status == 401 => "it wants another token, see --http-token-file".to_owned(),
            Err(error) if error.kind() == ErrorKind::InvalidData => error.to_string(),
            Ok(_) => {
                *self.said.lock() = None;
                return;
            }
            Err(_) => return,
        };
        let sentence = format!("the keeper at {address} cannot be asked: {why}");
        let mut said = self.said.lock();
        if said.as_ref() != Some(&sentence) {
            tracing::warn!("{sentence}");
            *said = Some(sentence);
        }
    }
}

async fn secured(
    tls: Option<Arc<ClientConfig>>,
    place: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>> {
    let tls = tls.ok_or_else(|| {
        Error::new(ErrorKind::InvalidData, "it answers over TLS, and --http-ca-file names no authority")
    })?;
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|error| Error::new(ErrorKind::InvalidInput, error))?;
    TlsConnector::from(tls).connect(name, stream).await
}

/// One request for each connection.
#[derive(Clone, Copy)]
struct Question<'a> {
    method: &'a str,
    path: &'a str,
    body: &'a str,
}

impl Question<'_> {
    async fn answered(
        self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        host: &str,
        token: Option<&SecretString>,
    ) -> Result<HttpAnswer> {
        let Question { method, path, body } = self;
        let proof = match token {
            Some(token) => ["Authorization: Bearer ", token.expose_secret(), "\r\n"],
            None => [""; 3],
        };
        let begin = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n");
        let length = body.len();
        let rest = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        // One allocation: growing would leave pieces of the token behind.
        let request = SecretString::from([&begin, proof[0], proof[1], proof[2], &rest].concat());
        stream.write_all(request.expose_secret().as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        match stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await {
            // Whoever closes without a word over TLS has said what it had to, or its answer is cut off.
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
        let answer = std::str::from_utf8(&answer).ok().and_then(answer_of);
        answer.ok_or_else(|| Error::new(ErrorKind::InvalidData, "its answer is none of HTTP"))
    }
}

/// An answer that was cut off is none.
fn answer_of(answer: &str) -> Option<HttpAnswer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let length = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).last();
    let is_whole = length.is_none_or(|(_, length)| length.trim().parse() == Ok(body.len()));
    is_whole.then(|| HttpAnswer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_is_whole_or_none() {
        let whole = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(answer_of(whole), Some(HttpAnswer { status: 200, body: "{}".into() }));
        for broken in
            ["", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}", "SSH-2.0\r\n\r\n"]
        {
            assert_eq!(answer_of(broken), None, "{broken:?}");
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_is_given_up() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let asked = Asker::plain().ask("GET", &address, "/", "", Duration::from_millis(20)).await;
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
