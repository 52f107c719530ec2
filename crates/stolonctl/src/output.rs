//! Writing to the terminal, or to whatever stands in its place.
//!
//! `println!` panics when its reader is gone (`stolonctl … | head -1`), hence these.

use std::io::{ErrorKind, Write};

use stolon_runtime::{Failure, UsageError};

/// How an answer is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Format {
    /// The value of `--format`.
    ///
    /// # Errors
    /// There is no such format.
    pub fn parse(word: &str) -> Result<Format, UsageError> {
        match word {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(UsageError::new(format!("unrecognised output format {other}"))
                .hint("the formats are text and json")),
        }
    }
}

/// The result of a command, on stdout.
///
/// # Errors
/// The output cannot be written. A reader that went away is no error: it has seen enough.
pub fn result(text: &str) -> Result<(), Failure> {
    match write(&mut std::io::stdout().lock(), text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A remark on stdout before the result. A failed write is ignored.
pub fn remark(text: &str) {
    let _ = write(&mut std::io::stdout().lock(), text);
}

/// One line on stderr. A failed write is ignored.
pub fn note(line: &str) {
    let _ = write(&mut std::io::stderr().lock(), &format!("{line}\n"));
}

/// One a line.
pub fn lines(of: &[String]) -> String {
    of.iter().map(|line| format!("{line}\n")).collect()
}

fn write(stream: &mut impl Write, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}
