//! What belongs to the tables, and to the server: name and definition of each thing, on both sides.

use std::collections::BTreeMap;

use stolon_core::postgres::{Owner, is_recovery_parameter, owner};

use super::outcome::{Compared, Outcome};
use super::pair::{Following, Pair};
use super::side::Session;

/// How often definitions that differ are looked at, where one side follows the other.
const LOOKS: usize = 3;

/// Names and definitions.
type Definitions = BTreeMap<String, String>;

/// Whether a definition may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Openly,
    /// It holds a digest of a password.
    Never,
}

/// A kind of thing: a query with the columns name and definition.
struct Kind {
    name: &'static str,
    query: &'static str,
    shown: Shown,
}

const fn openly(name: &'static str, query: &'static str) -> Kind {
    Kind { name, query, shown: Shown::Openly }
}

/// Schemas that are PostgreSQL's own are nobody's to compare, and what is of an extension comes with it.
/// `{USERS}` stands for the first, with `n` for the schema.
const USERS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' \
    AND n.nspname NOT LIKE 'pg\\_temp%'";

/// Of a database. Not null became a constraint with a name with 18 and is part of the columns before and after; `MAINTAIN` came with 17.
const OF_DATABASE: &[Kind] = &[
    openly(
        "columns",
        "SELECT format('%I.%I.%I', n.nspname, c.relname, a.attname), concat_ws(' ', format_type(a.atttypid, a.atttypmod), \
         CASE WHEN a.attnotnull THEN 'not null' END, nullif(a.attidentity, ''), pg_get_expr(d.adbin, d.adrelid)) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
         LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped AND {USERS}",
    ),
    openly(
        "indexes",
        "SELECT format('%I.%I', n.nspname, c.relname), pg_get_indexdef(c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('i', 'I') AND {USERS}",
    ),
    openly(
        "constraints",
        "SELECT format('%s.%I', coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text), k.conname), \
         pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace \
         WHERE k.contype <> 'n' AND {USERS}",
    ),
    openly(
        "views",
        "SELECT format('%I.%I', n.nspname, c.relname), pg_get_viewdef(c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND {USERS}",
    ),
    openly(
        "functions",
        "SELECT p.oid::regprocedure::text, l.lanname || ' ' || md5(concat_ws('|', p.prosrc, p.probin, p.prosecdef, p.provolatile)) \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang WHERE {USERS}",
    ),
    openly(
        "triggers",
        "SELECT format('%s.%I', t.tgrelid::regclass, t.tgname), concat_ws(' ', t.tgenabled, pg_get_triggerdef(t.oid)) \
         FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE NOT t.tgisinternal AND {USERS}",
    ),
    openly("extensions", "SELECT extname, extversion FROM pg_extension"),
    openly(
        "grants",
        "SELECT what, string_agg(says, ', ' ORDER BY says) FROM (\
         SELECT what, format('%s to %s by %s%s', a.privilege_type, CASE a.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(a.grantee)::text END, \
         pg_get_userbyid(a.grantor), CASE WHEN a.is_grantable THEN ' with grant option' ELSE '' END) AS says FROM (\
         SELECT format('%I.%I owned by %I', n.nspname, c.relname, pg_get_userbyid(c.relowner)) AS what, c.relacl AS acl FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {USERS} \
         UNION ALL SELECT p.oid::regprocedure::text, p.proacl FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {USERS} \
         UNION ALL SELECT format('schema %I', n.nspname), n.nspacl FROM pg_namespace n WHERE {USERS}) objects(what, acl) \
         LEFT JOIN LATERAL aclexplode(acl) a ON a.privilege_type <> 'MAINTAIN') granted GROUP BY what",
    ),
];

/// Of the server.
const OF_SERVER: &[Kind] = &[
    Kind {
        name: "roles",
        query: "SELECT r.rolname, concat_ws(' ', r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication, \
            r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil, md5(r.rolpassword), \
            (SELECT string_agg(pg_get_userbyid(m.roleid), ',' ORDER BY pg_get_userbyid(m.roleid)) FROM pg_auth_members m WHERE m.member = r.oid)) \
            FROM pg_authid r WHERE r.rolname NOT LIKE 'pg\\_%'",
        shown: Shown::Never,
    },
    openly(
        "settings of databases and roles",
        "SELECT concat_ws(' ', 'of', (SELECT datname FROM pg_database d WHERE d.oid = s.setdatabase), \
         (SELECT rolname FROM pg_roles r WHERE r.oid = s.setrole)), array_to_string(s.setconfig, ', ') FROM pg_db_role_setting s",
    ),
    openly(
        "databases",
        "SELECT datname, concat_ws(' ', pg_encoding_to_char(encoding), datcollate, datctype, pg_get_userbyid(datdba), datconnlimit) \
         FROM pg_database WHERE datname <> 'template0'",
    ),
    openly("tablespaces", "SELECT spcname, pg_get_userbyid(spcowner) FROM pg_tablespace"),
];

