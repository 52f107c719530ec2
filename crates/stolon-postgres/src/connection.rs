//! SQL to the local server as the superuser: one connection that is kept, and short ones for long commands.

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::data_directory;
use crate::error::{Mismatch, PostgresError, Result};
use crate::limit::Limit;
use crate::local::LocalPostgres;

/// SQLSTATE `too_many_connections`.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// The rows of each statement of a simple query, all values as text.
pub(crate) type Answers = Vec<Vec<SimpleQueryRow>>;

impl LocalPostgres {
    fn connection_config(&self) -> tokio_postgres::Config {
        let options = &self.inner.options;
        let mut config = tokio_postgres::Config::new();
        config
            .user(&options.superuser.username)
            .dbname("postgres")
            .application_name("stolon-keeper")
            // Nothing of ours waits for standbys, or runs what a user put into a schema or a role's settings.
            .options(
                "-c synchronous_commit=local -c search_path=pg_catalog -c default_transaction_read_only=off",
            );
        if let Some(password) = options.superuser.password_to_send() {
            config.password(password.expose_secret());
        }
        config
    }

    /// A new connection, to a server that has shown that it is ours.
    pub(crate) async fn connect(&self, limit: &Limit) -> Result<Client> {
        const CONNECTING: &str = "connecting to the local PostgreSQL";
        let stream = self.dial(limit).await?;
        let (client, connection) = limit
            .guard(CONNECTING, self.connection_config().connect_raw(stream, NoTls))
            .await?
            .map_err(PostgresError::sql("connect to the local PostgreSQL"))?;
        // Ends when the client is dropped or the server goes away; errors reach the client's own calls.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        self.has_our_data(&client, limit).await?;
        Ok(client)
    }

    /// The server says which data it works on, and they are ours.
    async fn has_our_data(&self, client: &Client, limit: &Limit) -> Result<()> {
        const WHAT: &str = "asking the local PostgreSQL which data it works on";
        const IDENTITY: &str =
            "SELECT current_setting('data_directory'), (SELECT system_identifier FROM pg_control_system())";
        let messages = limit
            .guard(WHAT, client.simple_query(IDENTITY))
            .await?
            .map_err(PostgresError::sql("ask the local PostgreSQL which data it works on"))?;
        let rows = answers(messages);
        let row = rows.first().and_then(|rows| rows.first());
        let text = |column| row.and_then(|row| row.get(column)).unwrap_or_default().to_owned();
        let (directory, identifier) = (text(0), text(1));
        let (ours, address) = (self.data_directory(), self.socket_directory().display().to_string());
        let compare = move || {
            let same = std::fs::canonicalize(&directory)
                .is_ok_and(|found| std::fs::canonicalize(&ours).is_ok_and(|ours| ours == found));
            let wanted = data_directory::system_identifier(&ours)?;
            let mismatch = match (same, identifier == wanted) {
                (true, true) => return Ok(()),
                (true, false) => Mismatch::SystemIdentifier { found: identifier, wanted },
                (false, _) => {
                    Mismatch::DataDirectory { found: directory, wanted: ours.display().to_string() }
                }
            };
            Err(PostgresError::Stranger { address, mismatch })
        };
        self.look_at_disk(WHAT, limit, compare).await
    }

    /// Runs statements over the kept connection, which is made anew when it has gone. After a timeout or a
    /// broken connection it is dropped, so that the next call starts clean.
    pub(crate) async fn query(&self, what: &str, sql: &str, limit: &Limit) -> Result<Answers> {
        let mut kept = limit.guard(what, self.inner.connection.lock()).await?;
        let client = match kept.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.connect(limit).await?,
        };
        let (answers, client) = ask(client, what, sql, limit).await;
        *kept = client;
        answers
    }

    /// Runs statements over a new connection, as a client would come in: a postmaster that hangs lets the sessions that it has
    /// go on answering. It takes the place of the kept one.
    pub(crate) async fn query_anew(&self, what: &str, sql: &str, limit: &Limit) -> Result<Answers> {
        let client = match self.connect(limit).await {
            // Said by a postmaster that does take connections: what is wanted to know can be asked over the kept one.
            Err(PostgresError::Sql { code: Some(code), .. }) if code == TOO_MANY_CONNECTIONS => {
                return self.query(what, sql, limit).await;
            }
            connected => connected?,
        };
        let (answers, client) = ask(client, what, sql, limit).await;
        if let Ok(mut kept) = self.inner.connection.try_lock() {
            *kept = client;
        }
        answers
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
            if let Err(error) = server.checkpoint(&limit).await {
                tracing::warn!("{error}");
            }
        });
    }

    /// Makes a checkpoint now, as fast as it can be made.
    ///
    /// # Errors
    /// The server does not answer, refuses it, or does not end it within `limit`.
    pub(crate) async fn checkpoint(&self, limit: &Limit) -> Result<()> {
        let client = self.connect(limit).await?;
        limit
            .guard("a checkpoint", client.batch_execute("CHECKPOINT"))
            .await?
            .map_err(PostgresError::sql("make a checkpoint"))
    }
}

/// The answers, and the client where it can be used again: not after a timeout or a broken connection.
async fn ask(client: Client, what: &str, sql: &str, limit: &Limit) -> (Result<Answers>, Option<Client>) {
    match limit.guard(what, client.simple_query(sql)).await {
        Ok(Ok(messages)) => (Ok(answers(messages)), Some(client)),
        Ok(Err(error)) => {
            let is_whole = error.as_db_error().is_some() && !client.is_closed();
            (Err(PostgresError::sql(what)(error)), is_whole.then_some(client))
        }
        Err(over) => (Err(over), None),
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
