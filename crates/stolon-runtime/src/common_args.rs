//! The flags that all programs share.

use std::path::PathBuf;
use std::time::Duration;

use stolon_model::Advise as _;
use stolon_store::{Backend, StoreOptions, TlsVerification};

use crate::addresses::host_and_port;
use crate::logging::{LogColor, LogLevel, init_logging};
use crate::usage::{UsageError, check_name};
use crate::values::go_duration;

/// No store has longer keys in mind than some of these make.
const LONGEST_PART_OF_KEY: usize = 255;

/// The heading of the flags that all programs share.
pub const COMMON_OPTIONS: &str = "Common options";

/// The flags that all programs share (docs: "Command lines"). Flatten them into the program's own.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = COMMON_OPTIONS)]
pub struct CommonArgs {
    /// Name of the cluster
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pub cluster_name: String,

    /// Kind of store: sqlite (one machine), etcdv3, etcdv2, consul or kubernetes
    #[arg(long, default_value = "", value_name = "KIND", hide_default_value = true)]
    pub store_backend: String,

    /// Where the store is: a comma-separated list of http(s)://host:port, or the file of sqlite
    #[arg(long, default_value = "", value_name = "LIST", hide_default_value = true)]
    pub store_endpoints: String,

    /// How long a request to the store may take
    #[arg(long, default_value = "5s", value_name = "SPAN", value_parser = go_duration)]
    pub store_timeout: Duration,

    /// Prefix of the keys in the store
    #[arg(long, default_value = "stolon/cluster", value_name = "PREFIX")]
    pub store_prefix: String,

    /// Client certificate, for a store that asks for one (PEM)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pub store_cert_file: String,

    /// Private key of that certificate (PEM)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pub store_key: String,

    /// Certificates of the authorities that the store's certificate may come from (PEM; default: the system's)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pub store_ca_file: String,

    /// Do not verify the store's certificate
    #[arg(long)]
    pub store_skip_tls_verify: bool,

    /// What a Kubernetes store keeps the cluster data in: configmap
    #[arg(long, default_value = "", value_name = "KIND", hide_default_value = true)]
    pub kube_resource_kind: String,

    /// The kubeconfig file that leads to Kubernetes (default: $KUBECONFIG, ~/.kube/config, the pod's service account)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pub kubeconfig: String,

    /// Context in that file (default: its current one)
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pub kube_context: String,

    /// Namespace of the cluster's pods and its ConfigMap (default: that of the context, or of the pod)
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pub kube_namespace: String,

    /// Serve /metrics, /healthz and /readyz at this host:port
    #[arg(
        long,
        default_value = "",
        value_name = "ADDRESS",
        hide_default_value = true,
        value_parser = host_and_port
    )]
    pub metrics_listen_address: String,

    /// Lowest level of the log lines that are written: debug, info, warn or error
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log_level: LogLevel,

    /// Colour the levels of log lines (default: on a terminal)
    #[arg(long, value_name = "BOOL")]
    pub log_color: Option<bool>,

    /// Deprecated: --log-level=debug
    #[arg(long, hide = true)]
    pub debug: bool,
}

