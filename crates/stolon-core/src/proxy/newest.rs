//! The newest cluster data that were seen: a store can go back in time.

use stolon_model::{ClusterData, ClusterUid};

/// What tells older cluster data from newer ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Uid of the cluster.
    pub cluster: ClusterUid,
    /// Raised with every decision of a sentinel of ours; absent where Stolon wrote.
    pub epoch: Option<u64>,
    /// The generation of the proxy section.
    pub generation: i64,
}

impl Version {
    /// The version of these cluster data.
    pub fn of(cluster: &ClusterData) -> Version {
        let head = &cluster.cluster;
        Version { cluster: head.uid.clone(), epoch: head.epoch, generation: cluster.proxy.generation }
    }

    /// True if these cluster data are an earlier state of the same cluster than `seen`. A higher epoch is newer whatever the
    /// generation is: an operator has accepted that the cluster goes on from an earlier state.
    pub fn is_older_than(&self, seen: &Version) -> bool {
        if self.cluster != seen.cluster {
            return false;
        }
        match (self.epoch, seen.epoch) {
            (Some(own), Some(seen)) if own != seen => own < seen,
            _ => self.generation < seen.generation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_older_and_newer() {
        let version =
            |cluster: &str, epoch, generation| Version { cluster: cluster.into(), epoch, generation };
        for (own, seen, older) in [
            (version("a", None, 4), version("a", None, 5), true),
            (version("a", None, 5), version("a", None, 5), false),
            (version("a", None, 6), version("a", None, 5), false),
            (version("b", None, 4), version("a", None, 5), false),
            (version("a", Some(7), 9), version("a", Some(8), 5), true),
            (version("a", Some(9), 1), version("a", Some(8), 5), false),
            (version("a", Some(8), 4), version("a", Some(8), 5), true),
            (version("a", Some(8), 5), version("a", Some(8), 5), false),
            (version("a", None, 5), version("a", Some(8), 5), false),
            (version("a", Some(1), 4), version("a", None, 5), true),
        ] {
            assert_eq!(own.is_older_than(&seen), older, "{own:?} after {seen:?}");
        }
    }
}
