//! The parameters of PostgreSQL that are not simply the operator's: one row says everything that a keeper has to know of each.
//! Types, limits and whether a change needs a restart are PostgreSQL's own words, kept by major in `settings/pg_settings.tsv`
//! ([`crate::settings::needs_restart`]).

/// Who sets a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The operator, with `pgParameters`.
    Operator,
    /// The operator, as far as the cluster can live with it.
    Shared,
    /// The cluster itself: a value given for it is ignored, with a notice.
    Managed,
    /// The keeper, or another field of the specification: a value given for it is refused.
    Reserved,
}

/// What a parameter has to do with recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// No special meaning.
    None,
    /// It means something only to a server in recovery (manual, "Write Ahead Log", archive recovery and recovery target; "Replication",
    /// standby servers). A primary may wait for a restart because of it that would change nothing.
    Setting,
    /// The same, and one of the targets of which PostgreSQL takes only one (manual, "Recovery Target").
    Target,
}

/// What a parameter is to a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// In lower case.
    pub name: &'static str,
    /// Who sets it.
    pub owner: Owner,
    /// Whether it is reported, and captured at initialisation: the sentinel takes what the first primary reports into the specification,
    /// where nothing may stand that is made here.
    pub is_reported: bool,
    /// PostgreSQL's default of a limit that a standby must not have below the primary's (manual, "Hot Standby", administrator's
    /// overview); none: it is no such limit.
    pub standby_limit: Option<u64>,
    /// What it has to do with recovery.
    pub recovery: Recovery,
    /// Its value is made here and changes with the topology: PostgreSQL finds nothing wrong with it, and is not asked.
    pub is_made_here: bool,
    /// Our own default, which the operator may override.
    pub own_default: Option<&'static str>,
    /// PostgreSQL's default for a file that it looks for in PGDATA unless the name is absolute (manual, "Connections and
    /// Authentication", SSL); none: it names no such file.
    pub file_in_data: Option<&'static str>,
    /// It lists libraries (manual, "Shared Library Preloading").
    pub is_library_list: bool,
}

const fn of(name: &'static str) -> Parameter {
    Parameter {
        name,
        owner: Owner::Operator,
        is_reported: true,
        standby_limit: None,
        recovery: Recovery::None,
        is_made_here: false,
        own_default: None,
        file_in_data: None,
        is_library_list: false,
    }
}

impl Parameter {
    const fn managed(self) -> Self {
        Self { owner: Owner::Managed, ..self }.unreported()
    }

    const fn reserved(self) -> Self {
        Self { owner: Owner::Reserved, ..self }.unreported()
    }

    const fn shared(self) -> Self {
        Self { owner: Owner::Shared, ..self }
    }

    const fn unreported(self) -> Self {
        Self { is_reported: false, ..self }
    }

    const fn standby_limit(self, default: u64) -> Self {
        Self { standby_limit: Some(default), ..self }
    }

    const fn recovery(self) -> Self {
        Self { recovery: Recovery::Setting, ..self }
    }

    const fn target(self) -> Self {
        Self { recovery: Recovery::Target, ..self }
    }

    const fn made_here(self) -> Self {
        Self { is_made_here: true, ..self }
    }

    const fn own_default(self, value: &'static str) -> Self {
        Self { own_default: Some(value), ..self }
    }

    const fn file(self, default: &'static str) -> Self {
        Self { file_in_data: Some(default), ..self }
    }

    const fn libraries(self) -> Self {
        Self { is_library_list: true, ..self }
    }
}

/// A standby asks for WAL again after this long. PostgreSQL's own 5 s is how long every commit would hang when a
/// synchronous primary was restarted.
pub const WAL_RETRIEVE_RETRY_INTERVAL: Parameter = of("wal_retrieve_retry_interval").own_default("200ms");

/// A synchronous primary that recovers from the crash of a session opens by itself, with what no standby has confirmed
/// in plain sight. When it ends instead, the keeper starts it anew, behind the start gate.
pub const RESTART_AFTER_CRASH: Parameter = of("restart_after_crash").own_default("off").made_here();

/// After a crash PostgreSQL opens and syncs each of its files, one after the other, before it recovers: most of the time that a restart takes.
/// The kernel does it for a whole file system at once.
pub const RECOVERY_INIT_SYNC_METHOD: Parameter = of("recovery_init_sync_method").own_default("syncfs");

