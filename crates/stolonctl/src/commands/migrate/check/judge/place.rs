//! What the machines of the keepers must have: libraries, directories, locales, room.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::ByteCount;

use super::super::finding::{Finding, Subject, counted};
use super::super::inventory::{Database, Destination, Inventory, Method, Provider};

/// Extensions that come with PostgreSQL itself (manual, "Additional Supplied Modules and Extensions", and the procedural languages), but for
/// some packagers in a package of their own.
const SUPPLIED: &[&str] = &[
    "adminpack",
    "amcheck",
    "autoinc",
    "auth_delay",
    "auto_explain",
    "basebackup_to_shell",
    "basic_archive",
    "bloom",
    "btree_gin",
    "btree_gist",
    "chkpass",
    "citext",
    "cube",
    "dblink",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "file_fdw",
    "fuzzystrmatch",
    "hstore",
    "hstore_plperl",
    "hstore_plperlu",
    "hstore_plpython3u",
    "insert_username",
    "intagg",
    "intarray",
    "isn",
    "jsonb_plperl",
    "jsonb_plperlu",
    "jsonb_plpython3u",
    "lo",
    "ltree",
    "ltree_plpython3u",
    "moddatetime",
    "old_snapshot",
    "pageinspect",
    "passwordcheck",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_logicalinspect",
    "pg_overexplain",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_surgery",
    "pg_trgm",
    "pg_visibility",
    "pg_walinspect",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "plperl",
    "plperlu",
    "plpgsql",
    "plpython3u",
    "pltcl",
    "pltclu",
    "postgres_fdw",
    "refint",
    "seg",
    "sepgsql",
    "spi",
    "sslinfo",
    "tablefunc",
    "tcn",
    "test_decoding",
    "timetravel",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "uuid-ossp",
    "xml2",
];

fn is_supplied(name: &str) -> bool {
    SUPPLIED.contains(&name)
}

/// Everything that the keepers' machines must have.
pub fn findings(legacy: &Inventory, destination: &Destination, method: Method) -> Vec<Finding> {
    let mut findings = vec![databases(legacy), extensions(legacy), libraries(legacy)];
    findings.extend(tablespaces(legacy, method));
    findings.push(encodings(legacy, method));
    findings.extend(collations(legacy, method));
    findings.extend(invalid_indexes(legacy));
    findings.extend(room(legacy, destination));
    findings.extend(transfer(legacy));
    findings
}

fn databases(legacy: &Inventory) -> Finding {
    let unread: Vec<String> = legacy
        .databases
        .iter()
        .filter_map(|database| Some(format!("{}: {}", database.name, database.content.as_ref().err()?)))
        .collect();
    let sentence = format!(
        "{} with {}, {} in all",
        counted(legacy.databases.len() as u64, "database", "databases"),
        counted(legacy.sum(|content| content.tables), "table", "tables"),
        legacy.size()
    );
    match unread.is_empty() {
        true => Finding::ok(Subject::Databases, sentence),
        false => Finding::warning(Subject::Databases, format!("{sentence}; not all could be looked into"))
            .hint("what is in them is not part of this report")
            .names(unread),
    }
}

fn extensions(legacy: &Inventory) -> Finding {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (_, content) in legacy.contents() {
        for (name, version) in &content.extensions {
            versions.entry(name).or_default().insert(version);
        }
    }
    let libraries = legacy.names(|content| &content.libraries);
    let foreign = versions.iter().filter(|(name, _)| !is_supplied(name)).map(|(name, versions)| {
        format!("{name} {}", versions.iter().copied().collect::<Vec<_>>().join(", "))
    });
    let missing: Vec<String> = foreign.chain(libraries.names).collect();
    match missing.is_empty() {
        true => Finding::ok(
            Subject::Extensions,
            match versions.is_empty() {
                true => "none".to_owned(),
                false => format!(
                    "{}: they come with PostgreSQL (on some systems in the package postgresql-contrib)",
                    versions.keys().copied().collect::<Vec<_>>().join(", ")
                ),
            },
        ),
        false => Finding::warning(
            Subject::Extensions,
            "in use are libraries that do not come with PostgreSQL; whether the keepers' machines have them is not known",
        )
        .hint("install these, of the same version or a newer one, beside the PostgreSQL of every keeper")
        .names(missing),
    }
}

