//! A new instance: `initdb`, its roles, or the user's own restore command.

use std::time::Duration;

use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use stolon_core::keeper::{Progress, RoleChange};
use stolon_model::NewConfig;

use crate::credentials::{AuthMethod, Credentials};
use crate::environment::Environment;
use crate::error::{PostgresError, Result};
use crate::files::SecretFile;
use crate::limit::Limit;
use crate::local::{LocalPostgres, ProgressSender};
use crate::process::Tool;
use crate::quote::{sql_identifier, sql_literal};

const SIZE_POLL: Duration = Duration::from_secs(1);

impl LocalPostgres {
    /// `initdb`. A failure leaves no PGDATA behind. The superuser's password is set at once when it has one.
    pub async fn initdb(&self, options: &NewConfig, limit: &Limit) -> Result<()> {
        self.port_must_be_free(limit).await?;
        let superuser = &self.inner.options.superuser;
        let mut tool = self
            .tool("initdb")
            .environment(Environment::CleanKeepLanguage)
            .arg("-D")
            .arg(self.data_directory())
            .args(["-U", &superuser.username]);
        let file = match superuser.password_to_send() {
            Some(password) => {
                let (directory, password) = (self.secrets_directory(), password.clone());
                let write = move || SecretFile::new(&directory, password.expose_secret());
                Some(self.on_disk("writing the superuser's password", limit, write).await?)
            }
            None => None,
        };
        if let Some(file) = &file {
            tool = tool.arg("--pwfile").arg(file.path());
        }
        if !options.locale.is_empty() {
            tool = tool.args(["--locale", &options.locale]);
        }
        if !options.encoding.is_empty() {
            tool = tool.args(["--encoding", &options.encoding]);
        }
        if options.data_checksums {
            tool = tool.arg("--data-checksums");
        }
        let server = self.clone();
        self.on_disk("writing down the tablespaces", limit, move || server.begin_record()).await?;
        let done = tool.output(limit).await;
        if done.is_err() {
            self.remove_data(&Limit::for_tidying_up()).await?;
        }
        done.map(|_| ())
    }

