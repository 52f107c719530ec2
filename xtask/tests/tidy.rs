//! Rules of this repository that are easier to test than to remember.

use std::collections::BTreeMap;
use std::process::Command;

/// Which crates of this workspace each one may use in its product code. What is not named here is forbidden.
const ALLOWED: &[(&str, &[&str])] = &[
    ("stolon-model", &[]),
    ("stolon-core", &["stolon-model"]),
    ("stolon-store", &["stolon-model"]),
    ("stolon-postgres", &["stolon-core", "stolon-model"]),
    ("stolon-runtime", &["stolon-model", "stolon-store"]),
    ("stolon-keeper", &["stolon-core", "stolon-model", "stolon-postgres", "stolon-runtime", "stolon-store"]),
    ("stolon-sentinel", &["stolon-core", "stolon-model", "stolon-runtime", "stolon-store"]),
    ("stolon-proxy", &["stolon-core", "stolon-model", "stolon-runtime", "stolon-store"]),
    ("stolon-local", &["stolon-model"]),
    ("stolonctl", &["stolon-core", "stolon-local", "stolon-model", "stolon-runtime", "stolon-store"]),
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
