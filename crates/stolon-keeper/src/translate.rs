//! Between the words of the decisions and those of PostgreSQL's driver.

use stolon_core::keeper::{
    BinaryVersion, Config, ConfigMerge, Data, DataKind, Demands, HbaDatabase, HbaLine, HbaUser, Present,
    RecoveryMode, Upstream,
};
use stolon_postgres::quote::hba_name;
use stolon_postgres::{
    ConfigFiles, ControlData, DataDirectory, LocalPostgres, LocalRole, Merge, Recovery, Source, Version,
};

pub(crate) fn version(version: Version) -> BinaryVersion {
    BinaryVersion { major: version.major, minor: version.minor }
}

pub(crate) fn data(facts: DataDirectory) -> Data {
    match facts {
        DataDirectory::Absent | DataDirectory::Empty => Data::Absent,
        DataDirectory::Partial { missing } => Data::Incomplete { missing },
        DataDirectory::Initialised(facts) => Data::Present(Present {
            version: version(facts.version),
            kind: match facts.role {
                LocalRole::Primary => DataKind::Primary,
                LocalRole::Standby => DataKind::Standby,
            },
            system_identifier: facts.system_identifier,
        }),
    }
}

pub(crate) fn demands(control: &ControlData) -> Demands {
    Demands {
        max_connections: control.max_connections,
        max_worker_processes: control.max_worker_processes,
        max_wal_senders: control.max_wal_senders,
        max_prepared_transactions: control.max_prepared_transactions,
        max_locks_per_transaction: control.max_locks_per_transaction,
        track_commit_timestamp: control.track_commit_timestamp,
    }
}

pub(crate) fn source(upstream: &Upstream) -> Source {
    Source {
        host: upstream.host.clone(),
        port: upstream.port.clone(),
        application_name: upstream.application_name.clone(),
    }
}

pub(crate) fn merge(merge: ConfigMerge) -> Merge {
    match merge {
        ConfigMerge::Replace => Merge::Replace,
        ConfigMerge::WithExisting => Merge::WithExisting,
    }
}

/// The text of the configuration; here the password joins the connection string.
pub(crate) fn files(config: &Config, postgres: &LocalPostgres) -> ConfigFiles {
    let mut parameters = config.recovery.parameters.clone();
    if let Some(upstream) = &config.recovery.upstream {
        parameters.insert("primary_conninfo".to_owned(), postgres.replication_conninfo(&source(upstream)));
    }
    let mode = match config.recovery.mode {
        RecoveryMode::None => stolon_postgres::RecoveryMode::None,
        RecoveryMode::Standby => stolon_postgres::RecoveryMode::Standby,
        RecoveryMode::Recovery => stolon_postgres::RecoveryMode::Recovery,
    };
    ConfigFiles {
        parameters: config.parameters.clone(),
        recovery: Recovery { mode, parameters },
        hba: config.hba.iter().map(hba_line).collect(),
    }
}

fn hba_line(line: &HbaLine) -> String {
    let rule = match line {
        HbaLine::Verbatim(text) => return text.clone(),
        HbaLine::Rule(rule) => rule,
    };
    let database = match rule.database {
        HbaDatabase::Named(name) => name,
        HbaDatabase::Replication => "replication",
        HbaDatabase::All => "all",
    };
    let user = match &rule.user {
        HbaUser::Named(name) => hba_name(name),
        HbaUser::All => "all".into(),
    };
    match rule.origin.columns() {
        (kind, None) => format!("{kind} {database} {user} {}", rule.method),
        (kind, Some(address)) => format!("{kind} {database} {user} {address} {}", rule.method),
    }
}
