//! The fence: what keeps everybody out of the legacy server, superusers too, also after a restart, until it is taken off
//! (docs: design/010-migration.md; PostgreSQL manual, "Shared Library Preloading", "ALTER SYSTEM").
//!
//! What there was before stands in the name of the library that does not exist, so whoever finds the fence can take it off exactly.

use std::time::Duration;

use stolon_model::Lsn;
use stolon_postgres::foreign::{self, Door, Entry, ForeignProblem, ForeignSession};
use stolon_postgres::quote::sql_literal;
use stolon_runtime::Failure;
use tokio::time::Instant;

use super::legacy::{Legacy, TOO_MANY_CONNECTIONS, trouble};
use super::wait::{Seen, until};

/// Ends every session that loads it.
const LIBRARIES: &str = "session_preload_libraries";
/// For what writes without a session.
const READ_ONLY: &str = "default_transaction_read_only";
/// What the library's name begins with.
const PREFIX: &str = "stolon_migration_";
/// Whether `ALTER SYSTEM` is allowed at all, from 17 on.
const ALLOWED: &str = "allow_alter_system";
/// SQLSTATE `undefined_file`.
const UNDEFINED_FILE: &str = "58P01";
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// The two settings of the fence, as `ALTER SYSTEM` has written them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Empty: it has not. (It cannot write an empty list that PostgreSQL reads as one.)
    libraries: Vec<String>,
    /// None: it has not.
    read_only: Option<String>,
}

impl Settings {
    /// The name of the migration whose fence this is.
    pub fn fenced_for(&self) -> Option<&str> {
        self.libraries.first()?.strip_prefix(PREFIX)?.split('_').next()
    }

    /// These settings with a fence in front, from which they can be read again.
    fn fenced(&self, uid: &str) -> Settings {
        let before = match self.before() {
            Some(before) => before,
            None => self.clone(),
        };
        let mut libraries = vec![format!("{PREFIX}{uid}_{}", before.read_only.as_deref().unwrap_or("none"))];
        libraries.extend(before.libraries);
        Settings { libraries, read_only: Some("on".to_owned()) }
    }

    /// What there was before the fence; none where there is none.
    fn before(&self) -> Option<Settings> {
        let (fence, libraries) = self.libraries.split_first()?;
        let (_, read_only) = fence.strip_prefix(PREFIX)?.split_once('_')?;
        let read_only = (read_only != "none").then(|| read_only.to_owned());
        Some(Settings { libraries: libraries.to_vec(), read_only })
    }

    fn set_libraries(&self) -> String {
        if self.libraries.is_empty() {
            return format!("ALTER SYSTEM RESET {LIBRARIES}");
        }
        let list: Vec<String> = self.libraries.iter().map(|library| sql_literal(library)).collect();
        format!("ALTER SYSTEM SET {LIBRARIES} = {}", list.join(", "))
    }

    fn set_read_only(&self) -> String {
        match &self.read_only {
            None => format!("ALTER SYSTEM RESET {READ_ONLY}"),
            Some(value) => format!("ALTER SYSTEM SET {READ_ONLY} = {}", sql_literal(value)),
        }
    }
}

/// What a list of libraries or other names in a configuration holds: names separated by commas, in double quotes where they need them.
pub fn library_list(text: &str) -> Vec<String> {
    let (mut list, mut name, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => name.extend(characters.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => list.push(std::mem::take(&mut name)),
            blank if !is_quoted && blank.is_whitespace() => {}
            other => name.push(other),
        }
    }
    list.push(name);
    list.retain(|name| !name.is_empty());
    list
}

/// The settings as they stand in `postgresql.auto.conf`.
pub async fn settings(session: &ForeignSession, legacy: &Legacy) -> Result<Settings, ForeignProblem> {
    let sql = format!(
        "SELECT name, setting FROM pg_file_settings WHERE name IN ('{LIBRARIES}', '{READ_ONLY}') \
         AND sourcefile LIKE '%/postgresql.auto.conf' ORDER BY seqno"
    );
    let mut settings = Settings::default();
    for row in session.rows(&sql, &legacy.question()).await? {
        let value = row.get(1).unwrap_or_default();
        match row.get(0) {
            Some(LIBRARIES) => settings.libraries = library_list(value),
            _ => settings.read_only = Some(value.to_owned()),
        }
    }
    Ok(settings)
}

