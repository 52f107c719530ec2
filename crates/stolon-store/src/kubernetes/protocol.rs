//! How the API server is spoken to.

use async_trait::async_trait;
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::access::{Credentials, Server};
use super::place::{CLUSTER_LABEL, COMPONENT_LABEL, Component, config_map_name};
use crate::endpoints::Scheme;
use crate::http::{Answer, HttpClient, Lines, Question, Targets, escape};
use crate::link::{Failed, Protocol};
use crate::tls::TlsFiles;
use crate::{StoreError, StoreOptions};

/// The connections to the API server.
pub type Links = crate::link::Links<Kubernetes>;

/// A patch of some fields (RFC 7386).
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// A whole object.
pub const JSON: &str = "application/json";

/// The protocol.
pub struct Kubernetes {
    targets: Targets,
    paths: Paths,
    credentials: Credentials,
    /// Of the question that shows whether the API server works.
    cluster: String,
}

/// Nothing is connected yet.
///
/// # Errors
/// [`StoreError::Configuration`]: there is no way to an API server, or it makes no sense.
pub fn links(options: &StoreOptions) -> Result<Links, StoreError> {
    let server = super::access::find(&options.kubernetes)?;
    let Server { scheme, authority, path, tls_name, tls, credentials, namespace } = server;
    let (url, tls) = match scheme {
        Scheme::Https => (format!("https://{authority}"), Some(TlsFiles::new(tls)?)),
        Scheme::Http => (format!("http://{authority}"), None),
    };
    let targets = Targets::single(&url, tls_name.as_deref(), tls, options.timeout)?;
    let paths = Paths { below: format!("{path}/api/v1/namespaces/{}", escape(&namespace)) };
    let protocol = Kubernetes { targets, paths, credentials, cluster: options.cluster_name.clone() };
    Ok(Links::new(protocol, vec![url], options.timeout))
}

/// The paths of objects.
#[derive(Clone)]
pub struct Paths {
    below: String,
}

impl Paths {
    /// All ConfigMaps: what a new one is sent to.
    pub fn config_maps(&self) -> String {
        format!("{}/configmaps", self.below)
    }

    /// The ConfigMap of a cluster.
    pub fn config_map(&self, cluster: &str) -> String {
        format!("{}/configmaps/{}", self.below, escape(&config_map_name(cluster)))
    }

    /// The ConfigMap of a cluster, as a list, with the beginning of a query.
    pub fn config_map_list(&self, cluster: &str) -> String {
        let selector = escape(&format!("metadata.name={}", config_map_name(cluster)));
        format!("{}/configmaps?fieldSelector={selector}", self.below)
    }

    /// A pod.
    pub fn pod(&self, name: &str) -> String {
        format!("{}/pods/{}", self.below, escape(name))
    }

    /// The pods of these programs, with the beginning of a query.
    pub fn pod_list(&self, cluster: &str, components: &[Component]) -> String {
        let labels: Vec<&str> = components.iter().map(|component| component.label()).collect();
        let component = match labels.as_slice() {
            [one] => format!("{COMPONENT_LABEL}={one}"),
            several => format!("{COMPONENT_LABEL} in ({})", several.join(",")),
        };
        let selector = escape(&format!("{component},{CLUSTER_LABEL}={cluster}"));
        format!("{}/pods?labelSelector={selector}", self.below)
    }
}

#[async_trait]
impl Protocol for Kubernetes {
    type Client = Client;
    type Error = Failed;

    /// The question is answered out of etcd, so that an API server without it does not pass. Whoever is not let in is told so by the
    /// request that follows.
    async fn connect(&self, endpoint: usize) -> Result<Client, String> {
        // Before there is a connection: its certificate may come from there.
        let certificate = self.credentials.shown().await?.certificate;
        let http = self.targets.client(endpoint, HeaderMap::new())?;
        let (paths, credentials) = (self.paths.clone(), self.credentials.clone());
        let client = Client { http, paths, credentials, certificate };
        let path = self.paths.config_map(&self.cluster);
        match client.ask("connecting", Method::GET, &path, None).await {
            Ok(_) | Err(Failed::Refused(_)) => Ok(client),
            Err(Failed::NotSent(cause) | Failed::NoAnswer(cause)) => Err(cause),
        }
    }

