//! Replica identities: by what a subscriber finds the row again that an update or a delete means
//! (PostgreSQL manual, "Logical Replication", "Publication"). A published table without one refuses updates and deletes.

use serde::{Deserialize, Serialize};
use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_postgres::limit::Limit;
use stolon_postgres::quote::sql_literal;

/// Types that PostgreSQL cannot compare: rows of a table without a key could not be found again by them.
const INCOMPARABLE: &str = "('json', 'xml', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle', 'txid_snapshot', 'pg_snapshot')";

/// Tables of applications whose rows have no key. A deferrable primary key is none.
const WITHOUT_KEY: &str = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
    AND c.relreplident IN ('d', 'n') AND NOT (c.relreplident = 'd' AND EXISTS \
    (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid))";

/// A table whose identity has to become the whole row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Quoted.
    pub table: String,
    /// What its identity was, in the words of `ALTER TABLE … REPLICA IDENTITY`.
    former: String,
}

impl Identity {
    /// Have whole rows tell its rows apart.
    pub fn take_whole_rows(&self) -> String {
        format!("ALTER TABLE {} REPLICA IDENTITY FULL; ", self.table)
    }

    /// As it was before. The table may be gone.
    pub fn give_back(&self) -> String {
        format!("ALTER TABLE IF EXISTS {} REPLICA IDENTITY {}; ", self.table, self.former)
    }
}

/// The tables of a database that need it.
///
/// # Errors
/// The server does not answer.
pub async fn needed(session: &ForeignSession, limit: &Limit) -> Result<Vec<Identity>, ForeignProblem> {
    let sql = format!(
        "SELECT format('%I.%I', n.nspname, c.relname), CASE c.relreplident WHEN 'n' THEN 'NOTHING' ELSE 'DEFAULT' END \
         {WITHOUT_KEY} ORDER BY 1"
    );
    let text = |row: &tokio_postgres::SimpleQueryRow, at| row.get(at).unwrap_or_default().to_owned();
    let rows = session.rows(&sql, limit).await?;
    Ok(rows.iter().map(|row| Identity { table: text(row, 0), former: text(row, 1) }).collect())
}

/// Tables whose rows could not be found again even by all their columns.
///
/// # Errors
/// The server does not answer.
pub async fn impossible(session: &ForeignSession, limit: &Limit) -> Result<Vec<String>, ForeignProblem> {
    let sql = format!(
        "SELECT format('%I.%I', n.nspname, c.relname) {WITHOUT_KEY} AND EXISTS (SELECT FROM pg_attribute a \
         JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         AND t.typname IN {INCOMPARABLE}) ORDER BY 1"
    );
    let rows = session.rows(&sql, limit).await?;
    Ok(rows.iter().filter_map(|row| row.get(0)).map(str::to_owned).collect())
}

/// The remark on a publication that says which tables had another identity before, so that whoever finds it can give it back.
pub fn remark(publication: &str, identities: &[Identity]) -> String {
    let text = serde_json::to_string(identities).unwrap_or_default();
    format!("COMMENT ON PUBLICATION {publication} IS {}", sql_literal(&text))
}

/// The tables that have another identity because of a publication; none: there is no such publication.
///
/// # Errors
/// The server does not answer.
pub async fn of_publication(
    session: &ForeignSession,
    limit: &Limit,
    publication: &str,
) -> Result<Option<Vec<Identity>>, ForeignProblem> {
    let sql = format!(
        "SELECT coalesce(obj_description(oid, 'pg_publication'), '') FROM pg_publication WHERE pubname = {}",
        sql_literal(publication)
    );
    Ok(session.value(&sql, limit).await?.map(|text| remarked(&text)))
}

/// What such a remark says. Another one says nothing.
fn remarked(text: &str) -> Vec<Identity> {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_says_what_there_was_whatever_the_names() {
        let identity =
            |table: &str, former: &str| Identity { table: table.to_owned(), former: former.to_owned() };
        let identities = [identity("public.\"a\nb'\"", "DEFAULT"), identity("s.t", "NOTHING")];
        let text = serde_json::to_string(&identities).unwrap_or_default();
        assert!(remark("p", &identities).contains("''"), "{}", remark("p", &identities));
        assert_eq!(remarked(&text), identities);
        assert_eq!(remarked("somebody else's"), []);
        assert_eq!(identities[1].give_back(), "ALTER TABLE IF EXISTS s.t REPLICA IDENTITY NOTHING; ");
    }
}
