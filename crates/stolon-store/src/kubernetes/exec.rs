//! Users who are let in by another program (Kubernetes documentation: "Authenticating", client-go credential plugins).
//!
//! The program is asked when something is to be sent, and again when what it gave is over or is no longer let in. It asks nobody:
//! it has no terminal. What it gives is shown nowhere.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::StoreError;
use crate::tls::Issued;

/// The versions of the interface that are spoken.
const VERSIONS: [&str; 2] = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];
/// How long the program may take; those of clouds ask over the network themselves.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is over so soon is over when it arrives.
const ON_THE_WAY: Duration = Duration::from_secs(5);
/// No credential is longer, and no more is read.
const LONGEST: u64 = 1 << 20;
/// So much of what it says on stderr is told, from the end.
const TOLD: usize = 2_000;
/// Our own settings are none of its business: passwords may be among them.
const OUR_SETTINGS: [&str; 4] = ["STKEEPER_", "STSENTINEL_", "STPROXY_", "STOLONCTL_"];

/// The `exec` of a user in a kubeconfig file.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Exec {
    api_version: String,
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    install_hint: Option<String>,
    provide_cluster_info: bool,
    interactive_mode: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Variable {
    name: String,
    value: SecretString,
}

/// What the program is told of the API server, if it wants to know.
pub struct ClusterInfo {
    /// Its URL.
    pub server: String,
    /// The name that its certificate is for, where that is not the host.
    pub tls_name: Option<String>,
    /// Whether any certificate will do.
    pub skips_verification: bool,
    /// Its authorities, as PEM in base64.
    pub authorities: Option<String>,
}

/// A program that lets this client in.
pub struct Plugin {
    program: PathBuf,
    exec: Exec,
    /// What `KUBERNETES_EXEC_INFO` says.
    info: String,
    /// Certificate and key, for connections; those are made anew when it changes.
    pub issued: Arc<Issued>,
    state: Mutex<State>,
    /// Of one run at a time.
    turn: tokio::sync::Mutex<()>,
    patience: Duration,
}

#[derive(Default)]
struct State {
    credential: Option<Credential>,
    /// Counts certificates.
    certificates: u64,
}

/// What the program gave.
#[derive(Clone)]
struct Credential {
    token: Option<SecretString>,
    expires: Option<jiff::Timestamp>,
    certificate: u64,
}

/// What lets this client in at the moment.
pub struct Pass {
    /// For the header, if there is one.
    pub token: Option<SecretString>,
    /// Which certificate a connection must have shown.
    pub certificate: u64,
}

impl Credential {
    fn is_fresh(&self) -> bool {
        let until = jiff::Timestamp::now().checked_add(ON_THE_WAY);
        self.expires.is_none_or(|expires| until.is_ok_and(|until| until < expires))
    }

