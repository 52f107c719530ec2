//! Consul's catalogue of services, which clients find PostgreSQL in (Consul documentation: "Catalog HTTP Endpoint", "Service - Agent
//! HTTP Endpoint").

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::protocol::{Client, Consul, Links};
use crate::endpoints::{CONSUL, Endpoints, Scheme};
use crate::http::{Targets, escape};
use crate::link::Repeat;
use crate::tls::{Pem, TlsFiles, TlsSources};
use crate::{ConsulAccess, StoreError, TlsVerification};

const HINT: &str =
    "check --register-endpoints, and that the Consul agent runs there and its servers have a leader";

/// Between two checks of a service by Consul.
const CHECK_INTERVAL: &str = "10s";

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// Tells it apart from all others of the agent.
    #[serde(rename(serialize = "ID", deserialize = "ServiceID"))]
    pub id: String,
    /// What clients ask for.
    #[serde(rename(deserialize = "ServiceName"))]
    pub name: String,
    /// What tells it apart for clients, in this order.
    #[serde(rename(deserialize = "ServiceTags"), default)]
    pub tags: Vec<String>,
    /// Where it listens.
    #[serde(rename(deserialize = "ServicePort"))]
    pub port: u16,
    /// Where it listens.
    #[serde(rename(deserialize = "ServiceAddress"), default)]
    pub address: String,
}

impl Service {
    /// As the agent wants it, with a check that something listens.
    fn registration(&self) -> serde_json::Value {
        let host =
            if self.address.contains(':') { format!("[{}]", self.address) } else { self.address.clone() };
        let mut registration = json!(self);
        registration["Check"] = json!({ "Interval": CHECK_INTERVAL, "TCP": format!("{host}:{}", self.port) });
        registration
    }
}

/// How the agent is reached: the `--register-…` flags.
#[derive(Clone, Debug)]
pub struct CatalogueAccess {
    /// URL of one agent.
    pub endpoint: String,
    /// Client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Who may sign the agent's certificate.
    pub ca_file: Option<PathBuf>,
    /// Whether the agent must prove who it is.
    pub tls_verification: TlsVerification,
    /// What lets this process in.
    pub consul: ConsulAccess,
    /// How long one call may take.
    pub timeout: Duration,
}

/// The catalogue, as an agent sees it. Each call ends in time.
pub struct ServiceCatalogue {
    links: Links,
}

impl ServiceCatalogue {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the flags make no sense.
    pub fn new(access: &CatalogueAccess) -> Result<Self, StoreError> {
        let endpoints = Endpoints::parse(&access.endpoint, &CONSUL)
            .map_err(|error| StoreError::configuration(error.to_string(), "check --register-endpoints"))?;
        let [url] = endpoints.urls.as_slice() else {
            return Err(StoreError::configuration(
                format!("consul does not support multiple endpoints: {}", access.endpoint),
                "--register-endpoints: give the agent of this machine, which knows the servers",
            ));
        };
        let tls = match endpoints.scheme {
            Scheme::Https => Some(TlsFiles::new(tls(access)?)?),
            Scheme::Http => None,
        };
        let targets = Targets::single(url, None, tls, access.timeout)?;
        let protocol = Consul::new(targets, access.consul.clone(), HINT)?;
        Ok(ServiceCatalogue { links: Links::new(protocol, vec![url.clone()], access.timeout) })
    }

    /// All instances of a service, by their ids.
    ///
    /// # Errors
    /// Consul does not answer, or refuses.
    pub async fn instances(&self, name: &str) -> Result<BTreeMap<String, Service>, StoreError> {
        let operation = "reading the catalogue of services";
        let path = format!("/v1/catalog/service/{}?consistent", escape(name));
        let path = path.as_str();
        let asking = self.links.ask(operation, Repeat::Safe, move |client: Client| async move {
            let answer = client.ask(operation, Method::GET, path, String::new()).await?;
            answer.json::<Vec<Service>>()
        });
        Ok(asking.await?.into_iter().map(|service| (service.id.clone(), service)).collect())
    }

    /// Register an instance with the agent, in place of one with the same id.
    ///
    /// # Errors
    /// Consul does not answer, or refuses.
    pub async fn register(&self, service: &Service) -> Result<(), StoreError> {
        self.put("registering a service", "/v1/agent/service/register?", service.registration().to_string())
            .await
    }

    /// Remove an instance from the agent.
    ///
    /// # Errors
    /// Consul does not answer, or refuses.
    pub async fn deregister(&self, id: &str) -> Result<(), StoreError> {
        let path = format!("/v1/agent/service/deregister/{}?", escape(id));
        self.put("deregistering a service", &path, String::new()).await
    }

    async fn put(&self, operation: &str, path: &str, body: String) -> Result<(), StoreError> {
        let body = body.as_str();
        // Either has the same outcome when it is done twice.
        let asking = self.links.ask(operation, Repeat::Safe, move |client: Client| async move {
            client.ask(operation, Method::PUT, path, body.to_owned()).await.map(|_| ())
        });
        asking.await
    }
}

fn tls(access: &CatalogueAccess) -> Result<TlsSources, StoreError> {
    let file = |path: &PathBuf| Pem::File(path.clone());
    let identity = match (&access.cert_file, &access.key_file) {
        (Some(certificate), Some(key)) => Some((file(certificate), file(key))),
        (None, None) => None,
        _ => {
            return Err(StoreError::configuration(
                "--register-cert-file and --register-key belong together",
                "a client certificate needs both",
            ));
        }
    };
    Ok(TlsSources {
        identity,
        issued: None,
        authorities: access.ca_file.as_ref().map(file),
        verification: access.tls_verification,
        hint: "check --register-ca-file, --register-cert-file and --register-key",
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_what_stolon_sends() {
        let service = Service {
            id: "cd005728".into(),
            name: "mycluster".into(),
            tags: vec!["slave".into(), "ro".into()],
            port: 45431,
            address: "fd00::1".into(),
        };
        let expected = json!({
            "ID": "cd005728", "Name": "mycluster", "Tags": ["slave", "ro"], "Port": 45431, "Address": "fd00::1",
            "Check": { "Interval": "10s", "TCP": "[fd00::1]:45431" },
        });
        assert_eq!(service.registration(), expected);
    }
}
