//! Versions of PostgreSQL: reading them, and one predicate for each difference that matters.

/// A version such as 15.4 or 9.6 (`major` 9, `minor` 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// `15` of 15.4, `9` of 9.6.7.
    pub major: u16,
    /// `4` of 15.4, `6` of 9.6.7; 0 when absent.
    pub minor: u16,
}

impl Version {
    /// Reads the output of `postgres -V`: the digits and dots after `(PostgreSQL) `.
    pub fn from_banner(banner: &str) -> Option<Self> {
        let (_, rest) = banner.split_once("(PostgreSQL) ")?;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        Self::from_numbers(&rest[..end])
    }

    /// Reads `15`, `15.4` or `9.6.7`; parts after the second are ignored. Also the text of `PG_VERSION`.
    pub fn from_numbers(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = match parts.next() {
            None | Some("") => 0,
            Some(part) => part.parse().ok()?,
        };
        Some(Self { major, minor })
    }

    /// The number that must be equal for binaries and data to fit: 15 for 15.4, 9.6 for 9.6.7.
    pub fn same_major(self, data: Self) -> bool {
        self.major == data.major && (self.major >= 10 || self.minor == data.minor)
    }

    /// Recovery settings live in `postgresql.conf`, with `standby.signal` and `recovery.signal`
    /// (release notes 12, "Move recovery.conf settings into postgresql.conf").
    pub fn has_signal_files(self) -> bool {
        self.major >= 12
    }

    /// `pg_wal` and `pg_xact` instead of `pg_xlog` and `pg_clog` (release notes 10).
    pub fn has_pg_wal(self) -> bool {
        self.major >= 10
    }

    /// `pg_basebackup --slot` exists (release notes 9.6).
    pub fn base_backup_takes_slot(self) -> bool {
        self >= Self { major: 9, minor: 6 }
    }

    /// `pg_replication_slots.temporary` exists (release notes 10).
    pub fn has_temporary_slots(self) -> bool {
        self.major >= 10
    }

    /// `pg_replication_slots.wal_status` exists (release notes 13).
    pub fn has_wal_status(self) -> bool {
        self.major >= 13
    }

    /// `pg_replication_slots.synced` and `invalidation_reason` exist (release notes 17).
    pub fn has_slot_synchronisation(self) -> bool {
        self.major >= 17
    }

    /// `postgres -C` computes settings that need the libraries loaded, such as `shared_memory_size`
    /// (release notes 15), so that it goes almost all the way of a start.
    pub fn computes_settings_offline(self) -> bool {
        self.major >= 15
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl From<Version> for stolon_model::PostgresVersion {
    fn from(version: Version) -> Self {
        Self { major: version.major.into(), minor: version.minor.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banners_are_read_like_the_reference_reads_them() {
        for (banner, expected) in [
            ("postgres (PostgreSQL) 9.6.7", (9, 6)),
            ("postgres (PostgreSQL) 10beta1", (10, 0)),
            ("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n", (15, 20)),
            ("postgres (PostgreSQL) 18devel", (18, 0)),
        ] {
            let version = Version::from_banner(banner).expect(banner);
            assert_eq!((version.major, version.minor), expected, "{banner}");
        }
        assert_eq!(Version::from_banner("postgres 15"), None);
        assert_eq!(Version::from_numbers("x"), None);
    }

    #[test]
    fn data_of_another_major_is_told_apart() {
        let v = |text| Version::from_numbers(text).unwrap();
        assert!(v("15.4").same_major(v("15")));
        assert!(!v("15.4").same_major(v("14")));
        assert!(!v("9.6.1").same_major(v("9.5")));
    }
}
