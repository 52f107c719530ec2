//! What a specification asks for that no PostgreSQL and no keeper could ever do. Stolon takes it, and so does whoever reads what is stored;
//! commands that would store it refuse.

use std::borrow::Cow;

use serde_json::Value;

use crate::effective::go_quoted;
use crate::explained::Advise;
use crate::json::Shape;
use crate::lsn::{BadLsn, Lsn};
use crate::spec::{ClusterSpec, RecoveryTargetSettings, StandbySettings};
use crate::spec_changes::fields_that_are_set;
use crate::spec_table::{LONGEST_SPAN, is_slot_name};
use crate::time::GoDuration;
use crate::uid::KeeperUid;

/// PostgreSQL manual, "Identifiers and Key Words": the longest name in bytes.
const LONGEST_NAME: usize = 63;
const RECOVERY_TARGET: &str = "pitrConfig.recoveryTargetSettings";

/// Something that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// Longer than programs count with.
    #[error("{field} is {given}, which is more than a hundred years")]
    SpanTooLong {
        /// The field.
        field: &'static str,
        /// What it says.
        given: GoDuration,
    },
    /// A text that no file, command line or query can carry.
    #[error("{field} contains a control character: {}", go_quoted(.given))]
    ControlCharacter {
        /// The field, with its place in a list.
        field: String,
        /// What it says.
        given: String,
    },
    /// No keeper can have this name.
    #[error("existingConfig.keeperUID is {}, which is not the uid of a keeper", go_quoted(.0))]
    KeeperUid(String),
    /// Nothing would restore the backup.
    #[error("pitrConfig.dataRestoreCommand is blank")]
    BlankRestoreCommand,
    /// PostgreSQL knows only one such target.
    #[error("{RECOVERY_TARGET}.recoveryTarget is {}, not \"immediate\"", go_quoted(.0))]
    RecoveryTarget(String),
    /// PostgreSQL takes one place to stop at.
    #[error("{RECOVERY_TARGET} names more than one target: {}", .0.join(", "))]
    SeveralRecoveryTargets(Vec<&'static str>),
    /// Not a position.
    #[error("{RECOVERY_TARGET}.recoveryTargetLsn: {0}")]
    RecoveryTargetLsn(BadLsn),
    /// Not a number.
    #[error("{RECOVERY_TARGET}.recoveryTargetXid is {}, not the number of a transaction", go_quoted(.0))]
    RecoveryTargetXid(String),
    /// Neither a number nor one of PostgreSQL's words.
    #[error("{RECOVERY_TARGET}.recoveryTargetTimeline is {}, not a timeline", go_quoted(.0))]
    RecoveryTargetTimeline(String),
    /// Not what PostgreSQL takes for the name of a slot.
    #[error("standbyConfig.standbySettings.primarySlotName is {}, which no slot can be called", go_quoted(.0))]
    PrimarySlotName(String),
    /// Not a span of time as PostgreSQL writes it.
    #[error("standbyConfig.standbySettings.recoveryMinApplyDelay is {}, not a delay", go_quoted(.0))]
    ApplyDelay(String),
}

impl Advise for Impossible {
    fn hint(&self) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed(match self {
            Self::SpanTooLong { .. } => {
                "give a shorter time; where 0s means for ever, the documentation of the field says so"
            }
            Self::ControlCharacter { .. } => "write it as one line of text",
            Self::KeeperUid(_) => "a uid consists of a-z, 0-9 and _; stolonctl status lists the keepers",
            Self::BlankRestoreCommand => "give the command that fills the directory %d",
            Self::RecoveryTarget(_) => {
                "for another target use recoveryTargetTime, recoveryTargetLsn, recoveryTargetName or recoveryTargetXid"
            }
            Self::SeveralRecoveryTargets(_) => "leave one of them",
            Self::RecoveryTargetLsn(_) => {
                "pg_waldump and pg_current_wal_lsn() print positions such as 0/3000148"
            }
            Self::RecoveryTargetXid(_) => "give a whole number such as \"1234\"",
            Self::RecoveryTargetTimeline(_) => "give \"latest\", \"current\" or a whole number such as \"3\"",
            Self::ApplyDelay(_) => {
                "give a number with its unit: \"500ms\", \"30s\", \"5min\", \"1h\" or \"1d\""
            }
            Self::PrimarySlotName(_) => "a slot name consists of a-z, 0-9 and _, and has at most 63 of them",
        }))
    }
}

