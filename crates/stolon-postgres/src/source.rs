//! The instance that data is copied from: looking at it before anything here is deleted.

use std::path::PathBuf;
use std::time::Duration;

use stolon_core::keeper::{PasswordProtocol, SLOT_DATABASE, Upstream, UpstreamSlots};
use stolon_core::postgres::Version;
use stolon_model::{Lsn, Timeline};

use crate::credentials::{AuthMethod, Credentials};
use crate::error::{PostgresError, Result};
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::quote;
use crate::replication::{Binding, Failure, Line, Peer, ReplicationConnection, Row, Session};
use crate::tls::{self, Connected, PeerTls, SslMode, Stream};

/// What a source said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFacts {
    /// Decimal.
    pub system_identifier: String,
    /// Its timeline.
    pub timeline: Timeline,
    /// Its position.
    pub lsn: Lsn,
}

/// Why a source cannot be copied from now. All but a wrong password may mend themselves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceProblem {
    /// No connection.
    #[error("cannot reach PostgreSQL at {address}: {reason}")]
    Unreachable {
        /// host:port.
        address: String,
        /// The system's words.
        reason: String,
    },
    /// User or password refused.
    #[error("PostgreSQL at {address} refuses the replication user {user}: {reason}")]
    Refused {
        /// host:port.
        address: String,
        /// The name of the replication user.
        user: String,
        /// The server's words.
        reason: String,
    },
    /// It wants the password in a form that gives it away, and nothing proves that it is the source.
    #[error("whoever answers at {address} asks for the password of {user} {asked}, and was not answered")]
    WeakProof {
        /// host:port.
        address: String,
        /// Whose.
        user: String,
        /// How.
        asked: WeakProof,
    },
    /// It has no TLS, which is required.
    #[error("whoever answers at {address} has no TLS, and was told nothing")]
    NoTls {
        /// host:port.
        address: String,
    },
    /// Files of ours do not make a connection over TLS.
    #[error("cannot connect to PostgreSQL at {address} over TLS: {reason}")]
    TlsFiles {
        /// host:port.
        address: String,
        /// Which file, and what is wrong with it.
        reason: String,
    },
    /// No wal sender is free.
    #[error("PostgreSQL at {address} has no free wal sender: {reason}")]
    Busy {
        /// host:port.
        address: String,
        /// The server's words.
        reason: String,
    },
    /// The slot is not there yet.
    #[error("PostgreSQL at {address} has no replication slot {slot} yet")]
    NoSlot {
        /// host:port.
        address: String,
        /// Slot name.
        slot: String,
    },
    /// Another cluster answers there.
    #[error(
        "PostgreSQL at {address} has system identifier {found}, not {wanted}: another database cluster answers there"
    )]
    OtherCluster {
        /// host:port.
        address: String,
        /// What was expected.
        wanted: String,
        /// What answered.
        found: String,
    },
    /// It answered with something else.
    #[error("PostgreSQL at {address} answered: {reason}")]
    Other {
        /// host:port.
        address: String,
        /// The server's words.
        reason: String,
    },
}

/// Ways to prove a password from which whoever asks learns it, or enough to guess it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakProof {
    /// The password itself.
    #[error("in the clear")]
    Cleartext,
    /// A hash of it.
    #[error("by MD5")]
    Md5,
    /// By SCRAM that is not bound to the connection, so that somebody in between could pass it on.
    #[error("without binding it to the connection over TLS")]
    Unbound,
    /// It asked for nothing, and so has not shown that it knows the password.
    #[error("in no way, as only somebody who does not know it would")]
    Unproven,
}

