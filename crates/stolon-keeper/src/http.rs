//! The keeper's HTTP endpoint: what load balancers and orchestrators ask (docs: "What can be asked").
//!
//! It goes by a picture that the keeper's loop leaves behind, and never asks PostgreSQL or the store itself: however many ask, and however
//! often, nobody else is kept waiting. Only a pledge is for the loop to give ([`crate::pledges`]).

use axum::Extension;
use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};
use stolon_core::keeper::{Inquiry, Office, Picture};
use stolon_model::KeeperUid;
use stolon_runtime::{Access, HttpServer, Protection, Service, version};
use tokio::sync::{mpsc, watch};

use crate::keeper::now;
use crate::pledges::{self, Question};

const SERVICE: Service = Service { name: "health checks", option: "--http-listen-address" };

/// What those who ask are told of.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) keeper: KeeperUid,
    pub(crate) cluster: String,
    pub(crate) picture: watch::Receiver<Picture>,
    /// Questions that the keeper's loop answers.
    pub(crate) questions: mpsc::Sender<Question>,
}

/// A port that is taken costs the answers, not the database.
pub(crate) async fn serve(address: &str, protection: &Protection, shown: Shown) -> Option<HttpServer> {
    if address.is_empty() {
        return None;
    }
    let routes = Router::new().merge(pledges::routes()).fallback(answer).with_state(shown);
    match stolon_runtime::serve_routes(SERVICE, address, protection, routes).await {
        Ok(server) => Some(server),
        Err(error) => {
            tracing::error!(%error, "the keeper answers no health checks");
            None
        }
    }
}

/// GET answers with the status besides the code; HEAD and OPTIONS with the code alone, and so does GET to whoever has shown no token where one is
/// demanded: load balancers and probes go by codes.
async fn answer(
    State(shown): State<Shown>,
    Extension(access): Extension<Access>,
    method: Method,
    uri: Uri,
) -> Response {
    let has_body = match method {
        Method::GET => true,
        Method::HEAD | Method::OPTIONS => false,
        _ => return StatusCode::METHOD_NOT_ALLOWED.into_response(),
    };
    let Some(inquiry) = Inquiry::parse(uri.path(), uri.query().unwrap_or_default()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let is_status = matches!(inquiry, Inquiry::Status);
    let picture = shown.picture.borrow().clone();
    let answered = picture.answer(inquiry, now());
    let code = if answered.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match (has_body, access) {
        (true, Access::Everything) => {}
        (true, Access::CodesOnly) if is_status => return unauthorized(),
        _ => return code.into_response(),
    }
    let mut status = status(&shown, &picture);
    if let Err(no) = answered {
        status.insert("reason".to_owned(), no.to_string().into());
    }
    (code, [(CONTENT_TYPE, "application/json")], format!("{}\n", Value::Object(status))).into_response()
}

/// Whoever asks has to show a token, or a certificate (RFC 9110, section 15.5.2).
pub(crate) fn unauthorized() -> Response {
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response()
}

/// The status of the node in the words that Patroni's users know; what is not known is left out.
fn status(shown: &Shown, picture: &Picture) -> Map<String, Value> {
    let now = now();
    let mut status = Map::new();
    let mut add = |name: &str, value: Value| status.insert(name.to_owned(), value);
    add("state", if picture.working(now).is_ok() { "running" } else { "stopped" }.into());
    if let Some(role) = picture.orders.as_ref().and_then(|orders| role(orders.office)) {
        add("role", role.into());
    }
    if let Ok(server) = picture.working(now) {
        let position = match server.in_recovery {
            true => {
                json!({ "received_location": server.lsn.0, "replication_state": replication_state(server.receives_wal) })
            }
            false => json!({ "location": server.lsn.0 }),
        };
        add("xlog", position);
        add("timeline", server.timeline.0.into());
        add("database_system_identifier", server.system_identifier.clone().into());
        add("postmaster_start_time", started(server.started.instant()).into());
        let standbys: Vec<Value> = server
            .standbys
            .iter()
            .map(|uid| json!({ "application_name": format!("stolon_{uid}") }))
            .collect();
        if !standbys.is_empty() {
            add("replication", standbys.into());
        }
        add("looked_seconds_ago", now.saturating_sub(server.looked_at).as_secs_f64().into());
    }
    if let Some(orders) = &picture.orders {
        add("sync_standby", (orders.office == Office::SynchronousStandby).into());
        add("pause", orders.paused.into());
        add("cluster_data_seconds_ago", now.saturating_sub(orders.as_of).as_secs_f64().into());
    }
    if let Some(end) = picture.lease_ends {
        add("lease_seconds_left", end.saturating_sub(now).as_secs_f64().into());
    }
    add("pending_restart", picture.pending_restart.into());
    add("stolon", json!({ "version": version(), "scope": shown.cluster, "name": shown.keeper.as_str() }));
    status
}

fn role(office: Office) -> Option<&'static str> {
    match office {
        Office::Primary | Office::ClosedPrimary => Some("primary"),
        Office::StandbyLeader => Some("standby_leader"),
        Office::SynchronousStandby | Office::Standby => Some("replica"),
        Office::Nothing => None,
    }
}

