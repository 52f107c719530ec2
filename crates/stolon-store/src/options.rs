//! Which store, where: what the common flags say.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use stolon_model::Advise;

use crate::{
    ClusterStore, ConsulStore, EtcdStore, EtcdV2Store, KubernetesStore, KvClusterStore, MemoryStore,
    SqliteStore, StoreError, cluster_path,
};

/// What the `--store-…` flags and `--cluster-name` say.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `--store-backend`.
    pub backend: Backend,
    /// `--store-endpoints`; empty = the backend's default.
    pub endpoints: String,
    /// `--store-prefix`; upstream's default is `stolon/cluster`.
    pub prefix: String,
    /// `--cluster-name`.
    pub cluster_name: String,
    /// `--store-timeout`: how long any one call may take.
    pub timeout: Duration,
    /// `--store-cert-file`.
    pub cert_file: Option<PathBuf>,
    /// `--store-key`.
    pub key_file: Option<PathBuf>,
    /// `--store-ca-file`.
    pub ca_file: Option<PathBuf>,
    /// `--store-skip-tls-verify`.
    pub tls_verification: TlsVerification,
    /// What lets this process into Consul.
    pub consul: ConsulAccess,
    /// What leads this process to Kubernetes.
    pub kubernetes: KubernetesAccess,
}

impl StoreOptions {
    /// A cluster in a store that needs no certificates: below Stolon's prefix, and with five seconds for a call.
    pub fn new(backend: Backend, endpoints: impl Into<String>, cluster_name: impl Into<String>) -> Self {
        StoreOptions {
            backend,
            endpoints: endpoints.into(),
            prefix: "stolon/cluster".to_owned(),
            cluster_name: cluster_name.into(),
            timeout: Duration::from_secs(5),
            cert_file: None,
            key_file: None,
            ca_file: None,
            tls_verification: TlsVerification::Full,
            consul: ConsulAccess::default(),
            kubernetes: KubernetesAccess::default(),
        }
    }
}

/// What lets a client into Consul, as Consul's own clients read it from the environment.
#[derive(Clone, Debug, Default)]
pub struct ConsulAccess {
    /// `CONSUL_HTTP_TOKEN`: an ACL token.
    pub token: Option<SecretString>,
    /// `CONSUL_HTTP_TOKEN_FILE`: a file that holds one. It wins, and is read anew for each connection.
    pub token_file: Option<PathBuf>,
    /// `CONSUL_HTTP_AUTH`: `user:password` for a proxy in front of Consul.
    pub user_and_password: Option<SecretString>,
    /// `CONSUL_NAMESPACE`.
    pub namespace: Option<String>,
}

impl ConsulAccess {
    /// What these variables say; empty ones say nothing.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        ConsulAccess {
            token: given("CONSUL_HTTP_TOKEN").map(SecretString::from),
            token_file: given("CONSUL_HTTP_TOKEN_FILE").map(PathBuf::from),
            user_and_password: given("CONSUL_HTTP_AUTH").map(SecretString::from),
            namespace: given("CONSUL_NAMESPACE"),
        }
    }
}

/// Where the API server of Kubernetes is looked for, and which pod this process runs in.
#[derive(Clone, Debug, Default)]
pub struct KubernetesAccess {
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--kube-context`.
    pub context: Option<String>,
    /// `--kube-namespace`.
    pub namespace: Option<String>,
    /// `KUBECONFIG`: a list of files.
    pub kubeconfig_variable: Option<String>,
    /// `HOME`, which may hold a `.kube/config`.
    pub home: Option<PathBuf>,
    /// `KUBERNETES_SERVICE_HOST`, which every pod has.
    pub service_host: Option<String>,
    /// `KUBERNETES_SERVICE_PORT`, which every pod has.
    pub service_port: Option<String>,
    /// The directory of the pod's service account.
    pub service_account: PathBuf,
    /// `POD_NAME`: the pod that reports of this process are written to.
    pub pod_name: Option<String>,
    /// `POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
}

