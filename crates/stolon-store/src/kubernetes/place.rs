//! Where the keys of a cluster lie: Kubernetes has objects with annotations, no keys.

use crate::{Key, Selector, StoreError};

/// The annotation of the ConfigMap that holds the cluster document.
pub const DOCUMENT: &str = "stolon-clusterdata";
/// The annotation of the ConfigMap that tells two writes of the same document apart. Ours; Stolon leaves it as it is.
pub const WRITE: &str = "stolon-clusterdata-write";
/// The annotation of the ConfigMap that holds the leader's record, as Kubernetes' own programs name it.
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// The annotation of a pod that holds the report of the program in it.
pub const REPORT: &str = "stolon-status";

/// The label of a pod that names the program in it.
pub const COMPONENT_LABEL: &str = "component";
/// The label of a pod that names its cluster.
pub const CLUSTER_LABEL: &str = "stolon-cluster";

/// A program that reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// Keeper.
    Keeper,
    /// Sentinel.
    Sentinel,
    /// Proxy.
    Proxy,
}

impl Component {
    /// All of them.
    pub const ALL: [Component; 3] = [Component::Keeper, Component::Sentinel, Component::Proxy];

    /// Its value of [`COMPONENT_LABEL`].
    pub fn label(self) -> &'static str {
        match self {
            Component::Keeper => "stolon-keeper",
            Component::Sentinel => "stolon-sentinel",
            Component::Proxy => "stolon-proxy",
        }
    }

    /// What the keys of its reports have below the cluster.
    fn folder(self) -> &'static str {
        match self {
            Component::Keeper => "keepers/info",
            Component::Sentinel => "sentinels/info",
            Component::Proxy => "proxies/info",
        }
    }

    /// The key of the report of this uid.
    pub fn key(self, cluster: &str, uid: &str) -> Key {
        Key::new(format!("{cluster}/{}/{uid}", self.folder()))
    }
}

/// Where a key lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the ConfigMap of the cluster: the document.
    Document(String),
    /// In the ConfigMap of the cluster: who leads.
    Leader(String),
    /// In a pod.
    Report(String, Component),
}

impl Place {
    /// The place of a key.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: no document of a cluster has this key.
    pub fn of(key: &Key) -> Result<Self, StoreError> {
        let Some((cluster, rest)) = key.as_str().split_once('/') else { return Err(no_place(key)) };
        let cluster = cluster.to_owned();
        let in_folder = |component: &Component| {
            let uid = rest.strip_prefix(component.folder()).and_then(|rest| rest.strip_prefix('/'));
            uid.is_some_and(|uid| !uid.is_empty())
        };
        match rest {
            "clusterdata" => Ok(Place::Document(cluster)),
            "sentinel-leader" => Ok(Place::Leader(cluster)),
            _ => match Component::ALL.into_iter().find(in_folder) {
                Some(component) => Ok(Place::Report(cluster, component)),
                None => Err(no_place(key)),
            },
        }
    }
}

/// What objects must be looked at to know some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The cluster.
    pub cluster: String,
    /// Whether the keys are in its ConfigMap, or some of them.
    pub in_config_map: bool,
    /// The programs whose pods have them.
    pub components: Vec<Component>,
}

impl Selected {
    /// The objects that hold the selected keys.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: no document of a cluster has such keys.
    pub fn of(selector: &Selector) -> Result<Self, StoreError> {
        match selector {
            Selector::Key(key) => Ok(match Place::of(key)? {
                Place::Document(cluster) | Place::Leader(cluster) => {
                    Selected { cluster, in_config_map: true, components: Vec::new() }
                }
                Place::Report(cluster, component) => {
                    Selected { cluster, in_config_map: false, components: vec![component] }
                }
            }),
            Selector::Below(parent) => match parent.as_str().split_once('/') {
                None => Ok(Selected {
                    cluster: parent.to_string(),
                    in_config_map: true,
                    components: Component::ALL.to_vec(),
                }),
                Some((cluster, folder)) => {
                    let component = Component::ALL.into_iter().find(|component| component.folder() == folder);
                    let components = vec![component.ok_or_else(|| no_place(parent))?];
                    Ok(Selected { cluster: cluster.to_owned(), in_config_map: false, components })
                }
            },
        }
    }
}

fn no_place(key: &Key) -> StoreError {
    StoreError::Refused {
        operation: format!("the key {key}"),
        cause: "Kubernetes holds the documents of a cluster and nothing else".to_owned(),
        hint: String::new(),
    }
}

/// The name of the ConfigMap of a cluster.
pub fn config_map_name(cluster: &str) -> String {
    format!("stolon-cluster-{cluster}")
}

/// Names of objects are names of hosts, and values of labels have at most 63 characters (Kubernetes documentation: "Object Names
/// and IDs", "Labels and Selectors").
///
/// # Errors
/// [`StoreError::Configuration`]: the name of the cluster can be neither.
pub fn check_cluster_name(cluster: &str) -> Result<(), StoreError> {
    let is_word = |word: &str| {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        word.starts_with(is_plain)
            && word.ends_with(is_plain)
            && word.chars().all(|c| is_plain(c) || c == '-')
    };
    if cluster.len() <= 63 && cluster.split('.').all(is_word) {
        return Ok(());
    }
    Err(StoreError::configuration(
        format!("{cluster:?} cannot be the name of a cluster in Kubernetes"),
        "--cluster-name: small letters, digits, \"-\" and \".\", at most 63 of them, as the label stolon-cluster of the pods says",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_places() {
        let place = |key: &str| Place::of(&Key::new(key)).ok();
        assert_eq!(place("c/clusterdata"), Some(Place::Document("c".into())));
        assert_eq!(place("c/sentinel-leader"), Some(Place::Leader("c".into())));
        assert_eq!(place("c/proxies/info/p"), Some(Place::Report("c".into(), Component::Proxy)));
        for key in ["c", "c/proxies/info", "c/proxies/info/", "c/other", "a/c/clusterdata"] {
            assert_eq!(place(key), None, "{key}");
        }
        let below = |key: &str| Selected::of(&Selector::Below(Key::new(key))).ok();
        assert_eq!(below("c").unwrap().components, Component::ALL);
        assert_eq!(below("c/keepers/info").unwrap().components, [Component::Keeper]);
        assert_eq!(below("c/keepers"), None);
    }

    #[test]
    fn names_that_objects_cannot_have_are_refused() {
        for good in ["c", "kube-stolon", "a.b-1"] {
            assert_eq!(check_cluster_name(good), Ok(()), "{good}");
        }
        for bad in ["", "A", "a/b", "-a", "a-", "a..b", "a_b", &"x".repeat(64)] {
            assert!(matches!(check_cluster_name(bad), Err(StoreError::Configuration { .. })), "{bad}");
        }
    }
}
