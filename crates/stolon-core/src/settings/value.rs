//! Whether PostgreSQL would take a value (PostgreSQL manual, "Setting Parameters": names and values).
//!
//! The rules are those of its own parser. In doubt a value passes: what PostgreSQL would take must never be refused.

use stolon_model::nearest::nearest;

use super::table::Kind;

/// Why a value is not taken: the end of a sentence that begins with the name of the parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    WrongType(String),
    OutOfRange(String),
}

/// Check a value of a parameter of PostgreSQL `major`.
pub(super) fn check(major: u16, name: &str, kind: &Kind<'_>, value: &str) -> Result<(), Refusal> {
    match kind {
        Kind::Text => Ok(()),
        Kind::Bool if is_bool(value) => Ok(()),
        Kind::Bool => Err(Refusal::WrongType(format!("takes on or off, not {value:?}"))),
        Kind::Enum(words) => check_word(major, name, words, value),
        Kind::Integer { unit, least, most } => {
            let number =
                if major >= 12 { integer(value, unit, major) } else { old_integer(value, unit, major) };
            check_number(number, "a whole number", value, unit, *least, *most)
        }
        Kind::Real { unit, least, most } => {
            check_number(real(value, unit, major), "a number", value, unit, *least, *most)
        }
    }
}

/// Any beginning of `true`, `false`, `yes`, `no`, `on`, `off` that is unambiguous, or 1 or 0.
fn is_bool(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    begins("true", 1)
        || begins("false", 1)
        || begins("yes", 1)
        || begins("no", 1)
        || begins("on", 2)
        || begins("off", 2)
        || value == "1"
        || value == "0"
}

/// Words that are taken but not shown, or only by some builds.
fn is_hidden_word(major: u16, name: &str, words: &[&str], value: &str) -> bool {
    let is_one_of = |list: &[&str]| list.iter().any(|word| word.eq_ignore_ascii_case(value));
    (words.contains(&"on") && is_one_of(&["true", "false", "yes", "no", "on", "off", "1", "0"]))
        || (words.contains(&"debug5") && is_one_of(&["debug", "info", "fatal", "panic"]))
        || match name {
            "password_encryption" => major < 14 && is_one_of(&["true", "yes", "on", "1"]),
            "wal_level" => is_one_of(&["archive", "hot_standby"]),
            "wal_compression" => is_one_of(&["pglz", "lz4", "zstd"]),
            "default_toast_compression" => is_one_of(&["pglz", "lz4"]),
            "io_method" => is_one_of(&["io_uring"]),
            "file_copy_method" => is_one_of(&["clone"]),
            "wal_sync_method" => is_one_of(&["fsync_writethrough"]),
            "recovery_init_sync_method" => is_one_of(&["syncfs"]),
            "dynamic_shared_memory_type" | "shared_memory_type" => {
                is_one_of(&["sysv", "mmap", "posix", "windows"])
            }
            _ => false,
        }
}

fn check_word(major: u16, name: &str, words: &[&str], value: &str) -> Result<(), Refusal> {
    if words.iter().any(|word| word.eq_ignore_ascii_case(value)) || is_hidden_word(major, name, words, value)
    {
        return Ok(());
    }
    let shown: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
    let meant = match nearest(value, shown.iter().copied()) {
        Some(word) => format!(": did you mean {word}?"),
        None => String::new(),
    };
    Err(Refusal::WrongType(format!("takes one of {}, not {value:?}{meant}", shown.join(", "))))
}

/// A number in the unit of its parameter.
enum Number {
    /// It lies between these two, which are equal where PostgreSQL's rounding is known.
    Between(f64, f64),
    /// PostgreSQL may understand it, we do not.
    Undecided,
    /// No number.
    Malformed,
    /// A number, but what follows it is no unit of this parameter.
    BadUnit,
}

impl Number {
    fn exactly(value: f64) -> Self {
        Number::Between(value, value)
    }
}

fn check_number(
    number: Number,
    noun: &str,
    value: &str,
    unit: &str,
    least: f64,
    most: f64,
) -> Result<(), Refusal> {
    let counted =
        if unit.is_empty() { noun.to_owned() } else { format!("{noun} (in {unit} unless a unit is given)") };
    match number {
        Number::Undecided => Ok(()),
        Number::Between(low, high) if high >= least && low <= most => Ok(()),
        Number::Between(..) => {
            let of = if unit.is_empty() { String::new() } else { format!(" {unit}") };
            let limits = match most {
                // The largest number there is: no limit in practice.
                most if most > 1e100 => format!("at least {least}"),
                most => format!("between {least} and {most}"),
            };
            Err(Refusal::OutOfRange(format!("must be {limits}{of}, not {value:?}")))
        }
        Number::Malformed => Err(Refusal::WrongType(format!("takes {counted}, not {value:?}"))),
        Number::BadUnit => {
            let known: Vec<&str> = scales(unit, u16::MAX).iter().map(|(name, _)| *name).collect();
            let advice = if known.is_empty() {
                "without a unit".to_owned()
            } else {
                format!("its units are {}", known.join(", "))
            };
            Err(Refusal::WrongType(format!("takes {counted}, not {value:?}: {advice}")))
        }
    }
}

