//! A running playground.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use stolon_local::{Layout, Target};
use stolon_model::{Advise as _, KeeperUid};
use stolon_runtime::{CommonArgs, Failure, Shutdown};
use stolon_store::{ClusterStore, StoreOptions, WatchScope};
use tokio::sync::mpsc;

use super::Args;
use super::choices::Choices;
use super::directory::Home;
use super::screen::Screen;
use super::supervisor::{Order, Supervisor};
use super::view::View;

/// Shortest pause between two looks at the store.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Everything that a playground is made of.
pub struct Playground {
    /// The options.
    pub args: Args,
    /// Files and command lines.
    pub layout: Layout,
    /// The store, as every other program sees it.
    pub store: Arc<dyn ClusterStore>,
    /// The programs.
    pub supervisor: Supervisor,
    /// What happens to the programs.
    pub events: mpsc::UnboundedReceiver<String>,
    /// What the operator sees.
    pub screen: Screen,
    choices: Choices,
    kept: bool,
    began: Instant,
    /// The primary that proxies sent clients to at the last look.
    route: Option<KeeperUid>,
}

impl Playground {
    /// Make the directories; nothing runs yet.
    ///
    /// # Errors
    /// Bad options, or files that cannot be written.
    pub fn new(common: &CommonArgs, args: Args, choices: Choices, home: &Home) -> anyhow::Result<Playground> {
        stolon_local::adopt_orphans();
        let layout = choices.layout(&args, home)?;
        layout.prepare()?;
        let backend = layout
            .store_backend
            .parse()
            .map_err(|error: stolon_store::BadBackend| stolon_runtime::UsageError::from(error.explained()))?;
        let mut options = StoreOptions {
            prefix: common.store_prefix.clone(),
            timeout: common.store_timeout,
            ..StoreOptions::new(backend, &layout.store_endpoints, &layout.cluster_name)
        };
        options.kubernetes.kubeconfig = layout.kubeconfig.clone();
        let store = stolon_store::open(&options).context("the store cannot be opened")?;
        let (supervisor, events) = Supervisor::new();
        Ok(Playground {
            args,
            layout,
            store,
            supervisor,
            events,
            screen: Screen::new(),
            choices,
            kept: home.is_kept(),
            began: Instant::now(),
            route: None,
        })
    }

    /// Run a new cluster, or the kept one, until told to stop.
    ///
    /// # Errors
    /// A program cannot be started at all, or the database never took writes.
    pub async fn run(mut self, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
        let outcome = self.run_until_stopped(shutdown).await;
        self.stop(shutdown).await;
        outcome.map(|()| ExitCode::SUCCESS)
    }

