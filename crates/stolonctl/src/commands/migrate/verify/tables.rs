//! The content of the tables of a database, on both sides.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Context;
use futures::future::try_join_all;
use parking_lot::Mutex;

use super::checksum::{Chunk, Column, Sum, Table, chunks};
use super::outcome::{Compared, Outcome};
use super::pair::{Following, Found, Hold, Moment, Pair};
use super::side::{Interrupted, Session, Side};

/// Tables that are looked at in the same snapshots have about this many pages together (2 GiB), so that no snapshot keeps dead rows from being
/// removed for longer than that takes. A larger table is looked at alone.
const BATCH: u64 = 262_144;
/// How often what the standby's replay ended is begun anew.
const ATTEMPTS: usize = 5;
/// How often a table that is busy is tried to be locked.
const LOCKS: usize = 3;

/// The two sides, and how many sessions may sum at the same time on each.
pub struct Sides<'a> {
    /// The side that is written to.
    pub leader: &'a Side,
    /// The side that follows.
    pub follower: &'a Side,
    /// `--jobs`.
    pub jobs: usize,
}

/// Tables, partitions and materialised views of users, with the base types of their columns where those are PostgreSQL's own. What is temporary or of an extension is nobody's to compare.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname), c.relpersistence, c.relkind, \
    pg_relation_size(c.oid) / current_setting('block_size')::int, a.attname, \
    (WITH RECURSIVE base(oid) AS (SELECT t.oid UNION ALL \
    SELECT y.typbasetype FROM base b JOIN pg_type y ON y.oid = b.oid WHERE y.typtype = 'd') \
    SELECT CASE WHEN y.typnamespace = 'pg_catalog'::regnamespace THEN y.typname::text ELSE '' END \
    FROM base b JOIN pg_type y ON y.oid = b.oid WHERE y.typtype <> 'd') \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
    LEFT JOIN pg_type t ON t.oid = a.atttypid \
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
    AND n.nspname NOT LIKE 'pg\\_toast%' AND NOT EXISTS (SELECT FROM pg_depend d \
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
    ORDER BY n.nspname, c.relname, a.attname";

/// A table as one side has it.
struct Known {
    table: Table,
    is_unlogged: bool,
    is_materialised: bool,
}

async fn known(session: &Session) -> anyhow::Result<BTreeMap<String, Known>> {
    let mut all: BTreeMap<String, Known> = BTreeMap::new();
    for row in session.rows(TABLES).await? {
        let text = |column| row.get(column).unwrap_or_default();
        let name = text(0).to_owned();
        if !all.contains_key(&name) {
            let table = Table { name: name.clone(), columns: Vec::new(), pages: text(3).parse()? };
            all.insert(
                name.clone(),
                Known { table, is_unlogged: text(1) == "u", is_materialised: text(2) == "m" },
            );
        }
        let known = all.get_mut(&name).context("a table that was just noted")?;
        if let (Some(name), Some(kind)) = (row.get(4), row.get(5)) {
            known.table.columns.push(Column { name: name.to_owned(), kind: kind.to_owned() });
        }
    }
    Ok(all)
}

/// Compare every table of the leader with the follower's, and name those that only the follower has.
///
/// # Errors
/// A server does not answer, or a signal came.
pub async fn compare(pair: &Pair, sides: &Sides<'_>) -> anyhow::Result<Vec<Compared>> {
    pair.end().await?;
    let ours = known(&pair.leader).await?;
    pair.caught_up().await?;
    let mut theirs = known(&pair.follower).await?;
    let database = &pair.database;
    let (mut compared, mut wanted) = (Vec::new(), Vec::new());
    for (name, known) in ours {
        let other = theirs.remove(&name);
        let row = |outcome, found: &str| Compared::table(database, &name, outcome, found);
        match other {
            None => compared.push(row(Outcome::Differs, "it is missing")),
            Some(_) if known.is_materialised && matches!(pair.following, Following::Subscription { .. }) => {
                compared.push(row(
                    Outcome::Noted,
                    "a materialised view is not replicated: refresh it after a rollback",
                ));
            }
            Some(_) if known.is_unlogged => compared.push(row(Outcome::Noted, "unlogged: it arrives empty")),
            Some(other)
                if other.table.columns.iter().map(|it| &it.name).ne(known
                    .table
                    .columns
                    .iter()
                    .map(|it| &it.name)) =>
            {
                compared.push(row(Outcome::Differs, "it has other columns"));
            }
            Some(_) => wanted.push(known.table),
        }
    }
    let surplus = theirs
        .into_keys()
        .map(|name| Compared::table(database, &name, Outcome::Differs, "only the follower has it"));
    compared.extend(surplus);
    if wanted.is_empty() {
        return Ok(compared);
    }
    let workers = Workers::open(pair, sides).await?;
    let mut unequal = Vec::new();
    for batch in batches(wanted) {
        for (table, sums) in looked_at(pair, &workers, Hold::Nothing, batch).await?.unwrap_or_default() {
            match sums {
                Sums::Both(one, other) if one == other => compared.push(equal(database, &table, one)),
                sums => unequal.push((table, sums)),
            }
        }
    }
    for (table, sums) in unequal {
        let sums = match pair.following {
            Following::AtRest => Some(sums),
            Following::Standby | Following::Subscription { .. } => held(pair, &workers, &table).await?,
        };
        compared.push(verdict(database, &table, sums));
    }
    compared.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(compared)
}

/// Several tables at once, up to a size.
fn batches(tables: Vec<Table>) -> Vec<Vec<Table>> {
    let (mut batches, mut batch, mut pages) = (Vec::new(), Vec::new(), 0);
    for table in tables {
        if pages + table.pages > BATCH && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            pages = 0;
        }
        pages += table.pages;
        batch.push(table);
    }
    batches.push(batch);
    batches
}

