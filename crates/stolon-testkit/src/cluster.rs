//! A whole cluster of the real programs, for tests and measurements.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stolon_local::{
    Account, Credentials, Layout, Ports, Process, Server, Service, Session, Stopped, Target, kill_tree,
    reachable_programs, running_in, tail, tree,
};
use stolon_model::{ClusterData, KeeperReport, KeeperUid};
use stolon_store::{Backend, ClusterStore, StoreOptions};

use crate::daemon::free_ports;
use crate::majors::reachable_programs_of_major;
use crate::slow_road::SlowRoad;
use crate::store_server::{CLUSTER_NAME, StoreKind, StoreServer};
use crate::wait::wait_for;

/// Longest time for one statement or connection of a test.
pub const QUERY: Duration = Duration::from_secs(20);
/// Longest time for anything that a cluster does by itself.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a test cluster consists of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of keepers.
    pub keepers: usize,
    /// Number of sentinels.
    pub sentinels: usize,
    /// Number of proxies.
    pub proxies: usize,
    /// The store.
    pub store: StoreKind,
    /// The specification that the first sentinel writes; `None` leaves that to `stolonctl init`.
    pub spec: Option<Value>,
    /// Where the programs are; `None` finds them beside the running test.
    pub programs: Option<PathBuf>,
    /// Which PostgreSQL the keepers run; `None`: the installed one.
    pub major: Option<u16>,
}

impl Plan {
    /// One sentinel, one proxy, so many keepers, on a file, with short timings.
    pub fn new(keepers: usize) -> Plan {
        Plan {
            keepers,
            sentinels: 1,
            proxies: 1,
            store: StoreKind::Sqlite,
            spec: Some(short_timings()),
            programs: None,
            major: None,
        }
    }

    /// The same on another major of PostgreSQL.
    pub fn major(mut self, major: u16) -> Plan {
        self.major = Some(major);
        self
    }

    /// The same with another store.
    pub fn store(mut self, store: StoreKind) -> Plan {
        self.store = store;
        self
    }

    /// The same with other values in the specification.
    pub fn spec(mut self, changes: Value) -> Plan {
        let mut spec = self.spec.take().unwrap_or_else(|| json!({}));
        if let (Some(spec), Value::Object(changes)) = (spec.as_object_mut(), changes) {
            spec.extend(changes);
        }
        self.spec = Some(spec);
        self
    }

    /// The same without a specification: the test initialises the cluster itself.
    pub fn uninitialised(mut self) -> Plan {
        self.spec = None;
        self
    }
}

/// The specification of most tests: a new cluster whose members notice each other quickly.
pub fn short_timings() -> Value {
    json!({
        "initMode": "new",
        "sleepInterval": "1s",
        "requestTimeout": "5s",
        "failInterval": "5s",
        "proxyCheckInterval": "1s",
        "proxyTimeout": "3s",
        "usePgrewind": true,
    })
}

/// A cluster whose programs run. Dropping it kills all of them and removes their files.
pub struct Cluster {
    /// Files and command lines.
    pub layout: Layout,
    /// The store, as every other program sees it.
    pub store: Arc<dyn ClusterStore>,
    /// What the store runs on.
    pub server: StoreServer,
    /// Between the programs and an etcd that is far away.
    _road: Option<SlowRoad>,
    /// Ports that nobody uses.
    pub ports: Ports,
    services: BTreeMap<String, Service>,
    running: BTreeMap<String, Process>,
    keeper_ports: Vec<u16>,
    proxy_ports: Vec<u16>,
    directory: tempfile::TempDir,
}

