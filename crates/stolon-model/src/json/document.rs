//! The macros that turn a table of fields into a document type.

use super::decode::{Decode, Shape};
use super::encode::{Encode, Encoder};
use super::error::DecodeError;
use super::node::Node;

/// A document: an object that can be read and written as Go does.
pub trait Document: Decode + Encode {
    /// Read a whole text. Top-level `null` gives the default.
    ///
    /// # Errors
    /// The text is no JSON, or a field has the wrong type.
    fn from_json(text: &str) -> Result<Self, DecodeError> {
        let mut document = Self::default();
        document.decode_into(&Node::parse(text)?)?;
        Ok(document)
    }

    /// Read a whole text as it comes from outside. Bytes that are no UTF-8 become U+FFFD, as in Go.
    ///
    /// # Errors
    /// As [`Document::from_json`].
    fn from_json_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_json(&String::from_utf8_lossy(bytes))
    }

    /// The form of the store: compact.
    fn to_json(&self) -> String {
        let mut out = Encoder::compact();
        self.encode_to(&mut out);
        out.finish()
    }

    /// The form for people: one tab for each level, no newline at the end.
    fn to_json_indented(&self) -> String {
        let mut out = Encoder::indented();
        self.encode_to(&mut out);
        out.finish()
    }
}

/// `document! { pub struct Name { field: Type = "wireName", omit; … } }`
///
/// `omit` leaves a zero value out ("omit-empty"), `keep` writes it, `pointer` is `omit` for an optional word of which
/// an empty one is not the same as none (docs: "JSON rules").
macro_rules! document {
    (
        $(#[$doc:meta])*
        pub struct $name:ident {
            $($(#[doc = $field_doc:literal])* $field:ident: $type:ty = $wire:literal, $rule:ident;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $field_doc])* pub $field: $type,)*
        }

        impl $crate::json::Document for $name {}

        impl $crate::json::Decode for $name {
            const SHAPE: $crate::json::Shape = $crate::json::Shape::Document(&[$($crate::json::Field {
                name: $wire,
                shape: <$type as $crate::json::Decode>::SHAPE,
                doc: concat!($($field_doc),*),
            }),*]);

            #[allow(unused_variables, clippy::match_single_binding)]
            fn decode_into(&mut self, node: &$crate::json::Node) -> Result<(), $crate::json::DecodeError> {
                $crate::json::document_entries(node, Self::SHAPE, |field, value| {
                    match field {
                        $($wire => $crate::json::decode_field!(&mut self.$field, value, $rule),)*
                        _ => Ok(()),
                    }
                })
            }
        }

        impl $crate::json::Encode for $name {
            #[allow(unused_variables)]
            fn encode_to(&self, out: &mut $crate::json::Encoder) {
                out.object(|out| {
                    $($crate::json::encode_field!(out, $wire, &self.$field, $rule);)*
                });
            }
        }
    };
}

macro_rules! decode_field {
    ($field:expr, $value:expr, pointer) => {
        $crate::json::decode_pointer($field, $value)
    };
    ($field:expr, $value:expr, $rule:ident) => {
        $crate::json::Decode::decode_into($field, $value)
    };
}

macro_rules! encode_field {
    ($out:ident, $wire:literal, $value:expr, pointer) => {
        $out.pointer_field($wire, $value)
    };
    ($out:ident, $wire:literal, $value:expr, omit) => {
        $out.omittable_field($wire, $value)
    };
    ($out:ident, $wire:literal, $value:expr, keep) => {
        $out.kept_field($wire, $value)
    };
}

/// `text_enum! { pub enum Name { Variant => "wire text", … } }`: a closed set of words, plus
/// `Unknown` for a word that this version does not know, which survives a rewrite of the document.
macro_rules! text_enum {
    (
        $(#[$doc:meta])*
        pub enum $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident => $wire:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A word that this version does not know.
            Unknown(String),
        }

        impl $name {
            /// The word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $wire,)*
                    Self::Unknown(word) => word,
                }
            }

            /// True for a word that this version does not know.
            pub fn is_unknown(&self) -> bool {
                matches!(self, Self::Unknown(_))
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($wire => Self::$variant,)*
                    word => Self::Unknown(word.to_owned()),
                }
            }
        }

        impl Default for $name {
            /// No word at all; decoding never leaves this value behind.
            fn default() -> Self {
                Self::Unknown(String::new())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::json::Decode for $name {
            const SHAPE: $crate::json::Shape = $crate::json::Shape::Word(&[$($wire),*]);
            const EMPTY_STRING_IS_UNSET: bool = true;

            fn decode_into(&mut self, node: &$crate::json::Node) -> Result<(), $crate::json::DecodeError> {
                let mut word = self.as_str().to_owned();
                $crate::json::Decode::decode_into(&mut word, node)?;
                *self = Self::from(word.as_str());
                Ok(())
            }
        }

        impl $crate::json::Encode for $name {
            fn encode_to(&self, out: &mut $crate::json::Encoder) {
                out.string(self.as_str());
            }

            fn is_zero(&self) -> bool {
                self.as_str().is_empty()
            }

            fn is_empty_value(&self) -> bool {
                self.as_str().is_empty()
            }
        }
    };
}

pub(crate) use {decode_field, document, encode_field, text_enum};

/// Call `decode` for each entry of an object that belongs to one of `fields`, in the order of the text.
pub(crate) fn document_entries(
    node: &Node,
    shape: Shape,
    mut decode: impl FnMut(&'static str, &Node) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    use super::node::NodeKind;
    match &node.kind {
        NodeKind::Null => Ok(()),
        NodeKind::Object(entries) => entries.iter().try_for_each(|(key, value)| match shape.field(key) {
            Some((field, _)) => decode(field, value).map_err(|error| error.inside(field)),
            None => Ok(()),
        }),
        _ => Err(node.is_no(super::error::Wanted::Object)),
    }
}
