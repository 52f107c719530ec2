//! Rules of this repository that are easier to test than to remember.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which crates of this workspace each one may use in its product code. What is not named here is forbidden.
const ALLOWED: &[(&str, &[&str])] = &[
    ("stolon-model", &[]),
    ("stolon-tls", &[]),
    ("stolon-core", &["stolon-model"]),
    ("stolon-sim", &["stolon-core", "stolon-model"]),
    ("stolon-fake", &["stolon-core", "stolon-model"]),
    ("stolon-store", &["stolon-model", "stolon-tls"]),
    ("stolon-check", &["stolon-core", "stolon-model"]),
    ("stolon-postgres", &["stolon-core", "stolon-model", "stolon-tls"]),
    ("stolon-runtime", &["stolon-model", "stolon-store", "stolon-tls"]),
    ("stolon-keeper", &["stolon-core", "stolon-model", "stolon-postgres", "stolon-runtime", "stolon-store"]),
    ("stolon-sentinel", &["stolon-core", "stolon-model", "stolon-runtime", "stolon-store"]),
    ("stolon-proxy", &["stolon-core", "stolon-model", "stolon-runtime", "stolon-store"]),
    ("stolon-local", &["stolon-model"]),
    (
        "stolonctl",
        &["stolon-core", "stolon-local", "stolon-model", "stolon-postgres", "stolon-runtime", "stolon-store"],
    ),
];

/// Licences that may be linked into an Apache-2.0 product.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "ISC",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "MIT-0",
    "Apache-2.0 WITH LLVM-exception",
];

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn packages(metadata: &serde_json::Value) -> Vec<&serde_json::Value> {
    metadata["packages"].as_array().expect("packages").iter().collect()
}

#[test]
fn arrows_between_crates_never_point_back() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut seen = 0;
    for package in packages(&metadata) {
        let name = package["name"].as_str().expect("name");
        let Some(allowed) = allowed.get(name) else { continue };
        seen += 1;
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("name");
            if dependency["kind"].is_null() && used.starts_with("stolon") {
                assert!(
                    allowed.contains(&used),
                    "{name} must not use {used}: see ARCHITECTURE.md, \"The crates\""
                );
            }
        }
    }
    assert_eq!(seen, ALLOWED.len(), "a crate named in this test is gone");
}

#[test]
fn only_licences_that_fit_and_one_tls_provider() {
    let metadata = metadata();
    for package in packages(&metadata) {
        let name = package["name"].as_str().expect("name");
        assert!(
            !["openssl", "openssl-sys", "native-tls"].contains(&name),
            "{name}: the one TLS provider is rustls"
        );
        let licence = package["license"].as_str().unwrap_or("");
        let fits = licence.replace('/', " OR ").split(" OR ").any(|choice| {
            choice
                .trim_matches(['(', ')', ' '])
                .split(" AND ")
                .all(|part| LICENCES.contains(&part.trim_matches(['(', ')', ' '])))
        });
        assert!(fits, "{name} has the licence {licence:?}, which is not on the list of this test");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of the repository with one of these endings, with their texts; not what is built or fetched.
fn texts(endings: &[&str]) -> Vec<(String, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("names are UTF-8");
    let texts: Vec<(String, String)> = names
        .lines()
        .filter(|name| endings.iter().any(|ending| name.ends_with(ending)))
        .filter_map(|name| Some((name.to_owned(), std::fs::read_to_string(root().join(name)).ok()?)))
        .collect();
    assert!(texts.len() > 3, "there is something to read: {endings:?}");
    texts
}

/// A pointer (the word docs, a colon and a quoted text, in parentheses) names a heading of a page in docs/, or of README.md or
/// ARCHITECTURE.md.
#[test]
fn pointers_into_the_documentation_resolve() {
    let headings: BTreeSet<String> = texts(&[".md"])
        .iter()
        .filter(|(name, _)| name.starts_with("docs/") || !name.contains('/'))
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim().replace('`', "")))
        .collect();
    // Put together, so that this file does not hold what it looks for.
    let marker = ["(docs", ": \""].concat();
    let mut seen = 0;
    for (name, text) in texts(&[".rs"]) {
        for pointer in text.split(&marker).skip(1) {
            let heading = pointer.split('"').next().unwrap_or_default();
            assert!(headings.contains(heading), "{name} points at {heading:?}, which is no heading of docs/");
            seen += 1;
        }
    }
    assert!(seen > 5, "the pointers are written in another way by now");
}

