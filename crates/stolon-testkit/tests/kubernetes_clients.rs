//! The API server of the tests answers clients that nobody here wrote: kubectl, and the Python client.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use stolon_testkit::kubernetes::{Api, ApiServer, Gone, python};

fn api() -> (ApiServer, PathBuf) {
    let api = ApiServer::start().expect("an API server");
    api.ensure_pod("keeper-0", "stolon-keeper", "test");
    api.ensure_pod("proxy-0", "stolon-proxy", "test");
    api.ensure_pod("keeper-1", "stolon-keeper", "other");
    let kubeconfig = api.programs_kubeconfig_file().expect("a kubeconfig file");
    (api, kubeconfig)
}

/// What a command says on stdout; on stderr if it fails, as `Err`.
fn outcome(command: &mut Command, input: &str) -> Result<String, String> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child =
        child.unwrap_or_else(|error| panic!("{command:?}: {error} (./test installs what is needed)"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("its end");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

struct Kubectl {
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    fn with_input(&self, arguments: &str, input: &str) -> Result<String, String> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(&self.cache);
        outcome(command.arg("--request-timeout=20s").args(arguments.split(' ')), input)
    }

    fn run(&self, arguments: &str) -> Result<String, String> {
        self.with_input(arguments, "")
    }
}

#[test]
fn kubectl_is_answered() {
    let (api, kubeconfig) = api();
    let kubectl = Kubectl { kubeconfig, cache: api.path().join("cache") };
    let selected = "get pods -o name -l component=stolon-keeper,stolon-cluster=test";
    assert_eq!(kubectl.run(selected), Ok("pod/keeper-0\n".into()));
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "x" }, "data": { "a": "b" },
    });
    let made = kubectl.with_input("create --validate=false -f -", &map.to_string());
    assert_eq!(made, Ok("configmap/x created\n".into()));
    let error = kubectl.with_input("create --validate=false -f -", &map.to_string()).expect_err("twice");
    assert!(error.contains("AlreadyExists"), "{error}");
    kubectl.run("annotate configmap x note=1").expect("annotated");
    let error = kubectl.run("annotate configmap x note=2").expect_err("kubectl keeps what is there");
    assert!(error.contains("already has a value"), "{error}");
    let patch = r#"patch configmap x --type merge -p {"metadata":{"annotations":{"note":null,"other":"y"}}}"#;
    kubectl.run(patch).expect("patched");
    let found = kubectl.run("get configmap x -o json").expect("got");
    let mut found: Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!(found["metadata"]["annotations"], json!({ "other": "y" }));

    found["metadata"]["resourceVersion"] = json!("1");
    let error = kubectl.with_input("replace --validate=false -f -", &found.to_string()).expect_err("old");
    assert!(error.contains("Conflict"), "{error}");
    kubectl.run("delete configmap x").expect("deleted");
    let error = kubectl.run("get configmap x").expect_err("it is gone");
    assert!(error.contains("NotFound"), "{error}");
}

fn python(kubeconfig: &Path, part: &str) -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes_client.py");
    let mut python = python::interpreter().expect("the Python client");
    outcome(python.arg(script).arg(part).arg(kubeconfig), "")
}

#[test]
fn the_python_client_is_answered() {
    let (api, kubeconfig) = api();
    assert_eq!(python(&kubeconfig, "everything"), Ok("well\n".into()));
    for gone in [Gone::ByEvent, Gone::ByStatus] {
        api.forget_history(gone);
        assert_eq!(python(&kubeconfig, "forgotten"), Ok("well\n".into()), "{gone:?}");
    }
}