    fn pass(&self) -> Pass {
        Pass { token: self.token.clone(), certificate: self.certificate }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: String,
    kind: String,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Status {
    token: Option<SecretString>,
    client_certificate_data: Option<SecretString>,
    client_key_data: Option<SecretString>,
    expiration_timestamp: Option<String>,
}

impl Plugin {
    /// The program has not run yet. A relative path begins in the directory of the kubeconfig file; a mere name is looked for in `PATH`.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: it wants what cannot be given.
    pub fn new(exec: Exec, user: &str, directory: &Path, cluster: ClusterInfo) -> Result<Self, StoreError> {
        let refuse = |problem: String, hint: &str| Err(StoreError::configuration(problem, hint));
        if !VERSIONS.contains(&exec.api_version.as_str()) {
            let problem = format!("the program of the user {user:?} speaks {:?}", exec.api_version);
            return refuse(
                problem,
                "client.authentication.k8s.io/v1 and v1beta1 are known: update the program",
            );
        }
        if exec.command.is_empty() {
            return refuse(
                format!("the exec of the user {user:?} names no command"),
                super::kubeconfig::HINT,
            );
        }
        if exec.interactive_mode.as_deref() == Some("Always") {
            let problem =
                format!("the program of the user {user:?} wants to ask a person, and there is none");
            return refuse(problem, "use a user with a token or a client certificate (kubectl create token)");
        }
        let program = if exec.command.contains('/') {
            directory.join(&exec.command)
        } else {
            exec.command.clone().into()
        };
        let mut spec = json!({ "interactive": false });
        if exec.provide_cluster_info {
            spec["cluster"] = json!({
                "server": cluster.server,
                "tls-server-name": cluster.tls_name,
                "insecure-skip-tls-verify": cluster.skips_verification,
                "certificate-authority-data": cluster.authorities,
            });
        }
        let info = json!({ "apiVersion": exec.api_version, "kind": "ExecCredential", "spec": spec });
        Ok(Plugin {
            program,
            info: info.to_string(),
            exec,
            issued: Arc::default(),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            patience: PATIENCE,
        })
    }

    /// What lets this client in now. The program goes on when the caller does not wait for it: the next one finds what it gave.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn pass(self: &Arc<Self>) -> Result<Pass, String> {
        if let Some(pass) = self.known() {
            return Ok(pass);
        }
        let plugin = Arc::clone(self);
        let renewing = tokio::spawn(async move { plugin.renew().await });
        renewing.await.map_err(|error| error.to_string())?
    }

    /// It is no longer let in: ask again.
    pub fn forget(&self) {
        self.state.lock().credential = None;
    }

    fn known(&self) -> Option<Pass> {
        self.state.lock().credential.as_ref().filter(|credential| credential.is_fresh()).map(Credential::pass)
    }

    async fn renew(&self) -> Result<Pass, String> {
        let _turn = self.turn.lock().await;
        if let Some(pass) = self.known() {
            return Ok(pass);
        }
        let answer = self.run().await.map_err(|problem| match &self.exec.install_hint {
            Some(hint) => format!("{}: {problem} ({})", self.program.display(), hint.trim()),
            None => format!("{}: {problem}", self.program.display()),
        })?;
        let expires = answer.expiration_timestamp.as_deref().map(str::parse).transpose();
        let expires =
            expires.map_err(|_| format!("{} says no time when it is over", self.program.display()))?;
        let pair = match (answer.client_certificate_data, answer.client_key_data) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => None,
        };
        let mut state = self.state.lock();
        if self.issued.replace(pair) {
            state.certificates += 1;
        }
        let credential = Credential { token: answer.token, expires, certificate: state.certificates };
        let pass = credential.pass();
        state.credential = Some(credential);
        Ok(pass)
    }

    async fn run(&self) -> Result<Status, String> {
        let mut command = tokio::process::Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| OUR_SETTINGS.iter().any(|ours| name.starts_with(ours))) {
                command.env_remove(name);
            }
        }
        command.args(self.exec.args.iter().flatten());
        for variable in self.exec.env.iter().flatten() {
            command.env(&variable.name, variable.value.expose_secret());
        }
        command.env("KUBERNETES_EXEC_INFO", &self.info);
        // A group of its own, so that what it starts ends with it.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let (out, err) = (read(child.stdout.take()), read(child.stderr.take()));
        let ended = tokio::time::timeout(self.patience, async { tokio::join!(child.wait(), out, err) }).await;
        let Ok((status, out, err)) = ended else {
            if let Some(group) = group {
                // It may have ended just now.
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
            }
            return Err(format!("it did not end within {:?}", self.patience));
        };
        let said = told(&err);
        let status = status.map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("{status}: {said}"));
        }
        if !said.is_empty() {
            tracing::warn!(said, program = %self.program.display(), "the program that lets this client in says something");
        }
        self.understand(&out)
    }

    /// Errors say nothing of the text: it is a secret.
    fn understand(&self, out: &[u8]) -> Result<Status, String> {
        let answer: Answer = serde_json::from_slice(out)
            .map_err(|error| format!("what it gives is no ExecCredential (line {})", error.line()))?;
        if answer.kind != "ExecCredential" || answer.api_version != self.exec.api_version {
            return Err(format!("it gives no ExecCredential of {}", self.exec.api_version));
        }
        let status = answer.status.unwrap_or_default();
        match (&status.token, &status.client_certificate_data, &status.client_key_data) {
            (None, None, None) => Err("it gives neither a token nor a certificate".to_owned()),
            (_, Some(_), None) | (_, None, Some(_)) => Err("it gives half a client certificate".to_owned()),
            _ => Ok(status),
        }
    }
}

