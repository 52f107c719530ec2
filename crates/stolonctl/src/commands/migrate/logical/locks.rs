//! Whether the servers have room for the locks that definitions take: all of a database are made in one transaction, which locks each table
//! and each index, and `pg_dump` locks each table. A server that has no room for a lock refuses it, after minutes, with words about shared memory.

use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_postgres::limit::Limit;

use super::super::flow::{Database, GENTLY, each_gently};
use super::super::legacy::Legacy;

/// What a server has room for (PostgreSQL manual, `max_locks_per_transaction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The parameter.
    pub each: u64,
    /// By what it is multiplied: sessions of all kinds, and prepared transactions.
    pub sessions: u64,
}

impl Room {
    /// What it is.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn of(session: &ForeignSession, limit: &Limit) -> Result<Room, ForeignProblem> {
        // Senders are among `max_connections` before 12.
        const SQL: &str = "SELECT current_setting('max_locks_per_transaction'), current_setting('max_connections')::int \
            + current_setting('max_prepared_transactions')::int + current_setting('max_worker_processes')::int \
            + current_setting('autovacuum_max_workers')::int + CASE WHEN current_setting('server_version_num')::int >= 120000 \
            THEN current_setting('max_wal_senders')::int ELSE 0 END";
        let (each, sessions) = two_numbers(session, SQL, limit).await?;
        Ok(Room { each, sessions })
    }

    /// To what the parameter must be raised for so many locks; none: there is room.
    pub fn lacking(self, locks: u64) -> Option<u64> {
        (locks > self.each.saturating_mul(self.sessions)).then(|| locks.div_ceil(self.sessions.max(1)))
    }
}

/// What is locked at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// On the legacy server: what can be dumped.
    pub dumped: u64,
    /// On the cluster: what is made, indexes and the places of long values included.
    pub made: u64,
}

/// Those of the databases that have most of them, of which so many are worked on at the same time.
///
/// # Errors
/// The legacy server does not answer.
pub async fn taken(legacy: &Legacy, databases: &[Database]) -> Result<Locks, ForeignProblem> {
    // What was made by initdb has lower numbers (PostgreSQL source, transam.h, `FirstNormalObjectId`).
    const SQL: &str = "SELECT count(*) FILTER (WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')), count(*) FROM pg_class WHERE oid >= 16384";
    let counts = each_gently(databases, async |database| {
        let session = legacy.database_past_fence(&database.name).await?;
        two_numbers(&session, SQL, &legacy.question()).await
    })
    .await?;
    let (dumped, made) = counts.into_iter().unzip();
    Ok(Locks { dumped: most(dumped), made: most(made) })
}

/// The row of a query that gives two; what is none counts as 0.
async fn two_numbers(
    session: &ForeignSession,
    sql: &str,
    limit: &Limit,
) -> Result<(u64, u64), ForeignProblem> {
    let rows = session.rows(sql, limit).await?;
    let number =
        |at| rows.first().and_then(|row| row.get(at)).and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok((number(0), number(1)))
}

fn most(mut counts: Vec<u64>) -> u64 {
    counts.sort_unstable_by(|one, other| other.cmp(one));
    counts.iter().take(GENTLY).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_databases_count_that_are_worked_on_at_the_same_time() {
        assert_eq!(most(vec![]), 0);
        assert_eq!(most(vec![7]), 7);
        assert_eq!(most(vec![1, 50, 2, 40, 30, 20]), 140);
    }

    #[test]
    fn the_parameter_is_raised_to_what_is_needed_and_no_further() {
        let room = Room { each: 64, sessions: 100 };
        assert_eq!(room.lacking(6400), None);
        assert_eq!(room.lacking(6401), Some(65));
        assert_eq!(room.lacking(15_000), Some(150));
        assert_eq!(Room { each: 0, sessions: 0 }.lacking(1), Some(1), "a server that says nothing");
    }
}