/// What a database is made of: for each kind of thing a query for names and definitions.
pub fn definitions_of_database() -> impl Iterator<Item = (&'static str, String)> {
    OF_DATABASE.iter().map(|kind| (kind.name, kind.query.replace("{USERS}", USERS)))
}

/// Everything of a database but the content of its tables.
///
/// # Errors
/// A server does not answer.
pub async fn of_database(pair: &Pair) -> anyhow::Result<Vec<Compared>> {
    pair.end().await?;
    let (mut compared, sequences) = kinds(pair, OF_DATABASE, &pair.database).await?;
    compared.push(judged_sequences(pair, &sequences));
    compared.extend(invalid_indexes(pair).await?);
    compared.push(collations(pair).await?);
    Ok(compared)
}

/// Everything of the server.
///
/// # Errors
/// A server does not answer.
pub async fn of_server(pair: &Pair) -> anyhow::Result<Vec<Compared>> {
    let (mut compared, _) = kinds(pair, OF_SERVER, "").await?;
    compared.push(settings(pair).await?);
    Ok(compared)
}

/// What a side has: the definitions of each kind of thing, by the kind's name, and the values of its sequences.
#[derive(Default)]
struct Catalogue {
    definitions: BTreeMap<String, Definitions>,
    sequences: BTreeMap<String, Sequence>,
}

/// A sequence.
struct Sequence {
    /// None: no value was given out yet.
    last: Option<i64>,
    ascends: bool,
}

/// The kind under which sequences are asked for beside the others.
const SEQUENCES: Kind = openly(
    "sequences",
    "SELECT format('%I.%I', n.nspname, c.relname), concat(s.seqincrement > 0, pg_sequence_last_value(c.oid)) \
     FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence = 'p'",
);

/// Both sides, each asked once for everything: the leader first, then the follower when it has what was seen there.
struct Catalogues {
    leader: Catalogue,
    follower: Catalogue,
}

async fn catalogues(pair: &Pair, kinds: &[Kind]) -> anyhow::Result<Catalogues> {
    let leader = catalogue(&pair.leader, kinds).await?;
    pair.caught_up().await?;
    Ok(Catalogues { leader, follower: catalogue(&pair.follower, kinds).await? })
}

async fn catalogue(session: &Session, kinds: &[Kind]) -> anyhow::Result<Catalogue> {
    let each = kinds.iter().chain([&SEQUENCES]).map(|kind| {
        let query = kind.query.replace("{USERS}", USERS);
        format!("SELECT '{}', k.name::text, k.definition::text FROM ({query}) k(name, definition)", kind.name)
    });
    let query = each.collect::<Vec<_>>().join(" UNION ALL ");
    let mut catalogue = Catalogue::default();
    for row in session.rows(&query).await? {
        let text = |column| row.get(column).unwrap_or_default().to_owned();
        let (kind, name, definition) = (text(0), text(1), text(2));
        if kind == SEQUENCES.name {
            let (ascends, last) = definition.split_at_checked(1).unwrap_or_default();
            catalogue.sequences.insert(name, Sequence { last: last.parse().ok(), ascends: ascends == "t" });
        } else {
            catalogue.definitions.entry(kind).or_default().insert(name, definition);
        }
    }
    Ok(catalogue)
}

async fn kinds(pair: &Pair, kinds: &[Kind], database: &str) -> anyhow::Result<(Vec<Compared>, Catalogues)> {
    let nothing = Definitions::new();
    let mut attempt = 1;
    loop {
        let seen = catalogues(pair, kinds).await?;
        let compared: Vec<Compared> = kinds
            .iter()
            .map(|kind| {
                let (ours, theirs) = (&seen.leader.definitions, &seen.follower.definitions);
                let (ours, theirs) = (ours.get(kind.name), theirs.get(kind.name));
                judged(database, kind, ours.unwrap_or(&nothing), theirs.unwrap_or(&nothing))
            })
            .collect();
        // What differs may have been changed between the two looks.
        let holds = compared.iter().all(|row| row.outcome == Outcome::Holds);
        if holds || pair.following == Following::AtRest || attempt == LOOKS {
            return Ok((compared, seen));
        }
        attempt += 1;
    }
}

