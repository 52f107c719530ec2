//! The draft of the next document: read like any cluster data, changed only by the methods of this module, each of which
//! notes the change that operators are told.

mod finish;
mod formers;
mod instances;
mod keepers;
mod proxies;
mod switchover;
mod synchronous;

use std::ops::Deref;

use stolon_model::{ClusterData, Timestamp};

use super::Change;

pub(super) use formers::Holding;
pub(super) use instances::{FoundParameters, NewPrimary};
pub(super) use synchronous::Commits;

pub(super) struct Draft<'a> {
    /// The document as it was read.
    before: &'a ClusterData,
    data: ClusterData,
    changes: Vec<Change>,
    wall: Timestamp,
}

impl<'a> Draft<'a> {
    /// A draft without changes.
    pub fn of(before: &'a ClusterData, wall: Timestamp) -> Self {
        Draft { before, data: before.clone(), changes: Vec::new(), wall }
    }

    /// Tell operators of a change, be it one of this document or one that a keeper tells of.
    pub fn note(&mut self, change: Change) {
        self.changes.push(change);
    }
}

impl Deref for Draft<'_> {
    type Target = ClusterData;

    fn deref(&self) -> &ClusterData {
        &self.data
    }
}
