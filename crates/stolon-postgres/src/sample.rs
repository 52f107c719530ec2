//! What a running server says about itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stolon_core::keeper::{
    Answer, Archiver, Failover, Intake, LastRun, PasswordProtocol, ReplicationRow, SlotKind, SlotRow,
    WalReceiver,
};
use stolon_core::postgres::{Version, is_recovery_parameter};
use stolon_core::wal_file;
use stolon_model::{Lsn, Parameters, Timeline, TimelineHistoryEntry, Timestamp};
use tokio_postgres::SimpleQueryRow;

use crate::archive::Marks;
use crate::error::{PostgresError, Result};
use crate::limit::Limit;
use crate::local::{LocalPostgres, Options};
use crate::quote::sql_literal;

/// Standbys only: what merely receives WAL, such as a base backup, replays nothing.
const REPLICATION: &str = "SELECT application_name, sync_state, flush_lsn, extract(epoch FROM replay_lag) \
     FROM pg_stat_replication WHERE replay_lsn IS NOT NULL ORDER BY 1; \
     SELECT current_setting('synchronous_standby_names')";

/// An MD5 verifier begins with its name (PostgreSQL manual, "pg_authid").
fn stored_passwords(users: [&str; 2]) -> String {
    let users = users.map(sql_literal).join(", ");
    format!(
        "SELECT coalesce(bool_or(rolpassword LIKE 'md5%'), false) FROM pg_authid WHERE rolname IN ({users})"
    )
}

/// Slots that live no longer than a session belong to copies that are being made.
fn slots(version: Version) -> String {
    let bound = match version.has_wal_status() {
        true => "wal_status, safe_wal_size",
        false => "NULL, NULL",
    };
    let failover = match version.has_slot_synchronisation() {
        true => "failover, synced",
        false => "false, false",
    };
    format!(
        "SELECT slot_name, slot_type = 'logical', active, restart_lsn, {bound}, {failover} FROM pg_replication_slots \
         WHERE NOT temporary ORDER BY 1"
    )
}

/// One row of a server that archives: a standby does so with `always` alone (PostgreSQL manual, `archive_mode`).
const ARCHIVER: &str = "SELECT failed_count, last_failed_wal, extract(epoch FROM last_archived_time)::bigint, \
     coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL) FROM pg_stat_archiver \
     WHERE current_setting('archive_mode') = 'always' \
     OR (current_setting('archive_mode') = 'on' AND NOT pg_is_in_recovery())";

/// Whether nothing can come to a standby any more, and its position is what it holds. PostgreSQL tells a position that was received only after it
/// has read all WAL that it had; a server that was started to stream from nobody tells none, and waits once it has read all.
const INTAKE: &str = "SELECT pg_is_in_recovery() AND current_setting('primary_conninfo') = '' \
     AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver') \
     AND (pg_last_wal_receive_lsn() IS NOT NULL OR EXISTS (SELECT FROM pg_stat_activity \
     WHERE backend_type = 'startup' AND wait_event = 'RecoveryRetrieveRetryInterval'))";

/// What older servers are not asked, since they cannot be told to receive nothing.
const NO_INTAKE: &str = "SELECT false";

/// Last, so that the position is read after everything else.
const POSITION: &str = "SELECT pg_is_in_recovery(), \
     (SELECT system_identifier FROM pg_control_system()), \
     CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn() END, \
     CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_flush_lsn()) END, \
     greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), \
     (SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming'), \
     extract(epoch FROM pg_postmaster_start_time())::bigint, \
     (SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming')";

/// The directories of the sockets are given on the command line, so that what a file that came with the data says of them is for nothing.
/// A parameter that left the files waits for a restart to its default, also where it has that already: nothing would change.
const SETTINGS: &str = "SELECT name, setting FROM pg_file_settings \
     WHERE name IS NOT NULL AND setting IS NOT NULL ORDER BY seqno; \
     SELECT name, current_setting(name) FROM pg_settings s WHERE pending_restart AND name <> 'unix_socket_directories' \
     AND (setting IS DISTINCT FROM boot_val OR EXISTS (SELECT FROM pg_file_settings f WHERE lower(f.name) = s.name)) \
     ORDER BY 1";

