//! Names of WAL files (PostgreSQL manual, "WAL Internals").

use stolon_model::{Lsn, Timeline};

/// Size of WAL segments that Stolon's documents assume: readers take every name for one of a segment of this size.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// The name of the segment of [`SEGMENT_BYTES`] that holds a position of a timeline.
pub fn name(timeline: Timeline, lsn: Lsn) -> String {
    format!("{:08X}{}", timeline.0, segment_name(lsn))
}

/// Whether the segment that holds a position comes before the file `oldest`, whatever their timelines. Nothing does where that is no name of
/// a segment.
pub(crate) fn is_before(lsn: Lsn, oldest: &str) -> bool {
    without_timeline(oldest).is_some_and(|oldest| segment_name(lsn).as_str() < oldest)
}

/// The name of the segment that holds a position, without its timeline.
fn segment_name(lsn: Lsn) -> String {
    format!("{:08X}{:08X}", lsn.0 >> 32, (lsn.0 & 0xFFFF_FFFF) / SEGMENT_BYTES)
}

/// The last sixteen of the 24 hexadecimal digits of a segment's name; `None` for another name.
fn without_timeline(name: &str) -> Option<&str> {
    let is_name = name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    if is_name { name.get(8..) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_ordered_by_position_and_not_by_timeline() {
        for (lsn, oldest, expected) in [
            (0x3FF_FFFF, "000000010000000000000004", true),
            (0x400_0000, "000000010000000000000004", false),
            (0x400_0000, "0000000200000000000000FF", true),
            (0x1_0000_0000, "0000000100000000000000FF", false),
            (0xFFFF_FFFF, "000000010000000100000000", true),
            (0, "", false),
            (0, "00000001.history", false),
        ] {
            assert_eq!(is_before(Lsn(lsn), oldest), expected, "{lsn:X} {oldest}");
        }
    }
}
