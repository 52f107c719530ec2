//! Durations as Go writes them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stolon_model::GoDuration;

fuzz_target!(|text: &str| {
    let Ok(duration) = text.parse::<GoDuration>() else { return };
    assert_eq!(duration.to_string().parse::<GoDuration>(), Ok(duration));
});
