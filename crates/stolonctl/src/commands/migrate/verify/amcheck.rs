//! Whether the indexes of the follower hold together, by the extension amcheck where it is installed (PostgreSQL manual, "amcheck").

use super::outcome::{Compared, Outcome};
use super::pair::Pair;
use super::side::Interrupted;

const SCHEMA: &str = "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'";
const INDEXES: &str = "SELECT c.oid, format('%I.%I', n.nspname, c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
    JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisready AND i.indisvalid \
    AND n.nspname NOT LIKE 'pg\\_toast%' ORDER BY 2";

/// Check every B-tree index of the follower; none where the extension is not installed.
///
/// # Errors
/// The server does not answer, or ended too many checks for the sake of its replay.
pub async fn compare(pair: &Pair) -> anyhow::Result<Option<Compared>> {
    pair.end().await?;
    let schema = pair.follower.rows(SCHEMA).await?;
    let Some(schema) = schema.first().and_then(|row| row.get(0)) else { return Ok(None) };
    let indexes = pair.follower.rows(INDEXES).await?;
    let (mut differences, mut unchecked) = (Vec::new(), 0);
    for row in &indexes {
        let (oid, name) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
        match pair.follower.sum(&format!("SELECT {schema}.bt_index_check({oid}::regclass)")).await {
            Ok(_) => {}
            Err(Interrupted::ByReplay) => unchecked += 1,
            Err(Interrupted::Refused(why)) => differences.push(format!("{name}: {why}")),
            Err(interrupted) => return Err(interrupted.into()),
        }
    }
    let (outcome, found) = match (differences.len(), unchecked) {
        (0, 0) => (Outcome::Holds, format!("{} indexes", indexes.len())),
        (0, unchecked) => (Outcome::NotCompared, format!("{unchecked} of {} ended by replay", indexes.len())),
        (bad, _) => {
            (Outcome::Differs, format!("{bad} of {} indexes: REINDEX them after the switch", indexes.len()))
        }
    };
    Ok(Some(Compared { differences, ..Compared::of(&pair.database, "amcheck", outcome, found) }))
}