async fn definitions(session: &Session, query: &str) -> anyhow::Result<Definitions> {
    let rows = session.rows(query).await?;
    let text = |row: &tokio_postgres::SimpleQueryRow, column| row.get(column).unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| (text(row, 0), text(row, 1))).collect())
}

fn judged(database: &str, kind: &Kind, ours: &Definitions, theirs: &Definitions) -> Compared {
    let mut differences: Vec<String> = Vec::new();
    for (name, definition) in ours {
        match theirs.get(name) {
            None => differences.push(format!("{name} is missing")),
            Some(other) if other == definition => {}
            Some(_) if kind.shown == Shown::Never => differences.push(format!("{name} is another")),
            Some(other) => differences.push(format!("{name}: {definition}; on the follower: {other}")),
        }
    }
    let surplus = theirs.keys().filter(|name| !ours.contains_key(*name));
    differences.extend(surplus.map(|name| format!("{name}: only the follower has it")));
    let outcome = if differences.is_empty() { Outcome::Holds } else { Outcome::Differs };
    let found = match differences.len() {
        0 => ours.len().to_string(),
        number => format!("{number} differ, of {}", ours.len()),
    };
    Compared { differences, ..Compared::of(database, kind.name, outcome, found) }
}

/// A standby is told of a sequence 32 values ahead (PostgreSQL source, sequence.c, `SEQ_LOG_VALS`), so the follower's may be further; behind it must never be.
fn judged_sequences(pair: &Pair, seen: &Catalogues) -> Compared {
    if matches!(pair.following, Following::Subscription { .. }) {
        let why = "not replicated: the switch or a rollback sets them";
        return Compared::of(&pair.database, "sequences", Outcome::Noted, why);
    }
    let (ours, theirs) = (&seen.leader.sequences, &seen.follower.sequences);
    let differences: Vec<String> = ours
        .iter()
        .filter_map(|(name, Sequence { last, ascends })| match theirs.get(name) {
            None => Some(format!("{name} is missing")),
            Some(other) if is_behind(*last, other.last, *ascends) => {
                Some(format!("{name} is at {}, on the follower at {}", said(*last), said(other.last)))
            }
            Some(_) => None,
        })
        .collect();
    let (outcome, found) = match differences.len() {
        0 => (Outcome::Holds, format!("{}, none of them behind", ours.len())),
        behind => (Outcome::Differs, format!("{behind} behind, of {}", ours.len())),
    };
    Compared { differences, ..Compared::of(&pair.database, "sequences", outcome, found) }
}

fn said(value: Option<i64>) -> String {
    value.map_or("its start".to_owned(), |value| value.to_string())
}

/// Whether a follower would give out a value again. None: no value was given out yet.
fn is_behind(ours: Option<i64>, theirs: Option<i64>, ascends: bool) -> bool {
    match (ours, theirs) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(ours), Some(theirs)) if ascends => theirs < ours,
        (Some(ours), Some(theirs)) => theirs > ours,
    }
}

/// PostgreSQL does not use them: queries are slow, and unique ones keep nothing apart.
async fn invalid_indexes(pair: &Pair) -> anyhow::Result<Option<Compared>> {
    const INVALID: &str =
        "SELECT i.indexrelid::regclass::text, '' FROM pg_index i WHERE NOT i.indisvalid OR NOT i.indisready";
    let (ours, theirs) =
        tokio::try_join!(definitions(&pair.leader, INVALID), definitions(&pair.follower, INVALID))?;
    let only_theirs = theirs.keys().any(|name| !ours.contains_key(name));
    let outcome = if only_theirs { Outcome::Differs } else { Outcome::Noted };
    Ok((!theirs.is_empty()).then(|| Compared {
        differences: theirs.into_keys().collect(),
        ..Compared::of(&pair.database, "invalid indexes", outcome, "REINDEX or drop them")
    }))
}

