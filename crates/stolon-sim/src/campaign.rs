//! Many runs, and what is done with one that fails.

use std::time::Duration;

use crate::{Coverage, Outcome, Scenario, Trace, Violation, run};

/// How long things go wrong in a run of ten minutes; the rest is for the cluster to become whole again.
pub const ACTIVE: Duration = Duration::from_secs(480);

/// A run that broke something.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which seed.
    pub seed: u64,
    /// The scenario with the faults that it needs, and no others.
    pub smallest: Scenario,
    /// Indices of those faults in the scenario of the seed.
    pub kept: Vec<usize>,
    /// What was broken.
    pub violation: Violation,
}

/// Play one seed.
pub fn play(seed: u64) -> Outcome {
    run(&Scenario::draw(seed, ACTIVE), Trace::Off)
}

/// Drop faults one by one as long as the same invariant breaks.
pub fn minimise(scenario: &Scenario, violation: &Violation) -> (Scenario, Vec<usize>) {
    let breaks = |kept: &[usize]| {
        let outcome = run(&scenario.with_faults(kept), Trace::Off);
        outcome.violation.is_some_and(|it| it.invariant == violation.invariant)
    };
    // What begins after the violation cannot be its cause.
    let mut kept: Vec<usize> = (0..scenario.faults.len())
        .filter(|index| scenario.faults[*index].at <= violation.at.as_millis() as u64)
        .collect();
    if !breaks(&kept) {
        kept = (0..scenario.faults.len()).collect();
    }
    let mut step = kept.len().div_ceil(2).max(1);
    loop {
        let mut index = 0;
        while index < kept.len() {
            let end = (index + step).min(kept.len());
            let fewer: Vec<usize> = [&kept[..index], &kept[end..]].concat();
            match breaks(&fewer) {
                true => kept = fewer,
                false => index = end,
            }
        }
        if step == 1 {
            return (scenario.with_faults(&kept), kept);
        }
        step = step.div_ceil(2).max(1);
        if step > kept.len() {
            step = kept.len().max(1);
        }
    }
}

/// The failure of a seed, made as small as it gets.
pub fn explain(seed: u64, violation: &Violation) -> Failure {
    let (smallest, kept) = minimise(&Scenario::draw(seed, ACTIVE), violation);
    Failure { seed, smallest, kept, violation: violation.clone() }
}

/// What several runs have found.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    /// How far they got, together.
    pub coverage: Coverage,
    /// Runs so far.
    pub runs: u64,
    /// Events in all of them.
    pub events: u64,
    /// Virtual time in all of them.
    pub lasted: Duration,
    /// Seeds that failed.
    pub failed: Vec<(u64, Violation)>,
}

impl Campaign {
    /// Another seed has been played.
    pub fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.coverage.add(&outcome.coverage);
        self.runs += 1;
        self.events += outcome.events;
        self.lasted += outcome.lasted;
        if let Some(violation) = &outcome.violation {
            self.failed.push((seed, violation.clone()));
        }
    }
}
