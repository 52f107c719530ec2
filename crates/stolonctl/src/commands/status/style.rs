//! How the text of `status` looks: bytes for scripts, or lines for a person at a terminal.

use std::io::IsTerminal;

use anstyle::{AnsiColor, Style as Ansi};

use crate::table::Alignment;

/// For whom the text is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A script, a file, a pipe.
    Script,
    /// A terminal that shows no colours.
    Plain,
    /// A terminal.
    Colours,
}

/// What a line is to its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// The title of a section.
    Title,
    /// As it should be.
    Good,
    /// Worth a look.
    Attention,
    /// Broken.
    Bad,
}

impl Style {
    /// Of standard output as it is. No colours where `NO_COLOR` is set (<https://no-color.org>).
    pub fn of_stdout() -> Style {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match (std::io::stdout().is_terminal(), refused) {
            (false, _) => Style::Script,
            (true, true) => Style::Plain,
            (true, false) => Style::Colours,
        }
    }

    /// How the rows of a table that Stolon has, too, are aligned.
    pub fn alignment(self) -> Alignment {
        match self {
            Style::Script => Alignment::FirstRow,
            Style::Plain | Style::Colours => Alignment::AllRows,
        }
    }

    /// A line in its tone.
    pub fn line(self, tone: Tone, line: &str) -> String {
        let ansi = match tone {
            Tone::Title => Ansi::new().bold(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Attention => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
        };
        match self {
            Style::Colours => format!("{ansi}{line}{ansi:#}"),
            Style::Script | Style::Plain => line.to_owned(),
        }
    }
}
