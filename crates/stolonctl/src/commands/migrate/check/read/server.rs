//! What the server as a whole says about itself.

use anyhow::Context;

use super::super::inventory::{
    Collation, Content, Database, HbaLine, Inventory, Prepared, Provider, Role, Setting, Slot, Source,
    StoredPassword, Tablespace, Taken, User,
};
use super::super::session::{Row, Session};

const SELF: &str = "SELECT current_setting('server_version_num'), rolname, rolsuper \
    FROM pg_roles WHERE rolname = current_user";

/// The file of a value is for superusers to know; without it a value counts as one that does not come along.
const SETTINGS: &str = "SELECT name, current_setting(name, true), source, pending_restart, \
    coalesce(sourcefile, ''), (SELECT setting FROM pg_settings WHERE name = 'data_directory') FROM pg_settings";

const TAKEN: &str = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'), \
    (SELECT count(*) FROM pg_replication_slots)";

const TABLESPACES: &str = "SELECT spcname, pg_tablespace_location(oid) FROM pg_tablespace \
    WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1";

/// The kind of a password, never the password.
const ROLES: &str = "SELECT rolname, rolcanlogin, CASE WHEN rolpassword IS NULL THEN 'none' \
    WHEN rolpassword LIKE 'md5%' THEN 'md5' ELSE 'scram' END \
    FROM pg_authid WHERE rolname NOT LIKE 'pg\\_%' ORDER BY 1";
const ROLES_OF_OTHERS: &str =
    "SELECT rolname, rolcanlogin, 'hidden' FROM pg_roles WHERE rolname NOT LIKE 'pg\\_%' ORDER BY 1";

const HBA: &str = "SELECT line_number, type, array_to_json(database), array_to_json(user_name), address, netmask, \
    auth_method, array_to_json(options), error FROM pg_hba_file_rules ORDER BY 1";

const SLOTS: &str = "SELECT slot_name, slot_type = 'logical', active FROM pg_replication_slots WHERE NOT temporary ORDER BY 1";

const PREPARED: &str = "SELECT gid, database, greatest(extract(epoch FROM now() - prepared), 0)::bigint \
    FROM pg_prepared_xacts ORDER BY prepared LIMIT 100";

/// Everything but the content of databases.
///
/// # Errors
/// The server does not answer, or does not know what servers since version 10 know.
pub async fn read(session: &Session) -> anyhow::Result<Inventory> {
    let mut legacy = Inventory::default();
    let rows = session.rows(SELF).await?;
    let row = rows.first().context("the server does not know the user that it admitted")?;
    legacy.version_number = row.number(0)?;
    legacy.user = User { name: row.text(1).to_owned(), is_superuser: row.flag(2) };
    // What is asked from here on is there since 10; older ones are judged by their version alone.
    if legacy.major() < 10 {
        return Ok(legacy);
    }
    legacy.settings = session.rows(SETTINGS).await?.iter().map(setting).collect();
    legacy.taken = taken(session).await?;
    legacy.databases = databases(session, legacy.major()).await?;
    let places = session.rows(TABLESPACES).await?;
    legacy.tablespaces = places
        .iter()
        .map(|row| Tablespace { name: row.text(0).to_owned(), location: row.text(1).to_owned() })
        .collect();
    let roles = if legacy.user.is_superuser { ROLES } else { ROLES_OF_OTHERS };
    legacy.roles = session.rows(roles).await?.iter().map(role).collect();
    if legacy.user.is_superuser {
        let lines: anyhow::Result<Vec<HbaLine>> = session.rows(HBA).await?.iter().map(hba_line).collect();
        legacy.hba = Some(lines?);
    }
    let slots = session.rows(SLOTS).await?;
    legacy.slots = slots
        .iter()
        .map(|row| Slot { name: row.text(0).to_owned(), is_logical: row.flag(1), is_active: row.flag(2) })
        .collect();
    let prepared: anyhow::Result<Vec<Prepared>> = session
        .rows(PREPARED)
        .await?
        .iter()
        .map(|row| {
            Ok(Prepared {
                gid: row.text(0).to_owned(),
                database: row.text(1).to_owned(),
                age: row.number(2)?,
            })
        })
        .collect();
    legacy.prepared = prepared?;
    Ok(legacy)
}

