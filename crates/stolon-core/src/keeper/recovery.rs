//! Recovery and standby settings (docs: "Parameters that the cluster manages").

use stolon_model::{
    ArchiveRecoverySettings, InstanceStatus, InstanceUid, Parameters, RecoveryTargetSettings,
    StandbySettings, replication_name,
};

use crate::postgres::{Recovery, Version, parameter};

/// How a server starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryMode {
    /// As a primary.
    #[default]
    None,
    /// As a standby, until promoted.
    Standby,
    /// Recovering to a target, then promoting itself.
    Recovery,
}

/// An instance of this cluster to stream from. The connection string is made where the passwords are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Advertised address.
    pub host: String,
    /// Advertised port.
    pub port: String,
    /// `application_name` there, which is also the name of our slot.
    pub application_name: String,
    /// What may be answered when whoever listens there asks for a password.
    pub passwords: PasswordProtocol,
    /// Whether logical slots are copied from there.
    pub slots: UpstreamSlots,
}

/// Whether logical slots are copied from the instance that is streamed from, which needs a database to ask in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamSlots {
    /// No connection to a database is named.
    #[default]
    Left,
    /// The standby's worker asks for them in a database.
    Copied,
}

impl Upstream {
    /// Stream from there, as instance `us`.
    pub fn new(host: &str, port: &str, us: &InstanceUid) -> Self {
        Upstream {
            host: host.to_owned(),
            port: port.to_owned(),
            application_name: replication_name(us),
            passwords: PasswordProtocol::default(),
            slots: UpstreamSlots::default(),
        }
    }

    /// The same, with passwords proven as the cluster stores them.
    pub fn with_passwords(self, passwords: PasswordProtocol) -> Self {
        Upstream { passwords, ..self }
    }
}

/// How a password is proven to a server that nothing proves (docs: design/005-who-answers.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PasswordProtocol {
    /// By SCRAM, from which whoever asks learns nothing.
    #[default]
    Scram,
    /// By MD5 as well: the cluster stores what only that can be checked against. Whoever asks can guess at leisure.
    ScramOrMd5,
}

impl PasswordProtocol {
    /// What an instance stores, by the word of its keeper.
    pub fn stored_by(status: &InstanceStatus) -> Self {
        if status.stores_md5 { Self::ScramOrMd5 } else { Self::Scram }
    }

    /// What the cluster stores, from its `password_encryption`, whose default was `md5` before 14
    /// (PostgreSQL manual, "Authentication"; release notes 14).
    pub fn of(parameters: &Parameters, version: Version) -> Self {
        let set = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("password_encryption"));
        let is_scram = match set {
            Some((_, value)) => value.trim().eq_ignore_ascii_case("scram-sha-256"),
            None => version.stores_scram_by_default(),
        };
        if is_scram { Self::Scram } else { Self::ScramOrMd5 }
    }
}

/// Recovery and standby settings with the mode that they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoverySettings {
    /// How the server starts.
    pub mode: RecoveryMode,
    /// Whom to stream from within the cluster.
    pub upstream: Option<Upstream>,
    /// Everything else: `primary_slot_name`, `restore_command`, …; values raw.
    pub parameters: Parameters,
}

impl RecoverySettings {
    /// A standby of an instance of this cluster.
    pub fn internal_standby(upstream: Upstream, version: Version) -> Self {
        let mut settings = Self {
            mode: RecoveryMode::Standby,
            upstream: None,
            parameters: recovery_parameters(None, None, None, version),
        };
        settings.parameters.insert("primary_slot_name".to_owned(), upstream.application_name.clone());
        settings.upstream = Some(upstream);
        settings
    }

    /// A standby of a primary outside the cluster.
    pub fn external_standby(
        standby: Option<&StandbySettings>,
        archive: Option<&ArchiveRecoverySettings>,
        version: Version,
    ) -> Self {
        let parameters = recovery_parameters(standby, archive, None, version);
        Self { mode: RecoveryMode::Standby, upstream: None, parameters }
    }

    /// Recovery to a target.
    pub fn to_target(
        archive: Option<&ArchiveRecoverySettings>,
        target: Option<&RecoveryTargetSettings>,
        version: Version,
    ) -> Self {
        let parameters = recovery_parameters(None, archive, target, version);
        Self { mode: RecoveryMode::Recovery, upstream: None, parameters }
    }

