//! The majors of PostgreSQL that tests run on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use stolon_local::{Account, can_run};

/// The major that Debian 12 has, and most tests run on. The others are in [`fixtures_directory`].
pub const INSTALLED_MAJOR: u16 = 15;

/// `target/fixtures` of this repository, which `cargo xtask fixtures` fills.
pub fn fixtures_directory() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.unwrap_or(Path::new("/")).join("target/fixtures")
}

/// The directory of a major's programs.
///
/// # Errors
/// They are not there.
pub fn programs_of_major(major: u16) -> anyhow::Result<PathBuf> {
    let (programs, remedy) = match major {
        INSTALLED_MAJOR => {
            (format!("/usr/lib/postgresql/{major}/bin").into(), "apt-get install postgresql-15")
        }
        _ => (fixtures_directory().join(format!("postgresql-{major}/bin")), "cargo xtask fixtures"),
    };
    ensure!(
        programs.join("postgres").is_file(),
        "PostgreSQL {major} is not at {}: {remedy}",
        programs.display()
    );
    Ok(programs)
}

/// The same for an account that may not be able to enter this checkout: then it gets a copy below `copies`.
pub(crate) async fn reachable_programs_of_major(
    major: u16,
    account: &Account,
    copies: &Path,
) -> anyhow::Result<PathBuf> {
    let programs = programs_of_major(major)?;
    if can_run(&programs.join("postgres"), account).await? {
        return Ok(programs);
    }
    let fixture = programs.parent().context("programs without a directory above them")?;
    let copy = copies.join(format!("postgresql-{major}"));
    let status = Command::new("cp").arg("-a").args([fixture, &copy]).status().context("cp cannot be run")?;
    ensure!(status.success(), "{} cannot be copied to {}", fixture.display(), copy.display());
    Ok(copy.join("bin"))
}
