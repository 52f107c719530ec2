//! The differences between PostgreSQL versions that decide what is wanted of an instance.

/// Version of the PostgreSQL binaries: 15.4, or 9.6 (`major` 9, `minor` 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BinaryVersion {
    /// `15` of 15.4, `9` of 9.6.7.
    pub major: u16,
    /// `4` of 15.4, `6` of 9.6.7.
    pub minor: u16,
}

impl BinaryVersion {
    /// `wal_level` knows `replica` (release notes 9.6).
    pub fn has_wal_level_replica(self) -> bool {
        self >= Self { major: 9, minor: 6 }
    }

    /// `wal_keep_size` instead of `wal_keep_segments` (release notes 13).
    pub fn has_wal_keep_size(self) -> bool {
        self.major >= 13
    }

    /// `wal_retrieve_retry_interval` exists (release notes 9.5).
    pub fn has_wal_retrieve_retry_interval(self) -> bool {
        self >= Self { major: 9, minor: 5 }
    }

    /// `track_commit_timestamp` exists (release notes 9.5).
    pub fn has_track_commit_timestamp(self) -> bool {
        self >= Self { major: 9, minor: 5 }
    }

    /// Recovery follows the latest timeline unless told otherwise (release notes 12).
    pub fn follows_latest_timeline(self) -> bool {
        self.major >= 12
    }

    /// A reload is enough for a recovery parameter (release notes 12, 13 and 14).
    pub fn reloads_recovery_parameter(self, name: &str) -> bool {
        match name {
            "recovery_min_apply_delay" => self.major >= 12,
            "primary_conninfo" | "primary_slot_name" => self.major >= 13,
            "restore_command" => self.major >= 14,
            _ => false,
        }
    }

    /// True when binaries of this version can run data of that one.
    pub fn runs_data_of(self, data: BinaryVersion) -> bool {
        self.major == data.major && (self.major >= 10 || self.minor == data.minor)
    }
}

impl std::fmt::Display for BinaryVersion {
    /// The part that data and binaries must share: `15`, or `9.6`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.major {
            10.. => write!(f, "{}", self.major),
            _ => write!(f, "{}.{}", self.major, self.minor),
        }
    }
}
