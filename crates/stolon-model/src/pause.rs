//! A pause: an operator works on the cluster, and nobody is to be elected meanwhile.

use std::fmt;

use crate::json::document;
use crate::time::Timestamp;

document! {
    /// What `stolonctl pause` asks for. Losing it is safe: it is the same as `stolonctl resume`.
    pub struct Pause {
        /// When it was asked for, by the clock of whoever did.
        since: Timestamp = "since", keep;
        /// When it lapses by itself, by the same clock.
        until: Timestamp = "until", keep;
        /// Who asked for it, as `user@host`.
        operator: String = "operator", omit;
        /// Why, for people.
        reason: String = "reason", omit;
    }
}

impl fmt::Display for Pause {
    /// `until 2026-11-22T08:36:43Z by ann@db1 (new switches)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.until.instant().strftime("%Y-%m-%dT%H:%M:%SZ");
        write!(f, "until {until} by {}", self.operator)?;
        if self.reason.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.reason)
    }
}
