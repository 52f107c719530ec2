//! The metrics of a program, read as Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};

/// What `docs/observability.md` says of metrics.
const PAGE: &str = include_str!("../../../docs/observability.md");

/// Samples by name and labels, these in order: `name{a="value",b="value"}`.
#[derive(Debug, Default)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads the text format 0.0.4, whole answers of HTTP too.
    ///
    /// # Errors
    /// A line that Prometheus would not take, a family without help or type or with a name that its conventions forbid, a histogram whose
    /// buckets do not add up, a family that the documentation does not name.
    pub fn parse(answer: &str) -> anyhow::Result<Self> {
        let text = answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body);
        let (mut types, mut helped) = (BTreeMap::new(), BTreeSet::new());
        let mut metrics = Metrics::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').context("a help without text")?;
                ensure!(!help.is_empty() && helped.insert(name), "{name} has no help, or two: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("a type without a name")?;
                ensure!(types.insert(name, kind).is_none(), "{name} has two types");
                check_name(name, kind)?;
            } else if !line.is_empty() {
                metrics.sample(line, &types)?;
            }
        }
        ensure!(types.keys().all(|name| helped.contains(name)), "not every metric has its help: {helped:?}");
        metrics.check_histograms(&types)?;
        Ok(metrics)
    }

    /// The value of a sample.
    pub fn value(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }

    fn sample(&mut self, line: &str, types: &BTreeMap<&str, &str>) -> anyhow::Result<()> {
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
        let value: f64 = value.parse().with_context(|| format!("no number: {line}"))?;
        let bare = name.split('{').next().unwrap_or(name);
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|ending| {
            bare.strip_suffix(ending).filter(|family| types.get(family) == Some(&"histogram"))
        });
        ensure!(types.contains_key(family.unwrap_or(bare)), "{bare} has no type");
        let labels = labels(name.strip_prefix(bare).unwrap_or_default());
        let name = written(bare, &labels.with_context(|| format!("bad labels: {line}"))?);
        ensure!(self.samples.insert(name.clone(), value).is_none(), "{name} stands there twice");
        Ok(())
    }

    /// Everything is below infinity.
    fn check_histograms(&self, types: &BTreeMap<&str, &str>) -> anyhow::Result<()> {
        for family in types.iter().filter(|(_, kind)| **kind == "histogram").map(|(name, _)| name) {
            let counts = format!("{family}_count");
            for (name, count) in self.samples.iter().filter(|(name, _)| name.starts_with(&counts)) {
                let mut labels = labels(name.trim_start_matches(&counts))?;
                labels.insert("le", "+Inf");
                let infinite = written(&format!("{family}_bucket"), &labels);
                ensure!(self.value(&infinite) == Some(*count), "{infinite} is not {count}");
            }
        }
        Ok(())
    }
}

fn written(name: &str, labels: &BTreeMap<&str, &str>) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// (Prometheus, "Metric and label naming".) What Stolon named otherwise keeps its name.
fn check_name(name: &str, kind: &str) -> anyhow::Result<()> {
    let is_named =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_';
    ensure!(name.chars().all(is_named), "{name} has other characters than a-z, 0-9 and _");
    ensure!((kind == "counter") == name.ends_with("_total"), "{name} is a {kind}");
    ensure!(["counter", "gauge", "histogram"].contains(&kind), "{name} is a {kind}");
    let documented = PAGE.contains(&format!("`{name}`")) || name.starts_with("process_");
    ensure!(documented, "docs/observability.md does not name {name}");
    Ok(())
}

/// None of our labels has a quotation mark in its value.
fn labels(text: &str) -> anyhow::Result<BTreeMap<&str, &str>> {
    let mut labels = BTreeMap::new();
    if text.is_empty() {
        return Ok(labels);
    }
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix("\"}")).context("no braces")?;
    for label in inner.split("\",") {
        let Some((name, value)) = label.split_once("=\"") else { bail!("no label: {label}") };
        ensure!(!name.is_empty() && !value.contains('"'), "no label: {label}");
        ensure!(labels.insert(name, value).is_none(), "{name} stands there twice");
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDS: &str = "# HELP stolon_sentinel_holds Something.\n# TYPE stolon_sentinel_holds gauge\n";

    #[test]
    fn what_prometheus_takes_is_taken() {
        let metrics =
            Metrics::parse(&format!("HTTP/1.1 200 OK\r\n\r\n{HOLDS}stolon_sentinel_holds{{a=\"b\"}} 3\n"))
                .unwrap();
        assert_eq!(metrics.value("stolon_sentinel_holds{a=\"b\"}"), Some(3.0));
        assert_eq!(metrics.value("stolon_sentinel_holds"), None);
    }

    #[test]
    fn what_prometheus_refuses_is_refused() {
        for (text, because) in [
            ("stolon_sentinel_holds 3\n".to_owned(), "has no type"),
            (format!("{HOLDS}stolon_sentinel_holds three\n"), "no number"),
            (format!("{HOLDS}stolon_sentinel_holds{{a=b}} 3\n"), "bad labels"),
            (format!("{HOLDS}stolon_sentinel_holds 3\nstolon_sentinel_holds 3\n"), "twice"),
            (HOLDS.replace("gauge", "counter"), "is a counter"),
            (HOLDS.replace("holds", "unheard_of"), "does not name"),
            (HOLDS.replace("# HELP stolon_sentinel_holds Something.\n", ""), "its help"),
        ] {
            let error = format!("{:#}", Metrics::parse(&text).unwrap_err());
            assert!(error.contains(because), "{text}: {error}");
        }
    }
}
