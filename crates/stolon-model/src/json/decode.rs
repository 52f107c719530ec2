//! Decoding by Go's rules: into a value that is already there.

use std::collections::BTreeMap;

use super::node::{Node, NodeKind, Position};

/// Why a text cannot be read, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Where in the text.
    pub position: Position,
    /// Dotted path of the field; empty at the top.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// True when the text is no JSON at all; false when it is JSON of the wrong shape.
    pub is_syntax: bool,
}

impl DecodeError {
    /// The text is JSON, but not what the field takes.
    pub fn at(position: Position, message: impl Into<String>) -> Self {
        DecodeError { position, path: String::new(), message: message.into(), is_syntax: false }
    }

    /// The text is no JSON.
    pub fn syntax(position: Position, message: impl Into<String>) -> Self {
        DecodeError { position, path: String::new(), message: message.into(), is_syntax: true }
    }

    /// The same error, seen from the object that holds the field.
    pub fn inside(mut self, field: &str) -> Self {
        self.path = match self.path.as_str() {
            "" => field.to_owned(),
            path if path.starts_with('[') => format!("{field}{path}"),
            path => format!("{field}.{path}"),
        };
        self
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} (line {}, column {})", self.message, self.position.line, self.position.column)
    }
}

impl std::error::Error for DecodeError {}

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
            _ => Err(node.error(format!("expected true or false, found {}", node.describe()))),
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
            _ => Err(node.error(format!("expected a string, found {}", node.describe()))),
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
                            node.error(format!(
                                "{digits} is not a whole number from {} to {}",
                                <$type>::MIN,
                                <$type>::MAX
                            ))
                        })?;
                        Ok(())
                    }
                    _ => Err(node.error(format!("expected a whole number, found {}", node.describe()))),
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

impl<T: Decode> Decode for Vec<T> {
    const SHAPE: Shape = Shape::List(&T::SHAPE);

    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
        let items = match &node.kind {
            NodeKind::Array(items) => items.as_slice(),
            NodeKind::Null => &[],
            _ => return Err(node.error(format!("expected an array, found {}", node.describe()))),
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
            _ => return Err(node.error(format!("expected an object, found {}", node.describe()))),
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
