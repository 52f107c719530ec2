//! A migration of a database into the cluster: the record in the cluster data (docs: design/010-migration.md).

use crate::json::{document, text_enum};
use crate::lsn::{Lsn, Timeline};
use crate::spec::Role;
use crate::time::Timestamp;

document! {
    /// A migration that is under way. Losing it is safe: the legacy server stays fenced if it was, and opens at `migrate abort --source`,
    /// which asks the cluster whether it has been promoted.
    pub struct Migration {
        /// By which everybody knows that the same one is meant.
        uid: String = "uid", omit;
        /// How the data come here.
        method: Option<MigrationMethod> = "method", omit;
        /// Whether the legacy server stays as it is and goes on writing.
        rehearsal: bool = "rehearsal", omit;
        /// How `stolonctl` connects to the legacy server: a connection string without a password.
        source: String = "source", omit;
        /// How the keepers do.
        keeper_source: String = "keeperSource", omit;
        /// How the cluster's PostgreSQL is entered, by the logical method: its users are not those of the legacy server. A connection
        /// string without a password, whose host names the line of the password file; empty: as the legacy server.
        target: String = "target", omit;
        /// The replication slot on the legacy server; empty: none.
        slot: String = "slot", omit;
        /// System identifier of the legacy server, in decimal.
        system_identifier: String = "systemID", omit;
        /// When it was started, by the clock of whoever did.
        began: Timestamp = "beganAt", keep;
        /// How far it is; absent until everything is in place for the copy.
        stage: Option<MigrationStage> = "stage", omit;
        /// Who changes it now, or was the last to; absent: nobody does.
        worker: Option<MigrationWorker> = "worker", omit;
        /// Where the legacy server's WAL ended when it was fenced.
        end: Option<Lsn> = "end", omit;
        /// The timeline of that position.
        timeline: Timeline = "timelineID", omit;
        /// The cluster's timeline when it began to take rows by the logical method; 0: by another method.
        cluster_timeline: Timeline = "clusterTimelineID", omit;
        /// When the legacy server took its last write.
        fenced: Option<Timestamp> = "fencedAt", omit;
        /// When the cluster took writes.
        opened: Option<Timestamp> = "openedAt", omit;
        /// Whether what the cluster writes goes back to the legacy server, or is to.
        way_back: bool = "wayBack", omit;
        /// The timeline on which the slots of the way back were made: on another one they are not there, or not to be trusted.
        way_back_timeline: Timeline = "wayBackTimelineID", omit;
        /// `pgHBA` of the cluster before it was closed for clients.
        former_pg_hba: Option<Vec<String>> = "formerPgHBA", omit;
        /// Where proxies reach the legacy server, to which they send clients for as long as it serves; absent: they never do.
        legacy_address: Option<ServerAddress> = "legacyAddress", omit;
        /// The generation of the proxy section that sends clients nowhere, once no proxy can be forwarding any more. It says nothing about
        /// another generation.
        proxies_away: Option<i64> = "proxiesAway", omit;
        /// When the legacy server took over again.
        reopened: Option<Timestamp> = "reopenedAt", omit;
    }
}

document! {
    /// Where a server listens.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct ServerAddress {
        /// Host name or address, without brackets.
        host: String = "host", keep;
        /// Port number.
        port: String = "port", keep;
    }
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where a migration has proxies send clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientsGo<'a> {
    /// To the legacy server, which serves.
    ToLegacy(&'a ServerAddress),
    /// Nowhere: one side is being closed, and the other one is not open yet.
    Nowhere,
    /// Where they would go without a migration, as far as it allows that.
    ToCluster,
}

text_enum! {
    /// How the data of a migration come into the cluster.
    pub enum MigrationMethod {
        /// As a base backup and a stream of WAL: the same major version.
        Physical => "physical",
        /// As rows: any version.
        Logical => "logical",
    }
}

text_enum! {
    /// How far a migration is.
    pub enum MigrationStage {
        /// The cluster copies the legacy server, or follows it.
        Following => "following",
        /// The legacy server is being fenced, or is.
        Switching => "switching",
        /// The fence is being taken off again.
        TakingBack => "takingBack",
        /// The point of no return is passed: the cluster is being promoted.
        Promoting => "promoting",
        /// The cluster takes writes.
        Switched => "switched",
        /// The cluster is being closed, so that the legacy server takes over again.
        RollingBack => "rollingBack",
        /// The legacy server has taken over again: the cluster stays closed.
        RolledBack => "rolledBack",
        /// What was made on the legacy server is being removed, and the cluster does not follow it any more.
        Aborting => "aborting",
        /// What was made on the legacy server is being removed.
        Finishing => "finishing",
    }
}

document! {
    /// Who carries a migration on. Another one may take over when the beat stands still.
    pub struct MigrationWorker {
        /// New for each run of a command.
        uid: String = "uid", omit;
        /// The operator.
        who: String = "who", omit;
        /// What was asked for.
        command: String = "command", omit;
        /// Raised for as long as it works.
        beat: u64 = "beat", omit;
    }
}

impl Migration {
    /// Whether no client may write to the cluster any more, since the legacy server takes over again or has.
    pub fn closes_cluster(&self) -> bool {
        matches!(self.stage, Some(MigrationStage::RollingBack | MigrationStage::RolledBack))
    }

    /// Where proxies send clients in a cluster of this role. Whatever this build does not know is a reason to send them nowhere.
    pub fn clients_go(&self, role: &Role) -> ClientsGo<'_> {
        use MigrationStage::{
            Aborting, Finishing, Following, Promoting, RolledBack, RollingBack, Switched, Switching,
            TakingBack, Unknown,
        };
        let Some(address) = self.legacy_address.as_ref().filter(|_| !self.rehearsal) else {
            return ClientsGo::ToCluster;
        };
        // By other means than the switch: the cluster takes writes, and so does the legacy server.
        let was_promoted = !self.is_logical() && *role == Role::Primary;
        match &self.stage {
            None | Some(Following) if was_promoted => ClientsGo::Nowhere,
            None | Some(Following) => ClientsGo::ToLegacy(address),
            Some(RolledBack) if self.reopened.is_some() => ClientsGo::ToLegacy(address),
            Some(Switching | TakingBack | RollingBack | RolledBack | Aborting | Unknown(_)) => {
                ClientsGo::Nowhere
            }
            Some(Promoting | Switched | Finishing) => ClientsGo::ToCluster,
        }
    }

    /// Whether the rows come by logical replication.
    pub fn is_logical(&self) -> bool {
        self.method == Some(MigrationMethod::Logical)
    }

    /// Whether no client may write to the cluster yet, which is a primary already and takes what the legacy server writes.
    pub fn fills_cluster(&self) -> bool {
        use MigrationStage::{Aborting, Following, Switching, TakingBack};
        self.is_logical() && matches!(self.stage, None | Some(Following | Switching | TakingBack | Aborting))
    }

    /// Whether no client may write to the cluster yet, so that no row is missed on the way back.
    pub fn prepares_way_back(&self) -> bool {
        self.way_back && self.stage == Some(MigrationStage::Promoting)
    }
}
