//! What `migrate check` says: one finding for each thing that it looked at.

use serde::Serialize;

/// How much a finding stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is to be done.
    Ok,
    /// The migration can run; what is lost, left out or not known is said.
    Warning,
    /// The migration cannot run like this.
    Blocks,
}

impl Level {
    /// The word that the output has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Blocks => "blocks",
        }
    }
}

/// A term of PostgreSQL's manual, or of this project's, for what was looked at. The words are part of the JSON output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    Method,
    Privileges,
    Reachability,
    WalLevel,
    WalSenders,
    ReplicationSlots,
    AlterSystem,
    Connections,
    Databases,
    Extensions,
    PreloadLibraries,
    Tablespaces,
    Encodings,
    Collations,
    Room,
    Settings,
    Hba,
    Roles,
    OtherSlots,
    Publications,
    Subscriptions,
    PreparedTransactions,
    Archive,
    Keys,
    UnloggedTables,
    LargeObjects,
    Sequences,
    Columns,
    EventTriggers,
    ForeignServers,
    InvalidIndexes,
    Transfer,
}

impl Subject {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Subject::Method => "method",
            Subject::Privileges => "privileges",
            Subject::Reachability => "reachability",
            Subject::WalLevel => "wal_level",
            Subject::WalSenders => "WAL senders",
            Subject::ReplicationSlots => "free replication slots",
            Subject::AlterSystem => "ALTER SYSTEM",
            Subject::Connections => "connections",
            Subject::Databases => "databases",
            Subject::Extensions => "extensions",
            Subject::PreloadLibraries => "preload libraries",
            Subject::Tablespaces => "tablespaces",
            Subject::Encodings => "encodings",
            Subject::Collations => "collations",
            Subject::Room => "room",
            Subject::Settings => "settings",
            Subject::Hba => "pg_hba.conf",
            Subject::Roles => "roles",
            Subject::OtherSlots => "replication slots in use",
            Subject::Publications => "publications",
            Subject::Subscriptions => "subscriptions",
            Subject::PreparedTransactions => "prepared transactions",
            Subject::Archive => "archive",
            Subject::Keys => "tables without a key",
            Subject::UnloggedTables => "unlogged tables",
            Subject::LargeObjects => "large objects",
            Subject::Sequences => "sequences",
            Subject::Columns => "generated and identity columns",
            Subject::EventTriggers => "event triggers",
            Subject::ForeignServers => "foreign servers",
            Subject::InvalidIndexes => "invalid indexes",
            Subject::Transfer => "transfer",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it stands in the way.
    pub level: Level,
    /// What was looked at.
    pub subject: Subject,
    /// What was found, as one sentence without a full stop.
    pub sentence: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What it is about: tables, roles, settings. At most [`NAMES`] of each database.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// How many names of one kind are read from one database.
pub const NAMES: usize = 1000;

impl Finding {
    /// Nothing is to be done.
    pub fn ok(subject: Subject, sentence: impl Into<String>) -> Finding {
        Finding::of(Level::Ok, subject, sentence)
    }

    /// Something is lost, left out or not known.
    pub fn warning(subject: Subject, sentence: impl Into<String>) -> Finding {
        Finding::of(Level::Warning, subject, sentence)
    }

    /// It cannot be done like this.
    pub fn blocks(subject: Subject, sentence: impl Into<String>) -> Finding {
        Finding::of(Level::Blocks, subject, sentence)
    }

    fn of(level: Level, subject: Subject, sentence: impl Into<String>) -> Finding {
        Finding { level, subject, sentence: sentence.into(), hint: None, names: Vec::new() }
    }

    /// With what to do.
    pub fn hint(self, hint: impl Into<String>) -> Finding {
        Finding { hint: Some(hint.into()), ..self }
    }

    /// With what it is about.
    pub fn names(self, names: impl IntoIterator<Item = String>) -> Finding {
        Finding { names: names.into_iter().collect(), ..self }
    }
}

/// `1 table`, `3 tables`; `plural` for words that take more than an s.
pub fn counted(number: u64, singular: &str, plural: &str) -> String {
    match number {
        1 => format!("1 {singular}"),
        number => format!("{number} {plural}"),
    }
}
