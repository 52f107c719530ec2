//! Objects as an API server keeps them: versions, selectors, conflicts, history.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};

/// How many events are remembered; watches that want older ones are told that they are gone.
const HISTORY: usize = 10_000;
/// What all annotations of an object may have together (Kubernetes documentation: "Annotations"; TotalAnnotationSizeLimitB).
const ANNOTATIONS: usize = 256 << 10;

/// Where an object is: resource, namespace, name.
pub type Place = (String, String, String);

/// All objects, and what happened to them.
#[derive(Default)]
pub struct Objects {
    version: i64,
    all: BTreeMap<Place, Value>,
    history: VecDeque<Event>,
    /// Events up to this version are gone.
    forgotten: i64,
    made: u64,
}

/// Something that happened to an object.
#[derive(Clone)]
pub struct Event {
    /// The state that it led to.
    pub version: i64,
    /// Resource and namespace.
    pub list: (String, String),
    old: Option<Value>,
    new: Option<Value>,
}

/// Why something was not done: status, reason, message.
pub struct Refusal {
    /// Of HTTP.
    pub code: u16,
    /// In a word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

fn refuse<T>(code: u16, reason: &'static str, message: String) -> Result<T, Refusal> {
    Err(Refusal { code, reason, message })
}

fn not_found<T>((resource, _, name): &Place) -> Result<T, Refusal> {
    refuse(404, "NotFound", format!("{resource} {name:?} not found"))
}

impl Objects {
    /// The state of all of them.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// An object.
    pub fn get(&self, place: &Place) -> Result<Value, Refusal> {
        self.all.get(place).map_or_else(|| not_found(place), |object| Ok(object.clone()))
    }

    /// All objects of a resource in a namespace that are selected.
    pub fn list(&self, (resource, namespace): &(String, String), selected: &Selection) -> Vec<Value> {
        let of_list = self.all.iter().filter(|((kind, place, _), _)| kind == resource && place == namespace);
        of_list.map(|(_, object)| object).filter(|object| selected.has(object)).cloned().collect()
    }

    /// Make an object.
    pub fn create(&mut self, list: &(String, String), mut object: Value) -> Result<Value, Refusal> {
        let metadata = metadata(&mut object);
        self.made += 1;
        if metadata.get("name").is_none() {
            let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
            metadata.insert("name".to_owned(), json!(format!("{prefix}{:05}", self.made)));
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        metadata.insert("namespace".to_owned(), json!(list.1));
        metadata.insert("uid".to_owned(), json!(format!("00000000-0000-4000-8000-{:012}", self.made)));
        metadata.insert("creationTimestamp".to_owned(), json!("2026-01-01T00:00:00Z"));
        let place = (list.0.clone(), list.1.clone(), name);
        if self.all.contains_key(&place) {
            return refuse(409, "AlreadyExists", format!("{} {:?} already exists", place.0, place.2));
        }
        self.write(place, object)
    }

    /// Replace an object, on the condition of the version that it names, if it names one.
    pub fn replace(&mut self, place: &Place, mut object: Value) -> Result<Value, Refusal> {
        let Some(old) = self.all.get(place) else { return not_found(place) };
        check_version(place, old, &object)?;
        let kept = old["metadata"].clone();
        for field in ["uid", "creationTimestamp", "namespace", "name", "resourceVersion"] {
            metadata(&mut object).insert(field.to_owned(), kept[field].clone());
        }
        self.write(place.clone(), object)
    }

    /// Merge a patch into an object (RFC 7386), on the condition of the version that it names, if it names one.
    pub fn patch(&mut self, place: &Place, patch: &Value) -> Result<Value, Refusal> {
        let Some(old) = self.all.get(place) else { return not_found(place) };
        check_version(place, old, patch)?;
        let mut object = old.clone();
        merge(&mut object, patch);
        self.write(place.clone(), object)
    }

    /// Remove an object.
    pub fn delete(&mut self, place: &Place) -> Result<Value, Refusal> {
        let Some(old) = self.all.remove(place) else { return not_found(place) };
        self.version += 1;
        self.remember(place, Some(old.clone()), None);
        Ok(old)
    }

    /// Write. What changes nothing is no write: the object keeps its version, and nobody is told.
    fn write(&mut self, place: Place, mut object: Value) -> Result<Value, Refusal> {
        let annotations = object["metadata"]["annotations"].as_object();
        let size = |all: &Map<String, Value>| {
            all.iter().map(|(name, text)| name.len() + text.as_str().map_or(0, str::len)).sum::<usize>()
        };
        if annotations.is_some_and(|all| size(all) > ANNOTATIONS) {
            let message = "metadata.annotations: Too long: must have at most 262144 bytes".to_owned();
            return refuse(422, "Invalid", message);
        }
        let old = self.all.get(&place).cloned();
        if old.as_ref() == Some(&object) {
            return Ok(object);
        }
        self.version += 1;
        metadata(&mut object).insert("resourceVersion".to_owned(), json!(self.version.to_string()));
        self.all.insert(place.clone(), object.clone());
        self.remember(&place, old, Some(object.clone()));
        Ok(object)
    }

    fn remember(&mut self, (resource, namespace, _): &Place, old: Option<Value>, new: Option<Value>) {
        let list = (resource.clone(), namespace.clone());
        self.history.push_back(Event { version: self.version, list, old, new });
        if self.history.len() > HISTORY {
            self.forgotten = self.history.pop_front().map_or(0, |event| event.version);
        }
    }

    /// Forget what happened, as an API server does after some minutes.
    pub fn forget_history(&mut self) {
        self.history.clear();
        self.forgotten = self.version;
    }

    /// What happened after a state. `None`: that is forgotten.
    pub fn since(&self, version: i64, list: &(String, String)) -> Option<Vec<Event>> {
        if version < self.forgotten {
            return None;
        }
        let newer = self.history.iter().filter(|event| event.version > version && event.list == *list);
        Some(newer.cloned().collect())
    }
}

impl Event {
    /// As a watch of the selected objects tells it: an object that is no longer selected is told of as removed.
    pub fn told(&self, selected: &Selection) -> Option<Value> {
        let is = |object: &Option<Value>| object.as_ref().is_some_and(|object| selected.has(object));
        let (kind, object) = match (is(&self.old), is(&self.new)) {
            (false, false) => return None,
            (false, true) => ("ADDED", self.new.clone()),
            (true, true) => ("MODIFIED", self.new.clone()),
            (true, false) => ("DELETED", self.old.clone()),
        };
        let mut object = object?;
        metadata(&mut object).insert("resourceVersion".to_owned(), json!(self.version.to_string()));
        Some(json!({ "type": kind, "object": object }))
    }
}

fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("it was just made one")
}

fn check_version((resource, _, name): &Place, old: &Value, new: &Value) -> Result<(), Refusal> {
    match new["metadata"]["resourceVersion"].as_str() {
        Some(version) if !version.is_empty() && old["metadata"]["resourceVersion"] != *version => {
            let problem =
                "the object has been modified; please apply your changes to the latest version and try again";
            refuse(
                409,
                "Conflict",
                format!("Operation cannot be fulfilled on {resource} {name:?}: {problem}"),
            )
        }
        _ => Ok(()),
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(target.as_object_mut().map(|target| target.remove(name))),
            value => merge(&mut target[name], value),
        }
    }
}