/// Close the legacy server: nobody gets in any more once a prober was refused. Transactions may go on until `patience` is over.
///
/// # Errors
/// It does not answer, or still lets somebody in at the deadline.
pub async fn close(
    session: &ForeignSession,
    legacy: &Legacy,
    uid: &str,
    patience: Instant,
    deadline: Instant,
) -> anyhow::Result<()> {
    let cannot = |problem: ForeignProblem| trouble("the legacy server cannot be closed", &problem);
    let fenced = settings(session, legacy).await.map_err(cannot)?.fenced(uid);
    for sql in [&fenced.set_libraries(), &fenced.set_read_only(), "SELECT pg_reload_conf()"] {
        session.rows(sql, &legacy.question()).await.map_err(cannot)?;
    }
    until(POLL, deadline, async || {
        let why = match probe(session, legacy).await.map_err(cannot)? {
            Probe::Refused => return Ok(Seen::Done(())),
            Probe::LetIn => "the legacy server still lets clients in",
            Probe::NoRoom => {
                // Whoever comes back meanwhile is ended once more, when the prober was refused.
                end_some(session, legacy, Side::Legacy, patience).await.map_err(cannot)?;
                "the legacy server is at its connection limit, so nothing shows that it lets nobody in"
            }
        };
        Ok(Seen::not_yet(Failure::new(why)))
    })
    .await
}

/// Open the legacy server as it was before, and see that it lets clients in.
///
/// # Errors
/// It does not answer, or lets nobody in at the deadline.
pub async fn open(session: &ForeignSession, legacy: &Legacy, deadline: Instant) -> anyhow::Result<()> {
    let cannot = |problem: ForeignProblem| trouble("the legacy server cannot be opened", &problem);
    let Some(before) = settings(session, legacy).await.map_err(cannot)?.before() else { return Ok(()) };
    // The name of the library says what there was before, so it goes last.
    for sql in [&before.set_read_only(), &before.set_libraries(), "SELECT pg_reload_conf()"] {
        session.rows(sql, &legacy.question()).await.map_err(cannot)?;
    }
    until(POLL, deadline, async || {
        Ok(match probe(session, legacy).await.map_err(cannot)? {
            Probe::LetIn | Probe::NoRoom => Seen::Done(()),
            Probe::Refused => Seen::not_yet(Failure::new("the legacy server does not let clients in yet")),
        })
    })
    .await
}

/// How a client as any other fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    /// Refused by the fence.
    Refused,
    /// It got in, or was refused for a reason that proves nothing.
    LetIn,
    /// No connection is left, so it was not told what would become of it.
    NoRoom,
}

async fn probe(session: &ForeignSession, legacy: &Legacy) -> Result<Probe, ForeignProblem> {
    let place = session.place();
    let door = Door { place, password_of: place, database: None, entry: Entry::Ordinary };
    match foreign::enter(&legacy.conninfo, door, &legacy.question()).await {
        Err(problem) if problem.code() == Some(UNDEFINED_FILE) => Ok(Probe::Refused),
        Err(problem) if problem.code() == Some(TOO_MANY_CONNECTIONS) => Ok(Probe::NoRoom),
        Ok(_) | Err(ForeignProblem::Refused { .. }) => Ok(Probe::LetIn),
        Err(problem) => Err(problem),
    }
}

/// Why the fence could not be put up, or would not keep everybody out.
///
/// # Errors
/// The server does not answer.
pub async fn obstacles(session: &ForeignSession, legacy: &Legacy) -> Result<Vec<String>, ForeignProblem> {
    let mut found = Vec::new();
    let allowed = format!("SELECT current_setting('{ALLOWED}', true)");
    if session.value(&allowed, &legacy.question()).await?.as_deref() == Some("off") {
        found.push(format!("{ALLOWED} of the legacy server is off, so it could not be closed"));
    }
    let holes = holes(session, legacy).await?.into_iter();
    found.extend(
        holes.map(|hole| {
            format!("{hole} has a {LIBRARIES} of its own, so its sessions could not be kept out")
        }),
    );
    Ok(found)
}

/// Roles and databases that name session libraries of their own: their sessions would slip through the fence.
async fn holes(session: &ForeignSession, legacy: &Legacy) -> Result<Vec<String>, ForeignProblem> {
    let sql = format!(
        "SELECT concat_ws(' in ', CASE WHEN setrole = 0 THEN NULL ELSE 'role ' || pg_get_userbyid(setrole) END, \
         'database ' || (SELECT datname FROM pg_database d WHERE d.oid = setdatabase)) \
         FROM pg_db_role_setting, unnest(setconfig) AS entry WHERE entry ILIKE '{LIBRARIES}=%'"
    );
    let rows = session.rows(&sql, &legacy.question()).await?;
    Ok(rows.iter().filter_map(|row| row.get(0)).map(str::to_owned).collect())
}

