//! What a person is told about a text that cannot be read: the line, a caret under the place, and a hint.

use super::error::{DecodeError, DecodeErrorKind as Kind, Token, Wanted};
use super::node::Position;
use crate::explained::Explained;
use crate::time::BadDuration;

/// Characters of a long line that are shown on each side of the place.
const CONTEXT: usize = 60;

impl DecodeError {
    /// The error with the line of `text` that it is about, a caret under the place, and what to do.
    /// The sentence has several lines, without a newline at the end.
    pub fn explain(&self, text: &str) -> Explained {
        let mut sentence = self.to_string();
        if let Some((line, caret)) = excerpt(text, self.position) {
            sentence.push_str(&format!("\n  {line}\n  {}^", " ".repeat(caret)));
        }
        Explained { sentence, hint: self.hint(text) }
    }

    /// What to do about it, where `text` gives it away.
    pub fn hint(&self, text: &str) -> Option<String> {
        let offset = offset_of(text, self.position)?;
        let (before, rest) = text.split_at_checked(offset)?;
        match &self.kind {
            _ if text.trim().is_empty() => {
                Some("give a JSON object such as {\"initMode\":\"new\"}".to_owned())
            }
            Kind::TextAfterEnd => Some(match rest.chars().next() {
                Some(bracket @ ('}' | ']')) => format!("there is one {bracket:?} too many: remove it"),
                _ => "give one JSON object only".to_owned(),
            }),
            Kind::UnexpectedEnd(_) | Kind::Unexpected { .. } if !text.contains('"') && text.contains(':') => {
                Some(
                    "there is no double quote in it, a shell may have removed them: \
                 put the whole text in single quotes, as in '{\"initMode\":\"new\"}'"
                        .to_owned(),
                )
            }
            Kind::UnexpectedEnd(_) => unfinished(text),
            Kind::ControlCharacter => Some(
                "is a closing '\"' missing before it? A line break inside a string is written \\n".to_owned(),
            ),
            Kind::Unexpected { wanted: Token::Escape, .. } => Some("a backslash is written \\\\".to_owned()),
            Kind::Unexpected { wanted, .. } => {
                unexpected_hint(before.trim_end().chars().next_back(), rest, *wanted)
            }
            Kind::Duration(bad) => Some(duration_hint(rest, bad)),
            Kind::WrongType { wanted, .. } => Some(type_hint(rest, *wanted)),
            Kind::OutOfRange { .. } => {
                Some("write a number within this range, without a fraction".to_owned())
            }
            _ => None,
        }
    }
}

/// The line of a place, cut to what a terminal shows, and the number of characters before the place in it.
fn excerpt(text: &str, position: Position) -> Option<(String, usize)> {
    let line = text.lines().nth(position.line.checked_sub(1)?)?;
    let at = position.column.checked_sub(1)?;
    let first = at.saturating_sub(CONTEXT);
    let mut shown: String = line.chars().skip(first).take(2 * CONTEXT).map(printable).collect();
    let mut caret = at - first;
    if first > 0 {
        shown.insert(0, '…');
        caret += 1;
    }
    if line.chars().nth(first + 2 * CONTEXT).is_some() {
        shown.push('…');
    }
    Some((shown, caret))
}

/// One column for each character, so that the caret stands where it should.
fn printable(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}

fn offset_of(text: &str, position: Position) -> Option<usize> {
    let line_start = match position.line.checked_sub(1)? {
        0 => 0,
        earlier => text.match_indices('\n').nth(earlier - 1)?.0 + 1,
    };
    let line = text.get(line_start..)?;
    let within = line.char_indices().nth(position.column.checked_sub(1)?).map_or(line.len(), |(at, _)| at);
    Some(line_start + within)
}

/// The text ends too early: what would complete it.
fn unfinished(text: &str) -> Option<String> {
    let (open, inside_string) = open_brackets(text);
    let missing: String = open.iter().rev().collect();
    if inside_string {
        return Some("a string is not closed: a '\"' is missing".to_owned());
    }
    match text.trim_end().chars().next_back()? {
        ',' => Some(format!("remove the comma at the end and add {missing}")),
        ':' => Some("a value is missing after the last ':'".to_owned()),
        _ if missing.is_empty() => None,
        _ => Some(format!("the text stops before everything is closed: add {missing} at its end")),
    }
}

