//! Roles, databases and definitions, made on the cluster as they are on the legacy server. Each part is one transaction, and leaves a mark
//! in the same one, so that whoever goes on after a death knows what is there.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_postgres::quote::{sql_identifier, sql_literal};
use stolon_runtime::Failure;

use super::super::fence::library_list;
use super::super::flow::{Database, End, Flow, GENTLY, UNLOGGED, column, is_subscribed};
use super::super::legacy::trouble;
use super::definitions::{self, Definitions};
use super::programs::{Entry, Programs};

/// How long the statements of one part may take: indexes are built in them.
const BUILDING: Duration = Duration::from_secs(48 * 3600);
/// How often the definitions are read again when they changed while they were dumped.
const ATTEMPTS: u32 = 3;
/// What tables do not need to take rows. It comes after the copy, which is faster without.
const DEFERRED: &[&str] = &[
    "INDEX",
    "INDEX ATTACH",
    "FK CONSTRAINT",
    "TRIGGER",
    "RULE",
    "EVENT TRIGGER",
    "POLICY",
    "ROW SECURITY",
    "STATISTICS",
    "MATERIALIZED VIEW DATA",
    "COMMENT",
];
/// Parameters whose values are lists of names, which are stored quoted.
const LISTS: &[&str] = &[
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];
/// Roles, each as a statement; those of PostgreSQL itself are everywhere.
const ROLES: &str = "SELECT rolname, format('ALTER ROLE %I %s %s %s %s %s %s %s CONNECTION LIMIT %s PASSWORD %s%s', rolname, \
    CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END, \
    CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END, \
    CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END, \
    CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, rolconnlimit, quote_nullable(rolpassword), \
    CASE WHEN rolvaliduntil IS NOT NULL THEN format(' VALID UNTIL %L', rolvaliduntil) END) \
    || coalesce(format('; COMMENT ON ROLE %I IS %L', rolname, shobj_description(oid, 'pg_authid')), '') \
    FROM pg_authid WHERE rolname NOT LIKE 'pg\\_%'";

/// Settings of databases and roles.
const SETTINGS: &str = "SELECT CASE WHEN setrole = 0 THEN format('DATABASE %I', d.datname) \
    WHEN setdatabase = 0 THEN format('ROLE %I', r.rolname) ELSE format('ROLE %I IN DATABASE %I', r.rolname, d.datname) END, \
    split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1), r.rolname \
    FROM pg_db_role_setting s CROSS JOIN unnest(setconfig) AS entry LEFT JOIN pg_database d ON d.oid = s.setdatabase \
    LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE setdatabase = 0 OR (d.datallowconn AND NOT d.datistemplate)";

/// Who may do what with a database; with nobody told, PostgreSQL's default.
const GRANTS: &str = "SELECT datname, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END, \
    a.privilege_type, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END \
    FROM pg_database d LEFT JOIN LATERAL aclexplode(d.datacl) a ON true \
    WHERE d.datacl IS NOT NULL AND d.datallowconn AND NOT d.datistemplate";

/// What is made of definitions, and where from.
pub struct Schema<'a> {
    /// From the legacy server to the cluster.
    pub flow: Flow<'a>,
    /// `pg_dump` and the like.
    pub programs: Programs,
    /// Major version of the legacy server.
    pub legacy_major: u32,
    /// Major version of the cluster.
    pub cluster_major: u32,
}

