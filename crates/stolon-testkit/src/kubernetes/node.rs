//! What controllers and a kubelet do, as far as a test needs it: pods are made of the templates that the API server keeps, and run in
//! namespaces of their own with the environment, the volumes, the account and the rights that their objects state (Kubernetes
//! documentation: "Pods", "Secrets", "Configure Service Accounts for Pods").
//!
//! The image is this machine's `/usr` with the programs under test in it. There is no network between pods: each has an address of its own
//! on the loopback device, and listens there where it would listen on all of its addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stolon_local::{Process, tree};

use super::api::Api as _;
use super::container::{Container, Mount};
use super::resolve::{environment, file_contents, named};
use super::{NAMESPACE, RealApiServer};
use crate::wait_for;

/// The user of the image that `deploy/kubernetes/Containerfile` makes.
const USER: u64 = 999;
/// No pod takes longer to be gone after SIGKILL.
const GONE: Duration = Duration::from_secs(20);
/// Where a pod finds what lets it in.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A cluster of one machine: an API server, its controllers, and a kubelet.
pub struct Node {
    /// The API server.
    pub api: RealApiServer,
    directory: tempfile::TempDir,
    programs: PathBuf,
    postgres: PathBuf,
    /// Names that all pods know, and their addresses.
    hosts: Vec<(String, IpAddr)>,
    addresses: std::ops::Range<u8>,
}

/// A pod that runs, or has run. Dropping it kills it.
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    process: Process,
    spec: Value,
    variables: Vec<(String, String)>,
}

