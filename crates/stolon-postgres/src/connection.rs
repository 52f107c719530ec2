//! SQL to the local server as the superuser: one connection that is kept, and short ones for long commands.

use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::error::{PostgresError, Result};
use crate::limit::Limit;
use crate::local::LocalPostgres;

/// The rows of each statement of a simple query, all values as text.
pub(crate) type Answers = Vec<Vec<SimpleQueryRow>>;

impl LocalPostgres {
    fn connection_config(&self) -> Result<tokio_postgres::Config> {
        let options = &self.inner.options;
        let port = options
            .port
            .parse::<u16>()
            .map_err(|_| PostgresError::Invalid(format!("\"{}\" is not a port number", options.port)))?;
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&options.socket_directory)
            .port(port)
            .user(&options.superuser.username)
            .dbname("postgres")
            .application_name("stolon-keeper")
            // Nothing of ours waits for standbys, or runs what a user put into a schema or a role's settings.
            .options(
                "-c synchronous_commit=local -c search_path=pg_catalog -c default_transaction_read_only=off",
            );
        if let Some(password) = options.superuser.password_to_send() {
            config.password(password.reveal());
        }
        Ok(config)
    }

    /// A new connection.
    pub(crate) async fn connect(&self, limit: &Limit) -> Result<Client> {
        let config = self.connection_config()?;
        let (client, connection) = limit
            .guard("connecting to the local PostgreSQL", config.connect(NoTls))
            .await?
            .map_err(PostgresError::sql("connect to the local PostgreSQL"))?;
        // Ends when the client is dropped or the server goes away; errors reach the client's own calls.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Runs statements over the kept connection, which is made anew when it has gone. After a timeout or a
    /// broken connection it is dropped, so that the next call starts clean.
    pub(crate) async fn query(&self, what: &str, sql: &str, limit: &Limit) -> Result<Answers> {
        let mut kept = limit.guard(what, self.inner.connection.lock()).await?;
        let client = match kept.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.connect(limit).await?,
        };
        match limit.guard(what, client.simple_query(sql)).await? {
            Ok(messages) => {
                *kept = Some(client);
                Ok(answers(messages))
            }
            Err(error) => {
                if error.as_db_error().is_some() && !client.is_closed() {
                    *kept = Some(client);
                }
                Err(PostgresError::sql(what)(error))
            }
        }
    }

    /// The single value of a query.
    pub(crate) async fn query_value(&self, what: &str, sql: &str, limit: &Limit) -> Result<Option<String>> {
        let answers = self.query(what, sql, limit).await?;
        Ok(answers.first().and_then(|rows| rows.first()).and_then(|row| row.get(0)).map(str::to_owned))
    }

    /// Forgets the kept connection; one that is in use ends by itself.
    pub(crate) fn disconnect(&self) {
        if let Ok(mut kept) = self.inner.connection.try_lock() {
            *kept = None;
        }
    }

    /// `pg_is_in_recovery()`.
    pub async fn is_in_recovery(&self, limit: &Limit) -> Result<bool> {
        let value =
            self.query_value("ask whether it is in recovery", "SELECT pg_is_in_recovery()", limit).await?;
        Ok(value.as_deref() == Some("t"))
    }

    /// Runs CHECKPOINT over a connection of its own, without anybody waiting for it, so that the next `pg_rewind` from here finds the new
    /// timeline in the control file (before 16 it reads it there).
    pub(crate) fn checkpoint_in_background(&self, limit: &Limit) {
        let server = self.clone();
        let limit = limit.renewed(Duration::from_secs(600));
        tokio::spawn(async move {
            let done = async {
                let client = server.connect(&limit).await?;
                limit
                    .guard("the checkpoint after the promotion", client.batch_execute("CHECKPOINT"))
                    .await?
                    .map_err(PostgresError::sql("make the checkpoint after the promotion"))
            };
            if let Err(error) = done.await {
                tracing::warn!("{error}");
            }
        });
    }
}

fn answers(messages: Vec<SimpleQueryMessage>) -> Answers {
    let mut all = Vec::new();
    let mut rows = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => rows.push(row),
            SimpleQueryMessage::CommandComplete(_) => all.push(std::mem::take(&mut rows)),
            _ => {}
        }
    }
    all
}
