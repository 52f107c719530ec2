//! The lease of a primary: who goes to a server directly is told of no commit for longer than that after another one was promoted.

use std::time::Duration;

use stolon_model::Lsn;

use crate::Time;
use crate::coverage::Point;
use crate::invariants::Invariant;
use crate::postgres::{BranchId, Position};
use crate::scenario::{Command, Direction, Fault, Program, Scenario, Spec, What};
use crate::world::World;

/// A keeper that was kept from its work so long before does it again.
const RECOVERS: u64 = 60_000;

/// The last server that was promoted in the place of another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Successor {
    pub(crate) keeper: u8,
    pub(crate) branch: BranchId,
    pub(crate) at: Time,
}

impl World {
    /// A keeper's lease is over, or there is one again.
    pub(crate) fn note_lease(&mut self, is_over: bool) {
        if is_over {
            self.coverage.reached(Point::LeaseOver);
        }
    }

    /// A server acknowledges a commit.
    pub(crate) fn check_lease(&mut self, keeper: u8, position: Position) {
        let Some(Successor { keeper: other, branch, at }) = self.ledger.promoted else { return };
        let follows = self.histories.contains(position, Position { branch, lsn: Lsn(0) });
        if other == keeper || branch == position.branch || follows || self.keeps_no_lease(keeper) {
            return;
        }
        let Some(term) = self.scenario.spec.cluster_spec().effective().lease_term() else { return };
        let since = self.now - at;
        // Who is replaced while its keeper works is asked before, and answers.
        let most = if self.only_operators_replace() { Duration::ZERO } else { term };
        if since > most {
            self.violate(Invariant::LeaseIsKept, || {
                format!("pg{keeper} acknowledged {} {since:?} after pg{other} was promoted", position.lsn)
            });
        }
    }

    fn only_operators_replace(&self) -> bool {
        let mut faults = self.scenario.faults.iter();
        faults.all(|fault| matches!(fault.what, What::Operator(Command::FailKeeper(_)) | What::Slow(..)))
    }

    /// Nobody fences a primary whose keeper is dead, stands still, was started without the store, or does not understand what the store holds.
    fn keeps_no_lease(&self, keeper: u8) -> bool {
        let now = self.now.as_millis() as u64;
        let faults = self.scenario.faults.iter().filter(|fault| fault.at <= now);
        faults.into_iter().any(|fault| match fault.what {
            What::StoreWiped | What::StoreRolledBack(..) => true,
            What::Killed(Program::Keeper(it))
            | What::Stopped(Program::Keeper(it))
            | What::HostFrozen(it)
            | What::PowerLoss(it)
            | What::ToldToEnd(it)
            | What::ToldToDepart(it) => it == keeper && fault.at + fault.lasts + RECOVERS > now,
            What::PowerLossOfAll => fault.at + fault.lasts + RECOVERS > now,
            _ => false,
        })
    }
}

impl Scenario {
    pub(crate) fn with_quick_timings(seed: u64, lasts: Duration) -> Scenario {
        let scenario = Scenario::focused(seed, lasts, &[], None);
        let (sleep, fail, proxy_check, proxy_timeout) = (1_000, 4_000, 1_000, 3_000);
        let spec = Spec { sleep, fail, proxy_check, proxy_timeout, ..scenario.spec };
        Scenario { spec, ..scenario }
    }

    /// Asynchronous mode: one keeper after the other loses the store for long, and in every second run all other keepers as well. Clients come to
    /// its server directly all the time.
    pub fn cut_off_primaries(seed: u64) -> Scenario {
        let scenario = Scenario::with_quick_timings(seed, Duration::from_secs(300));
        let cuts = (0..2).flat_map(|keeper: u8| {
            let at = 45_000 + u64::from(keeper) * 110_000 + seed % 997;
            let lasts = 30_000 + seed % 7 * 1_000;
            let store = Fault { at, lasts, what: What::CutFromStore(keeper, Direction::Both) };
            let apart = What::CutApart(keeper, 1 - keeper, Direction::Both);
            let apart = (seed % 2 == 0).then_some(Fault { at, lasts, what: apart });
            std::iter::once(store).chain(apart)
        });
        let faults = cuts.collect();
        Scenario { keepers: 2, direct_clients: 4, faults, ..scenario }
    }

    /// Asynchronous mode: an operator has one primary after the other replaced, each of which works, but is slow to reach: it reads late that another
    /// one is elected. Clients come to their servers directly all the time.
    pub fn replaced_by_operators(seed: u64) -> Scenario {
        let scenario = Scenario::with_quick_timings(seed, Duration::from_secs(200));
        let requests = (0..6).flat_map(|number: u8| {
            let at = 45_000 + u64::from(number) * 25_000 + seed % 997;
            let slow = What::Slow(number % 2, 700 + seed % 5 * 100);
            let request = What::Operator(Command::FailKeeper(number % 2));
            [Fault { at: at - 2_000, lasts: 15_000, what: slow }, Fault { at, lasts: 1_000, what: request }]
        });
        let faults = requests.collect();
        Scenario { keepers: 2, direct_clients: 6, faults, ..scenario }
    }
}
