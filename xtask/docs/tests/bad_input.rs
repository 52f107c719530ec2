//! Each option of each program, given what it cannot mean: one clear sentence that names it, a hint, exit status 2, and nothing is changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Arg;
use stolon_runtime::Program;

/// A program that runs on has accepted what it was given.
const DEADLINE: Duration = Duration::from_secs(60);

/// So many programs run at a time.
const LANES: usize = 2;

/// What cannot be wrong by itself, and why.
const FREE: &[(&str, &str)] = &[
    ("--kube-context", "whether the kubeconfig holds it is asked of the file"),
    ("--kube-namespace", "whether it exists is asked of the API server"),
    ("--pg-repl-password", "every text can be a password"),
    ("--pg-su-password", "every text can be a password"),
    ("--source", "libpq reads it: stolonctl/tests/cli/migrate_check.rs"),
    ("--target", "libpq reads it: stolonctl/tests/cli/migrate_check.rs"),
    ("--keeper-source", "libpq reads it: stolonctl/tests/cli/migrate_check.rs"),
    ("--pg-basebackup", "it lies on another host"),
    ("--restore-command", "it is run on another host"),
    ("--fetch-wal", "it is run on another host"),
    (
        "--to",
        "whether the cluster has that keeper is asked of the store: stolonctl/tests/cli/more_commands.rs",
    ),
    ("--reason", "every text can be a reason"),
    (
        "--accept-data-loss",
        "whether the cluster has that keeper is asked of the store: stolonctl/tests/cli/settle.rs",
    ),
    ("--tag-master-as", "every text can be a tag"),
    ("--tag-slave-as", "every text can be a tag"),
];

/// Files and directories of one test.
struct Site {
    root: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Site { root: tempfile::tempdir().expect("a temporary directory") };
        std::fs::create_dir(site.path("directory")).expect("a directory");
        std::fs::write(site.path("empty"), "").expect("a file");
        std::fs::write(site.path("binary"), [0xff, 0xfe, 0x00]).expect("a file");
        std::fs::write(site.path("password"), "secret").expect("a file");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Everything below the root.
    fn listing(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.root.path().to_path_buf()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    open.push(path.clone());
                }
                found.insert(path);
            }
        }
        found
    }

    /// Options with which the program would run, but for the one that is tested.
    fn good(&self, program: Program) -> Vec<(String, String)> {
        let store = self.text("store.db");
        let mut good = vec![
            ("--cluster-name", "test".to_owned()),
            ("--store-backend", "sqlite".to_owned()),
            ("--store-endpoints", store),
        ];
        let password = self.text("password");
        match program {
            Program::Keeper => good.extend([
                ("--data-dir", self.text("data")),
                ("--pg-listen-address", "127.0.0.1".to_owned()),
                ("--pg-su-username", "su".to_owned()),
                ("--pg-su-passwordfile", password.clone()),
                ("--pg-repl-username", "repl".to_owned()),
                ("--pg-repl-passwordfile", password),
            ]),
            Program::Proxy => good.push(("--port", "0".to_owned())),
            _ => {}
        }
        good.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What this option cannot mean.
    fn bad(&self, flag: &str, kind: &str) -> Vec<String> {
        let long = "x".repeat(5000);
        let files = ["nowhere", "directory", "empty", "binary"].map(|name| self.text(name)).to_vec();
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        match (flag, kind) {
            ("--allowed-commands", _) => ["nowhere", "directory", "binary"].map(|it| self.text(it)).to_vec(),
            ("--cluster-name" | "--store-prefix", _) => vec![long, "a\nb".to_owned(), "a\tb".to_owned()],
            ("--store-endpoints", _) => owned(&["ftp://127.0.0.1:1", "http://", ","]),
            ("--tablespace-mapping", _) => owned(&["a", "a=b", "/a=b", "/a=/b,c"]),
            ("--proxy-ports" | "--keeper-ports", _) => owned(&["x", "1,x", "65536", "-1"]),
            (_, "SPAN") => owned(&["5", "x", "-5s", "99999999999999999999h", "5 s", "1y"]),
            (_, "PORT") => owned(&["65536", "-1", "1.5", "5432x"]),
            (_, "SECONDS" | "PROBES" | "NUMBER" | "COUNT" | "SCALE") => {
                owned(&["-1", "1.5", "x", "99999999999999999999"])
            }
            (_, "ADDRESS") => owned(&["a b", "x:99999", "::::", "a\n"]),
            (_, "FILE") => files,
            (_, "DIRECTORY") => vec![self.text("password"), self.text("password/below")],
            (_, "KIND" | "METHOD" | "MODE" | "LEVEL" | "FORMAT" | "WHERE") => {
                owned(&["paper", "0", "Sqlite "])
            }
            (_, "UID") => vec!["A-B".to_owned(), "a b".to_owned(), "../x".to_owned(), long],
            (_, "NAME") => vec![long, "a\nb".to_owned()],
            (_, "URL") => owned(&["nonsense", "ftp://x"]),
            (_, "BOOL") => owned(&["maybe", "2"]),
            _ => Vec::new(),
        }
    }
}