fn replication_state(receives_wal: bool) -> &'static str {
    if receives_wal { "streaming" } else { "none" }
}

fn started(instant: jiff::Timestamp) -> String {
    instant.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S.%6f%:z").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stolon_core::keeper::{Orders, ServerPicture};
    use stolon_model::{Lsn, Timeline, Timestamp};
    use stolon_testkit::http;

    use super::*;

    fn primary() -> Picture {
        let now = now();
        let server = ServerPicture {
            looked_at: now,
            in_recovery: false,
            admits_clients: true,
            timeline: Timeline(3),
            lsn: Lsn(4_096),
            receives_wal: true,
            started: Timestamp::ZERO,
            system_identifier: "7".to_owned(),
            standbys: vec!["b".into()],
        };
        let orders = Orders {
            as_of: now,
            good_for: Duration::from_secs(15),
            office: Office::Primary,
            primary_lsn: Lsn(4_096),
            paused: true,
        };
        let interval = Duration::from_secs(5);
        Picture {
            at: now,
            sleep: interval,
            fail: interval * 4,
            server: Some(server),
            orders: Some(orders),
            pending_restart: false,
            vouched: None,
            lease_ends: None,
        }
    }

    #[tokio::test]
    async fn codes_and_status_are_those_that_load_balancers_know() {
        let (pictures, picture) = watch::channel(Picture::default());
        let (questions, _asked) = pledges::channel();
        let shown = Shown { keeper: "k1".into(), cluster: "c1".to_owned(), picture, questions };
        let server = serve("127.0.0.1:0", &Protection::none(), shown).await.unwrap();
        let port = server.address().port();
        let (code, body) = http(port, "GET", "/primary", "").await.unwrap();
        assert_eq!(code, 503);
        assert!(body.contains("\"reason\":\"PostgreSQL does not work"), "{body}");
        assert_eq!(http(port, "GET", "/status", "").await.unwrap().0, 200);

        pictures.send_replace(primary());
        let (code, body) = http(port, "GET", "/primary?x=y", "").await.unwrap();
        assert_eq!(code, 200);
        let status: Value = serde_json::from_str(&body).unwrap();
        for (name, expected) in [
            ("state", json!("running")),
            ("role", json!("primary")),
            ("timeline", json!(3)),
            ("xlog", json!({ "location": 4096 })),
            ("pause", json!(true)),
            ("replication", json!([{ "application_name": "stolon_b" }])),
        ] {
            assert_eq!(status[name], expected, "{body}");
        }
        for (method, path, expected) in [
            ("HEAD", "/primary", 200),
            ("OPTIONS", "/primary", 200),
            ("HEAD", "/replica", 503),
            ("OPTIONS", "/replica?lag=1MB", 503),
        ] {
            assert_eq!(
                http(port, method, path, "").await.unwrap(),
                (expected, String::new()),
                "{method} {path}"
            );
        }
        assert_eq!(http(port, "PUT", "/primary", "").await.unwrap().0, 405);
        assert_eq!(http(port, "GET", "/switchover", "").await.unwrap().0, 404);
    }
}