fn libraries(legacy: &Inventory) -> Finding {
    let mut named: BTreeSet<String> = BTreeSet::new();
    for setting in ["shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"] {
        let listed = legacy.setting(setting).split(',');
        let bare = listed.map(|name| name.trim().trim_matches('"').trim_start_matches("$libdir/"));
        named.extend(bare.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    let foreign: Vec<String> = named.iter().filter(|name| !is_supplied(name)).cloned().collect();
    match (named.is_empty(), foreign.is_empty()) {
        (true, _) => Finding::ok(Subject::PreloadLibraries, "none"),
        (false, true) => Finding::ok(
            Subject::PreloadLibraries,
            format!("{}: they come with PostgreSQL", named.into_iter().collect::<Vec<_>>().join(", ")),
        ),
        (false, false) => Finding::warning(
            Subject::PreloadLibraries,
            "PostgreSQL does not start where one of these libraries is missing; whether the keepers' machines have them is not known",
        )
        .hint("install them beside the PostgreSQL of every keeper: a keeper says in `stolonctl status` which one it misses")
        .names(foreign),
    }
}

fn tablespaces(legacy: &Inventory, method: Method) -> Option<Finding> {
    if legacy.tablespaces.is_empty() {
        return None;
    }
    let names = legacy.tablespaces.iter().map(|place| format!("{} at {}", place.name, place.location));
    let hint = match method {
        Method::Physical => {
            "make each directory on the machine of every keeper, empty and owned by its user; \
             keepers that share a machine need --tablespace-mapping (docs/tablespaces.md)"
        }
        Method::Logical => "make the tablespaces on the new cluster before the start, with the same names",
    };
    Some(
        Finding::warning(Subject::Tablespaces, "there are tablespaces outside of PGDATA")
            .hint(hint)
            .names(names),
    )
}

fn encodings(legacy: &Inventory, method: Method) -> Finding {
    let kinds: BTreeSet<String> = legacy
        .databases
        .iter()
        .map(|database| format!("{} {}", database.encoding, database.collation.name))
        .collect();
    let sentence = kinds.into_iter().collect::<Vec<_>>().join(", ");
    let is_untyped = legacy.databases.iter().any(|database| database.encoding == "SQL_ASCII");
    match (method, is_untyped) {
        (Method::Logical, true) => Finding::warning(
            Subject::Encodings,
            format!("{sentence}: SQL_ASCII says nothing about the texts, and they are copied byte by byte"),
        ),
        (Method::Logical | Method::Physical, _) => Finding::ok(
            Subject::Encodings,
            format!("{sentence}; the keepers' systems must have these locales (`locale -a`)"),
        ),
    }
}

fn version_of_library(database: &Database) -> Option<String> {
    let version = database.collation.actual.as_ref()?;
    let library = match database.collation.provider {
        Provider::Libc => "C library",
        Provider::Icu => "ICU",
        Provider::Builtin => return None,
    };
    Some(format!("{library} {version}"))
}

fn collations(legacy: &Inventory, method: Method) -> Vec<Finding> {
    let changed: Vec<String> = legacy
        .databases
        .iter()
        .filter(|database| database.collation.has_changed())
        .map(|database| database.name.clone())
        .chain(legacy.names(|content| &content.changed_collations).names)
        .collect();
    let mut findings = Vec::new();
    if !changed.is_empty() {
        findings.push(
            Finding::warning(
                Subject::Collations,
                "the C library or ICU of the legacy sorts in another way than when indexes were made: they may be broken already",
            )
            .hint("REINDEX them and ALTER DATABASE … REFRESH COLLATION VERSION, before the copy or after")
            .names(changed),
        );
    }
    let sorted = legacy.names(|content| &content.sorted_indexes);
    let libraries: BTreeSet<String> = legacy.databases.iter().filter_map(version_of_library).collect();
    let libraries = match libraries.is_empty() {
        // Before 13 PostgreSQL does not tell the version of the C library.
        true => "of a version that PostgreSQL does not tell".to_owned(),
        false => format!("now {}", libraries.into_iter().collect::<Vec<_>>().join(" and ")),
    };
    findings.push(match (method, sorted.count) {
        (_, 0) => Finding::ok(Subject::Collations, "no index depends on the C library or on ICU"),
        (Method::Logical, count) => Finding::ok(
            Subject::Collations,
            format!("{} by the C library or ICU; they are built anew", counted(count, "index is sorted", "indexes are sorted")),
        ),
        (Method::Physical, count) => Finding::warning(
            Subject::Collations,
            format!(
                "{} by the C library or ICU, {libraries}: where the keepers' systems have another version they find wrong rows, or none",
                counted(count, "index is sorted", "indexes are sorted")
            ),
        )
        .hint("run the keepers on the same release of the same system, or REINDEX these after the copy; `migrate verify` compares the versions")
        .names(sorted.names),
    });
    findings
}

fn invalid_indexes(legacy: &Inventory) -> Option<Finding> {
    let invalid = legacy.names(|content| &content.invalid_indexes);
    (invalid.count > 0).then(|| {
        Finding::warning(
            Subject::InvalidIndexes,
            format!("{} never finished", counted(invalid.count, "index was", "indexes were")),
        )
        .hint("DROP INDEX CONCURRENTLY, or REINDEX")
        .names(invalid.names)
    })
}

fn room(legacy: &Inventory, destination: &Destination) -> Vec<Finding> {
    let needed = legacy.size();
    let mut findings = Vec::new();
    let unknown: Vec<String> = destination
        .keepers
        .iter()
        .filter(|keeper| keeper.room.is_none())
        .map(|keeper| keeper.uid.to_string())
        .collect();
    for (uid, room) in destination.keepers.iter().filter_map(|keeper| Some((&keeper.uid, keeper.room?))) {
        let (free, total) = (ByteCount(room.free), ByteCount(room.total));
        let sentence = format!("{uid} has {free} free of {total}, the data take {needed}");
        let enough = needed.0.saturating_add(needed.0 / 10);
        findings.push(match (room.free >= enough, room.total >= enough) {
            (true, _) => Finding::ok(Subject::Room, sentence),
            (false, true) => Finding::warning(Subject::Room, format!("{sentence}, and the WAL comes on top"))
                .hint("make room, unless the copy replaces what lies there"),
            (false, false) => Finding::blocks(Subject::Room, sentence).hint("give it a larger disk"),
        });
    }
    if !unknown.is_empty() || destination.keepers.is_empty() {
        findings.push(
            Finding::warning(
                Subject::Room,
                format!(
                    "every keeper needs {needed} and the WAL of the copy; what is free there is not known"
                ),
            )
            .hint("df on each machine, or stolon_keeper_file_system_free_bytes of its metrics")
            .names(unknown),
        );
    }
    findings
}

fn transfer(legacy: &Inventory) -> Option<Finding> {
    let transfer = legacy.transfer?;
    let rate = u128::from(transfer.bytes) * 1000 / u128::from(transfer.milliseconds.max(1));
    let seconds = u128::from(legacy.size().0) / rate.max(1);
    let duration = match seconds {
        0..60 => "less than a minute".to_owned(),
        60..3600 => format!("about {} minutes", seconds.div_ceil(60)),
        _ => format!("about {}.{} hours", seconds / 3600, seconds % 3600 / 360),
    };
    let rate = ByteCount(u64::try_from(rate).unwrap_or(u64::MAX));
    Some(Finding::ok(
        Subject::Transfer,
        format!(
            "{} came here at {rate} a second; at that rate {} take {duration}, from a machine with a road like this one's",
            ByteCount(transfer.bytes),
            legacy.size()
        ),
    ))
}
