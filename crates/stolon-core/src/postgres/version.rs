//! Versions of PostgreSQL: reading them, and one predicate for each difference that matters, with its source in the
//! manual's release notes.

use stolon_model::PostgresVersion;

use crate::settings::MAJORS;

/// A version such as 15.4 or 9.6 (`major` 9, `minor` 6), of binaries or of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// `15` of 15.4, `9` of 9.6.7.
    pub major: u16,
    /// `4` of 15.4, `6` of 9.6.7; 0 when absent.
    pub minor: u16,
}

/// What a keeper can do with binaries of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// They lack what a keeper asks of a server: positions are told by `pg_current_wal_flush_lsn` and its kin since 10 (release notes 10,
    /// "Rename WAL-related functions and views to reference lsn instead of location").
    TooOld,
    /// Tested.
    Known,
    /// Newer than this keeper: run like the newest that is known.
    Newer,
}

const V9_6: Version = Version { major: 9, minor: 6 };

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

    /// Whether a keeper can run these binaries.
    pub fn support(self) -> Support {
        if self.major < *MAJORS.start() {
            Support::TooOld
        } else if self.major > *MAJORS.end() {
            Support::Newer
        } else {
            Support::Known
        }
    }

    /// Binaries of this version can run data of that one: 15.4 those of 15, 9.6.7 those of 9.6
    /// (manual, "Upgrading a PostgreSQL Cluster").
    pub fn runs_data_of(self, data: Self) -> bool {
        self.major == data.major && (self.major >= 10 || self.minor == data.minor)
    }

    /// `wal_level` knows `replica` (release notes 9.6).
    pub fn has_wal_level_replica(self) -> bool {
        self >= V9_6
    }

    /// `wal_keep_size` instead of `wal_keep_segments` (release notes 13).
    pub fn has_wal_keep_size(self) -> bool {
        self.major >= 13
    }

    /// Recovery follows the latest timeline unless told otherwise (release notes 12).
    pub fn follows_latest_timeline(self) -> bool {
        self.major >= 12
    }

    /// A reload is enough for a recovery parameter: with settings in `postgresql.conf` (release notes 12), where `pg_settings` says so
    /// (release notes 13 and 14).
    pub fn reloads_recovery_parameter(self, name: &str) -> bool {
        self.has_signal_files() && !crate::settings::may_need_restart(self.major, name)
    }

    /// A standby can be told to receive nothing without being restarted, and a primary to wait for any so many (release notes 10 and 13).
    pub fn can_stop_receiving(self) -> bool {
        self.reloads_recovery_parameter("primary_conninfo")
    }

    /// `password_encryption` is `scram-sha-256` unless told otherwise (release notes 14).
    pub fn stores_scram_by_default(self) -> bool {
        self.major >= 14
    }

    /// A server that crashed can have the kernel sync whole file systems (release notes 14, `recovery_init_sync_method`).
    pub fn has_recovery_init_sync_method(self) -> bool {
        self.major >= 14
    }

    /// libpq knows `channel_binding` (release notes 13).
    pub fn has_channel_binding(self) -> bool {
        self.major >= 13
    }

    /// The functions that `pg_rewind` reads a server's files by can be granted (release notes 11; manual of `pg_rewind`, "Notes").
    pub fn can_grant_reading_files(self) -> bool {
        self.major >= 11
    }

    /// libpq knows `require_auth` and `sslcertmode` (release notes 16).
    pub fn has_require_auth(self) -> bool {
        self.major >= 16
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

    /// A wal sender answers `READ_REPLICATION_SLOT` (release notes 15).
    pub fn has_read_replication_slot(self) -> bool {
        self.major >= 15
    }

    /// `pg_rewind` fetches WAL by the target's `restore_command`: `--restore-target-wal` (release notes 13).
    pub fn rewinds_from_archive(self) -> bool {
        self.major >= 13
    }

    /// `pg_replication_slot_advance` exists (release notes 11).
    pub fn has_slot_advance(self) -> bool {
        self.major >= 11
    }

    /// `pg_replication_slots.wal_status` exists (release notes 13).
    pub fn has_wal_status(self) -> bool {
        self.major >= 13
    }

    /// `allow_alter_system` exists (release notes 17).
    pub fn has_allow_alter_system(self) -> bool {
        self.major >= 17
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
    /// The part that data and binaries must share: `15`, or `9.6`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.major {
            10.. => write!(f, "{}", self.major),
            _ => write!(f, "{}.{}", self.major, self.minor),
        }
    }
}

impl From<Version> for PostgresVersion {
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
    fn what_is_not_in_the_table_is_too_old_or_newer() {
        for (text, expected) in [
            ("9.6.24", Support::TooOld),
            ("10", Support::Known),
            ("18.4", Support::Known),
            ("19", Support::Newer),
        ] {
            assert_eq!(Version::from_numbers(text).unwrap().support(), expected, "{text}");
        }
    }

    #[test]
    fn data_of_another_major_is_told_apart() {
        let v = |text| Version::from_numbers(text).unwrap();
        assert!(v("15.4").runs_data_of(v("15")));
        assert!(!v("15.4").runs_data_of(v("14")));
        assert!(!v("9.6.1").runs_data_of(v("9.5")));
    }
}