fn setting(row: &Row) -> (String, Setting) {
    let (file, directory) = (row.text(4), row.text(5));
    let source = match row.text(2) {
        "configuration file" => {
            let inside = !directory.is_empty()
                && file.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
            if inside { Source::CopiedFile } else { Source::Elsewhere }
        }
        "command line" | "environment variable" | "global" => Source::Elsewhere,
        // Those of databases and roles are in the data; the rest is nobody's wish.
        _ => Source::Default,
    };
    let value = Setting { value: row.text(1).to_owned(), source, is_pending: row.flag(3) };
    (row.text(0).to_owned(), value)
}

async fn taken(session: &Session) -> anyhow::Result<Taken> {
    let rows = session.rows(TAKEN).await?;
    let row = rows.first().context("counts without a row")?;
    Ok(Taken { connections: row.number(0)?, senders: row.number(1)?, slots: row.number(2)? })
}

/// The columns of `pg_database` that came with 15 (`datlocprovider`, `datcollversion`) and changed their name with 17
/// (`daticulocale`, `datlocale`).
fn databases_query(major: u16) -> String {
    let (provider, locale, versions) = match major {
        ..15 => ("'c'", "NULL", "NULL, NULL"),
        15 | 16 => {
            ("datlocprovider", "daticulocale", "datcollversion, pg_database_collation_actual_version(oid)")
        }
        17.. => ("datlocprovider", "datlocale", "datcollversion, pg_database_collation_actual_version(oid)"),
    };
    format!(
        "SELECT datname, CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) END, \
         pg_encoding_to_char(encoding), datcollate, {provider}, {locale}, {versions}, datallowconn \
         FROM pg_database WHERE datname NOT IN ('template0', 'template1') ORDER BY 1"
    )
}

async fn databases(session: &Session, major: u16) -> anyhow::Result<Vec<Database>> {
    // The database itself remembers no version before 15, but the collations of the C library tell it (since 13).
    let library = "SELECT pg_collation_actual_version(oid) FROM pg_collation \
        WHERE collprovider = 'c' AND collname NOT IN ('C', 'POSIX') LIMIT 1";
    let of_library = match major {
        ..15 => session.rows(library).await?.first().and_then(|row| row.optional(0)).map(str::to_owned),
        15.. => None,
    };
    let rows = session.rows(&databases_query(major)).await?;
    rows.iter().map(|row| database(row, of_library.as_ref())).collect()
}

fn database(row: &Row, of_library: Option<&String>) -> anyhow::Result<Database> {
    let (provider, name) = match (row.text(4), row.optional(5)) {
        ("i", Some(locale)) => (Provider::Icu, locale),
        ("b", Some(locale)) => (Provider::Builtin, locale),
        _ => (Provider::Libc, row.text(3)),
    };
    let actual = row.optional(7).map(str::to_owned).or_else(|| of_library.cloned());
    let collation =
        Collation { name: name.to_owned(), provider, recorded: row.optional(6).map(str::to_owned), actual };
    let content = match row.flag(8) {
        true => Ok(Content::default()),
        false => Err("it does not admit connections (datallowconn)".to_owned()),
    };
    Ok(Database {
        name: row.text(0).to_owned(),
        bytes: row.optional_number(1)?,
        encoding: row.text(2).to_owned(),
        collation,
        content,
    })
}

fn role(row: &Row) -> Role {
    let password = match row.text(2) {
        "none" => StoredPassword::None,
        "md5" => StoredPassword::Md5,
        "scram" => StoredPassword::Scram,
        _ => StoredPassword::Hidden,
    };
    Role { name: row.text(0).to_owned(), can_login: row.flag(1), password }
}

fn hba_line(row: &Row) -> anyhow::Result<HbaLine> {
    let list = |column| -> anyhow::Result<Vec<String>> {
        match row.optional(column) {
            Some(text) => serde_json::from_str(text).context("a list of pg_hba_file_rules cannot be read"),
            None => Ok(Vec::new()),
        }
    };
    Ok(HbaLine {
        number: row.number(0)?,
        kind: row.text(1).to_owned(),
        databases: list(2)?,
        users: list(3)?,
        address: row.optional(4).map(str::to_owned),
        netmask: row.optional(5).map(str::to_owned),
        method: row.text(6).to_owned(),
        options: list(7)?,
        error: row.optional(8).map(str::to_owned),
    })
}
