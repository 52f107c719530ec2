//! What of the cluster data makes a keeper's account run or load something, or lets somebody in who then can; and which of it is allowed
//! (docs: "Security").

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use stolon_model::{Advise, FollowConfig, Parameters, PitrConfig};

use super::parameters::ParameterProblem;

/// `pitrConfig.dataRestoreCommand`.
const DATA_RESTORE_COMMAND: &str = "dataRestoreCommand";
/// `restoreCommand` of either part of the specification.
const RESTORE_COMMAND: &str = "restore_command";
/// `standbySettings.primaryConninfo`. Whoever is copied decides who is superuser, and which functions there are.
const PRIMARY_CONNINFO: &str = "primary_conninfo";
/// A line of `pgHBA`.
const PG_HBA: &str = "pgHBA";

/// Parameters of PostgreSQL that name a command, a library or where libraries lie; that have the server write a file wherever they say;
/// or that say whose certificates are believed (PostgreSQL manual, "Server Configuration").
const PARAMETERS: [&str; 27] = [
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "config_file",
    "data_directory",
    "dynamic_library_path",
    "extension_control_path",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "include",
    "include_dir",
    "include_if_exists",
    "jit_provider",
    "krb_server_keyfile",
    "local_preload_libraries",
    "log_directory",
    "log_filename",
    "oauth_validator_libraries",
    PRIMARY_CONNINFO,
    "recovery_end_command",
    RESTORE_COMMAND,
    "session_preload_libraries",
    "shared_preload_libraries",
    "ssl_ca_file",
    "ssl_passphrase_command",
    "stats_temp_directory",
];

/// Methods of `pg_hba.conf` for which a client needs what only a password, or a certificate of our authority, proves; and `reject`.
const PROVEN: [&str; 5] = ["cert", "md5", "password", "reject", "scram-sha-256"];
/// Methods that ask for nothing, or ask somebody else, whom the line itself may name (PostgreSQL manual, "Authentication Methods").
const UNPROVEN: [&str; 10] =
    ["trust", "ident", "peer", "pam", "bsd", "ldap", "radius", "gss", "sspi", "oauth"];
/// First words of lines that read other files.
const INCLUDES: [&str; 3] = ["include", "include_if_exists", "include_dir"];

/// Which commands of the cluster data this keeper's operator allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreCommands {
    /// Whatever the store says, as in Stolon.
    #[default]
    All,
    /// These, by name and value, and no others.
    Listed(Arc<BTreeSet<(String, String)>>),
}

/// A line of a list of commands is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number} is not \"name = value\"")]
pub struct BadCommandLine {
    /// Counted from 1.
    pub number: usize,
}

/// Something of the cluster data that this keeper's operator has not allowed. The value may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} of the cluster data is not among the commands that this keeper is allowed")]
pub struct NotAllowed {
    name: &'static str,
}

impl Advise for NotAllowed {
    fn hint(&self) -> Option<Cow<'static, str>> {
        let name = self.name;
        let hint = format!(
            "if it is meant, add the line \"{name} = …\" with its exact value to the file of --allowed-commands"
        );
        Some(hint.into())
    }
}

