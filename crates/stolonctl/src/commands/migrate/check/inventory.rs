//! A PostgreSQL server as it was found, and the cluster that it is to move into: everything that is judged.

use std::collections::BTreeMap;

use stolon_core::postgres::Version;
use stolon_model::{ByteCount, KeeperUid};

/// The server.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// `server_version_num`: 150004 of 15.4.
    pub version_number: u32,
    /// Where it was asked for; empty for a socket.
    pub hosts: Vec<String>,
    /// Who asked.
    pub user: User,
    /// By name.
    pub settings: BTreeMap<String, Setting>,
    /// What is taken of what is limited.
    pub taken: Taken,
    /// By name, without `template0` and `template1`.
    pub databases: Vec<Database>,
    /// Without `pg_default` and `pg_global`.
    pub tablespaces: Vec<Tablespace>,
    /// Without those that PostgreSQL brings along.
    pub roles: Vec<Role>,
    /// The lines of `pg_hba.conf`; none: this user may not read them.
    pub hba: Option<Vec<HbaLine>>,
    /// The slots that others use.
    pub slots: Vec<Slot>,
    /// Transactions that were prepared and not ended.
    pub prepared: Vec<Prepared>,
    /// What a transfer that was measured gave; none: there was too little to measure.
    pub transfer: Option<Transfer>,
}

impl Inventory {
    /// `15` of 15.4.
    pub fn major(&self) -> u16 {
        u16::try_from(self.version_number / 10_000).unwrap_or(u16::MAX)
    }

    /// The value of a setting as `SHOW` gives it; empty if there is none.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", |setting| setting.value.as_str())
    }

    /// The value of a setting that is a number.
    pub fn number(&self, name: &str) -> u64 {
        self.setting(name).parse().unwrap_or_default()
    }

    /// All databases together.
    pub fn size(&self) -> ByteCount {
        ByteCount(self.databases.iter().filter_map(|database| database.bytes).sum())
    }

    /// What every database that could be looked into holds, with the database's name.
    pub fn contents(&self) -> impl Iterator<Item = (&Database, &Content)> {
        self.databases.iter().filter_map(|database| Some((database, database.content.as_ref().ok()?)))
    }

    /// The names of one kind of thing in all databases, each with its database.
    pub fn names(&self, of: impl Fn(&Content) -> &Named) -> Named {
        let mut all = Named::default();
        for (database, content) in self.contents() {
            let found = of(content);
            all.count += found.count;
            all.names.extend(found.names.iter().map(|name| format!("{}: {name}", database.name)));
        }
        all
    }

    /// How many there are of something in all databases.
    pub fn sum(&self, of: impl Fn(&Content) -> u64) -> u64 {
        self.contents().map(|(_, content)| of(content)).sum()
    }
}

/// The role that asked.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// Its name.
    pub name: String,
    /// `SUPERUSER`.
    pub is_superuser: bool,
}

/// A setting of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// As `SHOW` gives it, with its unit.
    pub value: String,
    /// Where the value comes from.
    pub source: Source,
    /// A restart would change it.
    pub is_pending: bool,
}

/// Where the value of a setting comes from (PostgreSQL manual, `pg_settings`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it, or only for this session.
    #[default]
    Default,
    /// A configuration file that a physical copy brings along.
    CopiedFile,
    /// A configuration file elsewhere, or the command line.
    Elsewhere,
}

/// What is taken of what is limited.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Sessions of clients.
    pub connections: u64,
    /// Senders of WAL.
    pub senders: u64,
    /// Replication slots.
    pub slots: u64,
}

/// A database.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Its size; none: this user may not know it.
    pub bytes: Option<u64>,
    /// `UTF8`, for example.
    pub encoding: String,
    /// How texts are sorted unless a column says otherwise.
    pub collation: Collation,
    /// What is in it, or why that is not known.
    pub content: Result<Content, String>,
}

/// A rule of how texts are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collation {
    /// Its name, or that of its locale.
    pub name: String,
    /// Who sorts.
    pub provider: Provider,
    /// The version that the indexes were made with; none: PostgreSQL does not keep it.
    pub recorded: Option<String>,
    /// The version that sorts now; none: PostgreSQL does not tell.
    pub actual: Option<String>,
}

/// Who knows how texts are sorted (PostgreSQL manual, "Locale Providers").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// The C library of the system.
    #[default]
    Libc,
    /// The library ICU.
    Icu,
    /// PostgreSQL itself.
    Builtin,
}

