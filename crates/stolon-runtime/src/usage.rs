//! Errors that end a program, as people see them: one sentence and what to do.

use std::fmt::Display;

use stolon_model::{Advise, Explained};

/// Bad input: nothing was changed, and the program exits with status 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    /// One sentence.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What was asked for is right but cannot be done: exit status 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One sentence.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Check a name that `flag` gives: nobody can see what has no shape, and it has to fit where it is used.
///
/// # Errors
/// It holds a control character, or has more than so many bytes.
pub fn check_name(flag: &str, name: &str, longest: usize) -> Result<(), UsageError> {
    if name.len() > longest {
        return Err(
            UsageError::new(format!("{flag} is longer than {longest} bytes")).hint("choose a shorter name")
        );
    }
    match name.contains(char::is_control) {
        true => Err(UsageError::new(format!("{flag} holds a control character: {name:?}"))
            .hint("choose a name that can be typed")),
        false => Ok(()),
    }
}

macro_rules! sentence_with_hint {
    ($name:ident) => {
        impl $name {
            /// A sentence without a hint.
            pub fn new(message: impl Into<String>) -> Self {
                Self { message: message.into(), hint: None }
            }

            /// `what: cause`, with the hint of the cause.
            pub fn because(what: impl Display, cause: &impl Advise) -> Self {
                cause.explained().after(what).into()
            }

            /// The same with advice.
            pub fn hint(mut self, hint: impl Into<String>) -> Self {
                self.hint = Some(hint.into());
                self
            }
        }

        impl From<Explained> for $name {
            fn from(explained: Explained) -> Self {
                Self { message: explained.sentence, hint: explained.hint }
            }
        }

        /// The sentence alone: whoever shows it shows the hint on a line of its own.
        impl Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.message)
            }
        }

        impl std::error::Error for $name {}
    };
}

sentence_with_hint!(UsageError);
sentence_with_hint!(Failure);

/// What a person is told about any error that ends a program.
pub fn explained(error: &anyhow::Error) -> Explained {
    if let Some(UsageError { message, hint }) = error.downcast_ref() {
        return Explained { sentence: message.clone(), hint: hint.clone() };
    }
    if let Some(Failure { message, hint }) = error.downcast_ref() {
        return Explained { sentence: message.clone(), hint: hint.clone() };
    }
    let hint = error.downcast_ref::<Explained>().and_then(|explained| explained.hint.clone());
    Explained { sentence: format!("{error:#}"), hint }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn hints_survive_the_way_to_the_person() {
        let inner = Explained::new("setpriv cannot be run").with_hint("apt-get install util-linux");
        let error = Err::<(), _>(std::io::Error::other("gone")).context(inner).context("no playground");
        let shown = explained(&error.unwrap_err());
        assert_eq!(shown.sentence, "no playground: setpriv cannot be run: gone");
        assert_eq!(shown.hint.as_deref(), Some("apt-get install util-linux"));
        let usage = UsageError::new("no").hint("yes");
        assert_eq!(explained(&usage.into()).hint.as_deref(), Some("yes"));
    }
}
