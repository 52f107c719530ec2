//! What the legacy server says about itself.

use stolon_model::{Lsn, Timeline};
use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_postgres::limit::Limit;
use stolon_runtime::Failure;

use super::legacy::{Legacy, trouble};

/// What a migration goes by.
#[derive(Clone, Debug)]
pub struct Facts {
    /// In decimal.
    pub system_identifier: String,
    /// `15` of 15.4.
    pub major: u32,
    /// Whether the user may do everything.
    pub is_superuser: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// Its timeline.
    pub timeline: Timeline,
}

impl Facts {
    /// Ask for them.
    ///
    /// # Errors
    /// It does not answer, or not in a way that makes sense.
    pub async fn ask(session: &ForeignSession, legacy: &Legacy) -> anyhow::Result<Facts> {
        Facts::ask_of(session, &legacy.question(), "the legacy server").await
    }

    /// [`Facts::ask`] of another primary, which `name` is for people.
    ///
    /// # Errors
    /// The same.
    pub async fn ask_of(session: &ForeignSession, limit: &Limit, name: &str) -> anyhow::Result<Facts> {
        const SQL: &str = "SELECT s.system_identifier, current_setting('server_version_num')::int / 10000, r.rolsuper, \
            current_setting('wal_level'), ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int \
            FROM pg_control_system() s, pg_roles r WHERE r.rolname = current_user";
        let what = format!("{name} does not say what it is");
        let rows = session.rows(SQL, limit).await.map_err(|problem| trouble(&what, &problem))?;
        let strange = || Failure::new(what.clone());
        let row = rows.first().ok_or_else(strange)?;
        let text = |at| row.get(at).unwrap_or_default();
        Ok(Facts {
            system_identifier: text(0).to_owned(),
            major: text(1).parse().map_err(|_| strange())?,
            is_superuser: text(2) == "t",
            wal_level: text(3).to_owned(),
            timeline: text(4).parse().map(Timeline).map_err(|_| strange())?,
        })
    }
}

/// Where a replication slot of the legacy server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// There is none.
    Absent,
    /// Nobody streams from it.
    Idle,
    /// Somebody streams from it.
    Active {
        /// What was received there is safe.
        flushed: Option<Lsn>,
    },
}

impl Slot {
    /// Look at it.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn look(session: &ForeignSession, legacy: &Legacy, name: &str) -> Result<Slot, ForeignProblem> {
        let name = stolon_postgres::quote::sql_literal(name);
        let sql = format!(
            "SELECT s.active, r.flush_lsn FROM pg_replication_slots s LEFT JOIN pg_stat_replication r \
             ON r.pid = s.active_pid WHERE s.slot_name = {name}"
        );
        let rows = session.rows(&sql, &legacy.question()).await?;
        Ok(match rows.first().map(|row| (row.get(0), row.get(1))) {
            None => Slot::Absent,
            Some((Some("t"), flushed)) => {
                Slot::Active { flushed: flushed.and_then(|flushed| flushed.parse().ok()) }
            }
            Some(_) => Slot::Idle,
        })
    }
}