impl Collation {
    /// Whether it sorts in another way now than when the indexes were made.
    pub fn has_changed(&self) -> bool {
        matches!((&self.recorded, &self.actual), (Some(recorded), Some(actual)) if recorded != actual)
    }
}

/// Things by name; there may be more than are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// How many there are.
    pub count: u64,
    /// The first of them, ready to be shown.
    pub names: Vec<String>,
}

/// What a database holds.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Tables, partitions each by itself.
    pub tables: u64,
    /// Name and version; without `plpgsql`.
    pub extensions: BTreeMap<String, String>,
    /// Libraries that functions outside of extensions are in.
    pub libraries: Named,
    /// Collations that changed since they were made.
    pub changed_collations: Named,
    /// Indexes whose order depends on the C library or on ICU.
    pub sorted_indexes: Named,
    /// Indexes that PostgreSQL does not use because building them failed.
    pub invalid_indexes: Named,
    /// Tables that logical replication cannot name a row of.
    pub keyless: Named,
    /// Tables that are not written to the WAL.
    pub unlogged: Named,
    /// Tables with the system column `oid`, which ended with 12.
    pub with_oids: Named,
    /// Large objects.
    pub large_objects: u64,
    /// Sequences.
    pub sequences: u64,
    /// Columns `GENERATED ALWAYS AS (…)`.
    pub generated_columns: u64,
    /// Columns `GENERATED … AS IDENTITY`.
    pub identity_columns: u64,
    /// Triggers that fire on DDL.
    pub event_triggers: Named,
    /// Other servers that tables are read from.
    pub foreign_servers: Named,
    /// Publications.
    pub publications: Named,
    /// Subscriptions.
    pub subscriptions: Named,
}

/// A place for tables outside of PGDATA.
#[derive(Clone, Debug)]
pub struct Tablespace {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub location: String,
}

/// A role.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Whether it may connect.
    pub can_login: bool,
    /// How its password is kept.
    pub password: StoredPassword,
}

/// How a password is kept. The password itself, and what is derived from it, are never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredPassword {
    /// There is none.
    None,
    /// For the method md5.
    Md5,
    /// For the method scram-sha-256.
    Scram,
    /// This user may not know.
    Hidden,
}

/// A line of `pg_hba.conf` as PostgreSQL read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HbaLine {
    /// Its number.
    pub number: u64,
    /// `local`, `host`, …
    pub kind: String,
    /// Databases.
    pub databases: Vec<String>,
    /// Users.
    pub users: Vec<String>,
    /// The address, a name, or `all`.
    pub address: Option<String>,
    /// The mask of the address.
    pub netmask: Option<String>,
    /// `md5`, `scram-sha-256`, …
    pub method: String,
    /// `map=…`
    pub options: Vec<String>,
    /// What PostgreSQL finds wrong with it.
    pub error: Option<String>,
}

/// A replication slot.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether it is a logical one.
    pub is_logical: bool,
    /// Whether somebody streams from it.
    pub is_active: bool,
}

/// A prepared transaction.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The name that it was given.
    pub gid: String,
    /// Its database.
    pub database: String,
    /// How long ago it was prepared, in seconds.
    pub age: u64,
}

/// A transfer that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes received.
    pub bytes: u64,
    /// How long that took, in milliseconds.
    pub milliseconds: u64,
}

/// The cluster that the server is to move into, as far as its store tells.
#[derive(Clone, Debug, Default)]
pub struct Destination {
    /// The keepers that report.
    pub keepers: Vec<DestinationKeeper>,
    /// Its specification has `pgHBA`.
    pub has_hba: bool,
    /// Its specification takes over parameters (`mergePgParameters`).
    pub merges_parameters: bool,
}

/// A keeper of that cluster.
#[derive(Clone, Debug)]
pub struct DestinationKeeper {
    /// Its uid.
    pub uid: KeeperUid,
    /// Of its PostgreSQL's programs.
    pub version: Version,
    /// Where its PostgreSQL is to be; none: it does not say.
    pub room: Option<Room>,
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// That nobody has.
    pub free: u64,
    /// In all. What lies there by now may be overwritten by the copy.
    pub total: u64,
}

/// How the data are to come over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// A base backup that follows by streaming replication: the same major.
    Physical,
    /// A dump of the schema, a copy of the tables, logical replication: an older major, too.
    Logical,
}

impl Method {
    /// The value of `--method`.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Physical => "physical",
            Method::Logical => "logical",
        }
    }
}