impl SourceProblem {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => {
                Some("is that PostgreSQL running, and does a firewall let us through?".into())
            }
            Self::Refused { .. } => {
                Some("are the replication user and its password the same on every keeper?".into())
            }
            Self::WeakProof { asked: WeakProof::Md5, .. } => Some(
                "set the password anew, so that PostgreSQL stores it for SCRAM; or, where the cluster has to keep MD5, say so with \
                 password_encryption = md5 in pgParameters"
                    .into(),
            ),
            Self::WeakProof { asked: WeakProof::Cleartext, .. } => {
                Some("is that a PostgreSQL of this cluster? Its keeper never asks for a password in the clear".into())
            }
            Self::WeakProof { asked: WeakProof::Unbound | WeakProof::Unproven, .. } => {
                Some("is that a PostgreSQL of this cluster, and is every keeper given scram-sha-256 for that user?".into())
            }
            Self::NoTls { .. } => Some("set ssl = on, with ssl_cert_file and ssl_key_file, in pgParameters".into()),
            Self::TlsFiles { .. } => {
                Some("check --pg-ssl-ca-file, --pg-repl-cert-file and --pg-repl-key".into())
            }
            Self::Busy { .. } => Some("raise maxStandbys or additionalWalSenders".into()),
            _ => None,
        }
    }
}

/// SQLSTATE `invalid_authorization_specification`: no line of `pg_hba.conf` admits the connection.
const INVALID_AUTHORIZATION: &str = "28000";
/// How long a server may take to answer one question.
const ASK_LIMIT: Duration = Duration::from_secs(10);
const SLOT_POLL: Duration = Duration::from_millis(100);

impl LocalPostgres {
    /// `primary_conninfo` for following `source`. The password is in the file that [`LocalPostgres::write_config`] writes with it.
    pub(crate) fn replication_conninfo(&self, source: &Upstream, version: Version) -> String {
        let who = &self.inner.options.replication;
        let file = self.replication_pass_file();
        let file = who.password_to_send().map_or("", |_| file.to_str().unwrap_or_default());
        let database = if source.slots == UpstreamSlots::Copied { SLOT_DATABASE } else { "" };
        self.conninfo(source, who, version, &[("passfile", file), ("dbname", database)])
    }

    /// Without a password; `more` pairs are added.
    pub(crate) fn conninfo(
        &self,
        source: &Upstream,
        who: &Credentials,
        version: Version,
        more: &[(&str, &str)],
    ) -> String {
        let tls = &self.inner.options.tls;
        let text =
            |path: Option<&PathBuf>| path.and_then(|path| path.to_str()).unwrap_or_default().to_owned();
        let ca_file = text(tls.ca_file.as_ref());
        let own = who.certificate.as_ref();
        let (certificate, key) = (text(own.map(|own| &own.certificate)), text(own.map(|own| &own.key)));
        let is_bound = must_be_bound(tls.mode, who) && version.has_channel_binding();
        let shows_certificate = who.auth == AuthMethod::Cert && version.has_require_auth();
        let pairs = [
            ("user", who.username.as_str()),
            ("host", source.host.as_str()),
            ("port", source.port.as_str()),
            ("application_name", source.application_name.as_str()),
            ("sslmode", tls.mode.as_str()),
            ("sslrootcert", &ca_file),
            ("sslcert", &certificate),
            ("sslkey", &key),
            ("sslcertmode", if shows_certificate { "require" } else { "" }),
            ("channel_binding", if is_bound { "require" } else { "" }),
            ("require_auth", accepted_proofs(who, source.passwords, version)),
        ];
        quote::conninfo(pairs.into_iter().chain(more.iter().copied()))
    }

