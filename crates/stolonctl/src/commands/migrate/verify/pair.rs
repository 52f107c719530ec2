//! A database on both sides, and the moments at which they can be compared.
//!
//! While one side follows the other there is no moment that both can be asked for. So first the side that is written to is looked at, in a
//! snapshot; then its position in the WAL is taken; then, when the other side has come to that position, a snapshot is taken there. It
//! may hold more than the first one. What is equal then is equal. What is not equal may only have been written meanwhile: those tables are
//! looked at again one by one, each locked against writes (`LOCK TABLE … IN SHARE MODE`) from before the first snapshot until the second one is there, which is
//! as long as the other side lags behind, and never longer than [`LOCKED`].

use std::time::Duration;

use stolon_postgres::quote::sql_literal;
use stolon_runtime::Failure;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::super::legacy::trouble;
use super::checksum::{Abilities, Method};
use super::side::{Session, Side};

/// How long the other side may take to come to a position while nothing is locked.
const CATCHING_UP: Duration = Duration::from_secs(15);
/// How long a table is kept from being written.
const LOCKED: Duration = Duration::from_secs(2);
/// How long a lock may be waited for: writers that come later queue behind us.
const LOCKING: &str = "1s";
/// After how long the server ends the session that holds the lock, if this program was put to sleep meanwhile.
const ABANDONED: &str = "5s";
/// Between two looks at a position.
const LOOK: Duration = Duration::from_millis(10);

/// SQLSTATE `lock_not_available`: `lock_timeout` passed.
const NOT_AVAILABLE: &str = "55P03";

/// How one side follows the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Following {
    /// It replays the WAL of the other one.
    Standby,
    /// It takes the rows that the other one publishes.
    Subscription {
        /// What the names of the slots on the other one begin with.
        slots: String,
    },
    /// It does not: what is written on either side is not on the other one.
    AtRest,
}

/// A database on both sides.
pub struct Pair {
    /// Its name.
    pub database: String,
    /// The side that is written to.
    pub leader: Session,
    /// The side that follows it, or did.
    pub follower: Session,
    /// Another session with the leader, for locks, once one is needed.
    locker: OnceCell<Session>,
    /// How the locker is made.
    leading: Side,
    /// What the leader can be asked for.
    pub leader_abilities: Abilities,
    /// What the follower can be asked for.
    pub follower_abilities: Abilities,
    /// How rows are made comparable.
    pub method: Method,
    /// How they belong together.
    pub following: Following,
}

/// A snapshot on each side, for as long as the transactions of the pair's sessions last.
pub struct Moment {
    /// By which others can look at the same on the leader.
    pub leader: String,
    /// The same on the follower.
    pub follower: String,
}

/// Whether a table is kept from being written until both snapshots are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold<'a> {
    /// Nothing is.
    Nothing,
    /// This one.
    Table(&'a str),
}

/// How an attempt to find a moment ended.
pub enum Found {
    /// Snapshots are there.
    Moment(Moment),
    /// The table could not be locked in time, or the other side lags too far behind.
    Busy,
}

impl Pair {
    /// Connect to a database on both sides.
    ///
    /// # Errors
    /// One of them does not let us in.
    pub async fn open(
        leader: &Side,
        follower: &Side,
        database: &str,
        following: &Following,
    ) -> anyhow::Result<Pair> {
        let (one, other) = tokio::try_join!(leader.connect(database), follower.connect(database))?;
        let (leader_abilities, follower_abilities) = tokio::try_join!(one.abilities(), other.abilities())?;
        let method = Method::of(&leader_abilities, &follower_abilities);
        tokio::try_join!(
            one.agree(method, leader_abilities.major),
            other.agree(method, follower_abilities.major)
        )?;
        let following = match following {
            // Templates, for example, are not published.
            Following::Subscription { slots }
                if one.value(&in_slots("count(*) > 0", slots)).await? == "f" =>
            {
                Following::AtRest
            }
            following => following.clone(),
        };
        Ok(Pair {
            database: database.to_owned(),
            leader: one,
            follower: other,
            locker: OnceCell::new(),
            leading: leader.clone(),
            leader_abilities,
            follower_abilities,
            method,
            following,
        })
    }

    /// Take a snapshot on each side, the follower's not before it has everything that the leader's shows. What is held is let go then.
    ///
    /// # Errors
    /// A server does not answer, or the follower does not come to the position although nothing is locked.
    pub async fn moment(&self, hold: Hold<'_>) -> anyhow::Result<Found> {
        self.end().await?;
        let patience = match hold {
            Hold::Nothing => CATCHING_UP,
            Hold::Table(table) if self.lock(table).await? => LOCKED,
            Hold::Table(_) => return Ok(Found::Busy),
        };
        let found = self.snapshots(patience).await;
        if hold != Hold::Nothing {
            // Also after an error. Where this fails, the server ends the session by itself.
            self.locker().await?.rows("ROLLBACK").await?;
        }
        match (found?, hold) {
            (Some(moment), _) => Ok(Found::Moment(moment)),
            (None, Hold::Table(_)) => Ok(Found::Busy),
            (None, Hold::Nothing) => Err(lagging().into()),
        }
    }