impl CommonArgs {
    /// What the flags say about the store. The store need not be there.
    ///
    /// # Errors
    /// A flag is missing or wrong.
    pub fn store_options(&self) -> Result<StoreOptions, UsageError> {
        if self.cluster_name.is_empty() {
            return Err(UsageError::new("cluster name required").hint("name the cluster with --cluster-name"));
        }
        for (flag, name) in [("--cluster-name", &self.cluster_name), ("--store-prefix", &self.store_prefix)] {
            check_name(flag, name, LONGEST_PART_OF_KEY)?;
        }
        if self.store_backend.is_empty() {
            return Err(UsageError::new("store backend type required").hint(
                "say where the cluster's data is with --store-backend: sqlite, etcdv3, etcdv2, consul or kubernetes",
            ));
        }
        if self.store_backend == "kubernetes" {
            self.check_kubernetes()?;
        }
        let backend: Backend = self
            .store_backend
            .parse()
            .map_err(|error: stolon_store::BadBackend| UsageError::from(error.explained()))?;
        if self.store_timeout.is_zero() {
            return Err(
                UsageError::new("--store-timeout must be greater than zero").hint("its default is 5s")
            );
        }
        Ok(StoreOptions {
            backend,
            endpoints: self.store_endpoints.clone(),
            prefix: self.store_prefix.clone(),
            cluster_name: self.cluster_name.clone(),
            timeout: self.store_timeout,
            cert_file: path(&self.store_cert_file),
            key_file: path(&self.store_key),
            ca_file: path(&self.store_ca_file),
            tls_verification: match self.store_skip_tls_verify {
                true => TlsVerification::Skip,
                false => TlsVerification::Full,
            },
            consul: stolon_store::ConsulAccess::from_variables(variable),
            kubernetes: stolon_store::KubernetesAccess {
                kubeconfig: path(&self.kubeconfig),
                context: given(&self.kube_context),
                namespace: given(&self.kube_namespace),
                ..stolon_store::KubernetesAccess::from_variables(variable)
            },
        })
    }

    /// The same for a program that reports: in Kubernetes it must know its pod.
    ///
    /// # Errors
    /// A flag is missing or wrong, or the environment lacks the name of the pod.
    pub fn store_options_of_reporter(&self) -> Result<StoreOptions, UsageError> {
        let options = self.store_options()?;
        match (options.backend, &options.kubernetes.pod_name) {
            (Backend::Kubernetes, None) => Err(UsageError::new("missing required env variable \"POD_NAME\"")
                .hint("set POD_NAME to the name of the pod (valueFrom: fieldRef: metadata.name)")),
            _ => Ok(options),
        }
    }

    fn check_kubernetes(&self) -> Result<(), UsageError> {
        match self.kube_resource_kind.as_str() {
            "" => Err(UsageError::new("unspecified kubernetes resource kind")
                .hint("add --kube-resource-kind configmap")),
            "configmap" => Ok(()),
            other => Err(UsageError::new(format!("wrong kubernetes resource kind: {other:?}"))
                .hint("the only one is configmap")),
        }
    }

    /// Set logging up as the flags say. Call once.
    pub fn init_logging(&self) {
        let (level, color) = self.logging();
        init_logging(level, color);
        self.warn_of_open_store();
    }

    /// What is logged, and how it looks.
    pub(crate) fn logging(&self) -> (LogLevel, LogColor) {
        let level = if self.debug { LogLevel::Debug } else { self.log_level };
        let color = match self.log_color {
            Some(true) => LogColor::Always,
            Some(false) => LogColor::Never,
            None => LogColor::OnTerminal,
        };
        (level, color)
    }

    /// Whoever can change what a store answers decides what the keepers' user runs.
    fn warn_of_open_store(&self) {
        if self.store_skip_tls_verify {
            tracing::warn!(
                "--store-skip-tls-verify: whoever answers at the store's address is believed; give --store-ca-file instead"
            );
        }
        for endpoint in self.store_endpoints.split(',').map(str::trim).filter(|endpoint| is_open(endpoint)) {
            let endpoint = endpoint.rsplit('@').next().unwrap_or_default();
            tracing::warn!(
                "--store-endpoints {endpoint}: what is said to the store can be read and changed on its way; use https://"
            );
        }
    }
}

/// Whether an endpoint of a store is on another machine and without TLS.
fn is_open(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback());
    !is_here
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_endpoint_is_without_tls_and_elsewhere() {
        for (endpoint, expected) in [
            ("http://10.0.0.1:2379", true),
            ("http://etcd/", true),
            ("http://[fd00::1]:2379", true),
            ("http://user:secret@etcd:2379", true),
            ("http://127.0.0.1:2379", false),
            ("http://localhost:2379", false),
            ("http://[::1]:2379", false),
            ("https://10.0.0.1:2379", false),
            ("/var/lib/store.db", false),
            ("", false),
        ] {
            assert_eq!(is_open(endpoint), expected, "{endpoint}");
        }
    }
}
