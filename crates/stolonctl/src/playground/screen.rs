//! What the operator sees: a block that is redrawn on a terminal, lines where it changed elsewhere.

use std::io::{IsTerminal, Write};

/// The output of a playground.
pub struct Screen {
    kind: Kind,
    shown: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Terminal,
    Lines,
}

impl Screen {
    /// Standard output as it is.
    pub fn new() -> Screen {
        let kind = if std::io::stdout().is_terminal() { Kind::Terminal } else { Kind::Lines };
        Screen { kind, shown: Vec::new() }
    }

    /// True when the block is redrawn in place, so that it may hold what changes all the time.
    pub fn is_redrawn(&self) -> bool {
        self.kind == Kind::Terminal
    }

    /// Print a line about something that happened; it stays on the screen.
    pub fn say(&mut self, text: &str) {
        let shown = std::mem::take(&mut self.shown);
        let mut output = String::new();
        if self.kind == Kind::Terminal {
            output.push_str(&up(shown.len()));
        }
        output.push_str(text);
        output.push('\n');
        write(&output);
        if self.kind == Kind::Terminal {
            self.show(shown);
        } else {
            self.shown = shown;
        }
    }

    /// Show the present state in place of what was shown before.
    pub fn show(&mut self, lines: Vec<String>) {
        if lines == self.shown {
            return;
        }
        match self.kind {
            Kind::Terminal => {
                let width = width();
                let mut output = up(self.shown.len());
                for line in &lines {
                    output.extend(line.chars().take(width));
                    output.push('\n');
                }
                write(&output);
            }
            Kind::Lines => {
                let news: Vec<&String> = lines.iter().filter(|line| !self.shown.contains(line)).collect();
                for line in news {
                    write(&format!("{line}\n"));
                }
            }
        }
        self.shown = lines;
    }
}

/// To the beginning of the line `lines` above, and nothing below it (ECMA-48 CPL and ED).
fn up(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}F\x1b[J") }
}

fn width() -> usize {
    let columns = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_col);
    if columns == 0 { 110 } else { usize::from(columns) }
}

/// A failed write is ignored: the cluster must be looked after also when nobody reads.
fn write(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes());
    let _ = output.flush();
}
