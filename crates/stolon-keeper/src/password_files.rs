//! The files of passwords, read again and again: a password that is replaced is in force without a restart.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use stolon_postgres::{Limit, LocalPostgres, Password, Replaced};
use tokio_util::sync::CancellationToken;

/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest time for telling PostgreSQL about a new one.
const RENEWAL_LIMIT: Duration = Duration::from_secs(30);

/// A file that holds the password of a user.
#[derive(Clone, Debug)]
pub struct PasswordFile {
    /// Whose, as the log calls it.
    pub user: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// What was read last.
    pub password: Password,
}

/// Follows the files until `stop`. What cannot be read leaves the password as it is, and is said once.
pub(crate) async fn follow(files: Vec<PasswordFile>, postgres: LocalPostgres, stop: CancellationToken) {
    let mut troubles: Vec<Option<String>> = vec![None; files.len()];
    while !files.is_empty() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let mut is_new = false;
        for (file, trouble) in files.iter().zip(&mut troubles) {
            let (user, path) = (file.user, file.path.display());
            match read(file.path.clone()).await {
                Ok(password) => {
                    *trouble = None;
                    if file.password.replace(password) == Replaced::Other {
                        is_new = true;
                        tracing::info!("the {user} has another password now, read from {path}");
                    }
                }
                Err(why) if trouble.as_ref() != Some(&why) => {
                    tracing::warn!("the {user} keeps its password: {path}: {why}");
                    *trouble = Some(why);
                }
                Err(_) => {}
            }
        }
        if is_new && let Err(error) = postgres.renew_password_file(&Limit::within(RENEWAL_LIMIT, &stop)).await
        {
            tracing::warn!("{error}");
        }
    }
}

/// An editor's end of the line is no part of a password.
pub(crate) fn without_line_end(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

/// A file that is empty is about to be written.
async fn read(path: PathBuf) -> Result<SecretString, String> {
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
    let text =
        SecretString::from(read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?);
    match without_line_end(text.expose_secret()) {
        "" => Err("it is empty".to_owned()),
        password => Ok(SecretString::from(password)),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::zeroize::Zeroizing;
    use stolon_postgres::AuthMethod;
    use stolon_testkit::memory::Traced;

    use super::*;
    use crate::password_source::PasswordSource;

    #[tokio::test]
    async fn nothing_of_a_password_file_is_left_in_memory() {
        let secret = Traced::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, Zeroizing::new([&*Zeroizing::new(secret.spelled()), "\n"].concat())).unwrap();
        let given = SecretString::default();
        let source = PasswordSource { role: "su", auth: AuthMethod::Md5, given: &given, file: &path };
        let at_start = source.strip("superuser", source.read("superuser").unwrap()).unwrap();
        let later = read(path.clone()).await.unwrap();
        assert_eq!(secret.copies().unwrap(), 2, "those that are in use");
        drop((at_start, later));
        assert_eq!(secret.copies().unwrap(), 0);
    }
}
