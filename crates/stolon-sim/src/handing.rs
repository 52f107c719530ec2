//! Planned changes of the primary: an operator's, and those of keepers that are told to end. Nothing is lost by one, in either mode.

use std::time::Duration;

use stolon_core::keeper::{Event as MachineEvent, Parting};
use stolon_model::{ClusterData, Switchover, SwitchoverOutcome, SwitchoverStage};

use crate::Time;
use crate::coverage::Point;
use crate::invariants::Invariant;
use crate::keeper::KeeperEvent;
use crate::scenario::{Fault, Program, Scenario, What};
use crate::store::Changed;
use crate::taken_over::Will;
use crate::world::{Event, World};

/// The default of `--handover-timeout`.
const KEEPERS_PATIENCE: Duration = Duration::from_secs(10);
/// A server that takes longer to stop is killed.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Between looks whether everything that belongs to a keeper has ended.
const POLL: Duration = Duration::from_millis(50);

impl Scenario {
    /// Two keepers: the host of one loses its power for a moment, and before its server works again the keeper of the other one is told to end. Then the
    /// other way round.
    pub fn told_to_end_before_anybody_is_fit(seed: u64) -> Scenario {
        let scenario = Scenario::with_quick_timings(seed, Duration::from_secs(260));
        let faults = (0..4u8).flat_map(|number| {
            let (at, keeper) = (45_000 + u64::from(number) * 55_000 + seed % 997, number / 2 % 2);
            let told = at + 2_300 + seed * 37 % 600;
            [
                Fault { at, lasts: 3_000, what: What::PowerLoss(1 - keeper) },
                Fault { at: told, lasts: 0, what: What::ToldToEnd(keeper) },
            ]
        });
        let faults = faults.collect();
        Scenario { keepers: 2, faults, ..scenario }
    }
}

impl World {
    /// SIGTERM.
    pub(crate) fn keeper_is_told_to_end(&mut self, index: u8) {
        self.tell_keeper(index, MachineEvent::EndRequested { patience: KEEPERS_PATIENCE });
    }

    pub(crate) fn keeper_parts(&mut self, parting: &Parting) {
        self.coverage.reached(match parting {
            Parting::Relieved => Point::RelievedBeforeItsEnd,
            _ => Point::EndedWithoutRelief,
        });
    }

    /// A keeper ends by its own will: the step under way first, then, unless it is left to the next one, PostgreSQL, and its report goes with
    /// it.
    pub(crate) fn keeper_ends(&mut self, index: u8, since: Time) {
        let program = Program::Keeper(index);
        let Some(run) = self.run_of(program) else { return };
        let again = Event::Keeper(index, run, KeeperEvent::Ends { since });
        if self.keeper(index).step.is_some() {
            return self.after(POLL, again);
        }
        let leaves = self.keeper(index).will == Will::Leaves;
        if !leaves {
            self.stop_server(index);
        }
        if !leaves && self.postgres[usize::from(index)].server.is_some() {
            if self.now - since > STOP_LIMIT {
                self.end_what_does_not_end(index);
            }
            return self.after(POLL, again);
        }
        self.log.say(self.now, &format!("k{index}"), || "has ended".to_owned());
        self.kill_program(program);
        if !leaves && self.store_troubles.down == 0 {
            let uid = self.keeper(index).uid().clone();
            self.store.remove_keeper_report(&uid);
            self.notify(Changed::Report);
        }
        let pause = self.random.millis(300, 20_000);
        self.after(pause, Event::ProgramStarts(program));
    }

    /// The successor is elected by a planned change, and no other way, in this replacement of the document.
    pub(crate) fn is_handed_over(last: &ClusterData, next: &ClusterData) -> bool {
        let record = |data: &ClusterData| data.cluster.status.switchover.clone();
        let was_open = record(last).is_some_and(|record| record.is_open());
        let is_done = record(next).is_some_and(|record| {
            record.outcome == Some(SwitchoverOutcome::Done) && record.successor == next.cluster.status.primary
        });
        was_open && is_done
    }

    /// How often planned changes come to which end.
    pub(crate) fn note_switchover(&mut self, last: &ClusterData, next: &ClusterData) {
        let was_open = last.cluster.status.switchover.as_ref().is_some_and(Switchover::is_open);
        let Some(record) = next.cluster.status.switchover.as_ref().filter(|_| was_open) else { return };
        self.coverage.reached(match (&record.outcome, &record.stage) {
            (None, _) => return,
            (Some(SwitchoverOutcome::Done), _) => Point::SwitchoverDone,
            (Some(SwitchoverOutcome::Refused), _) => Point::SwitchoverRefused,
            (Some(_), Some(SwitchoverStage::Stopping)) => Point::SwitchoverTakenBackLate,
            (Some(_), _) => Point::SwitchoverTakenBack,
        });
    }

    /// Who is elected by a planned change holds everything that any client was told of, in either mode.
    pub(crate) fn check_handed_over(&mut self) {
        let Some((uid, keeper)) = self.elected() else { return };
        if self.local_instance(keeper).as_ref() != Some(&uid) || self.misses_what_it_had(keeper) {
            return;
        }
        let lacking = self.durable(keeper).and_then(|here| Some((here, self.lacking(here)?)));
        if let Some((here, lacking)) = lacking {
            self.violate(Invariant::SwitchoverLosesNothing, || {
                format!("k{keeper} takes over at {} and lacks what was promised at {}", here.lsn, lacking.lsn)
            });
        }
    }
}