/// The versions of the C library and of ICU that sort: a standby of another one finds wrong rows by its indexes, or none.
async fn collations(pair: &Pair) -> anyhow::Result<Compared> {
    const VERSIONS: &str = "SELECT collprovider, string_agg(DISTINCT pg_collation_actual_version(oid), ', ' ORDER BY pg_collation_actual_version(oid)) \
        FROM pg_collation WHERE collprovider IN ('c', 'i') AND collname NOT IN ('C', 'POSIX') GROUP BY 1";
    let (ours, theirs) =
        tokio::try_join!(definitions(&pair.leader, VERSIONS), definitions(&pair.follower, VERSIONS))?;
    let library = |provider: &str| if provider == "i" { "ICU" } else { "the C library" };
    let mut differences = Vec::new();
    for (provider, version) in &ours {
        let other = theirs.get(provider).map_or("", String::as_str);
        if !version.is_empty() && !other.is_empty() && version != other {
            differences.push(format!("{} {version}; on the follower: {other}", library(provider)));
        }
    }
    let (outcome, found) = match (differences.is_empty(), &pair.following) {
        (true, _) => (Outcome::Holds, "sorted alike, as far as PostgreSQL tells"),
        (false, Following::Standby) => (
            Outcome::Differs,
            "REINDEX what is sorted by it after the switch: `migrate check` names the indexes",
        ),
        (false, Following::AtRest | Following::Subscription { .. }) => {
            (Outcome::Noted, "indexes that were copied as files must be built anew")
        }
    };
    Ok(Compared { differences, ..Compared::of(&pair.database, "collations", outcome, found) })
}

/// Settings need not be the same; those that the cluster makes itself are never.
async fn settings(pair: &Pair) -> anyhow::Result<Compared> {
    const SETTINGS: &str = "SELECT name, current_setting(name) FROM pg_settings WHERE context <> 'internal' \
        AND name NOT LIKE '%\\_command' AND name NOT LIKE '%conninfo' \
        AND source NOT IN ('session', 'client', 'default', 'override')";
    let all = "SELECT name, current_setting(name) FROM pg_settings";
    let (ours, theirs) =
        tokio::try_join!(definitions(&pair.leader, SETTINGS), definitions(&pair.follower, all))?;
    let differences: Vec<String> = ours
        .iter()
        .filter(|(name, _)| {
            matches!(owner(name), Owner::Operator | Owner::Shared) && !is_recovery_parameter(name)
        })
        .filter_map(|(name, value)| match theirs.get(name) {
            Some(other) if other == value => None,
            Some(other) => Some(format!("{name} = {value}; on the follower: {other}")),
            None => Some(format!("{name} = {value}; the follower has no such setting")),
        })
        .collect();
    let (outcome, found) = match differences.is_empty() {
        true => (Outcome::Holds, ours.len().to_string()),
        false => {
            (Outcome::Noted, format!("{} differ: stolonctl update --patch sets them", differences.len()))
        }
    };
    Ok(Compared { differences, ..Compared::of("", "settings", outcome, found) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definitions(of: &[(&str, &str)]) -> Definitions {
        of.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn what_is_missing_surplus_or_another_differs() {
        let ours = definitions(&[("a", "1"), ("b", "2"), ("c", "3")]);
        for (theirs, differences) in [
            (definitions(&[("a", "1"), ("b", "2"), ("c", "3")]), &[][..]),
            (definitions(&[("a", "1"), ("b", "2")]), &["c is missing"]),
            (definitions(&[("a", "1"), ("b", "9"), ("c", "3")]), &["b: 2; on the follower: 9"]),
            (
                definitions(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]),
                &["d: only the follower has it"],
            ),
        ] {
            let row = judged("db", &openly("things", ""), &ours, &theirs);
            assert_eq!(row.differences, differences);
            assert_eq!(row.outcome == Outcome::Holds, differences.is_empty());
        }
        let secret = Kind { name: "roles", query: "", shown: Shown::Never };
        let row = judged("", &secret, &definitions(&[("a", "hidden")]), &definitions(&[("a", "hidden2")]));
        assert_eq!(row.differences, ["a is another"]);
    }

    #[test]
    fn a_sequence_must_not_give_out_a_value_again() {
        for (ours, theirs, ascends, behind) in [
            (None, None, true, false),
            (None, Some(32), true, false),
            (Some(1), None, true, true),
            (Some(5), Some(5), true, false),
            (Some(5), Some(37), true, false),
            (Some(5), Some(4), true, true),
            (Some(-5), Some(-37), false, false),
            (Some(-5), Some(-4), false, true),
        ] {
            assert_eq!(is_behind(ours, theirs, ascends), behind, "{ours:?} {theirs:?}");
        }
    }
}
