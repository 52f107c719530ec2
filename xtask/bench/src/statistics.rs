//! Small samples of durations.

use std::time::Duration;

/// The middle one; of an even number, the mean of the two. Zero for an empty sample.
pub fn median(sample: &[Duration]) -> Duration {
    let sorted = sorted(sample);
    match sorted.len() {
        0 => Duration::ZERO,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2,
    }
}

/// The shortest duration of the sample that this many percent of it do not exceed. Zero for an empty sample.
pub fn percentile(sample: &[Duration], percent: usize) -> Duration {
    let sorted = sorted(sample);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).or(sorted.last()).copied().unwrap_or_default()
}

/// The longest one. Zero for an empty sample.
pub fn longest(sample: &[Duration]) -> Duration {
    sample.iter().max().copied().unwrap_or_default()
}

/// Seconds with milliseconds.
pub fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

/// Milliseconds with microseconds.
pub fn milliseconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1000.0)
}

fn sorted(sample: &[Duration]) -> Vec<Duration> {
    let mut sorted = sample.to_vec();
    sorted.sort();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(numbers: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        numbers.into_iter().map(Duration::from_secs).collect()
    }

    #[test]
    fn the_middle_of_few() {
        assert_eq!(median(&sample([])), Duration::ZERO);
        assert_eq!(median(&sample([9, 1, 5])), Duration::from_secs(5));
        assert_eq!(median(&sample([4, 1, 9, 6])), Duration::from_secs(5));
    }

    #[test]
    fn so_many_percent_are_no_longer() {
        let hundred = sample((1..=100).rev());
        assert_eq!(percentile(&hundred, 90), Duration::from_secs(90));
        assert_eq!(percentile(&hundred, 0), Duration::from_secs(1));
        assert_eq!(percentile(&hundred, 100), Duration::from_secs(100));
        assert_eq!(percentile(&sample([7, 3]), 99), Duration::from_secs(7));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
