//! Another PostgreSQL, reached by a connection string of an operator: what a database is migrated from.

use std::borrow::Cow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use secrecy::{ExposeSecret, SecretString};
use stolon_model::{Advise, with_causes};
use tokio::net::UnixStream;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::conninfo::{Conninfo, Place};
use crate::credentials::ClientCertificate;
use crate::error::PostgresError;
use crate::limit::Limit;
use crate::replication::Failure;
use crate::tls::{self, PeerTls, SslMode, Stream};

/// The option of a connection for which no library is loaded. Only superusers may use it.
pub const NO_LIBRARIES: &str = "-c session_preload_libraries=";
/// How long one server may take to let us in.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Why another PostgreSQL does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ForeignProblem {
    /// No connection.
    #[error("cannot reach PostgreSQL at {place}: {reason}")]
    Unreachable {
        /// The server that was tried.
        place: Place,
        /// The system's words.
        reason: String,
    },
    /// It answered, and does not let us in.
    #[error("PostgreSQL at {place} refuses {user}: {message}")]
    Refused {
        /// The server that was tried.
        place: Place,
        /// The role.
        user: String,
        /// The server's words.
        message: String,
        /// SQLSTATE; none where it was no answer of a server.
        code: Option<String>,
    },
    /// None of the servers takes writes.
    #[error("no PostgreSQL of {places} is a primary")]
    NoPrimary {
        /// The servers that were tried.
        places: String,
    },
    /// The password file is not used.
    #[error("the password file {} {reason}", file.display())]
    Passfile {
        /// Its path.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `sslmode` has another word.
    #[error("there is no sslmode {0}")]
    SslMode(String),
    /// A statement failed, or the time was over.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

impl ForeignProblem {
    /// SQLSTATE of what the server said.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } | Self::Postgres(PostgresError::Sql { code, .. }) => code.as_deref(),
            _ => None,
        }
    }
}

impl Advise for ForeignProblem {
    fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Unreachable { .. } => {
                Some(Cow::Borrowed("is it running, and does a firewall let us through?"))
            }
            Self::Refused { .. } => Some(Cow::Borrowed(
                "check the user, the password in the passfile (host:port:database:user:password), and the server's pg_hba.conf",
            )),
            Self::NoPrimary { .. } => {
                Some(Cow::Borrowed("name the server that takes writes, or all of them, separated by commas"))
            }
            Self::Passfile { .. } => Some(Cow::Borrowed("make it readable by you alone: chmod 600")),
            Self::SslMode(_) => {
                Some(Cow::Borrowed("it is one of disable, prefer, require, verify-ca, verify-full"))
            }
            Self::Postgres(error) => error.hint().map(Cow::from),
        }
    }
}

/// How a session is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// As any client would.
    Ordinary,
    /// As a superuser for whom no library is loaded, so that it gets in where others are kept out by one that does not exist.
    /// Others than superusers are refused.
    PastLibraries,
}

/// Which server, and how.
#[derive(Clone, Copy, Debug)]
pub struct Door<'a> {
    /// Where it listens.
    pub place: &'a Place,
    /// The server whose password is shown: the same one, or the one that this one is a copy of.
    pub password_of: &'a Place,
    /// None: the one that the connection string names, or `postgres`.
    pub database: Option<&'a str>,
    /// As whom.
    pub entry: Entry,
}

