//! Where the server's log goes.

use std::sync::Arc;

/// Takes the lines of the server's log, one by one, passwords masked. It is called by the keeper's one thread, and must not wait: a
/// reader of the log that has stopped reading would silence the keeper, and then PostgreSQL.
#[derive(Clone)]
pub struct LogSink(Arc<dyn Fn(&str) + Send + Sync>);

impl LogSink {
    /// Gives each line, without its end, to `take`.
    pub fn new(take: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(crate) fn take(&self, line: &str) {
        (self.0)(line);
    }
}

impl std::fmt::Debug for LogSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogSink")
    }
}
