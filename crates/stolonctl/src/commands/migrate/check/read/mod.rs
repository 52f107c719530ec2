//! Reading what is judged: from the legacy server, and from the store of the cluster that it is to move into.

mod database;
mod destination;
mod server;
mod transfer;

pub use destination::destination;

use super::super::legacy::Legacy;
use super::inventory::{Content, Inventory};
use super::session::Session;

/// Everything about the legacy server. Databases are looked into one after the other, over one connection at a time.
///
/// # Errors
/// The first connection cannot be made, or the server does not answer in time. A database that cannot be looked into is no
/// error: the reason is part of what is judged.
pub async fn inventory(legacy: &Legacy) -> anyhow::Result<Inventory> {
    let first = Session::open(legacy, None).await?;
    let mut found = server::read(&first).await?;
    drop(first);
    found.hosts = legacy.conninfo.places().into_iter().map(|place| place.host).collect();
    let major = found.major();
    for database in &mut found.databases {
        database.content = match &database.content {
            Ok(_) => read_content(legacy, &database.name, major).await.map_err(|error| format!("{error:#}")),
            Err(reason) => Err(reason.clone()),
        };
    }
    let largest = found.databases.iter().max_by_key(|database| database.bytes.unwrap_or_default());
    if let Some(largest) = largest.filter(|database| database.content.is_ok()) {
        // A guess, and nothing that a migration hangs on.
        found.transfer = transfer::measure(legacy, &largest.name).await.unwrap_or_default();
    }
    Ok(found)
}

async fn read_content(legacy: &Legacy, database: &str, major: u16) -> anyhow::Result<Content> {
    let session = Session::open(legacy, Some(database)).await?;
    database::read(&session, major).await
}
