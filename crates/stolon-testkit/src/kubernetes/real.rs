//! A real kube-apiserver on a real etcd, with RBAC. No controller and no kubelet runs: pods are objects that a test makes.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

use super::NAMESPACE;
use super::api::{Api, pod};
use crate::daemon::{Daemon, EndedAtOnce, START, free_ports};
use crate::etcd::Etcd;

/// The version that `cargo xtask kubernetes` builds.
pub const VERSION: &str = "1.20.2";
/// The program, in its directory.
pub const PROGRAM: &str = "kube-apiserver";
/// The service account of sentinels, in `deploy/kubernetes/rbac.yaml`.
pub const SENTINEL: &str = "stolon-sentinel";
/// The service account of keepers and proxies.
pub const MEMBER: &str = "stolon-member";
/// The context of a kubeconfig that stands for keepers and proxies; the current one stands for sentinels.
pub const MEMBER_CONTEXT: &str = "member";
/// A token of somebody who may do everything to this server, which ends with the test.
const ADMIN_TOKEN: &str = "administrator";
/// The longest time for one answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Where `cargo xtask kubernetes` puts the program.
pub fn directory() -> PathBuf {
    crate::fixtures_directory().join(format!("kubernetes-{VERSION}"))
}

/// The clusters that our Roles hold for.
#[derive(Clone, Copy, Debug)]
pub enum Names<'a> {
    /// All of the namespace.
    Any,
    /// The one of this name, as we recommend.
    One(&'a str),
}

/// A running API server. Dropping it kills it and its etcd, and removes their files.
pub struct RealApiServer {
    daemon: Daemon,
    etcd: Etcd,
    port: u16,
    directory: tempfile::TempDir,
}

