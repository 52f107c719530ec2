//! What `migrate verify` found: one row for each thing that was compared.

use serde::Serialize;

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Both sides have the same.
    Holds,
    /// They need not be the same; said for whoever wonders.
    Noted,
    /// It could not be compared, so nothing is known.
    NotCompared,
    /// They have not.
    Differs,
}

impl Outcome {
    /// The word that the table has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Holds => "ok",
            Outcome::Noted => "note",
            Outcome::NotCompared => "unknown",
            Outcome::Differs => "DIFFERS",
        }
    }

    /// Whether `migrate verify` may end well with it.
    pub fn is_good(self) -> bool {
        matches!(self, Outcome::Holds | Outcome::Noted)
    }
}

/// One thing that was compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// Its database; empty for what belongs to the whole server.
    pub database: String,
    /// `table`, `indexes`, …
    pub kind: &'static str,
    /// Its name, where it has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether it holds.
    pub outcome: Outcome,
    /// Rows on the side that is written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// What was found, in words.
    pub found: String,
    /// What differs, one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

impl Compared {
    /// Something of a database without a name of its own.
    pub fn of(database: &str, kind: &'static str, outcome: Outcome, found: impl Into<String>) -> Compared {
        Compared {
            database: database.to_owned(),
            kind,
            name: String::new(),
            outcome,
            rows: None,
            found: found.into(),
            differences: Vec::new(),
        }
    }

    /// A table.
    pub fn table(database: &str, name: &str, outcome: Outcome, found: impl Into<String>) -> Compared {
        Compared { name: name.to_owned(), ..Compared::of(database, "table", outcome, found) }
    }
}
