//! Positions in the write-ahead log.

use crate::json::{Decode, DecodeError, Encode, Encoder, Node, Shape};

/// A byte position in the write-ahead log. Prints as PostgreSQL does: `0/3000148`
/// (PostgreSQL manual, "pg_lsn Type"). On the wire a plain integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A timeline number (PostgreSQL manual, "Timelines"). 0 means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl std::fmt::Display for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is no log position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a log position of the form X/Y in hexadecimal")]
pub struct BadLsn(String);

impl std::str::FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

impl Lsn {
    /// Bytes by which `self` is ahead of `other`; negative when it is behind.
    pub fn ahead_of(self, other: Lsn) -> i64 {
        self.0.wrapping_sub(other.0) as i64
    }
}

macro_rules! integer_on_the_wire {
    ($($name:ident),*) => {$(
        impl Decode for $name {
            const SHAPE: Shape = Shape::Integer;

            fn decode_into(&mut self, node: &Node) -> Result<(), DecodeError> {
                self.0.decode_into(node)
            }
        }

        impl Encode for $name {
            fn encode_to(&self, out: &mut Encoder) {
                self.0.encode_to(out);
            }

            fn is_zero(&self) -> bool {
                self.0 == 0
            }
        }
    )*};
}

integer_on_the_wire!(Lsn, Timeline);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_and_print_like_postgresql() {
        for (text, position) in [("0/1512978", 22_096_248), ("0/3000060", 50_331_744), ("1/0", 1 << 32)] {
            assert_eq!(text.parse::<Lsn>(), Ok(Lsn(position)));
            assert_eq!(Lsn(position).to_string(), text);
        }
        assert!("3000060".parse::<Lsn>().is_err());
        assert!("0/G".parse::<Lsn>().is_err());
    }
}