/// Look at one table again, kept from being written; none if that could not be had.
async fn held(pair: &Pair, workers: &Workers, table: &Table) -> anyhow::Result<Option<Sums>> {
    for _ in 0..LOCKS {
        let found = looked_at(pair, workers, Hold::Table(&table.name), vec![table.clone()]).await?;
        if let Some((_, sums)) = found.and_then(|mut found| found.pop()) {
            return Ok(Some(sums));
        }
    }
    Ok(None)
}

fn equal(database: &str, table: &Table, sum: Sum) -> Compared {
    let row = Compared::table(database, &table.name, Outcome::Holds, format!("{} rows", sum.rows));
    Compared { rows: Some(sum.rows), ..row }
}

fn verdict(database: &str, table: &Table, sums: Option<Sums>) -> Compared {
    let row = |outcome, found: String| Compared::table(database, &table.name, outcome, found);
    match sums {
        Some(Sums::Both(one, other)) if one == other => equal(database, table, one),
        Some(Sums::Both(one, other)) if one.rows == other.rows => Compared {
            rows: Some(one.rows),
            ..row(Outcome::Differs, format!("{} rows on both sides, with another content", one.rows))
        },
        Some(Sums::Both(one, other)) => Compared {
            rows: Some(one.rows),
            ..row(Outcome::Differs, format!("{} rows, and {} on the follower", one.rows, other.rows))
        },
        Some(Sums::Refused(why)) => row(Outcome::NotCompared, why),
        None => row(
            Outcome::NotCompared,
            "it is written all the time, and could not be locked for the moment that the follower lags behind".to_owned(),
        ),
    }
}

/// What came of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sums {
    /// Of the leader and of the follower.
    Both(Sum, Sum),
    /// One of them did not sum it.
    Refused(String),
}

/// Sum up tables on both sides at a moment; none if no moment was found.
async fn looked_at(
    pair: &Pair,
    workers: &Workers,
    hold: Hold<'_>,
    tables: Vec<Table>,
) -> anyhow::Result<Option<Vec<(Table, Sums)>>> {
    let mut attempt = 1;
    loop {
        let Found::Moment(moment) = pair.moment(hold).await? else { return Ok(None) };
        match workers.sum(pair, &moment, &tables).await {
            Ok(sums) => return Ok(Some(tables.into_iter().zip(sums).collect())),
            Err(Interrupted::ByReplay) if attempt < ATTEMPTS => attempt += 1,
            Err(interrupted) => return Err(interrupted.into()),
        }
    }
}