/// An option of a program, after the words that lead to it.
struct Choice {
    program: Program,
    words: Vec<String>,
    flag: String,
    /// The name of its value.
    kind: String,
}

impl Choice {
    /// Not before the store was asked, or not by the user who runs this test.
    fn is_tried_elsewhere(&self) -> bool {
        match (self.program, self.flag.as_str()) {
            // stolon-keeper/tests/keeper/start_up.rs: root is sent away before.
            (Program::Keeper, "--data-dir") => true,
            // stolon-e2e/tests/migrate.rs: without a cluster nothing can be migrated.
            (Program::Ctl, "--file" | "--pg-bin-path") => {
                self.words.first().is_some_and(|word| word == "migrate")
            }
            _ => false,
        }
    }
}

/// An attempt to run a program.
struct Attempt {
    program: Program,
    arguments: Vec<String>,
    flag: String,
    value: String,
}

impl Attempt {
    fn new(site: &Site, program: Program, words: &[String], flag: &str, value: &str) -> Self {
        let mut options = site.good(program);
        options.retain(|(name, _)| name != flag);
        let mut set = |name: &str, value: &str| {
            options.retain(|(known, _)| known != name);
            options.push((name.to_owned(), value.to_owned()));
        };
        // With these the option has a meaning at all.
        match flag {
            "--store-endpoints" => set("--store-backend", "etcdv3"),
            "--store-cert-file" | "--store-key" | "--store-ca-file" => {
                set("--store-backend", "etcdv3");
                set("--store-endpoints", "https://127.0.0.1:1");
            }
            "--kube-resource-kind" => set("--store-backend", "kubernetes"),
            "--kubeconfig" => {
                set("--store-backend", "kubernetes");
                set("--kube-resource-kind", "configmap");
            }
            "--pg-ssl-ca-file" => set("--pg-ssl-mode", "verify-full"),
            "--pg-rewind-passwordfile" => set("--pg-rewind-username", "rewinder"),
            _ => {}
        }
        let mut arguments: Vec<String> =
            options.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        arguments.extend_from_slice(words);
        if flag.starts_with("--register-") {
            arguments.push("--register-endpoints=https://127.0.0.1:1".to_owned());
        }
        arguments.push(format!("{flag}={value}"));
        Attempt { program, arguments, flag: flag.to_owned(), value: value.to_owned() }
    }