    async fn snapshots(&self, patience: Duration) -> anyhow::Result<Option<Moment>> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        self.leader.rows(BEGIN).await?;
        let leader = self.leader.value("SELECT pg_export_snapshot()").await?;
        if !self.catch_up(patience).await? {
            return Ok(None);
        }
        self.follower.rows(BEGIN).await?;
        let follower = self.follower.value("SELECT pg_export_snapshot()").await?;
        Ok(Some(Moment { leader, follower }))
    }

    /// Keep a table from being written; false if others would not let us in time.
    async fn lock(&self, table: &str) -> anyhow::Result<bool> {
        let lock = format!(
            "BEGIN; SET LOCAL lock_timeout = '{LOCKING}'; SET LOCAL idle_in_transaction_session_timeout = '{ABANDONED}'; \
             LOCK TABLE ONLY {table} IN SHARE MODE"
        );
        let locker = self.locker().await?;
        match locker.tried(&lock, CATCHING_UP).await {
            Ok(_) => Ok(true),
            Err(problem) if problem.code() == Some(NOT_AVAILABLE) => {
                locker.rows("ROLLBACK").await?;
                Ok(false)
            }
            Err(problem) => Err(trouble("a table cannot be kept from being written", &problem).into()),
        }
    }

    async fn locker(&self) -> anyhow::Result<&Session> {
        self.locker.get_or_try_init(|| self.leading.connect(&self.database)).await
    }

    /// Wait until the follower has come to where the leader is now.
    ///
    /// # Errors
    /// It does not in good time, or a server does not answer.
    pub async fn caught_up(&self) -> anyhow::Result<()> {
        match self.catch_up(CATCHING_UP).await? {
            true => Ok(()),
            false => Err(lagging().into()),
        }
    }

    /// A standby replays the WAL of a server with the same identifier.
    ///
    /// # Errors
    /// The follower is the standby of another one, or a server does not answer.
    pub async fn is_a_copy(&self) -> anyhow::Result<()> {
        const IDENTIFIER: &str = "SELECT system_identifier FROM pg_control_system()";
        let (one, other) = tokio::try_join!(self.leader.value(IDENTIFIER), self.follower.value(IDENTIFIER))?;
        match one == other {
            true => Ok(()),
            false => Err(Failure::new("the cluster is a standby of another server than the legacy one")
                .hint("is --source, or --cluster-name, the one that is meant?")
                .into()),
        }
    }

    /// Wait until the follower has what the leader has written by now; false if it has not in time.
    async fn catch_up(&self, patience: Duration) -> anyhow::Result<bool> {
        let position = self.leader.value("SELECT pg_current_wal_insert_lsn()").await?;
        let mut questions = Vec::new();
        match &self.following {
            Following::AtRest => return Ok(true),
            Following::Standby => questions
                .push((&self.follower, format!("SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"))),
            Following::Subscription { slots } => {
                questions.push((&self.follower, applied(&position, slots)));
                // What a subscriber has confirmed is committed there, and on its disk.
                let taken = format!("coalesce(bool_and(confirmed_flush_lsn >= '{position}'::pg_lsn), false)");
                questions.push((&self.leader, in_slots(&taken, slots)));
            }
        };
        let deadline = Instant::now() + patience;
        loop {
            for (asked, question) in &questions {
                if asked.value(question).await? == "t" {
                    return Ok(true);
                }
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.leader.pause(LOOK).await?;
        }
    }

    /// End the transactions that hold the snapshots.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn end(&self) -> anyhow::Result<()> {
        let (one, other) = tokio::join!(self.leader.rows("ROLLBACK"), self.follower.rows("ROLLBACK"));
        one.and(other).map(drop)
    }
}

fn lagging() -> Failure {
    let seconds = CATCHING_UP.as_secs();
    Failure::new(format!("the follower has not come within {seconds} s to where the leader was"))
        .hint("stolonctl migrate status shows how far behind it is, and why")
}

/// Whether the subscriptions of this database have taken everything up to a position. It is not on their disk yet, which those who only look need
/// not wait for, and which takes some 200 ms with `synchronous_commit` off, the default of a subscription. The position in the column comes with
/// what the publisher says of itself when it has sent everything before, and is noted when that is applied (PostgreSQL source, worker.c,
/// `LogicalRepApplyLoop`). A worker without `relid` applies, the others copy.
fn applied(position: &str, slots: &str) -> String {
    format!(
        "SELECT coalesce(bool_and(coalesce((SELECT max(w.latest_end_lsn) FROM pg_stat_subscription w \
         WHERE w.subid = s.oid AND w.relid IS NULL) >= '{position}'::pg_lsn, false)), false) FROM pg_subscription s \
         WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND left(s.subslotname, {}) = {}",
        slots.chars().count(),
        sql_literal(slots)
    )
}

/// What is said of the slots of this database whose names begin like this.
fn in_slots(what: &str, prefix: &str) -> String {
    format!(
        "SELECT {what} FROM pg_replication_slots WHERE database = current_database() AND left(slot_name, {}) = {}",
        prefix.chars().count(),
        sql_literal(prefix)
    )
}
