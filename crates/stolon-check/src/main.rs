//! `cargo xtask model` runs this, built for speed.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use stolon_check::{Bound, Guard, Reached, Recovery, Replication, check};

/// Check every order of turns and every placement of faults within a bound.
#[derive(Parser)]
#[command(name = "cargo xtask model")]
struct Arguments {
    /// Seconds after the steady state
    #[arg(long, default_value_t = 7)]
    ticks: u8,
    /// Faults in all
    #[arg(long, default_value_t = 1)]
    faults: u8,
    /// Only this kind of replication
    #[arg(long)]
    replication: Option<Replication>,
    /// Take this guard away: the check must find what it guards against
    #[arg(long)]
    without: Option<Guard>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kinds = match arguments.replication {
        Some(replication) => vec![replication],
        None => vec![Replication::Synchronous, Replication::Asynchronous],
    };
    let mut outcome = ExitCode::SUCCESS;
    for replication in kinds {
        let Arguments { ticks, faults, without, .. } = arguments;
        let given = without.map(Guard::faults).unwrap_or_default();
        let bound = Bound { ticks, faults, given, recovery: Recovery::AnyTime, replication, without };
        if !run(&bound) {
            outcome = ExitCode::FAILURE;
        }
    }
    outcome
}

/// True if the findings are as they should be.
fn run(bound: &Bound) -> bool {
    let start = Instant::now();
    let findings = check(bound);
    println!(
        "{:?}: 3 keepers, 2 sentinels, 1 proxy, {} s, {} faults: {} states ({} generated), {} actions deep, {:.1} s",
        bound.replication,
        bound.ticks,
        bound.faults,
        findings.states,
        findings.generated,
        findings.depth,
        start.elapsed().as_secs_f64()
    );
    match (&findings.violation, bound.without) {
        (None, None) if findings.reached == Reached::Less => {
            println!("  too small: no commit was acknowledged, or no other primary was reached");
            return false;
        }
        (None, None) => println!("  no rule is broken"),
        (None, Some(guard)) => println!("  {guard:?} was taken away, and nothing was found"),
        (Some((broken, actions)), _) => {
            println!("  {broken}:");
            for action in actions {
                println!("    {action:?}");
            }
        }
    }
    findings.violation.is_some() == bound.without.is_some()
}
