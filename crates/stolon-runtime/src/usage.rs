//! Errors that end a program, as people see them: one sentence and what to do.

/// Bad input: the program printed this, changed nothing, and exits with status 2.
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

macro_rules! sentence_with_hint {
    ($name:ident) => {
        impl $name {
            /// A sentence. A last line that begins with `hint: ` becomes the hint.
            pub fn new(message: impl Into<String>) -> Self {
                let message = message.into();
                match message.rsplit_once("\nhint: ") {
                    Some((sentence, hint)) => {
                        Self { message: sentence.to_owned(), hint: Some(hint.to_owned()) }
                    }
                    None => Self { message, hint: None },
                }
            }

            /// The same with advice.
            pub fn hint(mut self, hint: impl Into<String>) -> Self {
                self.hint = Some(hint.into());
                self
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.message)?;
                match &self.hint {
                    Some(hint) => write!(f, "\nhint: {hint}"),
                    None => Ok(()),
                }
            }
        }

        impl std::error::Error for $name {}
    };
}

sentence_with_hint!(UsageError);
sentence_with_hint!(Failure);
