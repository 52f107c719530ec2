//! Where the time goes in which nobody can write, so that an operator sees what to mend.

use std::time::Duration;

use tokio::time::Instant;

use super::Outcome;

/// What the time is spent on, in the order in which it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nobody is let in where everybody wrote, and the sessions there are ended.
    Closing,
    /// The last rows arrive.
    Arriving,
    /// Definitions are compared, and sequences set.
    Carrying,
    /// Every proxy has let go of its clients, or has had its time.
    Proxies,
    /// The side that takes over is told so, and gets ready.
    TakingOver,
    /// What is written from now on is kept for the other side.
    WayBack,
    /// Clients are let in.
    Opening,
}

impl Part {
    fn words(self) -> &'static str {
        match self {
            Part::Closing => "closing",
            Part::Arriving => "last rows",
            Part::Carrying => "definitions and sequences",
            Part::Proxies => "proxies",
            Part::TakingOver => "taking over",
            Part::WayBack => "way back",
            Part::Opening => "opening",
        }
    }

    fn figure(self) -> &'static str {
        match self {
            Part::Closing => "downtime_closing_seconds",
            Part::Arriving => "downtime_last_rows_seconds",
            Part::Carrying => "downtime_definitions_and_sequences_seconds",
            Part::Proxies => "downtime_proxies_seconds",
            Part::TakingOver => "downtime_taking_over_seconds",
            Part::WayBack => "downtime_way_back_seconds",
            Part::Opening => "downtime_opening_seconds",
        }
    }
}

/// A watch that runs from the moment at which nobody can write any more.
#[derive(Clone, Debug)]
pub struct Downtime {
    /// That moment.
    pub began: Instant,
    last: Instant,
    parts: Vec<(Part, Duration)>,
}

impl Downtime {
    /// It begins now.
    pub fn begin() -> Downtime {
        let now = Instant::now();
        Downtime { began: now, last: now, parts: Vec::new() }
    }

    /// What was done since the last mark was this.
    pub fn mark(&mut self, part: Part) {
        let now = Instant::now();
        self.parts.push((part, now - self.last));
        self.last = now;
    }

    /// Tell it, from the beginning to the last mark.
    pub fn tell(&self, outcome: &mut Outcome) {
        let whole = (self.last - self.began).as_secs_f64();
        outcome.did(format!("nobody could write for {whole:.2} s"));
        outcome.figure("downtime_seconds", whole);
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|(part, took)| {
                outcome.figure(part.figure(), took.as_secs_f64());
                format!("{} {:.2} s", part.words(), took.as_secs_f64())
            })
            .collect();
        outcome.did(format!("of these: {}", parts.join(", ")));
    }
}
