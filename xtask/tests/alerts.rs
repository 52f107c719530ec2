//! An alert that nobody can read up is worse than none, and one on a metric that does not exist never comes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn read(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rules() -> String {
    read("deploy/prometheus/alerts.yaml")
}

fn alerts() -> BTreeSet<String> {
    let rules = rules();
    let named = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    named.map(str::to_owned).collect()
}

/// Names of metrics of ours in a text; those of a histogram or counter by the name in the code.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("stolon_")).collect()
}

#[test]
fn every_alert_is_on_the_page_and_no_other() {
    let page = read("docs/operations.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `Stolon")?.split('`').next());
    let on_the_page: BTreeSet<String> = rows.map(|name| format!("Stolon{name}")).collect();
    assert_eq!(alerts(), on_the_page);
    assert!(alerts().len() > 10);
}

#[test]
fn every_metric_of_an_alert_exists() {
    let (rules, page) = (rules(), read("docs/observability.md"));
    let expressions: String =
        rules.lines().filter(|line| !line.contains("summary")).collect::<Vec<_>>().join("\n");
    let unknown: Vec<&str> = metrics(&expressions).difference(&metrics(&page)).copied().collect();
    assert_eq!(unknown, Vec::<&str>::new());
    assert!(metrics(&expressions).len() > 10);
}
