//! `cargo xtask sim`: many simulated clusters, each with faults of its own.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use stolon_sim::campaign::{self, Campaign};
use stolon_sim::{Scenario, Trace, run};

/// Play simulated clusters with faults, and check what must hold after every event.
#[derive(clap::Args)]
pub struct Sim {
    /// How many seeds to play
    #[arg(long, default_value_t = 3000)]
    seeds: u64,
    /// Play this one seed and print what happens in it
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: play only these faults, by their numbers
    #[arg(long, value_delimiter = ',', requires = "seed")]
    keep: Option<Vec<usize>>,
    /// Play the scenario in this file and print what happens in it
    #[arg(long, conflicts_with = "seed")]
    scenario: Option<PathBuf>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// End after so many minutes, however many seeds were played
    #[arg(long)]
    minutes: Option<u64>,
    /// Go on after a seed that fails, until so many have failed
    #[arg(long, default_value_t = 1)]
    failures: usize,
    /// Threads; each plays one seed at a time
    #[arg(long)]
    jobs: Option<usize>,
}

impl Sim {
    /// # Errors
    /// Something was broken, or the campaign never reached what it must reach.
    pub fn run(&self) -> anyhow::Result<()> {
        if let Some(path) = &self.scenario {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            return show(&serde_json::from_str(&text).context("this is no scenario")?);
        }
        match self.seed {
            Some(seed) => {
                let scenario = Scenario::draw(seed, campaign::ACTIVE);
                show(&match &self.keep {
                    Some(keep) => scenario.with_faults(keep),
                    None => scenario,
                })
            }
            None => self.campaign(),
        }
    }

    fn campaign(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let deadline = self.minutes.map(|minutes| begun + Duration::from_secs(minutes * 60));
        let next = AtomicU64::new(self.from);
        let end = self.from + self.seeds;
        let enough = AtomicBool::new(false);
        let found = Mutex::new(Campaign::default());
        let bar = progress_bar(self.seeds)?;
        let jobs = self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while !enough.load(Ordering::Relaxed) && deadline.is_none_or(|end| Instant::now() < end) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            return;
                        }
                        let outcome = campaign::play(seed);
                        let Ok(mut found) = found.lock() else { return };
                        found.add(seed, &outcome);
                        bar.inc(1);
                        if found.failed.len() >= self.failures {
                            enough.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        bar.finish_and_clear();
        let found = found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        report(&found, begun.elapsed())
    }
}

fn progress_bar(seeds: u64) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds  {per_sec}  {eta} left")?;
    Ok(ProgressBar::new(seeds).with_style(style))
}

/// One run, with everything that happens in it.
fn show(scenario: &Scenario) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(scenario)?);
    let outcome = run(scenario, Trace::Written);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{} events, digest {:016x}", outcome.events, outcome.digest);
    match outcome.violation {
        None => Ok(()),
        Some(violation) => bail!("{:?}: {}", violation.invariant, violation.sentence),
    }
}

fn report(found: &Campaign, took: Duration) -> anyhow::Result<()> {
    let seconds = took.as_secs_f64();
    println!(
        "{} seeds, {} events, {} commits acknowledged, in {seconds:.1} s ({:.1} seeds a second)",
        found.runs,
        found.events,
        found.coverage.acknowledged,
        found.runs as f64 / seconds
    );
    for point in stolon_sim::Point::ALL {
        println!("{:>10}  {point:?}", found.coverage.count(point));
    }
    for (kind, count) in found.coverage.holds() {
        println!("{count:>10}  hold {kind}");
    }
    let mut failed = found.failed.clone();
    failed.sort_by_key(|(seed, _)| *seed);
    for (seed, violation) in &failed {
        explain(*seed, violation)?;
    }
    if !failed.is_empty() {
        bail!("{} of {} seeds failed", failed.len(), found.runs);
    }
    let missing = found.coverage.missing();
    if !missing.is_empty() {
        bail!("this campaign is weak, it never reached {missing:?}: play more seeds");
    }
    Ok(())
}

/// Make a failure as small as it gets, and say how to see it again.
fn explain(seed: u64, violation: &stolon_sim::Violation) -> anyhow::Result<()> {
    println!(
        "\nseed {seed}, at {:.3} s: {:?}: {}",
        violation.at.as_secs_f64(),
        violation.invariant,
        violation.sentence
    );
    let failure = campaign::explain(seed, violation);
    let kept: Vec<String> = failure.kept.iter().map(ToString::to_string).collect();
    let keep = if kept.is_empty() { String::new() } else { format!(" --keep {}", kept.join(",")) };
    println!("  {} faults are enough; to see it again: cargo xtask sim --seed {seed}{keep}", kept.len());
    let path = Path::new("target").join(format!("sim-seed-{seed}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(&failure.smallest)?)?;
    println!("  to keep it as a test: mv {} crates/stolon-sim/tests/seeds/NAME.json", path.display());
    Ok(())
}
