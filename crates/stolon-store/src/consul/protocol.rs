//! How Consul is spoken to.

use async_trait::async_trait;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use secrecy::ExposeSecret as _;

use crate::endpoints::{CONSUL, Endpoints};
use crate::http::{Answer, HttpClient, Question, Targets, escape};
use crate::link::{Failed, Protocol};
use crate::{ConsulAccess, StoreError, StoreOptions};

/// The connection to a Consul agent.
pub type Links = crate::link::Links<Consul>;

/// The protocol.
pub struct Consul {
    targets: Targets,
    access: ConsulAccess,
    /// What to look at when it cannot be reached.
    hint: &'static str,
}

/// Nothing is connected yet.
///
/// # Errors
/// [`StoreError::Configuration`]: the flags make no sense.
pub fn links(options: &StoreOptions) -> Result<Links, StoreError> {
    let endpoints = Endpoints::parse(&options.endpoints, &CONSUL)?;
    if endpoints.urls.len() > 1 {
        return Err(StoreError::configuration(
            "consul does not support multiple endpoints",
            "--store-endpoints: give the agent of this machine, which knows the servers",
        ));
    }
    let protocol = Consul::new(Targets::new(&endpoints, options)?, options.consul.clone(), HINT)?;
    Ok(Links::new(protocol, endpoints.urls, options.timeout))
}

const HINT: &str =
    "check that the Consul agent runs and that its servers have a leader, and check --store-endpoints";

impl Consul {
    /// Nothing is connected yet. `hint` says what to look at when it cannot be reached.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: what lets this client in cannot be sent.
    pub fn new(targets: Targets, access: ConsulAccess, hint: &'static str) -> Result<Self, StoreError> {
        let protocol = Consul { targets, access, hint };
        // It is found now, and not when it is first needed.
        protocol.headers()?;
        Ok(protocol)
    }

    /// What lets this client in. A token's file is read anew for each connection, since tokens are replaced.
    fn headers(&self) -> Result<HeaderMap, StoreError> {
        let refuse = |what: &str, cause: String| {
            StoreError::configuration(format!("{what} cannot be used: {cause}"), "check what it holds")
        };
        let mut headers = HeaderMap::new();
        let token = match &self.access.token_file {
            Some(path) => {
                let read = std::fs::read_to_string(path).map_err(|error| {
                    refuse("CONSUL_HTTP_TOKEN_FILE", format!("{}: {error}", path.display()))
                })?;
                Some(read.trim().to_owned())
            }
            None => self.access.token.as_ref().map(|token| token.expose_secret().to_owned()),
        };
        let secret = |what: &str, text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|error| refuse(what, error.to_string()))?;
            value.set_sensitive(true);
            Ok::<_, StoreError>(value)
        };
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            headers.insert("x-consul-token", secret("CONSUL_HTTP_TOKEN", &token)?);
        }
        if let Some(user) = &self.access.user_and_password {
            use base64::Engine as _;
            let encoded = base64::engine::general_purpose::STANDARD.encode(user.expose_secret());
            headers.insert(AUTHORIZATION, secret("CONSUL_HTTP_AUTH", &format!("Basic {encoded}"))?);
        }
        Ok(headers)
    }
}

#[async_trait]
impl Protocol for Consul {
    type Client = Client;
    type Error = Failed;

    async fn connect(&self, endpoint: usize) -> Result<Client, String> {
        let headers = self.headers().map_err(|error| error.to_string())?;
        let http = self.targets.client(endpoint, headers)?;
        let question = Question::new(Method::GET, "/v1/status/leader".to_owned());
        let answer = match http.ask(&question).await {
            Ok(answer) => answer,
            Err(Failed::NotSent(cause) | Failed::NoAnswer(cause)) => return Err(cause),
            Err(Failed::Refused(error)) => return Err(error.to_string()),
        };
        let leader: Option<String> = serde_json::from_slice(&answer.body).ok();
        match leader {
            Some(leader) if !leader.is_empty() => {
                let namespace = self.access.namespace.as_deref().map(escape);
                Ok(Client { http, namespace })
            }
            Some(_) => Err("Consul has no leader".to_owned()),
            None => Err(format!("it is no Consul: {} {}", answer.status, answer.text())),
        }
    }

    fn classify(_: &str, error: Failed) -> Failed {
        error
    }

    fn hint(&self) -> &'static str {
        self.hint
    }
}

/// A client of an agent that has answered.
#[derive(Clone)]
pub struct Client {
    http: HttpClient,
    namespace: Option<String>,
}

impl Client {
    /// Ask, and refuse what no request of ours is answered with while all is well. `path` has a query.
    pub async fn ask(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Answer, Failed> {
        let path = match &self.namespace {
            Some(namespace) => format!("{path}&ns={namespace}"),
            None => path.to_owned(),
        };
        let question = Question::new(method, path).with_body(body, "application/json");
        let answer = self.http.ask(&question).await?;
        match answer.status {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => Ok(answer),
            // Its own limit of requests, which is checked first.
            StatusCode::TOO_MANY_REQUESTS => Err(Failed::NotSent(answer.text())),
            status if status.is_server_error() => Err(Failed::NoAnswer(answer.text())),
            status => Err(Failed::Refused(StoreError::Refused {
                operation: operation.to_owned(),
                cause: answer.text(),
                hint: match status {
                    StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                        "Consul does not let this client in: check CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE"
                    }
                    StatusCode::PAYLOAD_TOO_LARGE => "the value is too large for Consul",
                    _ => "see the log of Consul",
                }
                .to_owned(),
            })),
        }
    }
}