impl LocalPostgres {
    /// One look at the running server over a new connection, so that a success says that clients can come in. An error says
    /// which query failed.
    pub async fn sample(&self, limit: &Limit) -> Result<Answer> {
        let Options { superuser, replication, .. } = &self.inner.options;
        let passwords = stored_passwords([&superuser.username, &replication.username]);
        let version = self.version(limit).await?;
        let slots = slots(version);
        let intake = if version.can_stop_receiving() { INTAKE } else { NO_INTAKE };
        let sql =
            format!("{SETTINGS}; {REPLICATION}; {passwords}; {slots}; {ARCHIVER}; {intake}; {POSITION}");
        let answers = self.query_anew("look at the state of PostgreSQL", &sql, limit).await?;
        let [settings, pending, replication, names, passwords, slots, archiver, intake, position] =
            answers.as_slice()
        else {
            return Err(PostgresError::Invalid("PostgreSQL left a question unanswered".to_owned()));
        };
        let Some(position) = position.first() else { return Err(unexpected("its position")) };
        let in_recovery = position.get(0) == Some("t");
        let (timeline, lsn) = if in_recovery {
            self.standby_position(position, limit).await?
        } else {
            primary_position(position)?
        };
        let directory = self.data_directory();
        let archiver = archiver.first().map(archiver_row);
        let read = move || {
            let archiver = archiver.map(|archiver| Archiver {
                backlog: Marks::of(&directory).backlog(SystemTime::now()),
                ..archiver
            });
            Ok((timeline_history(&directory, timeline)?, older_wal_file(&directory), archiver))
        };
        let (history, older_wal_file, archiver) = self.look_at_disk("reading pg_wal", limit, read).await?;
        let mut pending_restart = pairs(pending);
        if !in_recovery {
            // They vanish from the file at a promotion, and the server then waits for a restart that changes nothing.
            pending_restart.retain(|name, _| !is_recovery_parameter(name));
        }
        Ok(Answer {
            system_identifier: position.get(1).unwrap_or_default().to_owned(),
            timeline,
            lsn,
            in_recovery,
            receiver: match in_recovery && position.get(5).is_none() {
                true => WalReceiver::Absent(self.replication_failure()),
                false => WalReceiver::Streaming,
            },
            intake: match intake.first().and_then(|row| row.get(0)) {
                Some("t") => Intake::Shut,
                _ => Intake::Open,
            },
            receiver_process: position.get(7).and_then(|process| process.parse().ok()),
            history,
            configured_parameters: Arc::new(pairs(settings)),
            passwords: match passwords.first().and_then(|row| row.get(0)) {
                Some("t") => PasswordProtocol::ScramOrMd5,
                _ => PasswordProtocol::Scram,
            },
            replication: replication.iter().map(replication_row).collect(),
            slots: slots.iter().map(slot_row).collect(),
            pending_restart,
            started: position.get(6).and_then(instant).unwrap_or_default(),
            synchronous_standby_names: column(names).pop().unwrap_or_default(),
            archiver,
            older_wal_file: older_wal_file.unwrap_or_else(|error| {
                tracing::warn!("{error}");
                String::new()
            }),
        })
    }

    /// The parameters in the files of the running server, all of them, as written.
    pub async fn configured_parameters(&self, limit: &Limit) -> Result<Parameters> {
        let answers = self.query("read the configured parameters", SETTINGS, limit).await?;
        let rows = answers.first().map(Vec::as_slice).unwrap_or_default();
        Ok(pairs(rows))
    }

