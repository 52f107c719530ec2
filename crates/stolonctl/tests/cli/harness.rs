//! The real program, run against a real store.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use stolon_model::{ClusterDocument, ClusterSpec, Document};
use stolon_store::{Backend, ClusterStore, StoreOptions};

/// No command takes longer; one that does hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// The cluster that every test works on.
pub const CLUSTER: &str = "test";

/// `stolonctl` with a store.
pub struct Ctl {
    backend: Backend,
    pub endpoints: String,
    _directory: Option<tempfile::TempDir>,
}

/// What a run of the program gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ctl {
    /// A store in a file of its own.
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let endpoints = directory.path().join("store.db").display().to_string();
        Ctl { backend: Backend::Sqlite, endpoints, _directory: Some(directory) }
    }

    /// The same, with a store that holds nothing.
    pub fn empty() -> Self {
        let ctl = Ctl::sqlite();
        std::fs::write(&ctl.endpoints, "").expect("an empty file is an empty store");
        ctl
    }

    /// A store that somebody else keeps.
    pub fn etcd(endpoints: String) -> Self {
        Ctl { backend: Backend::Etcdv3, endpoints, _directory: None }
    }

    /// Without anything on standard input.
    pub fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, "")
    }

    /// With a text on standard input.
    pub fn run_with(&self, arguments: &[&str], stdin: &str) -> Run {
        let mut command = bare();
        command.args(self.common()).args(arguments);
        run(command, stdin)
    }

    /// It does what it is asked to, without a word on stderr.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{arguments:?}: {run:?}");
        run.stdout
    }

    /// It shows cluster data that break rules, and is no success.
    #[track_caller]
    pub fn broken(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.code, Some(1), "{arguments:?}: {run:?}");
        assert!(run.stderr.starts_with("the cluster data break "), "{arguments:?}: {run:?}");
        run.stdout
    }

    /// It fails with this status and this text on stderr, and does not change the cluster data.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str], code: i32, stderr: &str) {
        self.refused_with(arguments, "", code, stderr);
    }

    /// The same with a text on standard input.
    #[track_caller]
    pub fn refused_with(&self, arguments: &[&str], stdin: &str, code: i32, stderr: &str) {
        let before = self.run(&["clusterdata", "read"]);
        let run = self.run_with(arguments, stdin);
        assert_eq!((run.code, run.stderr.as_str()), (Some(code), stderr), "{arguments:?}: {run:?}");
        assert_eq!(self.run(&["clusterdata", "read"]), before, "{arguments:?} changed the cluster data");
    }

    /// The flags that name the store.
    pub fn common(&self) -> Vec<String> {
        vec![
            format!("--cluster-name={CLUSTER}"),
            format!("--store-backend={}", self.backend),
            format!("--store-endpoints={}", self.endpoints),
        ]
    }

    /// The same store, for this process.
    pub fn store(&self) -> Arc<dyn ClusterStore> {
        let options = StoreOptions {
            timeout: Duration::from_secs(10),
            ..StoreOptions::new(self.backend, &self.endpoints, CLUSTER)
        };
        stolon_store::open(&options).expect("a store")
    }

    /// Put a document there, whatever it says.
    #[track_caller]
    pub fn write(&self, document: &str) {
        let run = self.run_with(&["clusterdata", "write", "--yes"], document);
        assert_eq!(run.code, Some(0), "{run:?}");
    }

    /// The document that is there.
    #[track_caller]
    pub fn document(&self) -> ClusterDocument {
        ClusterDocument::from_json(&self.done(&["clusterdata", "read"])).expect("cluster data")
    }

    /// The specification that is there.
    #[track_caller]
    pub fn spec(&self) -> ClusterSpec {
        self.document().cluster.expect("a cluster").spec.expect("a specification")
    }
}

/// The program without flags and without environment variables of its own.
pub fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stolonctl"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STOLONCTL_") {
            command.env_remove(name);
        }
    }
    command
}

/// Run to the end, at most until the deadline.
pub fn run(mut command: Command, stdin: &str) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let described = format!("{command:?}");
    let mut child = command.spawn().expect("the program starts");
    let (sender, finished) = mpsc::channel();
    let mut input = child.stdin.take().expect("stdin");
    let stdin = stdin.to_owned();
    // A program that does not read to the end closes the pipe: that is no failure.
    std::thread::spawn(move || _ = input.write_all(stdin.as_bytes()));
    let stdout = reader(child.stdout.take().expect("stdout"));
    let stderr = reader(child.stderr.take().expect("stderr"));
    std::thread::spawn(move || {
        let read = (stdout.join(), stderr.join());
        _ = sender.send(read);
    });
    match finished.recv_timeout(DEADLINE) {
        Ok((stdout, stderr)) => {
            let status = child.wait().expect("an exit status");
            Run {
                code: status.code(),
                stdout: stdout.expect("stdout is read"),
                stderr: stderr.expect("stderr is read"),
            }
        }
        Err(_) => {
            _ = child.kill();
            _ = child.wait();
            panic!("{described} did not end within {DEADLINE:?}");
        }
    }
}

fn reader(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        _ = stream.read_to_string(&mut text);
        text
    })
}