impl StoreCommands {
    /// Reads a list: one `name = value` for each line, values as in the specification. Empty lines and lines that begin with `#` say nothing.
    ///
    /// # Errors
    /// The first line that is something else.
    pub fn listed(text: &str) -> Result<Self, BadCommandLine> {
        let mut listed = BTreeSet::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = line.split_once('=').filter(|(name, _)| !name.trim().is_empty());
            let (name, value) = entry.ok_or(BadCommandLine { number: index + 1 })?;
            listed.insert((canonical(name.trim()), value.trim().to_owned()));
        }
        Ok(Self::Listed(Arc::new(listed)))
    }

    fn allows(&self, name: &str, value: &str) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => {
                // Nothing is run, loaded or written.
                value.trim().is_empty() || listed.contains(&(canonical(name), value.trim().to_owned()))
            }
        }
    }

    fn demand(&self, name: &'static str, value: &str) -> Result<(), NotAllowed> {
        if self.allows(name, value) { Ok(()) } else { Err(NotAllowed { name }) }
    }

    /// # Errors
    /// The backup, or the archive, is fetched by a command that is not allowed.
    pub(super) fn check_restore(&self, pitr: &PitrConfig) -> Result<(), NotAllowed> {
        self.demand(DATA_RESTORE_COMMAND, &pitr.data_restore_command)?;
        let archive = pitr.archive_recovery_settings.as_ref();
        archive.map_or(Ok(()), |archive| self.demand(RESTORE_COMMAND, &archive.restore_command))
    }

    /// # Errors
    /// A primary outside is followed that is not allowed, or by a command that is not.
    pub(super) fn check_follow(&self, follow: &FollowConfig) -> Result<(), NotAllowed> {
        if let Some(standby) = &follow.standby_settings {
            self.demand(PRIMARY_CONNINFO, &standby.primary_conninfo)?;
        }
        let archive = follow.archive_recovery_settings.as_ref();
        archive.map_or(Ok(()), |archive| self.demand(RESTORE_COMMAND, &archive.restore_command))
    }

    /// Takes out of `parameters` what is not allowed, and says so. A library decides what its own parameters mean.
    pub(super) fn withhold(&self, parameters: &mut Parameters) -> Vec<ParameterProblem> {
        let mut problems = Vec::new();
        parameters.retain(|name, value| {
            let lower = name.to_ascii_lowercase();
            let is_harmless = !name.contains('.') && !PARAMETERS.contains(&lower.as_str());
            let stays = is_harmless || self.allows(&lower, value);
            if !stays {
                let sentence =
                    format!("{name} is left out: it is not among the commands that this keeper is allowed");
                problems.push(ParameterProblem { name: name.clone(), sentence });
            }
            stays
        });
        problems
    }

    /// Whether a line of `pgHBA` may stand in the file: it lets in nobody without a proof that we believe.
    pub(super) fn admits(&self, line: &str) -> bool {
        self.allows(PG_HBA, line) || demands_proof(line)
    }
}

/// Parameters have no case, the fields of the specification do.
fn canonical(name: &str) -> String {
    match name {
        DATA_RESTORE_COMMAND | PG_HBA => name.to_owned(),
        parameter => parameter.to_ascii_lowercase(),
    }
}

/// PostgreSQL takes quotation marks out of words wherever they stand, and joins a line that ends in a backslash with the next one. A line
/// that could be read in two ways demands nothing.
fn demands_proof(line: &str) -> bool {
    let plain = line.replace('"', "");
    let words: Vec<&str> =
        plain.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty()).collect();
    let names_one_of = |methods: &[&str]| words.iter().any(|word| methods.contains(word));
    let is_comment = words.first().is_none_or(|word| word.starts_with('#'));
    let reads_files = words.first().is_some_and(|word| INCLUDES.contains(word));
    let is_whole = !line.contains(['\\', '\n', '\r']);
    is_whole && (is_comment || (!reads_files && names_one_of(&PROVEN) && !names_one_of(&UNPROVEN)))
}

#[cfg(test)]
mod tests {
    use stolon_model::{ArchiveRecoverySettings, StandbySettings};

    use super::*;

    fn listed(text: &str) -> StoreCommands {
        StoreCommands::listed(text).unwrap()
    }

    #[test]
    fn a_list_is_read_line_by_line() {
        let list = listed("# ours\n\n Archive_Command = cp %p /a=b/%f \ndataRestoreCommand=x\n");
        assert!(list.allows("archive_command", "cp %p /a=b/%f"));
        assert!(list.allows(DATA_RESTORE_COMMAND, "x"));
        assert!(!list.allows("datarestorecommand", "x") && !list.allows("archive_command", "cp"));
        for text in ["x = 1\narchive_command", "x = 1\n= 3"] {
            assert_eq!(StoreCommands::listed(text), Err(BadCommandLine { number: 2 }), "{text}");
        }
    }