    /// Runs `dataRestoreCommand` (`%d` is PGDATA, `%%` is `%`) with the environment that the keeper was given into a fresh
    /// PGDATA. Everybody on the machine sees arguments, and it may hold secrets: the shell reads it from a file of ours. Progress is what the command itself prints in the manner of `pg_basebackup -P`, else
    /// the size of PGDATA. A failure leaves no PGDATA behind.
    pub async fn restore(&self, command: &str, progress: &ProgressSender, limit: &Limit) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        self.port_must_be_free(limit).await?;
        let (directory, server) = (self.data_directory(), self.clone());
        let make = move || {
            let mut private = std::fs::DirBuilder::new();
            let made = private.recursive(true).mode(0o700).create(&directory);
            made.map_err(PostgresError::io("create", &directory))?;
            server.begin_record()
        };
        self.on_disk("making the data directory", limit, make).await?;
        let directory = self.data_directory();
        let command = expand(command, &directory.display().to_string());
        let secrets = self.secrets_directory();
        let write = move || SecretFile::new(&secrets, &command);
        let script = self.on_disk("writing dataRestoreCommand", limit, write).await?;
        let shell = Tool::new("dataRestoreCommand", "/bin/sh".into());
        let tool = self.marked(shell).environment(Environment::Operators).arg(script.path());
        let run = tool.run(limit, |line| {
            tracing::info!("dataRestoreCommand: {line}");
            if let Some(seen) = parse_progress(line) {
                progress.send_replace(seen);
            }
        });
        let done = tokio::select! {
            done = run => done.and_then(|finished| finished.success("dataRestoreCommand")),
            never = self.measure(progress) => never,
        };
        match done {
            Ok(_) => Ok(()),
            Err(error) => {
                self.remove_data(&Limit::for_tidying_up()).await?;
                Err(error)
            }
        }
    }

    /// Reports the size of PGDATA for as long as nobody reports anything better.
    async fn measure<T>(&self, progress: &ProgressSender) -> T {
        let directory = self.data_directory();
        loop {
            tokio::time::sleep(SIZE_POLL).await;
            if progress.borrow().bytes_total == 0 {
                let directory = directory.clone();
                let size = tokio::task::spawn_blocking(move || size_of(&directory)).await.unwrap_or_default();
                progress.send_if_modified(|seen| {
                    let grew = seen.bytes_total == 0 && seen.bytes_done != size;
                    if grew {
                        seen.bytes_done = size;
                    }
                    grew
                });
            }
        }
    }

    /// Sets passwords and makes the replication user, for a new cluster. The password never reaches the server's log.
    pub async fn set_up_roles(&self, limit: &Limit) -> Result<Vec<RoleChange>> {
        let mut done = self.set_up_users(limit).await?;
        if let Some(rewinder) = &self.inner.options.rewinder
            && self.version(limit).await?.can_grant_reading_files()
        {
            self.unlogged("create the rewind role", &rewind_role(rewinder), limit).await?;
            done.push(RoleChange::RewindRoleCreated);
        }
        Ok(done)
    }

    async fn set_up_users(&self, limit: &Limit) -> Result<Vec<RoleChange>> {
        let superuser = &self.inner.options.superuser;
        let replication = &self.inner.options.replication;
        let mut done = Vec::new();
        let stored = self.storing(limit).await?;
        let su = sql_identifier(&superuser.username);
        if superuser.username == replication.username {
            let sql = said(&[stored, "ALTER ROLE ", &su, " WITH LOGIN REPLICATION", &password(superuser)]);
            self.unlogged("give the superuser the right to replicate", &sql, limit).await?;
            done.push(RoleChange::ReplicationAddedToSuperuser);
            return Ok(done);
        }
        if superuser.password_to_send().is_some() {
            let sql = said(&[stored, "ALTER ROLE ", &su, " WITH", &password(superuser)]);
            self.unlogged("set the superuser's password", &sql, limit).await?;
            done.push(RoleChange::SuperuserPasswordSet);
        }
        let role = sql_identifier(&replication.username);
        let sql = said(&[stored, "CREATE ROLE ", &role, " WITH LOGIN REPLICATION", &password(replication)]);
        self.unlogged("create the replication role", &sql, limit).await?;
        done.push(RoleChange::ReplicationRoleCreated);
        Ok(done)
    }

    /// How PostgreSQL is to store the passwords. Its own default before 14 is MD5, from which a password can be guessed; who wants that
    /// says so in `pgParameters`. A method that admits nothing but SCRAM settles it.
    async fn storing(&self, limit: &Limit) -> Result<&'static str> {
        let users = [&self.inner.options.superuser, &self.inner.options.replication];
        if users.iter().any(|user| user.auth == AuthMethod::ScramSha256) {
            return Ok(SCRAM);
        }
        let sql = "SELECT source FROM pg_settings WHERE name = 'password_encryption'";
        let source = self.query_value("ask who has chosen password_encryption", sql, limit).await?;
        Ok(if source.as_deref() == Some("default") { SCRAM } else { "" })
    }

    /// One statement in a transaction that the server's log does not show.
    async fn unlogged(&self, what: &str, sql: &str, limit: &Limit) -> Result<()> {
        let hide = "SET LOCAL log_statement = none; SET LOCAL log_min_duration_statement = -1; \
                    SET LOCAL log_min_error_statement = panic";
        let whole = said(&["BEGIN; ", hide, "; ", sql, "; COMMIT"]);
        let done = self.query(what, &whole, limit).await;
        if done.is_err() {
            // The kept connection would stay in the failed transaction.
            self.disconnect();
        }
        done.map(|_| ())
    }
}

const SCRAM: &str = "SET LOCAL password_encryption = 'scram-sha-256'; ";

/// The words of `CREATE` and `ALTER ROLE` for a password, if there is one.
fn password(credentials: &Credentials) -> Zeroizing<String> {
    let Some(password) = credentials.password_to_send() else { return Zeroizing::default() };
    let literal = Zeroizing::new(sql_literal(password.expose_secret()));
    said(&[" ENCRYPTED PASSWORD ", &literal])
}

