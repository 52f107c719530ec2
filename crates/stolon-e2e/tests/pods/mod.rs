//! A cluster in pods: the manifests on a real API server, and what runs in the pods that they make.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use stolon_testkit::kubernetes::real::{Names, RealApiServer};
use stolon_testkit::kubernetes::{Node, Pod};
use stolon_testkit::{http_at, postgres, wait_for};

/// The intervals of the manifests are those of production, and a failover has three of them.
pub const PATIENCE: Duration = Duration::from_secs(150);
/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(540);
/// The name of the cluster in the manifests.
const CLUSTER: &str = "production";
/// The superuser of the manifests, and what is put into the Secret.
pub const SUPERUSER: (&str, &str) = ("stolon", "legacydbpassword");

/// Pods of the manifests, and pods of tests.
pub struct World {
    pub node: Node,
    pub pods: Vec<Pod>,
}

/// Start a node with the accounts and the configuration of the manifests, and run a test on it. A failure comes with the ends of all logs.
pub fn on_a_node(test: impl AsyncFnOnce(&mut World) -> anyhow::Result<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(async {
        let mut world = World::start().await?;
        let outcome = tokio::time::timeout(LIMIT, test(&mut world)).await;
        let outcome = outcome.unwrap_or_else(|_| bail!("the test did not end within {LIMIT:?}"));
        if outcome.is_err() {
            world.tell();
        }
        for pod in &world.pods {
            pod.kill().await?;
        }
        outcome
    });
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}

fn manifest(name: &str) -> anyhow::Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("a repository")?;
    let path = root.join("deploy/kubernetes").join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn programs() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    Ok(test.parent().and_then(Path::parent).context("the programs beside this test")?.to_owned())
}

impl World {
    async fn start() -> anyhow::Result<World> {
        let api = RealApiServer::start(Names::One(CLUSTER)).await?;
        let node = Node::new(api, &programs()?, &postgres::bin_directory()?)?;
        let world = World { node, pods: Vec::new() };
        let text = manifest("configuration.yaml")?;
        // Whoever connects on the loopback device comes from one and the same address, not from that of the pod.
        let admits = r#""defaultSUReplAccessMode": ""#;
        let text = text.replace(&format!("{admits}strict"), &format!("{admits}all"));
        ensure!(text.contains("superuser-password: change-me\n"));
        world
            .node
            .api
            .apply(&text.replace("password: change-me\n", &format!("password: {}\n", SUPERUSER.1)))?;
        world.apply("legacy.yaml", &[])?;
        Ok(world)
    }

    /// Apply a manifest with kubectl, with some texts in it replaced.
    pub fn apply(&self, name: &str, changes: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut text = manifest(name)?;
        for (from, to) in changes {
            ensure!(text.contains(from), "{name} has no {from}");
            text = text.replace(from, to);
        }
        // The version that is built does not have the one that came after it.
        self.node.api.apply(&text.replace("policy/v1\n", "policy/v1beta1\n")).map(drop)
    }

    /// Make a pod of a template, and run it.
    pub fn start_pod(&mut self, resource: &str, name: &str, ordinal: usize) -> anyhow::Result<()> {
        let name = self.node.make(resource, name, ordinal)?;
        let pod = self.node.run(&name)?;
        self.pods.push(pod);
        Ok(())
    }

