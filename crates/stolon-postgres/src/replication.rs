//! The few messages of the replication protocol that a keeper speaks itself: log in with `replication=true`, ask, read text
//! (PostgreSQL manual, "Streaming Replication Protocol"). tokio-postgres has no replication mode, and answers whatever it is asked for.

use bytes::{BufMut, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use secrecy::ExposeSecret;
use stolon_core::keeper::PasswordProtocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::credentials::{AuthMethod, Credentials};
use crate::source::WeakProof;

/// Columns as text.
pub(crate) type Row = Vec<Option<String>>;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection, or it broke.
    Io(std::io::Error),
    /// An answer that makes no sense.
    Protocol(String),
    /// It wants a password in a form that gives it away.
    Weak(WeakProof),
    /// TLS is required, and it has none.
    NoTls,
    /// A file of certificates or of a key cannot be used.
    Files(String),
    /// The server said no.
    Server {
        /// SQLSTATE.
        code: String,
        /// Its words.
        message: String,
    },
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// How well it is known who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The process that we started: the kernel says so.
    Ours,
    /// Whoever has the address.
    Unproven(PasswordProtocol),
}

impl Peer {
    fn may_ask_for(self, asked: WeakProof) -> bool {
        match self {
            Self::Ours => true,
            Self::Unproven(PasswordProtocol::ScramOrMd5) => asked == WeakProof::Md5,
            Self::Unproven(PasswordProtocol::Scram) => false,
        }
    }
}

const LARGEST_MESSAGE: usize = 1 << 20;

/// What a SCRAM exchange is bound to, so that nobody in between can pass it on (RFC 5802, section 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// There is no TLS, or nothing of it to bind to.
    Impossible,
    /// To this hash of the server's certificate, where the server knows how.
    Possible(Vec<u8>),
    /// To this hash; the server must.
    Required(Vec<u8>),
}

/// A connection to log in over.
pub(crate) struct Line<S> {
    pub(crate) stream: S,
    pub(crate) peer: Peer,
    pub(crate) binding: Binding,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// Commands of replication.
    WalSender,
    /// SQL, in the database `postgres`.
    Database,
}

/// A connection that speaks the simple protocol.
pub(crate) struct ReplicationConnection<S> {
    stream: S,
}

struct Message {
    tag: u8,
    body: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ReplicationConnection<S> {
    /// Logs in.
    pub(crate) async fn new(
        line: Line<S>,
        who: &Credentials,
        application_name: &str,
        session: Session,
    ) -> Result<Self, Failure> {
        let Line { stream, peer, binding } = line;
        let mut connection = Self { stream };
        let mut buffer = BytesMut::new();
        let parameters = [
            ("user", who.username.as_str()),
            match session {
                Session::WalSender => ("replication", "true"),
                Session::Database => ("database", "postgres"),
            },
            ("application_name", application_name),
        ];
        frontend::startup_message(parameters, &mut buffer)?;
        connection.send(&buffer).await?;
        connection.authenticate(peer, binding, who).await?;
        // Until ready for queries.
        while connection.read().await?.tag != b'Z' {}
        Ok(connection)
    }

    /// One command; the rows of its answer.
    pub(crate) async fn query(&mut self, command: &str) -> Result<Vec<Row>, Failure> {
        let mut buffer = BytesMut::new();
        frontend::query(command, &mut buffer)?;
        self.send(&buffer).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let message = self.read_any().await?;
            match message.tag {
                b'D' => rows.push(row_of(&message.body)?),
                b'E' => failure = Some(error_of(&message.body)),
                b'Z' => break,
                _ => {}
            }
        }
        failure.map_or(Ok(rows), Err)
    }

