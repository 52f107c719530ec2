//! Started as root, the playground restarts itself as a user that PostgreSQL accepts: from then on it has no
//! rights that its programs do not have, and no file of theirs belongs to root.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::Context;
use stolon_local::{Account, reachable_programs};
use stolon_runtime::Failure;

/// Replace this process by itself under another account, which owns `directory`. Returns only if that fails.
///
/// # Errors
/// The account cannot enter the directory or run the programs.
pub async fn restart(account: &Account, name: &str, directory: &Path) -> anyhow::Result<Infallible> {
    let mut probe = account.expendable_command("test");
    let status = probe.arg("-w").arg(directory).current_dir("/").status().await;
    if !status.with_context(stolon_local::no_setpriv)?.success() {
        return Err(Failure::new(format!("the user {name} cannot enter {}", directory.display()))
            .hint("PostgreSQL refuses to run as root; name a directory that this user can enter, for example below /var/tmp")
            .into());
    }
    let programs =
        reachable_programs(&super::directory::own_programs()?, account, &directory.join("bin")).await?;
    eprintln!("PostgreSQL refuses to run as root: everything runs as the user {name}");
    // It stays the same process on the same terminal. The working directory stays too, since paths on the command line may be
    // relative.
    let switch = account.command(programs.join("stolonctl"));
    let failure = std::process::Command::new(switch.as_std().get_program())
        .args(switch.as_std().get_args())
        .args(std::env::args_os().skip(1))
        .arg("--prepared-directory")
        .arg(directory)
        .env("HOME", directory)
        .exec();
    Err(failure).context("setpriv cannot be run")
}