impl Schema<'_> {
    fn legacy(&self) -> End<'_> {
        self.flow.from
    }

    fn cluster(&self) -> End<'_> {
        self.flow.to
    }

    /// Roles that the cluster does not have, and all databases. Can be repeated.
    ///
    /// # Errors
    /// A server does not answer, or refuses one of them.
    pub async fn roles_and_databases(&self, own: &BTreeSet<String>) -> anyhow::Result<()> {
        let cannot =
            |problem: ForeignProblem| trouble("roles and databases cannot be carried over", &problem);
        let limit = self.legacy().question();
        let from = self.legacy().enter(None).await.map_err(cannot)?;
        let to = self.cluster().enter(None).await.map_err(cannot)?;
        let known: BTreeSet<String> =
            column(&to.rows("SELECT rolname FROM pg_roles", &limit).await.map_err(cannot)?)
                .into_iter()
                .collect();
        let mut sql = UNLOGGED.to_owned();
        for row in from.rows(ROLES, &limit).await.map_err(cannot)? {
            let (name, statement) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
            if own.contains(name) {
                continue;
            }
            if !known.contains(name) {
                sql.push_str(&format!("CREATE ROLE {}; ", sql_identifier(name)));
            }
            sql.push_str(&format!("{statement}; "));
        }
        let members = members(self.legacy_major.min(self.cluster_major));
        for row in from.rows(&members, &limit).await.map_err(cannot)? {
            if !own.contains(row.get(0).unwrap_or_default()) {
                sql.push_str(&format!("{}; ", row.get(1).unwrap_or_default()));
            }
        }
        to.rows(&sql, &limit).await.map_err(cannot)?;
        self.databases(&from, &to).await.map_err(cannot)?;
        let properties = properties(&from, self.legacy(), own).await.map_err(cannot)?;
        to.rows(&format!("{UNLOGGED}{properties}"), &limit).await.map_err(cannot)?;
        Ok(())
    }

    async fn databases(&self, from: &ForeignSession, to: &ForeignSession) -> Result<(), ForeignProblem> {
        let limit = self.legacy().question();
        let known = column(&to.rows("SELECT datname FROM pg_database", &limit).await?);
        let rows = from.rows(&databases_query(self.legacy_major), &limit).await?;
        let missing = rows.iter().filter(|row| known.iter().all(|name| Some(name.as_str()) != row.get(0)));
        // Each is written to the disk before the next one would be.
        let made = missing.map(async |row| {
            let session = self.cluster().enter(None).await?;
            session.rows(row.get(1).unwrap_or_default(), &limit.renewed(Duration::from_secs(120))).await
        });
        stream::iter(made).buffered(GENTLY).try_for_each(async |_| Ok(())).await
    }

    /// What a database's tables need to take rows. Done before: nothing is done.
    ///
    /// # Errors
    /// A server does not answer or refuses it, or the dump fails.
    pub async fn first_half(&self, database: &Database) -> anyhow::Result<()> {
        let to = self.enter(self.cluster(), database).await?;
        if self.mark(&to, database).await?.is_some() || self.is_subscribed(&to, database).await? {
            return Ok(());
        }
        let (statements, definitions) = self.statements(database, Half::First).await?;
        let mark = sql_identifier(&self.flow.name());
        let remark = sql_literal(&definitions::remark(&definitions));
        let sql = format!("{statements}\nCREATE SCHEMA {mark}; COMMENT ON SCHEMA {mark} IS {remark};");
        self.make(&to, database, &sql).await
    }

    /// Everything else, once the rows are there. Done before: nothing is done.
    ///
    /// # Errors
    /// The same; or the definitions on the legacy server are others than those of the first half.
    pub async fn second_half(&self, database: &Database) -> anyhow::Result<()> {
        let to = self.enter(self.cluster(), database).await?;
        let Some(before) = self.mark(&to, database).await? else { return Ok(()) };
        let (statements, definitions) = self.statements(database, Half::Second).await?;
        let changes = definitions::changes(&before, &definitions);
        if !changes.is_empty() {
            return Err(changed(database, &changes).into());
        }
        let sql = format!("{statements}\nDROP SCHEMA {};", sql_identifier(&self.flow.name()));
        self.make(&to, database, &sql).await
    }

    /// The definitions that the first half was made from; none: it was not made, or the second half was, too.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn mark(
        &self,
        session: &ForeignSession,
        database: &Database,
    ) -> anyhow::Result<Option<Definitions>> {
        let sql = format!(
            "SELECT coalesce(obj_description(oid, 'pg_namespace'), '') FROM pg_namespace WHERE nspname = {}",
            sql_literal(&self.flow.name())
        );
        let found = session.value(&sql, &self.cluster().question()).await;
        let found = found.map_err(|problem| refused(self.cluster(), database, &problem))?;
        Ok(found.map(|text| definitions::remarked(&text).unwrap_or_default()))
    }

    async fn is_subscribed(&self, session: &ForeignSession, database: &Database) -> anyhow::Result<bool> {
        let known = is_subscribed(session, &self.cluster().question(), &self.flow.name()).await;
        Ok(known.map_err(|problem| refused(self.cluster(), database, &problem))?)
    }

    async fn enter(&self, end: End<'_>, database: &Database) -> anyhow::Result<ForeignSession> {
        let entered = end.enter(Some(&database.name)).await;
        Ok(entered.map_err(|problem| refused(end, database, &problem))?)
    }

    async fn make(&self, to: &ForeignSession, database: &Database, sql: &str) -> anyhow::Result<()> {
        let made = to.rows(sql, &self.cluster().question().renewed(BUILDING)).await;
        made.map(drop).map_err(|problem| {
            trouble(
                &format!("the definitions of database {} cannot be made on the cluster", database.name),
                &problem,
            )
            .hint("what is missing there has to be installed; stolonctl migrate start goes on with it")
            .into()
        })
    }

    /// One half of a dump, and the definitions that it was made of.
    async fn statements(&self, database: &Database, half: Half) -> anyhow::Result<(String, Definitions)> {
        let from = self.enter(self.legacy(), database).await?;
        let limit = self.legacy().question().renewed(Duration::from_secs(120));
        let read = async || {
            definitions::read(&from, &limit)
                .await
                .map_err(|problem| refused(self.legacy(), database, &problem))
        };
        let identities = "SELECT indexrelid FROM pg_index WHERE indisreplident";
        for _ in 0..ATTEMPTS {
            let before = read().await?;
            let dump =
                self.programs.dump(&self.flow.from.conninfo_for_tools(from.place(), &database.name)).await?;
            let entries = self.programs.list(&dump).await?;
            let identities = from.rows(identities, &limit).await;
            let identities =
                column(&identities.map_err(|problem| refused(self.legacy(), database, &problem))?);
            let chosen: Vec<&Entry> =
                entries.iter().filter(|entry| half_of(entry, &identities) == half).collect();
            let statements = match chosen.is_empty() {
                true => String::new(),
                false => self.programs.statements(&dump, &chosen).await?,
            };
            if read().await? == before {
                return Ok((statements, before));
            }
        }
        Err(Failure::new(format!("the definitions of database {} are changed all the time", database.name))
            .hint("nobody may change definitions on the legacy server while they are copied")
            .into())
    }
}

