//! The store in Kubernetes on a real API server.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::fixtures;

/// The tests that want a real API server: package and name.
const TESTS: [(&str, &str); 4] = [
    ("stolon-store", "real_kubernetes"),
    ("stolon-e2e", "manifests"),
    ("stolon-e2e", "real_kubernetes"),
    ("stolon-e2e", "real_pods"),
];

/// Build an API server, where it is not there yet, and run what is to be tested on it.
///
/// # Errors
/// It does not build, or a test fails.
pub fn run() -> Result<()> {
    fixtures::kubernetes()?;
    cargo(&["build", "--locked", "--workspace", "--bins"])?;
    for (package, test) in TESTS {
        // One after the other: each test has an API server of its own, of 300 MB.
        cargo(&[
            "test",
            "--locked",
            "--package",
            package,
            "--test",
            test,
            "--",
            "--ignored",
            "--test-threads=1",
        ])?;
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let status =
        Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
    ensure!(status.success(), "cargo {} has failed", arguments.join(" "));
    Ok(())
}
