//! `cargo xtask bench decide` runs this, built as the programs are shipped.

mod town;

use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use xtask_bench::statistics::{longest, median, milliseconds, percentile};

use town::Town;

/// How long a sentinel that leads takes to decide: one round, from what was read to what is to be written.
#[derive(Parser)]
#[command(name = "cargo xtask bench decide")]
struct Arguments {
    /// Clusters of so many keepers, one after the other
    #[arg(long, default_value = "3,50,500", value_delimiter = ',', value_name = "COUNTS")]
    keepers: Vec<usize>,

    /// Rounds of each kind
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    rounds: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(!cfg!(debug_assertions), "figures of a debug build are worth nothing: run it with --release");
    println!(
        "One round of a sentinel that leads, {} rounds of each kind, milliseconds of processor time",
        arguments.rounds
    );
    println!("  {:>7}  {:<22} {:>9} {:>9} {:>9} {:>9}", "keepers", "", "median", "90 %", "99 %", "longest");
    for &keepers in &arguments.keepers {
        ensure!(keepers >= 2, "a primary that dies needs a keeper beside it: at least 2 keepers");
        let progress = progress_bar(keepers, arguments.rounds * 2)?;
        let mut town = Town::settled(keepers)?;
        let steady = sample(arguments.rounds, &progress, || town.round());
        print(&progress, keepers, "steady", &steady);
        let last = town.kill_primary()?;
        let election = sample(arguments.rounds, &progress, || last.decide_again());
        print(&progress, keepers, "the primary has died", &election);
        progress.finish_and_clear();
    }
    Ok(())
}

fn sample(rounds: u64, progress: &ProgressBar, mut round: impl FnMut() -> Duration) -> Vec<Duration> {
    progress.wrap_iter(0..rounds).map(|_| round()).collect()
}

fn progress_bar(keepers: usize, rounds: u64) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} rounds  {per_sec}  {eta} left")?;
    Ok(ProgressBar::new(rounds).with_style(style).with_message(format!("{keepers} keepers")))
}

fn print(progress: &ProgressBar, keepers: usize, situation: &str, sample: &[Duration]) {
    let figures = [median(sample), percentile(sample, 90), percentile(sample, 99), longest(sample)];
    let figures: Vec<String> =
        figures.into_iter().map(|figure| format!("{:>9}", milliseconds(figure))).collect();
    progress.suspend(|| println!("  {keepers:>7}  {situation:<22} {}", figures.join(" ")));
}