/// Sessions that sum.
struct Workers {
    leader: Vec<Session>,
    follower: Vec<Session>,
}

/// A chunk of a table that nobody has taken yet.
struct Piece {
    table: usize,
    chunk: Chunk,
}

/// What is still to be done, and what has come.
struct Work {
    pieces: Mutex<VecDeque<Piece>>,
    sums: Mutex<Vec<Result<Sum, String>>>,
}

impl Workers {
    async fn open(pair: &Pair, sides: &Sides<'_>) -> anyhow::Result<Workers> {
        let connect = async |side: &Side, major| {
            let session = side.connect(&pair.database).await?;
            session.agree(pair.method, major).await?;
            anyhow::Ok(session)
        };
        let several = async |side, major| try_join_all((0..sides.jobs).map(|_| connect(side, major))).await;
        let (leader, follower) = tokio::try_join!(
            several(sides.leader, pair.leader_abilities.major),
            several(sides.follower, pair.follower_abilities.major)
        )?;
        Ok(Workers { leader, follower })
    }

    async fn sum(&self, pair: &Pair, moment: &Moment, tables: &[Table]) -> Result<Vec<Sums>, Interrupted> {
        let work = |major| {
            let pieces = tables.iter().enumerate().flat_map(|(index, table)| {
                chunks(table.pages, major).into_iter().map(move |chunk| Piece { table: index, chunk })
            });
            Work {
                pieces: Mutex::new(pieces.collect()),
                sums: Mutex::new(vec![Ok(Sum::default()); tables.len()]),
            }
        };
        let ours = work(pair.leader_abilities.major);
        let theirs = work(pair.follower_abilities.major);
        let all = async |sessions: &[Session], work: &Work, snapshot: &str| {
            try_join_all(sessions.iter().map(|session| labour(session, work, snapshot, pair, tables))).await
        };
        tokio::try_join!(
            all(&self.leader, &ours, &moment.leader),
            all(&self.follower, &theirs, &moment.follower)
        )?;
        let (ours, theirs) = (ours.sums.into_inner(), theirs.sums.into_inner());
        Ok(ours
            .into_iter()
            .zip(theirs)
            .map(|pair| match pair {
                (Ok(one), Ok(other)) => Sums::Both(one, other),
                (Err(why), _) | (_, Err(why)) => Sums::Refused(why),
            })
            .collect())
    }
}

/// Take pieces until none is left.
async fn labour(
    session: &Session,
    work: &Work,
    snapshot: &str,
    pair: &Pair,
    tables: &[Table],
) -> Result<(), Interrupted> {
    let begin = format!(
        "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
    );
    session.rows(&begin).await?;
    loop {
        let Some(piece) = work.pieces.lock().pop_front() else { break };
        let table = &tables[piece.table];
        match session.sum(&pair.method.query(table, piece.chunk)).await {
            Ok(rows) => {
                let row = rows.first().context("a sum without a row")?;
                let number = |column: usize| row.get(column).unwrap_or_default();
                let sum = Sum {
                    rows: number(0).parse().context("a count that is no number")?,
                    hash: number(1).parse().context("a sum that is no number")?,
                };
                if let Ok(so_far) = &mut work.sums.lock()[piece.table] {
                    *so_far += sum;
                }
            }
            Err(Interrupted::Refused(why)) => {
                work.sums.lock()[piece.table] = Err(why);
                session.rows(&begin).await?;
            }
            Err(interrupted) => return Err(interrupted),
        }
    }
    Ok(session.rows("ROLLBACK").await.map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_table_is_looked_at_alone_and_small_ones_together() {
        let table = |name: &str, pages| Table { name: name.to_owned(), columns: Vec::new(), pages };
        let tables =
            vec![table("a", 1), table("b", 2), table("c", BATCH), table("d", BATCH * 9), table("e", 1)];
        let names: Vec<Vec<String>> = batches(tables)
            .into_iter()
            .map(|batch| batch.into_iter().map(|table| table.name).collect())
            .collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]]);
    }
}
