//! Where the API server is, and what lets this process in: a pod's service account, or a file as kubectl reads it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

use super::exec::Plugin;
use super::kubeconfig;
use crate::endpoints::Scheme;
use crate::tls::{Pem, TlsSources};
use crate::{KubernetesAccess, StoreError, TlsVerification};

/// An API server, and what it wants to see.
pub struct Server {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: String,
    /// What stands in front of each path; empty, or with a slash in front.
    pub path: String,
    /// The name that its certificate is for, where that is not the host.
    pub tls_name: Option<String>,
    /// What TLS is made from.
    pub tls: TlsSources,
    /// What lets this process in, besides a client certificate.
    pub credentials: Credentials,
    /// Where the objects of the cluster are.
    pub namespace: String,
}

/// What lets a client in.
#[derive(Clone)]
pub enum Credentials {
    /// A client certificate, or nothing.
    None,
    /// A token.
    Token(SecretString),
    /// A file with a token, which is replaced before the token in it ends: it is read for each request.
    TokenFile(PathBuf),
    /// A user with a password.
    Basic {
        /// Name.
        user: String,
        /// Password.
        password: SecretString,
    },
    /// What another program gives.
    Plugin(Arc<Plugin>),
}

impl Credentials {
    /// What lets this client in now.
    ///
    /// # Errors
    /// What is wrong with a file, or with another program.
    pub async fn shown(&self) -> Result<Shown, String> {
        let Credentials::Plugin(plugin) = self else {
            return Ok(Shown { header: self.header()?, certificate: 0 });
        };
        let pass = plugin.pass().await?;
        let header = pass.token.map_or(Ok(None), |token| Credentials::Token(token).header())?;
        Ok(Shown { header, certificate: pass.certificate })
    }

    /// It did not let in, although it did before, maybe.
    pub fn forget(&self) {
        if let Credentials::Plugin(plugin) = self {
            plugin.forget();
        }
    }

    fn header(&self) -> Result<Option<HeaderValue>, String> {
        let text = match self {
            Credentials::None | Credentials::Plugin(_) => return Ok(None),
            Credentials::Token(token) => format!("Bearer {}", token.expose_secret()),
            Credentials::TokenFile(path) => {
                let token = std::fs::read_to_string(path)
                    .map_err(|error| format!("the token in {}: {error}", path.display()))?;
                format!("Bearer {}", token.trim())
            }
            Credentials::Basic { user, password } => {
                use base64::Engine as _;
                let both = format!("{user}:{}", password.expose_secret());
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
            }
        };
        let mut value =
            HeaderValue::from_str(&text).map_err(|_| "the token has odd characters".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// What a request shows.
pub struct Shown {
    /// In its header.
    pub header: Option<HeaderValue>,
    /// Which of the certificates that another program issues its connection must have shown; 0: none of them.
    pub certificate: u64,
}

/// Find the API server, in the order of Kubernetes' own clients: the file that a flag names, those that `KUBECONFIG` names, the one
/// in the home directory, the service account of the pod.
///
/// # Errors
/// [`StoreError::Configuration`]: there is none of them, or one makes no sense.
pub fn find(access: &KubernetesAccess) -> Result<Server, StoreError> {
    let files = match (&access.kubeconfig, &access.kubeconfig_variable) {
        (Some(path), _) => vec![path.clone()],
        (None, Some(list)) => {
            std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect()
        }
        (None, None) => access.home.iter().map(|home| home.join(".kube/config")).collect(),
    };
    if let Some(config) = kubeconfig::read(&files, access.kubeconfig.is_some())? {
        return config.server(access);
    }
    match (&access.service_host, &access.service_port) {
        (Some(host), Some(port)) => in_cluster(access, host, port),
        _ => Err(StoreError::configuration(
            "there is no way to a Kubernetes API server: no kubeconfig file, and this is no pod",
            "run this in a pod, or name a file with --kubeconfig or KUBECONFIG",
        )),
    }
}

fn in_cluster(access: &KubernetesAccess, host: &str, port: &str) -> Result<Server, StoreError> {
    let account = Path::new(&access.service_account);
    let (token, authority) = (account.join("token"), account.join("ca.crt"));
    if let Err(error) = std::fs::metadata(&token) {
        return Err(StoreError::configuration(
            format!("this pod has no service account's token at {}: {error}", token.display()),
            "give the pod a service account, and do not set automountServiceAccountToken: false",
        ));
    }
    let namespace = std::fs::read_to_string(account.join("namespace")).unwrap_or_default();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Ok(Server {
        scheme: Scheme::Https,
        authority: format!("{host}:{port}"),
        path: String::new(),
        tls_name: None,
        tls: TlsSources {
            identity: None,
            issued: None,
            authorities: Some(Pem::File(authority)),
            verification: TlsVerification::Full,
            hint: "check the service account's ca.crt in this pod",
        },
        credentials: Credentials::TokenFile(token),
        namespace: first_of([
            access.namespace.as_deref(),
            access.pod_namespace.as_deref(),
            Some(namespace.trim()),
        ]),
    })
}

/// The first that says something, or `default`.
pub fn first_of<const N: usize>(names: [Option<&str>; N]) -> String {
    names.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or("default").to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn in_pod(account: &Path) -> KubernetesAccess {
        let variables = [("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "443")];
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        KubernetesAccess { service_account: account.to_owned(), ..KubernetesAccess::from_variables(variable) }
    }

    #[test]
    fn a_pod_is_let_in_by_its_service_account_and_reads_the_token_anew() {
        let account = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(account.path().join(name), text).unwrap();
        let access = in_pod(account.path());
        assert!(matches!(find(&access), Err(StoreError::Configuration { .. })), "there is no token");
        write("token", "first\n");
        write("namespace", "databases");
        let server = find(&access).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((server.authority.as_str(), server.namespace.as_str()), ("10.0.0.1:443", "databases"));
        let header = || server.credentials.header().unwrap().unwrap().to_str().unwrap().to_owned();
        assert_eq!(header(), "Bearer first");
        write("token", "second");
        assert_eq!(header(), "Bearer second");
        let other = KubernetesAccess { pod_namespace: Some("other".into()), ..access.clone() };
        assert_eq!(find(&other).unwrap_or_else(|error| panic!("{error}")).namespace, "other");
        let flag = KubernetesAccess { namespace: Some("flag".into()), ..other };
        assert_eq!(find(&flag).unwrap_or_else(|error| panic!("{error}")).namespace, "flag");
    }

    #[test]
    fn addresses_of_version_six_get_brackets() {
        let account = tempfile::tempdir().unwrap();
        std::fs::write(account.path().join("token"), "x").unwrap();
        let access = KubernetesAccess { service_host: Some("fd00::1".into()), ..in_pod(account.path()) };
        assert_eq!(find(&access).unwrap_or_else(|error| panic!("{error}")).authority, "[fd00::1]:443");
    }

    #[test]
    fn nothing_leads_nowhere() {
        let nothing = KubernetesAccess::default();
        assert!(matches!(find(&nothing), Err(StoreError::Configuration { .. })));
    }
}
