//! What logical replication does not carry (PostgreSQL manual, "Logical Replication", restrictions).

use super::super::finding::{Finding, Subject, counted};
use super::super::inventory::{Destination, Inventory};

/// The system column `oid` ended with this major.
const WITHOUT_OIDS: u16 = 12;

/// Tables that need something, and what does not come along.
pub fn findings(legacy: &Inventory, destination: &Destination) -> Vec<Finding> {
    let mut findings = vec![keys(legacy), large_objects(legacy), sequences(legacy), columns(legacy)];
    findings.extend(event_triggers(legacy));
    findings.extend(oids(legacy, destination));
    findings
}

fn keys(legacy: &Inventory) -> Finding {
    let found = legacy.names(|content| &content.keyless);
    match found.count {
        0 => Finding::ok(Subject::Keys, "every table has a key that its rows are told apart by"),
        count => Finding::warning(
            Subject::Keys,
            format!(
                "{} no key: updates and deletes there fail as soon as the table is published, unless whole rows identify it",
                counted(count, "table has", "tables have")
            ),
        )
        .hint("add a primary key, or ALTER TABLE … REPLICA IDENTITY FULL, which is slow for large tables that are much updated")
        .names(found.names),
    }
}

fn large_objects(legacy: &Inventory) -> Finding {
    let with: Vec<String> = legacy
        .contents()
        .filter(|(_, content)| content.large_objects > 0)
        .map(|(database, content)| format!("{}: {}", database.name, content.large_objects))
        .collect();
    match with.is_empty() {
        true => Finding::ok(Subject::LargeObjects, "none"),
        false => Finding::blocks(Subject::LargeObjects, "logical replication does not carry large objects")
            .hint("use the physical method, or move them into columns of type bytea")
            .names(with),
    }
}

fn sequences(legacy: &Inventory) -> Finding {
    let number = counted(legacy.sum(|content| content.sequences), "sequence", "sequences");
    Finding::ok(Subject::Sequences, format!("{number}: not replicated, but set at the switch with a margin"))
}

fn columns(legacy: &Inventory) -> Finding {
    let generated = legacy.sum(|content| content.generated_columns);
    let identity = legacy.sum(|content| content.identity_columns);
    Finding::ok(
        Subject::Columns,
        format!("{generated} generated, computed anew; {identity} of identity, replicated as they are"),
    )
}

fn event_triggers(legacy: &Inventory) -> Option<Finding> {
    let found = legacy.names(|content| &content.event_triggers);
    (found.count > 0).then(|| {
        Finding::warning(Subject::EventTriggers, "triggers on DDL fire on the new cluster, too, while its schema is made")
            .hint("disable them on the legacy until the schema has been copied, if what they do must not be done twice")
            .names(found.names)
    })
}

fn oids(legacy: &Inventory, destination: &Destination) -> Option<Finding> {
    let found = legacy.names(|content| &content.with_oids);
    let ends = destination.keepers.iter().any(|keeper| keeper.version.major >= WITHOUT_OIDS);
    (found.count > 0 && ends).then(|| {
        Finding::warning(
            Subject::Columns,
            format!(
                "{} WITH OIDS: their column oid ended with PostgreSQL {WITHOUT_OIDS}",
                counted(found.count, "table is", "tables are")
            ),
        )
        .hint("ALTER TABLE … SET WITHOUT OIDS where nobody reads it, or make it an ordinary column")
        .names(found.names)
    })
}
