//! The instance that data is copied from: looking at it before anything here is deleted.

use std::time::Duration;

use stolon_core::keeper::Upstream;
use stolon_model::{Lsn, Timeline};
use tokio::net::TcpStream;

use crate::credentials::Credentials;
use crate::error::{PostgresError, Result};
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::quote;
use crate::replication::{Failure, ReplicationConnection, Row};

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
        /// Who.
        user: String,
        /// The server's words.
        reason: String,
    },
    /// It demands TLS; the look beforehand speaks none. The copy itself does (`sslmode=prefer`).
    #[error("PostgreSQL at {address} wants TLS, so it was not looked at beforehand")]
    NeedsTls {
        /// host:port.
        address: String,
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
            Self::Busy { .. } => Some("raise maxStandbys or additionalWalSenders".into()),
            _ => None,
        }
    }
}

const SLOT_POLL: Duration = Duration::from_millis(100);

impl LocalPostgres {
    /// `primary_conninfo` for following `source`, with the password, in the text of the reference.
    pub fn replication_conninfo(&self, source: &Upstream) -> String {
        let password = self.inner.options.replication.password_to_send().unwrap_or_default();
        self.conninfo(source, &self.inner.options.replication, &[("password", password)])
    }

    /// Without a password; `more` pairs are added.
    pub(crate) fn conninfo(&self, source: &Upstream, who: &Credentials, more: &[(&str, &str)]) -> String {
        let pairs = [
            ("user", who.username.as_str()),
            ("host", source.host.as_str()),
            ("port", source.port.as_str()),
            ("application_name", source.application_name.as_str()),
            ("sslmode", "prefer"),
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
        let address = format!("{}:{}", source.host, source.port);
        let replication = &self.inner.options.replication;
        let look = async {
            let port =
                source.port.parse::<u16>().map_err(|_| Failure::Protocol("that is no port".to_owned()))?;
            let stream = TcpStream::connect((source.host.as_str(), port)).await.map_err(Failure::from)?;
            let mut connection =
                ReplicationConnection::new(stream, replication, &source.application_name).await?;
            let identity = connection.query("IDENTIFY_SYSTEM").await?;
            let facts = facts_of(&identity)?;
            let slots = match slot {
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
            // Before 15 the command is not known; then the copy itself finds out.
            Err(Failure::Server { code, .. }) if code == "42601" => {}
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
        let options = &self.inner.options;
        let stream = self.dial().await?;
        let ask = async {
            let mut connection =
                ReplicationConnection::new(stream, &options.replication, "stolon-keeper").await?;
            facts_of(&connection.query("IDENTIFY_SYSTEM").await?)
        };
        limit.guard("asking the local PostgreSQL to identify itself", ask).await?.map_err(|failure| {
            failure.into_problem("the local socket".to_owned(), &options.replication.username).into()
        })
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
            Failure::Server { code, message } => match code.as_str() {
                "28000" if message.contains("no encryption") && message.contains("no pg_hba.conf entry") => {
                    SourceProblem::NeedsTls { address }
                }
                "28P01" | "28000" | "42501" => SourceProblem::Refused { address, user, reason: message },
                "53300" => SourceProblem::Busy { address, reason: message },
                _ => SourceProblem::Other { address, reason: message },
            },
        }
    }
}
