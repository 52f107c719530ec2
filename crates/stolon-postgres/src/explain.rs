//! Last words of PostgreSQL and its tools, turned into one sentence.
//!
//! This is the one place that goes by the words of a message: postgres, initdb, pg_basebackup and pg_rewind give nothing else, no
//! code and no exit status that tells one failure from another.

use std::borrow::Cow;

use stolon_core::keeper::DeathCause;

use crate::error::Disk;

/// Replaces the value after each `password=` by `***`.
pub(crate) fn mask_passwords(line: &str) -> Cow<'_, str> {
    const KEY: &str = "password=";
    if !line.contains(KEY) {
        return Cow::Borrowed(line);
    }
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(KEY) {
        let (before, after) = rest.split_at(at + KEY.len());
        masked.push_str(before);
        masked.push_str("***");
        rest = &after[password_length(after)..];
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}

/// Bytes of a conninfo value: up to an unescaped space or quote, or a quoted whole.
fn password_length(text: &str) -> usize {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return at + 1,
            '"' | '\'' if !quoted => return at,
            c if c.is_whitespace() && !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

/// Which disk is full, when the last words of something that runs here speak of one.
pub(crate) fn full_disk(tail: &[String]) -> Option<Disk> {
    lines_of_full_disk(tail).next().map(|_| Disk::Ours)
}

/// Which disk is full, when the last words of a tool that copies from a server speak of one. What that server says is handed on as
/// libpq writes it: a severity in the server's language, a colon and two spaces (PostgreSQL source, fe-protocol3.c,
/// `pqBuildErrorMessage3`); what the tool says of itself has one.
pub(crate) fn full_disk_of_copy(tail: &[String]) -> Option<Disk> {
    let is_of_server = |line: &String| line.contains(":  ");
    match lines_of_full_disk(tail).all(is_of_server) {
        true => lines_of_full_disk(tail).next().map(|_| Disk::Source),
        false => Some(Disk::Ours),
    }
}

fn lines_of_full_disk(tail: &[String]) -> impl Iterator<Item = &String> {
    tail.iter().rev().take(20).filter(|line| line.contains("No space left on device"))
}

/// The line that says why a tool failed, without the tool's name before it.
pub(crate) fn tool_failure(tool: &str, tail: &[String]) -> Option<String> {
    let prefix = format!("{tool}: ");
    let strip = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix(prefix.as_str()).unwrap_or(line);
        let line = line.strip_prefix("error: ").or_else(|| line.strip_prefix("fatal: ")).unwrap_or(line);
        line.to_owned()
    };
    let says_why = |line: &&String| {
        let lower = line.to_ascii_lowercase();
        ["error:", "fatal:", "panic:"].iter().any(|word| lower.contains(word))
    };
    let told = tail.iter().find(says_why).or_else(|| last_that_says_something(tail))?;
    Some(strip(told))
}

/// The last line, without those that programs print after the reason: where help is, and that they end now.
fn last_that_says_something(tail: &[String]) -> Option<&String> {
    // `getopt` users of PostgreSQL and of GNU; GNU tar.
    const AFTERWARDS: [&str; 4] =
        ["--help", "exiting now", "Child returned status", "Exiting with failure status"];
    let is_afterwards = |line: &&String| AFTERWARDS.iter().any(|words| line.contains(words));
    let lines = || tail.iter().rev().filter(|line| !line.trim().is_empty());
    lines().find(|line| !is_afterwards(line)).or_else(|| lines().next())
}

/// The last thing that a server said about why it receives no WAL.
pub(crate) fn replication_failure(tail: &[String]) -> Option<String> {
    const SIGNS: [&str; 5] = [
        "database system identifier differs",
        "could not connect to the primary server",
        "could not receive data from WAL stream",
        "could not start WAL streaming",
        "the primary server",
    ];
    let is_one = |line: &&String| line.contains("FATAL:") && SIGNS.iter().any(|sign| line.contains(sign));
    tail.iter().rev().find(is_one).map(|line| message_of(line).to_owned())
}

