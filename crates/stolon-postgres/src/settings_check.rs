//! Would this PostgreSQL accept these settings? The real binary is asked, beside the running server.

/// A parameter that the binary refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedSetting {
    /// Its name as written; empty when the refusal names none.
    pub name: String,
    /// Its value as written.
    pub value: String,
    /// PostgreSQL's own words.
    pub message: String,
    /// A value that it would accept instead: the list of libraries without those that are missing.
    pub instead: Option<String>,
    /// Where it stands.
    pub origin: Origin,
}

/// Where a refused parameter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In [`crate::ConfigFiles::parameters`]: leave it out (or take `instead`).
    Parameters,
    /// In [`crate::Recovery::parameters`].
    Recovery,
    /// In a file that came with the data: [`crate::LocalPostgres::comment_out`] mends it.
    ExistingFile {
        /// Path of the file.
        path: String,
        /// Its line, from 1.
        line: u32,
    },
    /// Nothing in particular: a combination, or the machine (`message` says).
    Unknown,
}
