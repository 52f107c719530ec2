//! Replication slots and the WAL that they hold: how much they may, and which ones are let go where PostgreSQL has no bound of its own.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{Lsn, SlotReport, SlotWalBound};

use super::goal::{Follow, InstanceGoal, InstanceRole};
use super::observation::{Live, Observation};
use crate::postgres::Version;

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRow {
    /// Its name.
    pub name: String,
    /// What it decodes.
    pub kind: SlotKind,
    /// Whether it survives a failover.
    pub failover: Failover,
    /// Whether somebody streams from it now.
    pub active: bool,
    /// The oldest WAL that it needs; none: it reserves none.
    pub restart_lsn: Option<Lsn>,
    /// `wal_status`; none before PostgreSQL 13.
    pub wal_status: Option<String>,
    /// `safe_wal_size`: bytes that may be written before its WAL can go, less than none when it may have gone; none without a bound.
    pub safe_wal_size: Option<i64>,
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// WAL as it is.
    Physical,
    /// Changes of rows.
    Logical,
}

/// Whether a logical slot is one that survives a failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failover {
    /// It is not, or PostgreSQL is older than 17.
    #[default]
    No,
    /// Its user wants that: standbys copy it.
    Wanted,
    /// It is such a copy on a standby.
    Copied,
}

impl SlotRow {
    /// WAL that it keeps a server at `position` from removing, in bytes; none: it reserves none.
    pub fn held(&self, position: Lsn) -> Option<u64> {
        self.restart_lsn.map(|restart| position.0.saturating_sub(restart.0))
    }

    /// As it is reported by a server at `position`. `bound` is what the keeper lets it hold, in bytes, where PostgreSQL sets none.
    fn report(&self, position: Lsn, bound: Option<u64>) -> SlotReport {
        let of_postgres = self.safe_wal_size.map(|left| u64::try_from(left).unwrap_or(0));
        let ours = || Some(bound?.saturating_sub(self.held(position)?));
        SlotReport {
            name: self.name.clone(),
            logical: self.kind == SlotKind::Logical,
            failover: self.failover != Failover::No,
            synced: self.failover == Failover::Copied,
            active: self.active,
            held_bytes: self.held(position),
            left_bytes: of_postgres.or_else(ours),
            wal_status: self.wal_status.clone().unwrap_or_default(),
        }
    }
}

/// So many slots are reported: a report goes to the store in every interval.
const MOST_REPORTED: usize = 32;

/// The slots of a server at `position` for its report, those that hold most first.
pub(super) fn slot_reports(
    slots: &[SlotRow],
    position: Lsn,
    bound: impl Fn(&SlotRow) -> Option<u64>,
) -> Vec<SlotReport> {
    let mut reports: Vec<SlotReport> = slots.iter().map(|slot| slot.report(position, bound(slot))).collect();
    reports.sort_by(|a, b| (b.held_bytes, &a.name).cmp(&(a.held_bytes, &b.name)));
    reports.truncate(MOST_REPORTED);
    reports
}

/// In megabytes; none: without bound. `room` is what the file system of the WAL has room for, as far as that is known.
pub(super) fn bound(wanted: SlotWalBound, room: Option<u64>) -> Option<u64> {
    match wanted {
        SlotWalBound::FromFreeSpace => room,
        SlotWalBound::Unlimited => None,
        SlotWalBound::Megabytes(megabytes) => Some(megabytes),
    }
}

/// Slots of standbys that nobody streams from and that hold more than the bound, with the bytes, where PostgreSQL itself keeps none
/// (`max_slot_wal_keep_size`, release notes 13). They are made anew at once, so that whoever comes back without too great a lack streams on, and
/// whoever lacks WAL is copied. Slots of others are theirs to drop. No promise hangs on a slot: what a standby has acknowledged it
/// has, and who may be elected is decided on that.
pub(super) fn to_let_go(goal: &InstanceGoal, seen: &Observation, live: &Live) -> BTreeMap<String, u64> {
    let idle = live.slots.iter().filter(|slot| !slot.active);
    let too_much = idle.filter_map(|slot| {
        let most = own_bound(goal, seen.version, seen.room_for_slots, slot)?;
        let held = slot.held(live.lsn)?;
        (held > most).then(|| (slot.name.clone(), held))
    });
    too_much.collect()
}