    async fn run_until_stopped(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        self.refuse_lost_store().await?;
        let spec = self.write_spec()?;
        self.start_programs(Some(&spec))?;
        self.introduce();
        let stop = shutdown.token();
        let target = self.proxy_target();
        let mut changes = self.store.watch(WatchScope::Everything);
        let mut writable = std::pin::pin!(until_writable(&target));
        let mut told = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(event) = self.events.recv() => self.screen.say(&event),
                () = &mut writable, if !told => {
                    told = true;
                    self.tell_address(&target);
                    self.suggest().await;
                }
                () = pause_and(changes.changed()) => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            self.show().await;
        }
        match told {
            true => Ok(()),
            false => Err(Failure::new("stopped before the database took writes").into()),
        }
    }

    /// Databases without the cluster data that they belong to would be overwritten by a new cluster.
    async fn refuse_lost_store(&self) -> anyhow::Result<()> {
        let Some(data) = self.layout.first_database() else { return Ok(()) };
        // A store that does not answer cannot be asked whether the cluster is new.
        match self.store.cluster_document().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Failure::new(format!(
                "{} holds a database, but the store {} has no cluster data: a new cluster would overwrite it",
                data.display(),
                self.layout.store_endpoints
            ))
            .hint("bring the store back, or remove the keepers' directories to begin anew")
            .into()),
            Err(error) => Err(Failure::new(format!(
                "the store of {} does not answer: {error}",
                data.display()
            ))
            .hint(
                "start the store first: only its cluster data tell whether the database would be overwritten",
            )
            .into()),
        }
    }

    /// Start sentinels, keepers and proxies, in this order.
    ///
    /// # Errors
    /// A program cannot be started at all.
    pub fn start_programs(&mut self, initial_spec: Option<&PathBuf>) -> anyhow::Result<()> {
        for number in 1..=usize::from(self.args.sentinels) {
            let mut service = self.layout.sentinel(number);
            if let Some(spec) = initial_spec {
                service = service.with("--initial-cluster-spec", spec);
            }
            self.supervisor.add(service)?;
        }
        for (index, port) in self.choices.keeper_ports().to_vec().into_iter().enumerate() {
            self.supervisor.add(self.layout.keeper(index + 1, port))?;
        }
        for (index, port) in self.choices.proxy_ports().to_vec().into_iter().enumerate() {
            self.supervisor.add(self.layout.proxy(index + 1, port))?;
        }
        Ok(())
    }

    /// Stop everything in order; at once after a second signal.
    pub async fn stop(&mut self, shutdown: &Shutdown) {
        self.screen.show(Vec::new());
        self.screen.say("stopping: proxies, sentinels, then PostgreSQL (Ctrl-C again kills)");
        let insisted = shutdown.escalated();
        let insisted = tokio::select! {
            () = self.supervisor.stop(Order::Graceful) => false,
            () = insisted.cancelled() => true,
        };
        if insisted {
            self.supervisor.stop(Order::AtOnce).await;
        }
    }

    /// The first proxy, as superuser.
    pub fn proxy_target(&self) -> Target {
        self.layout.target(self.choices.proxy_ports().first().copied().unwrap_or(0))
    }

    /// The PostgreSQL of a keeper, as superuser.
    ///
    /// # Errors
    /// There is no such keeper.
    pub fn keeper_target(&self, number: usize) -> anyhow::Result<Target> {
        let port = number.checked_sub(1).and_then(|index| self.choices.keeper_ports().get(index));
        Ok(self.layout.target(*port.context("there is no such keeper")?))
    }

    async fn show(&mut self) {
        let lines = match View::look(&self.store).await {
            Ok(view) => {
                self.note_route(&view);
                view.lines(self.screen.is_redrawn())
            }
            Err(error) => vec![format!("  the store does not answer: {error}")],
        };
        self.screen.show(lines);
    }

    /// Print a line that stays when clients are sent to another primary, also one that came between two looks.
    fn note_route(&mut self, view: &View) {
        let Some(route) = view.route().filter(|route| self.route.as_ref() != Some(route)).cloned() else {
            return;
        };
        if let Some(before) = self.route.replace(route.clone()) {
            let now = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
            self.screen.say(&format!("{now}  clients are sent to {route}; before it was {before}"));
        }
    }

    /// Tell the operator what to try with the running cluster.
    async fn suggest(&mut self) {
        let Ok(view) = View::look(&self.store).await else { return };
        if let Some(primary) = view.primary_keeper().filter(|_| self.args.keepers > 1) {
            let command = self.stolonctl(&format!("failkeeper {primary}"));
            self.screen.say(&format!("to see a failover, from another terminal: {command}\n"));
        }
    }

    /// `stolonctl` with a subcommand, for another terminal.
    fn stolonctl(&self, subcommand: &str) -> String {
        let Layout { programs, cluster_name, store_backend, store_endpoints, kubeconfig, .. } = &self.layout;
        let place = match kubeconfig {
            Some(file) => format!("--kube-resource-kind configmap --kubeconfig {}", file.display()),
            None => format!("--store-endpoints {store_endpoints}"),
        };
        format!(
            "{} {subcommand} --cluster-name {cluster_name} --store-backend {store_backend} {place}",
            programs.join("stolonctl").display(),
        )
    }

    fn introduce(&mut self) {
        let directory = &self.layout.directory;
        let fate = if self.kept { "kept" } else { "removed at the end" };
        self.screen.say(&format!(
            "playground in {} ({fate}), logs in {}",
            directory.display(),
            self.layout.logs().display()
        ));
        self.screen.say(&format!("from another terminal: {}", self.stolonctl("status")));
    }

    fn tell_address(&mut self, target: &Target) {
        self.screen.say(&format!(
            "\nThe database takes writes ({:.1} s after the start):\n\n    {}\n",
            self.began.elapsed().as_secs_f64(),
            target.uri()
        ));
        for port in self.choices.proxy_ports().iter().skip(1) {
            self.screen.say(&format!("    {}\n", self.layout.target(*port).uri()));
        }
    }

    /// The specification of a new cluster: short timings, so that a failover is quick to watch.
    fn write_spec(&self) -> anyhow::Result<PathBuf> {
        let spec = json!({
            "initMode": "new",
            "sleepInterval": "1s",
            "requestTimeout": "5s",
            "failInterval": "5s",
            "proxyCheckInterval": "1s",
            "proxyTimeout": "3s",
            "usePgrewind": true,
            "synchronousReplication": self.args.synchronous_replication,
        });
        let file = self.layout.directory.join("initial-cluster-spec.json");
        std::fs::write(&file, format!("{spec:#}\n"))
            .with_context(|| format!("{} cannot be written", file.display()))?;
        Ok(file)
    }
}

/// Wait until a database takes writes: a message in its log that no table holds and no standby can write.
pub async fn until_writable(target: &Target) {
    const LIMIT: Duration = Duration::from_secs(5);
    let write = "select pg_logical_emit_message(true, 'stolon playground', '')";
    loop {
        if let Ok(session) = target.connect(LIMIT).await
            && session.rows(write, LIMIT).await.is_ok()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A change, but not more often than a person can see.
async fn pause_and(change: impl Future<Output = ()>) {
    tokio::time::sleep(LOOK_PAUSE).await;
    change.await;
}
