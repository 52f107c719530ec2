//! How etcd is spoken to through its version 2 interface.

use async_trait::async_trait;
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::endpoints::{ETCD, Endpoints};
use crate::http::{Answer, HttpClient, Question, Targets, escape_path};
use crate::link::{Failed, Protocol};
use crate::{Entry, Key, Revision, StoreError, StoreOptions};

/// All connections to etcd.
pub type Links = crate::link::Links<EtcdV2>;

/// The protocol.
pub struct EtcdV2 {
    targets: Targets,
}

/// Nothing is connected yet.
///
/// # Errors
/// [`StoreError::Configuration`]: the flags make no sense.
pub fn links(options: &StoreOptions) -> Result<Links, StoreError> {
    let endpoints = Endpoints::parse(&options.endpoints, &ETCD)?;
    let protocol = EtcdV2 { targets: Targets::new(&endpoints, options)? };
    Ok(Links::new(protocol, endpoints.urls, options.timeout))
}

/// The key as etcd has it, without the slash that it puts in front of each.
pub fn plain(key: &Key) -> &str {
    key.as_str().trim_start_matches('/')
}

/// The path of a key, with the beginning of a query.
pub fn path(key: &Key) -> String {
    format!("/v2/keys/{}?", escape_path(plain(key)))
}

#[async_trait]
impl Protocol for EtcdV2 {
    type Client = Client;
    type Error = Failed;

    /// The question can only be answered by a member that has a leader.
    async fn connect(&self, endpoint: usize) -> Result<Client, String> {
        let client = Client { http: self.targets.client(endpoint, HeaderMap::new())? };
        let path = path(&Key::new("stolon")) + "quorum=true";
        match client.ask("connecting", Method::GET, &path, String::new()).await {
            Ok(_) => Ok(client),
            Err(Failed::NotSent(cause) | Failed::NoAnswer(cause)) => Err(cause),
            Err(Failed::Refused(error)) => Err(error.to_string()),
        }
    }

    fn classify(_: &str, error: Failed) -> Failed {
        error
    }

    fn hint(&self) -> &'static str {
        "check that etcd runs with --enable-v2 and has a majority of its members, and check --store-endpoints"
    }
}

/// A client of one member.
#[derive(Clone)]
pub struct Client {
    http: HttpClient,
}

/// What etcd says, with the state that it says it of.
pub struct Reply {
    /// The number of the state.
    pub index: i64,
    /// What happened.
    pub outcome: Result<Event, Code>,
}

/// Something that was read or done.
#[derive(Deserialize)]
pub struct Event {
    action: String,
    /// The key as it is afterwards.
    pub node: Node,
}

impl Event {
    /// True if the key is gone.
    pub fn is_removal(&self) -> bool {
        matches!(self.action.as_str(), "delete" | "expire" | "compareAndDelete")
    }
}

/// A key, or all keys below it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// With a slash in front; the root has none.
    #[serde(default)]
    key: String,
    value: Option<String>,
    /// True for one that has keys below it.
    #[serde(default)]
    pub dir: bool,
    #[serde(default)]
    nodes: Vec<Node>,
    /// The state that it was last written in.
    #[serde(default)]
    pub modified_index: i64,
    /// The state that it was made or replaced in. Conditional writes and longer lives leave it as it is.
    #[serde(default)]
    pub created_index: i64,
}

impl Node {
    /// The key.
    pub fn key(&self) -> &str {
        self.key.trim_start_matches('/')
    }

    /// The value, if it has one.
    pub fn value(&self) -> Option<&str> {
        if self.dir { None } else { Some(self.value.as_deref().unwrap_or_default()) }
    }

    /// The entry, if it is one.
    pub fn entry(&self) -> Option<Entry> {
        let value = self.value()?.as_bytes().to_vec();
        Some(Entry { key: Key::new(self.key()), value, revision: Revision(self.modified_index) })
    }

    /// All entries below it, in order.
    pub fn entries_below(&self) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut left: Vec<&Node> = self.nodes.iter().collect();
        while let Some(node) = left.pop() {
            found.extend(node.entry());
            left.extend(&node.nodes);
        }
        found.sort_by(|one, other| one.key.cmp(&other.key));
        found
    }
}

/// Why nothing was done, where that is no fault (etcd documentation, v2 "Error Code").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 100: there is no such key.
    KeyNotFound,
    /// 101: the key is not as it must be.
    CompareFailed,
    /// 105: there is such a key already.
    NodeExists,
    /// 401: what was asked for happened too long ago.
    EventIndexCleared,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refusal {
    error_code: u32,
    message: String,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    index: i64,
}

impl Client {
    /// Ask; `form` is the body of a write.
    pub async fn ask(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        form: String,
    ) -> Result<Reply, Failed> {
        let question = Question::new(method, path.to_owned());
        let question = match form.is_empty() {
            true => question,
            false => question.with_body(form, "application/x-www-form-urlencoded"),
        };
        read(operation, &self.http.ask(&question).await?)
    }
}

fn read(operation: &str, answer: &Answer) -> Result<Reply, Failed> {
    let index = answer.number("x-etcd-index");
    if answer.status.is_success() {
        return Ok(Reply { index: index.unwrap_or(0), outcome: Ok(answer.json()?) });
    }
    let refused = |cause: String, hint: &str| {
        let (operation, hint) = (operation.to_owned(), hint.to_owned());
        Err(Failed::Refused(StoreError::Refused { operation, cause, hint }))
    };
    if answer.status.is_server_error() {
        return Err(Failed::NoAnswer(answer.text()));
    }
    let Ok(refusal) = serde_json::from_slice::<Refusal>(&answer.body) else {
        return match answer.status {
            StatusCode::NOT_FOUND => refused(
                "it has no version 2 interface".to_owned(),
                "start etcd with --enable-v2, or use --store-backend etcdv3",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => refused(answer.text(), "the value is too large for etcd"),
            status => refused(format!("{status}: {}", answer.text()), "see the log of etcd"),
        };
    };
    let code = match refusal.error_code {
        100 => Code::KeyNotFound,
        101 => Code::CompareFailed,
        105 => Code::NodeExists,
        401 => Code::EventIndexCleared,
        other => {
            let cause = format!("{} ({})", refusal.message, refusal.cause);
            return match other {
                110 => {
                    refused(cause, "etcd does not let this client in: check its users and --store-cert-file")
                }
                102 | 104 => {
                    refused(cause, "a key of etcd's version 2 interface has either a value or keys below it")
                }
                _ => refused(cause, "see the log of etcd"),
            };
        }
    };
    Ok(Reply { index: index.unwrap_or(refusal.index), outcome: Err(code) })
}