    /// While WAL streams in, the receiver knows the timeline. Otherwise the server is asked to identify itself as it would to another;
    /// when it has no wal sender free for that, the last timeline seen stands.
    async fn standby_position(&self, row: &SimpleQueryRow, limit: &Limit) -> Result<(Timeline, Lsn)> {
        let lsn = row
            .get(4)
            .map(str::parse)
            .transpose()
            .map_err(|_| unexpected("its position"))?
            .unwrap_or_default();
        if let Some(timeline) = row.get(5).and_then(|timeline| timeline.parse().ok()).map(Timeline) {
            *self.inner.last_timeline.lock() = Some(timeline);
            return Ok((timeline, lsn));
        }
        match self.identify_local(limit).await {
            Ok(facts) => {
                *self.inner.last_timeline.lock() = Some(facts.timeline);
                Ok((facts.timeline, facts.lsn.max(lsn)))
            }
            Err(error) => {
                let known = *self.inner.last_timeline.lock();
                known.map(|timeline| (timeline, lsn)).ok_or(error)
            }
        }
    }
}

fn primary_position(row: &SimpleQueryRow) -> Result<(Timeline, Lsn)> {
    let lsn = row.get(2).and_then(|lsn| lsn.parse().ok()).ok_or_else(|| unexpected("its position"))?;
    // The first eight digits of a WAL file's name are the timeline in hexadecimal.
    let timeline =
        row.get(3).and_then(|name| name.get(..8)).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Ok((Timeline(timeline.ok_or_else(|| unexpected("its timeline"))?), lsn))
}

pub(crate) fn unexpected(what: &str) -> PostgresError {
    PostgresError::Invalid(format!("PostgreSQL does not tell {what}"))
}

/// From the seconds of the Unix epoch.
fn instant(seconds: &str) -> Option<Timestamp> {
    let instant = jiff::Timestamp::from_second(seconds.parse().ok()?).ok()?;
    Some(Timestamp::utc(instant))
}

fn pairs(rows: &[SimpleQueryRow]) -> Parameters {
    rows.iter().filter_map(|row| Some((row.get(0)?.to_owned(), row.get(1)?.to_owned()))).collect()
}

fn column(rows: &[SimpleQueryRow]) -> Vec<String> {
    rows.iter().filter_map(|row| row.get(0)).map(str::to_owned).collect()
}

fn replication_row(row: &SimpleQueryRow) -> ReplicationRow {
    let text = |index| row.get(index).unwrap_or_default().to_owned();
    ReplicationRow {
        application_name: text(0),
        sync_state: text(1),
        flush_lsn: row.get(2).and_then(|lsn| lsn.parse().ok()),
        replay_lag: row.get(3).and_then(|lag| Duration::try_from_secs_f64(lag.parse().ok()?).ok()),
    }
}

fn slot_row(row: &SimpleQueryRow) -> SlotRow {
    SlotRow {
        name: row.get(0).unwrap_or_default().to_owned(),
        kind: if row.get(1) == Some("t") { SlotKind::Logical } else { SlotKind::Physical },
        failover: match (row.get(6), row.get(7)) {
            (_, Some("t")) => Failover::Copied,
            (Some("t"), _) => Failover::Wanted,
            _ => Failover::No,
        },
        active: row.get(2) == Some("t"),
        restart_lsn: row.get(3).and_then(|lsn| lsn.parse().ok()),
        wal_status: row.get(4).map(str::to_owned),
        safe_wal_size: row.get(5).and_then(|size| size.parse().ok()),
    }
}

/// Without what waits.
fn archiver_row(row: &SimpleQueryRow) -> Archiver {
    Archiver {
        failures: row.get(0).and_then(|count| count.parse().ok()).unwrap_or_default(),
        last_failed: row.get(1).unwrap_or_default().to_owned(),
        last_run: if row.get(3) == Some("t") { LastRun::Failed } else { LastRun::Succeeded },
        last_archived_at: row.get(2).and_then(instant),
        backlog: None,
    }
}

pub(crate) fn wal_directory(directory: &Path) -> PathBuf {
    let new = directory.join("pg_wal");
    if new.exists() { new } else { directory.join("pg_xlog") }
}

/// The history file of a timeline: which ones came before, and where each ended. Empty for the first one.
fn timeline_history(directory: &Path, timeline: Timeline) -> Result<Vec<TimelineHistoryEntry>> {
    if timeline.0 <= 1 {
        return Ok(Vec::new());
    }
    let path = wal_directory(directory).join(format!("{:08X}.history", timeline.0));
    match std::fs::read_to_string(&path) {
        Ok(text) => parse_history(&text),
        // A standby may receive a new timeline a moment before its history.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(PostgresError::io("read", &path)(error)),
    }
}