/// What a server said of WAL that the one that it streams from has not any more (PostgreSQL source, walsender.c).
pub(crate) fn lacking_wal(tail: &[String]) -> Option<String> {
    let says_so =
        |line: &&String| line.contains("requested WAL segment") && line.contains("has already been removed");
    tail.iter().rev().find(says_so).map(|line| message_of(line).to_owned())
}

struct Cause {
    /// All of these stand in one line.
    needles: &'static [&'static str],
    sentence: fn(&str) -> String,
}

fn say(text: &'static str, line: &str) -> String {
    format!("{text} ({})", message_of(line))
}

/// What a server says of limits that are lower than those which its data were written with; before version 14 by the second one.
const LIMITS_TOO_LOW: [&str; 3] = [
    "is a lower setting than on the primary server",
    "hot standby is not possible because",
    "recovery aborted because of insufficient parameter settings",
];

const fn limit_too_low(needles: &'static [&'static str]) -> Cause {
    Cause { needles, sentence: |line| say("a setting is lower than the data demands", line) }
}

/// The usual reasons, most telling first.
const CAUSES: &[Cause] = &[
    Cause { needles: &["No space left on device"], sentence: |line| say("the disk is full", line) },
    limit_too_low(&[LIMITS_TOO_LOW[0]]),
    limit_too_low(&[LIMITS_TOO_LOW[1]]),
    limit_too_low(&[LIMITS_TOO_LOW[2]]),
    Cause {
        needles: &["could not access file", "No such file or directory"],
        sentence: |line| say("a library named in the settings is not installed here", line),
    },
    Cause {
        needles: &["could not load library"],
        sentence: |line| say("a library named in the settings cannot be loaded here", line),
    },
    Cause {
        needles: &["incompatible library"],
        sentence: |line| say("a library was made for another PostgreSQL version", line),
    },
    Cause {
        needles: &["The data directory was initialized by PostgreSQL version"],
        sentence: |line| say("the data belongs to another major version of PostgreSQL", line),
    },
    Cause {
        needles: &["database files are incompatible with server"],
        sentence: |line| say("the data does not fit this PostgreSQL", line),
    },
    Cause {
        needles: &["could not bind", "Address already in use"],
        sentence: |line| say("the port is already in use", line),
    },
    Cause {
        needles: &["lock file", "already exists"],
        sentence: |line| say("another PostgreSQL uses this port or data directory", line),
    },
    Cause {
        needles: &["recovery ended before configured recovery target was reached"],
        sentence: |line| {
            say("the recovery target was not reached: WAL is missing or the target lies in the future", line)
        },
    },
    Cause {
        needles: &["requested recovery stop point is before consistent recovery point"],
        sentence: |line| say("the recovery target lies before the end of the backup", line),
    },
    Cause {
        needles: &["multiple recovery targets specified"],
        sentence: |line| say("only one recovery target may be given", line),
    },
    Cause {
        needles: &["must specify restore_command when standby mode is not enabled"],
        sentence: |line| {
            say("recovery needs a restore command (archiveRecoverySettings.restoreCommand)", line)
        },
    },
    Cause {
        needles: &["could not locate required checkpoint record"],
        sentence: |line| say("the data is not complete: its checkpoint is missing from the WAL", line),
    },
    Cause {
        needles: &["could not locate a valid checkpoint record"],
        sentence: |line| say("the data is not complete: its checkpoint is missing from the WAL", line),
    },
    Cause {
        needles: &["could not find redo location"],
        sentence: |line| say("the data is not complete: WAL that the checkpoint needs is missing", line),
    },
    Cause {
        needles: &["WAL ends before end of online backup"],
        sentence: |line| say("the backup is not complete: its last WAL is missing", line),
    },
    Cause {
        needles: &["WAL ends before consistent recovery point"],
        sentence: |line| say("WAL is missing that the data needs to be consistent", line),
    },
    Cause {
        needles: &["requested timeline", "is not a child of this server's history"],
        sentence: |line| say("the data has taken another course than the WAL it is to follow", line),
    },
    Cause {
        needles: &["incorrect checksum in control file"],
        sentence: |line| say("the data is damaged: pg_control", line),
    },
    Cause { needles: &["invalid page in block"], sentence: |line| say("the data is damaged", line) },
    Cause {
        needles: &["could not load", "pg_hba.conf"],
        sentence: |line| say("pg_hba.conf has lines that PostgreSQL does not accept", line),
    },
    Cause {
        needles: &["unrecognized configuration parameter"],
        sentence: |line| say("a parameter is not one of this PostgreSQL version", line),
    },
    Cause {
        needles: &["invalid value for parameter"],
        sentence: |line| say("a parameter has a value that PostgreSQL does not accept", line),
    },
    Cause {
        needles: &["is outside the valid range for parameter"],
        sentence: |line| say("a parameter has a value that PostgreSQL does not accept", line),
    },
    Cause {
        needles: &["Cannot allocate memory"],
        sentence: |line| say("there is not enough memory for these settings", line),
    },
    Cause {
        needles: &["could not map anonymous shared memory"],
        sentence: |line| say("there is not enough memory for these settings", line),
    },
    Cause {
        needles: &["pre-existing shared memory block"],
        sentence: |line| say("processes of the previous server are still there", line),
    },
    Cause {
        needles: &["was terminated by signal"],
        sentence: |line| say("one of its processes crashed", line),
    },
    Cause {
        needles: &["\"root\" execution of the PostgreSQL server is not permitted"],
        sentence: |_| "PostgreSQL does not run as root: start the keeper as an ordinary user".to_owned(),
    },
];

