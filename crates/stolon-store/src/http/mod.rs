//! Stores that are spoken to through HTTP/1.1: a few connections to one endpoint, each used by one request at a time.

mod connection;
mod lines;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use parking_lot::Mutex;
use stolon_model::with_causes;

use self::connection::{Address, Connection};
pub use self::lines::Lines;
use crate::endpoints::Endpoints;
use crate::link::Failed;
use crate::tls::TlsFiles;
use crate::{StoreError, StoreOptions};

/// Connections that wait for a request; more are closed.
const IDLE_CONNECTIONS: usize = 4;
/// No answer is longer.
const LONGEST_ANSWER: usize = 64 << 20;

/// A client of one endpoint. Clones share its connections.
#[derive(Clone)]
pub struct HttpClient {
    shared: Arc<Shared>,
}

struct Shared {
    address: Address,
    /// Sent with each request.
    headers: HeaderMap,
    idle: Mutex<Vec<Connection>>,
}

/// A request without its host.
#[derive(Clone, Debug)]
pub struct Question {
    method: Method,
    /// Path and query.
    path: String,
    body: Bytes,
    content_type: Option<&'static str>,
    authorization: Option<HeaderValue>,
}

impl Question {
    /// A question without a body.
    pub fn new(method: Method, path: String) -> Self {
        Question { method, path, body: Bytes::new(), content_type: None, authorization: None }
    }

    /// The same with a body.
    pub fn with_body(self, body: impl Into<Bytes>, content_type: &'static str) -> Self {
        Question { body: body.into(), content_type: Some(content_type), ..self }
    }

    /// The same with what lets this client in at the moment.
    pub fn authorized(self, authorization: Option<HeaderValue>) -> Self {
        Question { authorization, ..self }
    }
}

/// An answer, whatever it says.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// A header that holds a number.
    pub fn number(&self, header: &str) -> Option<i64> {
        self.headers.get(header)?.to_str().ok()?.parse().ok()
    }

    /// The body as a person reads it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// The body as a JSON document.
    ///
    /// # Errors
    /// What answered is not the expected kind of store, and what it did is unknown.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failed> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failed::NoAnswer(format!("the answer cannot be read: {error}")))
    }
}

/// The endpoints of a store that is spoken to through HTTP.
pub struct Targets {
    addresses: Vec<Address>,
    tls: Option<Arc<TlsFiles>>,
}

impl Targets {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the TLS files make no sense.
    pub fn new(endpoints: &Endpoints, options: &StoreOptions) -> Result<Self, StoreError> {
        let tls = TlsFiles::for_scheme(endpoints.scheme, options)?.map(Arc::new);
        if let Some(tls) = &tls {
            // What cannot be used is found now, and not when it is first needed.
            tls.client_config()?;
        }
        let addresses = endpoints
            .urls
            .iter()
            .map(|url| Address::from_url(url, options.timeout))
            .collect::<Result<_, _>>()?;
        Ok(Targets { addresses, tls })
    }

    /// One endpoint, `<scheme>://<host>:<port>`. With TLS it proves that it is `name`, or the host where there is none.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the host can be none, or the certificates make no sense.
    pub fn single(
        url: &str,
        name: Option<&str>,
        tls: Option<TlsFiles>,
        timeout: Duration,
    ) -> Result<Self, StoreError> {
        if let Some(tls) = &tls {
            tls.client_config()?;
        }
        let address = Address::from_url(url, timeout)?.named(name)?;
        Ok(Targets { addresses: vec![address], tls: tls.map(Arc::new) })
    }

    /// A client of the endpoint with this place in the list, without connections yet.
    pub fn client(&self, endpoint: usize, mut headers: HeaderMap) -> Result<HttpClient, String> {
        let address = self.addresses[endpoint].with_tls(self.tls.clone());
        let host = HeaderValue::from_str(address.authority()).map_err(|error| error.to_string())?;
        headers.insert(HOST, host);
        Ok(HttpClient { shared: Arc::new(Shared { address, headers, idle: Mutex::default() }) })
    }
}

impl HttpClient {
    /// Send a question. Cancelling it closes its connection.
    ///
    /// # Errors
    /// [`Failed::NotSent`] and [`Failed::NoAnswer`].
    pub async fn ask(&self, question: &Question) -> Result<Answer, Failed> {
        let mut request = self.request(question)?;
        loop {
            let (mut connection, age) = match self.take_idle() {
                Some(connection) => (connection, Age::Used),
                None => {
                    let made = Connection::open(&self.shared.address).await;
                    (made.map_err(Failed::NotSent)?, Age::New)
                }
            };
            match connection.send(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = Limited::new(body, LONGEST_ANSWER).collect().await;
                    let body = body.map_err(|error| Failed::NoAnswer(with_causes(&*error)))?.to_bytes();
                    self.keep(connection);
                    return Ok(Answer { status: head.status, headers: head.headers, body });
                }
                // The endpoint had closed a connection that nobody used.
                Err((_, Some(unsent))) if age == Age::Used => request = unsent,
                Err((error, Some(_))) => return Err(Failed::NotSent(with_causes(&error))),
                Err((error, None)) => return Err(Failed::NoAnswer(with_causes(&error))),
            }
        }
    }

    /// Send a question over a connection of its own, and read the answer line by line, for as long as it goes on.
    ///
    /// # Errors
    /// [`Failed::NotSent`] and [`Failed::NoAnswer`].
    pub async fn listen(&self, question: &Question) -> Result<Lines, Failed> {
        let request = self.request(question)?;
        let mut connection = Connection::open(&self.shared.address).await.map_err(Failed::NotSent)?;
        let response =
            connection.send(request).await.map_err(|(error, _)| Failed::NoAnswer(with_causes(&error)))?;
        Ok(Lines::new(connection, response))
    }

    fn request(&self, question: &Question) -> Result<Request<Full<Bytes>>, Failed> {
        let mut request = Request::builder()
            .method(question.method.clone())
            .uri(&question.path)
            .body(Full::new(question.body.clone()))
            .map_err(|error| Failed::NotSent(error.to_string()))?;
        request.headers_mut().extend(self.shared.headers.clone());
        if let Some(value) = &question.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        if let Some(kind) = question.content_type {
            request.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        Ok(request)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.shared.idle.lock();
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.shared.idle.lock();
        if idle.len() < IDLE_CONNECTIONS && !connection.is_closed() {
            idle.push(connection);
        }
    }
}

#[derive(PartialEq)]
enum Age {
    New,
    Used,
}

/// A path of keys as a URL has it: all that is not plain is escaped, slashes stay.
pub fn escape_path(path: &str) -> String {
    path.split('/').map(escape).collect::<Vec<_>>().join("/")
}

/// A text as it stands in a path, a query or a form.
pub fn escape(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const NOT_PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(text, NOT_PLAIN).to_string()
}

/// How long a connection may take to be made: attempts must be quick to find a store that is back.
fn connect_timeout(timeout: Duration) -> Duration {
    timeout.min(Duration::from_secs(2))
}
