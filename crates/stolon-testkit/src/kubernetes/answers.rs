//! Requests and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::objects::{Place, Refusal, Selection};
use super::{Gone, Life, Shared};

/// Between two bookmarks; a real API server takes a minute.
const BOOKMARK: Duration = Duration::from_millis(500);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The resources that there are: name, kind, path in front of the namespace.
const RESOURCES: [(&str, &str, &str); 14] = [
    ("configmaps", "ConfigMap", "/api/v1"),
    ("pods", "Pod", "/api/v1"),
    ("events", "Event", "/api/v1"),
    ("services", "Service", "/api/v1"),
    ("endpoints", "Endpoints", "/api/v1"),
    ("secrets", "Secret", "/api/v1"),
    ("serviceaccounts", "ServiceAccount", "/api/v1"),
    ("leases", "Lease", "/apis/coordination.k8s.io/v1"),
    ("statefulsets", "StatefulSet", "/apis/apps/v1"),
    ("deployments", "Deployment", "/apis/apps/v1"),
    ("jobs", "Job", "/apis/batch/v1"),
    ("poddisruptionbudgets", "PodDisruptionBudget", "/apis/policy/v1"),
    ("roles", "Role", "/apis/rbac.authorization.k8s.io/v1"),
    ("rolebindings", "RoleBinding", "/apis/rbac.authorization.k8s.io/v1"),
];

fn json_answer(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    let answer = Response::builder().status(code).header("content-type", "application/json").body(body);
    answer.expect("its parts are right")
}

fn refusal(Refusal { code, reason, message }: &Refusal) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn refuse(code: u16, reason: &'static str, message: &str) -> Response<Body> {
    json_answer(code, &refusal(&Refusal { code, reason, message: message.to_owned() }))
}

/// Returns when the server is not paused.
async fn while_paused(shared: &Shared) {
    // The sender lives as long as what it is part of.
    let _ = shared.life.subscribe().wait_for(|life| *life != Life::Paused).await;
}

/// Answer a request.
pub async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return refuse(400, "BadRequest", "half a request") };
    let body = body.to_bytes();
    while_paused(&shared).await;
    let (delay, status, token) = {
        let trouble = shared.trouble.lock();
        (trouble.delay, trouble.status, trouble.token.clone())
    };
    tokio::time::sleep(delay).await;
    if let Some(status) = status {
        return refuse(status, "InternalError", "the API server was told to fail");
    }
    let path = head.uri.path();
    if let Some(fixed) = fixed(path) {
        return fixed;
    }
    let shown = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    if token.is_some_and(|token| shown != Some(&format!("Bearer {token}"))) {
        return refuse(401, "Unauthorized", "Unauthorized");
    }
    let query: BTreeMap<String, String> = parse_query(head.uri.query().unwrap_or_default());
    let Some((resource, kind, namespace, name)) = target(path) else {
        return refuse(404, "NotFound", "the server could not find the requested resource");
    };
    let list = (resource.to_owned(), namespace.to_owned());
    let is_watch = is_so(&query, "watch");
    let verb = match (&head.method, name.is_empty()) {
        (&Method::GET, true) if is_watch => "watch",
        (&Method::GET, true) => "list",
        (&Method::GET, false) => "get",
        (&Method::POST, true) => "create",
        (&Method::PUT, false) => "update",
        (&Method::PATCH, false) => "patch",
        (&Method::DELETE, false) => "delete",
        _ => return refuse(405, "MethodNotAllowed", "the server does not allow this method on the resource"),
    };
    if shared.trouble.lock().forbidden.contains(&(verb.to_owned(), resource.to_owned())) {
        return refuse(
            403,
            "Forbidden",
            &format!("{resource} is forbidden: User \"test\" cannot {verb} resource"),
        );
    }
    let wanted = |name: &str| query.get(name).cloned().unwrap_or_default();
    let selected = Selection::new(&wanted("labelSelector"), &wanted("fieldSelector"));
    if verb == "watch" {
        return watch(shared, list, kind, selected, &query);
    }
    if verb == "list" {
        let objects = shared.objects.lock();
        let items = objects.list(&list, &selected);
        let metadata = json!({ "resourceVersion": objects.version().to_string() });
        let kind = format!("{kind}List");
        return json_answer(
            200,
            &json!({ "kind": kind, "apiVersion": "v1", "metadata": metadata, "items": items }),
        );
    }
    let place = (list.0.clone(), list.1.clone(), name.to_owned());
    let content = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    one(&shared, verb, &place, kind, content, &body)
}

