//! Durations and timestamps in Go's notation.

use crate::json::{Decode, DecodeError, Encode, Encoder, Node, NodeKind, Shape, Wanted};

/// A span of time: signed nanoseconds, written `1h30m0.5s` on the wire (docs: "JSON rules", durations).
///
/// Negative spans can be read, so that validation can refuse them by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub i64);

const NANOSECOND: u64 = 1;
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

impl GoDuration {
    /// Whole seconds.
    pub const fn from_seconds(seconds: i64) -> Self {
        GoDuration(seconds * SECOND as i64)
    }

    /// Milliseconds.
    pub const fn from_milliseconds(milliseconds: i64) -> Self {
        GoDuration(milliseconds * MILLISECOND as i64)
    }

    /// As the standard library's type; a negative span becomes zero.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.max(0) as u64)
    }
}

impl From<std::time::Duration> for GoDuration {
    /// Spans above 292 years become 292 years.
    fn from(span: std::time::Duration) -> Self {
        GoDuration(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl std::fmt::Display for GoDuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nanoseconds = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if nanoseconds == 0 {
            return f.write_str("0s");
        }
        if nanoseconds < SECOND {
            let (unit, name) = match nanoseconds {
                n if n < MICROSECOND => (NANOSECOND, "ns"),
                n if n < MILLISECOND => (MICROSECOND, "µs"),
                _ => (MILLISECOND, "ms"),
            };
            return write!(
                f,
                "{}{}{name}",
                nanoseconds / unit,
                Fraction { part: nanoseconds % unit, of: unit }
            );
        }
        if nanoseconds >= HOUR {
            write!(f, "{}h", nanoseconds / HOUR)?;
        }
        if nanoseconds >= MINUTE {
            write!(f, "{}m", nanoseconds % HOUR / MINUTE)?;
        }
        let seconds = nanoseconds % MINUTE;
        write!(f, "{}{}s", seconds / SECOND, Fraction { part: seconds % SECOND, of: SECOND })
    }
}

/// `.5` for 500 of 1000; nothing for 0. `of` is a power of ten.
struct Fraction {
    part: u64,
    of: u64,
}

impl std::fmt::Display for Fraction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.part == 0 {
            return Ok(());
        }
        let width = self.of.ilog10() as usize;
        let digits = format!("{:0width$}", self.part);
        write!(f, ".{}", digits.trim_end_matches('0'))
    }
}

/// The text is no duration. The texts are Go's, which operators search for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// No number, or out of range.
    #[error("time: invalid duration {}", go_time_quoted(.0))]
    Invalid(String),
    /// A number without unit.
    #[error("time: missing unit in duration {}", go_time_quoted(.0))]
    MissingUnit(String),
    /// A unit that does not exist.
    #[error("time: unknown unit {} in duration {}", go_time_quoted(unit), go_time_quoted(text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// In double quotes, everything but printable ASCII as `\xNN` for each byte: how Go's durations quote.