/// The slots that are to be there: those of the goal and, on a standby, copies of those of its primary's consumers. A copy is made once it is known
/// up to where its consumer is: a primary whose keeper is Stolon's does not tell, and its copies would hold WAL for ever. What is there stays.
pub(super) fn wanted(goal: &InstanceGoal, seen: &Observation, live: &Live) -> BTreeSet<String> {
    let positions = consumers(goal);
    let is_there = |name: &String| live.slots.iter().any(|slot| slot.name == *name);
    let copied = goal.copied_slots.iter().filter(|name| positions.contains_key(*name) || is_there(name));
    let copied = copied.filter(|_| seen.version.has_slot_advance());
    goal.slots.iter().chain(copied).cloned().collect()
}

/// Copies that are behind what their consumers have let go, each with the position to go to: never past that, nor past what is here. One that
/// is ahead, since WAL is reserved from the last restart point on when it is made, waits for its consumer. One that somebody streams from is his.
pub(super) fn to_advance(goal: &InstanceGoal, seen: &Observation, live: &Live) -> BTreeMap<String, Lsn> {
    if !live.in_recovery || !seen.version.has_slot_advance() {
        return BTreeMap::new();
    }
    let positions = consumers(goal);
    let idle = live.slots.iter().filter(|slot| !slot.active && slot.kind == SlotKind::Physical);
    let behind = idle.filter(|slot| goal.copied_slots.contains(&slot.name)).filter_map(|slot| {
        let to = (*positions.get(&slot.name)?).min(live.lsn);
        (slot.restart_lsn? < to).then(|| (slot.name.clone(), to))
    });
    behind.collect()
}

/// Up to where the consumers of the primary are, as its keeper reported it last. What is older is less, so nobody is hurt by it.
fn consumers(goal: &InstanceGoal) -> BTreeMap<String, Lsn> {
    match &goal.role {
        InstanceRole::Standby(Follow::Internal(peer)) => {
            peer.status.slot_positions.clone().unwrap_or_default()
        }
        InstanceRole::Primary(_) | InstanceRole::Standby(_) => BTreeMap::new(),
    }
}

/// What a keeper lets a slot hold, in bytes; none: PostgreSQL bounds it, or nobody does.
pub(super) fn own_bound(
    goal: &InstanceGoal,
    version: Version,
    room: Option<u64>,
    slot: &SlotRow,
) -> Option<u64> {
    let is_ours = !version.has_wal_status()
        && slot.kind == SlotKind::Physical
        && (goal.member_slots.contains(&slot.name) || goal.copied_slots.contains(&slot.name));
    let megabytes = bound(goal.parameters.slot_wal_bound, room).filter(|_| is_ours)?;
    Some(megabytes.saturating_mul(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, restart: Option<u64>) -> SlotRow {
        SlotRow {
            name: name.to_owned(),
            kind: SlotKind::Physical,
            failover: Failover::No,
            active: false,
            restart_lsn: restart.map(Lsn),
            wal_status: None,
            safe_wal_size: Some(-5),
        }
    }

    #[test]
    fn those_that_hold_most_are_reported_first_and_a_lost_one_has_nothing_left() {
        let slots = [row("c", None), row("b", Some(90)), row("a", Some(90)), row("d", Some(10))];
        let reports = slot_reports(&slots, Lsn(100), |_| Some(7));
        let said: Vec<_> = reports.iter().map(|slot| (slot.name.as_str(), slot.held_bytes)).collect();
        assert_eq!(said, [("d", Some(90)), ("a", Some(10)), ("b", Some(10)), ("c", None)]);
        assert_eq!(reports[0].left_bytes, Some(0));
        let unbounded = SlotRow { safe_wal_size: None, ..row("a", Some(95)) };
        assert_eq!(slot_reports(&[unbounded.clone()], Lsn(100), |_| Some(7))[0].left_bytes, Some(2));
        assert_eq!(slot_reports(&[unbounded], Lsn(100), |_| None)[0].left_bytes, None);
        assert_eq!(row("ahead", Some(200)).held(Lsn(100)), Some(0));
        let many: Vec<SlotRow> = (0..100).map(|number| row(&number.to_string(), Some(number))).collect();
        let reports = slot_reports(&many, Lsn(100), |_| None);
        assert_eq!((reports.len(), reports[31].held_bytes), (MOST_REPORTED, Some(69)));
    }
}
