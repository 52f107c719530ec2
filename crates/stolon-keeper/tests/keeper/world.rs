//! A store, keepers, and the little that a sentinel would do for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use stolon_model::{
    ClusterData, ClusterDocument, ClusterSpec, ClusterUid, FollowConfig, GoDuration, InitMode, Instance,
    InstanceInitMode, InstanceUid, Keeper, KeeperReport, KeeperUid, Phase, Role, Timestamp,
};
use stolon_store::{Backend, ClusterStore, StoreOptions};
use stolon_testkit::postgres::{as_unprivileged_user, bin_directory, free_port};

pub const LIMIT: Duration = Duration::from_secs(120);
pub const SUPERUSER: (&str, &str) = ("stolon", "su secret'\\");
pub const REPLICATION: (&str, &str) = ("repluser", "repl: secret");

/// Runs a test as a user that PostgreSQL accepts. `name` is the full path of the test.
pub fn scenario(name: &str, body: impl AsyncFnOnce()) {
    as_unprivileged_user(name, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
}

pub struct World {
    pub directory: tempfile::TempDir,
    pub store: Arc<dyn ClusterStore>,
    pub cluster: ClusterData,
}

impl World {
    pub fn new() -> World {
        let directory = tempfile::Builder::new().prefix("stolon-keeper-test").tempdir().unwrap();
        let file = directory.path().join("store.db").display().to_string();
        let options = StoreOptions::new(Backend::Sqlite, file, "test");
        let store = stolon_store::open(&options).unwrap();
        let mut spec = ClusterSpec::default();
        spec.init_mode = Some(InitMode::New);
        spec.sleep_interval = Some(GoDuration::from_seconds(1));
        let mut cluster = ClusterData::initial(ClusterUid::from("c1"), spec, Timestamp::ZERO);
        cluster.cluster.status.phase = Some(Phase::Normal);
        cluster.cluster.overwrite_data = true;
        World { directory, store, cluster }
    }

    pub async fn publish(&self) {
        self.store.put_cluster_document(&ClusterDocument::from(self.cluster.clone())).await.unwrap();
    }

    /// A registered keeper, started; its boot is acknowledged by [`World::acknowledge`].
    pub async fn keeper(&mut self, uid: &str) -> KeeperProcess {
        self.keeper_with(uid, &[]).await
    }

    /// The same with more flags.
    pub async fn keeper_with(&mut self, uid: &str, flags: &[&str]) -> KeeperProcess {
        let mut keeper = Keeper::default();
        keeper.uid = KeeperUid::from(uid);
        self.cluster.keepers.insert(keeper.uid.clone(), keeper);
        self.publish().await;
        let mut process = KeeperProcess::new(self, uid);
        process.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        process.start();
        self.acknowledge(&process).await;
        process
    }

    /// What a sentinel does once it sees a keeper's process.
    pub async fn acknowledge(&mut self, keeper: &KeeperProcess) {
        let uid = KeeperUid::from(keeper.uid.as_str());
        let known = self.cluster.keepers[&uid].status.boot_uuid.clone();
        let boot = self
            .eventually("a report of the new process", async |world| {
                let report = world.report(keeper).await?;
                (report.boot_uuid != known).then_some(report.boot_uuid)
            })
            .await;
        self.cluster.keepers.get_mut(&uid).unwrap().status.boot_uuid = boot;
        self.publish().await;
    }

    /// An instance for a keeper, not yet published.
    pub fn assign(
        &mut self,
        uid: &str,
        keeper: &KeeperProcess,
        mode: InstanceInitMode,
        role: Role,
    ) -> &mut Instance {
        let mut instance = Instance::default();
        instance.uid = InstanceUid::from(uid);
        instance.generation = 1;
        let spec = &mut instance.spec;
        spec.keeper_uid = KeeperUid::from(keeper.uid.as_str());
        spec.request_timeout = GoDuration::from_seconds(10);
        spec.max_standbys = 20;
        spec.additional_wal_senders = 5;
        spec.init_mode = Some(mode);
        spec.role = Some(role);
        instance.status.listen_address = "127.0.0.1".into();
        instance.status.port = keeper.port.to_string();
        self.cluster.instances.retain(|_, other| other.spec.keeper_uid != instance.spec.keeper_uid);
        self.cluster.instances.insert(instance.uid.clone(), instance);
        self.instance(uid)
    }

    pub fn instance(&mut self, uid: &str) -> &mut Instance {
        self.cluster.instances.get_mut(&InstanceUid::from(uid)).unwrap()
    }

    /// A primary made by `initdb`, converged.
    pub async fn primary(&mut self, keeper: &KeeperProcess) -> KeeperReport {
        self.assign("aa", keeper, InstanceInitMode::New, Role::Primary);
        self.cluster.cluster.status.primary = Some("aa".into());
        self.publish().await;
        let report = self.healthy(keeper, "aa", 1).await;
        self.change("aa", |instance| instance.spec.init_mode = Some(InstanceInitMode::None)).await;
        self.healthy(keeper, "aa", 2).await;
        report
    }

    /// A standby of `aa`, converged.
    pub async fn standby(&mut self, keeper: &KeeperProcess) -> KeeperReport {
        self.assign_standby(keeper, "bb").await;
        self.healthy(keeper, "bb", 1).await
    }

    /// Commits of `aa` wait for `bb`, which is in sync.
    pub async fn synchronous(&mut self, primary: &KeeperProcess) {
        self.change("aa", |aa| {
            aa.spec.synchronous_replication = true;
            aa.spec.synchronous_standbys = Some(vec!["bb".into()]);
        })
        .await;
        self.eventually("bb in sync", async |world| {
            let state = world.report(primary).await?.postgres_state?;
            (state.synchronous_standbys? == ["bb".into()]).then_some(())
        })
        .await;
    }

    pub async fn assign_standby(&mut self, keeper: &KeeperProcess, uid: &str) {
        let instance = self.assign(uid, keeper, InstanceInitMode::Resync, Role::Standby);
        instance.spec.follow_config = Some(FollowConfig::internal("aa".into()));
        self.change("aa", |instance| instance.spec.followers = Some(vec![uid.into()])).await;
    }

    /// Changes an instance as a sentinel does: with a new generation.
    pub async fn change(&mut self, uid: &str, change: impl FnOnce(&mut Instance)) {
        let instance = self.instance(uid);
        change(instance);
        instance.generation += 1;
        self.publish().await;
    }

    pub async fn report(&self, keeper: &KeeperProcess) -> Option<KeeperReport> {
        let reports = self.store.keeper_reports().await.unwrap();
        reports.get(&KeeperUid::from(keeper.uid.as_str())).cloned()
    }

    /// Until the keeper reports this instance, healthy, in this generation; what was observed is filled in.
    pub async fn healthy(&mut self, keeper: &KeeperProcess, uid: &str, generation: i64) -> KeeperReport {
        let wanted = InstanceUid::from(uid);
        let report = self
            .eventually(&format!("{uid} healthy in generation {generation}"), async |world| {
                let report = world.report(keeper).await?;
                let state = report.postgres_state.as_ref()?;
                let reached = state.healthy && state.uid == wanted && state.generation >= generation;
                reached.then_some(report)
            })
            .await;
        let state = report.postgres_state.clone().unwrap();
        let status = &mut self.instance(uid).status;
        status.system_identifier = state.system_identifier;
        status.timeline = state.timeline;
        status.lsn = state.lsn;
        status.timelines_history = state.timelines_history;
        status.healthy = true;
        status.current_generation = state.generation;
        report
    }

    /// Until the keeper reports a problem that contains `text`.
    pub async fn problem(&self, keeper: &KeeperProcess, text: &str) -> String {
        self.eventually(&format!("the problem {text:?}"), async |world| {
            let problem = world.report(keeper).await?.activity?.problem;
            problem.contains(text).then_some(problem)
        })
        .await
    }

    pub async fn eventually<T>(&self, what: &str, mut probe: impl AsyncFnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(found) = probe(self).await {
                return found;
            }
            if Instant::now() > deadline {
                let reports = self.store.keeper_reports().await;
                panic!("waited {LIMIT:?} for {what}, in vain; reports: {reports:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub struct KeeperProcess {
    pub uid: String,
    pub port: u16,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    store: PathBuf,
    pub flags: Vec<String>,
    /// A program that runs the keeper, as `nohup` does.
    pub under: Option<&'static str>,
    child: Option<Child>,
}

impl KeeperProcess {
    pub fn new(world: &World, uid: &str) -> Self {
        let directory = world.directory.path();
        KeeperProcess {
            uid: uid.to_owned(),
            port: free_port().unwrap(),
            data_dir: directory.join(uid),
            log: directory.join(format!("{uid}.log")),
            store: directory.join("store.db"),
            flags: Vec::new(),
            under: None,
            child: None,
        }
    }

    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let arguments = BTreeMap::from([
            ("--cluster-name", "test".to_owned()),
            ("--store-backend", "sqlite".to_owned()),
            ("--store-endpoints", self.store.display().to_string()),
            ("--uid", self.uid.clone()),
            ("--data-dir", self.data_dir.display().to_string()),
            ("--pg-listen-address", "127.0.0.1".to_owned()),
            ("--pg-port", self.port.to_string()),
            ("--pg-bin-path", bin_directory().unwrap().display().to_string()),
            ("--pg-su-username", SUPERUSER.0.to_owned()),
            ("--pg-su-password", SUPERUSER.1.to_owned()),
            ("--pg-repl-username", REPLICATION.0.to_owned()),
            ("--pg-repl-password", REPLICATION.1.to_owned()),
            ("--log-level", "debug".to_owned()),
        ]);
        let program = stolon_testkit::postgres::program(env!("CARGO_BIN_EXE_stolon-keeper"));
        let mut command = Command::new(self.under.map_or_else(|| program.clone().into(), PathBuf::from));
        command.args(self.under.map(|_| &program));
        command.args(arguments.iter().flat_map(|(name, value)| [*name, value.as_str()]));
        command.args(&self.flags);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    pub fn pgdata(&self) -> PathBuf {
        self.data_dir.join("postgres")
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn dbstate(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("dbstate")).unwrap_or_default()
    }

    pub fn pid(&self) -> Pid {
        self.child.as_ref().map(|child| Pid::from_raw(child.id() as i32).unwrap()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Until the process has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        let mut child = self.child.take().unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the keeper does not end:\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How the process ended, once it has.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().unwrap())
    }

    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// The postmaster's pid, when `postmaster.pid` names a live process.
    pub fn postmaster(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.pgdata().join("postmaster.pid")).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
        rustix::process::test_kill_process(pid).is_ok().then_some(pid)
    }

    /// Processes that work in the data directory.
    pub fn processes(&self) -> Vec<String> {
        let directory = std::fs::canonicalize(&self.data_dir).unwrap_or_else(|_| self.data_dir.clone());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let here =
                std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&directory));
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let names_us = command.contains(&directory.display().to_string()) && !command.is_empty();
            if here || names_us {
                found.push(format!("{} {command}", entry.file_name().to_string_lossy()));
            }
        }
        found
    }

    /// The role `app` is refused by `pg_hba.conf`, which is told by no code of its own.
    pub async fn locks_app_out(&self) -> Option<()> {
        let error = self.connect_as("app", "app").await.err()?;
        error.as_db_error()?.message().contains("no pg_hba.conf entry").then_some(())
    }

    pub async fn connect_as(
        &self,
        user: &str,
        password: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(password).dbname("postgres");
        config.connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub async fn value(&self, sql: &str) -> String {
        self.try_value(sql).await.unwrap()
    }

    pub async fn try_value(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        let client = self.connect_as(SUPERUSER.0, SUPERUSER.1).await?;
        let messages = client.simple_query(sql).await?;
        Ok(messages
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap_or_default())
    }
}

impl Drop for KeeperProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.log_text();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- log of {}:\n{}", self.uid, tail.join("\n"));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(postmaster) = self.postmaster() {
            let _ = rustix::process::kill_process(postmaster, Signal::QUIT);
        }
    }
}

/// What a program answers over HTTP, head and all.
pub async fn get(address: &str, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

pub fn files_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