fn go_time_quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            other => quoted.push_str(&format!("\\x{other:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

impl std::str::FromStr for GoDuration {
    type Err = BadDuration;

    fn from_str(text: &str) -> Result<Self, BadDuration> {
        let invalid = || BadDuration::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or("")),
            Some(b'+') => (false, text.get(1..).unwrap_or("")),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(GoDuration(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (part, after) = duration_group(text, rest)?;
            total = total.checked_add(part).ok_or_else(invalid)?;
            rest = after;
        }
        if negative { 0i64.checked_sub_unsigned(total) } else { 0i64.checked_add_unsigned(total) }
            .map(GoDuration)
            .ok_or_else(invalid)
    }
}

/// The nanoseconds of the first group of `rest`, such as `1.5h`, and what follows it. `text` is the whole.
fn duration_group<'t>(text: &str, rest: &'t str) -> Result<(u64, &'t str), BadDuration> {
    let invalid = || BadDuration::Invalid(text.to_owned());
    let (whole, after) = split_digits(rest);
    let (fraction, after) = match after.strip_prefix('.') {
        Some(after) => split_digits(after),
        None => ("", after),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
    let (unit, after) = after.split_at(unit_end);
    let scale = match unit {
        "" => return Err(BadDuration::MissingUnit(text.to_owned())),
        "ns" => NANOSECOND,
        "us" | "µs" | "μs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        unit => return Err(BadDuration::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let nanoseconds =
        whole.checked_mul(scale).and_then(|part| part.checked_add(duration_fraction(fraction, scale)));
    Ok((nanoseconds.ok_or_else(invalid)?, after))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `0.<digits>` of `scale` in nanoseconds, with the rounding of Go, which computes in floating point.
fn duration_fraction(digits: &str, scale: u64) -> u64 {
    let mut value: u64 = 0;
    let mut divisor = 1.0;
    for digit in digits.bytes().map(|byte| u64::from(byte - b'0')) {
        match value.checked_mul(10).and_then(|shifted| shifted.checked_add(digit)) {
            Some(next) if next <= i64::MAX as u64 => value = next,
            _ => break,
        }
        divisor *= 10.0;
    }
    (value as f64 * (scale as f64 / divisor)) as u64
}

/// The first nine digits of a fraction of a second.
fn nanoseconds_of(digits: &str) -> i32 {
    format!("{digits:0<9}").get(..9).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

impl Decode for GoDuration {
    const SHAPE: Shape = Shape::Duration;

    /// The raw token without its quotes, as Go does: no unescaping, and the number 0 is accepted.
    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
        let raw = match &node.kind {
            NodeKind::String { raw, .. } => raw.trim_matches('"'),
            NodeKind::Number(digits) => digits,
            NodeKind::Null => "null",
            NodeKind::Bool(true) => "true",
            NodeKind::Bool(false) => "false",
            NodeKind::Array(_) => "[...]",
            NodeKind::Object(_) => "{...}",
        };
        *self = raw.parse().map_err(|error: BadDuration| node.error(error))?;
        Ok(())
    }
}

impl Encode for GoDuration {
    fn encode_to(&self, out: &mut Encoder) {
        out.string(&self.to_string());
    }
}

/// A point in time with the offset that it was written with, so that a rewrite changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    instant: jiff::Timestamp,
    offset_seconds: i32,
}

impl Timestamp {
    /// Go's zero time, `0001-01-01T00:00:00Z`: "never".
    pub const ZERO: Timestamp =
        Timestamp { instant: jiff::Timestamp::constant(-62_135_596_800, 0), offset_seconds: 0 };

    /// A point in time, to be written in UTC.
    pub fn utc(instant: jiff::Timestamp) -> Self {
        Timestamp { instant, offset_seconds: 0 }
    }

    /// The point in time.
    pub fn instant(self) -> jiff::Timestamp {
        self.instant
    }

    /// True for [`Timestamp::ZERO`], whatever its offset.
    pub fn is_never(self) -> bool {
        self.instant == Self::ZERO.instant
    }
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let offset = jiff::tz::Offset::from_seconds(self.offset_seconds).unwrap_or(jiff::tz::Offset::UTC);
        let local = offset.to_datetime(self.instant);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}",
            local.year(),
            local.month(),
            local.day(),
            local.hour(),
            local.minute(),
            local.second(),
            Fraction { part: local.subsec_nanosecond().unsigned_abs().into(), of: SECOND }
        )?;
        match self.offset_seconds {
            0 => f.write_str("Z"),
            seconds => {
                let sign = if seconds < 0 { '-' } else { '+' };
                let minutes = seconds.unsigned_abs() / 60;
                write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }
}

/// The text is no RFC 3339 timestamp.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a timestamp such as 2026-11-22T08:36:43.108862188Z")]
pub struct BadTimestamp(String);

impl std::str::FromStr for Timestamp {
    type Err = BadTimestamp;

    fn from_str(text: &str) -> Result<Self, BadTimestamp> {
        parse_timestamp(text).ok_or_else(|| BadTimestamp(text.to_owned()))
    }
}

/// `YYYY-MM-DDTHH:MM:SS[.fraction](Z|±HH:MM)`, nothing else.
fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let number = |range: std::ops::Range<usize>| -> Option<i32> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !separators.iter().all(|&(at, byte)| text.as_bytes().get(at) == Some(&byte)) {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanosecond = 0;
    if let Some(after) = rest.strip_prefix('.') {
        let (digits, after) = split_digits(after);
        if digits.is_empty() {
            return None;
        }
        nanosecond = nanoseconds_of(digits);
        rest = after;
    }
    let offset_seconds = match rest.as_bytes() {
        [b'Z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 6;
            let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let part = |range| number(range).and_then(|value| i8::try_from(value).ok());
    let local = jiff::civil::DateTime::new(
        i16::try_from(number(0..4)?).ok()?,
        part(5..7)?,
        part(8..10)?,
        part(11..13)?,
        part(14..16)?,
        part(17..19)?,
        nanosecond,
    )
    .ok()?;
    let offset = jiff::tz::Offset::from_seconds(offset_seconds).ok()?;
    Some(Timestamp { instant: offset.to_timestamp(local).ok()?, offset_seconds })
}

impl Decode for Timestamp {
    const SHAPE: Shape = Shape::Timestamp;

    fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
        match &node.kind {
            NodeKind::Null => Ok(()),
            NodeKind::String { value, .. } => {
                *self = value.parse().map_err(|error: BadTimestamp| node.error(error))?;
                Ok(())
            }
            _ => Err(node.is_no(Wanted::Timestamp)),
        }
    }
}

impl Encode for Timestamp {
    fn encode_to(&self, out: &mut Encoder) {
        out.string(&self.to_string());
    }
}
