//! Decoding by Go's rules: into a value that is already there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{DecodeError, DecodeErrorKind, Wanted};
use super::node::{Node, NodeKind};

/// What a type takes, for those who must know its keys without having a value: patches, warnings, hints.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// A string.
    Text,
    /// A string that is one of these words.
    Word(&'static [&'static str]),
    /// A span of time such as `"5s"`.
    Duration,
    /// A point in time.
    Timestamp,
    /// A list.
    List(&'static Shape),
    /// An object whose keys are data.
    Map(&'static Shape),
    /// An object with these fields, in the order in which they are written.
    Document(&'static [Field]),
}

/// A field of a document.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// What it takes.
    pub shape: Shape,
    /// The documentation, as in the source.
    pub doc: &'static str,
}

impl Shape {
    /// The field of a document that `key` means, and what it takes. Keys are matched as when decoding.
    pub fn field(&self, key: &str) -> Option<(&'static str, Shape)> {
        let Shape::Document(fields) = self else { return None };
        let exact = fields.iter().find(|field| field.name == key);
        let found = exact.or_else(|| fields.iter().find(|field| folded_eq(field.name, key)))?;
        Some((found.name, found.shape))
    }
}

/// A value that can be read from JSON by Go's rules.
pub trait Decode: Default {
    /// What it takes.
    const SHAPE: Shape;

    /// The type is a plain string in Go, so that as an optional field an empty string means "unset", and `null`
    /// leaves what was there.
    const EMPTY_STRING_IS_UNSET: bool = false;

    /// Read `node` over `self`; what the node does not mention stays as it is.
    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError>;
}

/// Equal without regard to ASCII case and to the two characters that Unicode folds onto ASCII letters.
fn folded_eq(name: &str, key: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(key.chars().map(fold))
}

impl Decode for bool {
    const SHAPE: Shape = Shape::Bool;

    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
        match &node.kind {
            NodeKind::Null => Ok(()),
            NodeKind::Bool(value) => {
                *self = *value;
                Ok(())
            }
            _ => Err(node.is_no(Wanted::Bool)),
        }
    }
}

impl Decode for String {
    const SHAPE: Shape = Shape::Text;

    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
        match &node.kind {
            NodeKind::Null => Ok(()),
            NodeKind::String { value, .. } => {
                self.clone_from(value);
                Ok(())
            }
            _ => Err(node.is_no(Wanted::Text)),
        }
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Decode for $type {
            const SHAPE: Shape = Shape::Integer;

            fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
                match &node.kind {
                    NodeKind::Null => Ok(()),
                    NodeKind::Number(digits) => {
                        *self = digits.parse().map_err(|_| {
                            node.error(DecodeErrorKind::OutOfRange {
                                digits: digits.clone(),
                                least: <$type>::MIN.into(),
                                greatest: <$type>::MAX.into(),
                            })
                        })?;
                        Ok(())
                    }
                    _ => Err(node.is_no(Wanted::Integer)),
                }
            }
        }
    )*};
}

integers!(u16, u32, u64, i64);

impl<T: Decode> Decode for Option<T> {
    const SHAPE: Shape = T::SHAPE;

    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
        if T::EMPTY_STRING_IS_UNSET {
            match &node.kind {
                NodeKind::Null => return Ok(()),
                NodeKind::String { value, .. } if value.is_empty() => {
                    *self = None;
                    return Ok(());
                }
                _ => {}
            }
        }
        decode_pointer(self, node)
    }
}

/// Read an optional value whose type is a pointer in Go, also a pointer to a string: only `null` unsets it.
pub(crate) fn decode_pointer<T: Decode>(value: &mut Option<T>, node: &Node) -> Result<(), DecodeError> {
    if node.is_null() {
        *value = None;
        return Ok(());
    }
    value.get_or_insert_default().decode_into(node)
}

/// What many documents hold alike can be shared in memory.
impl<T: Decode + Clone> Decode for Arc<T> {
    const SHAPE: Shape = T::SHAPE;
    const EMPTY_STRING_IS_UNSET: bool = T::EMPTY_STRING_IS_UNSET;

    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
        Arc::make_mut(self).decode_into(node)
    }
}

impl<T: Decode> Decode for Vec<T> {
    const SHAPE: Shape = Shape::List(&T::SHAPE);

    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
        let items = match &node.kind {
            NodeKind::Array(items) => items.as_slice(),
            NodeKind::Null => &[],
            _ => return Err(node.is_no(Wanted::List)),
        };
        self.clear();
        for (index, item) in items.iter().enumerate() {
            let mut value = T::default();
            value.decode_into(item).map_err(|error| error.inside(&format!("[{index}]")))?;
            self.push(value);
        }
        Ok(())
    }
}

impl<K: From<String> + Ord, V: Decode> Decode for BTreeMap<K, V> {
    const SHAPE: Shape = Shape::Map(&V::SHAPE);

    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
        let entries = match &node.kind {
            NodeKind::Object(entries) => entries,
            NodeKind::Null => {
                self.clear();
                return Ok(());
            }
            _ => return Err(node.is_no(Wanted::Object)),
        };
        for (key, item) in entries {
            if item.is_null() && matches!(V::SHAPE, Shape::Document(_)) {
                // A pointer to nothing: Go programs crash on it, and nobody writes it.
                self.remove(&K::from(key.clone()));
                continue;
            }
            let mut value = V::default();
            value.decode_into(item).map_err(|error| error.inside(key))?;
            self.insert(K::from(key.clone()), value);
        }
        Ok(())
    }
}
