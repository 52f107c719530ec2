//! How fast the largest table comes here: a copy that is broken off after a moment.

use std::time::Duration;

use tokio::time::Instant;

use super::super::super::legacy::Legacy;
use super::super::inventory::Transfer;
use super::super::session::Session;

/// No longer than this…
const DURATION: Duration = Duration::from_secs(3);
/// …and no more than this.
const MOST: u64 = 256 << 20;
/// Less says nothing about a rate.
const LEAST: u64 = 4 << 20;

/// The largest table that this user may read.
const LARGEST: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND has_table_privilege(c.oid, 'SELECT') \
    ORDER BY c.relpages DESC LIMIT 1";

/// Read for a moment; none where there is too little to read.
///
/// # Errors
/// The server does not answer, or refuses the copy.
pub async fn measure(legacy: &Legacy, database: &str) -> anyhow::Result<Option<Transfer>> {
    let session = Session::open(legacy, Some(database)).await?;
    let largest = session.rows(LARGEST).await?;
    let Some(table) = largest.first().map(|row| row.text(0).to_owned()) else { return Ok(None) };
    let begun = Instant::now();
    let bytes = session.copy_for(&format!("COPY {table} TO STDOUT (FORMAT binary)"), DURATION, MOST).await?;
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok((bytes >= LEAST).then_some(Transfer { bytes, milliseconds }))
}
