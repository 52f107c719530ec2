//! The server process: our child, reaped at once, its last words kept.

/// What is known of the server process without asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// None of ours runs, by our own will.
    Stopped,
    /// Our child runs. It may not accept connections yet.
    Running {
        /// Of the postmaster.
        pid: u32,
    },
    /// Our child ended without being asked to.
    Died {
        /// Exit code or signal in words.
        status: String,
        /// One sentence made from its last words.
        explanation: String,
        /// The last lines of its log.
        tail: Vec<String>,
    },
}

impl ServerState {
    /// True while our child runs.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// How to ask a server to end (PostgreSQL manual, "Shutting Down the Server").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// SIGINT; SIGQUIT when that does not end it in time.
    Fast,
    /// SIGQUIT at once.
    Immediate,
}