/// How many of a parameter's own unit each unit is, the largest first.
fn scales(base: &str, major: u16) -> Vec<(&'static str, f64)> {
    let memory = |base_bytes: f64| {
        let mut units = vec![("TB", 4.0), ("GB", 3.0), ("MB", 2.0), ("kB", 1.0), ("B", 0.0)];
        // Bytes can be written since 11.
        units.truncate(if major >= 11 { 5 } else { 4 });
        units.into_iter().map(|(name, power)| (name, 1024f64.powf(power) / base_bytes)).collect()
    };
    let time = |base_microseconds: f64| {
        let mut units =
            vec![("d", 86_400e6), ("h", 3600e6), ("min", 60e6), ("s", 1e6), ("ms", 1e3), ("us", 1.0)];
        // Microseconds can be written since 12.
        units.truncate(if major >= 12 { 6 } else { 5 });
        units.into_iter().map(|(name, microseconds)| (name, microseconds / base_microseconds)).collect()
    };
    match base {
        "B" => memory(1.0),
        "kB" => memory(1024.0),
        "8kB" => memory(8192.0),
        "MB" => memory(1024.0 * 1024.0),
        "ms" => time(1e3),
        "s" => time(1e6),
        "min" => time(60e6),
        _ => Vec::new(),
    }
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

/// A whole number since 12: also with a fraction or an exponent, then rounded.
fn integer(value: &str, unit: &str, major: u16) -> Number {
    let text = value.trim_start_matches(is_space);
    let (number, rest) = match c_integer(text) {
        Some((number, rest)) if !rest.starts_with(['.', 'e', 'E']) => (number, rest),
        Some(_) if is_hexadecimal(text) => return Number::Undecided,
        // Without a digit before it, only a point at the very beginning is read: neither " .5" nor "-.5".
        None if !value.starts_with('.') => return Number::Malformed,
        _ => match c_real(text) {
            Some(found) => found,
            None => return Number::Malformed,
        },
    };
    match in_own_unit(number, rest, unit, major) {
        Number::Between(low, high) => Number::Between(low.round_ties_even(), high.round_ties_even()),
        other => other,
    }
}

/// A whole number before 12: no fraction, no exponent; smaller units are rounded down.
fn old_integer(value: &str, unit: &str, major: u16) -> Number {
    let Some((number, rest)) = c_integer(value.trim_start_matches(is_space)) else {
        return Number::Malformed;
    };
    if !(f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number) {
        return Number::exactly(number);
    }
    match in_own_unit(number, rest, unit, major) {
        Number::Between(low, high) => Number::Between(low.trunc(), high.trunc()),
        other => other,
    }
}

fn real(value: &str, unit: &str, major: u16) -> Number {
    let text = value.trim_start_matches(is_space);
    if is_hexadecimal(text) {
        return Number::Undecided;
    }
    let Some((number, rest)) = c_real(text) else { return Number::Malformed };
    match in_own_unit(number, rest, unit, major) {
        // The limits of the table have six digits.
        Number::Between(low, high) => Number::Between(low - low.abs() * 1e-5, high + high.abs() * 1e-5),
        other => other,
    }
}

/// `number` with the unit that `rest` names, in the unit of the parameter.
fn in_own_unit(number: f64, rest: &str, unit: &str, major: u16) -> Number {
    let written = rest.trim_matches(is_space);
    if written.is_empty() {
        return Number::exactly(number);
    }
    let scales = scales(unit, major);
    let Some(at) = scales.iter().position(|(name, _)| *name == written) else { return Number::BadUnit };
    let converted = number * scales[at].1;
    // A fraction is rounded to a multiple of the next smaller unit.
    match scales.get(at + 1) {
        Some((_, smaller)) => Number::exactly((converted / smaller).round_ties_even() * smaller),
        None => Number::exactly(converted),
    }
}

fn is_hexadecimal(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    digits.starts_with("0x") || digits.starts_with("0X")
}

/// As C's strtol with base 0: decimal, `0x` hexadecimal, `0` octal. The number, and what follows it.
fn c_integer(text: &str) -> Option<(f64, &str)> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (base, digits) =
        if is_hexadecimal(unsigned) && unsigned.get(2..)?.starts_with(|c: char| c.is_ascii_hexdigit()) {
            (16, unsigned.get(2..)?)
        } else if unsigned.starts_with('0') {
            (8, unsigned)
        } else {
            (10, unsigned)
        };
    let end = digits.find(|c: char| !c.is_digit(base)).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let number = digits
        .chars()
        .filter_map(|digit| digit.to_digit(base))
        .fold(0.0, |sum, digit| sum * f64::from(base) + f64::from(digit));
    Some((if text.starts_with('-') { -number } else { number }, rest))
}

/// As C's strtod for decimal numbers and infinity. The number, and what follows it.
fn c_real(text: &str) -> Option<(f64, &str)> {
    let bytes = text.as_bytes();
    let mut at = usize::from(text.starts_with(['+', '-']));
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    for word in ["infinity", "inf"] {
        if text.get(at..at + word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word)) {
            return Some((sign * f64::INFINITY, text.get(at + word.len()..)?));
        }
    }
    let digits = |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(at);
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if whole + fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    } else if whole == 0 {
        return None;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        if exponent > 0 {
            at += 1 + sign + exponent;
        }
    }
    Some((text.get(..at)?.parse().ok()?, text.get(at..)?))
}