impl Cluster {
    /// Make everything ready to start. Call inside a tokio runtime.
    ///
    /// # Errors
    /// A program is missing, or the machine refuses something.
    pub async fn prepare(plan: &Plan) -> anyhow::Result<Cluster> {
        stolon_local::adopt_orphans();
        let directory = tempfile::Builder::new().prefix("stolon-test-").tempdir()?;
        let account = Account::for_postgresql()?;
        account.own(directory.path())?;
        let programs = match &plan.programs {
            Some(programs) => programs.clone(),
            None => programs_beside_the_test()?,
        };
        let server = StoreServer::start(plan.store).await?;
        let mut layout = Layout {
            programs: reachable_programs(&programs, &account, &directory.path().join("bin")).await?,
            directory: directory.path().canonicalize()?,
            cluster_name: CLUSTER_NAME.to_owned(),
            store_backend: plan.store.backend().to_owned(),
            store_endpoints: match server.endpoints() {
                Some(endpoints) => endpoints,
                None => directory.path().join("store").display().to_string(),
            },
            kubeconfig: server.kubernetes.as_ref().map(|_| directory.path().join("kubeconfig")),
            pg_bin: match plan.major {
                Some(major) => reachable_programs_of_major(major, &account, directory.path()).await?,
                None => Server::find_programs()?,
            },
            account,
            credentials: Credentials {
                superuser: "stolon".to_owned(),
                superuser_password: "superuser's \"password\"".to_owned(),
                replication_user: "repluser".to_owned(),
                replication_password: "replicator\\ password".to_owned(),
            },
        };
        layout.prepare()?;
        if let (Some(kubernetes), Some(file)) = (&server.kubernetes, &layout.kubeconfig) {
            layout.account.write_private(file, &kubernetes.programs_kubeconfig()?)?;
        }
        let store = open_store(&layout)?;
        let road = match (plan.store, &server.etcd) {
            (StoreKind::EtcdFarAway { round_trip }, Some(etcd)) => {
                Some(SlowRoad::to(etcd.client_port(0), round_trip).await?)
            }
            _ => None,
        };
        if let Some(road) = &road {
            layout.store_endpoints = road.endpoint();
        }
        let mut cluster = Cluster {
            layout,
            store,
            server,
            _road: road,
            ports: Ports::default(),
            services: BTreeMap::new(),
            running: BTreeMap::new(),
            keeper_ports: Vec::new(),
            proxy_ports: Vec::new(),
            directory,
        };
        cluster.plan_services(plan)?;
        Ok(cluster)
    }

    fn plan_services(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let spec = match &plan.spec {
            Some(spec) => {
                let file = self.layout.directory.join("initial-cluster-spec.json");
                self.layout.account.write_private(&file, &spec.to_string())?;
                Some(file)
            }
            None => None,
        };
        for number in 1..=plan.sentinels {
            let mut service = self.layout.sentinel(number);
            if let Some(spec) = &spec {
                service = service.with("--initial-cluster-spec", spec);
            }
            self.server.house(&service.name, &self.layout.cluster_name)?;
            self.services.insert(service.name.clone(), service);
        }
        for number in 1..=plan.keepers {
            let port = self.ports.take()?;
            self.keeper_ports.push(port);
            let service = self.layout.keeper(number, port);
            self.server.house(&service.name, &self.layout.cluster_name)?;
            self.services.insert(service.name.clone(), service);
        }
        for number in 1..=plan.proxies {
            let port = self.ports.take()?;
            self.proxy_ports.push(port);
            let service = self.layout.proxy(number, port);
            self.server.house(&service.name, &self.layout.cluster_name)?;
            self.services.insert(service.name.clone(), service);
        }
        Ok(())
    }