/// A session with another PostgreSQL; it is closed when this is dropped.
pub struct ForeignSession {
    client: Client,
    place: Place,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for ForeignSession {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Connect to the primary among the servers that a connection string names. `database`: none for the one that the string names, or
/// `postgres`.
///
/// # Errors
/// None of them can be reached, lets us in, and is a primary; the problem is the last one that was met.
pub async fn connect_primary(
    conninfo: &Conninfo,
    database: Option<&str>,
    entry: Entry,
    limit: &Limit,
) -> Result<ForeignSession, ForeignProblem> {
    let places = conninfo.places();
    let mut problem = None;
    for place in &places {
        match enter(conninfo, Door { place, password_of: place, database, entry }, limit).await {
            Ok(session)
                if session.value("SELECT pg_is_in_recovery()", limit).await?.as_deref() == Some("f") =>
            {
                return Ok(session);
            }
            Ok(_) => {}
            Err(met) => problem = Some(met),
        }
    }
    let names: Vec<String> = places.iter().map(Place::to_string).collect();
    Err(problem.unwrap_or(ForeignProblem::NoPrimary { places: names.join(", ") }))
}

/// Connect to one server, primary or not.
///
/// # Errors
/// It cannot be reached, or does not let us in.
pub async fn enter(
    conninfo: &Conninfo,
    door: Door<'_>,
    limit: &Limit,
) -> Result<ForeignSession, ForeignProblem> {
    let Door { place, password_of, database, entry } = door;
    let user = conninfo.get("user").unwrap_or_default();
    let database = database.or_else(|| conninfo.get("dbname")).unwrap_or("postgres");
    let mut config = tokio_postgres::Config::new();
    let options = "-c search_path=pg_catalog -c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 \
        -c synchronous_commit=local";
    config.user(user).dbname(database).application_name("stolonctl migrate");
    match entry {
        Entry::Ordinary => config.options(options),
        Entry::PastLibraries => config.options(format!("{options} {NO_LIBRARIES}")),
    };
    if let Some(password) = password(conninfo, password_of, database)? {
        config.password(password.expose_secret());
    }
    let limit = limit.at_most(CONNECT_LIMIT);
    let what = format!("connecting to PostgreSQL at {place}");
    let stream = limit.guard(&what, dial(conninfo, place)).await??;
    let connected = limit.guard(&what, config.connect_raw(stream, NoTls)).await?;
    let (client, connection) = connected.map_err(|error| {
        let said = error.as_db_error();
        ForeignProblem::Refused {
            place: place.clone(),
            user: user.to_owned(),
            message: said.map_or_else(|| with_causes(&error), |said| said.message().to_owned()),
            code: said.map(|said| said.code().code().to_owned()),
        }
    })?;
    // It ends when the client is dropped or the server goes away; errors reach the client's own calls.
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(ForeignSession { client, place: place.clone(), connection })
}

async fn dial(conninfo: &Conninfo, place: &Place) -> Result<Box<dyn Stream>, ForeignProblem> {
    let unreachable = |reason: String| ForeignProblem::Unreachable { place: place.clone(), reason };
    if place.host.starts_with('/') {
        let socket = Path::new(&place.host).join(format!(".s.PGSQL.{}", place.port));
        let stream = UnixStream::connect(socket).await;
        return stream
            .map(|stream| Box::new(stream) as Box<dyn Stream>)
            .map_err(|error| unreachable(error.to_string()));
    }
    let file = |key| conninfo.get(key).map(PathBuf::from);
    let certificate = match (file("sslcert"), file("sslkey")) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        _ => None,
    };
    let over = async |mode| {
        let tls = PeerTls { mode, ca_file: file("sslrootcert") };
        tls::connect(&place.host, &place.port, &tls, certificate.as_ref()).await
    };
    match over(ssl_mode(conninfo)?).await {
        Ok(connected) => Ok(connected.stream),
        Err(Failure::Io(error)) => Err(unreachable(error.to_string())),
        Err(Failure::NoTls) => Err(unreachable("it has no TLS, and was told nothing".to_owned())),
        Err(Failure::Files(reason) | Failure::Protocol(reason)) => Err(unreachable(reason)),
        Err(Failure::Weak(proof)) => Err(unreachable(proof.to_string())),
        Err(Failure::Server { message, .. }) => Err(unreachable(message)),
    }
}

fn ssl_mode(conninfo: &Conninfo) -> Result<SslMode, ForeignProblem> {
    match conninfo.get("sslmode") {
        None | Some("allow") => Ok(SslMode::Prefer),
        Some(word) => SslMode::ALL
            .into_iter()
            .find(|mode| mode.as_str() == word)
            .ok_or_else(|| ForeignProblem::SslMode(word.to_owned())),
    }
}

/// The password of the first line that fits, from the file that the string names, else from the usual place
/// (PostgreSQL manual, "The Password File"). None where no line fits.
///
/// # Errors
/// The file cannot be used.
pub fn password(
    conninfo: &Conninfo,
    place: &Place,
    database: &str,
) -> Result<Option<SecretString>, ForeignProblem> {
    let named = conninfo.get("passfile").map(PathBuf::from);
    let usual = || {
        let own = std::env::var_os("PGPASSFILE").map(PathBuf::from);
        own.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pgpass")))
    };
    let Some(file) = named.clone().or_else(usual) else { return Ok(None) };
    let bad = |reason: String| ForeignProblem::Passfile { file: file.clone(), reason };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(_) if named.is_none() => return Ok(None),
        Err(error) => return Err(bad(format!("cannot be read: {error}"))),
    };
    let mode = std::fs::metadata(&file).map_err(|error| bad(format!("cannot be read: {error}")))?;
    if mode.permissions().mode() & 0o077 != 0 {
        return Err(bad("can be read by others, so it is not used".to_owned()));
    }
    let user = conninfo.get("user").unwrap_or_default();
    // What has no host is asked for under the name of its socket's directory, and under this one.
    let host = if place.host.starts_with('/') { "localhost" } else { &place.host };
    let wanted = [host, &place.port, database, user];
    Ok(text.lines().find_map(|line| password_of(line, wanted)).map(SecretString::from))
}

