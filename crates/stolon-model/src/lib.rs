//! The documents of a cluster: types, defaults, validation, Go-compatible JSON.
//!
//! This crate does no IO and reads no clock. Field names on the wire are Stolon's
//! (`master`, `dbs`, `xLogPos`, `systemdID`); names in the code are the field's
//! (`primary`, `instances`, `lsn`, `system_identifier`).

pub mod byte_count;
pub mod challenge;
mod cluster;
pub mod effective;
pub mod explained;
pub mod former;
pub mod history;
pub mod impossible;
pub mod json;
pub mod lsn;
pub mod migration;
pub mod nearest;
pub mod patch;
pub mod pause;
pub mod pledge;
pub mod remark;
pub mod report;
pub mod spec;
pub mod spec_changes;
pub mod spec_table;
pub mod state;
pub mod switchover;
pub mod time;
pub mod uid;
pub mod unknown;
pub mod update;
pub mod usable;
pub mod wal_bound;

pub use byte_count::ByteCount;
pub use challenge::*;
pub use cluster::*;
pub use effective::{EffectiveSpec, InvalidSpec};
pub use explained::{Advise, Explained, with_causes};
pub use former::FormerPrimary;
pub use history::HistoryEntry;
pub use impossible::Impossible;
pub use json::{DecodeError, Document};
pub use lsn::{Lsn, Timeline};
pub use migration::*;
pub use patch::{Patch, PatchError, PatchStep};
pub use pause::Pause;
pub use pledge::*;
pub use remark::SpecRemark;
pub use report::*;
pub use spec::*;
pub use spec_changes::{fields_that_are_set, spec_changes};
pub use spec_table::{Presence, SpecField};
pub use state::*;
pub use switchover::*;
pub use time::{GoDuration, Timestamp};
pub use uid::*;
pub use unknown::{UnknownField, unknown_fields};
pub use update::UpdateRefused;
pub use usable::UsableCluster;
pub use wal_bound::SlotWalBound;
