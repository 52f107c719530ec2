//! Encoding as Go does it: fields in a fixed order, maps by key, `<`, `>`, `&` escaped.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// A value that can be written as Go writes it.
pub trait Encode {
    /// Write the value.
    fn encode_to(&self, out: &mut Encoder);

    /// True when a field with the omit rule leaves the value out. Structures are never left out.
    fn is_zero(&self) -> bool {
        false
    }

    /// True for a list or a map without entries, and for an empty text that is no pointer in Go: left out even
    /// where our type is optional.
    fn is_empty_value(&self) -> bool {
        false
    }
}

/// How the text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Compact,
    IndentedByTabs,
}

/// Which fields of the outermost document are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Omission {
    /// Those that the document's own table says: the form of the store.
    AsDeclared,
    /// Every field that is unset.
    Unset,
    /// No field is left out.
    Never,
}

/// Writes a JSON text.
#[derive(Debug)]
pub struct Encoder {
    text: String,
    layout: Layout,
    omission: Omission,
    depth: usize,
    entries: Vec<usize>,
}

impl Encoder {
    /// No spaces, no newlines: the form of the store.
    pub fn compact() -> Self {
        Self::new(Layout::Compact, Omission::AsDeclared)
    }

    /// One tab for each level: the form for people.
    pub fn indented() -> Self {
        Self::new(Layout::IndentedByTabs, Omission::AsDeclared)
    }

    /// The form for people, without any unset field of the outermost document.
    pub fn indented_set_only() -> Self {
        Self::new(Layout::IndentedByTabs, Omission::Unset)
    }

    /// The form for people, with every field of the outermost document.
    pub fn indented_complete() -> Self {
        Self::new(Layout::IndentedByTabs, Omission::Never)
    }

    fn new(layout: Layout, omission: Omission) -> Self {
        Encoder { text: String::new(), layout, omission, depth: 0, entries: Vec::new() }
    }

    /// The text written so far.
    pub fn finish(self) -> String {
        self.text
    }

    /// `null`.
    pub fn null(&mut self) {
        self.text.push_str("null");
    }

    /// A token that needs no escaping: a number, `true`, `false`.
    pub fn token(&mut self, token: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{token}");
    }

    /// A string with Go's escapes.
    pub fn string(&mut self, value: &str) {
        self.text.push('"');
        for character in value.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => self.unicode_escape(character),
                control if (control as u32) < 0x20 => self.unicode_escape(control),
                plain => self.text.push(plain),
            }
        }
        self.text.push('"');
    }

    fn unicode_escape(&mut self, character: char) {
        let _ = write!(self.text, "\\u{:04x}", character as u32);
    }

    /// `{ … }`
    pub fn object(&mut self, body: impl FnOnce(&mut Self)) {
        self.bracketed('{', '}', body);
    }

    /// `[ … ]`
    pub fn array(&mut self, body: impl FnOnce(&mut Self)) {
        self.bracketed('[', ']', body);
    }

    /// One entry of an object.
    pub fn entry(&mut self, key: &str, value: &impl Encode) {
        self.separator();
        self.string(key);
        self.text.push_str(match self.layout {
            Layout::Compact => ":",
            Layout::IndentedByTabs => ": ",
        });
        value.encode_to(self);
    }

    /// A field with the omit rule: left out when it is zero.
    pub(crate) fn omittable_field(&mut self, key: &str, value: &impl Encode) {
        if !value.is_zero() || (self.omission == Omission::Never && self.depth == 1) {
            self.entry(key, value);
        }
    }

    /// A field with the omit rule whose type is a pointer in Go: left out only when there is none.
    pub(crate) fn pointer_field<T: Encode>(&mut self, key: &str, value: &Option<T>) {
        if value.is_some() || (self.omission == Omission::Never && self.depth == 1) {
            self.entry(key, value);
        }
    }

    /// A field without the omit rule.
    pub(crate) fn kept_field(&mut self, key: &str, value: &impl Encode) {
        if !value.is_zero() || self.omission != Omission::Unset || self.depth != 1 {
            self.entry(key, value);
        }
    }

    /// One item of an array.
    pub fn item(&mut self, value: &impl Encode) {
        self.separator();
        value.encode_to(self);
    }

    fn bracketed(&mut self, open: char, close: char, body: impl FnOnce(&mut Self)) {
        self.text.push(open);
        self.depth += 1;
        self.entries.push(0);
        body(self);
        self.depth -= 1;
        if self.entries.pop() != Some(0) {
            self.line_break();
        }
        self.text.push(close);
    }

    fn separator(&mut self) {
        if let Some(entries) = self.entries.last_mut() {
            if *entries > 0 {
                self.text.push(',');
            }
            *entries += 1;
        }
        self.line_break();
    }

    fn line_break(&mut self) {
        if self.layout == Layout::IndentedByTabs {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n('\t', self.depth));
        }
    }
}

impl Encode for bool {
    fn encode_to(&self, out: &mut Encoder) {
        out.token(self);
    }

    fn is_zero(&self) -> bool {
        !self
    }
}

impl Encode for String {
    fn encode_to(&self, out: &mut Encoder) {
        out.string(self);
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Encode for $type {
            fn encode_to(&self, out: &mut Encoder) {
                out.token(self);
            }

            fn is_zero(&self) -> bool {
                *self == 0
            }
        }
    )*};
}

integers!(u16, u32, u64, i64);

impl<T: Encode> Encode for Option<T> {
    fn encode_to(&self, out: &mut Encoder) {
        match self {
            None => out.null(),
            Some(value) => value.encode_to(out),
        }
    }

    /// A pointer is left out only when it is nil; lists and maps also when they are empty.
    fn is_zero(&self) -> bool {
        self.as_ref().is_none_or(Encode::is_empty_value)
    }
}

impl<T: Encode> Encode for Arc<T> {
    fn encode_to(&self, out: &mut Encoder) {
        T::encode_to(self, out);
    }

    fn is_zero(&self) -> bool {
        T::is_zero(self)
    }

    fn is_empty_value(&self) -> bool {
        T::is_empty_value(self)
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode_to(&self, out: &mut Encoder) {
        out.array(|out| self.iter().for_each(|item| out.item(item)));
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn is_empty_value(&self) -> bool {
        self.is_empty()
    }
}

impl<K: std::fmt::Display, V: Encode> Encode for BTreeMap<K, V> {
    fn encode_to(&self, out: &mut Encoder) {
        out.object(|out| self.iter().for_each(|(key, value)| out.entry(&key.to_string(), value)));
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn is_empty_value(&self) -> bool {
        self.is_empty()
    }
}