    #[test]
    fn parameters_that_run_load_or_write_something_are_left_out_unless_they_are_listed() {
        let list = listed("archive_command = good\npg_stat_statements.max = 100");
        for (name, value, stays) in [
            ("archive_command", "good", true),
            ("Archive_Command", "good", true),
            ("archive_command", "evil", false),
            ("ARCHIVE_COMMAND", "evil", false),
            ("archive_command", " ", true),
            ("work_mem", "evil", true),
            ("archive_mode", "on", true),
            ("shared_preload_libraries", "evil", false),
            ("log_directory", "/home/postgres/.ssh", false),
            ("include", "/tmp/x", false),
            ("pg_stat_statements.max", "100", true),
            ("plperl.on_init", "evil", false),
        ] {
            let mut parameters = Parameters::from([(name.to_owned(), value.to_owned())]);
            let problems = list.withhold(&mut parameters);
            assert_eq!((parameters.len() == 1, problems.is_empty()), (stays, stays), "{name} {value}");
            let mut parameters = Parameters::from([(name.to_owned(), value.to_owned())]);
            assert_eq!(StoreCommands::All.withhold(&mut parameters), [], "{name} {value}");
        }
    }

    #[test]
    fn a_line_of_pg_hba_must_demand_a_proof() {
        let list = listed("pgHBA = host app app 10.0.0.1/32 trust");
        for (line, admitted) in [
            ("host all all 0.0.0.0/0 md5", true),
            ("hostssl app app all scram-sha-256", true),
            ("hostssl app app all cert clientname=DN", true),
            ("host all all all reject # until Monday", true),
            ("# a remark", true),
            ("", true),
            ("host app app 10.0.0.1/32 trust", true),
            ("host app app 10.0.0.2/32 trust", false),
            ("local all all peer map=x", false),
            ("host all all all \"trust\"", false),
            ("host all all all tr\"us\"t", false),
            ("host md5 all all trust", false),
            ("host all all all ldap ldapserver=evil", false),
            ("host all all all radius radiusservers=evil", false),
            ("host all all all md5 \\", false),
            ("host all all all tru\\", false),
            ("include md5", false),
            ("\"include\" /tmp/md5", false),
            ("host all all all something-new", false),
        ] {
            assert_eq!(list.admits(line), admitted, "{line}");
            assert!(StoreCommands::All.admits(line), "{line}");
        }
    }

    #[test]
    fn backups_archives_and_primaries_outside_have_to_be_listed() {
        let list =
            listed("dataRestoreCommand = fetch %d\nrestore_command = get %f %p\nprimary_conninfo = host=a");
        let archive = |command: &str| Some(ArchiveRecoverySettings { restore_command: command.to_owned() });
        for (data, wal, refused) in [
            ("fetch %d", "get %f %p", None),
            ("fetch %d", "", None),
            ("evil", "get %f %p", Some(DATA_RESTORE_COMMAND)),
            ("fetch %d", "evil", Some(RESTORE_COMMAND)),
        ] {
            let mut pitr = PitrConfig::default();
            pitr.data_restore_command = data.to_owned();
            pitr.archive_recovery_settings = archive(wal);
            let expected = refused.map_or(Ok(()), |name| Err(NotAllowed { name }));
            assert_eq!(list.check_restore(&pitr), expected, "{data} {wal}");
            assert_eq!(StoreCommands::All.check_restore(&pitr), Ok(()));
        }
        for (conninfo, wal, refused) in [
            ("host=a", "get %f %p", None),
            ("", "", None),
            ("host=evil", "", Some(PRIMARY_CONNINFO)),
            ("host=a", "evil", Some(RESTORE_COMMAND)),
        ] {
            let mut follow = FollowConfig::default();
            let mut standby = StandbySettings::default();
            standby.primary_conninfo = conninfo.to_owned();
            follow.standby_settings = Some(standby);
            follow.archive_recovery_settings = archive(wal);
            let expected = refused.map_or(Ok(()), |name| Err(NotAllowed { name }));
            assert_eq!(list.check_follow(&follow), expected, "{conninfo} {wal}");
        }
    }
}
