//! `cargo xtask sim`: many simulated clusters, each with faults of its own.

use std::fmt;
use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::str::FromStr;
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
    /// With --seed: play only these faults, by their numbers, separated by commas; or `none`
    #[arg(long, requires = "seed")]
    keep: Option<Keep>,
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

/// Faults of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keep(Vec<usize>);

const NO_FAULT: &str = "none";

impl FromStr for Keep {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NO_FAULT {
            return Ok(Keep(Vec::new()));
        }
        text.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>().map(Keep)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NO_FAULT);
        }
        let numbers: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&numbers.join(","))
    }
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
                    Some(Keep(kept)) => scenario.with_faults(kept),
                    None => scenario,
                })
            }
            None => self.campaign(),
        }
    }

    fn campaign(&self) -> anyhow::Result<()> {
        let (begun, used) = (Instant::now(), processor_time());
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
        report(&found, begun.elapsed(), processor_time().saturating_sub(used))
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

/// What this process has used of processors. Unlike the time on the wall it is the same whatever else the machine does.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// What was played and what it cost. `used` is the time of processors.
fn speed(found: &Campaign, took: Duration, used: Duration) -> String {
    let minutes = found.lasted.as_secs_f64() / 60.0;
    let each = |what: f64| what / used.as_secs_f64().max(1e-9);
    format!(
        "{} seeds, {minutes:.0} virtual minutes, {} events, {} commits acknowledged, in {:.1} s\n\
         for each second of a core: {:.1} seeds, {:.0} virtual minutes, {:.0} events",
        found.runs,
        found.events,
        found.coverage.acknowledged,
        took.as_secs_f64(),
        each(found.runs as f64),
        each(minutes),
        each(found.events as f64),
    )
}

fn report(found: &Campaign, took: Duration, used: Duration) -> anyhow::Result<()> {
    println!("{}", speed(found, took, used));
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
    let (count, keep) = (failure.kept.len(), Keep(failure.kept));
    println!("  {count} faults are enough; to see it again: cargo xtask sim --seed {seed} --keep {keep}");
    let path = Path::new("target").join(format!("sim-seed-{seed}.json"));
    std::fs::create_dir_all("target")?;
    std::fs::write(&path, serde_json::to_string_pretty(&failure.smallest)?)?;
    println!("  to keep it as a test: mv {} crates/stolon-sim/tests/seeds/NAME.json", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faults_that_are_printed_are_those_that_are_read() {
        for kept in [Vec::new(), vec![4], vec![0, 9, 12]] {
            let printed = Keep(kept.clone()).to_string();
            assert_eq!(printed.parse(), Ok(Keep(kept)), "{printed}");
        }
        assert!("4,".parse::<Keep>().is_err());
    }

    #[test]
    fn speed_is_told_for_each_second_of_a_core() {
        let found =
            Campaign { runs: 8, events: 4_000, lasted: Duration::from_secs(4_800), ..Campaign::default() };
        let text = speed(&found, Duration::from_secs(3), Duration::from_secs(4));
        assert!(text.contains("8 seeds, 80 virtual minutes, 4000 events"), "{text}");
        assert!(
            text.ends_with("for each second of a core: 2.0 seeds, 20 virtual minutes, 1000 events"),
            "{text}"
        );
    }
}
