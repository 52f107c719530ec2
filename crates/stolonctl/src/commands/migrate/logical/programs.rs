//! `pg_dump` and `pg_restore`, which know how one major writes what another one reads.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use stolon_postgres::conninfo::Conninfo;
use stolon_runtime::Failure;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// How long a dump of definitions may take: `pg_dump` waits for locks.
const DUMPING: Duration = Duration::from_secs(3600);
/// How many lines of what a program said are shown.
const SHOWN: usize = 3;

/// Where the programs are.
pub struct Programs {
    directory: Option<PathBuf>,
    stop: CancellationToken,
}

/// A line of a dump's table of contents (PostgreSQL manual, "pg_restore", `--list`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As `pg_restore --use-list` wants it back.
    pub line: String,
    /// The number of the object in its catalog.
    pub oid: String,
    /// What comes after that number: kind, schema, name, owner.
    what: String,
}

impl Entry {
    fn read(line: &str) -> Option<Entry> {
        let (_, rest) = line.split_once("; ")?;
        let mut words = rest.splitn(3, ' ');
        let (_, oid, what) = (words.next()?, words.next()?, words.next()?);
        Some(Entry { line: line.to_owned(), oid: oid.to_owned(), what: what.to_owned() })
    }

    /// Whether it is of one of these kinds.
    pub fn is_one_of(&self, kinds: &[&str]) -> bool {
        kinds.iter().any(|kind| self.what.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' ')))
    }
}

/// A dump of the definitions of a database.
pub struct Dump {
    directory: tempfile::TempDir,
}

impl Programs {
    /// Those of a directory, else of `PATH`, which must be of this major.
    ///
    /// # Errors
    /// They are not there, or of another major.
    pub async fn find(
        directory: Option<&Path>,
        major: u32,
        stop: &CancellationToken,
    ) -> Result<Programs, Failure> {
        let programs = Programs { directory: directory.map(Path::to_path_buf), stop: stop.clone() };
        for name in ["pg_dump", "pg_restore"] {
            let said = programs.run(name, &["--version".to_owned()]).await.map_err(|failure| {
                failure.hint(format!(
                    "--pg-bin-path says where the programs of PostgreSQL {major} are, which the cluster runs"
                ))
            })?;
            let version = said.rsplit(") ").next().unwrap_or_default();
            let found = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            if found != major.to_string() {
                let version = said.trim();
                return Err(Failure::new(format!("{version} is not of the cluster's major version {major}"))
                    .hint("--pg-bin-path says where the programs of that version are"));
            }
        }
        Ok(programs)
    }

    /// Dump the definitions of a database, without those of replication.
    ///
    /// # Errors
    /// `pg_dump` fails, in its own words.
    pub async fn dump(&self, source: &Conninfo) -> Result<Dump, Failure> {
        let directory = tempfile::tempdir()
            .map_err(|error| Failure::new(format!("no temporary directory can be made: {error}")))?;
        let dump = Dump { directory };
        let file = dump.file("dump");
        let arguments = [
            "--format=custom",
            "--section=pre-data",
            "--section=post-data",
            "--no-publications",
            "--no-subscriptions",
            "--no-password",
            "--file",
            &file,
            "--dbname",
            &source.to_string(),
        ];
        self.run("pg_dump", &arguments.map(str::to_owned)).await?;
        Ok(dump)
    }

    /// What is in a dump, in the order in which it is to be made.
    ///
    /// # Errors
    /// `pg_restore` fails, in its own words.
    pub async fn list(&self, dump: &Dump) -> Result<Vec<Entry>, Failure> {
        let said = self.run("pg_restore", &["--list".to_owned(), dump.file("dump")]).await?;
        Ok(said.lines().filter(|line| !line.starts_with(';')).filter_map(Entry::read).collect())
    }

    /// The statements that make these entries of a dump.
    ///
    /// # Errors
    /// `pg_restore` fails, in its own words, or a file cannot be written.
    pub async fn statements(&self, dump: &Dump, entries: &[&Entry]) -> Result<String, Failure> {
        let unusable =
            |error: std::io::Error| Failure::new(format!("a temporary file cannot be used: {error}"));
        let (list, script) = (dump.file("list"), dump.file("script"));
        let lines: String = entries.iter().map(|entry| format!("{}\n", entry.line)).collect();
        std::fs::write(&list, lines).map_err(unusable)?;
        let arguments = ["--no-tablespaces", "--use-list", &list, "--file", &script, &dump.file("dump")];
        self.run("pg_restore", &arguments.map(str::to_owned)).await?;
        Ok(without_commands(&std::fs::read_to_string(&script).map_err(unusable)?))
    }

    async fn run(&self, name: &str, arguments: &[String]) -> Result<String, Failure> {
        let program =
            self.directory.as_ref().map_or_else(|| PathBuf::from(name), |directory| directory.join(name));
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("LC_ALL", "C").kill_on_drop(true);
        let cannot =
            |error: std::io::Error| Failure::new(format!("{} cannot be run: {error}", program.display()));
        let output = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Failure::new("interrupted")),
            output = tokio::time::timeout(DUMPING, command.output()) => output,
        };
        let output = output.map_err(|_| Failure::new(format!("{name} takes too long")))?.map_err(cannot)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).take(SHOWN).collect();
            return Err(Failure::new(format!("{name} fails: {}", lines.join("; "))));
        }
        String::from_utf8(output.stdout).map_err(|_| Failure::new(format!("{name} does not write UTF-8")))
    }
}

impl Dump {
    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// A script without the two commands for `psql` that enclose it: `\restrict` with a key that is new each time, and `\unrestrict`.
fn without_commands(script: &str) -> String {
    let key = script.lines().find_map(|line| line.strip_prefix("\\restrict "));
    let Some(key) = key else { return script.to_owned() };
    let ours = [format!("\\restrict {key}"), format!("\\unrestrict {key}")];
    let kept = script
        .split_inclusive('\n')
        .filter(|line| !ours.iter().any(|command| command == line.trim_end_matches('\n')));
    kept.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_list_says_what_it_makes() {
        let entry = Entry::read("3360; 1259 16395 INDEX public My index CONSTRAINT postgres").unwrap();
        assert_eq!(entry.oid, "16395");
        assert!(
            entry.is_one_of(&["CONSTRAINT", "INDEX"]) && !entry.is_one_of(&["CONSTRAINT", "INDEX ATTACH"])
        );
        let entry = Entry::read("3361; 2606 16400 FK CONSTRAINT public t t_fkey postgres").unwrap();
        assert!(entry.is_one_of(&["FK CONSTRAINT"]) && !entry.is_one_of(&["CONSTRAINT"]));
        assert_eq!(Entry::read("nothing"), None);
    }

    #[test]
    fn commands_for_psql_are_left_out_and_nothing_else() {
        let script = "--\n\\restrict abc\n\nSELECT '\n\\restrict x\n';\n\\unrestrict abc\n";
        assert_eq!(without_commands(script), "--\n\nSELECT '\n\\restrict x\n';\n");
        assert_eq!(without_commands("SELECT 1;\n"), "SELECT 1;\n");
    }
}
