//! What `deploy/kubernetes` holds is accepted by kubectl and by API servers, and does what it is to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use stolon_model::Document as _;
use stolon_testkit::kubernetes::real::{Names, RealApiServer};
use stolon_testkit::kubernetes::{Api, ApiServer};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a repository")
}

fn directory() -> PathBuf {
    root().join("deploy/kubernetes")
}

/// kubectl on the manifests in a directory; what it says on stdout.
fn kubectl(api: &impl Api, kubeconfig: &Path, arguments: &[&str]) -> String {
    let mut kubectl = Command::new("kubectl");
    kubectl.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(api.directory().join("cache"));
    let output = kubectl.arg("--request-timeout=30s").args(arguments).output();
    let output = output.expect("kubectl (./test installs it)");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// All objects, as kubectl reads them.
fn objects() -> Vec<Value> {
    let api = ApiServer::start().expect("an API server");
    let kubeconfig = api.programs_kubeconfig_file().expect("a kubeconfig file");
    let directory = directory().display().to_string();
    let read = ["apply", "--dry-run=client", "--validate=false", "-o", "json", "-f", &directory];
    let list: Value = serde_json::from_str(&kubectl(&api, &kubeconfig, &read)).expect("JSON");
    list["items"].as_array().expect("a list").clone()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The specification of the pods of an object, if it has pods.
fn pods(object: &Value) -> Option<&Value> {
    object["spec"]["template"]["spec"].is_object().then(|| &object["spec"]["template"]["spec"])
}

fn containers(objects: &[Value]) -> Vec<&Value> {
    let all = objects.iter().filter_map(pods).filter_map(|pod| pod["containers"].as_array());
    all.flatten().collect()
}

#[test]
fn kubectl_and_the_api_server_of_the_tests_accept_all_of_it() {
    let api = ApiServer::start().expect("an API server");
    let kubeconfig = api.programs_kubeconfig_file().expect("a kubeconfig file");
    let directory = directory().display().to_string();
    let said = kubectl(&api, &kubeconfig, &["apply", "--validate=false", "-f", &directory]);
    for made in [
        "statefulset.apps/stolon-keeper created",
        "deployment.apps/stolon-sentinel created",
        "deployment.apps/stolon-proxy created",
        "job.batch/stolon-migration created",
        "job.batch/stolon-migration-start created",
        "job.batch/stolon-migration-switch created",
        "secret/stolon-legacy created",
        "role.rbac.authorization.k8s.io/stolon-member created",
    ] {
        assert!(said.contains(made), "{made} in:\n{said}");
    }
    let again = kubectl(&api, &kubeconfig, &["apply", "--validate=false", "-f", &directory]);
    assert!(!again.contains("created"), "{again}");
}

/// A variable that no program reads would change nothing, and say so to nobody.
#[test]
fn every_variable_is_one_that_a_program_reads() {
    let page = std::fs::read_to_string(root().join("docs/command-lines.md")).expect("the page of options");
    let objects = objects();
    let mut seen = 0;
    for variable in containers(&objects).iter().filter_map(|container| container["env"].as_array()).flatten()
    {
        let name = variable["name"].as_str().expect("a name");
        let Some((program, option)) = name.split_once('_').filter(|_| name.starts_with("ST")) else {
            continue;
        };
        seen += 1;
        assert!(["STKEEPER", "STSENTINEL", "STPROXY", "STOLONCTL"].contains(&program), "{name}");
        assert!(
            page.contains(&format!("`{name}`")) || page.contains(&format!("`…_{option}`")),
            "no program reads {name}"
        );
    }
    assert!(seen > 20, "{seen}");
}

/// What a pod asks for is there: labels that its controller selects, accounts, Secrets and ConfigMaps with their keys.
#[test]
fn what_one_object_names_another_one_is() {
    let objects = objects();
    for object in &objects {
        let Some(pod) = pods(object) else { continue };
        let labels = &object["spec"]["template"]["metadata"]["labels"];
        if let Some(selected) = object["spec"]["selector"]["matchLabels"].as_object() {
            assert!(selected.iter().all(|(name, value)| labels[name] == *value), "{object}");
            let budget =
                find(&objects, "PodDisruptionBudget", object["metadata"]["name"].as_str().expect("a name"));
            assert_eq!(budget["spec"]["selector"]["matchLabels"], json!(selected));
        }
        find(&objects, "ServiceAccount", pod["serviceAccountName"].as_str().expect("an account"));
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            if let Some(secret) = volume["secret"]["secretName"].as_str() {
                find(&objects, "Secret", secret);
            }
        }
        for variable in pod["containers"][0]["env"].as_array().into_iter().flatten() {
            let reference = &variable["valueFrom"]["configMapKeyRef"];
            if let (Some(map), Some(key)) = (reference["name"].as_str(), reference["key"].as_str()) {
                assert!(find(&objects, "ConfigMap", map)["data"][key].is_string(), "{map} has no {key}");
            }
        }
    }
    let keeper = &pods(find(&objects, "StatefulSet", "stolon-keeper")).expect("pods")["containers"][0];
    let environment = keeper["env"].as_array().expect("an environment");
    let secret = find(&objects, "Secret", "stolon");
    let mounted = "/etc/secrets/stolon/";
    let files = environment.iter().filter_map(|variable| variable["value"].as_str()?.strip_prefix(mounted));
    let files: Vec<&str> = files.collect();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|file| secret["stringData"][file].is_string()), "{files:?}");
}