impl RealApiServer {
    /// One that knows our service accounts and their Roles, ready.
    ///
    /// # Errors
    /// The program is not there, or does not start.
    pub async fn start(clusters: Names<'_>) -> anyhow::Result<Self> {
        let etcd = Etcd::single().await?;
        let directory = tempfile::Builder::new().prefix("kube-apiserver-").tempdir()?;
        // Programs that run as another user read its certificate; keys in it are not theirs to read.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        std::fs::write(
            directory.path().join("tokens"),
            format!("{ADMIN_TOKEN},admin,1,\"system:masters\"\n"),
        )?;
        let key = directory.path().join("account.key");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output();
        let made = made.context("openssl makes the key of the service accounts")?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let mut server = RealApiServer { daemon: Daemon::default(), etcd, port: 0, directory };
        for _ in 0..5 {
            server.port = free_ports(1)?[0];
            match server.begin() {
                Err(error) if error.is::<EndedAtOnce>() => server.daemon = Daemon::default(),
                begun => {
                    begun?;
                    server.apply(&rbac(clusters)?)?;
                    return Ok(server);
                }
            }
        }
        bail!("the API server finds no free port; its log:\n{}", server.log())
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        let program = directory().join(PROGRAM);
        let log = File::create(self.path("log")).context("the log of the API server")?;
        let mut command = Command::new(&program);
        command
            .args(["--etcd-servers", &self.etcd.endpoints()])
            .args(["--bind-address=127.0.0.1", "--secure-port", &self.port.to_string()])
            // Nobody asks for it: its own address must not be a loopback.
            .args(["--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none"])
            .arg("--cert-dir")
            .arg(self.path("certificates"))
            .arg("--token-auth-file")
            .arg(self.path("tokens"))
            .arg("--service-account-key-file")
            .arg(self.path("account.key"))
            .arg("--service-account-signing-key-file")
            .arg(self.path("account.key"))
            .args(["--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC"])
            // Pods would need service accounts that a controller makes.
            .args(["--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let missing = format!("{} is not there: cargo xtask kubernetes makes it", program.display());
        self.daemon.start(&mut command, &missing)?;
        let deadline = Instant::now() + 2 * START;
        while !self.is_ready() {
            if let Some(status) = self.daemon.ended()? {
                bail!(EndedAtOnce { status, log: self.log() });
            }
            ensure!(Instant::now() < deadline, "the API server is not ready; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let is_there = |path: &str| self.ask("GET", path, None).is_ok_and(|(status, _)| status == 200);
        is_there("/readyz") && is_there(&format!("/api/v1/namespaces/{NAMESPACE}"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it has logged since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A kubeconfig of somebody who may do everything.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn admin_kubeconfig_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.path("admin.kubeconfig");
        std::fs::write(&path, self.kubeconfig(&[("admin", ADMIN_TOKEN)]))?;
        Ok(path)
    }

    /// A kubeconfig whose contexts show these tokens; the first one is the current one.
    pub fn kubeconfig(&self, tokens: &[(&str, &str)]) -> String {
        let cluster =
            json!({ "server": self.url(), "certificate-authority": self.path("certificates/apiserver.crt") });
        let users = tokens.iter().map(|(name, token)| json!({ "name": name, "user": { "token": token } }));
        let contexts = tokens.iter().map(|(name, _)| {
            json!({ "name": name, "context": { "cluster": "real", "user": name, "namespace": NAMESPACE } })
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": tokens.first().map(|(name, _)| name),
            "clusters": [{ "name": "real", "cluster": cluster }],
            "users": users.collect::<Vec<_>>(),
            "contexts": contexts.collect::<Vec<_>>(),
        });
        config.to_string()
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// What lets a service account in, as a pod finds it: a directory with token, certificate and namespace.
    ///
    /// # Errors
    /// There is no such account.
    pub fn service_account_directory(&self, account: &str) -> anyhow::Result<PathBuf> {
        let directory = self.path(&format!("account-{account}"));
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("token"), self.token_of(account)?)?;
        std::fs::write(directory.join("namespace"), NAMESPACE)?;
        std::fs::copy(self.path("certificates/apiserver.crt"), directory.join("ca.crt"))?;
        Ok(directory)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A token of a service account, as a pod is given it (Kubernetes documentation: "TokenRequest").
    ///
    /// # Errors
    /// There is no such account.
    pub fn token_of(&self, account: &str) -> anyhow::Result<String> {
        let path = format!("{}/serviceaccounts/{account}/token", below());
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let answer = self.expect("POST", &path, Some(("application/json", &request)))?;
        answer["status"]["token"].as_str().map(str::to_owned).context("an answer without a token")
    }

    /// Make the objects of a file, with kubectl, as an administrator does; what kubectl says.
    ///
    /// # Errors
    /// They are refused.
    pub fn apply(&self, text: &str) -> anyhow::Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(&file, text)?;
        let kubeconfig = self.admin_kubeconfig_file()?;
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(self.path("kubectl"));
        let output = kubectl.args(["--request-timeout=20s", "apply", "-f"]).arg(file.path()).output();
        let output = output.context("kubectl (Debian: apt-get install kubernetes-client)")?;
        ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An object, or a list, at any path.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.expect("GET", path, None)
    }

    /// Make an object in the namespace, as a controller does.
    ///
    /// # Errors
    /// It is refused.
    pub fn make(&self, resource: &str, object: &Value) -> anyhow::Result<Value> {
        self.expect("POST", &format!("{}/{resource}", below()), Some(("application/json", object)))
    }

    /// Write some fields of what is in the namespace, as a kubelet does.
    ///
    /// # Errors
    /// It is refused.
    pub fn patch(&self, place: &str, fields: &Value) -> anyhow::Result<Value> {
        let path = format!("{}/{place}", below());
        self.expect("PATCH", &path, Some(("application/merge-patch+json", fields)))
    }

    /// Remove an object of the namespace.
    ///
    /// # Errors
    /// It is not there.
    pub fn delete(&self, group: &str, place: &str) -> anyhow::Result<()> {
        let path = format!("/{group}/namespaces/{NAMESPACE}/{place}");
        self.expect(
            "DELETE",
            &path,
            Some(("application/json", &json!({ "propagationPolicy": "Background" }))),
        )
        .map(drop)
    }

    /// Endpoints of the etcd that it keeps everything in.
    pub fn etcd_endpoints(&self) -> String {
        self.etcd.endpoints()
    }

    /// Ask as an administrator, and want it done.
    fn expect(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> anyhow::Result<Value> {
        let (status, answer) = self.ask(method, path, body)?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        Ok(answer)
    }

    /// Ask as an administrator: status and answer.
    fn ask(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> anyhow::Result<(u16, Value)> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.path("certificates/apiserver.crt"))? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let connection = rustls::ClientConnection::new(Arc::new(config), name)?;
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        tcp.set_read_timeout(Some(ANSWER))?;
        let mut stream = rustls::StreamOwned::new(connection, tcp);
        let (kind, text) =
            body.map_or(("application/json", String::new()), |(kind, body)| (kind, body.to_string()));
        let head =
            format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n");
        let rest = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        stream.write_all(format!("{head}{rest}").as_bytes())?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // It closes the connection without a word.
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => {}
        }
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
        let status = head.split_whitespace().nth(1).context("an answer without a status")?.parse()?;
        Ok((status, serde_json::from_str(body).unwrap_or_else(|_| json!(body))))
    }
}

/// The path of what is in the namespace.
fn below() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}")
}

/// The service accounts and Roles that we recommend.
///
/// # Errors
/// The file is not there.
pub fn rbac(clusters: Names<'_>) -> anyhow::Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("no repository")?;
    let text = std::fs::read_to_string(root.join("deploy/kubernetes/rbac.yaml"))?;
    Ok(match clusters {
        Names::One(cluster) => {
            text.replace("stolon-cluster-production", &format!("stolon-cluster-{cluster}"))
        }
        Names::Any => text
            .lines()
            .filter(|line| !line.contains("resourceNames"))
            .fold(String::new(), |text, line| text + line + "\n"),
    })
}

impl Api for RealApiServer {
    fn programs_kubeconfig(&self) -> anyhow::Result<String> {
        let (sentinel, member) = (self.token_of(SENTINEL)?, self.token_of(MEMBER)?);
        Ok(self.kubeconfig(&[("sentinel", &sentinel), (MEMBER_CONTEXT, &member)]))
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn make_pod(&self, name: &str, component: &str, cluster: &str) -> anyhow::Result<()> {
        let pod = pod(name, component, cluster);
        let (status, answer) =
            self.ask("POST", &format!("{}/pods", below()), Some(("application/json", &pod)))?;
        ensure!(matches!(status, 201 | 409), "a pod: {status} {answer}");
        Ok(())
    }

    fn remove_pod(&self, name: &str) -> anyhow::Result<()> {
        self.expect("DELETE", &format!("{}/pods/{name}?gracePeriodSeconds=0", below()), None)?;
        Ok(())
    }

    fn find(&self, resource: &str, name: &str) -> anyhow::Result<Option<Value>> {
        match self.ask("GET", &format!("{}/{resource}/{name}", below()), None)? {
            (200, object) => Ok(Some(object)),
            (404, _) => Ok(None),
            (status, answer) => bail!("{status} {answer}"),
        }
    }

    fn write(&self, resource: &str, name: &str, patch: Value) -> anyhow::Result<()> {
        let path = format!("{}/{resource}/{name}", below());
        let (status, answer) = self.ask("PATCH", &path, Some(("application/merge-patch+json", &patch)))?;
        if status == 404 {
            let mut object = patch;
            object["metadata"]["name"] = json!(name);
            self.expect("POST", &format!("{}/{resource}", below()), Some(("application/json", &object)))?;
            return Ok(());
        }
        ensure!(status == 200, "PATCH {path}: {status} {answer}");
        Ok(())
    }

    fn freeze(&self) -> anyhow::Result<()> {
        self.daemon.pause()
    }

    fn thaw(&self) -> anyhow::Result<()> {
        self.daemon.resume()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()
    }

    fn begin_again(&mut self) -> anyhow::Result<()> {
        self.begin()
    }
}