/// The password of a line that fits.
fn password_of(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => fields.push(String::new()),
            '\\' => fields.last_mut()?.extend(characters.next()),
            other => fields.last_mut()?.push(other),
        }
    }
    let password = fields.get(4)?.clone();
    let fits = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
    fits.then_some(password)
}

impl ForeignSession {
    /// Where it is connected to.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Run statements; the rows of the last one, all values as text. Several statements are one transaction.
    ///
    /// # Errors
    /// PostgreSQL refuses them, or the time is over: then they may go on there.
    pub async fn rows(&self, sql: &str, limit: &Limit) -> Result<Vec<SimpleQueryRow>, ForeignProblem> {
        let what = format!("a question to PostgreSQL at {}", self.place);
        let answered = limit.guard(&what, self.client.simple_query(sql)).await?;
        let place = &self.place;
        let messages = answered.map_err(PostgresError::sql(&format!("ask PostgreSQL at {place}")))?;
        let mut rows = Vec::new();
        for message in messages {
            match message {
                SimpleQueryMessage::Row(row) => rows.push(row),
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                _ => {}
            }
        }
        Ok(rows)
    }

    /// How many bytes a COPY … TO STDOUT sends until the limit ends, or there are `most`. The session ends with it, and the rest of
    /// the copy with the session.
    ///
    /// # Errors
    /// PostgreSQL refuses it, or goes away.
    pub async fn copy_for(self, copy: &str, limit: &Limit, most: u64) -> Result<u64, ForeignProblem> {
        let what = format!("a copy from PostgreSQL at {}", self.place);
        let refused = || PostgresError::sql(&what);
        let stream = limit.guard(&what, self.client.copy_out(copy)).await?.map_err(refused())?;
        let mut stream = std::pin::pin!(stream);
        let mut bytes = 0;
        while bytes < most {
            match limit.guard(&what, stream.next()).await {
                Ok(Some(part)) => bytes += part.map_err(refused())?.len() as u64,
                Ok(None) | Err(PostgresError::Timeout { .. }) => break,
                Err(called_off) => return Err(called_off.into()),
            }
        }
        Ok(bytes)
    }

    /// The single value of a query, as text; none: null, or no row.
    ///
    /// # Errors
    /// As [`ForeignSession::rows`].
    pub async fn value(&self, sql: &str, limit: &Limit) -> Result<Option<String>, ForeignProblem> {
        let rows = self.rows(sql, limit).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_password_file_that_fits_counts() {
        let wanted = ["10.0.0.1", "5432", "postgres", "a:b"];
        for (line, password) in [
            (r"10.0.0.1:5432:postgres:a\:b:pass", Some("pass")),
            (r"*:*:*:*:with\:colon\\", Some(r"with:colon\")),
            (r"10.0.0.2:*:*:*:other", None),
            (r"#*:*:*:*:comment", None),
            ("*:*:*", None),
        ] {
            assert_eq!(password_of(line, wanted).as_deref(), password, "{line}");
        }
    }
}
