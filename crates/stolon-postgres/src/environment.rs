//! What the programs of PostgreSQL get of the keeper's environment: all of it, so that an `archive_command` finds what its operator
//! gave it (`PGBACKREST_*`, `AWS_*`, `PATH`), but for what is not the environment's to say.

use tokio::process::Command;

/// Which environment a child gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Environment {
    /// Ours without [`NOT_FOR_POSTGRES`], messages in English.
    Clean,
    /// The same with the language as it is (`initdb` takes the cluster's locale from it).
    CleanKeepLanguage,
    /// Ours but for the keeper's own settings (the user's restore command, which may well connect to a PostgreSQL as its operator says).
    Operators,
}

/// The keeper's own settings, which may hold passwords.
const KEEPER_PREFIX: &str = "STKEEPER_";

/// Names that do not reach PostgreSQL and its tools, with what they would do there (PostgreSQL manual, "Environment Variables" of
/// libpq; postgres, initdb, pg_basebackup, "Environment").
const NOT_FOR_POSTGRES: &[&str] = &[
    // Which data, and which port: said on the command line and in postgresql.conf.
    "PGDATA",
    "PGPORT",
    // Whom libpq connects to, and as whom: it would fill up what a connection string leaves open, also in the server's WAL receiver.
    "PGHOST",
    "PGHOSTADDR",
    "PGDATABASE",
    "PGUSER",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PGTARGETSESSIONATTRS",
    "PGLOADBALANCEHOSTS",
    // Secrets of others, one of which would win over our own file.
    "PGPASSWORD",
    "PGPASSFILE",
    // How to prove who one is, and which proofs to accept: ours depends on the peer.
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGCHANNELBINDING",
    "PGKRBSRVNAME",
    "PGGSSLIB",
    "PGGSSENCMODE",
    "PGGSSDELEGATION",
    // How to encrypt: every keeper of a cluster has to do it alike.
    "PGSSLMODE",
    "PGREQUIRESSL",
    "PGSSLNEGOTIATION",
    "PGSSLCOMPRESSION",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLCERTMODE",
    "PGSSLROOTCERT",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLSNI",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLMAXPROTOCOLVERSION",
    "PGMINPROTOCOLVERSION",
    "PGMAXPROTOCOLVERSION",
    // How long to wait: our tools and standbys have limits of their own.
    "PGCONNECT_TIMEOUT",
    // Settings of a session: they would change what our tools' queries mean, and defaults of the server.
    "PGOPTIONS",
    "PGAPPNAME",
    "PGCLIENTENCODING",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
    // Where messages in other languages are found: we read them in English.
    "PGLOCALEDIR",
    // Who tells the service manager that the service is up: the keeper.
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// Gives a command the environment that it is to have.
pub(crate) fn prepare_environment(command: &mut Command, environment: Environment) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_not_theirs = environment != Environment::Operators && NOT_FOR_POSTGRES.contains(&&*text);
        if text.starts_with(KEEPER_PREFIX) || is_not_theirs {
            command.env_remove(&name);
        }
    }
    if environment == Environment::Clean {
        // LC_ALL would overrule LC_MESSAGES; its meaning for the other categories is kept.
        if let Some(all) = std::env::var_os("LC_ALL").filter(|value| !value.is_empty()) {
            for category in ["LANG", "LC_COLLATE", "LC_CTYPE", "LC_MONETARY", "LC_NUMERIC", "LC_TIME"] {
                command.env(category, &all);
            }
        }
        command.env_remove("LC_ALL").env_remove("LANGUAGE").env("LC_MESSAGES", "C");
    }
}