    /// Sentinels, keepers and proxies, as many as the manifests say.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        for ordinal in 0..2 {
            self.start_pod("apis/apps/v1/deployments", "stolon-sentinel", ordinal)?;
            self.start_pod("apis/apps/v1/deployments", "stolon-proxy", ordinal)?;
        }
        (0..3).try_for_each(|ordinal| self.start_pod("apis/apps/v1/statefulsets", "stolon-keeper", ordinal))
    }

    /// Run the pod of a Job to its end; what it said.
    pub async fn run_job(&mut self, name: &str) -> anyhow::Result<String> {
        self.start_pod("apis/batch/v1/jobs", name, 0)?;
        let pod = self.pods.pop().context("a pod")?;
        let status = pod.ended(PATIENCE).await?;
        let said = self.node.log(&pod.name);
        println!("--- Job {name}: {status}\n{said}");
        ensure!(status.success(), "the Job {name}: {status}: {said}");
        Ok(said)
    }

    pub fn pod(&self, name: &str) -> anyhow::Result<&Pod> {
        self.pods.iter().find(|pod| pod.name == name).with_context(|| format!("there is no pod {name}"))
    }

    /// Take a pod that has ended away, and make it anew on the same volume.
    pub fn replace_keeper(&mut self, ordinal: usize) -> anyhow::Result<()> {
        let name = format!("stolon-keeper-{ordinal}");
        let place = self.pods.iter().position(|pod| pod.name == name).context("a pod")?;
        let old = self.pods.remove(place);
        self.node.remove(&old)?;
        self.start_pod("apis/apps/v1/statefulsets", "stolon-keeper", ordinal)
    }

    /// Wait until both probes of all these pods say yes.
    pub async fn wait_well(&self, prefix: &str) -> anyhow::Result<()> {
        for pod in self.pods.iter().filter(|pod| pod.name.starts_with(prefix)) {
            pod.wait_probe("livenessProbe", 200, PATIENCE).await?;
            pod.wait_probe("readinessProbe", 200, PATIENCE).await?;
        }
        Ok(())
    }

    /// The number of the keeper that says that it is the primary, when all others say that they are none.
    pub async fn wait_primary(&self, except: Option<usize>) -> anyhow::Result<usize> {
        wait_for("a primary", PATIENCE, async || {
            let mut found = None;
            for ordinal in (0..3).filter(|ordinal| Some(*ordinal) != except) {
                match self.asked(ordinal, "/primary").await? {
                    200 => {
                        ensure!(found.replace(ordinal).is_none(), "two primaries");
                    }
                    code => ensure!(code == 503, "{code} for /primary"),
                }
            }
            Ok(found)
        })
        .await
    }

    /// Wait until a standby holds every acknowledged commit: before, nobody may take the primary's place.
    pub async fn wait_synchronous(&self) -> anyhow::Result<()> {
        wait_for("a synchronous standby", PATIENCE, async || {
            for ordinal in 0..3 {
                if self.asked(ordinal, "/sync").await? == 200 {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await
    }

    /// The answer of a keeper to a question of Patroni's.
    pub async fn asked(&self, ordinal: usize, path: &str) -> anyhow::Result<u16> {
        let pod = self.pod(&format!("stolon-keeper-{ordinal}"))?;
        Ok(http_at((pod.address, 8008).into(), "GET", path, "").await?.0)
    }

    /// A statement through a proxy, as the superuser of the manifests.
    pub fn through_proxy(&self, statement: &str) -> anyhow::Result<String> {
        psql(self.pod("stolon-proxy-1")?.address, SUPERUSER, statement)
    }

    pub async fn wait_through_proxy(&self, statement: &str) -> anyhow::Result<String> {
        wait_for(statement, PATIENCE, async || self.through_proxy(statement).map(Some)).await
    }

    /// Nobody was refused anything, and nobody did more than its Role says.
    pub fn nothing_was_forbidden(&self) -> anyhow::Result<()> {
        for pod in &self.pods {
            let log = self.node.log(&pod.name);
            let refused =
                log.lines().find(|line| line.contains("forbidden") || line.contains("may not watch"));
            ensure!(refused.is_none(), "{} is refused something: {refused:?}", pod.name);
        }
        Ok(())
    }

    fn tell(&self) {
        for pod in &self.pods {
            let log = self.node.log(&pod.name);
            let lines: Vec<&str> = log.lines().collect();
            println!(
                "--- {} at {}\n{}",
                pod.name,
                pod.address,
                lines[lines.len().saturating_sub(25)..].join("\n")
            );
        }
    }
}

/// Ask a PostgreSQL, or a proxy in front of one.
pub fn psql(address: IpAddr, (user, password): (&str, &str), statement: &str) -> anyhow::Result<String> {
    let program = postgres::bin_directory()?.join("psql");
    let mut psql = Command::new("timeout");
    psql.arg("20").arg(program).args([
        "-XAtq",
        "-v",
        "ON_ERROR_STOP=1",
        "-h",
        &address.to_string(),
        "-p",
        "5432",
    ]);
    psql.args(["-U", user, "-d", "postgres", "-c", statement]).stdin(Stdio::null());
    let output = psql.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "5").output()?;
    ensure!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A server of an older time, with the settings that people have and the users of its guide.
const LEGACY: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: legacy }
spec:
  securityContext: { runAsUser: 999, runAsGroup: 999, fsGroup: 999 }
  containers:
  - name: postgres
    image: postgres
    command:
    - /bin/sh
    - -ec
    - |
      initdb -D /data/pg -U postgres --auth=scram-sha-256 --pwfile=/etc/secrets/legacy/postgres >/tmp/initdb
      {
        echo "listen_addresses = '$POD_IP'"
        echo "unix_socket_directories = '/tmp'"
        echo 'max_connections = 300'
        echo 'max_prepared_transactions = 100'
      } >> /data/pg/postgresql.conf
      {
        echo 'host all all 127.0.0.0/8 scram-sha-256'
        echo 'host replication all 127.0.0.0/8 scram-sha-256'
      } >> /data/pg/pg_hba.conf
      exec postgres -D /data/pg
    env:
    - name: POD_IP
      valueFrom: { fieldRef: { fieldPath: status.podIP } }
    volumeMounts:
    - { name: data, mountPath: /data }
    - { name: password, mountPath: /etc/secrets/legacy }
  volumes:
  - { name: data, emptyDir: {} }
  - { name: password, secret: { secretName: legacy-postgres } }
---
apiVersion: v1
kind: Secret
metadata: { name: legacy-postgres }
stringData: { postgres: postgres-password }
"#;

/// A legacy server with data, which all pods know as `legacydbhost`.
pub async fn legacy(world: &mut World) -> anyhow::Result<IpAddr> {
    world.node.api.apply(LEGACY)?;
    let pod = world.node.run("legacy")?;
    let address = pod.address;
    world.pods.push(pod);
    let root = ("postgres", "postgres-password");
    wait_for("the legacy server", PATIENCE, async || psql(address, root, "select 1").map(Some)).await?;
    let (user, password) = SUPERUSER;
    for statement in [
        &format!("create role {user} login superuser replication password '{password}'"),
        "create role repluser login replication password 'change-me-too'",
        "create table shop (id int primary key, v text)",
        "insert into shop select n, repeat(n::text, 50) from generate_series(1, 5000) n",
    ] {
        psql(address, root, statement)?;
    }
    world.node.name("legacydbhost", address);
    Ok(address)
}

/// What the legacy server holds.
pub const CONTENT: &str = "select count(*) || ' ' || sum(hashtextextended(shop::text, 0)::numeric) from shop";
