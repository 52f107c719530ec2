//! Pauses after the store failed.

use std::time::Duration;

/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A pause that doubles with each failure in a row, up to `longest`. No [`crate::Backoff`]: the limit changes with the cluster data, and
/// failures of one check that come together count once.
pub(super) fn pause_after(failures: u32, longest: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_PAUSE.saturating_mul(1 << doublings).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> =
            (1..6).map(|failures| pause_after(failures, Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000]);
        assert_eq!(pause_after(u32::MAX, Duration::from_secs(5)), Duration::from_secs(5));
    }
}
