//! An API server of Kubernetes as far as a store needs one: objects in namespaces, their versions, lists, watches, over real TCP
//! and TLS. It is no Kubernetes: nothing runs in its pods. `kubectl` and a real API server tell whether it is right.

mod answers;
mod api;
mod container;
pub mod node;
mod objects;
pub mod python;
pub mod real;
mod resolve;

pub use api::Api;
pub use node::{Node, Pod};
pub use real::RealApiServer;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::objects::Objects;
use crate::etcd::Access;

/// The namespace that everything is in.
pub const NAMESPACE: &str = "default";

/// A running API server. Dropping it ends it.
pub struct ApiServer {
    shared: Arc<Shared>,
    port: u16,
    access: Access,
    directory: tempfile::TempDir,
}

/// What all requests share.
struct Shared {
    objects: Mutex<Objects>,
    /// Wakes watches: the version of the objects.
    changed: watch::Sender<i64>,
    life: watch::Sender<Life>,
    /// Counts how often all connections were cut.
    cuts: watch::Sender<u64>,
    trouble: Mutex<Trouble>,
    watches: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Runs,
    /// It keeps its connections and answers nothing.
    Paused,
    Killed,
    Over,
}

/// What goes wrong.
#[derive(Default)]
struct Trouble {
    delay: Duration,
    status: Option<u16>,
    /// The token that lets in; `None`: everybody is let in.
    token: Option<String>,
    forbidden: BTreeSet<(String, String)>,
    gone: Gone,
}

/// How a watch is told that the state that it wants to begin with is forgotten. API servers do both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gone {
    /// An event in the answer.
    #[default]
    ByEvent,
    /// The status of the answer.
    ByStatus,
}

