//! The content of the tables of a database, on both sides.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Context;
use futures::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::checksum::{Chunk, Column, Method, Sum, Table, chunks};
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
    /// So many may sum on the leader now, of whatever database.
    pub leader_turns: Semaphore,
    /// The same for the follower.
    pub follower_turns: Semaphore,
}

impl<'a> Sides<'a> {
    /// Nobody sums yet.
    pub fn new(leader: &'a Side, follower: &'a Side, jobs: usize) -> Sides<'a> {
        let turns = || Semaphore::new(jobs);
        Sides { leader, follower, jobs, leader_turns: turns(), follower_turns: turns() }
    }
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
    let workers = Workers::new(pair, sides);
    let mut unequal = Vec::new();
    for batch in batches(wanted) {
        for (table, sums) in looked_at(&workers, Hold::Nothing, batch).await?.unwrap_or_default() {
            match sums {
                Sums::Both(one, other) if one == other => compared.push(equal(database, &table, one)),
                sums => unequal.push((table, sums)),
            }
        }
    }
    for (table, sums) in unequal {
        let sums = match pair.following {
            Following::AtRest => Some(sums),
            Following::Standby | Following::Subscription { .. } => held(&workers, &table).await?,
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
async fn held(workers: &Workers<'_>, table: &Table) -> anyhow::Result<Option<Sums>> {
    for _ in 0..LOCKS {
        let found = looked_at(workers, Hold::Table(&table.name), vec![table.clone()]).await?;
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
    workers: &Workers<'_>,
    hold: Hold<'_>,
    tables: Vec<Table>,
) -> anyhow::Result<Option<Vec<(Table, Sums)>>> {
    let mut attempt = 1;
    loop {
        let Found::Moment(moment) = workers.pair.moment(hold).await? else { return Ok(None) };
        match workers.sum(&moment, &tables).await {
            Ok(sums) => return Ok(Some(tables.into_iter().zip(sums).collect())),
            Err(Interrupted::ByReplay) if attempt < ATTEMPTS => attempt += 1,
            Err(interrupted) => return Err(interrupted.into()),
        }
    }
}

/// Sessions that sum: those of the pair, and as many more as `--jobs` allows once there is something for them to do.
struct Workers<'a> {
    pair: &'a Pair,
    sides: &'a Sides<'a>,
    more: OnceCell<More>,
}

/// Sessions beside those of the pair.
#[derive(Default)]
struct More {
    leader: Vec<Session>,
    follower: Vec<Session>,
}

/// What the session of the pair sums alone: fewer pages (32 MiB), or one piece, are not worth another connection.
const ALONE: u64 = 4096;

impl<'a> Workers<'a> {
    fn new(pair: &'a Pair, sides: &'a Sides<'a>) -> Workers<'a> {
        Workers { pair, sides, more: OnceCell::new() }
    }

    async fn open(&self) -> anyhow::Result<More> {
        let (pair, sides) = (self.pair, self.sides);
        let connect = async |side: &Side, major| {
            let session = side.connect(&pair.database).await?;
            session.agree(pair.method, major).await?;
            anyhow::Ok(session)
        };
        let several = async |side, major| try_join_all((1..sides.jobs).map(|_| connect(side, major))).await;
        let (leader, follower) = tokio::try_join!(
            several(sides.leader, pair.leader_abilities.major),
            several(sides.follower, pair.follower_abilities.major)
        )?;
        Ok(More { leader, follower })
    }

    async fn sum(&self, moment: &Moment, tables: &[Table]) -> Result<Vec<Sums>, Interrupted> {
        let (pair, sides) = (self.pair, self.sides);
        let ours = Work::of(tables, pair.leader_abilities.major, pair.method, &sides.leader_turns);
        let theirs = Work::of(tables, pair.follower_abilities.major, pair.method, &sides.follower_turns);
        let is_much = tables.iter().map(|table| table.pages).sum::<u64>() >= ALONE;
        let nobody = More::default();
        let more = match is_much && ours.pieces.lock().len().max(theirs.pieces.lock().len()) > 1 {
            true => self.more.get_or_try_init(|| self.open()).await?,
            false => &nobody,
        };
        let all = async |own: &Session, more: &[Session], work: &Work<'_>, snapshot: &str| {
            let others = try_join_all(more.iter().map(|session| work.beside(session, snapshot)));
            tokio::try_join!(work.own(own), others).map(drop)
        };
        tokio::try_join!(
            all(&pair.leader, &more.leader, &ours, &moment.leader),
            all(&pair.follower, &more.follower, &theirs, &moment.follower)
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

/// A chunk of a table that nobody has taken yet.
struct Piece {
    table: usize,
    chunk: Chunk,
}

/// What is still to be done on one side, and what has come.
struct Work<'a> {
    tables: &'a [Table],
    method: Method,
    turns: &'a Semaphore,
    pieces: Mutex<VecDeque<Piece>>,
    sums: Mutex<Vec<Result<Sum, String>>>,
}

/// What a session goes back to after a sum that was refused: the snapshot stays.
const SAVED: &str = "SAVEPOINT stolonctl";

impl<'a> Work<'a> {
    fn of(tables: &'a [Table], major: u16, method: Method, turns: &'a Semaphore) -> Work<'a> {
        let pieces = tables.iter().enumerate().flat_map(|(index, table)| {
            chunks(table.pages, major).into_iter().map(move |chunk| Piece { table: index, chunk })
        });
        let pieces = Mutex::new(pieces.collect());
        Work { tables, method, turns, pieces, sums: Mutex::new(vec![Ok(Sum::default()); tables.len()]) }
    }

    /// By the session that has the snapshot.
    async fn own(&self, session: &Session) -> Result<(), Interrupted> {
        session.rows(SAVED).await?;
        self.labour(session).await
    }

    /// By a session that is told of the snapshot.
    async fn beside(&self, session: &Session, snapshot: &str) -> Result<(), Interrupted> {
        let begin = format!(
            "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'; {SAVED}"
        );
        session.rows(&begin).await?;
        self.labour(session).await?;
        Ok(session.rows("ROLLBACK").await.map(drop)?)
    }

    /// Take pieces until none is left.
    async fn labour(&self, session: &Session) -> Result<(), Interrupted> {
        loop {
            let turn = self.turns.acquire().await;
            let _turn = turn.context("a semaphore that nobody closes")?;
            let Some(piece) = self.pieces.lock().pop_front() else { return Ok(()) };
            let table = &self.tables[piece.table];
            match session.sum(&self.method.query(table, piece.chunk)).await {
                Ok(rows) => {
                    let row = rows.first().context("a sum without a row")?;
                    let number = |column: usize| row.get(column).unwrap_or_default();
                    let sum = Sum {
                        rows: number(0).parse().context("a count that is no number")?,
                        hash: number(1).parse().context("a sum that is no number")?,
                    };
                    if let Ok(so_far) = &mut self.sums.lock()[piece.table] {
                        *so_far += sum;
                    }
                }
                Err(Interrupted::Refused(why)) => {
                    self.sums.lock()[piece.table] = Err(why);
                    session.rows("ROLLBACK TO SAVEPOINT stolonctl").await?;
                }
                Err(interrupted) => return Err(interrupted),
            }
        }
    }
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