/// Why a server ended, in one sentence, from the last lines of its log. Knows the usual causes; for others it quotes the last
/// message of level FATAL or worse, and says so when there is none.
pub fn explain_startup_failure(log_tail: &[String]) -> String {
    for cause in CAUSES {
        let line =
            log_tail.iter().rev().find(|line| cause.needles.iter().all(|needle| line.contains(needle)));
        if let Some(line) = line {
            let sentence = (cause.sentence)(line);
            let lacks_wal = LACKS_WAL.iter().any(|words| line.contains(words));
            return match last_words_of_restore_command(log_tail).filter(|_| lacks_wal) {
                Some(words) => format!("{sentence}; restore_command said: {words}"),
                None => sentence,
            };
        }
    }
    let severe = |line: &&String| ["PANIC:", "FATAL:"].iter().any(|level| line.contains(level));
    let last = log_tail.iter().rev().filter(|line| !line.trim().is_empty());
    match log_tail.iter().rev().find(severe).or_else(|| last.clone().find(|line| line.contains("LOG:"))) {
        Some(line) => message_of(line).to_owned(),
        None => last
            .clone()
            .next()
            .map_or_else(|| "it said nothing".to_owned(), |line| message_of(line).to_owned()),
    }
}

/// Signs that WAL is missing, which a restore command should have fetched.
const LACKS_WAL: [&str; 4] = [
    "could not locate required checkpoint record",
    "could not locate a valid checkpoint record",
    "could not find redo location",
    "recovery ended before configured recovery target was reached",
];

/// What a restore command says goes to the server's log as it is, while the server's own lines bear a level and two spaces, or
/// begin with a tab (PostgreSQL manual, "Error Reporting and Logging").
fn last_words_of_restore_command(log_tail: &[String]) -> Option<&str> {
    let is_the_servers = |line: &str| {
        line.contains(":  ") || line.starts_with(char::is_whitespace) || line.starts_with("postgres: ")
    };
    let lines = log_tail.iter().rev().map(String::as_str);
    lines.filter(|line| !line.trim().is_empty()).find(|line| !is_the_servers(line))
}

