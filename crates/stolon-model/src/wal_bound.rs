//! How much WAL replication slots may hold.

/// What `maxSlotWalKeepSize` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotWalBound {
    /// Each keeper goes by the room on its own file system.
    #[default]
    FromFreeSpace,
    /// There is no bound: what a dead standby's slot holds may fill the file system.
    Unlimited,
    /// So many megabytes of 1024 kilobytes, PostgreSQL's unit of `max_slot_wal_keep_size`.
    Megabytes(u64),
}

impl SlotWalBound {
    /// `auto`, `unlimited`, or a whole number with a unit of PostgreSQL (`MB`, `GB`, `TB`; manual, "Parameter Names and Values"), at least
    /// 1 MB. None: it is none of these, or more than PostgreSQL takes.
    pub fn parse(text: &str) -> Option<Self> {
        /// PostgreSQL keeps the number of megabytes in 31 bits.
        const MOST: u64 = i32::MAX as u64;
        match text {
            "auto" => return Some(Self::FromFreeSpace),
            "unlimited" => return Some(Self::Unlimited),
            _ => {}
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits)?;
        let in_megabytes = match unit.trim_start() {
            "MB" => 1,
            "GB" => 1 << 10,
            "TB" => 1 << 20,
            _ => return None,
        };
        let megabytes = number.parse::<u64>().ok()?.checked_mul(in_megabytes)?;
        (1..=MOST).contains(&megabytes).then_some(Self::Megabytes(megabytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_postgresql_reads_them() {
        for (text, expected) in [
            ("auto", Some(SlotWalBound::FromFreeSpace)),
            ("unlimited", Some(SlotWalBound::Unlimited)),
            ("64MB", Some(SlotWalBound::Megabytes(64))),
            ("10 GB", Some(SlotWalBound::Megabytes(10_240))),
            ("1TB", Some(SlotWalBound::Megabytes(1 << 20))),
            ("2047TB", Some(SlotWalBound::Megabytes(2047 << 20))),
            ("2048TB", None),
            ("99999999999999999999GB", None),
            ("0MB", None),
            ("-1", None),
            ("64", None),
            ("1.5GB", None),
            ("64mb", None),
            ("GB", None),
            ("", None),
        ] {
            assert_eq!(SlotWalBound::parse(text), expected, "{text:?}");
        }
    }
}