/// The closing brackets that are still owed, outermost first, and whether the text ends inside a string.
fn open_brackets(text: &str) -> (Vec<char>, bool) {
    let mut owed = Vec::new();
    let (mut inside_string, mut escaped) = (false, false);
    for character in text.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if inside_string => escaped = true,
            '"' => inside_string = !inside_string,
            _ if inside_string => {}
            '{' => owed.push('}'),
            '[' => owed.push(']'),
            '}' | ']' => {
                owed.pop();
            }
            _ => {}
        }
    }
    (owed, inside_string)
}

fn unexpected_hint(previous: Option<char>, rest: &str, wanted: Token) -> Option<String> {
    let wants_comma = matches!(wanted, Token::CommaOrBrace | Token::CommaOrBracket);
    let word: String =
        rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+')).collect();
    let hint = match rest.chars().next()? {
        '}' | ']' if previous == Some(',') => {
            "remove the comma before it: the last entry has none".to_owned()
        }
        '}' | ']' if previous == Some(':') => "a value is missing after the ':'".to_owned(),
        ']' if wants_comma => "a '}' is missing before it".to_owned(),
        '}' if wants_comma => "a ']' is missing before it".to_owned(),
        '\'' => {
            "strings take double quotes, and in a shell the whole text single ones: '{\"key\":\"value\"}'"
                .to_owned()
        }
        '“' | '”' | '„' | '‘' | '’' | '«' | '»' => {
            "these are typographic quotes: use plain \" instead".to_owned()
        }
        '\u{feff}' => "the text begins with a byte order mark: save it as UTF-8 without one".to_owned(),
        '/' | '#' => "JSON has no comments: remove it".to_owned(),
        '=' => "a key and its value are separated by ':'".to_owned(),
        ';' => "entries are separated by ','".to_owned(),
        ',' if previous == Some(',') => "there is one comma too many: remove it".to_owned(),
        '"' | '{' | '[' if wants_comma => "a comma is missing before it".to_owned(),
        _ if wants_comma && !word.is_empty() => {
            return Some("is a comma or a double quote missing before it?".to_owned());
        }
        control if control.is_control() => {
            "remove this character, which no text has: is it a file of another kind?".to_owned()
        }
        _ if word.is_empty() => return None,
        _ => match word.to_ascii_lowercase().as_str() {
            lower @ ("true" | "false" | "null") => format!("write {lower} in lower case"),
            "none" | "nil" | "undefined" => "write null".to_owned(),
            _ => format!("put it in double quotes: \"{word}\""),
        },
    };
    Some(hint)
}

/// The value that begins there, as written.
fn token(rest: &str) -> String {
    rest.chars().take_while(|c| !matches!(c, ',' | '}' | ']') && !c.is_whitespace()).collect()
}

fn duration_hint(rest: &str, bad: &BadDuration) -> String {
    match bad {
        BadDuration::MissingUnit(_) => format!(
            "write the unit too, for example \"{}s\" (units: ns, us, ms, s, m, h)",
            token(rest).trim_matches('"')
        ),
        BadDuration::Invalid(_) | BadDuration::UnknownUnit { .. } => {
            "a span of time is a string such as \"5s\", \"1m30s\", \"1.5h\" or \"100ms\"; days are written in hours"
                .to_owned()
        }
    }
}

fn type_hint(rest: &str, wanted: Wanted) -> String {
    let token = token(rest);
    let bare = token.trim_matches('"');
    let is_quoted = token.starts_with('"');
    match wanted {
        Wanted::Integer if is_number(bare) && is_quoted => format!("write {bare} without quotes"),
        Wanted::Integer => "write a number such as 5".to_owned(),
        Wanted::Text if !token.is_empty() && !token.starts_with(['{', '[']) => {
            format!("write it in double quotes: \"{bare}\"")
        }
        Wanted::Text => "write one text in double quotes: \"…\"".to_owned(),
        Wanted::Bool => match bare.to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" | "1" => "write true, without quotes".to_owned(),
            "false" | "off" | "no" | "0" => "write false, without quotes".to_owned(),
            _ => "write true or false, without quotes".to_owned(),
        },
        Wanted::List if is_quoted => {
            "put it in square brackets, also when it is the only one: [\"…\"]".to_owned()
        }
        Wanted::List => "write a list: [\"…\", \"…\"]".to_owned(),
        Wanted::Object => "an object is written {\"name\":\"value\"}".to_owned(),
        Wanted::Timestamp => "write a time such as \"2026-01-31T12:00:00Z\"".to_owned(),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