/// The lines of `pg_hba.conf` that the server complained about (from 1), out of its log.
pub fn refused_hba_lines(log_tail: &[String]) -> Vec<u32> {
    let mut lines: Vec<u32> = log_tail
        .iter()
        .filter(|line| line.contains("pg_hba.conf"))
        .filter_map(|line| line.split_once("line "))
        .filter_map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// What the last lines of a server's log give as the cause of its end, as far as that decides how to go on.
pub(crate) fn death_cause(log_tail: &[String]) -> DeathCause {
    let says =
        |needles: &[&str]| log_tail.iter().any(|line| needles.iter().all(|needle| line.contains(needle)));
    let hba_lines = refused_hba_lines(log_tail);
    if full_disk(log_tail).is_some() {
        DeathCause::DiskFull
    } else if says(&["could not bind", "Address already in use"]) || says(&["lock file", "already exists"]) {
        DeathCause::PortTaken
    } else if !hba_lines.is_empty() {
        DeathCause::HbaLines(hba_lines)
    } else if LIMITS_TOO_LOW.iter().any(|sentence| says(&[sentence])) {
        DeathCause::LimitsTooLow
    } else {
        DeathCause::Other
    }
}

/// The message of a log line without time, process and level.
pub(crate) fn message_of(line: &str) -> &str {
    for level in ["PANIC:", "FATAL:", "ERROR:", "LOG:", "WARNING:", "DETAIL:", "HINT:", "CONTEXT:"] {
        if let Some((_, message)) = line.split_once(level) {
            return message.trim();
        }
    }
    line.trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn whose_disk_is_full_is_told_by_who_says_so() {
        const LOCAL: &str =
            "pg_basebackup: error: could not write to file \"x/base.tar\": No space left on device";
        const SOURCE: &str = "pg_basebackup: error: could not get COPY data stream: ERROR:  could not write to file \
             \"base/pgsql_tmp/1\": No space left on device";
        const GERMAN: &str =
            "pg_basebackup: error: backup failed: FEHLER:  could not extend file: No space left on device";
        for (lines, disk) in [
            (&[LOCAL][..], Some(Disk::Ours)),
            (&[SOURCE], Some(Disk::Source)),
            (&[GERMAN, "pg_basebackup: removing data directory"], Some(Disk::Source)),
            (&[SOURCE, LOCAL], Some(Disk::Ours)),
            (&["pg_basebackup: error: connection to server failed: FATAL:  no"], None),
        ] {
            assert_eq!(full_disk_of_copy(&tail(lines)), disk, "{lines:?}");
        }
        let bootstrap = tail(&["PANIC:  could not write to file \"pg_wal/1\": No space left on device"]);
        assert_eq!(full_disk(&bootstrap), Some(Disk::Ours), "initdb hands on what its own server says");
    }

    #[test]
    fn the_causes_that_decide_something_are_told_apart() {
        for (lines, cause) in [
            (
                &[
                    "LOG:  could not bind IPv4 address \"0.0.0.0\": Address already in use",
                    "FATAL:  could not create any TCP/IP sockets",
                ][..],
                DeathCause::PortTaken,
            ),
            (&["FATAL:  lock file \"/tmp/.s.PGSQL.5432.lock\" already exists"], DeathCause::PortTaken),
            (&["PANIC:  could not write: No space left on device"], DeathCause::DiskFull),
            (
                &[
                    "LOG:  invalid connection type \"nonsense\"",
                    "CONTEXT:  line 7 of configuration file \"/data/pg_hba.conf\"",
                    "FATAL:  could not load /data/pg_hba.conf",
                ],
                DeathCause::HbaLines(vec![7]),
            ),
            (
                &[
                    "FATAL:  recovery aborted because of insufficient parameter settings",
                    "DETAIL:  max_connections = 100 is a lower setting than on the primary server, where its value was 120.",
                ],
                DeathCause::LimitsTooLow,
            ),
            (
                &[
                    "FATAL:  hot standby is not possible because max_connections = 100 is a lower setting than on the master server",
                ],
                DeathCause::LimitsTooLow,
            ),
            (&["FATAL:  something else"], DeathCause::Other),
        ] {
            assert_eq!(death_cause(&tail(lines)), cause, "{lines:?}");
        }
    }

    #[test]
    fn passwords_do_not_show() {
        for (line, expected) in [
            ("plain", "plain"),
            ("user=a password=b\\ c host=d", "user=a password=*** host=d"),
            ("changed to \"user=a password=x\" now", "changed to \"user=a password=***\" now"),
            ("password='a b' x password=z", "password=*** x password=***"),
        ] {
            assert_eq!(mask_passwords(line), expected);
        }
    }

    #[test]
    fn usual_causes_are_named() {
        for (lines, part) in [
            (
                &["2026 [1] FATAL:  could not access file \"nolib\": No such file or directory"][..],
                "not installed",
            ),
            (
                &[
                    "2026 [1] FATAL:  recovery aborted because of insufficient parameter settings",
                    "2026 [1] DETAIL:  max_connections = 100 is a lower setting than on the primary server, where its value was 300.",
                    "2026 [1] LOG:  database system is shut down",
                ],
                "max_connections = 100",
            ),
            (
                &[
                    "FATAL:  database files are incompatible with server",
                    "DETAIL:  The data directory was initialized by PostgreSQL version 14, which is not compatible with this version 15.4.",
                ],
                "another major version",
            ),
            (
                &["PANIC:  could not write to file \"pg_wal/xlogtemp.1\": No space left on device"],
                "disk is full",
            ),
            (
                &[
                    "LOG:  server process (PID 7) was terminated by signal 11: Segmentation fault",
                    "FATAL:  no pg_hba.conf entry",
                ],
                "crashed",
            ),
            (&["FATAL:  something new", "LOG:  database system is shut down"], "something new"),
            (&[], "said nothing"),
        ] {
            let sentence = explain_startup_failure(&tail(lines));
            assert!(sentence.contains(part), "{sentence}");
        }
    }

    #[test]
    fn a_tool_is_quoted_with_its_reason_and_not_with_what_follows_it() {
        for (lines, reason) in [
            (
                &["tool: invalid option -- 'x'", "Try \"tool --help\" for more information."][..],
                "invalid option -- 'x'",
            ),
            (
                &["tool: /b.tar: Cannot open: No such file", "tool: Error is not recoverable: exiting now"],
                "/b.tar: Cannot open: No such file",
            ),
            (
                &[
                    "gzip: stdin: unexpected end of file",
                    "tool: Child returned status 1",
                    "tool: Error is not recoverable: exiting now",
                ],
                "gzip: stdin: unexpected end of file",
            ),
            (&["12/34 kB", "tool: error: no such host", "tool: removing files"], "no such host"),
            (&["tool --help"], "tool --help"),
        ] {
            assert_eq!(tool_failure("tool", &tail(lines)).as_deref(), Some(reason), "{lines:?}");
        }
    }

    #[test]
    fn where_wal_is_missing_the_restore_command_is_heard() {
        let explained = |said: &[&str], fatal: &str| {
            let after = ["LOG:  startup process (PID 7) exited with exit code 1", "\tcontinued"];
            let lines = [&["LOG:  starting point-in-time recovery"], said, &[fatal], &after].concat();
            explain_startup_failure(&tail(&lines))
        };
        let missing = "FATAL:  could not locate required checkpoint record";
        let said = ["ERROR: [032]: PostgreSQL working directory is not pg1-path", "       HINT: look"];
        let sentence = explained(&said, missing);
        assert!(
            sentence.ends_with(
                "restore_command said: ERROR: [032]: PostgreSQL working directory is not pg1-path"
            ),
            "{sentence}"
        );
        assert!(!explained(&[], missing).contains("restore_command said"));
        assert!(!explained(&said, "FATAL:  invalid page in block 7").contains("restore_command said"));
    }

    #[test]
    fn refused_lines_of_hba_are_found() {
        let log = tail(&[
            "LOG:  invalid connection type \"foo\"",
            "CONTEXT:  line 7 of configuration file \"/d/pg_hba.conf\"",
            "FATAL:  could not load /d/pg_hba.conf",
        ]);
        assert_eq!(refused_hba_lines(&log), [7]);
    }
}
