//! Changing parts of a specification (docs: "Changing a running cluster").
//!
//! A patch is a JSON object that is laid over the stored one: a value replaces, `null` removes, objects are
//! merged, lists are replaced as a whole. Three directives of Kubernetes' strategic merge patch are known:
//! `"$patch": "replace"`, `"$patch": "delete"` and `"$retainKeys": […]`. Keys are folded to their canonical
//! spelling first, so that `primaryConnInfo` changes `primaryConninfo`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::explained::{Advise, Explained};
use crate::json::{Decode, DecodeError, DecodeErrorKind, Document, Node, NodeKind, Position, Shape};
use crate::spec::ClusterSpec;
use crate::unknown::{UnknownField, unknown_in};

/// A patch that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    text: String,
    position: Position,
    /// `None` for `null`, which changes nothing.
    changes: Option<Entries>,
}

/// Why a patch cannot be read or applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchError {
    /// At which step.
    pub step: PatchStep,
    /// Where in the patch, and what is wrong there.
    pub cause: DecodeError,
    text: String,
}

/// The steps of [`Patch::parse`] and [`Patch::apply`] that can fail. The texts are Stolon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchStep {
    /// The patch is no JSON object.
    #[error("failed to patch cluster spec: failed to merge patch cluster spec: invalid JSON document")]
    Parse,
    /// A directive is wrong.
    #[error("failed to patch cluster spec: failed to merge patch cluster spec")]
    Merge,
    /// A field was given a value of the wrong type.
    #[error("failed to patch cluster spec: failed to unmarshal patched cluster spec")]
    Decode,
}

impl std::fmt::Display for PatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)
    }
}

impl std::error::Error for PatchError {}

impl Advise for PatchError {
    fn hint(&self) -> Option<Cow<'static, str>> {
        self.cause.hint(&self.text).map(Cow::Owned)
    }

    /// With the line of the patch and a caret under the place.
    fn explained(&self) -> Explained {
        self.cause.explain(&self.text).after(self.step)
    }
}

impl Patch {
    /// Read a patch.
    ///
    /// # Errors
    /// It is no JSON object.
    pub fn parse(text: &str) -> Result<Patch, PatchError> {
        let failed = |cause| PatchError { step: PatchStep::Parse, cause, text: text.to_owned() };
        let node = Node::parse(text).map_err(failed)?;
        let changes = match node.kind {
            NodeKind::Null => None,
            NodeKind::Object(entries) => Some(entries),
            _ => return Err(failed(node.error(DecodeErrorKind::PatchIsNoObject(node.describe())))),
        };
        Ok(Patch { text: text.to_owned(), position: node.position, changes })
    }

    /// Lay the patch over `spec`. The result is not validated; [`ClusterSpec::check_update`] does that.
    ///
    /// # Errors
    /// A directive is wrong, or a field is given a value of the wrong type.
    pub fn apply(&self, spec: &ClusterSpec) -> Result<ClusterSpec, PatchError> {
        let failed = |step| move |cause| PatchError { step, cause, text: self.text.clone() };
        let Some(changes) = &self.changes else { return Ok(spec.clone()) };
        let stored = match Node::parse(&spec.to_json()).map(|node| node.kind) {
            Ok(NodeKind::Object(entries)) => entries,
            // Our own encoding is always an object.
            _ => Vec::new(),
        };
        let merged = merged(stored, changes, ClusterSpec::SHAPE).map_err(failed(PatchStep::Merge))?;
        let mut patched = ClusterSpec::default();
        let merged = Node { kind: NodeKind::Object(merged), position: self.position };
        patched.decode_into(&merged).map_err(failed(PatchStep::Decode))?;
        Ok(patched)
    }

    /// The keys that nobody reads, in the order of the text.
    pub fn unknown_fields(&self) -> Vec<UnknownField> {
        unknown_in(self.changes.as_deref().unwrap_or_default())
    }

    /// The PostgreSQL parameters that the patch sets or removes.
    pub fn parameters(&self) -> BTreeSet<String> {
        let is_parameters =
            |key: &str| ClusterSpec::SHAPE.field(key).is_some_and(|(name, _)| name == "pgParameters");
        let mut parameters = BTreeSet::new();
        for (_, value) in self.changes.iter().flatten().filter(|(key, _)| is_parameters(key)) {
            if let NodeKind::Object(entries) = &value.kind {
                parameters.extend(entries.iter().map(|(name, _)| name.clone()));
            }
        }
        parameters
    }
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
        _ => Err(node.error(DecodeErrorKind::PatchDirective).inside(PATCH)),
    }
}

/// `$retainKeys`: drop every stored key that is not listed. The patch itself may only name listed keys.
fn retain(
    stored: &mut Entries,
    list: &Node,
    patch: &[(String, Node)],
    shape: Shape,
) -> Result<(), DecodeError> {
    let wrong = |node: &Node| node.error(DecodeErrorKind::RetainKeys).inside(RETAIN_KEYS);
    let NodeKind::Array(items) = &list.kind else { return Err(wrong(list)) };
    let mut kept = Vec::new();
    for item in items {
        let NodeKind::String { value, .. } = &item.kind else { return Err(wrong(item)) };
        kept.push(canonical(value, shape).0);
    }
    for (key, value) in patch.iter().filter(|(key, value)| !is_directive(key) && !value.is_null()) {
        if !kept.contains(&canonical(key, shape).0) {
            return Err(value.error(DecodeErrorKind::KeyNotRetained(key.clone())));
        }
    }
    stored.retain(|(key, _)| kept.contains(key));
    Ok(())
}
