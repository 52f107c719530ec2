//! The text of `status`, byte for byte as scripts know it; what is ours comes after it.

use super::gather::{KeeperLine, Status};
use crate::table::{RowEnd, render as table};

/// The whole text.
pub fn render(status: &Status) -> String {
    let mut out = String::new();
    section(&mut out, "=== Active sentinels ===");
    let rows: Vec<_> =
        status.sentinels.iter().map(|line| vec![line.uid.clone(), line.leader.to_string()]).collect();
    out.push_str(&table_or(&["ID", "LEADER"], &rows, RowEnd::Free, "No active sentinels\n"));
    out.push('\n');

    section(&mut out, "=== Active proxies ===");
    let rows: Vec<_> = status.proxies.iter().map(|line| vec![line.uid.clone()]).collect();
    out.push_str(&table_or(&["ID"], &rows, RowEnd::Free, "No active proxies\n"));
    out.push('\n');

    section(&mut out, "=== Keepers ===");
    let rows: Vec<_> = status.keepers.iter().map(keeper_row).collect();
    out.push_str(&table_or(&KEEPER_HEADER, &rows, RowEnd::Tab, "No keepers available\n\n"));

    if status.cluster.master_db_uid.is_empty() {
        out.push_str("No cluster available\n\n");
    } else {
        out.push('\n');
        section(&mut out, "=== Cluster Info ===");
        out.push_str(&format!("Master Keeper: {}\n\n", status.cluster.master_keeper_uid));
        section(&mut out, "===== Keepers/DB tree =====");
        status.tree.iter().for_each(|line| out.push_str(&format!("{line}\n")));
        out.push('\n');
    }
    out.push_str(&ours(status));
    out
}

const KEEPER_HEADER: [&str; 6] =
    ["UID", "HEALTHY", "PG LISTENADDRESS", "PG HEALTHY", "PG WANTEDGENERATION", "PG CURRENTGENERATION"];

fn keeper_row(line: &KeeperLine) -> Vec<String> {
    vec![
        line.uid.clone(),
        line.healthy.to_string(),
        line.listen_address.clone(),
        line.pg_healthy.to_string(),
        line.pg_wanted_generation.to_string(),
        line.pg_current_generation.to_string(),
    ]
}

fn section(out: &mut String, title: &str) {
    out.push_str(title);
    out.push_str("\n\n");
}

fn table_or(header: &[&str], rows: &[Vec<String>], end: RowEnd, otherwise: &str) -> String {
    if rows.is_empty() { otherwise.to_owned() } else { table(header, rows, end) }
}

/// What Stolon does not show: what is going on, and what is wrong. Nothing when there is nothing to say.
fn ours(status: &Status) -> String {
    let mut lines = Vec::new();
    for keeper in &status.keepers {
        let sentences = keeper.activity.iter().flat_map(|activity| activity.sentences());
        lines.extend(sentences.map(|sentence| format!("{}: {sentence}\n", keeper.uid)));
    }
    lines.extend(status.cluster.problems.iter().map(|problem| format!("cluster: {problem}\n")));
    match lines.is_empty() {
        true => String::new(),
        false => format!("=== Activity and problems ===\n\n{}\n", lines.concat()),
    }
}
