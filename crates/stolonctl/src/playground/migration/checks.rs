//! What was checked, and whether it held.

use std::collections::BTreeMap;

use anyhow::Context;
use stolon_local::{Session, Target};

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

    /// Note whether something happened within its time limit.
    ///
    /// # Errors
    /// It did not, and the next steps depend on it.
    pub fn await_end(&mut self, what: &str, found: &str, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        self.if_late(what, outcome)?;
        self.note(what, found, true);
        Ok(())
    }

    /// Note that something did not happen within its time limit, where it did not.
    ///
    /// # Errors
    /// It did not.
    pub fn if_late(&mut self, what: &str, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        if let Err(error) = &outcome {
            self.note(what, &format!("{error:#}"), false);
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
    tables: BTreeMap<String, Content>,
    /// What belongs to the tables, by kind.
    objects: BTreeMap<String, Content>,
}

/// What a table, or a query, holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    rows: u64,
    checksum: String,
}

impl Content {
    /// `source`: a table, or a query in parentheses.
    async fn read(session: &Session, source: &str) -> anyhow::Result<Content> {
        let sql = format!(
            "select count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) from {source} as t"
        );
        let rows = session.rows(&sql, QUERY).await?;
        let row = rows.first().context("a count without a row")?;
        let text = |index| row.get(index).unwrap_or_default();
        Ok(Content { rows: text(0).parse()?, checksum: text(1).to_owned() })
    }
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows, checksum {}", self.rows, self.checksum)
    }
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
        let mut fingerprint = Fingerprint { tables: BTreeMap::new(), objects: BTreeMap::new() };
        for row in session.rows(TABLES, QUERY).await? {
            let name = row.get(0).unwrap_or_default().to_owned();
            let content = Content::read(&session, &name).await?;
            fingerprint.tables.insert(name, content);
        }
        for (name, query) in OBJECTS {
            let content = Content::read(&session, &format!("({query})")).await?;
            fingerprint.objects.insert(name.to_owned(), content);
        }
        Ok(fingerprint)
    }

    /// Tables and rows in one phrase.
    pub fn summary(&self) -> String {
        let rows: u64 = self.tables.values().map(|content| content.rows).sum();
        format!("{rows} rows in {} tables and views", self.tables.len())
    }

    /// Note in one row that the other database holds the same, or what differs, each with a row of its own.
    pub fn compare_briefly(&self, other: &Fingerprint, when: &str, checks: &mut Checks) {
        let mut all = Checks::default();
        self.compare(other, when, &mut all);
        if all.all_held() {
            let found = format!("{}, and what belongs to them: the same", self.summary());
            checks.note(&format!("data {when}"), &found, true);
        } else {
            checks.rows.extend(all.rows.into_iter().filter(|row| !row.held));
        }
    }

    /// Note for each table whether the other database holds the same.
    pub fn compare(&self, other: &Fingerprint, when: &str, checks: &mut Checks) {
        let theirs = |name: &String| other.tables.get(name).or_else(|| other.objects.get(name));
        for (name, ours) in self.tables.iter().chain(&self.objects) {
            let what = format!("{name} {when}");
            match theirs(name) {
                None => checks.note(&what, "is missing", false),
                Some(found) if found == ours => checks.note(&what, &found.to_string(), true),
                Some(found) => checks.note(&what, &format!("{found}; expected {ours}"), false),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(tables: &[(&str, u64, &str)]) -> Fingerprint {
        let content = |rows, checksum: &str| Content { rows, checksum: checksum.to_owned() };
        let tables = tables.iter().map(|(name, rows, sum)| ((*name).to_owned(), content(*rows, sum)));
        Fingerprint { tables: tables.collect(), objects: BTreeMap::new() }
    }

    #[test]
    fn a_missing_table_and_a_changed_row_do_not_hold() {
        let before = fingerprint(&[("a", 1, "11"), ("b", 2, "22"), ("c", 3, "33")]);
        let mut checks = Checks::default();
        before.compare(&before.clone(), "here", &mut checks);
        assert!(checks.all_held());
        before.compare_briefly(&before.clone(), "once more", &mut checks);
        assert!(checks.all_held() && checks.rows.len() == 4, "{checks:?}");
        let after = fingerprint(&[("a", 1, "11"), ("b", 2, "99")]);
        let mut brief = Checks::default();
        before.compare_briefly(&after, "there", &mut brief);
        assert!(brief.rows.len() == 2 && brief.rows.iter().all(|row| !row.held), "{brief:?}");
        before.compare(&after, "there", &mut checks);
        assert!(!checks.all_held());
        assert_eq!(checks.rows.iter().filter(|row| !row.held).count(), 2);
    }

    #[test]
    fn nothing_checked_does_not_hold() {
        assert!(!Checks::default().all_held());
    }
}