/// Every parameter that is not simply the operator's, each once.
pub const PARAMETERS: &[Parameter] = &[
    // What it would set no specification shows, and no other keeper has.
    of("allow_alter_system").managed(),
    of("archive_cleanup_command").recovery(),
    // Where files lie is the keeper's business: a foreign `hba_file` would make the generated one ineffective.
    of("config_file").reserved(),
    of("data_directory").reserved(),
    of("external_pid_file").reserved(),
    of("hba_file").reserved(),
    of("hot_standby").managed(),
    of("ident_file").reserved(),
    of("listen_addresses").managed(),
    of("local_preload_libraries").libraries(),
    of("max_connections").standby_limit(100),
    of("max_locks_per_transaction").standby_limit(64),
    of("max_prepared_transactions").standby_limit(0),
    of("max_replication_slots").managed().made_here(),
    // A change follows the room on the disk: what the first primary has is no wish of the operator's.
    of("max_slot_wal_keep_size").shared().unreported().made_here(),
    of("max_wal_senders").managed().standby_limit(10),
    of("max_worker_processes").standby_limit(8),
    of("port").managed(),
    of("primary_conninfo").reserved().recovery(),
    of("primary_slot_name").reserved().recovery(),
    of("promote_trigger_file").recovery(),
    of("recovery_end_command").recovery(),
    RECOVERY_INIT_SYNC_METHOD,
    of("recovery_min_apply_delay").unreported().recovery(),
    of("recovery_target").reserved().target(),
    of("recovery_target_action").reserved().recovery(),
    of("recovery_target_inclusive").recovery(),
    of("recovery_target_lsn").reserved().target(),
    of("recovery_target_name").reserved().target(),
    of("recovery_target_time").reserved().target(),
    of("recovery_target_timeline").reserved().recovery(),
    of("recovery_target_xid").reserved().target(),
    RESTART_AFTER_CRASH,
    of("restore_command").unreported().recovery(),
    of("session_preload_libraries").libraries(),
    of("shared_preload_libraries").libraries(),
    of("ssl_ca_file").file(""),
    of("ssl_cert_file").file("server.crt"),
    of("ssl_crl_dir").file(""),
    of("ssl_crl_file").file(""),
    of("ssl_dh_params_file").file(""),
    of("ssl_key_file").file("server.key"),
    // Names of slots that keepers have made change with the topology, and so does who copies slots.
    of("sync_replication_slots").shared().unreported().made_here(),
    of("synchronized_standby_slots").shared().unreported().made_here(),
    of("synchronous_standby_names").managed().made_here(),
    of("unix_socket_directories").managed(),
    of("wal_keep_segments").shared().unreported(),
    of("wal_keep_size").shared().unreported(),
    of("wal_level").shared(),
    of("wal_log_hints").shared().unreported(),
    WAL_RETRIEVE_RETRY_INTERVAL,
];

/// The row of a parameter; none: it is simply the operator's. Names match without regard to case.
pub fn parameter(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name.eq_ignore_ascii_case(name))
}

/// Who sets a parameter.
pub fn owner(name: &str) -> Owner {
    parameter(name).map_or(Owner::Operator, |parameter| parameter.owner)
}

/// True for a parameter that means nothing to a server that is not in recovery.
pub fn is_recovery_parameter(name: &str) -> bool {
    parameter(name).is_some_and(|parameter| parameter.recovery != Recovery::None)
}

/// True for a parameter that is reported and captured.
pub fn is_reported(name: &str) -> bool {
    parameter(name).is_none_or(|parameter| parameter.is_reported)
}

/// True for a limit that a standby must not have below the primary's.
pub fn is_standby_limit(name: &str) -> bool {
    parameter(name).is_some_and(|parameter| parameter.standby_limit.is_some())
}

/// True for a parameter whose value is made here and changes with the topology.
pub fn is_made_here(name: &str) -> bool {
    parameter(name).is_some_and(|parameter| parameter.is_made_here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    #[test]
    fn each_parameter_stands_once_in_order_and_exists() {
        for pair in PARAMETERS.windows(2) {
            assert!(pair[0].name < pair[1].name, "{} stands before {}", pair[0].name, pair[1].name);
        }
        for parameter in PARAMETERS {
            let known = settings::MAJORS.into_iter().any(|major| settings::exists(major, parameter.name));
            assert!(known, "{} is no parameter of any major", parameter.name);
        }
    }

    #[test]
    fn what_is_made_or_refused_here_never_becomes_the_specification() {
        for parameter in PARAMETERS {
            let is_ours = matches!(parameter.owner, Owner::Managed | Owner::Reserved);
            assert!(!(is_ours && is_reported(parameter.name)), "{}", parameter.name);
        }
        assert!(is_reported("work_mem") && is_reported("Max_Connections"));
        assert!(!is_reported("Port") && !is_reported("restore_command"));
    }

    #[test]
    fn limits_of_standbys_are_those_of_the_control_data() {
        let limits: Vec<&str> = PARAMETERS
            .iter()
            .filter(|parameter| parameter.standby_limit.is_some())
            .map(|parameter| parameter.name)
            .collect();
        let demanded = crate::keeper::Demands::default().limits().map(|(name, _)| name);
        assert_eq!(limits, demanded);
    }
}
