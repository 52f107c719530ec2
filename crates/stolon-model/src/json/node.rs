//! A parsed JSON text that keeps what decoding by Go's rules needs: the order of keys, repeated keys,
//! numbers as written, the raw token of every scalar, and the place of each value.

use super::error::{DecodeError, DecodeErrorKind, Token, Wanted};

/// Deeper nesting than this is refused, so that no input can exhaust the stack.
const DEPTH_LIMIT: usize = 256;

/// A place in a text, counted from 1, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// One JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Where it begins.
    pub position: Position,
}

/// What a JSON value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as written.
    Number(String),
    /// A string.
    String {
        /// Unescaped; lone surrogates have become U+FFFD.
        value: String,
        /// As written, with its quotes.
        raw: String,
    },
    /// An array.
    Array(Vec<Node>),
    /// An object: its entries in the order of the text, repeated keys included.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Parse a whole text: one value and nothing after it.
    pub fn parse(text: &str) -> Result<Node, DecodeError> {
        let mut parser = Parser { text, offset: 0, depth: 0, place: Place::default() };
        parser.skip_space();
        let node = parser.value()?;
        parser.skip_space();
        match parser.peek() {
            None => Ok(node),
            Some(_) => Err(parser.error(DecodeErrorKind::TextAfterEnd)),
        }
    }

    /// What the value is, for error messages.
    pub fn describe(&self) -> &'static str {
        match self.kind {
            NodeKind::Null => "null",
            NodeKind::Bool(_) => "a boolean",
            NodeKind::Number(_) => "a number",
            NodeKind::String { .. } => "a string",
            NodeKind::Array(_) => "an array",
            NodeKind::Object(_) => "an object",
        }
    }

    /// True for `null`.
    pub fn is_null(&self) -> bool {
        matches!(self.kind, NodeKind::Null)
    }

    /// An error at this value.
    pub fn error(&self, kind: impl Into<DecodeErrorKind>) -> DecodeError {
        DecodeError::at(self.position, kind)
    }

    /// The error that this value is not of the type that is wanted.
    pub fn is_no(&self, wanted: Wanted) -> DecodeError {
        self.error(DecodeErrorKind::WrongType { wanted, found: self.describe() })
    }
}

/// A place whose line and column are known, so that the next one costs only the text between the two.
#[derive(Clone, Copy, Default)]
struct Place {
    offset: usize,
    lines_before: usize,
    characters_before: usize,
}

impl Place {
    fn advance(&mut self, text: &str, to: usize) {
        if to < self.offset {
            *self = Place::default();
        }
        for character in text.get(self.offset..to).unwrap_or("").chars() {
            match character {
                '\n' => {
                    self.lines_before += 1;
                    self.characters_before = 0;
                }
                _ => self.characters_before += 1,
            }
        }
        self.offset = to;
    }
}

