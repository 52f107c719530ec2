//! What was checked, and whether it held.

use std::collections::BTreeMap;

use stolon_local::Target;

use super::QUERY;

/// The table at the end.
#[derive(Debug, Default)]
pub struct Checks {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    found: String,
    held: bool,
}

impl Checks {
    /// Note one check.
    pub fn note(&mut self, what: &str, found: &str, held: bool) {
        self.rows.push(Row { what: what.to_owned(), found: found.to_owned(), held });
    }

    /// Note whether something that was waited for came.
    ///
    /// # Errors
    /// It did not, and there is no point in going on.
    pub fn await_end(&mut self, what: &str, found: &str, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        match &outcome {
            Ok(()) => self.note(what, found, true),
            Err(error) => self.note(what, &format!("{error:#}"), false),
        }
        outcome
    }

    /// True when something was checked and all of it held.
    pub fn all_held(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.held)
    }

    /// The table, ready to print.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
        let mut table = String::from("\nWhat was checked\n");
        for row in &self.rows {
            let mark = if row.held { "ok    " } else { "FAILED" };
            table.push_str(&format!("  {mark}  {:<width$}  {}\n", row.what, row.found));
        }
        table
    }
}

/// The content of a database: for each table the number of rows and a checksum that does not depend on their order,
/// and the same of what belongs to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    tables: BTreeMap<String, (u64, String)>,
}

const TABLES: &str = "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'v') and n.nspname = 'public' and c.relname not like 'pg\\_stat\\_statements%' order by 1";

/// What belongs to tables, as text.
const OBJECTS: [(&str, &str); 5] = [
    (
        "roles",
        "select concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, \
         rolbypassrls, rolconnlimit, rolpassword, rolvaliduntil) from pg_authid where rolname not like 'pg\\_%'",
    ),
    (
        "grants",
        "select format('%I %s', relname, relacl) from pg_class \
         where relacl is not null and relnamespace = 'public'::regnamespace and relname not like 'pg\\_stat\\_statements%'",
    ),
    ("indexes", "select indexdef from pg_indexes where schemaname = 'public'"),
    (
        "constraints",
        "select format('%s %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) from pg_constraint \
         where connamespace = 'public'::regnamespace",
    ),
    ("extensions", "select format('%I %s', extname, extversion) from pg_extension"),
];

impl Fingerprint {
    /// Read every table and view of the schema `public`, and what belongs to them.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn take(target: &Target) -> anyhow::Result<Fingerprint> {
        let session = target.connect(QUERY).await?;
        let names = session.rows(TABLES, QUERY).await?;
        let tables = names.iter().map(|row| row.get(0).unwrap_or_default().to_owned());
        let tables = tables.map(|name| (name.clone(), name));
        let objects = OBJECTS.map(|(name, query)| (name.to_owned(), format!("({query})")));
        let mut found = BTreeMap::new();
        for (name, source) in tables.chain(objects) {
            let sql = format!(
                "select count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) from {source} as t"
            );
            if let Some(row) = session.rows(&sql, QUERY).await?.first() {
                let count = row.get(0).unwrap_or_default().parse()?;
                found.insert(name, (count, row.get(1).unwrap_or_default().to_owned()));
            }
        }
        Ok(Fingerprint { tables: found })
    }

    /// Tables and rows in one phrase.
    pub fn summary(&self) -> String {
        let is_table = |name: &&String| !OBJECTS.iter().any(|(object, _)| object == name);
        let tables: Vec<&String> = self.tables.keys().filter(is_table).collect();
        let rows: u64 = tables.iter().filter_map(|name| self.tables.get(*name)).map(|(count, _)| count).sum();
        format!("{rows} rows in {} tables and views", tables.len())
    }

    /// Note for each table whether it is the same over there.
    pub fn compare(&self, other: &Fingerprint, when: &str, checks: &mut Checks) {
        for (name, (count, sum)) in &self.tables {
            let what = format!("{name} {when}");
            match other.tables.get(name) {
                None => checks.note(&what, "is missing", false),
                Some(found) if found == &(*count, sum.clone()) => {
                    checks.note(&what, &format!("{count} rows, checksum {sum}"), true);
                }
                Some((found_count, found_sum)) => {
                    let found = format!("{found_count} rows, checksum {found_sum}; expected {count}, {sum}");
                    checks.note(&what, &found, false);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(tables: &[(&str, u64, &str)]) -> Fingerprint {
        let tables =
            tables.iter().map(|(name, count, sum)| ((*name).to_owned(), (*count, (*sum).to_owned())));
        Fingerprint { tables: tables.collect() }
    }

    #[test]
    fn a_missing_table_and_a_changed_row_do_not_hold() {
        let before = fingerprint(&[("a", 1, "11"), ("b", 2, "22"), ("c", 3, "33")]);
        let mut checks = Checks::default();
        before.compare(&before.clone(), "here", &mut checks);
        assert!(checks.all_held());
        let after = fingerprint(&[("a", 1, "11"), ("b", 2, "99")]);
        before.compare(&after, "there", &mut checks);
        assert!(!checks.all_held());
        assert_eq!(checks.rows.iter().filter(|row| !row.held).count(), 2);
    }

    #[test]
    fn nothing_checked_does_not_hold() {
        assert!(!Checks::default().all_held());
    }
}