    fn classify(_: &str, error: Failed) -> Failed {
        error
    }

    fn hint(&self) -> &'static str {
        "check that the Kubernetes API server can be reached from here (kubectl get configmaps)"
    }
}

/// A client of an API server that has answered.
#[derive(Clone)]
pub struct Client {
    http: HttpClient,
    /// Where objects are.
    pub paths: Paths,
    credentials: Credentials,
    /// Which of the certificates that another program issues its connections show.
    certificate: u64,
}

/// What is sent: the text and its kind.
pub type Body<'a> = Option<(&'a str, &'static str)>;

/// What the API server says when it does not do something (Kubernetes documentation: "API Concepts", Status).
#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
}

impl Client {
    /// Ask, and refuse what no request of ours is answered with while all is well: what remains is success, 404, 409 and 410.
    pub async fn ask(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        body: Body<'_>,
    ) -> Result<Answer, Failed> {
        let question = Question::new(method, path.to_owned());
        let question = match body {
            Some((text, kind)) => question.with_body(text.to_owned(), kind),
            None => question,
        };
        let question = self.authorize(question).await?;
        let answer = self.http.ask(&question).await?;
        self.notice(answer.status);
        judge(operation, answer.status, || said(&answer))?;
        Ok(answer)
    }

    async fn authorize(&self, question: Question) -> Result<Question, Failed> {
        let shown = self.credentials.shown().await.map_err(Failed::NotSent)?;
        match shown.certificate == self.certificate {
            true => Ok(question.authorized(shown.header)),
            false => Err(Failed::NotSent("this client has another certificate now".to_owned())),
        }
    }

    /// What does not let in may be over.
    fn notice(&self, status: StatusCode) {
        if status == StatusCode::UNAUTHORIZED {
            self.credentials.forget();
        }
    }

    /// Listen to a list from a state on. `Ok(None)`: that state is forgotten.
    pub async fn watch(&self, operation: &str, path: &str) -> Result<Option<Lines>, Failed> {
        let question = Question::new(Method::GET, path.to_owned());
        let question = self.authorize(question).await?;
        let lines = self.http.listen(&question).await?;
        self.notice(lines.status);
        if lines.status == StatusCode::GONE {
            return Ok(None);
        }
        judge(operation, lines.status, || lines.status.to_string())?;
        match lines.status.is_success() {
            true => Ok(Some(lines)),
            false => Err(Failed::NoAnswer(lines.status.to_string())),
        }
    }
}

fn judge(operation: &str, status: StatusCode, said: impl Fn() -> String) -> Result<(), Failed> {
    let hint = match status {
        status if status.is_success() => return Ok(()),
        StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::GONE => return Ok(()),
        // It is checked before anything else is done.
        StatusCode::TOO_MANY_REQUESTS => return Err(Failed::NotSent(said())),
        status if status.is_server_error() => return Err(Failed::NoAnswer(said())),
        StatusCode::UNAUTHORIZED => {
            "the API server does not know this client: check its token or certificate"
        }
        StatusCode::FORBIDDEN => {
            "the API server lets this client not do that: see the Role in docs/kubernetes.md"
        }
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => {
            "annotations of an object hold at most 256 KiB"
        }
        _ => "see the log of the API server",
    };
    Err(Failed::Refused(StoreError::Refused {
        operation: operation.to_owned(),
        cause: said(),
        hint: hint.to_owned(),
    }))
}

/// What it says, in its own words.
pub fn said(answer: &Answer) -> String {
    let status: Status = serde_json::from_slice(&answer.body).unwrap_or_default();
    match status.message.as_str() {
        "" => format!("{}: {}", answer.status, answer.text()),
        message => message.to_owned(),
    }
}