    /// Start everything.
    ///
    /// # Errors
    /// As [`Cluster::prepare`].
    pub async fn start(plan: &Plan) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::prepare(plan).await?;
        cluster.start_services()?;
        Ok(cluster)
    }

    /// Start every program of a cluster that was prepared.
    ///
    /// # Errors
    /// One of them cannot be started.
    pub fn start_services(&mut self) -> anyhow::Result<()> {
        self.services().iter().try_for_each(|name| self.start_service(name))
    }

    /// Start the programs of a cluster, with keepers that answer over HTTP, and wait until the primary takes writes and all standbys stream.
    /// Returns the ports at which they answer.
    ///
    /// # Errors
    /// A program does not start, or a time limit was reached.
    pub async fn start_answering(&mut self, keepers: usize) -> anyhow::Result<Vec<u16>> {
        let ports = free_ports(keepers)?;
        for (index, port) in ports.iter().enumerate() {
            let address = format!("127.0.0.1:{port}");
            self.add_flag(&format!("keeper{}", index + 1), "--http-listen-address", &address)?;
        }
        self.start_services()?;
        self.wait_writable(PATIENCE).await?;
        self.wait_streaming(keepers - 1, PATIENCE).await?;
        Ok(ports)
    }

    /// Start everything, and wait until the database takes writes and all standbys stream.
    ///
    /// # Errors
    /// As [`Cluster::prepare`], or it takes too long.
    pub async fn start_and_wait(plan: &Plan) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::start(plan).await?;
        let ready = async {
            cluster.wait_writable(PATIENCE).await?;
            cluster.wait_streaming(plan.keepers - 1, PATIENCE).await
        }
        .await;
        if let Err(error) = ready {
            cluster.dump_logs();
            cluster.kill_everything().await;
            return Err(error);
        }
        Ok(cluster)
    }

    /// The names of all programs, whether they run or not.
    pub fn services(&self) -> Vec<String> {
        self.services.keys().cloned().collect()
    }

    /// Start one program: `sentinel1`, `keeper2`, `proxy1`.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be started.
    pub fn start_service(&mut self, name: &str) -> anyhow::Result<()> {
        let service = self.services.get(name).with_context(|| format!("no service {name}"))?;
        self.running.insert(name.to_owned(), service.start()?);
        Ok(())
    }

    /// Give one program another flag, from its next start on; of several with one name, the last one counts.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn add_flag(&mut self, name: &str, flag: &str, value: &str) -> anyhow::Result<()> {
        let service = self.services.remove(name).with_context(|| format!("no service {name}"))?;
        self.services.insert(name.to_owned(), service.with(flag, value));
        Ok(())
    }

    /// Run one program from another file, from its next start on.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn replace_program(&mut self, name: &str, program: &Path) -> anyhow::Result<()> {
        let service = self.services.remove(name).with_context(|| format!("no service {name}"))?;
        self.services.insert(name.to_owned(), service.run_from(program));
        Ok(())
    }

    /// Let a keeper's PostgreSQL listen on another port, from its keeper's next start on.
    ///
    /// # Errors
    /// No port is free, or there is no such keeper.
    pub fn move_postgres(&mut self, number: usize) -> anyhow::Result<()> {
        let port = self.ports.take()?;
        self.keeper_ports[number - 1] = port;
        self.add_flag(&format!("keeper{number}"), "--pg-port", &port.to_string())
    }

    /// Replace the password files of the keepers, and use the new passwords from here on.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn write_passwords(&mut self, superuser: &str, replication: &str) -> anyhow::Result<()> {
        self.layout.credentials.superuser_password = superuser.to_owned();
        self.layout.credentials.replication_password = replication.to_owned();
        self.layout.prepare()
    }

    /// SIGTERM to one program, and its end, which must be in good order.
    ///
    /// # Errors
    /// The program does not run, does not end, or fails.
    pub async fn stop_service(&mut self, name: &str) -> anyhow::Result<()> {
        let process = self.running.remove(name).with_context(|| format!("{name} does not run"))?;
        match process.stop(PATIENCE).await {
            Stopped::InTime(status) => {
                ensure!(status.success(), "{name}: {}", stolon_local::describe_exit(status))
            }
            Stopped::Not => bail!("{name} did not stop"),
        }
        Ok(())
    }

    /// A program that was started.
    ///
    /// # Errors
    /// No program of this name was started.
    pub fn process(&self, name: &str) -> anyhow::Result<&Process> {
        self.running.get(name).with_context(|| format!("{name} does not run"))
    }

    /// SIGKILL to one program alone; what it started stays.
    ///
    /// # Errors
    /// The program does not run.
    pub async fn kill_service(&mut self, name: &str) -> anyhow::Result<()> {
        let process = self.running.remove(name).with_context(|| format!("{name} does not run"))?;
        process.signal(Signal::KILL);
        process.exited().await;
        Ok(())
    }

    /// SIGKILL to a keeper and everything below it, PostgreSQL included.
    ///
    /// # Errors
    /// The program does not run.
    pub async fn kill_keeper_and_postgres(&mut self, number: usize) -> anyhow::Result<()> {
        let process = self.running.remove(&format!("keeper{number}")).context("that keeper does not run")?;
        kill_tree(Some(process.pid()), &self.layout.keeper_directory(number)).await;
        Ok(())
    }

    /// SIGKILL to a keeper's postmaster alone.
    ///
    /// # Errors
    /// The program does not run.
    pub fn kill_postmaster(&self, number: usize) -> anyhow::Result<()> {
        kill_process(self.postmaster(number)?, Signal::KILL).context("the postmaster is gone")
    }

    /// The process id of a keeper's postmaster.
    ///
    /// # Errors
    /// The program does not run.
    pub fn postmaster(&self, number: usize) -> anyhow::Result<Pid> {
        postmaster(&self.data_directory(number))
    }

    /// PostgreSQL's processes of a keeper whose title holds a word, for example `walreceiver`.
    ///
    /// # Errors
    /// PostgreSQL does not run.
    pub fn backends(&self, number: usize, title: &str) -> anyhow::Result<Vec<Pid>> {
        backends(&self.data_directory(number), title)
    }

    /// PGDATA of a keeper.
    pub fn data_directory(&self, number: usize) -> PathBuf {
        self.layout.keeper_directory(number).join("postgres")
    }

    /// How to connect to a keeper's PostgreSQL directly.
    pub fn instance(&self, number: usize) -> Target {
        self.layout.target(self.keeper_ports[number - 1])
    }

    /// How to connect through the first proxy.
    pub fn proxy(&self) -> Target {
        self.layout.target(self.proxy_ports[0])
    }

    /// How to connect through each proxy.
    pub fn proxies(&self) -> Vec<Target> {
        self.proxy_ports.iter().map(|port| self.layout.target(*port)).collect()
    }

    /// A session through the first proxy, with a primary behind it.
    ///
    /// # Errors
    /// No session within the limit.
    pub async fn session(&self) -> anyhow::Result<Session> {
        let target = self.proxy();
        wait_for("a session through the proxy", PATIENCE, async || target.connect(QUERY).await.map(Some))
            .await
    }

    /// The cluster data.
    ///
    /// # Errors
    /// There are none.
    pub async fn data(&self) -> anyhow::Result<ClusterData> {
        let document = self.store.cluster_document().await?.context("no cluster data")?;
        Ok(ClusterData::try_from(document.value)?)
    }

    /// The report of a keeper.
    ///
    /// # Errors
    /// The keeper has not reported.
    pub async fn report(&self, number: usize) -> anyhow::Result<KeeperReport> {
        let uid = KeeperUid::from(format!("keeper{number}"));
        self.store.keeper_reports().await?.remove(&uid).context("no report")
    }

    /// The number of the keeper whose instance is the elected primary.
    ///
    /// # Errors
    /// There is no such thing in the store.
    pub async fn primary(&self) -> anyhow::Result<usize> {
        let data = self.data().await?;
        let keeper = &data.primary().context("no primary")?.spec.keeper_uid;
        keeper.as_str().trim_start_matches("keeper").parse().context("an unknown keeper")
    }

    /// Wait until another keeper is primary, and return its number.
    ///
    /// # Errors
    /// The time limit was reached.
    pub async fn wait_other_primary(&self, old: usize, limit: Duration) -> anyhow::Result<usize> {
        wait_for("another primary", limit, async || {
            Ok(Some(self.primary().await?).filter(|number| *number != old))
        })
        .await
    }

    /// Lose the primary, wait until another one takes writes, and bring the lost one back as one of `standbys`. Returns the new primary.
    ///
    /// # Errors
    /// A time limit was reached.
    pub async fn replace_primary(&mut self, standbys: usize, limit: Duration) -> anyhow::Result<usize> {
        let old = self.primary().await?;
        self.kill_keeper_and_postgres(old).await?;
        let new = self.wait_other_primary(old, limit).await?;
        self.wait_writable(limit).await?;
        self.start_service(&format!("keeper{old}"))?;
        self.wait_streaming(standbys, limit).await?;
        Ok(new)
    }

    /// Wait until a keeper, or that one, is fit to take the primary over.
    ///
    /// # Errors
    /// The time limit was reached; with what `stolonctl` said.
    pub async fn wait_fit(&self, to: Option<usize>, limit: Duration) -> anyhow::Result<()> {
        let to: Vec<String> = to.map(|keeper| format!("--to=keeper{keeper}")).into_iter().collect();
        let dry_run: Vec<&str> =
            ["switchover", "--dry-run"].into_iter().chain(to.iter().map(String::as_str)).collect();
        wait_for("a standby that is fit", limit, async || {
            self.stolonctl_ok(&dry_run, "").await.map(|_| Some(()))
        })
        .await
    }

    /// Wait until writes through the first proxy succeed.
    ///
    /// # Errors
    /// The time limit was reached.
    pub async fn wait_writable(&self, limit: Duration) -> anyhow::Result<()> {
        let target = self.proxy();
        wait_for("writes through the proxy", limit, async || {
            let session = target.connect(QUERY).await?;
            session.rows("select pg_logical_emit_message(true, 'test', '')", QUERY).await.map(|_| Some(()))
        })
        .await
    }

    /// Wait until so many standbys stream from the primary.
    ///
    /// # Errors
    /// The time limit was reached.
    pub async fn wait_streaming(&self, standbys: usize, limit: Duration) -> anyhow::Result<()> {
        let target = self.proxy();
        // A base backup streams too, under the same name; what it does not do is replay.
        let query =
            "select count(*) from pg_stat_replication where state = 'streaming' and replay_lsn is not null";
        wait_for("standbys that stream", limit, async || {
            let session = target.connect(QUERY).await?;
            let count: usize = session.value(query, QUERY).await?.parse()?;
            ensure!(count >= standbys, "{count} of {standbys} stream");
            Ok(Some(()))
        })
        .await
    }

    /// Wait until exactly these keepers are the synchronous standbys, asked for and in sync.
    ///
    /// # Errors
    /// The time limit was reached.
    pub async fn wait_synchronous(&self, keepers: &[usize], limit: Duration) -> anyhow::Result<()> {
        let wanted: Vec<String> = keepers.iter().map(|number| format!("keeper{number}")).collect();
        self.wait_synchronous_set(limit, |found| found == wanted).await.map(drop)
    }

    /// Wait until some set of keepers is asked for and in sync; returns their numbers.
    ///
    /// # Errors
    /// The time limit was reached.
    pub async fn wait_synchronous_set(
        &self,
        limit: Duration,
        wanted: impl Fn(&[String]) -> bool,
    ) -> anyhow::Result<Vec<usize>> {
        wait_for("synchronous standbys", limit, async || {
            let data = self.data().await?;
            let primary = data.primary().context("no primary")?;
            let names = |list: &Option<Vec<stolon_model::InstanceUid>>| -> Vec<String> {
                let instances = list.iter().flatten().filter_map(|uid| data.instances.get(uid));
                let mut names: Vec<String> =
                    instances.map(|instance| instance.spec.keeper_uid.to_string()).collect();
                names.sort();
                names
            };
            let (asked, reached) =
                (names(&primary.spec.synchronous_standbys), names(&primary.status.synchronous_standbys));
            ensure!(asked == reached && wanted(&asked), "asked for {asked:?}, in sync {reached:?}");
            asked
                .iter()
                .map(|name| name.trim_start_matches("keeper").parse().context("keeper"))
                .collect::<Result<_, _>>()
                .map(Some)
        })
        .await
    }

    /// The whole log of a program.
    pub fn log(&self, name: &str) -> String {
        std::fs::read(self.layout.log(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Processes of this cluster that live.
    pub fn processes(&self) -> Vec<Pid> {
        running_in(&self.layout.directory)
    }

    /// SIGKILL to everything.
    pub async fn kill_everything(&mut self) {
        self.running.clear();
        kill_tree(None, &self.layout.directory).await;
    }

    /// Print the end of every log, for whoever has to find out why a test failed.
    pub fn dump_logs(&self) {
        for name in self.services.keys() {
            eprintln!("===== {name}");
            for line in tail(&self.layout.log(name), 60) {
                eprintln!("{line}");
            }
        }
    }

    /// The directory of the cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for _ in 0..200 {
            let left = running_in(&self.layout.directory);
            if left.is_empty() {
                return;
            }
            for pid in left {
                // The process may have ended by itself in the meantime.
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The postmaster of a data directory.
fn postmaster(data: &Path) -> anyhow::Result<Pid> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).context("PostgreSQL does not run")?;
    let pid = text.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw);
    pid.context("postmaster.pid holds no process id")
}

/// PostgreSQL's processes on a data directory whose title holds a word.
pub(crate) fn backends(data: &Path, title: &str) -> anyhow::Result<Vec<Pid>> {
    let all = tree(postmaster(data)?);
    let titled = |pid: &Pid| {
        std::fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))
            .is_ok_and(|line| line.contains(title))
    };
    Ok(all.into_iter().filter(titled).collect())
}

fn open_store(layout: &Layout) -> anyhow::Result<Arc<dyn ClusterStore>> {
    let mut options = StoreOptions::new(
        layout.store_backend.parse::<Backend>()?,
        &layout.store_endpoints,
        &layout.cluster_name,
    );
    options.kubernetes.kubeconfig = layout.kubeconfig.clone();
    Ok(stolon_store::open(&options)?)
}

/// Test programs lie in `deps/` below the programs themselves.
fn programs_beside_the_test() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let directory = test.parent().and_then(Path::parent).context("this test lies nowhere")?;
    Ok(directory.to_path_buf())
}