/// Every file that ARCHITECTURE.md names in backticks or links to. A bare name is in the folder of the name before it.
#[test]
fn files_that_the_architecture_names_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("it is there");
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut folder = root();
    let mut seen = 0;
    for name in quoted.chain(linked.filter(|link| !link.contains("://"))) {
        let is_file = name.ends_with(".rs") || name.ends_with(".md") || name.ends_with('/');
        if !is_file || name.contains([' ', '*', '<', '{']) {
            continue;
        }
        let places = [root().join(name), root().join("crates").join(name), folder.join(name)];
        let found = places.iter().find(|place| place.exists());
        let found = found.unwrap_or_else(|| panic!("ARCHITECTURE.md names {name}, which does not exist"));
        folder = found.parent().map(Path::to_path_buf).unwrap_or_default();
        seen += 1;
    }
    assert!(seen > 10, "the names are written in another way by now");
}

/// A test is named in docs/parity.md as a file (below `crates/`, or of xtask), two colons and a function, in backticks. Every row of a
/// table says in its last cell which tests show it, or that none does.
#[test]
fn tests_that_the_page_of_parity_names_exist() {
    let page = std::fs::read_to_string(root().join("docs/parity.md")).expect("it is there");
    let mut sources: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut seen = 0;
    for (number, line) in page.lines().enumerate().filter(|(_, line)| line.starts_with("| ")) {
        let shown_by = line.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let named: Vec<(&str, &str)> =
            shown_by.split('`').filter_map(|quoted| quoted.split_once(".rs::")).collect();
        let gaps = ["no test", "not built", "does not apply", "Shown by"];
        assert!(
            !named.is_empty() || gaps.iter().any(|gap| shown_by.starts_with(gap)),
            "docs/parity.md:{}: the last cell names no test and does not say so",
            number + 1
        );
        for (file, function) in named {
            let tests = sources.entry(file).or_insert_with(|| tests_of(file));
            assert!(
                tests.contains(function),
                "docs/parity.md:{}: {file}.rs has no test {function}",
                number + 1
            );
            seen += 1;
        }
    }
    assert!(seen > 100, "the tests are named in another way by now");
}

/// The tests of a source file: functions with the attribute, and the names given to the macros that make them.
fn tests_of(file: &str) -> BTreeSet<String> {
    let folder = if file.starts_with("xtask/") { root() } else { root().join("crates") };
    let text = std::fs::read_to_string(folder.join(format!("{file}.rs"))).unwrap_or_default();
    let name = |rest: &str| -> String {
        rest.chars().take_while(|it| it.is_ascii_alphanumeric() || *it == '_').collect()
    };
    let after_attribute = text.split("#[test]").skip(1);
    let asynchronous = text.split("#[tokio::test").skip(1);
    let functions = after_attribute.chain(asynchronous).filter_map(|rest| rest.split_once("fn "));
    let functions = functions.map(|(_, rest)| name(rest));
    let instances = text.split("instance_test!(").skip(1).map(name);
    let lists = ["\nmajors! {", "\nteeth! {"].into_iter().filter_map(|list| text.split_once(list));
    let listed =
        lists.filter_map(|(_, rest)| rest.split_once("\n}")).flat_map(|(list, _)| list.split([',', ';']));
    let listed = listed.filter_map(|entry| Some(entry.split_once(':')?.0.trim().to_owned()));
    functions.chain(instances).chain(listed).collect()
}

/// A reader cannot look up what a capital letter with a number stands for, unless a table of the repository has a row for it.
#[test]
fn comments_use_no_codes_that_nobody_explains() {
    let files = texts(&[".rs", ".md"]);
    let rows = files.iter().flat_map(|(_, text)| text.lines()).filter_map(|line| {
        let row = line.trim_start().trim_start_matches("//!").trim_start().strip_prefix('|')?;
        row.split('|').next()
    });
    let explained: BTreeSet<&str> = rows.flat_map(codes).collect();
    for (name, text) in files.iter().filter(|(name, _)| name != "CHANGELOG.md") {
        for (number, line) in text.lines().enumerate() {
            let prose = match name.ends_with(".md") {
                true => Some(line),
                false => line.split_once("//").map(|(_, comment)| comment),
            };
            for code in prose.into_iter().flat_map(codes) {
                assert!(
                    explained.contains(code),
                    "{name}:{}: {code:?} is explained nowhere: say it in words, or point into docs/",
                    number + 1
                );
            }
        }
    }
}