    async fn authenticate(&mut self, peer: Peer, binding: Binding, who: &Credentials) -> Result<(), Failure> {
        let password = who.password_to_send().unwrap_or_default();
        let password = password.expose_secret();
        let must_prove_itself = peer != Peer::Ours && who.auth == AuthMethod::ScramSha256;
        let mut is_proven = false;
        let mut scram: Option<sasl::ScramSha256> = None;
        loop {
            let message = self.read().await?;
            if message.tag != b'R' {
                return Err(Failure::Protocol("no authentication request came".to_owned()));
            }
            let (kind, data) = message.body.split_first_chunk::<4>().ok_or_else(short)?;
            let mut buffer = BytesMut::new();
            match i32::from_be_bytes(*kind) {
                // Only who knows the password can let us in by SCRAM.
                0 if must_prove_itself && !is_proven => return Err(Failure::Weak(WeakProof::Unproven)),
                0 => return Ok(()),
                3 if !peer.may_ask_for(WeakProof::Cleartext) => {
                    return Err(Failure::Weak(WeakProof::Cleartext));
                }
                5 if !peer.may_ask_for(WeakProof::Md5) => return Err(Failure::Weak(WeakProof::Md5)),
                3 => frontend::password_message(password.as_bytes(), &mut buffer)?,
                5 => {
                    let salt = data.first_chunk::<4>().ok_or_else(short)?;
                    let hash = md5_hash(who.username.as_bytes(), password.as_bytes(), *salt);
                    frontend::password_message(hash.as_bytes(), &mut buffer)?;
                }
                10 => {
                    let (mechanism, binding) = mechanism(data, &binding)?;
                    let state = scram.insert(sasl::ScramSha256::new(password.as_bytes(), binding));
                    frontend::sasl_initial_response(mechanism, state.message(), &mut buffer)?;
                }
                11 => {
                    let state = scram.as_mut().ok_or_else(short)?;
                    state.update(data)?;
                    frontend::sasl_response(state.message(), &mut buffer)?;
                }
                12 => {
                    scram.as_mut().ok_or_else(short)?.finish(data)?;
                    is_proven = true;
                    continue;
                }
                other => return Err(Failure::Protocol(format!("it wants authentication method {other}"))),
            }
            self.send(&buffer).await?;
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next message; an error of the server is an error.
    async fn read(&mut self) -> Result<Message, Failure> {
        let message = self.read_any().await?;
        if message.tag == b'E' { Err(error_of(&message.body)) } else { Ok(message) }
    }

    async fn read_any(&mut self) -> Result<Message, Failure> {
        let tag = self.stream.read_u8().await?;
        let length = self.stream.read_u32().await? as usize;
        let body_length =
            length.checked_sub(4).filter(|length| *length <= LARGEST_MESSAGE).ok_or_else(short)?;
        let mut body = BytesMut::with_capacity(body_length);
        body.put_bytes(0, body_length);
        self.stream.read_exact(&mut body).await?;
        Ok(Message { tag, body: body.to_vec() })
    }
}

/// Which of the mechanisms that are offered is taken, and what it is bound to.
fn mechanism(offered: &[u8], binding: &Binding) -> Result<(&'static str, sasl::ChannelBinding), Failure> {
    let offers = |mechanism: &str| offered.split(|byte| *byte == 0).any(|name| name == mechanism.as_bytes());
    match binding {
        Binding::Possible(hash) | Binding::Required(hash) if offers(sasl::SCRAM_SHA_256_PLUS) => {
            Ok((sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash.clone())))
        }
        Binding::Required(_) => Err(Failure::Weak(WeakProof::Unbound)),
        _ if !offers(sasl::SCRAM_SHA_256) => {
            Err(Failure::Protocol("it offers no way to log in that we know".to_owned()))
        }
        Binding::Possible(_) => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
        Binding::Impossible => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
    }
}

fn short() -> Failure {
    Failure::Protocol("the answer is no PostgreSQL message".to_owned())
}

/// Columns of a DataRow message.
fn row_of(mut body: &[u8]) -> Result<Row, Failure> {
    let (count, rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
    body = rest;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push(None);
            body = rest;
            continue;
        };
        let (value, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        row.push(Some(String::from_utf8_lossy(value).into_owned()));
        body = rest;
    }
    Ok(row)
}

/// Code and message of an ErrorResponse.
fn error_of(body: &[u8]) -> Failure {
    let mut code = String::new();
    let mut text = String::new();
    for field in body.split(|byte| *byte == 0) {
        match field.split_first() {
            Some((b'C', value)) => code = String::from_utf8_lossy(value).into_owned(),
            Some((b'M', value)) => text = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
    }
    Failure::Server { code, message: text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_errors_are_read_and_garbage_is_refused() {
        let body = [0, 2, 0, 0, 0, 1, b'x', 255, 255, 255, 255];
        assert_eq!(row_of(&body).unwrap(), [Some("x".to_owned()), None]);
        assert!(row_of(&[0, 1, 0, 0, 0, 9, b'x']).is_err());
        assert!(row_of(&[0]).is_err());
        let Failure::Server { code, message } = error_of(b"SFATAL\0C28P01\0Mno\0\0") else {
            panic!("an error")
        };
        assert_eq!((code.as_str(), message.as_str()), ("28P01", "no"));
    }
}
