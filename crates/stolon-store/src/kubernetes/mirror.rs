//! What is known of the objects of a cluster: answers and events, which overtake each other, put in order.
//!
//! The versions of objects of one kind grow ([KEP-5504], and etcd's revisions before it). Those of different kinds are not
//! compared. What is known as a whole has a number of its own.
//!
//! [KEP-5504]: https://www.kubernetes.dev/resources/keps/5504/

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::objects::{ConfigMap, Pod};
use super::place::Selected;
use crate::{Entry, Look, Selector, StoreError, Version};

/// What this process knows, by cluster.
#[derive(Default)]
pub struct Mirror {
    clusters: Mutex<BTreeMap<String, Known>>,
}

/// A cluster.
#[derive(Default)]
struct Known {
    config: Option<Shelf<Arc<ConfigMap>>>,
    reports: Option<Shelf<Entry>>,
    /// Of all of it.
    number: i64,
}

/// Objects of one kind, by their names; all that there are.
struct Shelf<T> {
    objects: BTreeMap<String, T>,
    newest: i64,
}

impl<T> Shelf<T> {
    /// An answer to a question that was asked when `known` was the newest state of this kind. One that is older than that tells of a
    /// store that went back in time; one that is only older than what arrived meanwhile tells nothing.
    fn put_all(shelf: &mut Option<Self>, objects: BTreeMap<String, T>, version: i64, known: i64) {
        let is_overtaken = shelf.as_ref().is_some_and(|now| version < now.newest);
        if version < known || !is_overtaken {
            *shelf = Some(Shelf { objects, newest: version });
        }
    }

    fn newest(shelf: &Option<Self>) -> i64 {
        shelf.as_ref().map_or(0, |shelf| shelf.newest)
    }
}

impl Mirror {
    fn with<T>(&self, cluster: &str, work: impl FnOnce(&mut Known) -> T) -> T {
        let mut clusters = self.clusters.lock();
        work(clusters.entry(cluster.to_owned()).or_default())
    }

    /// The newest state of the ConfigMap that is known.
    pub fn newest_config(&self, cluster: &str) -> i64 {
        self.with(cluster, |known| Shelf::newest(&known.config))
    }

    /// The newest state of the pods that is known.
    pub fn newest_pods(&self, cluster: &str) -> i64 {
        self.with(cluster, |known| Shelf::newest(&known.reports))
    }

    /// The ConfigMap as it was last seen.
    pub fn config_map(&self, cluster: &str) -> Option<Arc<ConfigMap>> {
        self.with(cluster, |known| known.config.as_ref()?.objects.values().next().cloned())
    }

    /// The answer to a question for the ConfigMap, asked when `known` was its newest state; `None`: there is none.
    pub fn answer_config(&self, cluster: &str, found: Option<ConfigMap>, known: i64) {
        let version = found.as_ref().and_then(ConfigMap::version).unwrap_or(known);
        let objects = found.into_iter().map(|map| (String::new(), Arc::new(map))).collect();
        self.with(cluster, |now| {
            Shelf::put_all(&mut now.config, objects, version, known);
            now.number += 1;
        });
    }

    /// The answer to a question for all pods of the cluster.
    pub fn answer_pods(&self, cluster: &str, found: &[Pod], version: i64, known: i64) {
        let report = |pod: &Pod| Some((pod.name().to_owned(), pod.report(cluster)?));
        let objects = found.iter().filter_map(report).collect();
        self.with(cluster, |now| {
            Shelf::put_all(&mut now.reports, objects, version, known);
            now.number += 1;
        });
    }

    /// The ConfigMap was written or removed.
    pub fn hear_config(&self, cluster: &str, map: ConfigMap, is_there: bool) {
        let Some(version) = map.version() else { return };
        self.with(cluster, |known| {
            let Some(shelf) = known.config.as_mut().filter(|shelf| shelf.newest < version) else { return };
            shelf.newest = version;
            shelf.objects = is_there.then(|| (String::new(), Arc::new(map))).into_iter().collect();
            known.number += 1;
        });
    }

    /// A pod was written, or removed, or has no longer the labels that are looked for.
    pub fn hear_pod(&self, cluster: &str, pod: &Pod, is_there: bool) {
        let Some(version) = pod.version() else { return };
        self.with(cluster, |known| {
            let Some(shelf) = known.reports.as_mut().filter(|shelf| shelf.newest < version) else { return };
            shelf.newest = version;
            match pod.report(cluster).filter(|_| is_there) {
                Some(report) => shelf.objects.insert(pod.name().to_owned(), report),
                None => shelf.objects.remove(pod.name()),
            };
            known.number += 1;
        });
    }