/// Before or after the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

/// An index that tells rows apart is needed from the first row on.
fn half_of(entry: &Entry, identities: &[String]) -> Half {
    match entry.is_one_of(DEFERRED) && !(entry.is_one_of(&["INDEX"]) && identities.contains(&entry.oid)) {
        true => Half::Second,
        false => Half::First,
    }
}

fn refused(end: End<'_>, database: &Database, problem: &ForeignProblem) -> Failure {
    trouble(&format!("database {} of {} cannot be used", database.name, end.name()), problem)
}

/// What was changed on the legacy server, by name.
pub fn changed(database: &Database, changes: &[String]) -> Failure {
    Failure::new(format!("definitions of database {} were changed on the legacy server: {}", database.name, shown(changes)))
        .hint("logical replication does not carry them: take the changes back there, or stolonctl migrate abort and begin anew")
}

/// The first of many.
pub fn shown(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let first = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => first,
        Some(more) => format!("{first}, and {more} more"),
    }
}

/// Memberships. From 16 on each says what it is good for.
fn members(major: u32) -> String {
    let how = match major {
        16.. => {
            "format(' WITH ADMIN %s, INHERIT %s, SET %s', m.admin_option, m.inherit_option, m.set_option)"
        }
        _ => "CASE WHEN m.admin_option THEN ' WITH ADMIN OPTION' ELSE '' END",
    };
    format!(
        "SELECT u.rolname, format('GRANT %I TO %I', r.rolname, u.rolname) || {how} \
         FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member \
         WHERE u.rolname NOT LIKE 'pg\\_%'"
    )
}

/// Each database as the statement that makes it. Providers of locales came with 15, that of PostgreSQL itself with 17.
fn databases_query(major: u32) -> String {
    let provider = match major {
        ..15 => "''",
        15 | 16 => {
            "CASE datlocprovider WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', daticulocale) ELSE '' END"
        }
        17.. => {
            "CASE datlocprovider WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', datlocale) \
             WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', datlocale) ELSE '' END"
        }
    };
    format!(
        "SELECT datname, format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L OWNER %I CONNECTION LIMIT %s', \
         datname, pg_encoding_to_char(encoding), datcollate, datctype, pg_get_userbyid(datdba), datconnlimit) || {provider} \
         FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY oid"
    )
}

/// Settings and privileges of databases and roles, as statements.
async fn properties(
    from: &ForeignSession,
    legacy: End<'_>,
    own: &BTreeSet<String>,
) -> Result<String, ForeignProblem> {
    let limit = legacy.question();
    let mut sql = String::new();
    for row in from.rows(SETTINGS, &limit).await? {
        let text = |at| row.get(at).unwrap_or_default();
        if !own.contains(text(3)) {
            sql.push_str(&set(text(0), text(1), text(2)));
        }
    }
    let mut told: Option<String> = None;
    for row in from.rows(GRANTS, &limit).await? {
        let text = |at| row.get(at).unwrap_or_default();
        let database = sql_identifier(text(0));
        if told.as_ref() != Some(&database) {
            sql.push_str(&format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC; "));
            told = Some(database.clone());
        }
        if !text(2).is_empty() {
            sql.push_str(&format!("GRANT {} ON DATABASE {database} TO {}{}; ", text(2), text(1), text(3)));
        }
    }
    Ok(sql)
}

fn set(whose: &str, name: &str, value: &str) -> String {
    let value = match LISTS.contains(&name.to_ascii_lowercase().as_str()) {
        true => {
            let list: Vec<String> = library_list(value).iter().map(|element| sql_literal(element)).collect();
            if list.is_empty() { "''".to_owned() } else { list.join(", ") }
        }
        false => sql_literal(value),
    };
    format!("ALTER {whose} SET {name} TO {value}; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_a_list_stays_one() {
        assert_eq!(
            set("ROLE a", "search_path", "\"$user\", public, \"My Schema\""),
            "ALTER ROLE a SET search_path TO '$user', 'public', 'My Schema'; "
        );
        assert_eq!(set("DATABASE d", "search_path", "\"\""), "ALTER DATABASE d SET search_path TO ''; ");
        assert_eq!(set("DATABASE d", "work_mem", "4MB"), "ALTER DATABASE d SET work_mem TO '4MB'; ");
    }

    #[test]
    fn what_is_changed_is_named_and_the_list_has_an_end() {
        let names: Vec<String> = (0..12).map(|number| format!("t{number}")).collect();
        assert!(shown(&names).ends_with("t9, and 2 more"), "{}", shown(&names));
        assert_eq!(shown(&names[..2]), "t0, t1");
    }
}
