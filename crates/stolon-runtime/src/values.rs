//! Values of flags, in Go's notation, which no crate reads.

use std::time::Duration;

use stolon_model::GoDuration;

/// `1 t T TRUE true True 0 f F FALSE false False`, nothing else.
pub fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("not one of true, false".to_owned()),
    }
}

/// No flag is about more than this.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A span such as `5s`, `100ms` or `1m30s`. It may not be negative, nor longer than a day.
pub fn go_duration(text: &str) -> Result<Duration, String> {
    let span: GoDuration =
        text.parse().map_err(|error: stolon_model::time::BadDuration| error.to_string())?;
    if span.0 < 0 {
        return Err(format!("{text} is negative"));
    }
    match span.to_std() {
        span if span > LONGEST => Err(format!("{text} is longer than a day")),
        span => Ok(span),
    }
}

/// Decimal, `0x…`, `0o…`, `0b…` or `0…` (octal), with an optional sign.
pub fn go_integer(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => ("-", &text[1..]),
        Some(b'+') => ("", &text[1..]),
        _ => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['+', '-']) {
        return Err("not a whole number".to_owned());
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|_| "not a whole number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_go_reads_them() {
        for (text, value) in
            [("10", 10), ("0x1F", 31), ("017", 15), ("0", 0), ("-3", -3), ("+4", 4), ("0b11", 3)]
        {
            assert_eq!(go_integer(text), Ok(value), "{text}");
        }
        for text in ["", "-", "1.5", "0x", "09", "--1", "+-1", "ten"] {
            assert!(go_integer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_need_a_unit_and_no_sign() {
        assert_eq!(go_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(go_duration("5"), Err("time: missing unit in duration \"5\"".to_owned()));
        assert!(go_duration("-5s").is_err());
        assert_eq!(go_duration("24h"), Ok(LONGEST));
        for text in ["24h0.1s", "2000000h", "9999999999h"] {
            assert!(go_duration(text).is_err(), "{text}");
        }
    }
}
