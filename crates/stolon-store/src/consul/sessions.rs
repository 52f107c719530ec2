//! Sessions: what makes keys vanish, or locks free, after their process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use stolon_model::GoDuration;

use super::protocol::{Client, Links};
use crate::StoreError;
use crate::leases::{Granted, Grantor, Known};
use crate::link::Repeat;

/// Consul takes no session with a longer time to live.
const LONGEST: Duration = Duration::from_secs(86_400);

/// What happens to the keys of a session when it ends.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Behavior {
    /// They go.
    Delete,
    /// They stay, and hang on no session any more.
    Release,
}

/// Consul as a grantor of sessions for reports.
pub struct Sessions(pub Arc<Links>);

#[async_trait]
impl Grantor for Sessions {
    type Id = String;

    /// Consul ends a session between one and two times its time to live after it was last heard of, so that half of what was
    /// asked for is right.
    async fn grant(&self, seconds: u64) -> Result<Granted<String>, StoreError> {
        let length = (Duration::from_secs(seconds) / 2).min(LONGEST);
        Ok(Granted { id: create(&self.0, Behavior::Delete, length).await?, length })
    }

    async fn keep_alive(&self, id: &String) -> Result<Known, StoreError> {
        renew(&self.0, id).await
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Session {
    behavior: Behavior,
    /// Whoever comes next need not wait: these sessions are no guard of anything.
    lock_delay: &'static str,
    #[serde(rename = "TTL")]
    ttl: String,
    /// None: a session must not end because Consul thinks little of the machine of its agent.
    checks: [String; 0],
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

/// A new session. One whose id does not arrive ends by itself.
pub async fn create(links: &Links, behavior: Behavior, ttl: Duration) -> Result<String, StoreError> {
    let operation = "asking for a session";
    let session = Session { behavior, lock_delay: "1ms", ttl: GoDuration::from(ttl).to_string(), checks: [] };
    let body = serde_json::to_string(&session).unwrap_or_default();
    let body = body.as_str();
    links
        .ask(operation, Repeat::Safe, move |client: Client| async move {
            let answer = client.ask(operation, Method::PUT, "/v1/session/create?", body.to_owned()).await?;
            Ok(answer.json::<Created>()?.id)
        })
        .await
}

/// Let a session last its whole time to live from now on.
pub async fn renew(links: &Links, id: &str) -> Result<Known, StoreError> {
    let operation = "keeping a session alive";
    let path = format!("/v1/session/renew/{id}?");
    let path = path.as_str();
    links
        .ask(operation, Repeat::Safe, move |client: Client| async move {
            let answer = client.ask(operation, Method::PUT, path, String::new()).await?;
            Ok(if answer.status == StatusCode::NOT_FOUND { Known::No } else { Known::Yes })
        })
        .await
}

/// End a session, if there is one.
pub async fn destroy(links: &Links, id: &str) -> Result<(), StoreError> {
    let operation = "ending a session";
    let path = format!("/v1/session/destroy/{id}?");
    let path = path.as_str();
    links
        .ask(operation, Repeat::Safe, move |client: Client| async move {
            client.ask(operation, Method::PUT, path, String::new()).await.map(|_| ())
        })
        .await
}
