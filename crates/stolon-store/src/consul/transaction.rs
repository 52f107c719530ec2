//! Several operations on keys in one request: all are done, or none is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::protocol::{Client, Links};
use crate::link::{Failed, Repeat};
use crate::{Entry, Key, Revision, StoreError};

/// What Consul's own clients and Stolon mark keys with. Their locks refuse a key that has another mark.
const FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

/// An operation.
#[derive(Serialize)]
pub struct Step<'a> {
    #[serde(rename = "KV")]
    kv: Operation<'a>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Operation<'a> {
    verb: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

impl<'a> Step<'a> {
    fn new(verb: &'static str, key: &'a Key) -> Self {
        Step { kv: Operation { verb, key: super::plain(key), ..Operation::default() } }
    }

    fn with_value(self, value: &[u8]) -> Self {
        let kv = Operation { value: Some(STANDARD.encode(value)), flags: Some(FLAGS), ..self.kv };
        Step { kv }
    }

    /// Remove the key, if it is there.
    pub fn delete(key: &'a Key) -> Self {
        Self::new("delete", key)
    }

    /// Write. Writing what is there already changes nothing, not even the revision: see [`Step::delete`].
    pub fn set(key: &'a Key, value: &[u8]) -> Self {
        Self::new("set", key).with_value(value)
    }

    /// Write a key that must be absent.
    pub fn create(key: &'a Key, value: &[u8]) -> Self {
        let step = Self::new("cas", key).with_value(value);
        Step { kv: Operation { index: Some(0), ..step.kv } }
    }

    /// Fail if the key is not as it was then.
    pub fn check(key: &'a Key, revision: Revision) -> Self {
        Step { kv: Operation { index: Some(revision.0), ..Self::new("check-index", key).kv } }
    }

    /// Write a key that hangs on a session; fail if it hangs on another one, or if there is no such session.
    pub fn lock(key: &'a Key, value: &[u8], session: &'a str) -> Self {
        let step = Self::new("lock", key).with_value(value);
        Step { kv: Operation { session: Some(session), ..step.kv } }
    }

    /// Read all keys that begin with this one. (Reading a single key that is absent fails.)
    pub fn read_beginning_with(key: &'a Key) -> Self {
        Self::new("get-tree", key)
    }
}

/// A key as Consul shows it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pair {
    key: String,
    value: Option<String>,
    /// The session that the key hangs on.
    #[serde(default)]
    pub session: Option<String>,
    /// The state of the store that the key was last written in.
    pub modify_index: i64,
}

impl Pair {
    /// The entry.
    ///
    /// # Errors
    /// What answers is no Consul.
    pub fn entry(self) -> Result<Entry, Failed> {
        let value = STANDARD
            .decode(self.value.unwrap_or_default())
            .map_err(|error| Failed::NoAnswer(format!("a value cannot be read: {error}")))?;
        Ok(Entry { key: Key::new(self.key), value, revision: Revision(self.modify_index) })
    }
}

/// What became of a transaction.
pub enum Outcome {
    /// All of it was done.
    Done(Vec<Pair>),
    /// Nothing was done.
    Refused {
        /// The step that failed, counted from zero.
        step: usize,
        /// Consul's words.
        cause: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    results: Option<Vec<Found>>,
    errors: Option<Vec<Refusal>>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(rename = "KV")]
    kv: Pair,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    op_index: usize,
    what: String,
}

/// Do all steps.
pub async fn transact(
    links: &Links,
    operation: &str,
    repeat: Repeat,
    steps: &[Step<'_>],
) -> Result<Outcome, StoreError> {
    let body = serde_json::to_string(steps).map_err(|error| StoreError::Refused {
        operation: operation.to_owned(),
        cause: error.to_string(),
        hint: String::new(),
    })?;
    let body = body.as_str();
    links.ask(operation, repeat, move |client: Client| transact_once(client, operation, body)).await
}

async fn transact_once(client: Client, operation: &str, body: &str) -> Result<Outcome, Failed> {
    let answer = client.ask(operation, Method::PUT, "/v1/txn?", body.to_owned()).await?;
    let response: Response = answer.json()?;
    match response.errors.unwrap_or_default().into_iter().next() {
        Some(Refusal { op_index, what }) => Ok(Outcome::Refused { step: op_index, cause: what }),
        None if answer.status == StatusCode::OK => Ok(Outcome::Done(
            response.results.unwrap_or_default().into_iter().map(|found| found.kv).collect(),
        )),
        None => Err(Failed::NoAnswer(format!("{}: {}", answer.status, answer.text()))),
    }
}
