//! The legacy PostgreSQL that an operator has before the migration.

use std::time::Duration;

use stolon_local::{Layout, Ports, Process, Server, Target};

use super::{QUERY, legacy_server};

/// The application's database.
pub const DATABASE: &str = "shop";

/// Parameters that were tuned over the years.
const SETTINGS: &str = "\
max_connections = 300
max_prepared_transactions = 100
shared_preload_libraries = 'pg_stat_statements'
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
max_wal_size = 4GB
log_min_messages = warning
";

/// What an application keeps beside pgbench's tables: texts, nulls, a sequence in the middle of its life, a view.
const APPLICATION: &str = "\
create extension pg_stat_statements;
create table orders (id serial primary key, placed timestamptz not null, customer text, amount numeric(12,2), note text);
insert into orders (placed, customer, amount, note)
    select timestamptz '2020-02-29 12:00:00+00' + number * interval '37 minutes', 'Kunde Nr. ' || number % 977,
           (number * 7919 % 1000000) / 100.0, case when number % 3 = 0 then null else repeat('naïve “text” ', number % 7) end
    from generate_series(1, 20000) as number;
create index on orders (customer);
create view turnover as select customer, sum(amount) as amount from orders group by customer;
create role clerk;
grant select on orders to clerk;
";

/// The running legacy server.
pub struct Legacy {
    /// How to connect.
    pub server: Server,
    process: Process,
}

impl Legacy {
    /// Make the server, empty, and start it.
    pub async fn start(layout: &Layout) -> anyhow::Result<Legacy> {
        let server = legacy_server(layout, Ports::default().take()?);
        server.create(SETTINGS).await?;
        let process = server.start().await?;
        Ok(Legacy { server, process })
    }

    /// Load the data, and create the two users that a cluster needs. Replication is allowed from this machine already.
    pub async fn fill(&self, layout: &Layout, scale: u32) -> anyhow::Result<()> {
        self.load(scale).await?;
        let users = &layout.credentials;
        self.server
            .create_user(&["-s", "--replication"], &users.superuser, &users.superuser_password)
            .await?;
        self.server
            .create_user(&["--replication"], &users.replication_user, &users.replication_password)
            .await
    }

    async fn load(&self, scale: u32) -> anyhow::Result<()> {
        let session = self.server.target().connect(QUERY).await?;
        session.rows(&format!("create database {DATABASE}"), QUERY).await?;
        let (scale, port) = (scale.to_string(), self.server.port.to_string());
        let arguments =
            ["-i", "-q", "-s", &scale, "-h", "127.0.0.1", "-p", &port, "-U", "postgres", DATABASE];
        self.server.tool("pgbench", &arguments.map(std::ffi::OsStr::new), "").await?;
        // Updates, so that no table is as it was made.
        let arguments =
            ["-n", "-t", "100", "-c", "4", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", DATABASE];
        self.server.tool("pgbench", &arguments.map(std::ffi::OsStr::new), "").await?;
        let session = self.application().connect(QUERY).await?;
        session.rows(APPLICATION, QUERY).await?;
        Ok(())
    }

    /// The application's database, as superuser.
    pub fn application(&self) -> Target {
        self.server.target().database(DATABASE)
    }

    /// How `stolonctl migrate` and the keepers connect to it; the password lies in a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn source(&self, layout: &Layout) -> anyhow::Result<String> {
        let (users, file) = (&layout.credentials, self.server.directory.join("pgpass"));
        self.server.account.write_private(&file, &format!("*:*:*:*:{}\n", users.superuser_password))?;
        let (port, user) = (self.server.port, &users.superuser);
        Ok(format!("host=127.0.0.1 port={port} user={user} passfile={}", file.display()))
    }

    /// What is special about this server, in one phrase.
    pub async fn describe(&self) -> anyhow::Result<String> {
        let session = self.application().connect(QUERY).await?;
        let size =
            session.value("select pg_size_pretty(pg_database_size(current_database()))", QUERY).await?;
        Ok(format!("{size}, max_connections 300, max_prepared_transactions 100, pg_stat_statements"))
    }

    /// Stop the server.
    pub async fn stop(&self) {
        self.process.signal(rustix::process::Signal::INT);
        // A server that does not stop is killed later with everything that works in this directory.
        let _ = tokio::time::timeout(Duration::from_secs(10), self.process.exited()).await;
    }
}
