//! Keys that nobody reads. Stolon ignores them in silence; a person who mistyped one wants to know.

use crate::json::{Decode, DecodeError, Node, NodeKind, Shape};
use crate::nearest::nearest;
use crate::spec::ClusterSpec;

/// A key of a specification that has no meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// Where it stands: the keys from the outermost object inwards, joined with dots.
    pub path: String,
    /// The field that was probably meant, with the same outer path.
    pub nearest: Option<String>,
}

impl std::fmt::Display for UnknownField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not a field of a cluster specification and is ignored", self.path)?;
        match &self.nearest {
            Some(name) => write!(f, ": did you mean {name}?"),
            None => Ok(()),
        }
    }
}

/// Every key of a specification that has no meaning, in the order of the text.
///
/// # Errors
/// The text is no JSON.
pub fn unknown_fields(text: &str) -> Result<Vec<UnknownField>, DecodeError> {
    Ok(match Node::parse(text)?.kind {
        NodeKind::Object(entries) => unknown_in(&entries),
        _ => Vec::new(),
    })
}

/// The same of what stands in the outermost object.
pub(crate) fn unknown_in(entries: &[(String, Node)]) -> Vec<UnknownField> {
    let mut found = Vec::new();
    collect(entries, ClusterSpec::SHAPE, "", &mut found);
    found
}

fn collect(entries: &[(String, Node)], shape: Shape, path: &str, found: &mut Vec<UnknownField>) {
    let Shape::Document(fields) = shape else { return };
    for (key, value) in entries.iter().filter(|(key, _)| !key.starts_with('$')) {
        match shape.field(key) {
            Some((name, inner)) => {
                if let NodeKind::Object(entries) = &value.kind {
                    collect(entries, inner, &joined(path, name), found);
                }
            }
            None => found.push(UnknownField {
                path: joined(path, key),
                nearest: nearest(key, fields.iter().map(|field| field.name)).map(|name| joined(path, name)),
            }),
        }
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