/// Answers that depend on nothing: what clients ask first.
fn fixed(path: &str) -> Option<Response<Body>> {
    let named = |group: &str| {
        let resources: Vec<Value> = RESOURCES
            .iter()
            .filter(|(_, _, in_front)| {
                in_front.trim_start_matches("/apis/").trim_start_matches("/api/") == group
            })
            .map(|(name, kind, _)| {
                let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
                json!({ "name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs })
            })
            .collect();
        json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources })
    };
    let value = match path {
        "/version" => json!({ "major": "1", "minor": "20", "gitVersion": "v1.20.2" }),
        "/healthz" | "/livez" | "/readyz" => json!("ok"),
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"] }),
        "/api/v1" => named("v1"),
        "/apis" => {
            let groups: BTreeSet<&str> =
                RESOURCES.iter().filter_map(|(_, _, in_front)| in_front.strip_prefix("/apis/")).collect();
            let group = |path: &&str| {
                let name = path.trim_end_matches("/v1");
                let version = json!({ "groupVersion": path, "version": "v1" });
                json!({ "name": name, "versions": [version], "preferredVersion": version })
            };
            let groups: Vec<Value> = groups.iter().map(group).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        _ => match path.strip_prefix("/apis/") {
            Some(group) if RESOURCES.iter().any(|(_, _, in_front)| *in_front == path) => named(group),
            _ => return None,
        },
    };
    Some(json_answer(200, &value))
}

/// Resource, kind, namespace and name in a path; the name is empty for a list.
fn target(path: &str) -> Option<(&'static str, &'static str, &str, &str)> {
    for (resource, kind, in_front) in RESOURCES {
        let Some(rest) = path.strip_prefix(in_front).and_then(|rest| rest.strip_prefix("/namespaces/"))
        else {
            continue;
        };
        let mut parts = rest.split('/');
        let (namespace, found) = (parts.next()?, parts.next()?);
        if found == resource {
            return Some((resource, kind, namespace, parts.next().unwrap_or_default()));
        }
    }
    None
}

fn one(
    shared: &Shared,
    verb: &str,
    place: &Place,
    kind: &str,
    content: &str,
    body: &Bytes,
) -> Response<Body> {
    let object = serde_json::from_slice::<Value>(body);
    let is_merge =
        content.starts_with("application/merge-patch") || content.starts_with("application/strategic");
    let mut objects = shared.objects.lock();
    let done = match (verb, object) {
        ("get", _) => objects.get(place),
        ("delete", _) => objects.delete(place),
        ("patch", _) if !is_merge => {
            return refuse(415, "UnsupportedMediaType", "the body of the request was in an unknown format");
        }
        (_, Err(error)) => return refuse(400, "BadRequest", &error.to_string()),
        ("create", Ok(mut object)) => {
            object["kind"] = json!(kind);
            objects.create(&(place.0.clone(), place.1.clone()), object)
        }
        ("update", Ok(object)) => objects.replace(place, object),
        (_, Ok(patch)) => objects.patch(place, &patch),
    };
    shared.changed.send_replace(objects.version());
    match done {
        Ok(object) => json_answer(if verb == "create" { 201 } else { 200 }, &object),
        Err(refused) => json_answer(refused.code, &refusal(&refused)),
    }
}

/// A watch, while it goes on.
struct Watching {
    shared: Arc<Shared>,
    list: (String, String),
    kind: &'static str,
    selected: Selection,
    /// What was told of.
    version: i64,
    waiting: Vec<Value>,
    bookmarks: bool,
    until: Instant,
    is_over: bool,
}

fn watch(
    shared: Arc<Shared>,
    list: (String, String),
    kind: &'static str,
    selected: Selection,
    query: &BTreeMap<String, String>,
) -> Response<Body> {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<i64>().ok());
    let (version, waiting) = {
        let objects = shared.objects.lock();
        match number("resourceVersion").filter(|version| *version > 0) {
            Some(version) => (version, Vec::new()),
            None => {
                let there = objects.list(&list, &selected).into_iter();
                (
                    objects.version(),
                    there.map(|object| json!({ "type": "ADDED", "object": object })).collect(),
                )
            }
        }
    };
    let seconds = number("timeoutSeconds").and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(1_800);
    let until = Instant::now() + Duration::from_secs(seconds);
    let is_gone = shared.objects.lock().since(version, &list).is_none();
    if is_gone && shared.trouble.lock().gone == Gone::ByStatus {
        return refuse(410, "Expired", "too old resource version");
    }
    shared.watches.fetch_add(1, Ordering::SeqCst);
    let bookmarks = is_so(query, "allowWatchBookmarks");
    let watching =
        Watching { shared, list, kind, selected, version, waiting, bookmarks, until, is_over: false };
    let lines = stream::unfold(watching, |mut watching| async move {
        let event = watching.next().await?;
        let line = Bytes::from(format!("{event}\n"));
        Some((Ok::<_, Infallible>(Frame::data(line)), watching))
    });
    let body = StreamBody::new(lines).boxed_unsync();
    let answer = Response::builder().status(200).header("content-type", "application/json").body(body);
    answer.expect("its parts are right")
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.shared.watches.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Watching {
    /// The next event; `None`: its time is over.
    async fn next(&mut self) -> Option<Value> {
        let mut changed = self.shared.changed.subscribe();
        let mut bookmark = Instant::now() + BOOKMARK;
        loop {
            while_paused(&self.shared).await;
            if !self.waiting.is_empty() {
                return Some(self.waiting.remove(0));
            }
            if self.is_over {
                return None;
            }
            changed.borrow_and_update();
            let (events, version) = {
                let objects = self.shared.objects.lock();
                (objects.since(self.version, &self.list), objects.version())
            };
            let Some(events) = events else {
                self.is_over = true;
                let gone =
                    Refusal { code: 410, reason: "Expired", message: "too old resource version".to_owned() };
                return Some(json!({ "type": "ERROR", "object": refusal(&gone) }));
            };
            self.version = version;
            self.waiting = events.iter().filter_map(|event| event.told(&self.selected)).collect();
            if !self.waiting.is_empty() {
                continue;
            }
            let wake = if self.bookmarks { bookmark.min(self.until) } else { self.until };
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(wake) => {
                    self.is_over = Instant::now() >= self.until;
                    if self.bookmarks {
                        bookmark = Instant::now() + BOOKMARK;
                        self.waiting = vec![self.bookmark()];
                    }
                }
            }
        }
    }

    fn bookmark(&self) -> Value {
        let metadata = json!({ "resourceVersion": self.version.to_string(), "creationTimestamp": null });
        json!({ "type": "BOOKMARK", "object": { "kind": self.kind, "apiVersion": "v1", "metadata": metadata } })
    }
}

/// Kubernetes takes every word for yes but these two.
fn is_so(query: &BTreeMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|text| !matches!(text.to_ascii_lowercase().as_str(), "false" | "0"))
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| {
                percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
            };
            (plain(name), plain(value))
        })
        .collect()
}