/// What a list or a watch selects.
#[derive(Default)]
pub struct Selection {
    labels: Vec<(String, Wanted)>,
    name: Option<String>,
}

/// What a label must be.
enum Wanted {
    OneOf(Vec<String>),
    NoneOf(Vec<String>),
}

impl Selection {
    /// What the query parameters `labelSelector` and `fieldSelector` say.
    pub fn new(labels: &str, fields: &str) -> Self {
        let mut selection = Selection::default();
        for field in fields.split(',') {
            if let Some(name) = field.strip_prefix("metadata.name=") {
                selection.name = Some(name.trim_start_matches('=').to_owned());
            }
        }
        for requirement in requirements(labels) {
            let listed = |text: &str| {
                let inner = text.trim().trim_start_matches('(').trim_end_matches(')');
                inner.split(',').map(|word| word.trim().to_owned()).collect()
            };
            let wanted = if let Some((name, words)) = requirement.split_once(" notin ") {
                (name, Wanted::NoneOf(listed(words)))
            } else if let Some((name, words)) = requirement.split_once(" in ") {
                (name, Wanted::OneOf(listed(words)))
            } else if let Some((name, word)) = requirement.split_once("!=") {
                (name, Wanted::NoneOf(vec![word.to_owned()]))
            } else if let Some((name, word)) = requirement.split_once('=') {
                (name, Wanted::OneOf(vec![word.trim_start_matches('=').to_owned()]))
            } else {
                continue;
            };
            selection.labels.push((wanted.0.trim().to_owned(), wanted.1));
        }
        selection
    }

    fn has(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let is_so = |(name, wanted): &(String, Wanted)| {
            let label = metadata["labels"][name].as_str().unwrap_or_default().to_owned();
            match wanted {
                Wanted::OneOf(words) => words.contains(&label),
                Wanted::NoneOf(words) => !words.contains(&label),
            }
        };
        self.labels.iter().all(is_so) && self.name.as_ref().is_none_or(|name| metadata["name"] == *name)
    }
}

/// The parts of a label selector: commas in brackets separate nothing.
fn requirements(text: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}
