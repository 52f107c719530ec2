//! What the proxy decides: where clients go, and until when.
//!
//! [`Machine`] takes what happens as [`Event`]s and answers with [`Effect`]s. The program keeps the sockets, the name
//! lookups, the store and the waiting, and a task of its own that enforces the deadline it was given last. All times are
//! readings of one clock that never jumps and that goes on while the process is frozen or the machine sleeps.
//!
//! Three rules keep clients away from a primary that was replaced:
//!
//! * A generation is acknowledged only when every connection that it forbids has ended.
//! * Cluster data open a destination only if their reading began after a publication that had been confirmed and was still in
//!   force: so every sentinel that decides on newer data knows that this proxy is there, and waits for it.
//! * Nothing is forwarded beyond the published timeout, counted from the start of the last reading that allows it and from the
//!   start of the last publication that was confirmed, whichever is earlier.

mod machine;
mod messages;
mod names;
mod newest;
mod pauses;
mod promise;
mod route;

#[cfg(test)]
mod tests;

pub use machine::Machine;
pub use messages::{
    Check, Claim, Destination, Effect, Event, Measurement, NOTHING, Notice, OnSilence, Policy,
};
pub use newest::Version;
pub use route::{ClosedBecause, Handover, Route, Timings, Upstream, Verdict, route};