    /// Names of the parameters that differ from `other`, `primary_conninfo` among them.
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let mut names: Vec<&str> = self
            .parameters
            .keys()
            .chain(other.parameters.keys())
            .filter(|name| self.parameters.get(*name) != other.parameters.get(*name))
            .map(String::as_str)
            .collect();
        if self.upstream != other.upstream {
            names.push("primary_conninfo");
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The parameters that recovery settings stand for. `recovery_target_timeline=latest` is written only where it
/// is not PostgreSQL's default: it would make a promoted primary ask for a restart.
pub fn recovery_parameters(
    standby: Option<&StandbySettings>,
    archive: Option<&ArchiveRecoverySettings>,
    target: Option<&RecoveryTargetSettings>,
    version: Version,
) -> Parameters {
    let mut parameters = Parameters::new();
    let mut set = |name: &str, value: &str| {
        if !value.is_empty() {
            parameters.insert(name.to_owned(), value.to_owned());
        }
    };
    if let Some(standby) = standby {
        set("primary_conninfo", &standby.primary_conninfo);
        set("primary_slot_name", &standby.primary_slot_name);
        set("recovery_min_apply_delay", &standby.recovery_min_apply_delay);
    }
    match target {
        None if version.follows_latest_timeline() => {}
        None => set("recovery_target_timeline", "latest"),
        Some(target) => {
            set("recovery_target", &target.recovery_target);
            set("recovery_target_lsn", &target.recovery_target_lsn);
            set("recovery_target_name", &target.recovery_target_name);
            set("recovery_target_time", &target.recovery_target_time);
            set("recovery_target_xid", &target.recovery_target_xid);
            set("recovery_target_timeline", &target.recovery_target_timeline);
            set("recovery_target_action", "promote");
        }
    }
    if let Some(archive) = archive {
        parameters.insert("restore_command".to_owned(), archive.restore_command.clone());
    }
    parameters
}

/// The `recovery_target*` parameters of which PostgreSQL takes only one.
pub fn exclusive_targets(parameters: &Parameters) -> Vec<&str> {
    let is_target = |name: &str| parameter(name).is_some_and(|found| found.recovery == Recovery::Target);
    parameters.keys().map(String::as_str).filter(|name| is_target(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V15: Version = Version { major: 15, minor: 4 };
    const V11: Version = Version { major: 11, minor: 0 };

    fn pairs(parameters: &Parameters) -> Vec<(&str, &str)> {
        parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    #[test]
    fn each_setting_becomes_its_parameter() {
        let standby = StandbySettings {
            primary_conninfo: "host=legacy".into(),
            primary_slot_name: "slot".into(),
            recovery_min_apply_delay: "5min".into(),
        };
        let archive = ArchiveRecoverySettings { restore_command: String::new() };
        let target =
            RecoveryTargetSettings { recovery_target_time: "2026-01-01".into(), ..Default::default() };
        assert_eq!(
            pairs(&recovery_parameters(Some(&standby), None, None, V15)),
            [
                ("primary_conninfo", "host=legacy"),
                ("primary_slot_name", "slot"),
                ("recovery_min_apply_delay", "5min")
            ]
        );
        assert_eq!(pairs(&recovery_parameters(None, Some(&archive), None, V15)), [("restore_command", "")]);
        assert_eq!(pairs(&recovery_parameters(None, None, None, V15)), []);
        assert_eq!(
            pairs(&recovery_parameters(None, None, None, V11)),
            [("recovery_target_timeline", "latest")]
        );
        assert_eq!(
            pairs(&recovery_parameters(None, None, Some(&target), V11)),
            [("recovery_target_action", "promote"), ("recovery_target_time", "2026-01-01")]
        );
    }

    #[test]
    fn a_new_address_of_the_primary_is_a_difference_in_its_connection_string() {
        let us = InstanceUid::from("aa");
        let here = RecoverySettings::internal_standby(Upstream::new("10.0.0.1", "5432", &us), V15);
        let there = RecoverySettings::internal_standby(Upstream::new("10.0.0.2", "5432", &us), V15);
        assert_eq!(here.differences(&there), ["primary_conninfo"]);
        assert_eq!(here.differences(&here), Vec::<&str>::new());
        assert_eq!(RecoverySettings::default().differences(&here), ["primary_conninfo", "primary_slot_name"]);
    }

    #[test]
    fn two_targets_at_once_are_seen() {
        let target = RecoveryTargetSettings {
            recovery_target_time: "2026-01-01".into(),
            recovery_target_xid: "7".into(),
            recovery_target_timeline: "3".into(),
            ..Default::default()
        };
        let parameters = recovery_parameters(None, None, Some(&target), V15);
        assert_eq!(exclusive_targets(&parameters), ["recovery_target_time", "recovery_target_xid"]);
    }
}
