//! The files that say where API servers are and who their users are (Kubernetes documentation: "Organizing Cluster Access Using
//! kubeconfig Files").

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use secrecy::SecretString;
use serde::Deserialize;

use super::access::{Credentials, Server, first_of};
use super::exec::{ClusterInfo, Exec, Plugin};
use crate::endpoints::Scheme;
use crate::tls::{Pem, TlsSources};
use crate::{KubernetesAccess, StoreError, TlsVerification};

/// What to look at.
pub const HINT: &str = "check the kubeconfig file (kubectl config view)";

/// Several files, put together: of equal names the first one counts.
#[derive(Default)]
pub struct Kubeconfig {
    current_context: String,
    clusters: Vec<Named<Cluster>>,
    contexts: Vec<Named<Context>>,
    users: Vec<Named<User>>,
}

/// Something with a name, and the directory of its file, which paths in it start from.
struct Named<T> {
    name: String,
    directory: PathBuf,
    value: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct File {
    current_context: Option<String>,
    clusters: Option<Vec<NamedCluster>>,
    contexts: Option<Vec<NamedContext>>,
    users: Option<Vec<NamedUser>>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: Option<User>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<SecretString>,
    token: Option<SecretString>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<SecretString>,
    exec: Option<Exec>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

fn refuse(problem: String) -> StoreError {
    StoreError::configuration(problem, HINT)
}

/// Read the files. `None`: there is none. One that is absent is left out, unless it `must_be_there`.
///
/// # Errors
/// [`StoreError::Configuration`]: one cannot be read.
pub fn read(files: &[PathBuf], must_be_there: bool) -> Result<Option<Kubeconfig>, StoreError> {
    let mut all = None;
    for path in files {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_be_there => continue,
            Err(error) => return Err(refuse(format!("{}: {error}", path.display()))),
        };
        let file: Option<File> = serde_saphyr::from_str(&text)
            .map_err(|error| refuse(format!("{} is no kubeconfig file: {error}", path.display())))?;
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        all.get_or_insert_with(Kubeconfig::default).add(file.unwrap_or_default(), &directory);
    }
    Ok(all)
}

impl Kubeconfig {
    fn add(&mut self, file: File, directory: &Path) {
        let named = |name: String| (name, directory.to_owned());
        if self.current_context.is_empty() {
            self.current_context = file.current_context.unwrap_or_default();
        }
        for NamedCluster { name, cluster: value } in file.clusters.unwrap_or_default() {
            let (name, directory) = named(name);
            self.clusters.push(Named { name, directory, value });
        }
        for NamedContext { name, context: value } in file.contexts.unwrap_or_default() {
            let (name, directory) = named(name);
            self.contexts.push(Named { name, directory, value });
        }
        for NamedUser { name, user } in file.users.unwrap_or_default() {
            let (name, directory) = named(name);
            self.users.push(Named { name, directory, value: user.unwrap_or_default() });
        }
    }

    /// The API server of a context: the one that a flag names, or the current one.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: what the context names is not there, or makes no sense.
    pub fn server(&self, access: &KubernetesAccess) -> Result<Server, StoreError> {
        let wanted = access.context.as_deref().unwrap_or(&self.current_context);
        if wanted.is_empty() {
            return Err(refuse("the kubeconfig file has no current context, and none is named".to_owned()));
        }
        let context = &find(&self.contexts, "context", wanted)?.value;
        let cluster = find(&self.clusters, "cluster", &context.cluster)?;
        let nobody = Named { name: String::new(), directory: PathBuf::new(), value: User::default() };
        let user = match context.user.as_str() {
            "" => &nobody,
            name => find(&self.users, "user", name)?,
        };
        let (scheme, authority, path) = address(&cluster.value.server)?;
        if cluster.value.proxy_url.as_deref().is_some_and(|url| !url.is_empty()) {
            return Err(refuse(format!(
                "the cluster {:?} has a proxy-url, which is not supported",
                cluster.name
            )));
        }
        let credentials = credentials(user, cluster)?;
        let mut tls = tls(cluster, user)?;
        if let Credentials::Plugin(plugin) = &credentials {
            tls.issued = Some(Arc::clone(&plugin.issued));
        }
        Ok(Server {
            scheme,
            authority,
            path,
            tls_name: cluster.value.tls_server_name.clone().filter(|name| !name.is_empty()),
            tls,
            credentials,
            namespace: first_of([access.namespace.as_deref(), context.namespace.as_deref()]),
        })
    }
}

fn find<'a, T>(all: &'a [Named<T>], what: &str, name: &str) -> Result<&'a Named<T>, StoreError> {
    all.iter()
        .find(|one| one.name == name)
        .ok_or_else(|| refuse(format!("the kubeconfig file has no {what} {name:?}")))
}

