//! Quoting for every language that the keeper speaks. Nothing else in the workspace escapes anything.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

/// A string literal of SQL. Safe with either setting of `standard_conforming_strings`. It may be a password: nothing of the text stays behind.
pub fn sql_literal(text: &str) -> String {
    let quoted = escaped(text, &['\'', '\\'], |special| special);
    let open = if text.contains('\\') { " E'" } else { "'" };
    [open, &quoted, "'"].concat()
}

/// `text` with another character before each special one.
fn escaped(text: &str, special: &[char], escape: impl Fn(char) -> char) -> Zeroizing<String> {
    // Room for all of it: growing would leave pieces behind.
    let mut out = Zeroizing::new(String::with_capacity(2 * text.len()));
    for c in text.chars() {
        if special.contains(&c) {
            out.push(escape(c));
        }
        out.push(c);
    }
    out
}

/// An identifier of SQL.
pub fn sql_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The value of a user's parameter in `postgresql.conf`: only single quotes are doubled, since
/// existing specifications rely on backslash sequences.
pub fn parameter_value(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// The value of a recovery parameter: the server reads exactly `value`.
pub fn recovery_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// A connection string of libpq: empty values dropped, pairs sorted by their text
/// (PostgreSQL manual, "Keyword/Value Connection Strings").
pub fn conninfo<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut words: Vec<String> = pairs
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", conninfo_value(value)))
        .collect();
    words.sort();
    words.join(" ")
}

fn conninfo_value(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_ascii_whitespace() || c == '\x0b' || matches!(c, '\'' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

/// Which servers a line of a password file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PgpassHost<'a> {
    /// Whatever a connection string names.
    Any,
    /// This one.
    Named {
        /// Address or name, as in the connection string.
        host: &'a str,
        /// Its port.
        port: &'a str,
    },
}

/// One line of a password file (PostgreSQL manual, "The Password File").
pub fn pgpass_line(host: PgpassHost<'_>, user: &str, password: &str) -> SecretString {
    let escape = |text: &str| escaped(text, &['\\', ':'], |_| '\\');
    let (host, port) = match host {
        PgpassHost::Any => (Zeroizing::new("*".to_owned()), Zeroizing::new("*".to_owned())),
        PgpassHost::Named { host, port } => (escape(host), escape(port)),
    };
    let parts = [&**host, ":", &**port, ":*:", &**escape(user), ":", &**escape(password), "\n"];
    // One allocation: growing would leave pieces behind.
    SecretString::from(parts.concat())
}

/// The value of a parameter that is a list of directories, such as `unix_socket_directories`
/// (PostgreSQL source, varlena.c, `SplitDirectoriesString`).
pub fn directory_list(directories: &[PathBuf]) -> OsString {
    let mut list = Vec::new();
    for directory in directories {
        if !list.is_empty() {
            list.push(b',');
        }
        list.push(b'"');
        for &byte in directory.as_os_str().as_bytes() {
            list.extend(std::iter::repeat_n(byte, if byte == b'"' { 2 } else { 1 }));
        }
        list.push(b'"');
    }
    OsString::from_vec(list)
}

/// A user or database name in `pg_hba.conf`, quoted only where it would mean something else
/// (PostgreSQL manual, "The pg_hba.conf File").
pub fn hba_name(name: &str) -> Cow<'_, str> {
    let keyword = matches!(
        name.to_ascii_lowercase().as_str(),
        "all" | "replication" | "sameuser" | "samerole" | "samegroup"
    );
    let special = |c: char| c.is_whitespace() || matches!(c, ',' | '#' | '"' | '\\');
    let starts = name.starts_with(['/', '+', '@']);
    if name.is_empty() || keyword || starts || name.contains(special) {
        Cow::Owned(format!("\"{}\"", name.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn simple_connection_strings_are_those_of_the_reference() {
        let pairs = [
            ("user", "repl"),
            ("password", "secret"),
            ("host", "10.0.0.5"),
            ("port", "5432"),
            ("sslmode", "prefer"),
            ("application_name", "stolon_9f1b2c3d"),
            ("dbname", ""),
        ];
        let text = "application_name=stolon_9f1b2c3d host=10.0.0.5 password=secret port=5432 sslmode=prefer user=repl";
        assert_eq!(conninfo(pairs), text);
        assert_eq!(recovery_value(text), format!("'{text}'"));
    }

    #[test]
    fn each_layer_is_escaped_for_itself() {
        assert_eq!(conninfo([("password", r"it's a \ b")]), r"password=it\'s\ a\ \\\ b");
        assert_eq!(recovery_value(r"password=it\'s"), r"'password=it\\''s'");
        assert_eq!(parameter_value(r"it's \n"), r"'it''s \n'");
        let named = PgpassHost::Named { host: "::1", port: "5432" };
        let line = |host, user, password| pgpass_line(host, user, password).expose_secret().to_owned();
        assert_eq!(line(named, "u", r"a:b\c"), "\\:\\:1:5432:*:u:a\\:b\\\\c\n");
        assert_eq!(line(PgpassHost::Any, "u:", "p"), "*:*:*:u\\::p\n");
        assert_eq!(sql_literal(r"a'b\c"), r" E'a''b\\c'");
        assert_eq!(sql_identifier("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn names_in_hba_are_quoted_only_where_needed() {
        for (name, expected) in [
            ("stolon", "stolon"),
            ("Repl-User.1", "Repl-User.1"),
            ("all", "\"all\""),
            ("Replication", "\"Replication\""),
            ("a b", "\"a b\""),
            ("+group", "\"+group\""),
            ("a\"b", "\"a\"\"b\""),
            ("x#y", "\"x#y\""),
        ] {
            assert_eq!(hba_name(name), expected);
        }
    }
}