struct Parser<'a> {
    text: &'a str,
    offset: usize,
    depth: usize,
    place: Place,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    fn position(&mut self) -> Position {
        self.place.advance(self.text, self.offset);
        Position { line: self.place.lines_before + 1, column: self.place.characters_before + 1 }
    }

    fn error(&mut self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError::at(self.position(), kind)
    }

    fn unexpected(&mut self, wanted: Token) -> DecodeError {
        match self.text.get(self.offset..).and_then(|rest| rest.chars().next()) {
            None => self.error(DecodeErrorKind::UnexpectedEnd(wanted)),
            Some(found) => self.error(DecodeErrorKind::Unexpected { found, wanted }),
        }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.offset += 1;
        }
    }

    fn value(&mut self) -> Result<Node, DecodeError> {
        let position = self.position();
        let kind = match self.peek() {
            Some(b'{') => self.nested(Self::object)?,
            Some(b'[') => self.nested(Self::array)?,
            Some(b'"') => {
                let start = self.offset;
                let value = self.string()?;
                NodeKind::String { value, raw: self.text.get(start..self.offset).unwrap_or("").to_owned() }
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", NodeKind::Bool(true))?,
            Some(b'f') => self.word("false", NodeKind::Bool(false))?,
            Some(b'n') => self.word("null", NodeKind::Null)?,
            _ => return Err(self.unexpected(Token::Value)),
        };
        Ok(Node { kind, position })
    }

    fn nested(
        &mut self,
        parse: fn(&mut Self) -> Result<NodeKind, DecodeError>,
    ) -> Result<NodeKind, DecodeError> {
        if self.depth == DEPTH_LIMIT {
            return Err(self.error(DecodeErrorKind::TooDeep(DEPTH_LIMIT)));
        }
        self.depth += 1;
        self.offset += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn object(&mut self) -> Result<NodeKind, DecodeError> {
        let mut entries = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.offset += 1;
            return Ok(NodeKind::Object(entries));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected(Token::Key));
            }
            let key = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected(Token::Colon));
            }
            self.offset += 1;
            self.skip_space();
            entries.push((key, self.value()?));
            self.skip_space();
            match self.peek() {
                Some(b',') => self.offset += 1,
                Some(b'}') => {
                    self.offset += 1;
                    return Ok(NodeKind::Object(entries));
                }
                _ => return Err(self.unexpected(Token::CommaOrBrace)),
            }
        }
    }

    fn array(&mut self) -> Result<NodeKind, DecodeError> {
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.offset += 1;
            return Ok(NodeKind::Array(items));
        }
        loop {
            self.skip_space();
            items.push(self.value()?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.offset += 1,
                Some(b']') => {
                    self.offset += 1;
                    return Ok(NodeKind::Array(items));
                }
                _ => return Err(self.unexpected(Token::CommaOrBracket)),
            }
        }
    }

    fn word(&mut self, word: &str, kind: NodeKind) -> Result<NodeKind, DecodeError> {
        if self.text.get(self.offset..).is_some_and(|rest| rest.starts_with(word)) {
            self.offset += word.len();
            Ok(kind)
        } else {
            Err(self.unexpected(Token::Value))
        }
    }

    fn digits(&mut self) -> Result<(), DecodeError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected(Token::Digit));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.offset += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<NodeKind, DecodeError> {
        let start = self.offset;
        if self.peek() == Some(b'-') {
            self.offset += 1;
        }
        if self.peek() == Some(b'0') {
            self.offset += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.offset += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.offset += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.offset += 1;
            }
            self.digits()?;
        }
        Ok(NodeKind::Number(self.text.get(start..self.offset).unwrap_or("").to_owned()))
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        self.offset += 1;
        let mut value = String::new();
        loop {
            let Some(character) = self.text.get(self.offset..).and_then(|rest| rest.chars().next()) else {
                return Err(self.unexpected(Token::ClosingQuote));
            };
            match character {
                '"' => {
                    self.offset += 1;
                    return Ok(value);
                }
                '\\' => {
                    self.offset += 1;
                    value.push(self.escape()?);
                }
                control if (control as u32) < 0x20 => {
                    return Err(self.error(DecodeErrorKind::ControlCharacter));
                }
                plain => {
                    self.offset += plain.len_utf8();
                    value.push(plain);
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let escaped = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.offset += 1;
                return self.unicode_escape();
            }
            _ => return Err(self.unexpected(Token::Escape)),
        };
        self.offset += 1;
        Ok(escaped)
    }

    /// Lone surrogates become U+FFFD, as in Go.
    fn unicode_escape(&mut self) -> Result<char, DecodeError> {
        let first = self.four_hex_digits()?;
        if (0xD800..0xDC00).contains(&first)
            && self.text.get(self.offset..).is_some_and(|r| r.starts_with("\\u"))
        {
            let rewind = self.offset;
            self.offset += 2;
            let second = self.four_hex_digits()?;
            if (0xDC00..0xE000).contains(&second) {
                let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.offset = rewind;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn four_hex_digits(&mut self) -> Result<u32, DecodeError> {
        let digits = self.text.get(self.offset..self.offset + 4);
        let code = digits
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                self.offset += 4;
                Ok(code)
            }
            None => Err(self.unexpected(Token::HexDigits)),
        }
    }
}