/// Scheme, host with port, and path of the URL of an API server.
fn address(url: &str) -> Result<(Scheme, String, String), StoreError> {
    let (scheme, rest, port) = match url.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest, 443),
        Some(("http", rest)) => (Scheme::Http, rest, 80),
        None if !url.is_empty() => (Scheme::Http, url, 80),
        _ => {
            return Err(refuse(format!(
                "the server {url:?} of the kubeconfig file is no http or https address"
            )));
        }
    };
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, format!("/{}", path.trim_end_matches('/'))),
        None => (rest, String::new()),
    };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    Ok((scheme, authority, if path == "/" { String::new() } else { path }))
}

/// A file, or the same in base64, which wins.
fn pem(directory: &Path, file: Option<&PathBuf>, data: Option<&str>) -> Result<Option<Pem>, StoreError> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(data.trim())
            .map_err(|error| refuse(format!("certificate or key data of the kubeconfig file: {error}")))?;
        return Ok(Some(Pem::Given(bytes.into())));
    }
    let file = file.filter(|file| !file.as_os_str().is_empty());
    Ok(file.map(|file| Pem::File(directory.join(file))))
}

fn tls(cluster: &Named<Cluster>, user: &Named<User>) -> Result<TlsSources, StoreError> {
    use secrecy::ExposeSecret as _;
    let (place, own) = (&cluster.value, &user.value);
    let authorities = pem(
        &cluster.directory,
        place.certificate_authority.as_ref(),
        place.certificate_authority_data.as_deref(),
    )?;
    let certificate =
        pem(&user.directory, own.client_certificate.as_ref(), own.client_certificate_data.as_deref())?;
    let key_data = own.client_key_data.as_ref().map(|data| data.expose_secret());
    let key = pem(&user.directory, own.client_key.as_ref(), key_data)?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(refuse(format!(
                "the user {:?} has a certificate without its key, or the other way round",
                user.name
            )));
        }
    };
    Ok(TlsSources {
        identity,
        issued: None,
        authorities,
        verification: match place.insecure_skip_tls_verify {
            Some(true) => TlsVerification::Skip,
            _ => TlsVerification::Full,
        },
        hint: HINT,
    })
}

fn credentials(user: &Named<User>, cluster: &Named<Cluster>) -> Result<Credentials, StoreError> {
    let own = &user.value;
    // A file wins: it is renewed.
    if let Some(file) = own.token_file.as_ref().filter(|file| !file.as_os_str().is_empty()) {
        return Ok(Credentials::TokenFile(user.directory.join(file)));
    }
    if let Some(token) = &own.token {
        return Ok(Credentials::Token(token.clone()));
    }
    if let (Some(name), Some(password)) = (&own.username, &own.password) {
        return Ok(Credentials::Basic { user: name.clone(), password: password.clone() });
    }
    if let Some(exec) = &own.exec {
        let plugin = Plugin::new(exec.clone(), &user.name, &user.directory, cluster_info(cluster)?)?;
        return Ok(Credentials::Plugin(Arc::new(plugin)));
    }
    if own.auth_provider.is_some() {
        return Err(StoreError::configuration(
            format!(
                "the user {:?} of the kubeconfig file has an auth-provider, which Kubernetes itself has given up",
                user.name
            ),
            "use a user with exec, a token or a client certificate (kubectl create token)",
        ));
    }
    Ok(Credentials::None)
}

