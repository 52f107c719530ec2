//! Changing parts of a specification (docs: "Changing a running cluster").
//!
//! A patch is a JSON object that is laid over the stored one: a value replaces, `null` removes, objects are
//! merged, lists are replaced as a whole. Three directives of Kubernetes' strategic merge patch are known:
//! `"$patch": "replace"`, `"$patch": "delete"` and `"$retainKeys": […]`. Keys are folded to their canonical
//! spelling first, so that `primaryConnInfo` changes `primaryConninfo`.

use crate::json::{Decode, DecodeError, Document, Node, NodeKind, Shape};
use crate::spec::ClusterSpec;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is no JSON object.
    #[error("failed to patch cluster spec: failed to merge patch cluster spec: invalid JSON document: {0}")]
    NotAnObject(DecodeError),
    /// A directive is wrong.
    #[error("failed to patch cluster spec: failed to merge patch cluster spec: {0}")]
    Directive(DecodeError),
    /// A field was given a value of the wrong type.
    #[error("failed to patch cluster spec: failed to unmarshal patched cluster spec: {0}")]
    WrongType(DecodeError),
}

impl PatchError {
    /// Where in the patch, and what is wrong there.
    pub fn decode_error(&self) -> &DecodeError {
        match self {
            Self::NotAnObject(error) | Self::Directive(error) | Self::WrongType(error) => error,
        }
    }
}

/// Lay `patch` over `spec`. The result is not validated; [`ClusterSpec::check_update`] does that.
///
/// # Errors
/// The patch is no JSON object, or gives a field a value of the wrong type.
pub fn merge_patch(spec: &ClusterSpec, patch: &str) -> Result<ClusterSpec, PatchError> {
    let patch = Node::parse(patch).map_err(PatchError::NotAnObject)?;
    let changes = match &patch.kind {
        NodeKind::Null => return Ok(spec.clone()),
        NodeKind::Object(entries) => entries,
        _ => {
            let message = format!("a patch is an object, this is {}", patch.describe());
            return Err(PatchError::NotAnObject(patch.error(message)));
        }
    };
    let stored = match Node::parse(&spec.to_json()).map(|node| node.kind) {
        Ok(NodeKind::Object(entries)) => entries,
        // Our own encoding is always an object.
        _ => Vec::new(),
    };
    let merged = merged(stored, changes, ClusterSpec::SHAPE).map_err(PatchError::Directive)?;
    let mut patched = ClusterSpec::default();
    let merged = Node { kind: NodeKind::Object(merged), position: patch.position };
    patched.decode_into(&merged).map_err(PatchError::WrongType)?;
    Ok(patched)
}

type Entries = Vec<(String, Node)>;

/// Lay `patch` over `stored`, whose keys are canonical. Later entries of a patch win over earlier ones.
fn merged(mut stored: Entries, patch: &[(String, Node)], shape: Shape) -> Result<Entries, DecodeError> {
    match directive(patch)? {
        Directive::Merge => {}
        Directive::Replace => stored.clear(),
        Directive::Delete => return Ok(Vec::new()),
    }
    if let Some((_, list)) = patch.iter().find(|(key, _)| key == RETAIN_KEYS) {
        retain(&mut stored, list, patch, shape)?;
    }
    for (key, value) in patch.iter().filter(|(key, _)| !is_directive(key)) {
        let (key, inner) = canonical(key, shape);
        let found = stored.iter().position(|(stored_key, _)| *stored_key == key);
        match &value.kind {
            NodeKind::Null => stored.retain(|(stored_key, _)| *stored_key != key),
            NodeKind::Object(changes) => {
                let under = match found.and_then(|at| stored.get_mut(at)) {
                    Some((_, Node { kind: NodeKind::Object(entries), .. })) => std::mem::take(entries),
                    _ => Vec::new(),
                };
                let merged = merged(under, changes, inner).map_err(|error| error.inside(&key))?;
                put(
                    &mut stored,
                    found,
                    key,
                    Node { kind: NodeKind::Object(merged), position: value.position },
                );
            }
            _ => put(&mut stored, found, key, value.clone()),
        }
    }
    Ok(stored)
}

fn put(entries: &mut Entries, found: Option<usize>, key: String, value: Node) {
    match found.and_then(|at| entries.get_mut(at)) {
        Some(entry) => entry.1 = value,
        None => entries.push((key, value)),
    }
}

/// The spelling under which a key is stored, and what its value takes. Keys of maps and unknown keys stay as written.
fn canonical(key: &str, shape: Shape) -> (String, Shape) {
    match shape {
        Shape::Map(inner) => (key.to_owned(), *inner),
        shape => match shape.field(key) {
            Some((name, inner)) => (name.to_owned(), inner),
            None => (key.to_owned(), Shape::Document(&[])),
        },
    }
}

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &[(String, Node)]) -> Result<Directive, DecodeError> {
    let Some((_, node)) = patch.iter().find(|(key, _)| key == PATCH) else { return Ok(Directive::Merge) };
    match &node.kind {
        NodeKind::String { value, .. } if value == "merge" => Ok(Directive::Merge),
        NodeKind::String { value, .. } if value == "replace" => Ok(Directive::Replace),
        NodeKind::String { value, .. } if value == "delete" => Ok(Directive::Delete),
        _ => Err(node.error("$patch must be \"replace\" or \"delete\"").inside(PATCH)),
    }
}

/// `$retainKeys`: drop every stored key that is not listed. The patch itself may only name listed keys.
fn retain(
    stored: &mut Entries,
    list: &Node,
    patch: &[(String, Node)],
    shape: Shape,
) -> Result<(), DecodeError> {
    let wrong = |node: &Node| node.error("$retainKeys must be a list of keys").inside(RETAIN_KEYS);
    let NodeKind::Array(items) = &list.kind else { return Err(wrong(list)) };
    let mut kept = Vec::new();
    for item in items {
        let NodeKind::String { value, .. } = &item.kind else { return Err(wrong(item)) };
        kept.push(canonical(value, shape).0);
    }
    for (key, value) in patch.iter().filter(|(key, value)| !is_directive(key) && !value.is_null()) {
        if !kept.contains(&canonical(key, shape).0) {
            return Err(value.error(format!("$retainKeys does not list {key:?}, which the patch sets")));
        }
    }
    stored.retain(|(key, _)| kept.contains(key));
    Ok(())
}