/// Whose sessions are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The legacy server, where nobody but us has any business.
    Legacy,
    /// The cluster: its keepers and we go on.
    Cluster,
}

impl Side {
    /// Sessions of clients, this one left out.
    fn clients(self) -> &'static str {
        match self {
            Side::Legacy => {
                "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            }
            Side::Cluster => {
                "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
                 AND application_name NOT IN ('stolon-keeper', 'stolonctl migrate')"
            }
        }
    }
}

/// How many clients are there, and how many of them are in a transaction.
pub async fn clients(
    session: &ForeignSession,
    legacy: &Legacy,
    side: Side,
) -> Result<(u64, u64), ForeignProblem> {
    let sql = format!("SELECT count(*), count(xact_start) {}", side.clients());
    let rows = session.rows(&sql, &legacy.question()).await?;
    let number =
        |at| rows.first().and_then(|row| row.get(at)).and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok((number(0), number(1)))
}

/// End the sessions of clients: at once those that are idle, the others once `patience` is over.
///
/// # Errors
/// The server does not answer, or a session is still there at the deadline.
pub async fn end_sessions(
    session: &ForeignSession,
    legacy: &Legacy,
    side: Side,
    patience: Instant,
    deadline: Instant,
) -> anyhow::Result<()> {
    let cannot = |problem: ForeignProblem| trouble("sessions cannot be ended", &problem);
    until(POLL, deadline, async || {
        end_some(session, legacy, side, patience).await.map_err(cannot)?;
        Ok(match clients(session, legacy, side).await.map_err(cannot)?.0 {
            0 => Seen::Done(()),
            _ => Seen::not_yet(Failure::new("a session does not end")),
        })
    })
    .await
}

/// Tell those sessions to end that may be told so now.
async fn end_some(
    session: &ForeignSession,
    legacy: &Legacy,
    side: Side,
    patience: Instant,
) -> Result<(), ForeignProblem> {
    let which = if Instant::now() < patience { "AND xact_start IS NULL" } else { "" };
    let end = format!("SELECT count(pg_terminate_backend(pid)) {} {which}", side.clients());
    session.rows(&end, &legacy.question()).await.map(drop)
}

/// Have everything that was written go to disk, and say where it ends.
pub async fn end_of_wal(session: &ForeignSession, legacy: &Legacy) -> anyhow::Result<Lsn> {
    let sql = "SELECT pg_create_restore_point('stolon migration')";
    let end = session
        .value(sql, &legacy.question())
        .await
        .map_err(|problem| trouble("the legacy server does not say where its WAL ends", &problem))?;
    end.and_then(|end| end.parse().ok())
        .ok_or_else(|| Failure::new("the legacy server does not say where its WAL ends").into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn of(libraries: &[&str], read_only: Option<&str>) -> Settings {
        let libraries = libraries.iter().map(|&name| name.to_owned()).collect();
        Settings { libraries, read_only: read_only.map(str::to_owned) }
    }

    #[test]
    fn what_there_was_can_be_read_from_the_fence() {
        for before in [of(&[], None), of(&["auto_explain", "a, \"b\""], Some("off")), of(&[], Some("on"))] {
            let fenced = before.fenced("1f2e3d4c");
            assert_eq!(fenced.fenced_for(), Some("1f2e3d4c"));
            assert_eq!(fenced.before(), Some(before.clone()), "{before:?}");
            assert_eq!(fenced.fenced("other").before(), Some(before.clone()), "a fence is not fenced in");
            // Taken off by half: the second setting is back already.
            let half = Settings { read_only: before.read_only.clone(), ..fenced };
            assert_eq!(half.before(), Some(before));
        }
        assert_eq!(of(&["auto_explain"], None).before(), None);
    }

    #[test]
    fn the_statements_quote_what_they_are_given() {
        let fenced = of(&["it's"], None).fenced("u1");
        assert_eq!(
            fenced.set_libraries(),
            "ALTER SYSTEM SET session_preload_libraries = 'stolon_migration_u1_none', 'it''s'"
        );
        assert_eq!(of(&[], None).set_libraries(), "ALTER SYSTEM RESET session_preload_libraries");
        assert_eq!(of(&[], None).set_read_only(), "ALTER SYSTEM RESET default_transaction_read_only");
    }

    #[test]
    fn lists_of_libraries_are_read_as_postgresql_reads_them() {
        for (text, list) in [
            ("", vec![]),
            ("\"\"", vec![]),
            ("auto_explain", vec!["auto_explain"]),
            ("a, \"b, c\" ,\"d\"\"e\"", vec!["a", "b, c", "d\"e"]),
        ] {
            assert_eq!(library_list(text), list, "{text}");
        }
    }
}
