//! The flags of `stolon-keeper`, and the checks at its start in the order in which their messages count.

use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use stolon_core::keeper::StoreCommands;
use stolon_model::{DEFAULT_PRIORITY, KeeperUid};
use stolon_postgres::{AuthMethod, Credentials, PeerTls, TablespaceMapping};
use stolon_runtime::{
    Asker, CommonArgs, EndpointFlags, Protection, UsageError, check_name, go_bool, go_duration, host,
    host_and_port, hosts, postgres_port,
};

use crate::allowed_commands::allowed_commands;
use crate::directory_access::close_to_others;
use crate::password_files::PasswordFile;
use crate::password_source::PasswordSource;
use crate::peer_flags::PeerFlags;
use crate::rewind_flags::RewindFlags;
use crate::tablespace_mapping::tablespace_mapping;

/// A keeper runs one PostgreSQL for a cluster.
#[derive(Debug, clap::Parser)]
#[command(name = "stolon-keeper", about = "Runs one PostgreSQL of a cluster")]
pub struct Flags {
    #[command(flatten)]
    pub(crate) common: CommonArgs,

    /// Uid of this keeper: lower-case letters, digits and underscores (default: the saved one, or a random one)
    #[arg(long, default_value = "", value_name = "UID", hide_default_value = true)]
    uid: String,

    /// Deprecated: --uid
    #[arg(long, default_value = "", hide = true)]
    id: String,

    /// Directory of everything that this keeper keeps
    #[arg(long, default_value = "", value_name = "DIRECTORY", hide_default_value = true)]
    data_dir: String,

    /// PostgreSQL listen_addresses
    #[arg(
        long,
        default_value = "",
        value_name = "ADDRESS",
        hide_default_value = true,
        value_parser = hosts
    )]
    pg_listen_address: String,

    /// Address that the others use to reach this PostgreSQL (default: the listen address)
    #[arg(
        long,
        default_value = "",
        value_name = "ADDRESS",
        hide_default_value = true,
        value_parser = host
    )]
    pg_advertise_address: String,

    /// PostgreSQL port
    #[arg(long, default_value = "5432", value_name = "PORT", value_parser = postgres_port)]
    pg_port: String,

    /// Port that the others use to reach this PostgreSQL (default: --pg-port)
    #[arg(
        long,
        default_value = "",
        value_name = "PORT",
        hide_default_value = true,
        value_parser = postgres_port
    )]
    pg_advertise_port: String,

    /// Directory of postgres, initdb, pg_basebackup and so on (default: PATH)
    #[arg(long, default_value = "", value_name = "DIRECTORY", hide_default_value = true)]
    pg_bin_path: String,

    /// How the replication user proves itself: md5, scram-sha-256, cert or trust
    #[arg(long, default_value = "md5", value_name = "METHOD")]
    pg_repl_auth_method: String,

    /// Name of the replication user
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pg_repl_username: String,

    /// Password of the replication user (other users of this machine can see it: prefer the file)
    #[arg(
        long,
        default_value = "",
        value_name = "PASSWORD",
        hide_default_value = true,
        hide_env_values = true
    )]
    pg_repl_password: SecretString,

    /// File that holds the password of the replication user
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pg_repl_passwordfile: String,

    /// How the superuser proves itself: md5, scram-sha-256, cert or trust
    #[arg(long, default_value = "md5", value_name = "METHOD")]
    pg_su_auth_method: String,

    /// Name of the superuser (default: the user that runs this program)
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pg_su_username: String,

    /// Password of the superuser (other users of this machine can see it: prefer the file)
    #[arg(
        long,
        default_value = "",
        value_name = "PASSWORD",
        hide_default_value = true,
        hide_env_values = true
    )]
    pg_su_password: SecretString,

    /// File that holds the password of the superuser
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pg_su_passwordfile: String,

    #[command(flatten)]
    rewind: RewindFlags,

    #[command(flatten)]
    peers: PeerFlags,

    /// Where this keeper puts the tablespaces that it copies: a comma-separated list of OLD=NEW, absolute paths; each holds for what lies
    /// below OLD, too
    #[arg(long, default_value = "", value_name = "LIST", hide_default_value = true)]
    tablespace_mapping: String,

    /// File of the commands, libraries and the like that the cluster data may name, a "name = value" on each line; whatever else they name
    /// is not used (default: everything is)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    allowed_commands: String,

    /// May this PostgreSQL become the primary
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          value_name = "BOOL", value_parser = go_bool)]
    can_be_master: bool,

    /// May this PostgreSQL become a synchronous standby
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          value_name = "BOOL", value_parser = go_bool)]
    can_be_synchronous_replica: bool,

    /// Among standbys that are equally fit the one with the highest number becomes the primary; 0: never
    #[arg(long, default_value_t = DEFAULT_PRIORITY, value_name = "NUMBER")]
    failover_priority: u32,

    /// Where this keeper stands, a data centre or a rack for example: commits preferably wait for a standby in another zone than the
    /// primary's
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    zone: String,

    /// Address on which to answer health checks of load balancers and orchestrators, and other keepers and proxies when the store is away
    /// (default: none)
    #[arg(
        long,
        default_value = "",
        value_name = "ADDRESS",
        hide_default_value = true,
        value_parser = host_and_port
    )]
    http_listen_address: String,

    #[command(flatten)]
    endpoint: EndpointFlags,

    /// Certificates of the authorities of those who may ask that address for more than a status code (PEM): whoever shows one that they have
    /// signed needs no token
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    http_client_ca_file: String,

    /// How long a keeper with the primary that is told to end waits for another one to take it over; 0: not at all
    #[arg(long, default_value = "10s", value_name = "SPAN", value_parser = go_duration)]
    handover_timeout: Duration,

    /// Do not lock the data directory
    #[arg(long)]
    disable_data_dir_locking: bool,
}

