//! What the store of a test cluster runs on.

use std::time::Duration;

use anyhow::Context;

use crate::consul::Consul;
use crate::etcd::Etcd;
use crate::kubernetes::real::Names;
use crate::kubernetes::{Api, ApiServer, RealApiServer};

/// Where a test cluster keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// One SQLite file.
    Sqlite,
    /// An etcd of one member that the cluster starts and stops.
    Etcd,
    /// The same, far away from all programs but the test.
    EtcdFarAway {
        /// What each question costs at least.
        round_trip: Duration,
    },
    /// An etcd of one member, through its version 2 interface.
    EtcdV2,
    /// A Consul of one server.
    Consul,
    /// Our API server of Kubernetes, in which each program has a pod.
    Kubernetes,
    /// A real one, which knows the Roles of a cluster named [`CLUSTER_NAME`].
    RealKubernetes,
}

/// The name of a test cluster.
pub const CLUSTER_NAME: &str = "test";

impl StoreKind {
    /// `--store-backend`.
    pub fn backend(self) -> &'static str {
        match self {
            StoreKind::Sqlite => "sqlite",
            StoreKind::Etcd | StoreKind::EtcdFarAway { .. } => "etcdv3",
            StoreKind::EtcdV2 => "etcdv2",
            StoreKind::Consul => "consul",
            StoreKind::Kubernetes | StoreKind::RealKubernetes => "kubernetes",
        }
    }
}

/// The server behind a store, if it has one.
#[derive(Default)]
pub struct StoreServer {
    /// For etcd.
    pub etcd: Option<Etcd>,
    /// For Consul.
    pub consul: Option<Consul>,
    /// For Kubernetes.
    pub kubernetes: Option<Box<dyn Api>>,
}

impl StoreServer {
    /// Start what this kind of store needs.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub async fn start(kind: StoreKind) -> anyhow::Result<Self> {
        let mut server = StoreServer::default();
        match kind {
            StoreKind::Sqlite => {}
            StoreKind::Etcd | StoreKind::EtcdFarAway { .. } | StoreKind::EtcdV2 => {
                server.etcd = Some(Etcd::single().await?);
            }
            StoreKind::Consul => server.consul = Some(Consul::single().await?),
            StoreKind::Kubernetes => server.kubernetes = Some(Box::new(ApiServer::start()?)),
            StoreKind::RealKubernetes => {
                server.kubernetes = Some(Box::new(RealApiServer::start(Names::One(CLUSTER_NAME)).await?));
            }
        }
        Ok(server)
    }

    /// `--store-endpoints`; `None`: there is no server.
    pub fn endpoints(&self) -> Option<String> {
        match self {
            StoreServer { etcd: Some(etcd), .. } => Some(etcd.endpoints()),
            StoreServer { consul: Some(consul), .. } => Some(consul.endpoint()),
            StoreServer { kubernetes: Some(_), .. } => Some(String::new()),
            _ => None,
        }
    }

    /// Make the pod of a program, in Kubernetes: `keeper1` is in `keeper1`.
    ///
    /// # Errors
    /// It is refused.
    pub fn house(&self, name: &str, cluster: &str) -> anyhow::Result<()> {
        let Some(kubernetes) = &self.kubernetes else { return Ok(()) };
        let component = format!("stolon-{}", name.trim_end_matches(|c: char| c.is_ascii_digit()));
        kubernetes.make_pod(name, &component, cluster)
    }

    /// Kill it. Its data stay.
    ///
    /// # Errors
    /// There is none, or it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match self {
            StoreServer { etcd: Some(etcd), .. } => etcd.kill(0),
            StoreServer { consul: Some(consul), .. } => consul.kill(),
            StoreServer { kubernetes, .. } => kubernetes.as_mut().context("a store to kill")?.end(),
        }
    }

    /// Start it again, and wait until it answers.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        match self {
            StoreServer { etcd: Some(etcd), .. } => {
                etcd.restart(0)?;
                etcd.wait_ready().await
            }
            StoreServer { consul: Some(consul), .. } => {
                consul.restart()?;
                consul.wait_ready().await
            }
            StoreServer { kubernetes, .. } => kubernetes.as_mut().context("a store to start")?.begin_again(),
        }
    }
}