/// A timeline history (PostgreSQL manual, "Timelines"). Each line: parent timeline, where it ended, why. Other lines are ignored.
///
/// # Errors
/// A number cannot be read.
pub fn parse_history(text: &str) -> Result<Vec<TimelineHistoryEntry>> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut words = line.trim().splitn(2, char::is_whitespace);
        let (Some(timeline), Some(rest)) = (words.next(), words.next()) else { continue };
        let mut words = rest.trim_start().splitn(2, char::is_whitespace);
        let (Some(lsn), Some(reason)) = (words.next(), words.next()) else { continue };
        if timeline.starts_with('#') || !lsn.contains('/') {
            continue;
        }
        let bad = || PostgresError::Invalid(format!("a timeline history holds the line \"{line}\""));
        let entry = TimelineHistoryEntry {
            timeline: Timeline(timeline.parse().map_err(|_| bad())?),
            switch_point: lsn.parse().map_err(|_| bad())?,
            reason: reason.trim().to_owned(),
        };
        entries.push(entry);
    }
    Ok(entries)
}

/// The oldest WAL file; empty when there is none. Where segments have another size than 16 MiB, the name of the segment of 16 MiB that
/// holds its beginning.
fn older_wal_file(directory: &Path) -> Result<String> {
    let directory = wal_directory(directory);
    // Not by the timeline: a server that was promoted may have files of an older one that come later.
    let oldest = segments(&directory)?.into_iter().min_by(|a, b| a.get(8..).cmp(&b.get(8..)));
    let Some(oldest) = oldest else { return Ok(String::new()) };
    let size = std::fs::metadata(directory.join(&oldest)).map_or(0, |metadata| metadata.len());
    Ok(published(&oldest, size).unwrap_or_default())
}

/// What a segment of this many bytes is called among segments of 16 MiB. None for a size that PostgreSQL does not know.
fn published(name: &str, size: u64) -> Option<String> {
    let is_known = size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size);
    let part = |range| u64::from_str_radix(name.get(range)?, 16).ok();
    let (timeline, log, segment) = (part(0..8)?, part(8..16)?, part(16..24)?);
    let offset = segment.checked_mul(size).filter(|_| is_known)?;
    Some(wal_file::name(Timeline(timeline), Lsn((log << 32) + offset)))
}

/// The names of the WAL segments in a directory (PostgreSQL manual, "WAL Internals"), in no order.
pub(crate) fn segments(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).map_err(PostgresError::io("read", directory))?;
    let is_segment = |name: &String| {
        name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(is_segment).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_file_is_that_of_the_lowest_position_whatever_the_timeline_and_the_size() {
        const MIB: u64 = 1 << 20;
        for (size, files, expected) in [
            (16, &["000000010000000000000007", "000000020000000000000004"][..], "000000020000000000000004"),
            (16, &["000000010000000100000000", "0000000100000000000000FF"], "0000000100000000000000FF"),
            (16, &["00000002.history", "archive_status"], ""),
            (1, &["000000010000000200000025", "000000010000000200000024"], "000000010000000200000002"),
            (64, &["000000030000000000000003"], "00000003000000000000000C"),
            (1024, &["000000010000000000000003"], "0000000100000000000000C0"),
            (5, &["000000010000000000000003"], ""),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let wal = directory.path().join("pg_wal");
            std::fs::create_dir(&wal).unwrap();
            for file in files {
                std::fs::File::create(wal.join(file)).unwrap().set_len(size * MIB).unwrap();
            }
            assert_eq!(older_wal_file(directory.path()).unwrap(), expected, "{size} MiB, {files:?}");
        }
    }

    #[test]
    fn histories_are_read() {
        let text =
            "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tat restore point \"x\"\n# comment\n";
        let entries = parse_history(text).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].timeline, Timeline(1));
        assert_eq!(entries[0].switch_point, Lsn(0x300_0148));
        assert_eq!(entries[1].reason, "at restore point \"x\"");
        assert!(parse_history("x\t0/1\ty\n").is_err());
    }
}
