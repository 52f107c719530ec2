//! A cluster document, PostgreSQL stand-ins that say who they are, and a store that can be made to fail.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser as _;
use stolon_model::*;
use stolon_proxy::{Flags, Metrics, Proxy};
use stolon_runtime::{Readiness, Shutdown};
use stolon_store::{
    Backend, Campaign, ClusterStore, DocumentFeed, DocumentRead, Everything, EverythingFeed, Expected,
    Revision, StoreError, StoreOptions, Versioned, Watch, WatchScope,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Far above what any step takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Wait for a condition; its last answer is the message when it does not come true.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(state) if tokio::time::Instant::now() > end => panic!("{what} did not come about: {state}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// A proxy at work.
pub struct Running {
    pub address: SocketAddr,
    pub shutdown: Shutdown,
    pub task: tokio::task::JoinHandle<()>,
}

/// A proxy with these further flags.
pub fn start(store: &Arc<MoodyStore>, uid: &str, flags: &[&str]) -> Running {
    let port = free_port();
    let port_flag = format!("--port={port}");
    // clap's own parsing knows no `--flag=false` for switches; the test sets that one field itself.
    let mut parsed = Flags::parse_from(
        ["stolon-proxy", port_flag.as_str()]
            .into_iter()
            .chain(flags.iter().copied().filter(|flag| !flag.starts_with("--stop-listening"))),
    );
    parsed.stop_listening = !flags.contains(&"--stop-listening=false");
    let options = parsed.proxy_options().unwrap();
    let shared: Arc<dyn ClusterStore> = store.clone();
    let metrics = store.metrics.clone();
    let proxy = Proxy::new(ProxyUid::from(uid), shared, options, None, metrics, Readiness::default());
    let shutdown = Shutdown::default();
    let stop = shutdown.clone();
    let task = tokio::spawn(async move { proxy.run(&stop).await });
    Running { address: SocketAddr::from(([127, 0, 0, 1], port)), shutdown, task }
}

/// A document whose primary instances are the given ones; `primary` is where clients go.
#[derive(Clone)]
pub struct Cluster {
    pub generation: i64,
    pub primary: Option<&'static str>,
    pub enabled: Vec<ProxyUid>,
    pub instances: Vec<(&'static str, SocketAddr)>,
    pub check_interval_ms: i64,
    pub timeout_ms: i64,
    /// How sessions end, and for how long new clients wait, while another primary is on its way.
    pub handover: Option<ProxyHandover>,
}

impl Cluster {
    pub fn new(instances: &[(&'static str, SocketAddr)]) -> Self {
        Cluster {
            generation: 1,
            primary: None,
            enabled: Vec::new(),
            instances: instances.to_vec(),
            check_interval_ms: 200,
            timeout_ms: 2000,
            handover: None,
        }
    }

    pub fn document(&self) -> ClusterDocument {
        let spec = ClusterSpec {
            init_mode: Some(InitMode::New),
            proxy_check_interval: Some(GoDuration::from_milliseconds(self.check_interval_ms)),
            proxy_timeout: Some(GoDuration::from_milliseconds(self.timeout_ms)),
            ..ClusterSpec::default()
        };
        let mut cluster = ClusterData::initial(ClusterUid::from("c"), spec, Timestamp::ZERO);
        let instance = |address: &SocketAddr| Instance {
            status: InstanceStatus {
                listen_address: address.ip().to_string(),
                port: address.port().to_string(),
                ..InstanceStatus::default()
            },
            ..Instance::default()
        };
        cluster.instances = self
            .instances
            .iter()
            .map(|(uid, address)| (InstanceUid::from(*uid), instance(address)))
            .collect();
        cluster.proxy.generation = self.generation;
        cluster.proxy.spec.primary = self.primary.map(InstanceUid::from);
        cluster.proxy.spec.handover = self.handover.clone();
        cluster.proxy.spec.enabled_proxies = Some(self.enabled.clone());
        cluster.into()
    }

    /// What a sentinel does: one more generation, then the write.
    pub async fn write(&mut self, store: &dyn ClusterStore) {
        self.generation += 1;
        store.put_cluster_document(&self.document()).await.unwrap();
    }

    /// Play the sentinel until the proxy is admitted and has acknowledged.
    pub async fn admit(&mut self, store: &dyn ClusterStore, primary: &'static str, proxies: usize) {
        let uids = eventually("the proxies' reports", async || {
            let reports = store.proxy_reports().await.map_err(|error| error.to_string())?;
            match reports.len() == proxies {
                true => Ok(reports.into_keys().collect::<Vec<_>>()),
                false => Err(format!("{} reports", reports.len())),
            }
        })
        .await;
        self.primary = Some(primary);
        self.enabled = uids;
        self.write(store).await;
        self.acknowledged(store).await;
    }

    /// Every proxy reports the current generation.
    pub async fn acknowledged(&self, store: &dyn ClusterStore) {
        eventually("the acknowledgement", async || {
            let reports = store.proxy_reports().await.map_err(|error| error.to_string())?;
            match !reports.is_empty() && reports.values().all(|report| report.generation == self.generation) {
                true => Ok(()),
                false => Err(format!("{reports:?}, wanted {}", self.generation)),
            }
        })
        .await;
    }
}

/// A server that says its name, answers each line with `<name> <line>`, and `<name> bye` at the end of input.
pub struct Server {
    pub address: SocketAddr,
    /// Every byte that it was sent.
    pub received: Arc<Mutex<Vec<u8>>>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Server {
    pub async fn start(name: &'static str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, name, Arc::clone(&log)));
            }
        });
        Server { address, received, _task: tokio_util::task::AbortOnDropHandle::new(task) }
    }

    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }
}

async fn answer(stream: TcpStream, name: &'static str, log: Arc<Mutex<Vec<u8>>>) {
    let (from, mut to) = stream.into_split();
    let mut lines = BufReader::new(from);
    let _ = to.write_all(format!("{name}\n").as_bytes()).await;
    let mut line = Vec::new();
    while let Ok(length) = lines.read_until(b'\n', &mut line).await {
        if length == 0 {
            let _ = to.write_all(format!("{name} bye\n").as_bytes()).await;
            return;
        }
        log.lock().unwrap().extend_from_slice(&line);
        let reply = [name.as_bytes(), b" ", line.as_slice()].concat();
        if to.write_all(&reply).await.is_err() {
            return;
        }
        line.clear();
    }
}

/// A client that reads lines.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    /// Connect once and wait for the server's name. `Err`: refused, or closed without a word.
    pub async fn try_connect(address: SocketAddr) -> Result<(Client, String), String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let mut client = Client { stream: BufReader::new(stream) };
        match client.line().await.map_err(|error| error.to_string())? {
            name if name.is_empty() => Err("closed".to_owned()),
            name => Ok((client, name)),
        }
    }

    /// Connect until a server says its name.
    pub async fn connect(address: SocketAddr) -> (Client, String) {
        eventually("a connection", async || Client::try_connect(address).await).await
    }

    pub async fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await.expect("a line or an end")?;
        Ok(line.trim_end().to_owned())
    }

    pub async fn say(&mut self, line: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).await
    }

    pub async fn ask(&mut self, line: &str) -> std::io::Result<String> {
        self.say(line).await?;
        self.line().await
    }

    /// Waits for the end of the connection, however it comes; what was read before it is returned.
    pub async fn end(&mut self) -> (String, Option<std::io::ErrorKind>) {
        let mut text = Vec::new();
        let end = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut text)).await;
        let kind = end.expect("the connection should end").err().map(|error| error.kind());
        (String::from_utf8_lossy(&text).into_owned(), kind)
    }
}

