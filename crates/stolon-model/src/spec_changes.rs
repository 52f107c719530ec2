//! What is different between two specifications, field by field.

use crate::{ClusterSpec, Document as _};
use serde_json::Value;

/// The field that is not shown.
const CONNINFO: &str = "primaryConninfo";

/// One line for each field that differs: `failInterval: "20s" -> "10s"`; `pgParameters` by parameter. What may hold a password is not
/// shown.
pub fn spec_changes(old: &ClusterSpec, new: &ClusterSpec) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", &fields_that_are_set(old), &fields_that_are_set(new), &mut lines);
    lines
}

/// What a specification says: empty lists, which say something, are there, fields without a value are not.
pub fn fields_that_are_set(spec: &ClusterSpec) -> Value {
    let mut value: Value = serde_json::from_str(&spec.to_json()).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    value
}

fn compare(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (before, after) = (fields(old), fields(new));
    if before.is_empty() && after.is_empty() {
        if old != new && path.ends_with(CONNINFO) {
            lines.push(format!("{path}: (changed; it may hold a password)"));
        } else if old != new {
            lines.push(format!("{path}: {} -> {}", shown(old), shown(new)));
        }
        return;
    }
    let added = after.keys().filter(|name| !before.contains_key(*name));
    for name in before.keys().chain(added) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let side = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
        compare(&path, &side(&before), &side(&after), lines);
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "(not set)".to_owned(),
        value => value.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn each_field_that_differs_has_a_line() {
        let spec = |text| ClusterSpec::from_json(text).unwrap();
        let old = spec(
            r#"{"initMode":"new","failInterval":"20s","pgHBA":["a"],"pgParameters":{"work_mem":"4MB","a":"1"}}"#,
        );
        let new = spec(
            r#"{"initMode":"new","failInterval":"10s","sleepInterval":"1s","pgHBA":[],"pgParameters":{"work_mem":"8MB"}}"#,
        );
        let mut found = spec_changes(&old, &new);
        found.sort();
        assert_eq!(
            found,
            [
                "failInterval: \"20s\" -> \"10s\"",
                "pgHBA: [\"a\"] -> []",
                "pgParameters.a: \"1\" -> (not set)",
                "pgParameters.work_mem: \"4MB\" -> \"8MB\"",
                "sleepInterval: (not set) -> \"1s\"",
            ]
        );
        assert_eq!(spec_changes(&new, &new), Vec::<String>::new());
        let standby = spec(
            r#"{"initMode":"new","standbyConfig":{"standbySettings":{"primaryConninfo":"password=secret"}}}"#,
        );
        let found = spec_changes(&spec(r#"{"initMode":"new"}"#), &standby);
        assert_eq!(
            found,
            ["standbyConfig.standbySettings.primaryConninfo: (changed; it may hold a password)"]
        );
    }
}
