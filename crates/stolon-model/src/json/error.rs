//! Why a text cannot be read.

use super::node::Position;
use crate::time::{BadDuration, BadTimestamp};

/// Why a text cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Where in the text.
    pub position: Position,
    /// Dotted path of the field; empty at the top.
    pub path: String,
    /// What is wrong.
    pub kind: DecodeErrorKind,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// No JSON: the text stops too early.
    #[error("unexpected end of JSON input, {0} is missing")]
    UnexpectedEnd(Token),
    /// No JSON: something else stands there.
    #[error("unexpected {found:?}, expected {wanted}")]
    Unexpected {
        /// What stands there.
        found: char,
        /// What should stand there.
        wanted: Token,
    },
    /// No JSON: more than one value.
    #[error("there is text after the end of the JSON value")]
    TextAfterEnd,
    /// No JSON: a line break or the like within a string.
    #[error("a control character inside a string must be written as an escape")]
    ControlCharacter,
    /// More levels than are read.
    #[error("values are nested more than {0} deep")]
    TooDeep(usize),
    /// A value of another type.
    #[error("expected {wanted}, found {found}")]
    WrongType {
        /// What the field takes.
        wanted: Wanted,
        /// What the value is.
        found: &'static str,
    },
    /// A number that the field cannot hold.
    #[error("{digits} is not a whole number from {least} to {greatest}")]
    OutOfRange {
        /// As written.
        digits: String,
        /// Least value.
        least: i128,
        /// Greatest value.
        greatest: i128,
    },
    /// No span of time.
    #[error(transparent)]
    Duration(#[from] BadDuration),
    /// No point in time.
    #[error(transparent)]
    Timestamp(#[from] BadTimestamp),
    /// A patch must be an object.
    #[error("a patch is an object, this is {0}")]
    PatchIsNoObject(&'static str),
    /// A `$patch` that is not known.
    #[error("$patch must be \"replace\" or \"delete\"")]
    PatchDirective,
    /// A `$retainKeys` that is no list of keys.
    #[error("$retainKeys must be a list of keys")]
    RetainKeys,
    /// A patch sets a key that it does not retain.
    #[error("$retainKeys does not list {0:?}, which the patch sets")]
    KeyNotRetained(String),
}

/// What JSON wants at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A value.
    Value,
    /// A key.
    Key,
    /// The colon after a key.
    Colon,
    /// What follows an entry of an object.
    CommaOrBrace,
    /// What follows an entry of a list.
    CommaOrBracket,
    /// A digit of a number.
    Digit,
    /// The end of a string.
    ClosingQuote,
    /// What follows a backslash.
    Escape,
    /// What follows `\u`.
    HexDigits,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Token::Value => "a value",
            Token::Key => "a key in double quotes",
            Token::Colon => "':' after the key",
            Token::CommaOrBrace => "',' or '}'",
            Token::CommaOrBracket => "',' or ']'",
            Token::Digit => "a digit",
            Token::ClosingQuote => "a closing '\"'",
            Token::Escape => "an escape such as \\n or \\u0041",
            Token::HexDigits => "four hexadecimal digits",
        })
    }
}

/// What a field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// A string.
    Text,
    /// A point in time.
    Timestamp,
    /// A list.
    List,
    /// An object.
    Object,
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wanted::Bool => "true or false",
            Wanted::Integer => "a whole number",
            Wanted::Text => "a string",
            Wanted::Timestamp => "a timestamp",
            Wanted::List => "an array",
            Wanted::Object => "an object",
        })
    }
}

impl DecodeError {
    /// An error at a place, outside of any object.
    pub fn at(position: Position, kind: impl Into<DecodeErrorKind>) -> Self {
        DecodeError { position, path: String::new(), kind: kind.into() }
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
        write!(f, "{} (line {}, column {})", self.kind, self.position.line, self.position.column)
    }
}

impl std::error::Error for DecodeError {}