/// What it writes. More than is wanted is read and dropped, so that it does not wait.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        let mut limited = pipe.take(LONGEST);
        // A pipe that breaks is at its end.
        let _ = limited.read_to_end(&mut text).await;
        let _ = tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await;
    }
    text
}

/// The end of what it says on stderr, in one line.
fn told(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = words.chars().count().saturating_sub(TOLD);
    words.chars().skip(skipped).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program that writes a line into `runs` each time, then does as it is told.
    fn plugin(directory: &Path, script: &str) -> Result<Arc<Plugin>, StoreError> {
        let runs = directory.join("runs").display().to_string();
        std::fs::write(directory.join("program"), format!("#!/bin/sh\necho run >> {runs}\n{script}\n"))
            .unwrap();
        std::fs::set_permissions(directory.join("program"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let exec = json!({
            "apiVersion": VERSIONS[0], "command": "./program", "args": ["secret argument"],
            "env": [{ "name": "OWN", "value": "given" }], "installHint": "install it", "provideClusterInfo": true,
        });
        let cluster = ClusterInfo {
            server: "https://h".into(),
            tls_name: None,
            skips_verification: false,
            authorities: None,
        };
        Plugin::new(serde_json::from_value(exec).unwrap(), "u", directory, cluster).map(Arc::new)
    }

    fn runs(directory: &Path) -> usize {
        std::fs::read_to_string(directory.join("runs")).unwrap_or_default().lines().count()
    }

    fn gives(status: serde_json::Value) -> String {
        let answer = json!({ "apiVersion": VERSIONS[0], "kind": "ExecCredential", "status": status });
        format!("echo '{answer}'")
    }

    async fn token(plugin: &Arc<Plugin>) -> Result<String, String> {
        Ok(plugin.pass().await?.token.unwrap().expose_secret().to_owned())
    }

    #[tokio::test]
    async fn what_it_gives_is_kept_until_it_is_over_or_not_let_in() {
        let home = tempfile::tempdir().unwrap();
        let kept = plugin(home.path(), &gives(json!({ "token": "t" }))).unwrap();
        for _ in 0..3 {
            assert_eq!(token(&kept).await, Ok("t".into()));
        }
        assert_eq!(runs(home.path()), 1);
        kept.forget();
        assert_eq!(token(&kept).await, Ok("t".into()));
        assert_eq!(runs(home.path()), 2);

        let home = tempfile::tempdir().unwrap();
        let later = gives(json!({ "token": "t", "expirationTimestamp": "2999-01-01T00:00:00Z" }));
        let kept = plugin(home.path(), &later).unwrap();
        token(&kept).await.unwrap();
        token(&kept).await.unwrap();
        assert_eq!(runs(home.path()), 1);

        let home = tempfile::tempdir().unwrap();
        let over = gives(json!({ "token": "t", "expirationTimestamp": "2020-01-01T00:00:00Z" }));
        let kept = plugin(home.path(), &over).unwrap();
        token(&kept).await.unwrap();
        token(&kept).await.unwrap();
        assert_eq!(runs(home.path()), 2);
    }

    #[tokio::test]
    async fn several_who_ask_at_once_wait_for_one_run() {
        let home = tempfile::tempdir().unwrap();
        let kept = plugin(home.path(), &gives(json!({ "token": "t" }))).unwrap();
        let (one, two) = tokio::join!(token(&kept), token(&kept));
        assert_eq!((one, two, runs(home.path())), (Ok("t".into()), Ok("t".into()), 1));
    }

    #[tokio::test]
    async fn it_is_told_what_it_needs() {
        let home = tempfile::tempdir().unwrap();
        let script = format!(
            "echo \"$OWN $1 $KUBERNETES_EXEC_INFO\" > {}/told\n{}",
            home.path().display(),
            gives(json!({ "token": "t" }))
        );
        let kept = plugin(home.path(), &script).unwrap();
        token(&kept).await.unwrap();
        let told = std::fs::read_to_string(home.path().join("told")).unwrap();
        assert!(told.starts_with("given secret argument {"), "{told}");
        let info: serde_json::Value = serde_json::from_str(&told["given secret argument ".len()..]).unwrap();
        assert_eq!(info["spec"]["cluster"]["server"], "https://h");
        assert_eq!((&info["spec"]["interactive"], &info["apiVersion"]), (&json!(false), &json!(VERSIONS[0])));
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told_and_no_secret_with_it() {
        let cases = [
            ("echo token-secret; echo 'log in first' >&2; exit 3".to_owned(), "log in first"),
            ("echo token-secret".to_owned(), "no ExecCredential"),
            (gives(json!({})), "neither a token nor a certificate"),
            (
                gives(json!({ "token": "token-secret", "clientKeyData": "token-secret" })),
                "half a client certificate",
            ),
            (gives(json!({ "token": "token-secret", "expirationTimestamp": "soon" })), "no time"),
            (
                r#"echo '{"apiVersion":"v1","kind":"Secret","status":{"token":"token-secret"}}'"#.to_owned(),
                "no ExecCredential",
            ),
        ];
        for (script, said) in cases {
            let home = tempfile::tempdir().unwrap();
            let error = token(&plugin(home.path(), &script).unwrap()).await.unwrap_err();
            assert!(error.contains(said) && !error.contains("token-secret"), "{script}: {error}");
        }
        let home = tempfile::tempdir().unwrap();
        let kept = plugin(home.path(), "").unwrap();
        std::fs::remove_file(home.path().join("program")).unwrap();
        let error = token(&kept).await.unwrap_err();
        assert!(error.contains("install it"), "{error}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_what_it_started() {
        let home = tempfile::tempdir().unwrap();
        let pid = home.path().join("pid");
        let script = format!("sleep 1000 &\necho $! > {}\nwait", pid.display());
        let mut kept = plugin(home.path(), &script).unwrap();
        Arc::get_mut(&mut kept).unwrap().patience = Duration::from_secs(1);
        let error = token(&kept).await.unwrap_err();
        assert!(error.contains("did not end"), "{error}");
        let started = std::fs::read_to_string(pid).unwrap();
        let stat = format!("/proc/{}/stat", started.trim());
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        // One that nobody has waited for yet is a zombie.
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(std::time::Instant::now() < deadline, "it lives");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn what_cannot_be_given_is_refused() {
        let refused = |exec: serde_json::Value| {
            let cluster = ClusterInfo {
                server: String::new(),
                tls_name: None,
                skips_verification: false,
                authorities: None,
            };
            let exec = serde_json::from_value(exec).unwrap();
            Plugin::new(exec, "u", Path::new("/"), cluster).err().unwrap().to_string()
        };
        let old = "client.authentication.k8s.io/v1alpha1";
        assert!(refused(json!({ "apiVersion": old, "command": "x" })).contains(old));
        assert!(refused(json!({ "apiVersion": VERSIONS[1] })).contains("no command"));
        let asks = json!({ "apiVersion": VERSIONS[0], "command": "x", "interactiveMode": "Always" });
        assert!(refused(asks).contains("ask a person"));
    }
}
