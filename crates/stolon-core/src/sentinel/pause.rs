//! An operator's pause: nobody is elected, and no keeper or instance is removed. What keeps commits going goes on: proxies are sent to the
//! primary, synchronous standbys are exchanged, standbys are made.

use std::time::Duration;

use stolon_model::{Pause, Timestamp};

use super::Hold;
use super::memory::Memory;
use super::round::Round;
use super::wake::{Limit, Wake};
use crate::pause::left;

/// A pause that this sentinel has seen in the cluster data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseSighting {
    /// What it says.
    pub pause: Pause,
    /// When it was first seen.
    pub since: Duration,
}

/// Whether a pause holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Standstill {
    /// Nobody asked for one.
    #[default]
    None,
    /// Until then, if nobody ends it before.
    Holds(Pause, Wake),
    Lapsed(Pause),
}

impl Memory {
    /// Judge the pause in the cluster data, and remember since when it is known.
    pub(super) fn see_pause(&mut self, pause: Option<&Pause>, now: Duration, wall: Timestamp) -> Standstill {
        let Some(pause) = pause else {
            self.pause = None;
            return Standstill::None;
        };
        let known = self.pause.take().filter(|known| known.pause == *pause);
        let known = known.unwrap_or_else(|| PauseSighting { pause: pause.clone(), since: now });
        let left = left(pause, wall, now.saturating_sub(known.since));
        self.pause = Some(known);
        match left {
            Some(left) => Standstill::Holds(pause.clone(), Limit::of(now, left, now).wake()),
            None => Standstill::Lapsed(pause.clone()),
        }
    }
}

impl Round<'_> {
    pub fn is_paused(&self) -> bool {
        matches!(self.seen.standstill, Standstill::Holds(..))
    }

    /// Say that the cluster is paused, or end a pause that has lapsed. What was under way when the pause began is begun anew
    /// afterwards.
    pub fn honour_pause(&mut self) -> Wake {
        match &self.seen.standstill {
            Standstill::None => Wake::NEVER,
            Standstill::Holds(pause, wake) => {
                self.hold(Hold::Paused { pause: pause.clone() });
                (self.memory.handover, self.memory.request) = (None, None);
                *wake
            }
            Standstill::Lapsed(pause) => {
                self.draft.end_pause(pause);
                Wake::NEVER
            }
        }
    }
}