/// Whether the data directory is locked against a second keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// The directory is locked.
    Exclusive,
    /// `--disable-data-dir-locking`.
    Disabled,
}

/// Flags that passed every check: what the keeper works with.
#[derive(Clone, Debug)]
pub struct KeeperOptions {
    /// `--uid`; `None`: the saved one or a new one.
    pub uid: Option<String>,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `--pg-bin-path`; `None`: PATH.
    pub bin_path: Option<PathBuf>,
    /// PostgreSQL `listen_addresses`.
    pub listen_address: String,
    /// PostgreSQL `port`.
    pub port: String,
    /// Address for the others.
    pub advertise_address: String,
    /// Port for the others.
    pub advertise_port: String,
    /// The superuser.
    pub superuser: Credentials,
    /// The replication user; may be the superuser.
    pub replication: Credentials,
    /// `--pg-rewind-username`; `None`: the superuser.
    pub rewinder: Option<Credentials>,
    /// Where passwords are read again.
    pub password_files: Vec<PasswordFile>,
    /// How the PostgreSQL of others is connected to.
    pub tls: PeerTls,
    /// `--tablespace-mapping`.
    pub tablespace_mapping: TablespaceMapping,
    /// `--allowed-commands`.
    pub commands: StoreCommands,
    /// `--can-be-master`.
    pub can_be_primary: bool,
    /// `--can-be-synchronous-replica`.
    pub can_be_synchronous_replica: bool,
    /// `--failover-priority`.
    pub failover_priority: u32,
    /// `--zone`; empty: none is named.
    pub zone: String,
    /// `--http-listen-address`; empty: none.
    pub http_listen_address: String,
    /// How it proves who it is, and what it demands.
    pub protection: Protection,
    /// How the endpoints of other keepers are asked.
    pub asker: Asker,
    /// `--handover-timeout`; zero: nothing is handed over.
    pub handover_timeout: Duration,
    /// Whether to lock.
    pub locking: Locking,
}

impl KeeperOptions {
    /// Make the data directory where it is missing, and close it to others.
    ///
    /// # Errors
    /// It cannot be made, or others can write into it.
    pub fn prepare_data_directory(&self) -> Result<(), UsageError> {
        make_data_directory(&self.data_dir)?;
        close_to_others(&self.data_dir)
    }
}

