//! What is said about PostgreSQL parameters.

use stolon_core::settings::{MAJORS, ProblemKind, accepted, check};
use stolon_model::Parameters;

fn parameters(given: &[(&str, &str)]) -> Parameters {
    given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn sentence(major: u16, name: &str, value: &str) -> Option<(ProblemKind, String)> {
    let problems = check(major, &parameters(&[(name, value)]));
    assert!(problems.len() <= 1);
    problems.into_iter().next().map(|problem| (problem.kind, problem.to_string()))
}

#[test]
fn sentences() {
    use ProblemKind::*;
    for (major, name, value, kind, expected) in [
        (
            15,
            "max_conections",
            "1000",
            Unknown,
            "max_conections is not a parameter of PostgreSQL 15: did you mean max_connections?",
        ),
        (15, "xyzzy", "1", Unknown, "xyzzy is not a parameter of PostgreSQL 15"),
        (
            15,
            "wal_keep_segments",
            "8",
            Unknown,
            "wal_keep_segments is a parameter of PostgreSQL 12 and earlier, not of 15: use wal_keep_size instead",
        ),
        (15, "io_method", "sync", Unknown, "io_method is a parameter of PostgreSQL 18 and later, not of 15"),
        (
            12,
            "wal_keep_size",
            "128",
            Unknown,
            "wal_keep_size is a parameter of PostgreSQL 13 and later, not of 12",
        ),
        (
            15,
            "checkpoint_segments",
            "8",
            Unknown,
            "checkpoint_segments is not a parameter of PostgreSQL 15: use max_wal_size instead",
        ),
        (
            15,
            "foo bar",
            "1",
            BadName,
            "\"foo bar\" cannot be the name of a parameter: it consists of letters, digits and _",
        ),
        (
            15,
            "",
            "1",
            BadName,
            "\"\" cannot be the name of a parameter: it consists of letters, digits and _",
        ),
        (
            15,
            "a.b.c",
            "1",
            BadName,
            "\"a.b.c\" cannot be the name of a parameter: it consists of letters, digits and _",
        ),
        (15, "search_path", "a\nb", BadValue, "the value of search_path must be one line of text"),
        (15, "search_path", "a\0b", BadValue, "the value of search_path must be one line of text"),
        (15, "fsync", "maybe", BadValue, "fsync takes on or off, not \"maybe\""),
        (15, "max_connections", "many", BadValue, "max_connections takes a whole number, not \"many\""),
        (
            15,
            "max_connections",
            "5kB",
            BadValue,
            "max_connections takes a whole number, not \"5kB\": without a unit",
        ),
        (15, "max_connections", "0", OutOfRange, "max_connections must be between 1 and 262143, not \"0\""),
        (
            15,
            "work_mem",
            "4gb",
            BadValue,
            "work_mem takes a whole number (in kB unless a unit is given), not \"4gb\": its units are TB, GB, MB, kB, B",
        ),
        (15, "work_mem", "3TB", OutOfRange, "work_mem must be between 64 and 2147483647 kB, not \"3TB\""),
        (
            15,
            "log_statement",
            "dll",
            BadValue,
            "log_statement takes one of none, ddl, mod, all, not \"dll\": did you mean ddl?",
        ),
        (
            15,
            "block_size",
            "8192",
            ReadOnly,
            "block_size cannot be set: it only tells how PostgreSQL was built or runs",
        ),
        (15, "port", "1", Managed, "port is set by the cluster itself: the value given for it is ignored"),
        (15, "PORT", "x", Managed, "PORT is set by the cluster itself: the value given for it is ignored"),
        (
            15,
            "wal_level",
            "minimal",
            Managed,
            "wal_level is set by the cluster itself: \"minimal\" is ignored, only logical is taken over",
        ),
        (15, "seq_page_cost", "-1", OutOfRange, "seq_page_cost must be at least 0, not \"-1\""),
    ] {
        let (found, text) =
            sentence(major, name, value).unwrap_or_else(|| panic!("{name} = {value:?} passed"));
        assert_eq!((found, text.as_str()), (kind, expected));
    }
}

#[test]
fn what_passes() {
    for (major, name, value) in [
        (15, "max_connections", "300"),
        (15, "Max_Connections", " 300 "),
        (15, "max_connections", "0x10"),
        (15, "max_connections", "010"),
        (15, "max_connections", "1e2"),
        (15, "max_connections", "99.5"),
        (15, "work_mem", "4 GB"),
        (15, "work_mem", "1.5GB"),
        (15, "work_mem", "65536B"),
        (15, "wal_buffers", "-1"),
        (15, "statement_timeout", "1min"),
        (15, "checkpoint_timeout", "1d"),
        (15, "fsync", "FALSE"),
        (15, "fsync", "of"),
        (15, "wal_level", "logical"),
        (15, "wal_level", "replica"),
        (15, "synchronous_commit", "true"),
        (15, "log_min_messages", "debug"),
        (15, "wal_compression", "lz4"),
        (18, "io_method", "io_uring"),
        (15, "my.option", "x"),
        (15, "auto_explain.log_min_duration", "1s"),
        (15, "timezone", "Europe/Berlin"),
        (15, "default_transaction_isolation", "Repeatable Read"),
        (15, "restore_command", "cp %p"),
        (12, "wal_keep_segments", "8"),
        (19, "whatever", "x"),
        (9, "x", "y"),
    ] {
        assert_eq!(sentence(major, name, value), None, "{major}: {name} = {value:?}");
    }
    assert!(sentence(11, "max_connections", "1e2").is_some());
    assert!(sentence(11, "statement_timeout", "5us").is_some());
}

#[test]
fn what_is_wrong_is_left_out_and_the_rest_stays() {
    let given = parameters(&[
        ("max_conections", "1000"),
        ("max_prepared_transactions", "100"),
        ("WORK_MEM", "1MB"),
        ("work_mem", "2MB"),
        ("port", "5432"),
        ("hba_file", "/etc/hba.conf"),
        ("my.option", "x"),
    ]);
    let (kept, problems) = accepted(15, &given);
    assert_eq!(
        kept,
        parameters(&[("max_prepared_transactions", "100"), ("work_mem", "2MB"), ("my.option", "x")])
    );
    let kinds: Vec<_> =
        problems.iter().map(|problem| (problem.name.as_str(), problem.kind, problem.is_error())).collect();
    assert_eq!(
        kinds,
        [
            ("WORK_MEM", ProblemKind::Duplicate, true),
            ("hba_file", ProblemKind::Reserved, true),
            ("max_conections", ProblemKind::Unknown, true),
            ("port", ProblemKind::Managed, false),
        ]
    );
}

#[test]
fn the_table_covers_every_major() {
    for major in MAJORS {
        for name in [
            "max_connections",
            "shared_preload_libraries",
            "wal_log_hints",
            "TimeZone",
            "track_commit_timestamp",
        ] {
            assert!(sentence(major, name, "\n").is_some_and(|(kind, _)| kind == ProblemKind::BadValue));
            assert_ne!(
                sentence(major, name, "1").map(|(kind, _)| kind),
                Some(ProblemKind::Unknown),
                "{major}: {name}"
            );
        }
        assert_eq!(sentence(major, "max_conections", "1").map(|(kind, _)| kind), Some(ProblemKind::Unknown));
    }
}
