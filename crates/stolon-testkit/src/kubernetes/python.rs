//! The Python client of Kubernetes, which nobody here wrote.

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;

/// Where `cargo xtask fixtures` puts it.
pub fn directory() -> PathBuf {
    crate::fixtures_directory().join("python-kubernetes-32.0.1")
}

/// A Python that knows the client.
///
/// # Errors
/// The client is not there.
pub fn interpreter() -> anyhow::Result<Command> {
    ensure!(
        directory().is_dir(),
        "the Python client of Kubernetes is not at {}: cargo xtask fixtures",
        directory().display()
    );
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", directory()).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(python)
}
