//! Which logical slots of a primary would not outlive it (docs/design/014-logical-slots.md).

use std::collections::BTreeSet;

use stolon_model::{KeeperReport, SlotReport};

/// Logical slots of the primary that want to survive a failover and that this standby has no copy of yet, by the last reports of both keepers.
pub fn lacking(primary: Option<&KeeperReport>, standby: Option<&KeeperReport>) -> Vec<String> {
    let copies: BTreeSet<&str> =
        slots(standby).filter(|slot| slot.synced).map(|slot| slot.name.as_str()).collect();
    let wanted = slots(primary).filter(|slot| slot.failover && !slot.synced);
    wanted.filter(|slot| !copies.contains(slot.name.as_str())).map(|slot| slot.name.clone()).collect()
}

fn slots(report: Option<&KeeperReport>) -> impl Iterator<Item = &SlotReport> {
    let activity = report.and_then(|report| report.activity.as_ref());
    activity.into_iter().flat_map(|activity| activity.slots.iter().flatten())
}