impl ClusterSpec {
    /// Everything that can never work, in the order of the table.
    pub fn impossibilities(&self) -> Vec<Impossible> {
        let mut found = self.spans_too_long();
        texts("", &fields_that_are_set(self), &mut |field, given| {
            if given.contains(|character| is_impossible(field, character)) {
                found.push(Impossible::ControlCharacter { field: field.to_owned(), given: given.to_owned() });
            }
        });
        if let Some(existing) = &self.existing_config {
            let uid = existing.keeper_uid.as_str();
            found.extend(
                (!uid.is_empty() && !KeeperUid::is_legal(uid)).then(|| Impossible::KeeperUid(uid.to_owned())),
            );
        }
        if let Some(pitr) = &self.pitr_config {
            let command = &pitr.data_restore_command;
            let is_blank = !command.is_empty() && command.trim().is_empty();
            found.extend(is_blank.then_some(Impossible::BlankRestoreCommand));
            found.extend(pitr.recovery_target_settings.as_ref().map(of_recovery_target).unwrap_or_default());
        }
        let standby = self.standby_config.as_ref().and_then(|config| config.standby_settings.as_ref());
        found.extend(standby.map(of_standby_settings).unwrap_or_default());
        found
    }

    fn spans_too_long(&self) -> Vec<Impossible> {
        let set = fields_that_are_set(self);
        let spans = Self::FIELDS.iter().filter(|field| matches!(field.shape, Shape::Duration));
        spans
            .filter_map(|field| {
                Some((field.name, set.get(field.name)?.as_str()?.parse::<GoDuration>().ok()?))
            })
            .filter(|(_, given)| given.to_std() > LONGEST_SPAN)
            .map(|(field, given)| Impossible::SpanTooLong { field, given })
            .collect()
    }
}

/// Parameters, lines of `pg_hba.conf` and commands may have several lines in Stolon, and are judged elsewhere; nothing can hold a null byte.
fn is_impossible(field: &str, character: char) -> bool {
    let free = ["pgParameters", "pgHBA", "dataRestoreCommand", "restoreCommand", "primaryConninfo"];
    match free.iter().any(|name| field.contains(name)) {
        true => character == '\0',
        false => character.is_control(),
    }
}

/// Tells of each text of a document, with the path to it.
fn texts(path: &str, value: &Value, tell: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => tell(path, text),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| texts(&format!("{path}[{index}]"), item, tell));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, inner)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            texts(&path, inner, tell);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn of_standby_settings(settings: &StandbySettings) -> Vec<Impossible> {
    let mut found = Vec::new();
    let slot = &settings.primary_slot_name;
    if !slot.is_empty() && (!is_slot_name(slot) || slot.len() > LONGEST_NAME) {
        found.push(Impossible::PrimarySlotName(slot.clone()));
    }
    let delay = &settings.recovery_min_apply_delay;
    if !delay.is_empty() && !is_delay(delay) {
        found.push(Impossible::ApplyDelay(delay.clone()));
    }
    found
}

/// PostgreSQL manual, "Parameter Names and Values": a number, then a unit or none.
fn is_delay(text: &str) -> bool {
    let text = text.trim();
    let unit = text.trim_start_matches(|character: char| character.is_ascii_digit() || character == '.');
    text.len() > unit.len() && ["", "us", "ms", "s", "min", "h", "d"].contains(&unit.trim())
}

/// PostgreSQL manual, "Recovery Target".
fn of_recovery_target(target: &RecoveryTargetSettings) -> Vec<Impossible> {
    let mut found = Vec::new();
    let places = [
        ("recoveryTarget", &target.recovery_target),
        ("recoveryTargetLsn", &target.recovery_target_lsn),
        ("recoveryTargetName", &target.recovery_target_name),
        ("recoveryTargetTime", &target.recovery_target_time),
        ("recoveryTargetXid", &target.recovery_target_xid),
    ];
    let named: Vec<&str> =
        places.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| *name).collect();
    let word = &target.recovery_target;
    if !word.is_empty() && word != "immediate" {
        found.push(Impossible::RecoveryTarget(word.clone()));
    }
    if named.len() > 1 {
        found.push(Impossible::SeveralRecoveryTargets(named));
    }
    if !target.recovery_target_lsn.is_empty() {
        found.extend(
            target.recovery_target_lsn.trim().parse::<Lsn>().err().map(Impossible::RecoveryTargetLsn),
        );
    }
    let xid = &target.recovery_target_xid;
    if !xid.is_empty() && !is_number(xid) {
        found.push(Impossible::RecoveryTargetXid(xid.clone()));
    }
    let timeline = &target.recovery_target_timeline;
    if !timeline.is_empty() && !["latest", "current"].contains(&timeline.as_str()) && !is_number(timeline) {
        found.push(Impossible::RecoveryTargetTimeline(timeline.clone()));
    }
    found
}

/// As `strtoul` reads it, in decimal or hexadecimal.
fn is_number(text: &str) -> bool {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match digits {
        Some(digits) => u64::from_str_radix(digits, 16).is_ok(),
        None => text.parse::<u64>().is_ok(),
    }
}
