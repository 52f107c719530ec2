//! What a person is told. Errors and reasons are kinds; they become sentences where a person reads them.

use std::borrow::Cow;
use std::fmt::Display;

/// Something that can say in a sentence what is wrong (`Display`), and what to do about it.
pub trait Advise: Display {
    /// What to do about it, where the sentence does not say so by itself.
    fn hint(&self) -> Option<Cow<'static, str>>;

    /// Both, for a person.
    fn explained(&self) -> Explained {
        Explained { sentence: self.to_string(), hint: self.hint().map(Cow::into_owned) }
    }
}

/// A sentence for a person, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What is wrong.
    pub sentence: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Explained {
    /// A sentence without a hint.
    pub fn new(sentence: impl Into<String>) -> Self {
        Explained { sentence: sentence.into(), hint: None }
    }

    /// The same with this hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with `what: ` in front: what could not be done because of it.
    pub fn after(mut self, what: impl Display) -> Self {
        self.sentence = format!("{what}: {}", self.sentence);
        self
    }

    /// For a line of a log or a cell of a table: `sentence; hint: what to do`.
    pub fn on_one_line(&self) -> String {
        let sentence = self.sentence.replace('\n', " ");
        match &self.hint {
            Some(hint) => format!("{sentence}; hint: {}", hint.replace('\n', " ")),
            None => sentence,
        }
    }
}

/// The sentence alone: whoever shows it shows the hint on a line of its own.
impl Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Explained {}

/// The message of an error and those of its causes, joined by colons. A cause that the message quotes is not repeated.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let sentence = next.to_string();
        if !text.contains(&sentence) {
            text.push_str(": ");
            text.push_str(&sentence);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_the_sentence_and_the_hint() {
        let explained = Explained::new("two\nlines").with_hint("do something").after("cannot go on");
        assert_eq!(explained.to_string(), "cannot go on: two\nlines");
        assert_eq!(explained.on_one_line(), "cannot go on: two lines; hint: do something");
        assert_eq!(Explained::new("no").on_one_line(), "no");
    }
}
