//! `cargo xtask settings`: makes the table of PostgreSQL's parameters from `pg_settings` of every major.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::fixtures;

const TABLE: &str = "crates/stolon-core/src/settings/pg_settings.tsv";

const HEADER: &str = "\
# Parameters of PostgreSQL, made by `cargo xtask settings` from the view pg_settings of a server of every major.
# One row for each run of majors in which nothing about the parameter changed. Columns, separated by tabs:
# name, first major, last major, vartype, unit, min_val, max_val, context, enumvals (separated by commas)
";

/// One statement on one line, as `postgres --single` wants it.
const QUERY: &str = "copy (select name, vartype, unit, min_val, max_val, context, array_to_string(enumvals, ',') \
     from pg_settings where name not like '%.%' order by name collate \"C\") to '";

/// Make the table anew.
///
/// # Errors
/// A PostgreSQL cannot be fetched or run.
pub fn run() -> Result<()> {
    let mut rows: BTreeMap<String, Vec<(u16, u16, String)>> = BTreeMap::new();
    for major in fixtures::majors() {
        println!("asking PostgreSQL {major} for its parameters");
        let listed = pg_settings(&fixtures::postgres(major)?);
        let listed = listed.with_context(|| format!("PostgreSQL {major} did not list its parameters"))?;
        ensure!(listed.lines().count() > 200, "PostgreSQL {major} shows suspiciously few parameters");
        for line in listed.lines() {
            let (name, rest) = line.split_once('\t').context("a row without columns")?;
            let runs = rows.entry(name.to_owned()).or_default();
            match runs.last_mut() {
                Some((_, last, known)) if *last + 1 == major && known == rest => *last = major,
                _ => runs.push((major, major, rest.to_owned())),
            }
        }
    }
    let mut table = HEADER.to_owned();
    for (name, runs) in rows {
        for (first, last, rest) in runs {
            writeln!(table, "{name}\t{first}\t{last}\t{rest}")?;
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(TABLE);
    std::fs::write(&path, table).with_context(|| format!("cannot write {TABLE}"))?;
    println!("wrote {TABLE}");
    Ok(())
}

fn pg_settings(programs: &Path) -> Result<String> {
    let scratch = tempfile::tempdir()?;
    let data = scratch.path().join("data");
    let out = scratch.path().join("settings.tsv");
    if running_as_root() {
        let status = Command::new("chown").arg("postgres").arg(scratch.path()).status()?;
        ensure!(status.success(), "cannot give the scratch directory to the user postgres");
    }
    let mut initdb = command(programs, "initdb");
    finish(initdb.args(["--no-sync", "--auth=trust", "-U", "postgres", "-D"]).arg(&data), "")?;
    let mut single = command(programs, "postgres");
    let statement = format!("{QUERY}{}' (null '')\n", out.display());
    finish(single.arg("--single").arg("-D").arg(&data).arg("postgres"), &statement)?;
    std::fs::read_to_string(&out).context("the server wrote no settings")
}

fn running_as_root() -> bool {
    // The owner of this process' own files is the user that it runs as.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A program of that PostgreSQL; run as the user postgres if we are root, which PostgreSQL refuses.
fn command(programs: &Path, program: &str) -> Command {
    let path = programs.join(program);
    let mut command = if running_as_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command
}

fn finish(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/")
        .spawn()
        .context("cannot start PostgreSQL")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && !said.contains("ERROR"), "PostgreSQL failed: {}", said.trim());
    Ok(())
}
