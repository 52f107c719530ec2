//! Where a document comes from: an argument, a file, or standard input.

use std::io::Read;

use stolon_runtime::{Failure, UsageError};

/// The name that stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// A document and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The document.
    pub text: String,
    /// For messages: `the argument`, `standard input`, or the name of the file.
    pub source: String,
}

impl Text {
    /// Given on the command line.
    pub fn argument(text: &str) -> Self {
        Text { text: text.to_owned(), source: "the argument".to_owned() }
    }

    /// Read a file; `-` is standard input.
    ///
    /// # Errors
    /// The file cannot be read, or is no UTF-8.
    pub fn read(file: &str) -> anyhow::Result<Self> {
        if file == STANDARD_INPUT {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .map_err(|error| Failure::new(format!("cannot read from stdin: {}", cause(&error))))?;
            return Text::from_bytes(bytes, "standard input");
        }
        let bytes = std::fs::read(file).map_err(|error| {
            UsageError::new(format!("cannot read file: open {file}: {}", cause(&error)))
                .hint("give the name of a readable file, or - for standard input")
        })?;
        Text::from_bytes(bytes, file)
    }

    fn from_bytes(bytes: Vec<u8>, source: &str) -> anyhow::Result<Self> {
        let text = String::from_utf8(bytes).map_err(|error| {
            UsageError::new(format!(
                "{source} is not valid UTF-8 (byte {} on)",
                error.utf8_error().valid_up_to() + 1
            ))
            .hint("JSON documents are UTF-8 texts")
        })?;
        Ok(Text { text, source: source.to_owned() })
    }
}

/// The operating system's words, without the `(os error N)` that Rust adds.
fn cause(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}
