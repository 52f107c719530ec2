//! A standby that is about to be compared with others: it receives nothing any more, and says when its position is final
//! (docs/design/016-quorum.md).

use super::Machine;
use crate::keeper::look::{Intake, Look};

/// A server reads its configuration in one process after the other. A look may fall between the end of a WAL receiver and the start of
/// the next, which one more process orders that has not read it yet. So two looks in a row have to find none.
const LOOKS: u8 = 2;

/// How often in a row nothing could come to our standby, while it was told to receive nothing.
#[derive(Debug, Default)]
pub(super) struct IntakeWatch {
    generation: i64,
    looks: u8,
}

impl Machine {
    /// What a look shows of a standby that is told to receive nothing.
    pub(super) fn note_intake(&mut self, look: &Look) {
        let applied = self.orders.goal().stopped_in().filter(|it| self.disk.local.generation == *it);
        let is_shut = look.instance_answer().is_some_and(|it| it.in_recovery && it.intake == Intake::Shut);
        let Some(generation) = applied.filter(|_| is_shut) else {
            if applied.is_some() {
                self.looks.stay_restless(self.now);
            }
            self.intake = IntakeWatch::default();
            return;
        };
        let before = if self.intake.generation == generation { self.intake.looks } else { 0 };
        let looks = before.saturating_add(1).min(LOOKS);
        self.intake = IntakeWatch { generation, looks };
        if looks < LOOKS {
            self.looks.again(self.now);
        }
    }

    /// What the sentinel is told: the generation in which our standby receives nothing and has said where it ends. None where PostgreSQL
    /// cannot be told to.
    pub(super) fn stopped(&self) -> Option<i64> {
        if !self.reporting.version().is_ok_and(|version| version.can_stop_receiving()) {
            return None;
        }
        let asked = self.orders.goal().stopped_in();
        let is_final = |it: &i64| {
            self.intake.generation == *it && self.intake.looks >= LOOKS && self.disk.local.generation == *it
        };
        Some(asked.filter(is_final).unwrap_or_default())
    }
}
