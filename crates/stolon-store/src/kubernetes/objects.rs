//! ConfigMaps and pods, as far as they matter.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::place::{
    CLUSTER_LABEL, COMPONENT_LABEL, Component, DOCUMENT, LEADER, REPORT, WRITE, config_map_name,
};
use crate::{Entry, Key, Revision};

/// A ConfigMap, whole: it is written back whole.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigMap {
    object: Value,
}

impl ConfigMap {
    /// A ConfigMap as the API server gives it.
    pub fn new(object: Value) -> Self {
        ConfigMap { object }
    }

    /// One that does not exist yet.
    pub fn to_be_made(cluster: &str) -> Self {
        let metadata = json!({ "name": config_map_name(cluster) });
        ConfigMap { object: json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata }) }
    }

    /// The state that it was last written in; `None`: it does not exist yet.
    pub fn version(&self) -> Option<i64> {
        self.object["metadata"]["resourceVersion"].as_str()?.parse().ok()
    }

    /// The text of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.object["metadata"]["annotations"][name].as_str()
    }

    /// The same with other annotations: written, or taken away.
    pub fn with(&self, annotations: &[(&str, Option<String>)]) -> Self {
        let mut object = self.object.clone();
        let all = &mut object["metadata"]["annotations"];
        if !all.is_object() {
            *all = Value::Object(Map::new());
        }
        for (name, text) in annotations {
            match (text, all.as_object_mut()) {
                (Some(text), _) => all[*name] = Value::String(text.clone()),
                (None, Some(all)) => drop(all.remove(*name)),
                (None, None) => {}
            }
        }
        ConfigMap { object }
    }

    /// As it is sent.
    pub fn json(&self) -> String {
        self.object.to_string()
    }

    /// The cluster document.
    pub fn document(&self, cluster: &str) -> Option<Entry> {
        let text = self.annotation(DOCUMENT)?;
        Some(Entry {
            key: Key::new(format!("{cluster}/clusterdata")),
            value: text.as_bytes().to_vec(),
            revision: revision(&[text, self.annotation(WRITE).unwrap_or_default()]),
        })
    }

    /// Who leads, in the words of the record.
    pub fn leader(&self, cluster: &str) -> Option<Entry> {
        let text = self.annotation(LEADER)?;
        Some(Entry {
            key: Key::new(format!("{cluster}/sentinel-leader")),
            value: text.as_bytes().to_vec(),
            revision: revision(&[text]),
        })
    }
}

/// Names what was written: an object changes its own version also where something else in it is written.
fn revision(texts: &[&str]) -> Revision {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    Revision(i64::from_ne_bytes(hasher.finish().to_ne_bytes()))
}

/// A list of objects.
#[derive(Deserialize)]
pub struct List<T> {
    /// Of the list: the state that it was made in.
    pub metadata: ListMetadata,
    /// The objects.
    #[serde(default = "Vec::new")]
    pub items: Vec<T>,
}

/// What is said of a list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMetadata {
    /// The state.
    pub resource_version: String,
}

/// A pod.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    metadata: PodMetadata,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodMetadata {
    name: String,
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PodStatus {
    #[serde(default)]
    phase: String,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The state that it was last written in.
    pub fn version(&self) -> Option<i64> {
        self.metadata.resource_version.parse().ok()
    }

    /// The program in it, by its label.
    fn component(&self) -> Option<Component> {
        let label = self.metadata.labels.get(COMPONENT_LABEL)?;
        Component::ALL.into_iter().find(|component| component.label() == label)
    }

    /// Whether readers of this cluster find it when they look for this program.
    pub fn is_found(&self, cluster: &str, component: Component) -> bool {
        let of_cluster = self.metadata.labels.get(CLUSTER_LABEL).is_some_and(|label| label == cluster);
        of_cluster && self.component() == Some(component)
    }

    /// The report of the program in it. A pod whose containers have all ended for good reports nothing (Kubernetes
    /// documentation: "Pod Lifecycle", phases).
    pub fn report(&self, cluster: &str) -> Option<Entry> {
        let component = self.component().filter(|component| self.is_found(cluster, *component))?;
        let text = self.metadata.annotations.get(REPORT).filter(|text| !text.is_empty())?;
        if matches!(self.status.phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let uid = uid_in(text);
        Some(Entry {
            key: component.key(cluster, uid.as_deref().unwrap_or(self.name())),
            value: text.clone().into_bytes(),
            revision: revision(&[text]),
        })
    }
}

/// The uid that a report names, whoever wrote it; `None`: it cannot be read.
fn uid_in(report: &str) -> Option<String> {
    let Ok(Value::Object(fields)) = serde_json::from_str(report) else { return None };
    let (_, uid) = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("uid"))?;
    uid.as_str().filter(|uid| !uid.is_empty()).map(str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn pod(labels: Value, annotations: Value, phase: &str) -> Pod {
        let metadata = json!({
            "name": "pod-0", "resourceVersion": "7", "uid": "x", "labels": labels, "annotations": annotations
        });
        serde_json::from_value(json!({ "metadata": metadata, "status": { "phase": phase } })).unwrap()
    }

    #[test]
    fn reports_are_found_in_pods() {
        let labels = json!({ "component": "stolon-proxy", "stolon-cluster": "c" });
        let report = |labels: &Value, text: &str, phase| {
            let pod = pod(labels.clone(), json!({ "stolon-status": text }), phase);
            pod.report("c").map(|entry| entry.key.to_string())
        };
        assert_eq!(report(&labels, r#"{"UID":"p"}"#, "Running").as_deref(), Some("c/proxies/info/p"));
        assert_eq!(report(&labels, r#"{"UID":7}"#, "Running").as_deref(), Some("c/proxies/info/pod-0"));
        assert_eq!(report(&labels, "{", "Running").as_deref(), Some("c/proxies/info/pod-0"));
        assert_eq!(report(&labels, "", "Running"), None);
        assert_eq!(report(&labels, r#"{"UID":"p"}"#, "Failed"), None, "nothing runs in it any more");
        let other = json!({ "component": "stolon-proxy", "stolon-cluster": "d" });
        assert_eq!(report(&other, r#"{"UID":"p"}"#, "Running"), None);
        let other = json!({ "component": "web", "stolon-cluster": "c" });
        assert_eq!(report(&other, r#"{"UID":"p"}"#, "Running"), None);
    }

    #[test]
    fn what_others_put_into_a_config_map_stays() {
        let object = json!({
            "metadata": { "name": "x", "resourceVersion": "5", "annotations": { "theirs": "1" }, "labels": { "a": "b" } },
            "data": { "k": "v" }
        });
        let written = ConfigMap::new(object).with(&[(DOCUMENT, Some("{}".into()))]);
        assert_eq!(written.annotation("theirs"), Some("1"));
        assert_eq!((written.version(), written.object["data"]["k"].as_str()), (Some(5), Some("v")));
        let taken = written.with(&[(DOCUMENT, None)]);
        assert_eq!((taken.document("c"), taken.annotation("theirs")), (None, Some("1")));
        let same = |write: &str| {
            let map = ConfigMap::to_be_made("c")
                .with(&[(DOCUMENT, Some("{}".into())), (WRITE, Some(write.into()))]);
            map.document("c").unwrap().revision
        };
        assert_ne!(same("1"), same("2"), "the same text written again is another revision");
        assert_eq!(same("1"), same("1"));
    }
}
