//! JSON as the Go programs read and write it (docs: "JSON rules").
//!
//! Keys match without regard to case, the last of several equal keys wins (objects merge),
//! `null` leaves plain fields alone, `null` and `[]` stay apart, and strings are escaped as Go does.
//! `serde` cannot express these rules, hence this module.

mod decode;
mod document;
mod encode;
mod error;
mod explain;
mod node;

pub(crate) use decode::decode_pointer;
pub use decode::{Decode, Field, Shape};
pub use document::Document;
pub(crate) use document::{decode_field, document, document_entries, encode_field, text_enum};
pub use encode::{Encode, Encoder};
pub use error::{DecodeError, DecodeErrorKind, Token, Wanted};
pub use node::{Node, NodeKind, Position};