    /// Looks at a source over the replication protocol, as the replication user, without touching anything here or there: it can be
    /// reached, a wal sender is free, it is the same cluster (when `system_identifier` is given) and has the slot (when one is given).
    pub async fn examine_source(
        &self,
        source: &Upstream,
        system_identifier: Option<&str>,
        slot: Option<&str>,
        limit: &Limit,
    ) -> Result<SourceFacts> {
        let version = self.version(limit).await?;
        let address = format!("{}:{}", source.host, source.port);
        let replication = &self.inner.options.replication;
        // Where it cannot be asked for a slot, the copy itself finds out.
        let slot_to_read = slot.filter(|_| version.has_read_replication_slot());
        let look = async {
            let mut connection =
                log_in(source, replication, &self.inner.options.tls, Session::WalSender).await?;
            let identity = connection.query("IDENTIFY_SYSTEM").await?;
            let facts = facts_of(&identity)?;
            let slots = match slot_to_read {
                Some(name) => {
                    connection.query(&format!("READ_REPLICATION_SLOT {}", quote::sql_identifier(name))).await
                }
                None => Ok(vec![vec![Some("physical".to_owned())]]),
            };
            Ok::<_, Failure>((facts, slots))
        };
        let (facts, slots) = limit
            .guard(&format!("looking at PostgreSQL at {address}"), look)
            .await?
            .map_err(|failure| failure.into_problem(address.clone(), &replication.username))?;
        if let Some(wanted) = system_identifier.filter(|wanted| *wanted != facts.system_identifier) {
            let (wanted, found) = (wanted.to_owned(), facts.system_identifier);
            return Err(SourceProblem::OtherCluster { address, wanted, found }.into());
        }
        match slots {
            Err(failure) => return Err(failure.into_problem(address, &replication.username).into()),
            // A slot that is not there is answered with nulls.
            Ok(rows) if rows.first().and_then(|row| row.first()).is_none_or(Option::is_none) => {
                return Err(
                    SourceProblem::NoSlot { address, slot: slot.unwrap_or_default().to_owned() }.into()
                );
            }
            Ok(_) => {}
        }
        Ok(facts)
    }

    /// Who asks a source for what its files hold. A source has our major.
    pub(crate) fn rewinder(&self, version: Version) -> &Credentials {
        let options = &self.inner.options;
        options.rewinder.as_ref().filter(|_| version.can_grant_reading_files()).unwrap_or(&options.superuser)
    }

    /// Asks a source by SQL, as who rewinds: everybody may ask what is asked here.
    pub(crate) async fn ask_source(&self, source: &Upstream, sql: &str, limit: &Limit) -> Result<Vec<Row>> {
        let address = format!("{}:{}", source.host, source.port);
        let who = self.rewinder(self.version(limit).await?);
        let ask = async {
            let tls = &self.inner.options.tls;
            log_in(source, who, tls, Session::Database).await?.query(sql).await
        };
        let answered =
            limit.at_most(ASK_LIMIT).guard(&format!("asking PostgreSQL at {address}"), ask).await?;
        answered.map_err(|failure| failure.into_problem(address, &who.username).into())
    }