impl KubernetesAccess {
    /// What these variables say; empty ones say nothing.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        KubernetesAccess {
            kubeconfig: None,
            context: None,
            namespace: None,
            kubeconfig_variable: given("KUBECONFIG"),
            home: given("HOME").map(PathBuf::from),
            service_host: given("KUBERNETES_SERVICE_HOST"),
            service_port: given("KUBERNETES_SERVICE_PORT"),
            service_account: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"),
            pod_name: given("POD_NAME"),
            pod_namespace: given("POD_NAMESPACE"),
        }
    }
}

/// Whether the store must prove who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVerification {
    /// The certificate of the store is checked.
    #[default]
    Full,
    /// Any certificate is accepted (`--store-skip-tls-verify`).
    Skip,
}

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// One file on one machine.
    Sqlite,
    /// etcd, through its version 3 interface.
    Etcdv3,
    /// etcd, through its version 2 interface. Stolon's `etcd` is another name of it.
    Etcdv2,
    /// Consul.
    Consul,
    /// The API server of Kubernetes.
    Kubernetes,
    /// Memory of this process, for tests. No flag names it.
    Memory,
}

/// `--store-backend` names no store that this version has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBackend {
    /// No version has it.
    #[error("Unknown store backend: {0:?}")]
    Unknown(String),
}

impl Advise for BadBackend {
    fn hint(&self) -> Option<Cow<'static, str>> {
        Some("use etcdv3, etcdv2, consul or kubernetes, or sqlite for one machine".into())
    }
}

impl FromStr for Backend {
    type Err = BadBackend;

    fn from_str(word: &str) -> Result<Self, BadBackend> {
        match word {
            "sqlite" => Ok(Self::Sqlite),
            "etcdv3" => Ok(Self::Etcdv3),
            "etcdv2" | "etcd" => Ok(Self::Etcdv2),
            "consul" => Ok(Self::Consul),
            "kubernetes" => Ok(Self::Kubernetes),
            _ => Err(BadBackend::Unknown(word.to_owned())),
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Etcdv3 => "etcdv3",
            Self::Etcdv2 => "etcdv2",
            Self::Consul => "consul",
            Self::Kubernetes => "kubernetes",
            Self::Memory => "memory",
        })
    }
}

/// The store that the options ask for. Only the options are checked: the store need not be reachable.
/// Call inside a tokio runtime.
///
/// # Errors
/// [`StoreError::Configuration`].
pub fn open(options: &StoreOptions) -> Result<Arc<dyn ClusterStore>, StoreError> {
    open_with(options, SqliteStore::new)
}

/// The same for whoever puts nothing into an empty store: a file that does not exist is not made, and asking it is an error.
///
/// # Errors
/// [`StoreError::Configuration`].
pub fn open_existing(options: &StoreOptions) -> Result<Arc<dyn ClusterStore>, StoreError> {
    open_with(options, SqliteStore::existing)
}

fn open_with(
    options: &StoreOptions,
    file: impl FnOnce(&str, Duration) -> Result<SqliteStore, StoreError>,
) -> Result<Arc<dyn ClusterStore>, StoreError> {
    let path = cluster_path(&options.prefix, &options.cluster_name);
    match options.backend {
        Backend::Memory => Ok(Arc::new(KvClusterStore::new(MemoryStore::new(), &path))),
        Backend::Sqlite => {
            Ok(Arc::new(KvClusterStore::new(file(&options.endpoints, options.timeout)?, &path)))
        }
        Backend::Etcdv3 => Ok(Arc::new(KvClusterStore::new(EtcdStore::new(options)?, &path))),
        // To these a leading slash is no part of a key.
        Backend::Etcdv2 => {
            Ok(Arc::new(KvClusterStore::new(EtcdV2Store::new(options)?, path.trim_start_matches('/'))))
        }
        Backend::Consul => {
            Ok(Arc::new(KvClusterStore::new(ConsulStore::new(options)?, path.trim_start_matches('/'))))
        }
        // There the cluster has no other name.
        Backend::Kubernetes => {
            Ok(Arc::new(KvClusterStore::new(KubernetesStore::new(options)?, &options.cluster_name)))
        }
    }
}
