//! The text of `status`, byte for byte as scripts know it; what is ours comes after it, but for a pause, which comes first.

use stolon_model::{ByteCount, DEFAULT_PRIORITY};

use super::gather::{KeeperLine, Status};
use super::instances::rounded;
use super::slots;
use super::style::{Style, Tone};
use crate::table::{Alignment, RowEnd, render as table};

/// The whole text.
pub fn render(status: &Status, style: Style) -> String {
    let mut page = Page { out: String::new(), style };
    if let Some(paused) = &status.cluster.paused {
        let line = style.line(Tone::Attention, &paused.sentence);
        page.out.push_str(&format!("{line}\n\n"));
    }
    page.title("=== Active sentinels ===");
    let rows: Vec<_> =
        status.sentinels.iter().map(|line| vec![line.uid.clone(), line.leader.to_string()]).collect();
    page.table_or(&["ID", "LEADER"], &rows, RowEnd::Free, "No active sentinels\n");
    page.out.push('\n');

    page.title("=== Active proxies ===");
    let rows: Vec<_> = status.proxies.iter().map(|line| vec![line.uid.clone()]).collect();
    page.table_or(&["ID"], &rows, RowEnd::Free, "No active proxies\n");
    page.out.push('\n');

    page.title("=== Keepers ===");
    let rows: Vec<_> = status.keepers.iter().map(keeper_row).collect();
    page.table_or(&KEEPER_HEADER, &rows, RowEnd::Tab, "No keepers available\n\n");

    if status.cluster.master_db_uid.is_empty() {
        page.out.push_str("No cluster available\n\n");
    } else {
        page.out.push('\n');
        page.title("=== Cluster Info ===");
        page.out.push_str(&format!("Master Keeper: {}\n\n", status.cluster.master_keeper_uid));
        page.title("===== Keepers/DB tree =====");
        status.tree.iter().for_each(|line| page.out.push_str(&format!("{line}\n")));
        page.out.push('\n');
    }
    page.instances(status);
    page.failover(status);
    page.slots(status);
    page.activity_and_problems(status);
    page.out
}

const KEEPER_HEADER: [&str; 6] =
    ["UID", "HEALTHY", "PG LISTENADDRESS", "PG HEALTHY", "PG WANTEDGENERATION", "PG CURRENTGENERATION"];
const INSTANCE_HEADER: [&str; 9] =
    ["KEEPER", "ROLE", "STATE", "REPLICATION", "TIMELINE", "POSITION", "LAG", "VERSION", "UPTIME"];
/// Only where a keeper says where it stands, or is preferred.
const PLACE_HEADER: [&str; 2] = ["ZONE", "PRIORITY"];

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

/// The state of an instance in a word or two, and what that is to its reader.
fn state(line: &KeeperLine) -> (&str, Tone) {
    let activity = line.activity.as_ref();
    let step = activity.map_or("", |activity| activity.step.as_str());
    let receives_nothing = activity.is_some_and(|activity| !activity.replication_problem.is_empty());
    if !line.healthy {
        ("keeper silent", Tone::Bad)
    } else if !step.is_empty() {
        (step, Tone::Attention)
    } else if !line.pg_healthy {
        ("not working", Tone::Bad)
    } else if receives_nothing {
        ("receives nothing", Tone::Attention)
    } else {
        ("running", Tone::Good)
    }
}

fn instance_row(line: &KeeperLine) -> Vec<String> {
    let of = &line.instance;
    let known = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
    vec![
        line.uid.clone(),
        known(of.role.map(str::to_owned)),
        state(line).0.to_owned(),
        known(of.replication.map(|replication| replication.as_str().to_owned())),
        known(of.timeline.map(|timeline| timeline.to_string())),
        known(of.position.clone()),
        known(of.lag_bytes.map(|lag| ByteCount(lag).to_string())),
        known(of.version.clone()),
        known(of.uptime.map(rounded)),
    ]
}

