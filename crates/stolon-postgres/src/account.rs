//! How the keeper logs in to its own server: by the account that it runs under, which the kernel proves (PostgreSQL manual, "Peer
//! Authentication"), so that no password is sent on the host.

use std::path::Path;

use crate::credentials::AuthMethod;
use crate::error::{PostgresError, Result};
use crate::files::{Written, write_atomically};
use crate::local::LocalPostgres;
use crate::quote::hba_name;

/// The map of `pg_ident.conf` that names who may be the superuser.
const MAP: &str = "stolon_keeper";
const FIRST_LINE: &str = "# Made by stolon-keeper: who may be the superuser on this host without a password";
const LAST_LINE: &str = "# Made by stolon-keeper: end";
/// May take on the keeper's account anyway, and would otherwise lose a way in that is as old as Stolon.
const ROOT: &str = "root";

impl LocalPostgres {
    /// How the superuser logs in over a unix socket, as `pg_hba.conf` says it: by the account, where it has a name; else, and with
    /// trust, as over TCP.
    pub fn local_method(&self) -> String {
        let auth = self.inner.options.superuser.auth;
        match self.account() {
            Some(_) if auth != AuthMethod::Trust => format!("peer map={MAP}"),
            // There are no certificates over a socket.
            _ if auth == AuthMethod::Cert => "reject".to_owned(),
            _ => auth.as_str().to_owned(),
        }
    }

    /// The name of the account that we run under. A container may run us under a number that has none.
    fn account(&self) -> Option<&str> {
        let look_up = || uzers::get_effective_username()?.into_string().ok();
        self.inner.account.get_or_init(look_up).as_deref()
    }

    /// Lets our account, and root, be the superuser. What else stands in `pg_ident.conf` is its operator's, and stays.
    pub(crate) fn write_account_map(&self) -> Result<Written> {
        let path = self.data_directory().join("pg_ident.conf");
        let old = match std::fs::read(&path) {
            Ok(old) => old,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(PostgresError::io("read", &path)(error)),
        };
        let accounts: Vec<&str> =
            self.account().into_iter().filter(|name| *name != ROOT).chain([ROOT]).collect();
        write_map(&path, &old, &accounts, &self.inner.options.superuser.username)
    }
}

/// What others wrote there need not be UTF-8.
fn write_map(path: &Path, old: &[u8], accounts: &[&str], superuser: &str) -> Result<Written> {
    let mut text = String::from(FIRST_LINE);
    for account in accounts {
        text.push_str(&format!("\n{MAP} {} {}", hba_name(account), hba_name(superuser)));
    }
    text.push_str(&format!("\n{LAST_LINE}\n"));
    let mut text = text.into_bytes();
    let mut is_ours = false;
    for line in old.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        is_ours |= line == FIRST_LINE.as_bytes();
        if !is_ours {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        is_ours &= line != LAST_LINE.as_bytes();
    }
    write_atomically(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_others_stay_and_ours_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pg_ident.conf");
        let read = || std::fs::read(&path).unwrap();
        write_map(&path, b"mine jo\xeb app\n# end\n", &["old", "root"], "su").unwrap();
        write_map(&path, &read(), &["a b", "root"], "su").unwrap();
        let ours = format!("{FIRST_LINE}\n{MAP} \"a b\" su\n{MAP} root su\n{LAST_LINE}\n");
        let expected = [ours.as_bytes(), b"mine jo\xeb app\n# end\n"].concat();
        assert_eq!(read(), expected);
        assert_eq!(write_map(&path, &expected, &["a b", "root"], "su").unwrap(), Written::Unchanged);
    }
}
