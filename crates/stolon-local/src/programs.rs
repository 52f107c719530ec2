//! The programs of a cluster, as files.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use stolon_model::Explained;

use crate::{Account, orphans};

/// The programs, as they lie beside each other.
pub const PROGRAMS: [&str; 4] = ["stolon-keeper", "stolon-sentinel", "stolon-proxy", "stolonctl"];

/// A directory with the programs that `account` can run them from: `directory` itself, or `copies` with copies
/// of them when the account cannot reach `directory` (a checkout below `/root`, for example).
///
/// # Errors
/// A program is missing, or copying fails.
pub async fn reachable_programs(
    directory: &Path,
    account: &Account,
    copies: &Path,
) -> anyhow::Result<PathBuf> {
    for program in PROGRAMS {
        if !directory.join(program).is_file() {
            bail!(
                Explained::new(format!("the program {program} is not in {}", directory.display()))
                    .with_hint("build all of them with `cargo build --workspace`")
            );
        }
    }
    if can_run(&directory.join(PROGRAMS[3]), account).await? {
        return Ok(directory.to_path_buf());
    }
    account.make_directory(copies)?;
    for program in PROGRAMS {
        let (from, to) = (directory.join(program), copies.join(program));
        // Renamed into place: a program that runs from an earlier copy cannot be written to.
        let fresh = copies.join(format!(".{program}.{}", std::process::id()));
        std::fs::copy(&from, &fresh)
            .and_then(|_| std::fs::rename(&fresh, &to))
            .with_context(|| format!("{} cannot be copied to {}", from.display(), to.display()))?;
    }
    if !can_run(&copies.join(PROGRAMS[3]), account).await? {
        bail!(
            Explained::new(format!("the unprivileged user cannot run programs in {}", copies.display()))
                .with_hint(
                    "name a data directory that it can enter, on a file system mounted without noexec"
                )
        );
    }
    Ok(copies.to_path_buf())
}

/// setpriv(1) cannot be run.
pub fn no_setpriv() -> Explained {
    Explained::new("setpriv cannot be run").with_hint("apt-get install util-linux")
}

/// True if the account can run a program, which must know `--version`. `env` looks for the program, not setpriv: setpriv still has root's
/// capabilities at that moment, and would find what the account cannot reach.
///
/// # Errors
/// setpriv(1) cannot be run.
pub async fn can_run(program: &Path, account: &Account) -> anyhow::Result<bool> {
    let mut command = account.expendable_command("env");
    command.arg(program).arg("--version").current_dir("/");
    // It is called postgres by its end, as orphans are.
    let output = orphans::output(command).await.with_context(no_setpriv)?;
    Ok(output.status.success())
}