/// The words of a text that look like codes: a capital letter and up to two digits, with or without a hyphen.
fn codes(text: &str) -> Vec<&str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && !"-_./:".contains(character))
        .map(|word| word.trim_matches(['-', '_', '.', '/', ':']))
        .filter(|word| {
            let Some(rest) = word.strip_prefix(|first: char| first.is_ascii_uppercase()) else {
                return false;
            };
            let digits = rest.strip_prefix('-').unwrap_or(rest);
            matches!(digits.len(), 1 | 2) && digits.bytes().all(|digit| digit.is_ascii_digit())
        })
        .collect()
}

/// A docstring of a question word or of a bare verb says nothing that the name does not.
#[test]
fn docstrings_say_something() {
    let empty = [
        "Who",
        "What",
        "Which",
        "Why",
        "Where",
        "When",
        "It is",
        "It is not",
        "It does",
        "It does not",
        "They are",
    ];
    for (name, text) in texts(&[".rs"]) {
        for (number, line) in text.lines().enumerate() {
            let Some(words) = line.trim_start().strip_prefix("/// ") else { continue };
            let words = words.trim_end_matches('.');
            assert!(!empty.contains(&words), "{name}:{}: {words:?} documents nothing", number + 1);
        }
    }
}

/// Conditions begin with `if`: a clause that begins with its verb instead is read twice by most readers.
#[test]
fn conditions_begin_with_if() {
    for (name, text) in texts(&[".rs", ".md", ".sh"]) {
        for (number, line) in text.lines().enumerate() {
            let found = inverted_conditional(line);
            assert_eq!(found, None, "{name}:{}: write `if` and the subject before the verb", number + 1);
        }
    }
}

/// The verb and the subject of a clause that begins with its verb, as conditions without `if` do.
fn inverted_conditional(line: &str) -> Option<(&str, &str)> {
    const SUBJECTS: &[&str] = &[
        "a", "an", "another", "anybody", "both", "each", "he", "it", "its", "nobody", "one", "she",
        "somebody", "that", "the", "there", "they", "this", "we", "you",
    ];
    const VERBS: &[&str] = &["were", "had", "should"];
    let words: Vec<&str> = line.split_whitespace().collect();
    (0..words.len().saturating_sub(1)).find_map(|at| {
        let (verb, subject) = (words[at].trim_start_matches(['(', '"']), words[at + 1]);
        // A small letter may go on with a sentence of the line before.
        let begins_sentence = VERBS.contains(&verb.to_ascii_lowercase().as_str()) && !VERBS.contains(&verb);
        let follows = at > 0 && words[at - 1].ends_with(['.', ',', ':', ';', '(', '"']);
        let begins_clause = VERBS.contains(&verb) && (follows || verb != words[at]);
        ((begins_sentence || begins_clause) && SUBJECTS.contains(&subject)).then_some((verb, subject))
    })
}

#[test]
fn inverted_conditionals_are_recognised() {
    let inverted =
        ["/// x: were", "it not so", "// Had", "the store answered", "would wait, should", "one fail"];
    for pair in inverted.chunks(2) {
        assert!(inverted_conditional(&pair.join(" ")).is_some(), "{pair:?}");
    }
    for fine in
        ["// They had the time", "what they were, it was", "nobody should it", "as if there were a gap"]
    {
        assert_eq!(inverted_conditional(fine), None, "{fine:?}");
    }
}

/// A hint is a field of its own until a person reads it (`stolon_model::Advise`).
#[test]
fn no_sentence_carries_its_hint() {
    let allowed = ["crates/stolon-model/src/explained.rs", "crates/stolon-runtime/src/shutdown.rs"];
    for (name, text) in texts(&[".rs"]) {
        if !name.contains("/src/") || allowed.contains(&name.as_str()) {
            continue;
        }
        let product = text.split("\n#[cfg(test)]").next().unwrap_or_default();
        // Lines that are continued are one.
        let joined: String = product.split("\\\n").map(str::trim_start).collect();
        for marker in ["\\nhint: ", "; hint: "] {
            assert!(!joined.contains(marker), "{name} has {marker:?} within a sentence");
        }
    }
}

#[test]
fn codes_are_recognised() {
    let text = "see D-22, A3 and (E7): not UTF-8, SHA-256, 0/3000148, v1, X509 or PostgreSQL 15";
    assert_eq!(codes(text), ["D-22", "A3", "E7"]);
}
