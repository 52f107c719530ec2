//! Parsers are fed with what nobody would write (`fuzz/`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Instrumentation for libFuzzer as cargo-fuzz gives it without a sanitizer, all of it stable: this code has no `unsafe` that an address
/// sanitizer would watch.
const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// Documents as Stolon writes them, to begin with.
const EXAMPLES: &str = "crates/stolon-model/tests/golden";
/// The longest input in bytes.
const LONGEST: u32 = 16_384;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Options {
    /// These targets only; all of them when none is named
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    seconds: u32,
}

/// Build the targets and run them one after the other. What they find lies in `fuzz/artifacts` afterwards, and what they learnt in
/// `target/fuzz/corpus`.
///
/// # Errors
/// There is no such target, or one has found something.
pub fn run(options: &Options) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?;
    let fuzz = root.join("fuzz");
    let known = targets(&fuzz)?;
    let unknown = options.targets.iter().find(|name| !known.contains(name));
    ensure!(
        unknown.is_none(),
        "there is no target {}; there are {}",
        unknown.map_or("", |it| it),
        known.join(", ")
    );
    let chosen = if options.targets.is_empty() { &known } else { &options.targets };
    let directory = root.join("target/fuzz");
    let triple = host()?;
    build(&fuzz, &directory, &triple)?;
    for target in chosen {
        println!("{target}, {} s", options.seconds);
        let [corpus, artifacts] =
            [directory.join("corpus").join(target), fuzz.join("artifacts").join(target)];
        for made in [&corpus, &artifacts] {
            std::fs::create_dir_all(made)?;
        }
        let ended = Command::new(directory.join(&triple).join("release").join(target))
            .arg(&corpus)
            .arg(root.join(EXAMPLES))
            .arg(format!("-max_total_time={}", options.seconds))
            .arg(format!("-max_len={LONGEST}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-timeout=10", "-print_final_stats=1", "-verbosity=0"])
            .status()?;
        ensure!(ended.success(), "{target} has found something: see {}", artifacts.display());
    }
    Ok(())
}

fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let files = std::fs::read_dir(fuzz.join("fuzz_targets"))?.collect::<Result<Vec<_>, _>>()?;
    let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut names: Vec<String> = files.into_iter().filter_map(|file| stem(file.path())).collect();
    names.sort();
    Ok(names)
}

fn build(fuzz: &Path, directory: &Path, triple: &str) -> Result<()> {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--bins", "--locked"])
        // With a target named, build scripts and procedural macros stay without instrumentation.
        .args(["--target", triple])
        .current_dir(fuzz)
        .env("RUSTFLAGS", INSTRUMENTED)
        .env("CARGO_TARGET_DIR", directory)
        .status()?;
    ensure!(built.success(), "the targets do not build");
    Ok(())
}

fn host() -> Result<String> {
    let told = Command::new("rustc").arg("-vV").output()?;
    let told = String::from_utf8(told.stdout)?;
    let line = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc -vV names no host")?.to_owned())
}