impl Node {
    /// Pods run the programs of `programs`, and PostgreSQL's of `postgres`.
    ///
    /// # Errors
    /// This user may not make namespaces.
    pub fn new(api: RealApiServer, programs: &Path, postgres: &Path) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "pods need namespaces, which root alone may make here");
        let directory = tempfile::Builder::new().prefix("node-").tempdir()?;
        std::fs::create_dir(directory.path().join("root"))?;
        // Every namespace has it, by a controller.
        api.make("serviceaccounts", &json!({ "metadata": { "name": "default" } }))?;
        Ok(Node {
            api,
            directory,
            programs: programs.to_owned(),
            postgres: postgres.to_owned(),
            hosts: Vec::new(),
            addresses: 1..255,
        })
    }

    /// All pods that are started from now on know this name.
    pub fn name(&mut self, name: &str, address: IpAddr) {
        self.hosts.push((name.to_owned(), address));
    }

    /// What the controller of an object does: a pod of the template that the API server keeps. `resource` as in paths:
    /// `apis/apps/v1/statefulsets`.
    ///
    /// # Errors
    /// There is no such object, or its pod is refused.
    pub fn make(&self, resource: &str, name: &str, ordinal: usize) -> anyhow::Result<String> {
        let (group, kind) = resource.rsplit_once('/').context("a group and a kind")?;
        let object = self.api.get(&format!("/{group}/namespaces/{NAMESPACE}/{kind}/{name}"))?;
        let template = &object["spec"]["template"];
        let pod = format!("{name}-{ordinal}");
        let mut spec = template["spec"].clone();
        for claim in object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
            let volume = claim["metadata"]["name"].as_str().context("a claim with a name")?;
            let claimed = json!({ "claimName": format!("{volume}-{pod}") });
            let volume = json!({ "name": volume, "persistentVolumeClaim": claimed });
            match spec["volumes"].as_array_mut() {
                Some(volumes) => volumes.push(volume),
                None => spec["volumes"] = json!([volume]),
            }
        }
        let mut metadata = json!({ "name": pod });
        for field in ["labels", "annotations"] {
            metadata[field] = template["metadata"][field].clone();
        }
        self.api.make("pods", &json!({ "metadata": metadata, "spec": spec }))?;
        Ok(pod)
    }

    /// What a kubelet does of a pod: run its container.
    ///
    /// # Errors
    /// The pod is not there, states something that is not known here, or names what is not there.
    pub fn run(&mut self, name: &str) -> anyhow::Result<Pod> {
        let address = self.next_address()?;
        let status =
            json!({ "status": { "podIP": address, "podIPs": [{ "ip": address }], "phase": "Running" } });
        self.api.patch(&format!("pods/{name}/status"), &status)?;
        let pod = self.api.find("pods", name)?.context("the pod is not there")?;
        let spec = &pod["spec"];
        let [container] = spec["containers"].as_array().map_or(&[][..], Vec::as_slice) else {
            bail!("{name} has not one container");
        };
        let scratch = self.path(name);
        // What an earlier pod of this name had is gone with it; claims lie elsewhere.
        let _ = std::fs::remove_dir_all(&scratch);
        std::fs::create_dir_all(&scratch)?;
        let mut variables = environment(&self.api, &pod, container)?;
        for (_, value) in &mut variables {
            *value = value.replace("0.0.0.0", &address.to_string());
        }
        variables.push(("KUBERNETES_SERVICE_HOST".to_owned(), Ipv4Addr::LOCALHOST.to_string()));
        variables.push(("KUBERNETES_SERVICE_PORT".to_owned(), self.api.port().to_string()));
        let security = &container["securityContext"];
        let user = |field: &str| spec["securityContext"][field].as_u64();
        let run = Container {
            root: self.path("root"),
            programs: self.programs.clone(),
            postgres: self.postgres.clone(),
            user: user("runAsUser").unwrap_or(USER),
            group: user("runAsGroup").unwrap_or(USER),
            groups: user("fsGroup").unwrap_or(USER),
            is_read_only: security["readOnlyRootFilesystem"] == true,
            gains_nothing: security["allowPrivilegeEscalation"] == false,
            drops_all: security["capabilities"]["drop"] == json!(["ALL"]),
            hosts: self.hosts.clone(),
            mounts: self.mounts(&pod, container, &scratch)?,
        };
        let words = ["command", "args"].into_iter().filter_map(|field| container[field].as_array()).flatten();
        let words: Vec<&str> = words.filter_map(Value::as_str).collect();
        ensure!(!words.is_empty(), "{name} has no command, and the image none");
        let log = self.log_file(name);
        let process = Process::start(name, run.command(&words, &variables), &log)?;
        Ok(Pod { name: name.to_owned(), address, process, spec: spec.clone(), variables })
    }

    /// What a pod of this name has said.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    /// Take a pod away that has ended: the controller may make it anew.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn remove(&self, pod: &Pod) -> anyhow::Result<()> {
        self.api.remove_pod(&pod.name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    /// Of a network that belongs to this process alone.
    fn next_address(&mut self) -> anyhow::Result<IpAddr> {
        let number = self.addresses.next().context("there are no more addresses")?;
        let [_, _, high, low] = std::process::id().to_be_bytes();
        Ok(IpAddr::V4(Ipv4Addr::new(127, 128 | (high & 0x7f), low, number)))
    }

    /// Directories with what the volumes hold, and where they are in the container.
    fn mounts(&self, pod: &Value, container: &Value, scratch: &Path) -> anyhow::Result<Vec<Mount>> {
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let mut mounts = vec![Mount {
            from: self.account(account, &scratch.join("account"))?,
            to: ACCOUNT.to_owned(),
            is_read_only: true,
        }];
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            ensure!(mount["subPath"].is_null(), "the kubelet of the tests knows no subPath");
            let name = mount["name"].as_str().context("a mount with a name")?;
            let volume = named(&pod["spec"]["volumes"], name).with_context(|| format!("no volume {name}"))?;
            let group = pod["spec"]["securityContext"]["fsGroup"].as_u64().unwrap_or(0);
            mounts.push(Mount {
                from: self.volume(volume, group, &scratch.join(name))?,
                to: mount["mountPath"].as_str().context("a path")?.to_owned(),
                is_read_only: mount["readOnly"] == true
                    || volume["secret"].is_object()
                    || volume["configMap"].is_object(),
            });
        }
        Ok(mounts)
    }

    /// What lets a pod in, in a directory of its own: no file of it changes while the pod runs.
    fn account(&self, account: &str, fresh: &Path) -> anyhow::Result<PathBuf> {
        let files = self.api.service_account_directory(account)?;
        std::fs::create_dir(fresh)?;
        for file in std::fs::read_dir(files)? {
            let file = file?;
            std::fs::copy(file.path(), fresh.join(file.file_name()))?;
        }
        Ok(fresh.to_owned())
    }

    /// The directory of a volume; `fresh` is one that ends with the pod.
    fn volume(&self, volume: &Value, group: u64, fresh: &Path) -> anyhow::Result<PathBuf> {
        if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
            let directory = self.path(&format!("claim-{claim}"));
            give(&directory, group)?;
            return Ok(directory);
        }
        give(fresh, group)?;
        if volume["emptyDir"].is_object() {
            return Ok(fresh.to_owned());
        }
        for (name, content) in file_contents(&self.api, volume)? {
            let file = fresh.join(name);
            std::fs::write(&file, content)?;
            // As a kubelet leaves them: root's, with a right of the pod's group.
            std::os::unix::fs::chown(&file, Some(0), Some(u32::try_from(group)?))?;
            set_mode(&file, 0o644)?;
        }
        Ok(fresh.to_owned())
    }
}

