//! How it is known that cluster data are older than what a keeper served under. Sentinels and keepers judge alike.
//!
//! * The **epoch**, which only this project's programs write, and which only grows. A document without one was last written by a
//!   program of Stolon, which drops what it does not know: that makes it neither older nor newer.
//! * The **generation** of an instance, which every sentinel only lets grow, for as long as the document holds the instance.
//! * The **timeline**, only where neither tells: the document does not hold the instance, and its epoch is none or the one that was
//!   served under. An instance that was replaced is followed by one that was promoted after it, so that the primary's timeline is
//!   not lower.
//!
//! An operator who accepts a loss raises epoch and generations alike (`stolonctl settle`, `clusterdata write --allow-data-loss`), so
//! that both can be asked. A position alone is no evidence: what the document says about positions is always a little old. Nor is
//! another cluster: it was made anew on purpose.

use stolon_model::{ClusterData, Served, Timeline};

/// How it is known that cluster data are older than what a keeper served under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It served under a higher epoch.
    Epoch {
        /// Of the document.
        document: u64,
    },
    /// It served a higher generation of its instance.
    Generation {
        /// Of the document.
        document: i64,
    },
    /// It served on a higher timeline, and the document does not know its instance.
    Timeline {
        /// Of the document's primary.
        document: Timeline,
    },
}

/// Why `data` are older than what was served under, if they are. `primary` is the timeline of their primary as far as it is known;
/// 0 if it is not.
pub(crate) fn evidence(data: &ClusterData, primary: Timeline, served: &Served) -> Option<Evidence> {
    if served.cluster_uid != data.cluster.uid {
        return None;
    }
    if let Some(document) = data.cluster.epoch.filter(|epoch| served.epoch > *epoch) {
        return Some(Evidence::Epoch { document });
    }
    if let Some(instance) = data.instances.get(&served.instance) {
        let document = instance.generation;
        return (served.generation > document).then_some(Evidence::Generation { document });
    }
    if data.cluster.epoch.is_some_and(|epoch| epoch > served.epoch) {
        return None;
    }
    (primary != Timeline(0) && served.timeline > primary).then_some(Evidence::Timeline { document: primary })
}
