//! Physical replication slots of one instance.

use std::collections::{BTreeMap, BTreeSet};

use stolon_core::keeper::SlotChanges;
use stolon_core::postgres::Version;
use stolon_model::Lsn;

use crate::error::{PostgresError, Result};
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::quote::sql_literal;

/// Prefix of the slots that belong to the cluster.
const PREFIX: &str = "stolon_";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dropped {
    Yes,
    No,
}

struct Slot {
    name: String,
    physical: bool,
    /// Its WAL is gone: no standby can use it again.
    invalidated: bool,
    /// A copy of another server's slot.
    synced: bool,
}

impl LocalPostgres {
    /// Makes exactly `wanted` the physical slots whose names start with `stolon_`, with WAL reserved at once;
    /// invalidated ones are made anew. Slots without the prefix, logical, temporary and synchronised ones are never
    /// touched. What the server refuses (a slot in use that is not wanted, no room for another one) stays as it is, with the reason, and
    /// is tried again next time. An error means that the server did not answer.
    pub async fn refresh_slots(&self, wanted: &BTreeSet<String>, limit: &Limit) -> Result<SlotChanges> {
        let version = self.version(limit).await?;
        let existing = self.slots(version, limit).await?;
        let mut changes = SlotChanges::default();
        let mut there: BTreeSet<String> = existing.iter().map(|slot| slot.name.clone()).collect();
        for slot in existing.iter().filter(|slot| !slot.physical && wanted.contains(&slot.name)) {
            let why = "a logical slot has the name that a physical one needs".to_owned();
            changes.kept.push((slot.name.clone(), why));
        }
        for slot in existing.into_iter().filter(|slot| slot.physical && !slot.synced) {
            let is_wanted = wanted.contains(&slot.name);
            if !slot.name.starts_with(PREFIX) || (is_wanted && !slot.invalidated) {
                continue;
            }
            if self.drop_slot(&slot.name, &mut changes, limit).await? == Dropped::Yes {
                there.remove(&slot.name);
            }
        }
        for name in wanted.difference(&there) {
            let sql = format!("SELECT pg_create_physical_replication_slot({}, true)", sql_literal(name));
            match self.query(&format!("create the replication slot {name}"), &sql, limit).await {
                Ok(_) => changes.created.push(name.clone()),
                Err(error @ PostgresError::Sql { code: Some(_), .. }) => {
                    changes.kept.push((name.clone(), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(changes)
    }

    /// Drops these slots; one that is in use stays, with the reason. An error means that the server did not answer.
    pub async fn drop_slots(
        &self,
        names: impl Iterator<Item = &String>,
        limit: &Limit,
    ) -> Result<SlotChanges> {
        let mut changes = SlotChanges::default();
        for name in names {
            self.drop_slot(name, &mut changes, limit).await?;
        }
        Ok(changes)
    }

    /// Lets go of WAL before these positions; a slot that is in use by now stays, with the reason. An error means that the server did not answer.
    pub async fn advance_slots(&self, to: &BTreeMap<String, Lsn>, limit: &Limit) -> Result<SlotChanges> {
        let mut changes = SlotChanges::default();
        for (name, position) in to {
            let sql = format!("SELECT pg_replication_slot_advance({}, '{position}')", sql_literal(name));
            match self.query(&format!("advance the replication slot {name}"), &sql, limit).await {
                Ok(_) => {}
                Err(error @ PostgresError::Sql { code: Some(_), .. }) => {
                    changes.kept.push((name.clone(), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(changes)
    }

    async fn drop_slot(&self, name: &str, changes: &mut SlotChanges, limit: &Limit) -> Result<Dropped> {
        let sql = format!("SELECT pg_drop_replication_slot({})", sql_literal(name));
        match self.query(&format!("drop the replication slot {name}"), &sql, limit).await {
            Ok(_) => {
                changes.dropped.push(name.to_owned());
                Ok(Dropped::Yes)
            }
            Err(error @ PostgresError::Sql { code: Some(_), .. }) => {
                changes.kept.push((name.to_owned(), error.to_string()));
                Ok(Dropped::No)
            }
            Err(error) => Err(error),
        }
    }

    async fn slots(&self, version: Version, limit: &Limit) -> Result<Vec<Slot>> {
        let invalidated = match (version.has_slot_synchronisation(), version.has_wal_status()) {
            (true, _) => "wal_status = 'lost' OR invalidation_reason IS NOT NULL",
            (false, true) => "wal_status = 'lost'",
            (false, false) => "false",
        };
        let synced = if version.has_slot_synchronisation() { "synced" } else { "false" };
        let sql = format!(
            "SELECT slot_name, slot_type = 'physical', coalesce({invalidated}, false), {synced} \
             FROM pg_replication_slots WHERE NOT temporary ORDER BY 1"
        );
        let answers = self.query("list the replication slots", &sql, limit).await?;
        let slots = answers.iter().flatten().map(|row| Slot {
            name: row.get(0).unwrap_or_default().to_owned(),
            physical: row.get(1) == Some("t"),
            invalidated: row.get(2) == Some("t"),
            synced: row.get(3) == Some("t"),
        });
        Ok(slots.collect())
    }
}