impl Flags {
    /// Check everything that can be checked before anything is touched.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order that Stolon checks in.
    pub fn check(&self) -> Result<KeeperOptions, UsageError> {
        let su_name = self.superuser_name()?;
        if self.data_dir.is_empty() {
            return Err(UsageError::new("data dir required").hint("name a directory with --data-dir"));
        }
        self.common.store_options_of_reporter()?;
        if self.pg_listen_address.is_empty() {
            return Err(UsageError::new("--pg-listen-address is required")
                .hint("name the address of this machine that the other keepers and the proxies can reach"));
        }
        let advertise_address =
            non_empty(&self.pg_advertise_address).unwrap_or(&self.pg_listen_address).to_owned();
        self.warn_about_address(&advertise_address);
        self.check_port()?;
        let repl_auth = auth_method("--pg-repl-auth-method", &self.pg_repl_auth_method)?;
        if self.pg_repl_username.is_empty() {
            return Err(UsageError::new("--pg-repl-username is required")
                .hint("name the replication user; the keeper makes it in a new cluster"));
        }
        check_name("--pg-repl-username", &self.pg_repl_username, LONGEST_NAME)?;
        check_name("--pg-su-username", &su_name, LONGEST_NAME)?;
        check_name("--zone", &self.zone, LONGEST_NAME)?;
        let repl = PasswordSource {
            role: "repl",
            auth: repl_auth,
            given: &self.pg_repl_password,
            file: Path::new(&self.pg_repl_passwordfile),
        };
        let su_auth = auth_method("--pg-su-auth-method", &self.pg_su_auth_method);
        let su = PasswordSource {
            role: "su",
            auth: su_auth.clone().unwrap_or(AuthMethod::Md5),
            given: &self.pg_su_password,
            file: Path::new(&self.pg_su_passwordfile),
        };
        repl.check_without_password("replication")?;
        su.check_without_password("superuser")?;
        repl.check_given()?;
        let su_auth = su_auth?;
        su.check_given()?;
        let repl_password = repl.read("replication user")?;
        let su_password = su.read("superuser")?;
        let su_password = su.strip("superuser", su_password)?;
        let repl_password = repl.strip("replication user", repl_password)?;
        let peers = self.peers.check(su_auth, repl_auth)?;
        let superuser = Credentials {
            username: su_name,
            auth: su_auth,
            password: su_password.into(),
            certificate: peers.superuser,
        };
        let replication = Credentials {
            username: self.pg_repl_username.clone(),
            auth: repl_auth,
            password: repl_password.into(),
            certificate: peers.replication,
        };
        check_same_user(&superuser, &replication)?;
        let rewinder = self.rewind.check([&superuser, &replication])?;
        let password_files = [
            ("superuser", &self.pg_su_passwordfile, Some(&superuser)),
            ("replication user", &self.pg_repl_passwordfile, Some(&replication)),
            ("rewind user", self.rewind.password_file(), rewinder.as_ref()),
        ]
        .into_iter()
        .filter_map(|(user, path, of)| Some((user, path, of?)))
        .filter(|(_, path, user)| !path.is_empty() && user.auth.takes_password())
        .map(|(user, path, of)| PasswordFile { user, path: path.into(), password: of.password.clone() })
        .collect();
        Ok(KeeperOptions {
            uid: self.checked_uid()?,
            data_dir: self.absolute_data_directory()?,
            bin_path: self.checked_bin_path()?,
            listen_address: self.pg_listen_address.clone(),
            port: self.pg_port.clone(),
            advertise_address,
            advertise_port: non_empty(&self.pg_advertise_port).unwrap_or(&self.pg_port).to_owned(),
            superuser,
            replication,
            rewinder,
            password_files,
            tablespace_mapping: tablespace_mapping(&self.tablespace_mapping)?,
            commands: allowed_commands(&self.allowed_commands, peers.tls.mode)?,
            tls: peers.tls,
            can_be_primary: self.can_be_master,
            can_be_synchronous_replica: self.can_be_synchronous_replica,
            failover_priority: self.failover_priority,
            zone: self.zone.trim().to_owned(),
            http_listen_address: self.http_listen_address.clone(),
            protection: self.endpoint.protection(&self.http_client_ca_file)?,
            asker: self.endpoint.asker()?,
            handover_timeout: self.handover_timeout,
            locking: match self.disable_data_dir_locking {
                true => Locking::Disabled,
                false => Locking::Exclusive,
            },
        })
    }

    /// PostgreSQL's settings and connection strings name files in it, and are UTF-8.
    fn absolute_data_directory(&self) -> Result<PathBuf, UsageError> {
        let refuse = |cause: &dyn std::fmt::Display| {
            UsageError::new(format!("cannot use data dir {}: {cause}", self.data_dir))
        };
        let path = std::path::absolute(&self.data_dir).map_err(|error| refuse(&error))?;
        match path.to_str() {
            Some(_) => Ok(path),
            None => Err(refuse(&format_args!("the path {path:?} is not UTF-8"))
                .hint("start the keeper in another directory, or give --data-dir a path from the root on")),
        }
    }

    /// An empty value is none, which the parser lets pass for the flags that may be left out.
    fn check_port(&self) -> Result<(), UsageError> {
        match self.pg_port.is_empty() {
            true => Err(UsageError::new("--pg-port is empty").hint("leave it out for 5432")),
            false => Ok(()),
        }
    }