    /// The selected keys as they are known; `None`: not all of them are.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: there can be no such keys.
    pub fn look(&self, selector: &Selector) -> Result<Option<Look>, StoreError> {
        let selected = Selected::of(selector)?;
        Ok(self.with(&selected.cluster, |known| {
            let mut changed = Vec::new();
            if selected.in_config_map {
                for map in known.config.as_ref()?.objects.values() {
                    let (document, leader) = (map.document(&selected.cluster), map.leader(&selected.cluster));
                    changed.extend(document.into_iter().chain(leader));
                }
            }
            if !selected.components.is_empty() {
                changed.extend(known.reports.as_ref()?.objects.values().cloned());
            }
            changed.retain(|entry| selector.contains(entry.key.as_str()));
            Some(Look { count: changed.len(), changed, version: Version(known.number) })
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::super::place::LEADER;
    use super::*;
    use crate::Key;

    fn map(version: i64, document: &str, leader: &str) -> ConfigMap {
        let annotations = json!({ "stolon-clusterdata": document, LEADER: leader });
        ConfigMap::new(
            json!({ "metadata": { "resourceVersion": version.to_string(), "annotations": annotations } }),
        )
    }

    fn pod(version: i64, name: &str, report: &str) -> Pod {
        let labels = json!({ "component": "stolon-keeper", "stolon-cluster": "c" });
        let metadata = json!({
            "name": name, "resourceVersion": version.to_string(), "labels": labels,
            "annotations": { "stolon-status": report }
        });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn all(mirror: &Mirror) -> Option<Vec<String>> {
        let look = mirror.look(&Selector::Below(Key::new("c"))).unwrap()?;
        Some(look.changed.into_iter().map(|entry| String::from_utf8(entry.value).unwrap()).collect())
    }

    #[test]
    fn nothing_is_told_before_all_is_known() {
        let mirror = Mirror::default();
        mirror.hear_config("c", map(3, "a", "l"), true);
        assert_eq!(all(&mirror), None);
        mirror.answer_config("c", Some(map(3, "a", "l")), 0);
        assert_eq!(all(&mirror), None);
        mirror.answer_pods("c", &[pod(2, "k", r#"{"uid":"k"}"#)], 4, 0);
        assert_eq!(all(&mirror).unwrap(), ["a", "l", r#"{"uid":"k"}"#]);
    }

    #[test]
    fn older_news_and_answers_change_nothing() {
        let mirror = Mirror::default();
        mirror.answer_config("c", Some(map(5, "b", "l")), 0);
        mirror.answer_pods("c", &[], 5, 0);
        mirror.hear_config("c", map(4, "a", "l"), true);
        assert_eq!(all(&mirror).unwrap(), ["b", "l"]);
        mirror.hear_config("c", map(7, "c", "l"), true);
        // Asked at 5, answered late.
        mirror.answer_config("c", Some(map(6, "late", "l")), 5);
        assert_eq!(all(&mirror).unwrap(), ["c", "l"]);
        mirror.hear_pod("c", &pod(6, "k", r#"{"uid":"k"}"#), true);
        mirror.hear_pod("c", &pod(7, "k", r#"{"uid":"k"}"#), true);
        mirror.answer_pods("c", &[], 6, 5);
        assert_eq!(all(&mirror).unwrap().len(), 3, "the pod was heard of at 7");
        mirror.hear_pod("c", &pod(9, "k", r#"{"uid":"k"}"#), false);
        mirror.hear_config("c", map(10, "c", "l"), false);
        assert!(all(&mirror).unwrap().is_empty());
    }

    #[test]
    fn a_store_that_went_back_is_believed() {
        let mirror = Mirror::default();
        mirror.answer_config("c", Some(map(50, "b", "l")), 0);
        mirror.answer_pods("c", &[], 50, 0);
        mirror.answer_config("c", Some(map(9, "a", "l")), 50);
        assert_eq!(all(&mirror).unwrap(), ["a", "l"]);
        mirror.hear_config("c", map(10, "z", "l"), true);
        assert_eq!(all(&mirror).unwrap(), ["z", "l"]);
    }
}