/// What the Job of a container is given.
fn environment(objects: &[Value], container: &Value) -> BTreeMap<String, String> {
    let value = |variable: &Value| {
        let reference = &variable["valueFrom"]["configMapKeyRef"];
        let text = match (reference["name"].as_str(), reference["key"].as_str()) {
            (Some(map), Some(key)) => &find(objects, "ConfigMap", map)["data"][key],
            _ => &variable["value"],
        };
        text.as_str().expect("a value").to_owned()
    };
    let all = container["env"].as_array().expect("an environment").iter();
    all.map(|variable| (variable["name"].as_str().expect("a name").to_owned(), value(variable))).collect()
}

/// Run the command of a Job as its pod would, with what lets the account of the Job in.
fn run_job(objects: &[Value], name: &str, kubeconfig: &Path) {
    let container = &pods(find(objects, "Job", name)).expect("a pod")["containers"][0];
    let words: Vec<&str> =
        container["command"].as_array().expect("a command").iter().filter_map(Value::as_str).collect();
    let test = std::env::current_exe().expect("this test");
    let programs = test.parent().and_then(Path::parent).expect("the programs beside it");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut job = Command::new(words[0]);
    job.args(&words[1..]).env_clear().env("PATH", path).env("KUBECONFIG", kubeconfig);
    let output = job.envs(environment(objects, container)).output().expect("the command of the Job");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {said}");
}

/// The cluster data that the Jobs wrote.
fn data(api: &impl Api) -> stolon_model::ClusterData {
    let map = api.find("configmaps", "stolon-cluster-production").expect("asked").expect("a ConfigMap");
    let text =
        map["metadata"]["annotations"]["stolon-clusterdata"].as_str().expect("cluster data").to_owned();
    let document = stolon_model::ClusterDocument::from_json(&text).expect("cluster data");
    stolon_model::ClusterData::try_from(document).expect("cluster data")
}

fn jobs_do_their_work(api: &impl Api, objects: &[Value]) {
    let kubeconfig = api.programs_kubeconfig_file().expect("a kubeconfig file");
    run_job(objects, "stolon-new-cluster", &kubeconfig);
    let first = data(api);
    assert_eq!(first.cluster.spec.init_mode, Some(stolon_model::InitMode::New));
    run_job(objects, "stolon-new-cluster", &kubeconfig);
    assert_eq!(data(api).cluster.uid, first.cluster.uid, "there was one already");
    run_job(objects, "stolon-migration", &kubeconfig);
    let spec = data(api).cluster.spec;
    assert_eq!(spec.init_mode, Some(stolon_model::InitMode::PointInTimeRecovery));
    let command = &spec.pitr_config.as_ref().expect("how to copy").data_restore_command;
    assert!(command.contains("pg_basebackup -D %d -h legacydbhost"), "{command}");
    let parameters = spec.pg_parameters.as_ref().expect("parameters");
    assert_eq!(parameters.get("max_connections").map(String::as_str), Some("1000"));
}

#[test]
fn the_jobs_do_their_work() {
    let api = ApiServer::start().expect("an API server");
    jobs_do_their_work(&api, &objects());
}

/// With the schema of a real API server, and its RBAC.
#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn a_real_api_server_accepts_all_of_it_and_the_jobs_do_their_work() {
    let api = RealApiServer::start(Names::One("production")).await.expect("an API server");
    for file in std::fs::read_dir(directory()).expect("a directory") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            // The version that is built does not have the one that came after it.
            let text =
                std::fs::read_to_string(&path).expect("text").replace("policy/v1\n", "policy/v1beta1\n");
            api.apply(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    let objects = objects();
    jobs_do_their_work(&api, &objects);
}
