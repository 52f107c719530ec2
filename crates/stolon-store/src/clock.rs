//! The clock of leases: it never jumps, and it goes on while the machine sleeps.

use std::time::Duration;

/// A moment on `CLOCK_BOOTTIME`: time since the machine booted, suspension included.
///
/// All processes of one machine share it, until it boots again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant {
    nanoseconds: u64,
}

impl BootInstant {
    /// A moment that never comes.
    pub const NEVER: BootInstant = BootInstant { nanoseconds: u64::MAX };

    /// Now.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let fraction = u64::try_from(now.tv_nsec).unwrap_or(0);
        BootInstant { nanoseconds: seconds.saturating_mul(1_000_000_000).saturating_add(fraction) }
    }

    /// The moment this long after boot.
    pub fn from_boot(span: Duration) -> Self {
        BootInstant { nanoseconds: 0 } + span
    }

    /// Time since boot.
    pub fn since_boot(self) -> Duration {
        Duration::from_nanos(self.nanoseconds)
    }

    /// Milliseconds since boot, rounded down.
    pub fn milliseconds(self) -> u64 {
        self.nanoseconds / 1_000_000
    }

    /// The moment this many milliseconds after boot.
    pub fn from_milliseconds(milliseconds: u64) -> Self {
        BootInstant { nanoseconds: milliseconds.saturating_mul(1_000_000) }
    }

    /// True once the moment has come.
    pub fn is_past(self) -> bool {
        Self::now() >= self
    }

    /// How long ago the moment was; zero if it is still to come.
    pub fn elapsed(self) -> Duration {
        Duration::from_nanos(Self::now().nanoseconds.saturating_sub(self.nanoseconds))
    }

    /// How long until the moment comes; zero if it has.
    pub fn remaining(self) -> Duration {
        Duration::from_nanos(self.nanoseconds.saturating_sub(Self::now().nanoseconds))
    }
}

impl std::ops::Add<Duration> for BootInstant {
    type Output = BootInstant;

    fn add(self, span: Duration) -> BootInstant {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        BootInstant { nanoseconds: self.nanoseconds.saturating_add(span) }
    }
}
