//! A small HTTP server: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use crate::endpoint::Protection;
use crate::http_server::{HttpError, HttpServer, Service, serve_routes};

const SERVICE: Service = Service { name: "metrics", option: "--metrics-listen-address" };

/// Whether the program does its work now; what `/readyz` answers.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<State_>>);

#[derive(Debug, Default)]
enum State_ {
    #[default]
    Starting,
    Ready,
    NotReady(String),
}

impl Readiness {
    /// From now on `/readyz` answers that the work is being done.
    pub fn set_ready(&self) {
        self.set(State_::Ready);
    }

    /// From now on `/readyz` answers that the work is not being done, with the reason.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.set(State_::NotReady(reason.into()));
    }

    fn set(&self, state: State_) {
        *self.0.lock() = state;
    }

    fn answer(&self) -> (StatusCode, String) {
        match &*self.0.lock() {
            State_::Ready => (StatusCode::OK, "ready\n".to_owned()),
            State_::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
            State_::NotReady(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    }
}

/// Listen at `host:port` (an empty host: all addresses) and serve in the background.
///
/// # Errors
/// The address is taken or cannot be resolved. Whether that ends the program is the caller's choice.
pub async fn serve(address: &str, registry: Registry, readiness: Readiness) -> Result<HttpServer, HttpError> {
    serve_routes(SERVICE, address, &Protection::none(), routes(registry, readiness)).await
}

fn routes(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state((Arc::new(registry), readiness))
}

type Shared = (Arc<Registry>, Readiness);

async fn readyz(State((_, readiness)): State<Shared>) -> (StatusCode, String) {
    readiness.answer()
}

/// OpenMetrics for those who ask for it, otherwise the text format 0.0.4.
async fn metrics(State((registry, _)): State<Shared>, headers: HeaderMap) -> Response {
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("application/openmetrics-text") {
        return ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response();
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], as_text_format(&text)).into_response()
}

/// The same in the older format, which Prometheus asks for: the name of a counter ends with `_total`, and nothing marks the
/// end. `prometheus-client` writes only OpenMetrics.
fn as_text_format(open_metrics: &str) -> String {
    let counters: Vec<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name)) if counters.contains(&name) => {
                text.push_str(&format!("# {kind} {name}_total {}\n", words.next().unwrap_or_default()));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::http_server::serve_within;
    use crate::limited_listener::Limits;
    use crate::{Program, new_registry};

    async fn request(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_readiness_are_served() {
        let readiness = Readiness::default();
        let registry = new_registry(Program::Proxy, "c1");
        let server = serve("127.0.0.1:0", registry, readiness.clone()).await.unwrap();
        let text = request(server.address(), "/metrics").await;
        assert!(text.contains("text/plain; version=0.0.4"), "{text}");
        for line in [
            "stolon_cluster_identifier{cluster_name=\"c1\",component=\"proxy\"} 1\n",
            "# TYPE process_cpu_seconds_total counter\n",
            "\nprocess_cpu_seconds_total ",
            "\nprocess_resident_memory_bytes ",
            "\nprocess_open_fds ",
            "\nprocess_start_time_seconds ",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert!(!text.contains("# EOF"));
        assert!(request(server.address(), "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(request(server.address(), "/readyz").await.starts_with("HTTP/1.1 503"));
        readiness.set_ready();
        assert!(request(server.address(), "/readyz").await.starts_with("HTTP/1.1 200"));
        readiness.set_not_ready("no primary");
        assert!(request(server.address(), "/readyz").await.ends_with("no primary\n"));
        assert!(request(server.address(), "/other").await.starts_with("HTTP/1.1 404"));
        let taken = serve(&server.address().to_string(), Registry::default(), Readiness::default()).await;
        assert!(taken.unwrap_err().to_string().starts_with("cannot serve metrics at 127.0.0.1:"));
    }

    #[tokio::test]
    async fn those_who_hold_connections_open_keep_nobody_out() {
        let limits = Limits { connections: 2, time: Duration::from_millis(300) };
        let routes = routes(Registry::default(), Readiness::default());
        let server = serve_within(limits, SERVICE, "127.0.0.1:0", &Protection::none(), routes).await.unwrap();
        let mut idle = Vec::new();
        for _ in 0..6 {
            let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
            idle.push(stream);
        }
        let answer = tokio::time::timeout(Duration::from_secs(30), request(server.address(), "/healthz"));
        assert!(answer.await.unwrap().starts_with("HTTP/1.1 200"));
        for mut stream in idle {
            let mut rest = Vec::new();
            let end = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
            assert!(end.is_ok(), "every connection ends");
        }
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_answer() {
        let server = serve("127.0.0.1:0", Registry::default(), Readiness::default()).await.unwrap();
        let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(5), reading).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