    /// What is wrong with how the program took it; none: it did as it should.
    fn fault(&self, site: &Site) -> Option<String> {
        let before = site.listing();
        let Some(output) = run(self.program, &self.arguments, site.root.path()) else {
            return Some("it runs".to_owned());
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let made: Vec<_> = site.listing().difference(&before).cloned().collect();
        let last = said.trim_end().lines().last().unwrap_or_default();
        // Of a file with a document in it the sentence names the document.
        let names = [self.flag.trim_start_matches('-'), self.value.trim(), "cluster spec", "cluster data"];
        let names_it = names.iter().any(|name| said.contains(name));
        let fault = match output.status.code() {
            Some(2) if !made.is_empty() => format!("it made {made:?}"),
            Some(2) if !last.contains("hint") => "it gives no hint".to_owned(),
            Some(2) if !names_it => "it does not name the option".to_owned(),
            Some(2) if !output.stdout.is_empty() => "it prints something".to_owned(),
            Some(2) => return None,
            other => format!("its exit status is {other:?}"),
        };
        Some(format!("{fault}: {}", said.trim_end()))
    }
}

/// None: it had to be killed.
fn run(program: Program, arguments: &[String], directory: &Path) -> Option<Output> {
    let beside = Path::new(env!("CARGO_BIN_EXE_xtask-docs")).parent().expect("a directory");
    let mut child = Command::new(beside.join(program.name()))
        .args(arguments)
        .current_dir(directory)
        .env("POD_NAME", "pod")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built: cargo build --workspace --bins");
    let begun = Instant::now();
    while child.try_wait().expect("its status").is_none() {
        if begun.elapsed() > DEADLINE {
            child.kill().ok();
            child.wait().ok();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(child.wait_with_output().expect("its output"))
}

fn kind_of(arg: &Arg) -> String {
    match arg.get_action().takes_values() {
        false => "BOOL".to_owned(),
        true => {
            arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default()
        }
    }
}

fn is_common(arg: &Arg) -> bool {
    arg.get_help_heading() == Some(stolon_runtime::COMMON_OPTIONS)
}

/// Words that a command needs before it looks at anything.
fn positionals(command: &clap::Command) -> Vec<String> {
    let needed = command.get_positionals().filter(|arg| arg.is_required_set() && !arg.is_hide_set());
    needed.map(|arg| if kind_of(arg) == "SHELL" { "bash" } else { "keeper1" }.to_owned()).collect()
}

/// Each option of a command and of those below it, with the words that lead to it.
fn options(program: Program, command: &clap::Command, path: &[String], found: &mut Vec<Choice>) {
    let words: Vec<String> = path.iter().cloned().chain(positionals(command)).collect();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let Some(name) = arg.get_long().filter(|name| !["help", "version"].contains(name)) else { continue };
        if !path.is_empty() && is_common(arg) {
            continue;
        }
        let words = if program == Program::Ctl && path.is_empty() {
            vec!["status".to_owned()]
        } else {
            words.clone()
        };
        found.push(Choice { program, words, flag: format!("--{name}"), kind: kind_of(arg) });
    }
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let path: Vec<String> = path.iter().cloned().chain([inner.get_name().to_owned()]).collect();
        options(program, inner, &path, found);
    }
}

fn all_options() -> Vec<Choice> {
    let mut ctl = stolonctl::command();
    ctl.build();
    let mut found = Vec::new();
    for (program, command) in [
        (Program::Keeper, stolon_runtime::command::<stolon_keeper::Flags>(Program::Keeper)),
        (Program::Sentinel, stolon_runtime::command::<stolon_sentinel::Flags>(Program::Sentinel)),
        (Program::Proxy, stolon_runtime::command::<stolon_proxy::Flags>(Program::Proxy)),
        (Program::Ctl, ctl),
    ] {
        options(program, &command, &[], &mut found);
    }
    found
}

fn faults_of<'a>(options: impl Iterator<Item = &'a Choice>) -> Vec<String> {
    let site = Site::new();
    let mut faults = Vec::new();
    for choice @ Choice { program, words, flag, kind } in options {
        if FREE.iter().any(|(free, _)| free == flag) || choice.is_tried_elsewhere() {
            continue;
        }
        let bad = site.bad(flag, kind);
        if bad.is_empty() {
            faults.push(format!(
                "say what is bad for {} {} {flag} {kind}, or why nothing is",
                program.name(),
                words.join(" ")
            ));
        }
        for value in bad {
            let attempt = Attempt::new(&site, *program, words, flag, &value);
            if let Some(fault) = attempt.fault(&site) {
                let run = format!("{} {}", program.name(), attempt.arguments.join(" "));
                faults.push(format!("{run:.400}\n    {fault:.600}"));
            }
        }
    }
    faults
}

#[test]
fn what_an_option_cannot_mean_is_refused() {
    let options = all_options();
    assert!(options.len() > 150, "{}", options.len());
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let mine = options.iter().skip(lane).step_by(LANES);
            scope.spawn(|| {
                // What one attempt makes is not taken for what another one made.
                let found = faults_of(mine);
                faults.lock().expect("faults").extend(found);
            });
        }
    });
    let faults = faults.into_inner().expect("faults");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
