//! What tests do with an API server, the real one or ours.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::ApiServer;

/// An API server that a test has started. Errors say what it did not do.
pub trait Api: Send + Sync {
    /// A kubeconfig for somebody who may do what the programs need.
    ///
    /// # Errors
    /// See the trait.
    fn programs_kubeconfig(&self) -> anyhow::Result<String>;

    /// A directory that lives as long as this.
    fn directory(&self) -> &Path;

    /// Make a pod of a program of a cluster, if it is not there.
    ///
    /// # Errors
    /// See the trait.
    fn make_pod(&self, name: &str, component: &str, cluster: &str) -> anyhow::Result<()>;

    /// Remove a pod, as when its node is gone for good.
    ///
    /// # Errors
    /// See the trait.
    fn remove_pod(&self, name: &str) -> anyhow::Result<()>;

    /// An object; `None`: there is none.
    ///
    /// # Errors
    /// See the trait.
    fn find(&self, resource: &str, name: &str) -> anyhow::Result<Option<Value>>;

    /// Write some fields of an object, as somebody else does; it is made where it is not there.
    ///
    /// # Errors
    /// See the trait.
    fn write(&self, resource: &str, name: &str, patch: Value) -> anyhow::Result<()>;

    /// Freeze it: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// See the trait.
    fn freeze(&self) -> anyhow::Result<()>;

    /// Let it go on.
    ///
    /// # Errors
    /// See the trait.
    fn thaw(&self) -> anyhow::Result<()>;

    /// End it, with all connections. Its objects stay.
    ///
    /// # Errors
    /// See the trait.
    fn end(&mut self) -> anyhow::Result<()>;

    /// Start it again at the same port and with the same objects; it is ready then.
    ///
    /// # Errors
    /// See the trait.
    fn begin_again(&mut self) -> anyhow::Result<()>;

    /// A file with [`Api::programs_kubeconfig`].
    ///
    /// # Errors
    /// It cannot be written.
    fn programs_kubeconfig_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.directory().join("programs.kubeconfig");
        std::fs::write(&path, self.programs_kubeconfig()?).context("a kubeconfig file")?;
        Ok(path)
    }
}

/// A pod with these labels.
pub fn pod(name: &str, component: &str, cluster: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "component": component, "stolon-cluster": cluster } },
        "spec": { "containers": [{ "name": "it", "image": "it" }] },
        "status": { "phase": "Running" },
    })
}

impl Api for ApiServer {
    fn programs_kubeconfig(&self) -> anyhow::Result<String> {
        Ok(self.kubeconfig(json!({}), json!({})))
    }

    fn directory(&self) -> &Path {
        self.path()
    }

    fn make_pod(&self, name: &str, component: &str, cluster: &str) -> anyhow::Result<()> {
        self.ensure_pod(name, component, cluster);
        Ok(())
    }

    fn remove_pod(&self, name: &str) -> anyhow::Result<()> {
        self.delete_pod(name);
        Ok(())
    }

    fn find(&self, resource: &str, name: &str) -> anyhow::Result<Option<Value>> {
        Ok(self.object(resource, name))
    }

    fn write(&self, resource: &str, name: &str, patch: Value) -> anyhow::Result<()> {
        self.merge(resource, name, patch);
        Ok(())
    }

    fn freeze(&self) -> anyhow::Result<()> {
        self.pause();
        Ok(())
    }

    fn thaw(&self) -> anyhow::Result<()> {
        self.resume();
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.kill()
    }

    fn begin_again(&mut self) -> anyhow::Result<()> {
        self.restart()
    }
}