/// What a program that lets a user in may want to know.
fn cluster_info(cluster: &Named<Cluster>) -> Result<ClusterInfo, StoreError> {
    let place = &cluster.value;
    let data = place.certificate_authority_data.clone().filter(|data| !data.is_empty());
    let file = place.certificate_authority.as_ref().filter(|file| !file.as_os_str().is_empty());
    let authorities = match (data, file) {
        (Some(data), _) => Some(data),
        (None, Some(file)) => {
            let path = cluster.directory.join(file);
            let pem = std::fs::read(&path).map_err(|error| refuse(format!("{}: {error}", path.display())))?;
            Some(base64::engine::general_purpose::STANDARD.encode(pem))
        }
        (None, None) => None,
    };
    Ok(ClusterInfo {
        server: place.server.clone(),
        tls_name: place.tls_server_name.clone().filter(|name| !name.is_empty()),
        skips_verification: place.insecure_skip_tls_verify == Some(true),
        authorities,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const FILE: &str = r#"
apiVersion: v1
kind: Config
current-context: one
preferences: {}
clusters:
- name: near
  cluster: { server: "https://10.0.0.1:6443", certificate-authority: ca.pem }
- name: far
  cluster:
    server: https://rancher.example/k8s/clusters/c-1/
    insecure-skip-tls-verify: true
    tls-server-name: kube
contexts:
- name: one
  context: { cluster: near, user: certificate, namespace: databases }
- name: two
  context: { cluster: far, user: token }
- name: three
  context: { cluster: far, user: program }
- name: four
  context: { cluster: far, user: provider }
- name: broken
  context: { cluster: none, user: token }
users:
- name: certificate
  user: { client-certificate-data: "Y2VydA==", client-key: /keys/own }
- name: token
  user: { token: secret }
- name: program
  user:
    exec: { apiVersion: client.authentication.k8s.io/v1, command: aws, args: [eks], env: null }
- name: provider
  user: { auth-provider: { name: gcp } }
"#;

    fn server(context: Option<&str>) -> Result<Server, StoreError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        let access = KubernetesAccess {
            kubeconfig: Some(path),
            context: context.map(str::to_owned),
            ..KubernetesAccess::default()
        };
        super::super::access::find(&access)
    }

    fn found(context: Option<&str>) -> Server {
        server(context).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn contexts_lead_to_servers() {
        let one = found(None);
        assert_eq!(
            (one.authority.as_str(), one.path.as_str(), one.namespace.as_str()),
            ("10.0.0.1:6443", "", "databases")
        );
        assert!(
            matches!(one.tls.authorities, Some(Pem::File(path)) if path.is_absolute() && path.ends_with("ca.pem"))
        );
        let Some((Pem::Given(_), Pem::File(key))) = one.tls.identity else { panic!("a client certificate") };
        assert_eq!(key, Path::new("/keys/own"));
        let two = found(Some("two"));
        assert_eq!((two.authority.as_str(), two.path.as_str()), ("rancher.example:443", "/k8s/clusters/c-1"));
        assert_eq!((two.tls_name.as_deref(), two.namespace.as_str()), (Some("kube"), "default"));
        assert_eq!(two.tls.verification, TlsVerification::Skip);
        assert!(matches!(two.credentials, Credentials::Token(_)));
        let three = found(Some("three"));
        assert!(matches!(three.credentials, Credentials::Plugin(_)) && three.tls.issued.is_some());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (context, said) in
            [("five", "no context \"five\""), ("broken", "no cluster \"none\""), ("four", "auth-provider")]
        {
            let error = server(Some(context)).err().unwrap();
            assert!(error.to_string().contains(said), "{context}: {error}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, "- no\n- config").unwrap();
        assert!(read(std::slice::from_ref(&path), true).is_err());
        assert!(read(&[directory.path().join("absent")], true).is_err());
        assert!(read(&[directory.path().join("absent")], false).unwrap().is_none());
    }

    #[test]
    fn of_several_files_the_first_one_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("1"), directory.path().join("2"));
        std::fs::write(&first, "contexts: [{name: a, context: {cluster: x}}]\nclusters: []\nusers: null")
            .unwrap();
        std::fs::write(&second, "current-context: a\nclusters: [{name: x, cluster: {server: 'http://h:1'}}]\ncontexts: [{name: a, context: {cluster: y}}]").unwrap();
        let both = std::env::join_paths([&first, &directory.path().join("absent"), &second]).unwrap();
        let access = KubernetesAccess {
            kubeconfig_variable: Some(both.into_string().unwrap()),
            ..KubernetesAccess::default()
        };
        let server = super::super::access::find(&access).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(server.authority, "h:1");
    }
}
