//! What one database holds.

use anyhow::Context;

use super::super::finding::NAMES;
use super::super::inventory::{Content, Named};
use super::super::session::Session;

/// Relations of users: neither PostgreSQL's own, nor of an extension, nor temporary.
const OF_USERS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' \
    AND n.nspname NOT LIKE 'pg\\_temp%' AND NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

/// Everything that is judged about a database.
///
/// # Errors
/// The server does not answer in time, or refuses a question.
pub async fn read(session: &Session, major: u16) -> anyhow::Result<Content> {
    let mut content = Content {
        libraries: named(session, LIBRARIES).await?,
        changed_collations: named(session, CHANGED_COLLATIONS).await?,
        sorted_indexes: named(session, &sorted_indexes(major)).await?,
        invalid_indexes: relations(session, "NOT i.indisvalid", Of::Indexes).await?,
        keyless: relations(session, KEYLESS, Of::Tables).await?,
        unlogged: relations(session, "c.relpersistence = 'u'", Of::Tables).await?,
        event_triggers: named(session, EVENT_TRIGGERS).await?,
        foreign_servers: named(session, "SELECT quote_ident(srvname) FROM pg_foreign_server").await?,
        publications: named(session, "SELECT quote_ident(pubname) FROM pg_publication").await?,
        subscriptions: named(session, SUBSCRIPTIONS).await?,
        ..Content::default()
    };
    if major < 12 {
        content.with_oids = relations(session, "c.relhasoids", Of::Tables).await?;
    }
    for row in session.rows("SELECT extname, extversion FROM pg_extension WHERE extname <> 'plpgsql'").await?
    {
        content.extensions.insert(row.text(0).to_owned(), row.text(1).to_owned());
    }
    let generated = if major >= 12 { "a.attgenerated <> ''" } else { "false" };
    let counts = format!(
        "SELECT count(*) FILTER (WHERE c.relkind = 'r'), count(*) FILTER (WHERE c.relkind = 'S'), \
         (SELECT count(*) FROM pg_largeobject_metadata), \
         coalesce(sum(a.generated), 0)::bigint, coalesce(sum(a.identity), 0)::bigint \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN (SELECT a.attrelid, count(*) FILTER (WHERE {generated}) AS generated, \
         count(*) FILTER (WHERE a.attidentity <> '') AS identity FROM pg_attribute a \
         WHERE a.attnum > 0 AND NOT a.attisdropped GROUP BY 1) a ON a.attrelid = c.oid AND c.relkind IN ('r', 'p') \
         WHERE {OF_USERS}"
    );
    let rows = session.rows(&counts).await?;
    let row = rows.first().context("counts without a row")?;
    content.tables = row.number(0)?;
    content.sequences = row.number(1)?;
    content.large_objects = row.number(2)?;
    content.generated_columns = row.number(3)?;
    content.identity_columns = row.number(4)?;
    Ok(content)
}

/// Functions in C that no extension brought.
const LIBRARIES: &str = "SELECT DISTINCT p.probin FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang \
    WHERE l.lanname = 'c' AND p.probin IS NOT NULL AND p.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')";

const CHANGED_COLLATIONS: &str = "SELECT format('%I.%I', n.nspname, c.collname) FROM pg_collation c \
    JOIN pg_namespace n ON n.oid = c.collnamespace \
    WHERE c.collversion IS NOT NULL AND c.collversion <> pg_collation_actual_version(c.oid) \
    AND EXISTS (SELECT FROM pg_attribute a WHERE a.attcollation = c.oid AND a.attnum > 0)";

/// Those that `pg_dump` and `pg_restore` bring along are of extensions.
const EVENT_TRIGGERS: &str = "SELECT quote_ident(e.evtname) FROM pg_event_trigger e WHERE NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e')";

/// The connection strings are for superusers to read; names are for everybody.
const SUBSCRIPTIONS: &str = "SELECT quote_ident(subname) FROM pg_subscription \
    WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Neither a primary key nor another identity that updates and deletes could be published with
/// (manual, "Publication", `REPLICA IDENTITY`).
const KEYLESS: &str = "c.relpersistence = 'p' AND (c.relreplident = 'n' OR (c.relreplident = 'd' AND NOT EXISTS \
    (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)))";

/// Which relations are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Tables,
    Indexes,
}

async fn relations(session: &Session, condition: &str, of: Of) -> anyhow::Result<Named> {
    let (from, kinds) = match of {
        Of::Tables => ("pg_class c", "c.relkind = 'r'"),
        Of::Indexes => ("pg_class c JOIN pg_index i ON i.indexrelid = c.oid", "c.relkind = 'i'"),
    };
    let query = format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM {from} JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE {kinds} AND {condition} AND {OF_USERS}"
    );
    named(session, &query).await
}

/// Indexes with a column whose collation is neither of bytes nor PostgreSQL's own. The default collation is the database's.
fn sorted_indexes(major: u16) -> String {
    let (provider, collate) = match major {
        ..15 => ("'c'", "d.datcollate"),
        15.. => ("d.datlocprovider", "d.datcollate"),
    };
    format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c \
         JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace \
         CROSS JOIN pg_database d WHERE d.datname = current_database() AND c.relkind = 'i' AND {OF_USERS} AND EXISTS (\
         SELECT FROM unnest(i.indcollation::oid[]) AS used(oid) JOIN pg_collation l ON l.oid = used.oid \
         WHERE CASE WHEN l.collprovider = 'd' THEN {provider} = 'i' OR ({provider} = 'c' AND {collate} NOT IN ('C', 'POSIX')) \
         ELSE l.collprovider = 'i' OR (l.collprovider = 'c' AND l.collcollate NOT IN ('C', 'POSIX')) END)"
    )
}

/// The names that a query gives in its only column, the first of them in order, and how many there are.
async fn named(session: &Session, query: &str) -> anyhow::Result<Named> {
    let bounded =
        format!("SELECT name, count(*) OVER () FROM ({query}) AS found(name) ORDER BY name LIMIT {NAMES}");
    let rows = session.rows(&bounded).await?;
    let count = rows.first().map(|row| row.number(1)).transpose()?.unwrap_or_default();
    Ok(Named { count, names: rows.iter().map(|row| row.text(0).to_owned()).collect() })
}
