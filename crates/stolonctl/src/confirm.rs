//! The question before something is destroyed.

use stolon_runtime::Failure;

use crate::output;

/// What the operator answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Yes,
    /// Leave everything as it is.
    No,
}

/// Ask on stdout and read lines from stdin until one is exactly `yes` or `no`.
///
/// Standard input is read on a thread of its own, so that the program still reacts to signals.
///
/// # Errors
/// Standard input ended, or could not be read, before there was an answer.
pub async fn ask() -> Result<Answer, Failure> {
    let (sender, mut lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let mut line = String::new();
            let read = std::io::stdin().read_line(&mut line);
            let ended = !matches!(read, Ok(length) if length > 0);
            if sender.blocking_send(read.map(|_| line)).is_err() || ended {
                return;
            }
        }
    });
    loop {
        output::remark("Are you sure you want to continue? [yes/no] ");
        let line = match lines.recv().await {
            Some(Ok(line)) => line,
            Some(Err(error)) => return Err(unanswered(&error.to_string())),
            None => return Err(unanswered("EOF")),
        };
        match line.as_str() {
            "yes\n" => return Ok(Answer::Yes),
            "no\n" => {
                output::remark("exiting\n");
                return Ok(Answer::No);
            }
            unterminated if !unterminated.ends_with('\n') => return Err(unanswered("EOF")),
            _ => output::remark("Please enter 'yes' or 'no'\n"),
        }
    }
}

fn unanswered(cause: &str) -> Failure {
    Failure::new(format!("error reading input: {cause}"))
        .hint("nothing was changed; answer yes or no, or give --yes to go on without the question")
}