    /// [`LocalPostgres::examine_source`] again and again while only the slot is missing; its keeper makes it once
    /// the sentinel has told it to. Other problems end it at once.
    pub async fn wait_for_source(
        &self,
        source: &Upstream,
        system_identifier: Option<&str>,
        slot: Option<&str>,
        limit: &Limit,
    ) -> Result<SourceFacts> {
        let mut missing = None;
        loop {
            let looked = match self.examine_source(source, system_identifier, slot, limit).await {
                Err(PostgresError::Source(problem @ SourceProblem::NoSlot { .. })) => {
                    missing = Some(problem);
                    limit.pause("waiting for the replication slot", SLOT_POLL).await
                }
                Ok(facts) => return Ok(facts),
                Err(error) => Err(error),
            };
            match (looked, missing.take()) {
                (Ok(()), known) => missing = known,
                // What was missing says more than that the time is over.
                (Err(PostgresError::Timeout { .. }), Some(problem)) => return Err(problem.into()),
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// What `IDENTIFY_SYSTEM` says of the local server.
    pub(crate) async fn identify_local(&self, limit: &Limit) -> Result<SourceFacts> {
        const WHAT: &str = "asking the local PostgreSQL to identify itself";
        let superuser = &self.inner.options.superuser;
        let stream = self.dial(limit).await?;
        let ask = async {
            let line = Line { stream, peer: Peer::Ours, binding: Binding::Impossible };
            let mut connection =
                ReplicationConnection::new(line, superuser, "stolon-keeper", Session::WalSender).await?;
            facts_of(&connection.query("IDENTIFY_SYSTEM").await?)
        };
        limit.guard(WHAT, ask).await?.map_err(|failure| {
            failure.into_problem("the local socket".to_owned(), &superuser.username).into()
        })
    }
}

/// SCRAM is bound to the connection wherever the server can be made to prove by it that nobody stands in between.
fn must_be_bound(mode: SslMode, who: &Credentials) -> bool {
    mode.requires_tls() && who.auth == AuthMethod::ScramSha256
}

/// `require_auth`: what may be answered, and what must be asked, where libpq can be told.
fn accepted_proofs(who: &Credentials, stored: PasswordProtocol, version: Version) -> &'static str {
    match (who.auth, stored) {
        _ if !version.has_require_auth() => "",
        (AuthMethod::ScramSha256, _) => "scram-sha-256",
        (AuthMethod::Cert, _) => "none",
        (AuthMethod::Md5, PasswordProtocol::ScramOrMd5) => "!password",
        (AuthMethod::Md5 | AuthMethod::Trust, _) => "!password,!md5",
    }
}

/// As libpq does, so that the copy will come through, too. With `prefer` that is over TLS where the server has it; without where it has
/// not, or has no rule for us with it.
async fn log_in(
    source: &Upstream,
    who: &Credentials,
    tls: &PeerTls,
    session: Session,
) -> Result<ReplicationConnection<Box<dyn Stream>>, Failure> {
    let peer = Peer::Unproven(who.protocol(source.passwords));
    let over = async |tls: &PeerTls| {
        let connected = tls::connect(&source.host, &source.port, tls, who.certificate.as_ref()).await?;
        let Connected { stream, endpoint } = connected;
        let binding = match endpoint {
            Some(hash) if must_be_bound(tls.mode, who) => Binding::Required(hash),
            None if must_be_bound(tls.mode, who) => return Err(Failure::Weak(WeakProof::Unbound)),
            Some(hash) => Binding::Possible(hash),
            None => Binding::Impossible,
        };
        ReplicationConnection::new(Line { stream, peer, binding }, who, &source.application_name, session)
            .await
    };
    match over(tls).await {
        Err(Failure::Server { code, .. }) if code == INVALID_AUTHORIZATION && tls.mode == SslMode::Prefer => {
            over(&PeerTls { mode: SslMode::Disable, ca_file: None }).await
        }
        done => done,
    }
}

fn facts_of(rows: &[Row]) -> Result<SourceFacts, Failure> {
    let text = |column: usize| rows.first().and_then(|row| row.get(column)).and_then(Option::as_deref);
    let facts = || {
        Some(SourceFacts {
            system_identifier: text(0)?.to_owned(),
            timeline: Timeline(text(1)?.parse().ok()?),
            lsn: text(2)?.parse().ok()?,
        })
    };
    facts().ok_or_else(|| Failure::Protocol("IDENTIFY_SYSTEM was not answered as expected".to_owned()))
}

impl Failure {
    fn into_problem(self, address: String, user: &str) -> SourceProblem {
        let user = user.to_owned();
        match self {
            Failure::Io(error) => SourceProblem::Unreachable { address, reason: error.to_string() },
            Failure::Protocol(reason) => SourceProblem::Other { address, reason },
            Failure::Weak(asked) => SourceProblem::WeakProof { address, user, asked },
            Failure::NoTls => SourceProblem::NoTls { address },
            Failure::Files(reason) => SourceProblem::TlsFiles { address, reason },
            Failure::Server { code, message } => match code.as_str() {
                "28P01" | "28000" | "42501" => SourceProblem::Refused { address, user, reason: message },
                "53300" => SourceProblem::Busy { address, reason: message },
                _ => SourceProblem::Other { address, reason: message },
            },
        }
    }
}