/// A directory that the group of the pod may write to, as `fsGroup` has it.
fn give(directory: &Path, group: u64) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::os::unix::fs::chown(directory, Some(0), Some(u32::try_from(group)?))?;
    set_mode(directory, if group == 0 { 0o777 } else { 0o2775 })
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}

impl Pod {
    /// The first process of its container.
    fn first(&self) -> Option<Pid> {
        tree(self.process.pid()).get(1).copied()
    }

    /// Its node is gone: SIGKILL to everything in it.
    ///
    /// # Errors
    /// Something of it is left.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::KILL);
        tokio::time::timeout(GONE, self.process.exited()).await.context("the pod does not end")?;
        Ok(())
    }

    /// It is deleted: SIGTERM, and as long to end as it states.
    ///
    /// # Errors
    /// It would have been killed.
    pub async fn stop(&self) -> anyhow::Result<()> {
        let grace = self.spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(Duration::from_secs(grace), self.process.exited()).await;
        ended.with_context(|| format!("{} has not ended within {grace} s", self.name))?;
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(first) = self.first().filter(|_| self.process.exit().is_none()) {
            // It may end at this very moment.
            let _ = kill_process(first, signal);
        }
    }

    /// How its container ended.
    ///
    /// # Errors
    /// Not within `limit`.
    pub async fn ended(&self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let ended = tokio::time::timeout(limit, self.process.exited()).await;
        ended.with_context(|| format!("{} has not ended within {limit:?}", self.name))
    }

    /// `kubectl exec`: run a program in the container, with its variables; what it says on stdout.
    ///
    /// # Errors
    /// It fails, or does not end within `limit`.
    pub async fn exec(&self, words: &[&str], limit: Duration) -> anyhow::Result<String> {
        let first = self.first().with_context(|| format!("{} does not run", self.name))?.as_raw_nonzero();
        let user = self.spec["securityContext"]["runAsUser"].as_u64().unwrap_or(USER).to_string();
        let mut command = tokio::process::Command::new("nsenter");
        command.args(["--target", &first.to_string(), "--mount", "--pid", "--root", "--wd", "--"]);
        command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--"]).args(words);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").envs(self.variables.iter().cloned());
        let ran = tokio::time::timeout(limit, command.kill_on_drop(true).output()).await;
        let output = ran.with_context(|| format!("{words:?} has not ended within {limit:?}"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?} in {}: {}: {said}", self.name, output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What a kubelet asks: the status of the answer at the port and the path that the pod states. `probe`: `livenessProbe` or
    /// `readinessProbe`.
    ///
    /// # Errors
    /// It states no such probe, or nobody answers in the time that it states.
    pub async fn probe(&self, probe: &str) -> anyhow::Result<u16> {
        let container = &self.spec["containers"][0];
        let get = &container[probe]["httpGet"];
        let path = get["path"].as_str().with_context(|| format!("{} has no {probe}", self.name))?;
        let port = match get["port"].as_str() {
            Some(name) => &named(&container["ports"], name).context("a port of that name")?["containerPort"],
            None => &get["port"],
        };
        let port = u16::try_from(port.as_u64().context("a port")?)?;
        let seconds = container[probe]["timeoutSeconds"].as_u64().unwrap_or(1);
        let asked = crate::daemon::http_at((self.address, port).into(), "GET", path, "");
        let answered = tokio::time::timeout(Duration::from_secs(seconds), asked).await;
        Ok(answered.context("nobody answers in time")??.0)
    }

    /// Wait until a probe is answered so.
    ///
    /// # Errors
    /// Not in time.
    pub async fn wait_probe(&self, probe: &str, wanted: u16, limit: Duration) -> anyhow::Result<()> {
        wait_for(&format!("{wanted} for {probe} of {}", self.name), limit, async || {
            let code = self.probe(probe).await?;
            ensure!(code == wanted, "{code}");
            Ok(Some(()))
        })
        .await
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
