//! Small samples of durations.

use std::time::Duration;

/// The middle one; of an even number, the mean of the two.
pub fn median(sample: &[Duration]) -> Duration {
    let mut sorted = sample.to_vec();
    sorted.sort();
    match sorted.len() {
        0 => Duration::ZERO,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2,
    }
}

/// The longest one.
pub fn longest(sample: &[Duration]) -> Duration {
    sample.iter().max().copied().unwrap_or_default()
}

/// Seconds with milliseconds.
pub fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_few() {
        let sample =
            |numbers: &[u64]| numbers.iter().map(|number| Duration::from_secs(*number)).collect::<Vec<_>>();
        assert_eq!(median(&sample(&[])), Duration::ZERO);
        assert_eq!(median(&sample(&[9, 1, 5])), Duration::from_secs(5));
        assert_eq!(median(&sample(&[4, 1, 9, 6])), Duration::from_secs(5));
    }
}