/// What the store does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Good,
    /// No answer comes.
    Silent,
    /// Reads answer, writes do not.
    SilentForWrites,
    /// An error comes at once.
    Failing,
    /// Each round trip takes so long.
    Slow(Duration),
}

/// What happens in between.
pub type Hook = Box<dyn FnOnce() + Send>;

/// A store in memory with moods, which notes publications.
pub struct MoodyStore {
    inner: Arc<dyn ClusterStore>,
    pub mood: watch::Sender<Mood>,
    /// Generation and number of open connections at each publication.
    pub published: Mutex<Vec<(i64, i64)>>,
    /// Called once, after the next publication.
    pub on_publication: Mutex<Option<Hook>>,
    /// Called once, when the next document was read and before it is handed over.
    pub on_read: Mutex<Option<Hook>>,
    pub metrics: Metrics,
}

impl MoodyStore {
    pub fn new() -> Arc<Self> {
        let options = StoreOptions::new(Backend::Memory, "", "test");
        Arc::new(MoodyStore {
            inner: stolon_store::open(&options).unwrap(),
            mood: watch::Sender::new(Mood::Good),
            published: Mutex::new(Vec::new()),
            on_publication: Mutex::new(None),
            on_read: Mutex::new(None),
            metrics: Metrics::default(),
        })
    }