    fn checked_bin_path(&self) -> Result<Option<PathBuf>, UsageError> {
        let Some(path) = non_empty(&self.pg_bin_path).map(PathBuf::from) else { return Ok(None) };
        match path.is_dir() {
            true => Ok(Some(path)),
            false => Err(UsageError::new(format!("--pg-bin-path {} is not a directory", path.display()))
                .hint("name the one that holds postgres, initdb and pg_basebackup, such as /usr/lib/postgresql/17/bin")),
        }
    }

    fn superuser_name(&self) -> Result<String, UsageError> {
        if let Some(name) = non_empty(&self.pg_su_username) {
            return Ok(name.to_owned());
        }
        user_name().ok_or_else(|| {
            UsageError::new(
                "cannot get current user: it has no name in the user database and USER is not set",
            )
            .hint("name the superuser with --pg-su-username")
        })
    }

    fn checked_uid(&self) -> Result<Option<String>, UsageError> {
        let Some(uid) = non_empty(&self.uid).or_else(|| non_empty(&self.id)) else { return Ok(None) };
        check_name("--uid", uid, LONGEST_UID)?;
        if KeeperUid::is_legal(uid) {
            return Ok(Some(uid.to_owned()));
        }
        Err(UsageError::new(format!(
            "keeper uid {uid:?} not valid. It can contain only lower-case letters, numbers and the underscore character"
        ))
        .hint("for example keeper1 instead of keeper-1"))
    }

    fn warn_about_address(&self, address: &str) {
        let flag = match self.pg_advertise_address.is_empty() {
            true => "--pg-listen-address",
            false => "--pg-advertise-address",
        };
        if address.parse::<IpAddr>().is_err() {
            tracing::warn!(
                "{flag} {address:?} is not an IP address: every program must be able to resolve it"
            );
        }
        match (address, 0).to_socket_addrs() {
            Err(error) => tracing::warn!("{flag} {address:?} cannot be resolved: {error}"),
            Ok(resolved) => {
                let addresses: Vec<IpAddr> = resolved.map(|socket| socket.ip()).collect();
                if addresses.iter().any(IpAddr::is_loopback) {
                    tracing::warn!(
                        "{flag} {address:?} is a loopback address: only this machine can reach it"
                    );
                }
                if addresses.iter().any(IpAddr::is_unspecified) {
                    tracing::warn!(
                        "{flag} {address:?} is no address that others can connect to: name one with --pg-advertise-address"
                    );
                }
            }
        }
    }
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The name of the user that runs this process: from the user database, else from `USER`.
fn user_name() -> Option<String> {
    let from_database = uzers::get_effective_username().and_then(|name| name.into_string().ok());
    from_database.or_else(|| std::env::var("USER").ok().filter(|name| !name.is_empty()))
}

/// It becomes a part of keys in the store.
const LONGEST_UID: usize = 255;

/// PostgreSQL cuts longer names of its users off (PostgreSQL manual: "Identifiers and Key Words", NAMEDATALEN).
pub(crate) const LONGEST_NAME: usize = 63;

fn make_data_directory(path: &Path) -> Result<(), UsageError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        UsageError::new(format!("cannot create data dir: {}: {error}", path.display()))
            .hint("name a directory that the user of this keeper may create")
    })
}

fn auth_method(flag: &str, text: &str) -> Result<AuthMethod, UsageError> {
    match text {
        "md5" => Ok(AuthMethod::Md5),
        "scram-sha-256" => Ok(AuthMethod::ScramSha256),
        "cert" => Ok(AuthMethod::Cert),
        "trust" => Ok(AuthMethod::Trust),
        other => Err(UsageError::new(format!("{flag} must be one of: md5, scram-sha-256, cert, trust"))
            .hint(format!("it is {other:?}; md5 also admits SCRAM passwords"))),
    }
}

fn check_same_user(superuser: &Credentials, replication: &Credentials) -> Result<(), UsageError> {
    if superuser.username != replication.username {
        return Ok(());
    }
    tracing::warn!("superuser name and replication user name are the same. Different users are suggested.");
    if superuser.auth != replication.auth {
        return Err(UsageError::new(
            "do not support different auth methods when utilizing superuser for replication.",
        )
        .hint("give --pg-su-auth-method and --pg-repl-auth-method the same value"));
    }
    let secrets = [superuser, replication].map(Credentials::password_to_send);
    let [one, other] = secrets.each_ref().map(|secret| secret.as_ref().map(SecretString::expose_secret));
    if one != other {
        return Err(UsageError::new(
            "provided superuser name and replication user name are the same but provided passwords are different",
        )
        .hint("give both the same password, or use two users"));
    }
    Ok(())
}
