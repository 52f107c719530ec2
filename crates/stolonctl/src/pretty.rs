//! JSON for people and scripts: one tab for each level, strings escaped as Go escapes them.

use serde::Serialize;

/// Indent by tabs. `<`, `>` and `&` only ever stand inside strings and are escaped there.
pub fn to_tabbed_json(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Serialising cannot fail: these structures have string keys, and memory takes every write.
    let _ = value.serialize(&mut serializer);
    String::from_utf8_lossy(&bytes)
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}