impl ApiServer {
    /// One that lets everybody in, ready.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start() -> anyhow::Result<Self> {
        Self::with(Access::Http, 0)
    }

    /// One that is reached in this way, at this port (0: any that is free), ready.
    ///
    /// # Errors
    /// It cannot listen, or its certificates make no sense.
    pub fn with(access: Access, port: u16) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("kubernetes-").tempdir().context("a directory")?;
        let shared = Arc::new(Shared {
            objects: Mutex::default(),
            changed: watch::Sender::new(0),
            life: watch::Sender::new(Life::Runs),
            cuts: watch::Sender::new(0),
            trouble: Mutex::default(),
            watches: AtomicUsize::default(),
        });
        let mut server = ApiServer { shared, port, access, directory };
        server.listen()?;
        Ok(server)
    }

    /// Listen, on a thread of its own: whatever else the test does, requests are answered.
    fn listen(&mut self) -> anyhow::Result<()> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, self.port));
        let listener = listener.context("the API server cannot listen")?;
        listener.set_nonblocking(true)?;
        self.port = listener.local_addr()?.port();
        let tls = match &self.access {
            Access::Http => None,
            Access::Https { certificate, key, client_authority } => {
                Some(tls(certificate, key, client_authority.as_deref())?)
            }
        };
        let shared = Arc::clone(&self.shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("kubernetes".to_owned()).spawn(move || {
            runtime.block_on(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => serve(&shared, listener, tls).await,
                    Err(error) => eprintln!("the API server cannot listen: {error}"),
                }
            });
        })?;
        Ok(())
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As a kubeconfig file names it.
    pub fn url(&self) -> String {
        let scheme = if matches!(self.access, Access::Http) { "http" } else { "https" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// A directory that lives as long as this.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A kubeconfig file for it, below [`ApiServer::path`]. See [`ApiServer::kubeconfig`].
    ///
    /// # Errors
    /// It cannot be written.
    pub fn kubeconfig_file(&self, name: &str, cluster: Value, user: Value) -> anyhow::Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, self.kubeconfig(cluster, user)).context("a kubeconfig file")?;
        Ok(path)
    }

    /// A kubeconfig for it. `cluster` and `user` are added to what it says of them.
    pub fn kubeconfig(&self, cluster: Value, user: Value) -> String {
        let mut cluster = cluster;
        cluster["server"] = json!(self.url());
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{ "name": "test", "cluster": cluster }],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": NAMESPACE } }],
        });
        config.to_string()
    }

    /// Make a pod of a program of a cluster, if it is not there.
    pub fn ensure_pod(&self, name: &str, component: &str, cluster: &str) {
        let pod = api::pod(name, component, cluster);
        self.change(|objects| drop(objects.create(&list("pods"), pod)));
    }

    /// Remove a pod, as when its node is gone for good.
    pub fn delete_pod(&self, name: &str) {
        self.change(|objects| drop(objects.delete(&place("pods", name))));
    }

    /// An object; `None`: there is none.
    pub fn object(&self, resource: &str, name: &str) -> Option<Value> {
        self.shared.objects.lock().get(&place(resource, name)).ok()
    }

    /// Write some fields of an object, as somebody else does; it is made where it is not there.
    pub fn merge(&self, resource: &str, name: &str, patch: Value) {
        self.change(|objects| {
            if objects.patch(&place(resource, name), &patch).is_err() {
                let mut object = patch;
                object["metadata"]["name"] = json!(name);
                drop(objects.create(&list(resource), object));
            }
        });
    }

    /// Forget the history of all objects: watches must begin anew.
    pub fn forget_history(&self, gone: Gone) {
        self.shared.trouble.lock().gone = gone;
        self.shared.objects.lock().forget_history();
    }

    fn change(&self, work: impl FnOnce(&mut Objects)) {
        let mut objects = self.shared.objects.lock();
        work(&mut objects);
        self.shared.changed.send_replace(objects.version());
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.shared.watches.load(Ordering::SeqCst)
    }

    /// Answer everything so much later.
    pub fn delay(&self, delay: Duration) {
        self.shared.trouble.lock().delay = delay;
    }

    /// Answer everything with this status; `None`: no longer.
    pub fn fail(&self, status: Option<u16>) {
        self.shared.trouble.lock().status = status;
    }

    /// Let in whoever has this token, and nobody else.
    pub fn demand_token(&self, token: &str) {
        self.shared.trouble.lock().token = Some(token.to_owned());
    }

    /// Nobody may do this to such objects: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub fn forbid(&self, verb: &str, resource: &str) {
        self.shared.trouble.lock().forbidden.insert((verb.to_owned(), resource.to_owned()));
    }

    /// Close all connections.
    pub fn drop_connections(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Freeze it: it keeps its connections and answers nothing.
    pub fn pause(&self) {
        self.shared.life.send_replace(Life::Paused);
    }

    /// Let it go on.
    pub fn resume(&self) {
        self.shared.life.send_replace(Life::Runs);
    }

    /// End it, with all connections. Its objects stay.
    ///
    /// # Errors
    /// It goes on.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.shared.life.send_replace(Life::Killed);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
            if std::time::Instant::now() > deadline {
                bail!("the API server does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Start it again after a kill, at the same port and with the same objects.
    ///
    /// # Errors
    /// The port is taken.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.shared.life.send_replace(Life::Runs);
        self.listen()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.life.send_replace(Life::Over);
    }
}

fn list(resource: &str) -> (String, String) {
    (resource.to_owned(), NAMESPACE.to_owned())
}

fn place(resource: &str, name: &str) -> objects::Place {
    (resource.to_owned(), NAMESPACE.to_owned(), name.to_owned())
}

/// Serve connections until it is killed.
async fn serve(shared: &Arc<Shared>, listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>) {
    let (mut life, mut cuts) = (shared.life.subscribe(), shared.cuts.subscribe());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = life.changed() => {
                let now = *life.borrow_and_update();
                if changed.is_err() || matches!(now, Life::Killed | Life::Over) {
                    return;
                }
                continue;
            }
            _ = cuts.changed() => {
                connections.abort_all();
                continue;
            }
        };
        let Ok((stream, _)) = accepted else { continue };
        let (shared, tls) = (Arc::clone(shared), tls.clone());
        connections.spawn(async move {
            match tls {
                None => serve_connection(shared, stream).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve_connection(shared, stream).await,
                    Err(error) => eprintln!("a handshake with the API server failed: {error}"),
                },
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection<S>(shared: Arc<Shared>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(answers::answer(shared, request).await) }
    });
    // A client that went away is no trouble of the server's.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn tls(
    certificate: &Path,
    key: &Path,
    authority: Option<&Path>,
) -> anyhow::Result<tokio_rustls::TlsAcceptor> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match authority {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(authority)? {
                roots.add(certificate?)?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}