    /// The store as the test sees it: always good.
    pub fn inner(&self) -> &dyn ClusterStore {
        &*self.inner
    }

    async fn answer(&self, is_write: bool) -> Result<(), StoreError> {
        let mut mood = self.mood.subscribe();
        let silent = |mood: &Mood| *mood == Mood::Silent || (is_write && *mood == Mood::SilentForWrites);
        let answered = mood.wait_for(|mood| !silent(mood)).await.unwrap().to_owned();
        match answered {
            Mood::Failing => Err(StoreError::Conflict),
            Mood::Slow(round_trip) => {
                tokio::time::sleep(round_trip).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn run_hook(hook: &Mutex<Option<Hook>>) {
    let hook = hook.lock().unwrap().take();
    if let Some(hook) = hook {
        hook();
    }
}

#[async_trait]
impl ClusterStore for MoodyStore {
    async fn cluster_document(&self) -> Result<Option<Versioned<ClusterDocument>>, StoreError> {
        self.answer(false).await?;
        let document = self.inner.cluster_document().await;
        run_hook(&self.on_read);
        document
    }

    async fn everything(&self) -> Result<Everything, StoreError> {
        self.inner.everything().await
    }

    async fn put_cluster_document(&self, document: &ClusterDocument) -> Result<(), StoreError> {
        self.inner.put_cluster_document(document).await
    }

    async fn compare_and_put_cluster_document(
        &self,
        document: &ClusterDocument,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        self.inner.compare_and_put_cluster_document(document, expected).await
    }

    async fn put_keeper_report(&self, report: &KeeperReport, ttl: Duration) -> Result<(), StoreError> {
        self.inner.put_keeper_report(report, ttl).await
    }

    async fn keeper_reports(&self) -> Result<BTreeMap<KeeperUid, KeeperReport>, StoreError> {
        self.inner.keeper_reports().await
    }

    async fn remove_keeper_report(&self, uid: &KeeperUid) -> Result<(), StoreError> {
        self.inner.remove_keeper_report(uid).await
    }

    async fn put_sentinel_report(&self, report: &SentinelReport, ttl: Duration) -> Result<(), StoreError> {
        self.inner.put_sentinel_report(report, ttl).await
    }

    async fn sentinel_reports(&self) -> Result<BTreeMap<SentinelUid, SentinelReport>, StoreError> {
        self.inner.sentinel_reports().await
    }

    async fn remove_sentinel_report(&self, uid: &SentinelUid) -> Result<(), StoreError> {
        self.inner.remove_sentinel_report(uid).await
    }

    async fn put_proxy_report(&self, report: &ProxyReport, ttl: Duration) -> Result<(), StoreError> {
        self.published.lock().unwrap().push((report.generation, self.metrics.connections.get()));
        self.answer(true).await?;
        self.inner.put_proxy_report(report, ttl).await?;
        run_hook(&self.on_publication);
        Ok(())
    }

    async fn publish_proxy_report(
        &self,
        report: &ProxyReport,
        ttl: Duration,
    ) -> Result<DocumentRead, StoreError> {
        // Both at once: they are one request.
        let (put, read) = tokio::join!(self.put_proxy_report(report, ttl), self.cluster_document());
        put.map(|()| read)
    }

    async fn proxy_reports(&self) -> Result<BTreeMap<ProxyUid, ProxyReport>, StoreError> {
        self.inner.proxy_reports().await
    }

    async fn remove_proxy_report(&self, uid: &ProxyUid) -> Result<(), StoreError> {
        self.inner.remove_proxy_report(uid).await
    }

    fn watch(&self, scope: WatchScope) -> Watch {
        self.inner.watch(scope)
    }

    fn follow_document(&self) -> DocumentFeed {
        self.inner.follow_document()
    }

    fn follow_everything(&self) -> EverythingFeed {
        self.inner.follow_everything()
    }

    async fn leader(&self) -> Result<Option<SentinelUid>, StoreError> {
        self.inner.leader().await
    }

    fn campaign(&self, uid: SentinelUid) -> Campaign {
        self.inner.campaign(uid)
    }

    fn requests(&self) -> u64 {
        self.inner.requests()
    }

    fn latencies(&self) -> stolon_store::RequestLatencies {
        self.inner.latencies()
    }
}

/// A port of 127.0.0.1 that nobody listens on.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
