//! Changes of the record of a planned change of the primary.

use stolon_model::{InstanceUid, Lsn, ProxyHandover, Switchover, SwitchoverOutcome, SwitchoverStage};

use super::Draft;
use crate::sentinel::{Change, Obstacle, SwitchoverChange, Wish};

impl Draft<'_> {
    /// Write down that one is asked for.
    pub fn ask_for_switchover(&mut self, record: Switchover) {
        self.data.cluster.status.switchover = Some(record);
    }

    /// The first stage, with the successor that was chosen.
    pub fn begin_switchover(&mut self, successor: &InstanceUid, wish: Wish) {
        if let Some(record) = &mut self.data.cluster.status.switchover {
            record.successor = Some(successor.clone());
            record.because.clear();
        }
        self.reach_stage(SwitchoverStage::Checkpoint, wish);
    }

    /// It waits: whoever asked for it is told why. The first reason stays, since each change of its figures would be a write.
    pub fn note_obstacle(&mut self, obstacle: &Obstacle) {
        if let Some(record) = &mut self.data.cluster.status.switchover
            && record.because.is_empty()
        {
            record.because = obstacle.to_string();
        }
    }

    /// The next stage.
    pub fn reach_stage(&mut self, stage: SwitchoverStage, wish: Wish) {
        let Some(record) = &mut self.data.cluster.status.switchover else { return };
        record.stage = Some(stage.clone());
        let to = record.successor.clone().unwrap_or_default();
        self.note(Change::Switchover(SwitchoverChange::Reached { to, stage, wish }));
    }

    /// Send clients nowhere for a moment: proxies let go of them as `handover` says.
    pub fn close_for_switchover(&mut self, handover: ProxyHandover, wish: Wish) {
        self.send_nowhere();
        self.data.proxy.spec.handover = Some(handover);
        self.reach_stage(SwitchoverStage::Closing, wish);
    }

    /// Where the old primary has ended.
    pub fn note_end(&mut self, end: Lsn) {
        if let Some(record) = &mut self.data.cluster.status.switchover {
            record.end = Some(end);
        }
    }

    /// It is over.
    pub fn conclude_switchover(&mut self, outcome: SwitchoverOutcome, because: String) {
        let wall = self.wall;
        let Some(record) = self.data.cluster.status.switchover.as_mut().filter(|record| record.is_open())
        else {
            return;
        };
        record.conclude(outcome.clone(), because.clone(), wall);
        self.note(Change::Switchover(SwitchoverChange::Ended { outcome, because }));
    }

    /// What became of it is shown no longer.
    pub fn drop_switchover(&mut self) {
        self.data.cluster.status.switchover = None;
    }
}
