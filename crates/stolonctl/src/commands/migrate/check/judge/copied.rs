//! What in the legacy needs attention whatever the method.

use super::super::finding::{Finding, Subject, counted};
use super::super::inventory::{Inventory, Method};

/// A transaction that was prepared longer ago was forgotten.
const FORGOTTEN: u64 = 3600;

/// Slots, publications, subscriptions, prepared transactions, unlogged tables, foreign servers.
pub fn findings(legacy: &Inventory, method: Method) -> Vec<Finding> {
    let found = [
        slots(legacy),
        publications(legacy, method),
        subscriptions(legacy, method),
        prepared(legacy, method),
        unlogged(legacy),
        foreign_servers(legacy),
    ];
    found.into_iter().flatten().collect()
}

fn slots(legacy: &Inventory) -> Option<Finding> {
    let names = legacy.slots.iter().map(|slot| {
        let kind = if slot.is_logical { "logical" } else { "physical" };
        let state = if slot.is_active { "in use" } else { "idle" };
        format!("{} ({kind}, {state})", slot.name)
    });
    (!legacy.slots.is_empty()).then(|| {
        Finding::warning(Subject::OtherSlots, "replication slots do not come along with any method")
            .hint("whoever follows the legacy by one of these is to be set up anew on the new cluster, at the switch")
            .names(names)
    })
}

fn publications(legacy: &Inventory, method: Method) -> Option<Finding> {
    let found = legacy.names(|content| &content.publications);
    let sentence = match method {
        Method::Physical => "publications come along; their subscribers do not follow by themselves",
        Method::Logical => {
            "publications are made anew with the schema; their subscribers do not follow by themselves"
        }
    };
    (found.count > 0).then(|| {
        Finding::warning(Subject::Publications, sentence)
            .hint("at the switch: stop writes, let the subscribers catch up, give them the new address and a new slot")
            .names(found.names)
    })
}

fn subscriptions(legacy: &Inventory, method: Method) -> Option<Finding> {
    let found = legacy.names(|content| &content.subscriptions);
    let (sentence, hint) = match method {
        Method::Physical => (
            "subscriptions come along, and begin to work on the new cluster at the switch, by the slots that the legacy uses",
            "disable them on the legacy before the switch: two that consume one slot lose data",
        ),
        Method::Logical => (
            "subscriptions are made anew without being enabled",
            "at the switch: disable them on the legacy, and enable those of the new cluster with the slot where it stands",
        ),
    };
    (found.count > 0)
        .then(|| Finding::warning(Subject::Subscriptions, sentence).hint(hint).names(found.names))
}

fn prepared(legacy: &Inventory, method: Method) -> Option<Finding> {
    if legacy.prepared.is_empty() {
        return None;
    }
    let names = legacy.prepared.iter().map(|it| format!("{}: {} ({} s old)", it.database, it.gid, it.age));
    let is_forgotten = legacy.prepared.iter().any(|it| it.age > FORGOTTEN);
    let number = counted(legacy.prepared.len() as u64, "prepared transaction", "prepared transactions");
    let finding = match (method, is_forgotten) {
        // A slot finds its starting point only after every transaction that ran has ended (manual, "Logical Decoding").
        (Method::Logical, true) => Finding::blocks(
            Subject::PreparedTransactions,
            format!("{number}, one older than an hour: the copy cannot begin before they end"),
        ),
        (Method::Logical, false) => Finding::warning(
            Subject::PreparedTransactions,
            format!(
                "{number}: the copy begins when they have ended, and those that are open at the switch are lost"
            ),
        ),
        (Method::Physical, _) => Finding::warning(
            Subject::PreparedTransactions,
            format!("{number}: those that are open at the switch come along, with their locks"),
        ),
    };
    Some(
        finding
            .hint("COMMIT PREPARED or ROLLBACK PREPARED, by whoever manages these transactions")
            .names(names),
    )
}

fn unlogged(legacy: &Inventory) -> Option<Finding> {
    let found = legacy.names(|content| &content.unlogged);
    (found.count > 0).then(|| {
        Finding::warning(
            Subject::UnloggedTables,
            format!("{} not in the WAL: they arrive empty", counted(found.count, "table is", "tables are")),
        )
        .hint("ALTER TABLE … SET LOGGED before the copy, or fill them anew after the switch")
        .names(found.names)
    })
}

fn foreign_servers(legacy: &Inventory) -> Option<Finding> {
    let found = legacy.names(|content| &content.foreign_servers);
    (found.count > 0).then(|| {
        Finding::warning(
            Subject::ForeignServers,
            "the definitions come along; whether the keepers reach these servers is not known",
        )
        .hint("open the way from every keeper; an address such as localhost means another machine there")
        .names(found.names)
    })
}