fn place(line: &KeeperLine) -> [String; 2] {
    let of = &line.instance;
    let zone = if of.zone.is_empty() { "-".to_owned() } else { of.zone.clone() };
    [zone, of.failover_priority.unwrap_or(DEFAULT_PRIORITY).to_string()]
}

struct Page {
    out: String,
    style: Style,
}

impl Page {
    fn title(&mut self, title: &str) {
        self.out.push_str(&self.style.line(Tone::Title, title));
        self.out.push_str("\n\n");
    }

    fn table_or(&mut self, header: &[&str], rows: &[Vec<String>], end: RowEnd, otherwise: &str) {
        let made = table(header, rows, end, self.style.alignment());
        self.out.push_str(if rows.is_empty() { otherwise } else { &made });
    }

    /// What Stolon does not show of the instances. Nothing where there is none.
    fn instances(&mut self, status: &Status) {
        let lines: Vec<&KeeperLine> =
            status.keepers.iter().filter(|line| line.instance.role.is_some()).collect();
        if lines.is_empty() {
            return;
        }
        self.title("=== Instances ===");
        let has_places = lines
            .iter()
            .any(|line| !line.instance.zone.is_empty() || line.instance.failover_priority.is_some());
        let mut header = INSTANCE_HEADER.to_vec();
        let mut rows: Vec<Vec<String>> = lines.iter().map(|line| instance_row(line)).collect();
        if has_places {
            header.extend(PLACE_HEADER);
            rows.iter_mut().zip(&lines).for_each(|(row, line)| row.extend(place(line)));
        }
        let made = table(&header, &rows, RowEnd::Free, Alignment::AllRows);
        let tones = lines.iter().map(|line| Some(state(line).1));
        for (row, tone) in made.lines().zip(std::iter::once(None).chain(tones)) {
            let row = tone.map_or_else(|| row.to_owned(), |tone| self.style.line(tone, row));
            self.out.push_str(&format!("{row}\n"));
        }
        self.out.push('\n');
    }

    /// What a failure of the primary would come to. Nothing where there is none.
    fn failover(&mut self, status: &Status) {
        let Some(line) = &status.cluster.failover else { return };
        self.title("=== Failover ===");
        let tone = if line.ready { Tone::Good } else { Tone::Attention };
        let sentence = self.style.line(tone, &line.sentence);
        self.out.push_str(&format!("{sentence}\n"));
        if !line.quorum.is_empty() {
            self.out.push_str(&format!("{}\n", line.quorum));
        }
        for rejected in &line.rejected {
            self.out.push_str(&format!("{} could not: {}\n", rejected.keeper_uid, rejected.reason));
        }
        self.out.push('\n');
    }

    /// Who holds WAL back. Nothing where there is no slot.
    fn slots(&mut self, status: &Status) {
        let of_keeper = |line: &KeeperLine| -> Vec<Vec<String>> {
            line.slots.iter().map(|slot| slots::row(&line.uid, slot)).collect()
        };
        let rows: Vec<Vec<String>> = status.keepers.iter().flat_map(of_keeper).collect();
        if rows.is_empty() {
            return;
        }
        self.title("=== Replication slots ===");
        self.out.push_str(&table(&slots::HEADER, &rows, RowEnd::Free, Alignment::AllRows));
        self.out.push('\n');
    }

    /// What is going on, and what is wrong. Nothing when there is nothing to say.
    fn activity_and_problems(&mut self, status: &Status) {
        let mut lines = Vec::new();
        for keeper in &status.keepers {
            let sentences = keeper.activity.iter().flat_map(|activity| activity.sentences());
            lines.extend(sentences.map(|sentence| format!("{}: {sentence}", keeper.uid)));
        }
        lines.extend(status.cluster.problems.iter().map(|problem| format!("cluster: {problem}")));
        if lines.is_empty() {
            return;
        }
        self.title("=== Activity and problems ===");
        for line in lines {
            self.out.push_str(&self.style.line(Tone::Attention, &line));
            self.out.push('\n');
        }
        self.out.push('\n');
    }
}