/// SQL that may hold a password, in one allocation, which is wiped.
fn said(parts: &[&str]) -> Zeroizing<String> {
    Zeroizing::new(parts.concat())
}

/// A role with the functions that `pg_rewind` calls (PostgreSQL manual, pg_rewind, "Notes").
fn rewind_role(rewinder: &Credentials) -> Zeroizing<String> {
    const GRANT: &str = "; GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean), \
                         pg_catalog.pg_stat_file(text, boolean), pg_catalog.pg_read_binary_file(text), \
                         pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO ";
    let role = sql_identifier(&rewinder.username);
    said(&[SCRAM, "CREATE ROLE ", &role, " WITH LOGIN", &password(rewinder), GRANT, &role])
}

/// Replaces `%d` and `%%`; everything else stays.
fn expand(template: &str, directory: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        match after.chars().next() {
            Some('d') => text.push_str(directory),
            Some('%') => text.push('%'),
            Some(other) => {
                text.push('%');
                text.push(other);
            }
            None => text.push('%'),
        }
        rest = &after[after.chars().next().map_or(0, char::len_utf8)..];
    }
    text.push_str(rest);
    text
}

/// Reads `123/4567 kB (2%), 0/1 tablespace`, as `pg_basebackup -P` and `pg_rewind -P` print it.
pub(crate) fn parse_progress(line: &str) -> Option<Progress> {
    let (numbers, _) = line.trim_start().split_once(" kB")?;
    let (done, total) = numbers.split_once('/')?;
    let done: u64 = done.trim().parse().ok()?;
    let total: u64 = total.trim().parse().ok()?;
    Some(Progress { bytes_done: done * 1024, bytes_total: total.max(done) * 1024 })
}

/// Bytes of all files below a directory; what vanishes meanwhile does not count.
fn size_of(directory: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use stolon_testkit::memory::Traced;

    use super::*;
    use crate::quote::{PgpassHost, pgpass_line};

    #[test]
    fn restore_commands_are_expanded_from_left_to_right() {
        for (template, expected) in [
            ("cp -a /b \"%d\"", "cp -a /b \"/data\""),
            ("%%d %d%% %x %", "%d /data% %x %"),
            ("%ü %", "%ü %"),
            ("", ""),
        ] {
            assert_eq!(expand(template, "/data"), expected);
        }
    }

    #[test]
    fn progress_lines_are_read() {
        let seen = parse_progress("  1024/4096 kB (25%), 0/1 tablespace (/data/base/1)");
        assert_eq!(seen, Some(Progress { bytes_done: 1 << 20, bytes_total: 4 << 20 }));
        assert_eq!(parse_progress("pg_basebackup: waiting for checkpoint"), None);
    }

    /// Whoever looks at the memory of a keeper later finds neither a password that was replaced nor what was made of one.
    #[test]
    fn nothing_of_a_password_and_of_what_was_made_of_it_is_left_in_memory() {
        let (secret, next) = (Traced::new().unwrap(), Traced::new().unwrap());
        let who = Credentials {
            username: "rewinder".into(),
            auth: AuthMethod::Md5,
            password: secret.spelled().into(),
            certificate: None,
        };
        let odd = Zeroizing::new(["it's ", who.password.get().expose_secret(), " \\"].concat());
        let leaves = |made: Box<dyn std::any::Any>| {
            let while_it_is_there = secret.copies().unwrap();
            drop(made);
            (while_it_is_there, secret.copies().unwrap())
        };
        assert_eq!(leaves(Box::new(password(&who))), (3, 2), "SQL");
        assert_eq!(leaves(Box::new(rewind_role(&who))), (3, 2), "a role");
        assert_eq!(leaves(Box::new(Zeroizing::new(sql_literal(&odd)))), (3, 2), "a literal");
        assert_eq!(
            leaves(Box::new(pgpass_line(PgpassHost::Any, "rewinder", &odd))),
            (3, 2),
            "a line of a file"
        );
        drop(odd);
        who.password.replace(next.spelled().into());
        assert_eq!((secret.copies().unwrap(), next.copies().unwrap()), (0, 1));
        drop(who);
        assert_eq!(next.copies().unwrap(), 0);
    }
}
